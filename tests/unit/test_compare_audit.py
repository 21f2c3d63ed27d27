"""The load audit's verdict: whatever loading left, wrote twice or did not use is named, and nothing else."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest

from harness.compare.audit import compare_audit, place_of
from harness.compare.plan import CONSUMED, EXPECTED, FINITE, ONCE, OTHERS, plan_audit
from tests.synthetic import (
    CASE,
    CHECKPOINT,
    CONFIGS,
    Alter,
    AlterAudit,
    clean_audit,
    drop,
    leg_of,
    put,
    red,
    scope_of,
    write_trace,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.cases.case import Configs
    from harness.compare.result import CheckResult
    from harness.trace.schema import AuditedShard, LoadAudit, OfferedTensor, Work

K_BIAS, Q_BIAS = "layers.0.k_proj.bias", "layers.0.q_proj.bias"
FC1, NORM, HEAD = "layers.0.fc1.weight", "norm.weight", "lm.head.weight"
FUSED = "audio_tower.layers.0.self_attn.qkv_proj.bias"
SUBJECTS = [parameter.name for parameter in CASE.parameters(CONFIGS)] + [
    OTHERS,
    CONSUMED,
    ONCE,
    EXPECTED,
    FINITE,
]


def judged(
    folder: Path,
    *alters: AlterAudit,
    leg: str = "vllm-cpu",
    lacks: tuple[str, ...] = CHECKPOINT.lacks,
    configs: Configs = CONFIGS,
    alter: Alter | None = None,
    work: Work = "audit",
) -> dict[str, CheckResult]:
    """Judge a leg's audit with defects; every planned check gets one result, in the plan's order."""

    def audit(found: LoadAudit) -> LoadAudit:
        for alter in alters:
            found = alter(found)
        return found

    checkpoint = CHECKPOINT.model_copy(update={"lacks": lacks})
    trace = write_trace(
        folder / "trace", leg=leg, clips=(), audit=audit, checkpoint=checkpoint, alter=alter, work=work
    )
    plan = plan_audit(scope_of(trace), leg=leg_of(trace).name.identifier)
    planned = [check for check in plan if check.kind == "audit"]
    results = compare_audit(planned, trace=trace, case=CASE, configs=configs)
    assert [result.id for result in results] == [check.id for check in planned]
    found = {result.subject: result for result in results}
    assert list(found) == SUBJECTS
    return found


def only_red(results: dict[str, CheckResult], name: str) -> CheckResult:
    assert red(results) == [name]
    return results[name]


def shards(name: str, change: Callable[[AuditedShard], AuditedShard | None]) -> AlterAudit:
    """Change what the audit says of a parameter, by its canonical name; ``None`` takes it out."""

    def alter(audit: LoadAudit) -> LoadAudit:
        changed = [change(shard) if shard.name == name else shard for shard in audit.shards]
        kept = tuple(shard for shard in changed if shard is not None)
        assert kept != audit.shards, name
        return audit.model_copy(update={"shards": kept})

    return alter


def tensors(name: str, change: Callable[[OfferedTensor], tuple[OfferedTensor, ...]]) -> AlterAudit:
    """Change what the audit says of a tensor of the checkpoint, by the canonical name of its parameter."""

    def alter(audit: LoadAudit) -> LoadAudit:
        published = CASE.published_name(name)
        parts = [change(tensor) if tensor.name == published else (tensor,) for tensor in audit.tensors]
        kept = tuple(tensor for part in parts for tensor in part)
        assert kept != audit.tensors, name
        return audit.model_copy(update={"tensors": kept})

    return alter


def left(name: str, count: int | None = None, *ranges: str, kind: str = "uninitialised") -> AlterAudit:
    """So many elements of a parameter, or all, as nobody wrote them, or as the constructor did."""

    def change(shard: AuditedShard) -> AuditedShard:
        number = shard.elements if count is None else count
        fields = {"loaded": shard.elements - number, kind: number, "unwritten": ranges, "sources": ()}
        return shard.model_copy(update=fields)

    return shards(name, change)


def gone(name: str) -> AlterAudit:
    """The model has no such parameter."""
    return shards(name, lambda _: None)


def not_stored(name: str) -> AlterAudit:
    """The checkpoint has no such tensor."""
    return tensors(name, lambda _: ())


def stored_as(name: str, **fields: Any) -> AlterAudit:  # noqa: ANN401 - any field's value
    return tensors(name, lambda tensor: (tensor.model_copy(update=fields),))


@pytest.mark.parametrize("lacks", [CHECKPOINT.lacks, ()])
def test_a_clean_load_passes(tmp_path: Path, lacks: tuple[str, ...]) -> None:
    """Of a checkpoint without a k bias, as published, and of one that has it."""
    results = judged(tmp_path, lacks=lacks)
    assert {result.status for result in results.values()} == {"pass"}
    assert {
        (result.measured, result.allowed, result.message, result.where) for result in results.values()
    } == {(0, 0, "", "")}
    assert {result.metric for name, result in results.items() if name not in SUBJECTS[-5:]} == {
        "elements not loaded"
    }


def test_a_clean_load_of_the_reference_passes(tmp_path: Path) -> None:
    """HuggingFace's encoder has no place for a k bias, and needs none."""
    results = judged(tmp_path, leg="hf-cpu")
    assert {result.status for result in results.values()} == {"pass"}


