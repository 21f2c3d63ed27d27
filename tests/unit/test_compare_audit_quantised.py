"""The load audit's verdict on a quantised weight: it is loaded when all of its parts are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harness.compare.plan import ONCE, OTHERS
from tests.synthetic import CASE, CONFIGS, red
from tests.unit.test_compare_audit import judged, only_red
from tests.unit.test_compare_audit_checkpoint import overwritten

if TYPE_CHECKING:
    from pathlib import Path

    from harness.trace.schema import AuditedShard, LoadAudit, OfferedTensor
    from tests.synthetic import AlterAudit

MODULE = "audio_tower.layers.0.self_attn.qkv_proj"
PARTS = ("q", "k", "v")
WEIGHTS = [f"layers.0.{part}_proj.weight" for part in PARTS]
KINDS = ("weight_packed", "weight_scale", "weight_shape")


def packed(**left: dict[str, Any]) -> AlterAudit:
    """The projection is packed; ``left`` says of ``KIND`` or ``PART_KIND`` what loading left."""

    def shards_of(audit: LoadAudit) -> list[AuditedShard]:
        found = []
        for shard in audit.shards:
            if shard.name not in WEIGHTS:
                found.append(shard)
                continue
            part = shard.shard
            for kind in KINDS[:2]:
                name = f"layers.0.{part}_proj.{kind}"
                source = f"audio_tower.layers.0.self_attn.{part}_proj.{kind}"
                fields = {"parameter": f"{MODULE}.{kind}", "name": name, "sources": (source,)}
                fields |= left.get(f"{part}_{kind}", {})
                found.append(shard.model_copy(update=fields))
        shape = found[-1].model_copy(
            update={
                "parameter": f"{MODULE}.weight_shape",
                "shard": "",
                "name": None,
                "rows": (0, 2),
                **dict.fromkeys(("of", "elements", "loaded"), 2),
                "made": 0,
                "sources": tuple(
                    f"audio_tower.layers.0.self_attn.{part}_proj.weight_shape" for part in PARTS
                ),
            }
        )
        return [*found, shape.model_copy(update=left.get("weight_shape", {}))]

    def tensors_of(audit: LoadAudit) -> list[OfferedTensor]:
        stored = [CASE.published_name(name) for name in WEIGHTS]
        found = []
        for tensor in audit.tensors:
            kinds = KINDS if tensor.name in stored else ("weight",)
            module, _, own = tensor.name.rpartition(".")
            found += [
                tensor.model_copy(update={"name": f"{module}.{kind if tensor.name in stored else own}"})
                for kind in kinds
            ]
        return found

    def alter(audit: LoadAudit) -> LoadAudit:
        return audit.model_copy(
            update={"shards": tuple(shards_of(audit)), "tensors": tuple(tensors_of(audit))}
        )

    return alter


def test_all_parts_loaded(tmp_path: Path) -> None:
    assert red(judged(tmp_path, packed())) == []


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_nobody_wrote(tmp_path: Path, part: str, kind: str) -> None:
    left = {"loaded": 0, "uninitialised": 64, "unwritten": ("[8:16]",)}
    name = f"layers.0.{part}_proj.weight"
    result = only_red(judged(tmp_path, packed(**{f"{part}_{kind}": left})), name)
    assert result.message == f"{MODULE}.{kind}[8:16] ({part}): 64 of 192 elements never written"


def test_a_scale_as_constructed(tmp_path: Path) -> None:
    result = only_red(
        judged(tmp_path, packed(k_weight_scale={"loaded": 0, "default": 64})), "layers.0.k_proj.weight"
    )
    assert result.message.endswith("64 of 192 elements left as constructed, not loaded")


def test_what_all_shards_share_is_red_for_each(tmp_path: Path) -> None:
    """And not once more among the parameters that the case does not know."""
    results = judged(tmp_path, packed(weight_shape={"loaded": 0, "uninitialised": 2}))
    assert red(results) == WEIGHTS
    assert results[OTHERS].status == "pass"


@pytest.mark.parametrize(("kind", "said"), [("weight_shape", []), ("weight_scale", [ONCE])])
def test_shards_over_each_other(tmp_path: Path, kind: str, said: list[str]) -> None:
    """Of a shape vLLM keeps one for all; a scale that another one replaced is lost."""
    stored = [f"audio_tower.layers.0.self_attn.{part}_proj.{kind}" for part in "qk"]
    entry = overwritten(f"{MODULE}.{kind}", "[0:2]", *stored)
    assert red(judged(tmp_path, packed(), entry)) == said


def test_the_parts_are_the_cases() -> None:
    for kind in KINDS:
        assert [part.of for part in CASE.parts("vllm", f"{MODULE}.{kind}", CONFIGS)] == WEIGHTS
