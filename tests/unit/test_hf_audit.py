"""The reference's load audit: what transformers made up, left lying or did not say, over real checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harness.backends.hf_audit import audit_reference
from harness.checkpoints.checkpoint import Checkpoint, resolve_checkpoint
from harness.compare.audit import compare_audit
from harness.compare.plan import CONSUMED, EXPECTED, FINITE, ONCE, OTHERS, plan_audit
from tests.surgery import rewrite_checkpoint
from tests.synthetic import CASE, leg_of, red, scope_of, write_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from harness.cases.case import Configs
    from harness.compare.result import CheckResult
    from harness.trace.schema import LoadAudit
    from harness.trace.tensors import RawTensor

torch = pytest.importorskip("torch")

#: The sizes of the synthetic traces, whose plan these audits are judged by.
SIZES = "encoder_hidden=8,encoder_layers=1,text_hidden=8,text_layers=1,text_heads=1,chunk_seconds=4"
NORM, Q_BIAS, K_BIAS, HEAD = "norm.weight", "layers.0.q_proj.bias", "layers.0.k_proj.bias", "lm.head.weight"
TABLE = "lm.embed_tokens.weight"
#: How transformers names the model's parameters; the published checkpoint has other prefixes.
OWN = {
    NORM: "model.audio_tower.norm.weight",
    Q_BIAS: "model.audio_tower.layers.0.self_attn.q_proj.bias",
    K_BIAS: "model.audio_tower.layers.0.self_attn.k_proj.bias",
    HEAD: "lm_head.weight",
    TABLE: "model.language_model.embed_tokens.weight",
}


def own_name(name: str) -> str:
    """The name of a canonical parameter in the model of transformers."""
    name = CASE.published_name(name)
    if name.startswith("language_model.lm_head."):
        return name.removeprefix("language_model.")
    return "model." + name.replace("language_model.model.", "language_model.", 1)


def model_of(shapes: Iterable[tuple[str, tuple[int, ...]]], *, dtype: str = "float32") -> Any:  # noqa: ANN401
    """A module with parameters of these names, and nothing that could be run."""
    root = torch.nn.Module()
    for name, shape in shapes:
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, torch.nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, torch.nn.Parameter(torch.ones(shape, dtype=getattr(torch, dtype))))
    return root


def shapes_of(configs: Configs, *, without: Iterable[str] = ()) -> list[tuple[str, tuple[int, ...]]]:
    """The parameters of the model as transformers makes it: its encoder has no k bias."""
    left_out = {*without, K_BIAS}
    return [
        (own_name(parameter.name), parameter.shape)
        for parameter in CASE.parameters(configs)
        if parameter.name not in left_out
    ]


def with_k_bias(shapes: list[tuple[str, tuple[int, ...]]]) -> None:
    """Give the model a k bias."""
    shapes.append((OWN[K_BIAS], (8,)))


def said(*, missing: Iterable[str] = (), unexpected: Iterable[str] = (), **others: object) -> dict[str, Any]:
    """What ``output_loading_info`` gives."""
    return {
        "missing_keys": set(missing),
        "unexpected_keys": set(unexpected),
        "mismatched_keys": set(),
        "error_msgs": [],
        **others,
    }


def checkpoint(folder: Path, text: str = "") -> Checkpoint:
    name = f"random:{SIZES}" + (f",{text}" if text else "")
    return resolve_checkpoint(name, case=CASE, folder=folder / "checkpoint")


def audited(found: Checkpoint, model: Any, info: dict[str, Any]) -> LoadAudit:  # noqa: ANN401
    audit = audit_reference(model, info, folder=found.folder, case=CASE, configs=found.configs)
    for shard in audit.shards:
        assert shard.loaded + shard.default + shard.uninitialised == shard.elements == shard.of
        assert bool(shard.loaded) == bool(shard.sources) or shard.name is None
    return audit


def load(
    folder: Path,
    text: str = "",
    *,
    info: dict[str, Any] | None = None,
    change: Callable[[list[tuple[str, tuple[int, ...]]]], Any] | None = None,
) -> tuple[LoadAudit, dict[str, CheckResult]]:
    """Audit the load of a checkpoint that is built from ``text``, and judge the audit.

    Args:
        folder: Where the checkpoint is built.
        text: Its settings, after the sizes.
        info: What transformers says; nothing wrong where it is left out.
        change: Called with the names and shapes of the model's parameters, for a model with others.
    """
    found = checkpoint(folder, text)
    shapes = shapes_of(found.configs)
    if change is not None:
        change(shapes)
    audit = audited(found, model_of(shapes), info or said())
    trace = write_trace(folder / "trace", clips=(), audit=lambda _: audit, checkpoint=found.entry)
    plan = plan_audit(scope_of(trace), leg=leg_of(trace).name.identifier)
    results = compare_audit(
        [check for check in plan if check.kind == "audit"], trace=trace, case=CASE, configs=found.configs
    )
    return audit, {result.subject: result for result in results}


def test_names() -> None:
    """The names above are those of the model, which the case maps back."""
    configs = CASE.small_configs({"encoder_layers": 1, "text_layers": 1})
    for name, own in OWN.items():
        assert own_name(name) == own
        assert [shard.name for shard in CASE.shards("hf", own, configs)] == [name]


@pytest.mark.parametrize("text", ["", "dtype=bfloat16", "shards=3", "seed=5,order=reversed"])
def test_a_clean_load(tmp_path: Path, text: str) -> None:
    audit, results = load(tmp_path, text)
    assert red(results) == []
    assert {(shard.default, shard.uninitialised) for shard in audit.shards} == {(0, 0)}
    assert all(tensor.consumed for tensor in audit.tensors)
    assert len(audit.shards) == len(audit.tensors) == len(CASE.parameters(checkpoint(tmp_path).configs)) - 1


def test_what_it_says_of_a_parameter(tmp_path: Path) -> None:
    found = checkpoint(tmp_path)
    audit = audited(found, model_of(shapes_of(found.configs), dtype="bfloat16"), said())
    (table,) = [shard for shard in audit.shards if shard.name == TABLE]
    assert table.model_dump() == {
        "parameter": OWN[TABLE], "shard": "", "name": TABLE, "rows": (0, 263), "of": 263 * 8,
        "dtype": "bfloat16", "elements": 263 * 8, "loaded": 263 * 8, "made": 0, "default": 0,
        "uninitialised": 0, "unwritten": (), "sources": ("language_model.model.embed_tokens.weight",),
    }  # fmt: skip
    (tensor,) = [tensor for tensor in audit.tensors if tensor.name == table.sources[0]]
    assert tensor.model_dump() == {
        "name": "language_model.model.embed_tokens.weight", "dtype": "float32", "shape": (263, 8),
        "non_finite": 0, "consumed": True, "written_to": (OWN[TABLE],),
    }  # fmt: skip


class TestMadeUp:
    def test_what_transformers_says_is_missing(self, tmp_path: Path) -> None:
        audit, results = load(tmp_path, f"without={Q_BIAS}", info=said(missing=[OWN[Q_BIAS]]))
        assert red(results) == [Q_BIAS]
        assert results[Q_BIAS].message == (
            f"{OWN[Q_BIAS]}: 8 of 8 elements newly initialised by transformers, not loaded; "
            "the checkpoint has no such tensor"
        )
        assert [shard.name for shard in audit.shards if shard.default] == [Q_BIAS]

    def test_what_it_does_not_say(self, tmp_path: Path) -> None:
        """A class may exempt a key from the missing ones."""
        _, results = load(tmp_path, f"without={NORM}+{Q_BIAS}")
        assert red(results) == [Q_BIAS, NORM]
        assert "newly initialised by transformers" in results[NORM].message

    def test_what_it_says_is_missing_though_it_is_stored(self, tmp_path: Path) -> None:
        """Under a name that it does not look for: the parameter is made up, and the tensor left lying."""
        audit, results = load(tmp_path, info=said(missing=[OWN[NORM]]))
        assert red(results) == [NORM, CONSUMED]
        assert results[NORM].message == (
            f"{OWN[NORM]}: 8 of 8 elements newly initialised by transformers, not loaded"
        )
        assert [tensor.name for tensor in audit.tensors if not tensor.consumed] == ["audio_tower.norm.weight"]

    def test_a_shape_that_does_not_fit(self, tmp_path: Path) -> None:
        info = said(mismatched_keys={(OWN[NORM], torch.Size([7]), torch.Size([8]))})
        _, results = load(tmp_path, f"shape={NORM}", info=info)
        assert red(results) == [NORM, CONSUMED, EXPECTED]

    def test_a_k_bias_of_the_model_that_the_checkpoint_has_not(self, tmp_path: Path) -> None:
        """As a release of transformers once had it: nothing was there to load, zeros are as good."""
        for info in (said(), said(missing=[OWN[K_BIAS]])):
            audit, results = load(tmp_path, info=info, change=with_k_bias)
            assert [shard.name for shard in audit.shards if shard.default] == [K_BIAS]
            assert red(results) == []


class TestLeftLying:
    def test_a_tensor_that_no_model_has(self, tmp_path: Path) -> None:
        audit, results = load(
            tmp_path, "extra=audio_tower.scale", info=said(unexpected=["audio_tower.scale"])
        )
        assert red(results) == [CONSUMED]
        assert results[CONSUMED].message == (
            "audio_tower.scale is in the checkpoint and was not loaded by hf-cpu"
        )
        assert [tensor.name for tensor in audit.tensors if not tensor.consumed] == ["audio_tower.scale"]

    def test_what_the_case_says_need_not_be_loaded(self, tmp_path: Path) -> None:
        name = "audio_tower.embed_positions.weight"
        _, results = load(tmp_path, f"extra={name}", info=said(unexpected=[name]))
        assert red(results) == []

    @pytest.mark.parametrize("prefix", ["", "model."])
    def test_a_k_bias_that_the_model_has_no_place_for(self, tmp_path: Path, prefix: str) -> None:
        """What transformers did not expect it names under the model's prefix."""
        name = "audio_tower.layers.0.self_attn.k_proj.bias"
        audit, results = load(tmp_path, "k_bias=all", info=said(unexpected=[f"{prefix}{name}"]))
        assert red(results) == [K_BIAS, CONSUMED]
        assert [tensor.name for tensor in audit.tensors if not tensor.consumed] == [name]

    def test_a_k_bias_that_the_model_has_a_place_for(self, tmp_path: Path) -> None:
        audit, results = load(tmp_path, "k_bias=all", change=with_k_bias)
        assert red(results) == []
        assert all(tensor.consumed for tensor in audit.tensors)

    def test_what_transformers_did_not_expect_is_not_loaded(self, tmp_path: Path) -> None:
        """Even where the model has a parameter of that name."""
        _, results = load(tmp_path, info=said(unexpected=["audio_tower.norm.weight"]))
        assert red(results) == [CONSUMED]

    def test_a_parameter_that_the_case_does_not_know(self, tmp_path: Path) -> None:
        """It was loaded, from the tensor of its own name: nothing is left lying."""
        audit, results = load(
            tmp_path,
            "extra=audio_tower.gate.scale",
            change=lambda shapes: shapes.append(("model.audio_tower.gate.scale", (4,))),
        )
        (gate,) = [shard for shard in audit.shards if shard.name is None]
        assert (gate.parameter, gate.loaded) == ("model.audio_tower.gate.scale", 4)
        assert gate.sources == ("audio_tower.gate.scale",)
        assert red(results) == []

    def test_a_tensor_by_the_canonical_name_of_a_parameter(self, tmp_path: Path) -> None:
        """Which is no name of transformers: the parameter is not loaded from it."""
        whole = checkpoint(tmp_path, f"without={NORM}").folder

        def change(stored: dict[str, RawTensor]) -> None:
            stored[NORM] = stored["audio_tower.norm.bias"]

        folder = rewrite_checkpoint(whole, tmp_path / "other", change=change)
        found = resolve_checkpoint(str(folder), case=CASE, folder=tmp_path)
        audit = audited(found, model_of(shapes_of(found.configs)), said(unexpected=[NORM]))
        assert [shard.name for shard in audit.shards if shard.default] == [NORM]
        assert [tensor.name for tensor in audit.tensors if not tensor.consumed] == [NORM]

    def test_one_that_neither_the_case_nor_the_checkpoint_knows(self, tmp_path: Path) -> None:
        audit, _ = load(
            tmp_path,
            info=said(missing=["model.gate"]),
            change=lambda shapes: shapes.append(("model.gate", (4,))),
        )
        (gate,) = [shard for shard in audit.shards if shard.name is None]
        assert (gate.loaded, gate.default, gate.sources) == (0, 4, ())