class TestNeverWritten:
    def test_the_k_bias(self, tmp_path: Path) -> None:
        """The defect this project is for."""
        result = only_red(judged(tmp_path, left(K_BIAS, 8, "[8:16]")), K_BIAS)
        assert result.status == "fail"
        assert result.message == f"{FUSED}[8:16] (k): 8 of 24 elements never written"
        assert result.where == f"{FUSED}[8:16] (k)"
        assert (result.metric, result.measured, result.allowed) == ("elements not loaded", 8, 0)

    def test_of_a_checkpoint_that_has_it(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, left(K_BIAS, 8, "[8:16]"), lacks=()), K_BIAS)
        assert result.message == f"{FUSED}[8:16] (k): 8 of 24 elements never written"

    def test_one_element_of_it(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, left(K_BIAS, 1, "[11:12]")), K_BIAS)
        assert result.message == f"{FUSED}[11:12] (k): 1 of 24 elements never written"

    def test_several_ranges(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, left(FC1, 3, "[0:1, 2:3]", "[5:6, 0:2]")), FC1)
        place = "audio_tower.layers.0.mlp.fc1.weight[0:1, 2:3], [5:6, 0:2]"
        assert result.message == f"{place}: 3 of 256 elements never written"
        assert (result.where, result.measured) == (place, 3)

    def test_a_whole_parameter(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, left(NORM, None, "[0:8]")), NORM)
        assert result.message == "audio_tower.norm.weight[0:8]: 8 of 8 elements never written"

    @pytest.mark.parametrize("shard", ["gate", "up"])
    def test_shards_of_the_language_model(self, tmp_path: Path, shard: str) -> None:
        name = f"lm.layers.0.{shard}_proj.weight"
        result = only_red(judged(tmp_path, left(name)), name)
        rows = {"gate": "[0:16]", "up": "[16:32]"}[shard]
        assert result.message == (
            f"language_model.model.layers.0.mlp.gate_up_proj.weight{rows} ({shard}): "
            "128 of 256 elements never written"
        )

    @pytest.mark.parametrize("name", SUBJECTS[:-5])
    def test_each_parameter_by_itself(self, tmp_path: Path, name: str) -> None:
        result = only_red(judged(tmp_path, left(name, 1, "[0:1]")), name)
        assert (result.status, result.measured) == ("fail", 1)


