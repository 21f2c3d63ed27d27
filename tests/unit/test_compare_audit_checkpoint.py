"""The load audit's verdict on all but the case's parameters: padding, buffers, the checkpoint's side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.compare.plan import CONSUMED, EXPECTED, FINITE, ONCE, OTHERS
from harness.trace.schema import AuditedShard, LoadAudit, OfferedTensor, Overwritten
from tests.synthetic import CASE, AlterAudit, red
from tests.unit.test_compare_audit import (
    FC1,
    HEAD,
    K_BIAS,
    NORM,
    Q_BIAS,
    SUBJECTS,
    gone,
    judged,
    left,
    not_stored,
    only_red,
    stored_as,
    tensors,
)

if TYPE_CHECKING:
    from pathlib import Path


def with_shard(**fields: Any) -> AlterAudit:  # noqa: ANN401
    """One parameter or buffer more, that the case does not know."""
    base: dict[str, Any] = {
        "parameter": "audio_tower.extra", "shard": "", "name": None, "rows": (0, 4), "of": 4,
        "dtype": "float32", "elements": 4, "loaded": 4, "made": 0, "default": 0, "uninitialised": 0,
    }  # fmt: skip
    shard = AuditedShard(**{**base, **fields})
    return lambda audit: audit.model_copy(update={"shards": (*audit.shards, shard)})


def with_tensor(name: str, **fields: Any) -> AlterAudit:  # noqa: ANN401
    """One tensor more in the checkpoint, that nothing took."""
    base: dict[str, Any] = {"dtype": "float32", "shape": (4,), "non_finite": 0, "consumed": False}
    tensor = OfferedTensor(name=name, **{**base, **fields})
    return lambda audit: audit.model_copy(update={"tensors": (*audit.tensors, tensor)})


def overwritten(parameter: str, box: str, first: str, second: str | None) -> AlterAudit:
    entry = Overwritten(parameter=parameter, box=box, first=first, second=second)
    return lambda audit: audit.model_copy(update={"overwritten": (*audit.overwritten, entry)})


class TestOthers:
    def test_padding_and_buffers(self, tmp_path: Path) -> None:
        def unpad(audit: LoadAudit) -> LoadAudit:
            fields = {"loaded": 0, "uninitialised": 456, "unwritten": ("[263:320]",)}
            changed = [
                shard.model_copy(update=fields) if shard.shard == "padding" else shard
                for shard in audit.shards
            ]
            return audit.model_copy(update={"shards": tuple(changed)})

        buffer = with_shard(
            parameter="audio_tower.rotary.table", shard="buffer", loaded=0, uninitialised=4,
            unwritten=("[0:1, 0:4]",), rows=(0, 1),
        )  # fmt: skip
        result = only_red(judged(tmp_path, unpad, buffer), OTHERS)
        assert result.status == "fail"
        assert result.message == (
            "language_model.model.embed_tokens.weight[263:320] (padding): 456 of 2560 elements never written"
            "; language_model.lm_head.weight[263:320] (padding): 456 of 2560 elements never written; "
            "audio_tower.rotary.table[0:1, 0:4] (buffer): 4 of 4 elements never written"
        )
        assert result.where == "language_model.model.embed_tokens.weight[263:320] (padding)"
        assert (result.metric, result.measured) == ("parameters with unwritten elements", 3)

    def test_what_is_as_constructed_may_be(self, tmp_path: Path) -> None:
        """Zeros of padding, the table of a buffer: no checkpoint holds them."""
        assert red(judged(tmp_path, with_shard(loaded=0, default=4))) == []

    def test_not_audited(self, tmp_path: Path) -> None:
        problem = "audio_tower.x: has no memory after loading"
        result = only_red(
            judged(tmp_path, lambda audit: audit.model_copy(update={"not_audited": (problem,)})), OTHERS
        )
        assert (result.status, result.message) == ("fail", f"{problem}: not audited")
        assert result.where == "audio_tower.x"

    @pytest.mark.parametrize("leg", ["vllm-cpu", "hf-cpu"])
    def test_an_audit_of_nothing(self, tmp_path: Path, leg: str) -> None:
        results = judged(tmp_path, lambda _: LoadAudit(shards=(), tensors=()), leg=leg)
        assert results[OTHERS].status == results[CONSUMED].status == "fail"
        assert results[OTHERS].message == f"the audit of {leg} looked at no parameter"
        assert results[CONSUMED].message == f"{leg} was offered no tensor"
        assert (results[OTHERS].where, results[CONSUMED].where) == (leg, leg)
        assert {results[name].status for name in SUBJECTS[:-5] if name != K_BIAS} == {"missing"}

    def test_more_than_are_named(self, tmp_path: Path) -> None:
        alters = [with_shard(parameter=f"x.{index}", loaded=0, uninitialised=4) for index in range(5)]
        result = only_red(judged(tmp_path, *alters), OTHERS)
        assert result.message.endswith("x.2: 4 of 4 elements never written; and 2 more")
        assert result.measured == 5


class TestTheCheckpointsSide:
    @pytest.mark.parametrize("leg", ["vllm-cpu", "hf-cpu"])
    def test_not_consumed(self, tmp_path: Path, leg: str) -> None:
        result = only_red(judged(tmp_path, with_tensor("audio_tower.layers.0.gate"), leg=leg), CONSUMED)
        assert result.status == "fail"
        assert result.message == (
            f"audio_tower.layers.0.gate is in the checkpoint and was not loaded by {leg}"
        )
        assert (result.where, result.measured) == ("audio_tower.layers.0.gate", 1)
        assert result.metric == "tensors not loaded"

    @pytest.mark.parametrize(
        "name", ["audio_tower.embed_positions.weight", "language_model.model.layers.0.rotary_emb.inv_freq"]
    )
    def test_what_need_not_be(self, tmp_path: Path, name: str) -> None:
        assert red(judged(tmp_path, with_tensor(name))) == []

    def test_what_never_reached_the_loader(self, tmp_path: Path) -> None:
        """On disk, and no more than its name is known: it has no dtype to judge."""
        result = only_red(judged(tmp_path, with_tensor("lost", dtype="", shape=())), CONSUMED)
        assert result.message == "lost is in the checkpoint and was not loaded by vllm-cpu"

    @pytest.mark.parametrize("times", [2, 3])
    def test_stored_more_than_once(self, tmp_path: Path, times: int) -> None:
        again = tensors(NORM, lambda tensor: (tensor,) * times)
        name = CASE.published_name(NORM)
        results = judged(tmp_path, again, overwritten(name, "[0:8]", name, name))
        result = only_red(results, ONCE)
        assert (result.status, result.message) == ("fail", f"{name} is stored {times} times")
        assert (result.where, result.measured, result.metric) == (name, 1, "tensors loaded twice")

    @pytest.mark.parametrize(("second", "by"), [("x.bias", "x.bias"), (None, "the loader itself")])
    def test_overwritten(self, tmp_path: Path, second: str | None, by: str) -> None:
        result = only_red(judged(tmp_path, overwritten("p.weight", "[0:8, 2:4]", "a.weight", second)), ONCE)
        assert result.message == f"p.weight[0:8, 2:4] was loaded from a.weight and then overwritten by {by}"
        assert result.where == "p.weight[0:8, 2:4]"

    def test_another_shape_and_another_dtype(self, tmp_path: Path) -> None:
        alters = stored_as(NORM, shape=(7,)), stored_as(FC1, dtype="float16")
        result = only_red(judged(tmp_path, *alters), EXPECTED)
        fc1, norm = CASE.published_name(FC1), CASE.published_name(NORM)
        assert result.message == (
            f"{fc1} is float16, most of the checkpoint is float32; "
            f"{norm} has shape [7], the configuration makes it [8]"
        )
        assert (result.status, result.where, result.measured) == ("fail", fc1, 2)

    def test_not_finite(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, stored_as(FC1, non_finite=3)), FINITE)
        name = CASE.published_name(FC1)
        assert result.message == f"{name} holds 3 NaN or Inf in the checkpoint itself"
        assert (result.status, result.where, result.measured) == ("fail", name, 1)


#: Defects that do not touch each other, by the check that must find each.
DEFECTS: dict[str, AlterAudit] = {
    K_BIAS: left(K_BIAS, 8, "[8:16]"),
    Q_BIAS: left(Q_BIAS, kind="default"),
    FC1: gone(FC1),
    NORM: not_stored(NORM),
    HEAD: left(HEAD),
    OTHERS: with_shard(loaded=3, uninitialised=1),
    CONSUMED: with_tensor("audio_tower.gate"),
    ONCE: overwritten("p", "[0:1]", "a", "b"),
    EXPECTED: stored_as("conv1.bias", dtype="float16"),
    FINITE: stored_as("conv1.weight", non_finite=1),
}


@settings(max_examples=15)
@given(planted=st.sets(st.sampled_from(sorted(DEFECTS))))
def test_all_defects_at_once(tmp_path_factory: pytest.TempPathFactory, planted: set[str]) -> None:
    """Exactly the planted ones are red: none hides another."""
    results = judged(tmp_path_factory.mktemp("traces"), *(DEFECTS[name] for name in planted))
    assert set(red(results)) == planted
