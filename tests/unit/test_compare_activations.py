"""Judging one tensor, and naming the place where two legs first part."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compare.activations import coarser_dtype, first_divergence, judge_tensor
from harness.compare.plan import LOGITS, PlannedCheck
from harness.compare.tolerance import TensorRule
from harness.trace.tensors import RawTensor
from tests.synthetic import (
    PROBES,
    TOLERANCES,
    Alter,
    Array,
    compared,
    drop,
    edit,
    make_clip,
    put,
    red,
    rounded,
    together,
    write_pair,
    write_trace,
)

if TYPE_CHECKING:
    from pathlib import Path

    from harness.compare.result import CheckResult, Divergence
    from harness.trace.schema import DType

PAIR = "vllm_cpu-vs-hf_cpu"
CHECK = PlannedCheck(
    id="glm_asr-cat-encoder.conv1-x", kind="activation", pair=PAIR, subject="encoder.conv1", clip="cat"
)
DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")


def judged(
    candidate: Array | None, reference: Array | None, *, l2: float = 0.1, most: float = 0.2
) -> CheckResult:
    rule = TensorRule(
        dtype="float32", origin="made up for this test", probes="*", relative_l2=l2, relative_max=most
    )
    return judge_tensor(
        CHECK,
        candidate=None if candidate is None else RawTensor.of(candidate),
        reference=None if reference is None else RawTensor.of(reference),
        legs=("vllm-cpu", "hf-cpu"),
        rule=rule,
    )


class TestOneTensor:
    def test_equal(self) -> None:
        result = judged(np.ones((2, 2)), np.ones((2, 2)), l2=0.0, most=0.0)
        assert (result.status, result.measured, result.allowed, result.message) == ("pass", 0, 0, "")

    def test_any_error_is_too_much_where_none_is_allowed(self) -> None:
        candidate = np.ones((2, 2), dtype=np.float32)
        candidate[1, 0] = np.nextafter(np.float32(1), np.float32(2))
        result = judged(candidate, np.ones((2, 2), dtype=np.float32), l2=0.0, most=0.0)
        assert result.status == "fail"
        assert "(xinf)" in result.message
        assert (result.where, result.allowed) == ("[1, 0]", 0)

    @given(st.floats(1e-12, 0.9), st.floats(0.0, 0.999))
    def test_just_below_the_tolerance(self, allowed: float, share: float) -> None:
        """All elements off by the same share: both metrics are that share."""
        result = judged(np.full(50, 1 + allowed * share), np.ones(50), l2=allowed, most=1.0)
        assert result.status == "pass"
        assert result.message == ""
        assert result.measured == pytest.approx(allowed * share, rel=1e-3, abs=1e-15)

    @given(st.floats(1e-9, 0.9), st.floats(1.001, 100.0))
    def test_just_above_the_tolerance(self, allowed: float, share: float) -> None:
        result = judged(np.full(50, 1 + allowed * share), np.ones(50), l2=allowed, most=1000.0)
        assert result.status == "fail"
        assert (result.metric, result.allowed) == ("relative L2", allowed)
        assert result.measured == pytest.approx(allowed * share, rel=1e-3)
        assert result.message.startswith(
            f"encoder.conv1: relative L2 {result.measured:.3g} on vllm-cpu against hf-cpu"
        )

    def test_one_bad_element_among_many(self) -> None:
        """Far too little for the L2 over all, which is why the greatest error has a bound of its own."""
        candidate = np.ones((100, 100))
        candidate[70, 30] = 1.21
        result = judged(candidate, np.ones((100, 100)))
        assert result.status == "fail"
        assert (result.metric, result.allowed, result.where) == ("relative max", 0.2, "[70, 30]")
        assert result.measured == pytest.approx(0.21)
        assert result.message == (
            "encoder.conv1: relative max 0.21 on vllm-cpu against hf-cpu, allowed 0.2 (x1.05); "
            "max abs 0.21 at [70, 30], cosine 0.999998, mean 9.46e+10 ULP"
        )
        candidate[70, 30] = 1.19
        assert judged(candidate, np.ones((100, 100))).status == "pass"

    def test_metric_that_is_further_out_is_named(self) -> None:
        assert judged(np.full(10, 1.15), np.ones(10)).metric == "relative L2"
        assert judged(np.full(10, 1.15), np.ones(10), l2=0.2, most=0.1).metric == "relative max"

    def test_reference_of_zeros(self) -> None:
        result = judged(np.full(4, 1e-30), np.zeros(4))
        assert result.status == "fail"
        assert result.measured is None
        assert "relative L2 inf on vllm-cpu" in result.message
        assert judged(np.zeros(4), np.zeros(4)).status == "pass"

    @pytest.mark.parametrize("missing", ["candidate", "reference", "both"])
    def test_not_recorded(self, missing: str) -> None:
        ours = None if missing in {"candidate", "both"} else np.ones(1)
        theirs = None if missing in {"reference", "both"} else np.ones(1)
        result = judged(ours, theirs)
        legs = {"candidate": "vllm-cpu", "reference": "hf-cpu", "both": "vllm-cpu and hf-cpu"}
        assert (result.status, result.measured) == ("missing", None)
        assert result.message == f"encoder.conv1 was not recorded on {legs[missing]}"

    def test_shape(self) -> None:
        result = judged(np.ones((2, 3)), np.ones((3, 2)))
        assert result.status == "fail"
        assert result.message == "encoder.conv1 has shape [2, 3] on vllm-cpu, [3, 2] on hf-cpu"

    def test_no_elements(self) -> None:
        result = judged(np.ones((0, 3)), np.ones((0, 3)))
        assert result.status == "fail"
        assert "has shape [0, 3] on vllm-cpu, [0, 3] on hf-cpu" in result.message

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite_on_one_side(self, value: float) -> None:
        bad = np.ones((3, 4))
        bad[1, 2:] = value
        result = judged(bad, np.ones((3, 4)), l2=1e9, most=1e9)
        assert result.status == "fail"
        assert result.message == "encoder.conv1: NaN or Inf in 2 of 12 elements on vllm-cpu, first at [1, 2]"
        assert (result.metric, result.measured, result.allowed) == ("elements not finite", 2, 0)
        assert result.where == "[1, 2]"
        result = judged(np.ones((3, 4)), bad)
        assert "NaN or Inf in 2 of 12 elements on hf-cpu" in result.message

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_the_same_on_both_sides_fails_too(self, value: float) -> None:
        bad = np.array([1.0, value])
        result = judged(bad, bad.copy(), l2=1e9, most=1e9)
        assert result.status == "fail"
        assert "1 of 2 elements on vllm-cpu and 1 of 2 elements on hf-cpu, first at [1]" in result.message

    @pytest.mark.parametrize("value", [1e200, 1.7e308])
    def test_ratio_that_overflows_is_no_pass(self, value: float) -> None:
        result = judged(np.array([value, value]), np.array([value, -value]))
        assert result.status == "fail"
        assert result.measured is None


@pytest.mark.parametrize(
    ("left", "right", "coarser"),
    [
        ("float32", "float32", "float32"),
        ("bfloat16", "float32", "bfloat16"),
        ("float16", "bfloat16", "bfloat16"),
        ("float64", "float16", "float16"),
        ("float64", "float32", "float32"),
    ],
)
def test_larger_rounding_sets_the_tolerance(left: DType, right: DType, coarser: DType) -> None:
    assert coarser_dtype(left, right) == coarser_dtype(right, left) == coarser


class TestTraces:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_clean_legs_agree(self, tmp_path: Path, dtype: DType) -> None:
        results = compared(*write_pair(tmp_path, dtype=dtype))
        assert red(results) == []
        assert {f"{clip}/{probe.name}" for clip in ("cat", "dog", "zh") for probe in PROBES} <= set(results)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("share", "status"), [(0.7, "pass"), (1.5, "fail")])
    def test_shipped_tolerances_hold(self, tmp_path: Path, dtype: DType, share: float, status: str) -> None:
        """A uniform error, planted on a float32 leg, where no rounding of its own hides it."""
        allowed = TOLERANCES.for_probe("projector", dtype=dtype).relative_l2
        grown = edit("dog/projector", lambda values: values * (1 + share * allowed))
        candidate = write_trace(tmp_path / "a", leg="vllm-cpu", dtype="float32", alter=grown)
        result = compared(candidate, write_trace(tmp_path / "b", dtype=dtype))["dog/projector"]
        assert result.status == status
        assert result.clip == "dog"

    def test_clip_that_the_model_cannot_take(self, tmp_path: Path) -> None:
        clips = (make_clip("cat"), make_clip("long", unsupported="too long: 700.0 s"))
        results = compared(*write_pair(tmp_path, clips=clips))
        assert {results[f"long/{probe.name}"].status for probe in PROBES} == {"unsupported"}
        assert results["long/projector"].message == "too long: 700.0 s"
        assert {results[f"cat/{probe.name}"].status for probe in PROBES} == {"pass"}

    @pytest.mark.parametrize("leg", ["vllm-cpu", "hf-cpu"])
    def test_probe_that_was_not_recorded(self, tmp_path: Path, leg: str) -> None:
        candidate, reference = (
            write_trace(tmp_path / name, leg=name, alter=drop("cat/encoder.norm") if name == leg else None)
            for name in ("vllm-cpu", "hf-cpu")
        )
        results = compared(candidate, reference)
        assert red(results) == ["cat/encoder.norm"]
        assert results["cat/encoder.norm"].status == "missing"
        assert results["cat/encoder.norm"].message == f"encoder.norm was not recorded on {leg}"

    def test_clip_of_which_nothing_was_recorded(self, tmp_path: Path) -> None:
        results = compared(*write_pair(tmp_path, alter=drop("dog/*")))
        assert red(results) == [f"dog/{probe.name}" for probe in PROBES]
        assert {results[name].status for name in red(results)} == {"missing"}

    def test_logits(self, tmp_path: Path) -> None:
        results = compared(*write_pair(tmp_path, alter=put(f"zh/{LOGITS}", 17, 50.0), dtype="bfloat16"))
        assert red(results) == [f"zh/{LOGITS}"]
        result = results[f"zh/{LOGITS}"]
        assert (result.status, result.kind, result.where) == ("fail", "logits", "[17]")


def parted(folder: Path, *alters: Alter) -> Divergence | None:
    candidate, reference = write_pair(folder, alter=together(*alters))
    return first_divergence(compared(candidate, reference).values(), probes=PROBES, pair=PAIR)


def worse(pattern: str, factor: float = 1.1) -> Alter:
    return edit(pattern, lambda values: values * factor)


def cut(pattern: str) -> Alter:
    def alter(name: str, tensor: RawTensor) -> RawTensor:
        return rounded(tensor.values[:, 1:], tensor.dtype) if name == pattern else tensor

    return alter


class TestFirstDivergence:
    def test_none(self, tmp_path: Path) -> None:
        assert parted(tmp_path) is None

    @pytest.mark.parametrize("probe", [probe.name for probe in PROBES])
    def test_everything_after_it_differs(self, tmp_path: Path, probe: str) -> None:
        names = [point.name for point in PROBES]
        found = parted(tmp_path, *(worse(f"*/{name}") for name in names[names.index(probe) :]))
        assert found is not None
        assert found.probe == probe
        assert found.clips == ("cat", "dog", "zh")
        assert found.of_clips == 3
        assert found.pair == PAIR
        assert re.match(
            rf"{probe}: relative (L2|max) 0\.1 on vllm-cpu against hf-cpu, allowed", found.message
        )

    def test_clips_that_part_at_different_probes(self, tmp_path: Path) -> None:
        found = parted(
            tmp_path,
            worse("cat/encoder.layers.0.mlp"),
            worse("cat/encoder.layers.0"),
            worse("dog/encoder.layers.0.k_proj"),
            worse("dog/encoder.layers.0.mlp"),
            worse("zh/encoder.layers.0.k_proj", 3.0),
        )
        assert found is not None
        assert (found.probe, found.clips, found.of_clips) == ("encoder.layers.0.k_proj", ("dog", "zh"), 3)
        assert found.check == f"glm_asr-zh-encoder.layers.0.k_proj-{PAIR}"
        assert "relative L2 2 on" in found.message

    def test_failure_behind_a_failed_input_is_not_where_it_began(self, tmp_path: Path) -> None:
        found = parted(
            tmp_path, worse("cat/encoder.layers.0.v_proj"), worse("*/encoder.layers.0.self_attn", 9.0)
        )
        assert found is not None
        assert (found.probe, found.clips) == ("encoder.layers.0.v_proj", ("cat",))

    def test_inputs_of_one_clip_say_nothing_about_another(self, tmp_path: Path) -> None:
        found = parted(tmp_path, worse("cat/encoder.conv2"), worse("dog/encoder.norm"))
        assert found is not None
        assert (found.probe, found.clips, found.of_clips) == ("encoder.conv2", ("cat",), 3)

    def test_logits_alone(self, tmp_path: Path) -> None:
        found = parted(tmp_path, worse(f"dog/{LOGITS}"))
        assert found is not None
        assert (found.probe, found.clips) == (LOGITS, ("dog",))

    def test_not_named_behind_a_probe_that_is_missing(self, tmp_path: Path) -> None:
        """Whether its input differed is not known, so that no place can be called the first."""
        assert parted(tmp_path, drop("cat/encoder.conv2"), worse("cat/encoder.layers.0.q_proj")) is None

    def test_failure_without_a_number_is_the_worst(self, tmp_path: Path) -> None:
        found = parted(tmp_path, worse("cat/encoder.conv1", 1e6), cut("dog/encoder.conv1"))
        assert found is not None
        assert found.clips == ("cat", "dog")
        assert found.message == "encoder.conv1 has shape [2, 4, 8] on vllm-cpu, [2, 5, 8] on hf-cpu"

    def test_nan(self, tmp_path: Path) -> None:
        found = parted(tmp_path, worse("cat/projector"), put("dog/projector", 4, math.nan))
        assert found is not None
        assert (found.probe, found.clips) == ("projector", ("cat", "dog"))
        assert "NaN or Inf in 1 of 80 elements on vllm-cpu, first at [0, 0, 4]" in found.message

    def test_other_pairs_and_unsupported_clips_do_not_count(self, tmp_path: Path) -> None:
        clips = (make_clip("cat"), make_clip("long", unsupported="too long"))
        candidate, reference = write_pair(tmp_path, alter=worse("cat/projector"), clips=clips)
        results = compared(candidate, reference).values()
        assert first_divergence(results, probes=PROBES, pair="other-vs-hf_cpu") is None
        found = first_divergence(results, probes=PROBES, pair=PAIR)
        assert found is not None
        assert (found.clips, found.of_clips) == (("cat",), 1)