class TestAsConstructed:
    def test_of_vllm(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, left(NORM, kind="default")), NORM)
        assert result.status == "fail"
        assert result.message == "audio_tower.norm.weight: 8 of 8 elements left as constructed, not loaded"
        assert (result.measured, result.where) == (8, "audio_tower.norm.weight")

    def test_of_the_reference(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, left(NORM, kind="default"), leg="hf-cpu"), NORM)
        assert result.message == (
            "audio_tower.norm.weight: 8 of 8 elements newly initialised by transformers, not loaded"
        )

    @pytest.mark.parametrize(
        ("leg", "made"),
        [("vllm-cpu", "left as constructed"), ("hf-cpu", "newly initialised by transformers")],
    )
    def test_because_the_checkpoint_has_none(self, tmp_path: Path, leg: str, made: str) -> None:
        results = judged(tmp_path, left(NORM, kind="default"), not_stored(NORM), leg=leg)
        assert only_red(results, NORM).message == (
            f"audio_tower.norm.weight: 8 of 8 elements {made}, not loaded; the checkpoint has no such tensor"
        )

    def test_a_k_bias_that_nothing_was_there_for(self, tmp_path: Path) -> None:
        assert red(judged(tmp_path, left(K_BIAS, kind="default"))) == []

    def test_a_k_bias_that_is_not_zero(self, tmp_path: Path) -> None:
        """The loader, or the constructor, wrote every element of it; what it wrote is in no checkpoint."""
        result = only_red(judged(tmp_path, alter=put(K_BIAS, 3, -0.5)), K_BIAS)
        assert (result.status, result.where) == ("fail", f"{FUSED}[8:16]")
        assert result.message == (
            f"{FUSED}[8:16]: the checkpoint has no such tensor, expected zeros, found values up to 0.5 and 0 "
            "NaN or Inf"
        )

    def test_in_a_run_it_is_parameter_parity_that_says_so(self, tmp_path: Path) -> None:
        assert red(judged(tmp_path, alter=put(K_BIAS, 3, -0.5), work="run")) == []

    def test_a_k_bias_of_nan(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, alter=put(K_BIAS, 3, math.nan)), K_BIAS)
        assert result.message.endswith("found values up to 0 and 1 NaN or Inf")

    def test_a_k_bias_whose_values_are_not_known(self, tmp_path: Path) -> None:
        assert only_red(judged(tmp_path, alter=drop(K_BIAS)), K_BIAS).status == "missing"

    def test_a_k_bias_that_the_checkpoint_has(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, left(K_BIAS, kind="default"), lacks=()), K_BIAS)
        assert result.message == f"{FUSED}[8:16] (k): 8 of 24 elements left as constructed, not loaded"

    def test_what_was_never_written_is_said_first(self, tmp_path: Path) -> None:
        def change(shard: AuditedShard) -> AuditedShard:
            return shard.model_copy(update={"loaded": 0, "default": 5, "uninitialised": 3})

        result = only_red(judged(tmp_path, shards(NORM, change)), NORM)
        assert result.message == "audio_tower.norm.weight: 3 of 8 elements never written"


class TestFromWhere:
    """An element that was written need not have come from the checkpoint, or from the right tensor of it."""

    @staticmethod
    def from_(name: str, *sources: str) -> AlterAudit:
        return shards(name, lambda shard: shard.model_copy(update={"sources": sources}))

    def test_the_loader_s_own_values(self, tmp_path: Path) -> None:
        made = shards(FC1, lambda shard: shard.model_copy(update={"loaded": 8, "made": 248}))
        result = only_red(judged(tmp_path, made), FC1)
        assert result.message == (
            "audio_tower.layers.0.mlp.fc1.weight: 248 of 256 elements made up by the loader"
        )

    @pytest.mark.parametrize("leg", ["vllm-cpu", "hf-cpu"])
    def test_nowhere(self, tmp_path: Path, leg: str) -> None:
        result = only_red(judged(tmp_path, self.from_(FC1), leg=leg), FC1)
        assert result.message.endswith(
            "256 of 256 elements loaded from no tensor of the checkpoint, expected "
            "audio_tower.layers.0.mlp.fc1.weight"
        )

    def test_another_tensor(self, tmp_path: Path) -> None:
        v = "audio_tower.layers.0.self_attn.v_proj.bias"
        result = only_red(judged(tmp_path, self.from_(Q_BIAS, v)), Q_BIAS)
        assert result.message == (
            f"{FUSED}[0:8] (q): 8 of 24 elements loaded from {v}, expected {v.replace('v_proj', 'q_proj')}"
        )

    def test_its_own_among_others(self, tmp_path: Path) -> None:
        """A loader may put q, k and v together before it writes them."""
        biases = [f"audio_tower.layers.0.self_attn.{part}_proj.bias" for part in "qv"]
        assert red(judged(tmp_path, self.from_(Q_BIAS, *biases))) == []


class TestSize:
    @staticmethod
    def of(name: str, elements: int, **fields: object) -> AlterAudit:
        changed = {"elements": elements, "loaded": elements, **fields}
        return shards(name, lambda shard: shard.model_copy(update=changed))

    def test_empty(self, tmp_path: Path) -> None:
        """As after a loader that repacks what it loaded."""
        result = only_red(judged(tmp_path, self.of(FC1, 0)), FC1)
        assert result.message == (
            "audio_tower.layers.0.mlp.fc1.weight is empty after loading: nothing was audited"
        )
        assert result.where == "audio_tower.layers.0.mlp.fc1.weight"

    @pytest.mark.parametrize("elements", [248, 264])
    def test_another(self, tmp_path: Path, elements: int) -> None:
        result = only_red(judged(tmp_path, self.of(FC1, elements)), FC1)
        assert result.message == (
            f"audio_tower.layers.0.mlp.fc1.weight has {elements} elements of layers.0.fc1.weight after "
            "loading, the configuration makes it 256"
        )

    def test_of_a_shard(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, self.of(Q_BIAS, 4)), Q_BIAS)
        assert result.message.startswith(f"{FUSED} has 4 elements of {Q_BIAS} after loading")

    @pytest.mark.parametrize(("dtype", "said"), [("uint8", []), ("int32", []), ("float8_e4m3fn", [FC1])])
    def test_packed_values_are_fewer(self, tmp_path: Path, dtype: str, said: list[str]) -> None:
        assert red(judged(tmp_path, self.of(FC1, 128, dtype=dtype))) == said

    def test_every_parameter_of_an_audit_that_saw_nothing(self, tmp_path: Path) -> None:
        def empty(audit: LoadAudit) -> LoadAudit:
            none = {"elements": 0, "loaded": 0, "made": 0}
            return audit.model_copy(
                update={"shards": tuple(shard.model_copy(update=none) for shard in audit.shards)}
            )

        assert set(red(judged(tmp_path, empty))) == set(SUBJECTS[:-5])