class TestTheCheckpoint:
    def test_stored_twice(self, tmp_path: Path) -> None:
        audit, results = load(tmp_path, f"shards=2,twice={NORM}")
        assert red(results) == [ONCE]
        assert results[ONCE].message == "audio_tower.norm.weight is stored 2 times"
        assert [tensor.name for tensor in audit.tensors].count("audio_tower.norm.weight") == 2

    def test_not_finite(self, tmp_path: Path) -> None:
        audit, results = load(tmp_path, f"nan={NORM}+{Q_BIAS},inf={NORM}")
        assert red(results) == [FINITE]
        assert {tensor.name: tensor.non_finite for tensor in audit.tensors if tensor.non_finite} == {
            "audio_tower.norm.weight": 2,
            "audio_tower.layers.0.self_attn.q_proj.bias": 1,
        }

    def test_another_dtype(self, tmp_path: Path) -> None:
        _, results = load(tmp_path, f"cast={NORM}")
        assert red(results) == [EXPECTED]

    @pytest.mark.parametrize("listed", [True, False])
    def test_a_head_that_is_the_embedding(self, tmp_path: Path, listed: bool) -> None:
        """Not stored, and the model lists it once or, before it is tied, twice."""
        found = checkpoint(tmp_path, "tied=1")
        model = model_of(shapes_of(found.configs))
        if listed:
            model.lm_head.weight = model.get_parameter(OWN[TABLE])
        else:
            del model.lm_head.weight
        audit = audited(found, model, said())
        trace = write_trace(tmp_path / "trace", clips=(), audit=lambda _: audit, checkpoint=found.entry)
        plan = plan_audit(scope_of(trace), leg="hf_cpu")
        checks = [check for check in plan if check.kind == "audit"]
        results = compare_audit(checks, trace=trace, case=CASE, configs=found.configs)
        assert {result.status for result in results} == {"pass"}

    def test_of_which_nothing_is_stored_that_the_model_knows(self, tmp_path: Path) -> None:
        """Every parameter is made up: nothing is green but what nothing was there for."""
        found = checkpoint(tmp_path)
        audit = audited(found, model_of([("model.x", (2,))]), said(missing=["model.x"]))
        trace = write_trace(tmp_path / "trace", clips=(), audit=lambda _: audit, checkpoint=found.entry)
        checks = [check for check in plan_audit(scope_of(trace), leg="hf_cpu") if check.kind == "audit"]
        results = compare_audit(checks, trace=trace, case=CASE, configs=found.configs)
        green = {result.subject for result in results if result.status == "pass"}
        assert green == {K_BIAS, ONCE, EXPECTED, FINITE}
        (others,) = [result for result in results if result.subject == OTHERS]
        assert others.message == "model.x: newly initialised by transformers, not loaded"