class TestWithoutATensorOrAPlace:
    @pytest.mark.parametrize("leg", ["vllm-cpu", "hf-cpu"])
    def test_made_up_by_the_loader(self, tmp_path: Path, leg: str) -> None:
        """Only a k bias may be: zeros in place of any other weight are a wrong model."""
        result = only_red(judged(tmp_path, not_stored(NORM), leg=leg), NORM)
        assert result.status == "fail"
        assert result.message == (
            "audio_tower.norm.weight: 8 of 8 elements made up by the loader; "
            "the checkpoint has no such tensor"
        )
        assert result.measured == 8

    def test_made_up_for_a_shard(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, not_stored(Q_BIAS)), Q_BIAS)
        assert result.message.startswith(f"{FUSED}[0:8] (q): 8 of 24 elements made up by the loader")

    @pytest.mark.parametrize("leg", ["vllm-cpu", "hf-cpu"])
    def test_no_place_in_the_model(self, tmp_path: Path, leg: str) -> None:
        result = only_red(judged(tmp_path, gone(NORM), leg=leg), NORM)
        assert result.status == "fail"
        assert result.message == (
            f"the checkpoint has audio_tower.norm.weight, the model of {leg} has no place for it"
        )
        assert result.where == NORM

    def test_no_place_for_a_k_bias_that_the_checkpoint_has(self, tmp_path: Path) -> None:
        results = judged(tmp_path, leg="hf-cpu", lacks=())
        assert red(results) == [K_BIAS, CONSUMED]
        assert results[K_BIAS].message == (
            "the checkpoint has audio_tower.layers.0.self_attn.k_proj.bias, the model of hf-cpu has no place "
            "for it"
        )

    def test_no_place_for_a_k_bias_that_it_has_not(self, tmp_path: Path) -> None:
        assert red(judged(tmp_path, gone(K_BIAS))) == []

    @pytest.mark.parametrize("leg", ["vllm-cpu", "hf-cpu"])
    def test_neither_tensor_nor_place(self, tmp_path: Path, leg: str) -> None:
        result = only_red(judged(tmp_path, gone(NORM), not_stored(NORM), leg=leg), NORM)
        assert result.status == "missing"
        assert result.message == f"the model of {leg} has no parameter norm.weight: nothing was audited"

    def tied(self) -> Configs:
        configs = deepcopy(CONFIGS)
        configs["config.json"]["tie_word_embeddings"] = True
        configs["config.json"]["text_config"]["tie_word_embeddings"] = True
        return configs

    def test_a_head_that_is_the_embedding(self, tmp_path: Path) -> None:
        assert red(judged(tmp_path, gone(HEAD), not_stored(HEAD), configs=self.tied())) == []

    def test_a_head_that_is_the_embedding_and_is_stored_as_well(self, tmp_path: Path) -> None:
        alters = gone(HEAD), stored_as(HEAD, consumed=False, written_to=())
        assert red(judged(tmp_path, *alters, configs=self.tied())) == []
        assert red(judged(tmp_path, *alters)) == [HEAD, CONSUMED]


@pytest.mark.parametrize(
    ("name", "changes", "place"),
    [
        (NORM, {}, "audio_tower.norm.weight"),
        (NORM, {"unwritten": ("[2:3]", "[5:8]")}, "audio_tower.norm.weight[2:3], [5:8]"),
        (K_BIAS, {}, f"{FUSED}[8:16] (k)"),
        (K_BIAS, {"unwritten": ("[9:10]",)}, f"{FUSED}[9:10] (k)"),
    ],
)
def test_place(name: str, changes: dict[str, Any], place: str) -> None:
    (shard,) = [shard for shard in clean_audit("vllm").shards if shard.name == name]
    assert place_of(shard.model_copy(update=changes)) == place
