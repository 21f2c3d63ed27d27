"""Parameter parity: no tolerance, and every kind of wrong weight named by stack, rows and reference."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.compare.parameters import BITWISE, _ranges
from harness.compare.plan import UNMAPPED
from tests.synthetic import (
    CASE,
    CHECKPOINT,
    CONFIGS,
    Alter,
    Array,
    compared,
    drop,
    edit,
    put,
    red,
    rounded,
    together,
    write_pair,
    write_trace,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.compare.result import CheckResult
    from harness.trace import Trace
    from harness.trace.schema import CheckpointEntry, DType
    from harness.trace.tensors import RawTensor

K_BIAS = "layers.0.k_proj.bias"
FUSED_K_BIAS = "audio_tower.layers.0.self_attn.qkv_proj.bias[8:16]"
FC1 = "layers.0.fc1.weight"
DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")


def judged(folder: Path, alter: Alter | None, *, dtype: DType = "float32") -> dict[str, CheckResult]:
    """Compare the parameters of a vLLM leg that has a defect against HuggingFace's; no clip is needed."""
    results = compared(*write_pair(folder, alter=alter, dtype=dtype, clips=()))
    return {name: result for name, result in results.items() if result.kind == "parameter"}


def weights(path: Path, leg: str = "hf-cpu", **settings: Any) -> Trace:  # noqa: ANN401
    return write_trace(path, leg=leg, clips=(), **settings)


def checkpoint(lacks: tuple[str, ...]) -> CheckpointEntry:
    return CHECKPOINT.model_copy(update={"lacks": lacks})


def of_checkpoint(
    folder: Path,
    lacks: tuple[str, ...],
    *,
    legs: tuple[str, str],
    **settings: Any,  # noqa: ANN401
) -> dict[str, CheckResult]:
    """Compare two legs that both have a defect, of a checkpoint that is known to lack ``lacks``."""
    candidate, reference = (
        weights(folder / leg, leg, checkpoint=checkpoint(lacks), **settings) for leg in legs
    )
    return compared(candidate, reference)


def only_red(results: dict[str, CheckResult], name: str) -> CheckResult:
    assert red(results) == [name]
    return results[name]


def flip(name: str, *, flat: int, bit: int = 0) -> Alter:
    def alter(found: str, tensor: RawTensor) -> RawTensor:
        if found != name:
            return tensor
        words = tensor.data.copy()
        as_integers = words.view(f"u{words.dtype.itemsize}").reshape(-1)
        as_integers[flat] ^= 1 << bit
        return replace(tensor, data=words)

    return alter


def reshaped(name: str, change: Callable[[Array], Array], *, dtype: str) -> Alter:
    return lambda found, tensor: rounded(change(tensor.values), dtype) if found == name else tensor


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_parameters_pass(tmp_path: Path, dtype: DType) -> None:
    results = judged(tmp_path, None, dtype=dtype)
    assert {result.status for result in results.values()} == {"pass"}
    assert set(results) == {parameter.name for parameter in CASE.parameters(CONFIGS)} | {UNMAPPED}
    assert results[FC1].metric == "rows that differ"
    assert results["layers.0.q_proj.bias"].metric == "elements that differ"
    assert results[K_BIAS].metric == "elements not zero"
    assert {result.measured for result in results.values()} == {0}
    weighed = {name for name, result in results.items() if result.metric in BITWISE}
    assert weighed == set(results) - {K_BIAS, UNMAPPED}


class TestBiasThatTheCheckpointHasNot:
    """The defect this project is for: the k third of vLLM's fused bias, which no checkpoint fills."""

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_one_element(self, tmp_path: Path, dtype: DType) -> None:
        result = only_red(judged(tmp_path, put(K_BIAS, 3, -2.5), dtype=dtype), K_BIAS)
        assert result.status == "fail"
        assert result.message == (
            f"{FUSED_K_BIAS} on vllm-cpu: 1 of 8 elements are not zero, largest 2.5; "
            "the checkpoint has no such parameter, so it must be zero"
        )
        assert result.where == "[3:4]"
        assert (result.metric, result.measured, result.allowed) == ("elements not zero", 1, 0)

    @pytest.mark.parametrize("value", [6e7, 1e30, 1e-30, 1e-40, -1e-45])
    def test_all_elements(self, tmp_path: Path, value: float) -> None:
        result = only_red(judged(tmp_path, edit(K_BIAS, lambda bias: bias + value)), K_BIAS)
        assert result.status == "fail"
        assert "8 of 8 elements are not zero" in result.message
        assert f"largest {abs(float(np.float32(value))):.3g};" in result.message
        assert (result.where, result.measured) == ("[0:8]", 8)

    def test_smallest_bfloat16(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, flip(K_BIAS, flat=7), dtype="bfloat16"), K_BIAS)
        assert "1 of 8 elements are not zero, largest 9.18e-41" in result.message
        assert result.where == "[7:8]"

    def test_some_elements(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, together(put(K_BIAS, 0, 1), put(K_BIAS, 5, 2))), K_BIAS)
        assert "2 of 8 elements are not zero, largest 2;" in result.message
        assert result.where == "[0:1], [5:6]"

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, tmp_path: Path, dtype: DType, value: float) -> None:
        alter = together(put(K_BIAS, 2, value), put(K_BIAS, 3, value))
        result = only_red(judged(tmp_path, alter, dtype=dtype), K_BIAS)
        assert result.status == "fail"
        assert f"{FUSED_K_BIAS} on vllm-cpu: 2 of 8 elements are NaN or Inf at [2:4]" in result.message
        assert (result.where, result.measured, result.metric) == ("[2:4]", 2, "elements not finite")

    def test_zeros_of_either_sign_pass(self, tmp_path: Path) -> None:
        result = judged(tmp_path, edit(K_BIAS, lambda bias: -bias))[K_BIAS]
        assert (result.status, result.measured, result.message) == ("pass", 0, "")

    @pytest.mark.parametrize("lacks", [(K_BIAS,), ()])
    def test_absent_on_both_passes(self, tmp_path: Path, lacks: tuple[str, ...]) -> None:
        result = of_checkpoint(tmp_path, lacks, legs=("hf-cpu@new", "hf-cpu"))[K_BIAS]
        assert (result.status, result.message) == ("pass", "")
        assert (result.metric, result.measured, result.allowed) == ("elements not zero", 0, 0)

    @pytest.mark.parametrize("legs", [("vllm-cpu", "hf-cpu"), ("hf-cpu", "vllm-cpu")])
    def test_checkpoint_of_which_it_is_not_known(self, tmp_path: Path, legs: tuple[str, str]) -> None:
        """A leg that has no place for it says as much."""
        result = only_red(of_checkpoint(tmp_path, (), legs=legs, alter=put(K_BIAS, 3, -2.5)), K_BIAS)
        assert result.status == "fail"
        assert result.message == (
            f"{FUSED_K_BIAS} on vllm-cpu: 1 of 8 elements are not zero, largest 2.5; "
            "hf-cpu has no such parameter, so it must be zero"
        )

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_same_garbage_on_both_fails(self, tmp_path: Path, dtype: DType) -> None:
        """Two legs of vLLM, of one release or of two: equal bits say nothing of what nobody loaded."""
        legs = ("vllm-cpu@new", "vllm-cpu@old")
        alter = edit(K_BIAS, lambda bias: bias + 0.5)
        found = of_checkpoint(tmp_path, (K_BIAS,), legs=legs, alter=alter, dtype=dtype)
        result = only_red(found, K_BIAS)
        assert result.status == "fail"
        assert result.message == (
            f"{FUSED_K_BIAS} on vllm-cpu@new: 8 of 8 elements are not zero, largest 0.5; "
            "the checkpoint has no such parameter, so it must be zero"
        )
        assert (result.where, result.measured, result.allowed) == ("[0:8]", 8, 0)

    def test_zeros_on_both_pass(self, tmp_path: Path) -> None:
        """Zeros of either sign: there are no bits of a checkpoint to compare them with."""
        reference = weights(tmp_path / "old", "vllm-cpu@old", alter=edit(K_BIAS, np.negative))
        result = compared(weights(tmp_path / "new", "vllm-cpu@new"), reference)[K_BIAS]
        assert (result.status, result.metric, result.measured) == ("pass", "elements not zero", 0)

    def test_a_checkpoint_that_has_it_is_compared_bit_for_bit(self, tmp_path: Path) -> None:
        alter = edit(K_BIAS, lambda bias: bias + 0.5)
        result = of_checkpoint(tmp_path, (), legs=("vllm-cpu@new", "vllm-cpu@old"), alter=alter)[K_BIAS]
        assert (result.status, result.metric) == ("pass", BITWISE[0])

    def test_a_checkpoint_that_has_it_and_legs_that_differ(self, tmp_path: Path) -> None:
        candidate = weights(
            tmp_path / "new", "vllm-cpu@new", alter=put(K_BIAS, 1, 4.0), checkpoint=checkpoint(())
        )
        reference = weights(tmp_path / "old", "vllm-cpu@old", checkpoint=checkpoint(()))
        result = only_red(compared(candidate, reference), K_BIAS)
        assert result.status == "fail"
        assert "1 of 8 elements differ" in result.message
        assert "worst at [1]: 4 instead of 0" in result.message
        assert result.where == "[1:2]"

    def test_wrong_on_the_reference(self, tmp_path: Path) -> None:
        """The other way round: the stack that has the bias is the reference."""
        reference = weights(tmp_path / "vllm-cpu", "vllm-cpu", alter=put(K_BIAS, 1, 4.0))
        result = compared(weights(tmp_path / "hf-cpu"), reference)[K_BIAS]
        assert result.status == "fail"
        assert f"{FUSED_K_BIAS} on vllm-cpu: 1 of 8 elements are not zero, largest 4; the" in result.message

    def test_wrong_on_the_reference_of_two_that_have_it(self, tmp_path: Path) -> None:
        reference = weights(tmp_path / "old", "vllm-cpu@old", alter=put(K_BIAS, 1, 4.0))
        result = only_red(compared(weights(tmp_path / "new", "vllm-cpu@new"), reference), K_BIAS)
        assert result.status == "fail"
        assert f"{FUSED_K_BIAS} on vllm-cpu@old: 1 of 8 elements are not zero, largest 4;" in result.message

    def test_wrong_on_the_candidate_of_two_that_have_it(self, tmp_path: Path) -> None:
        candidate = weights(tmp_path / "new", "vllm-cpu@new", alter=put(K_BIAS, 1, 4.0))
        reference = weights(tmp_path / "old", "vllm-cpu@old")
        result = only_red(compared(candidate, reference), K_BIAS)
        assert result.status == "fail"
        assert f"{FUSED_K_BIAS} on vllm-cpu@new: 1 of 8 elements are not zero, largest 4;" in result.message
        assert result.where == "[1:2]"

    @settings(max_examples=15, deadline=None)
    @given(st.sets(st.integers(min_value=0, max_value=7), min_size=1), st.integers(1, 0xFF7F_FFFF))
    def test_whatever_the_allocator_left_there(
        self, tmp_path_factory: pytest.TempPathFactory, places: set[int], word: int
    ) -> None:
        value = np.array([word], dtype=np.uint32).view(np.float32)[0]
        assume(np.isfinite(value) and value != 0)
        alter = together(*(put(K_BIAS, place, value) for place in places))
        result = only_red(judged(tmp_path_factory.mktemp("traces"), alter), K_BIAS)
        assert result.status == "fail"
        assert result.measured == len(places)


class TestWrongWeights:
    def test_swapped(self, tmp_path: Path) -> None:
        q_weight, k_weight = "layers.0.q_proj.weight", "layers.0.k_proj.weight"
        kept: dict[str, RawTensor] = {}
        weights(tmp_path / "look", "vllm-cpu", alter=lambda name, tensor: kept.setdefault(name, tensor))
        other = {q_weight: kept[k_weight], k_weight: kept[q_weight]}
        results = judged(tmp_path, lambda name, tensor: other.get(name, tensor))
        assert red(results) == [q_weight, k_weight]
        assert results[q_weight].message == (
            "audio_tower.layers.0.self_attn.qkv_proj.weight[0:8] on vllm-cpu: 8 of 8 rows differ from "
            "audio_tower.layers.0.self_attn.q_proj.weight on hf-cpu at [0:8]; "
            f"it is, bit for bit, the reference's {k_weight}"
        )
        assert results[k_weight].message.endswith(f"the reference's {q_weight}")
        assert {results[name].status for name in other} == {"fail"}

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("bit", [0, 15])
    def test_one_bit_of_one_row(self, tmp_path: Path, dtype: DType, bit: int) -> None:
        result = only_red(judged(tmp_path, flip(FC1, flat=5 * 8 + 3, bit=bit), dtype=dtype), FC1)
        assert result.status == "fail"
        assert (
            "fc1.weight on vllm-cpu: 1 of 32 rows differ from audio_tower.layers.0.mlp.fc1" in result.message
        )
        assert "on hf-cpu at [5:6]" in result.message
        assert (result.where, result.metric, result.measured) == ("[5:6]", "rows that differ", 1)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_one_bit_of_a_bias(self, tmp_path: Path, dtype: DType) -> None:
        name = "conv1.bias"
        result = only_red(judged(tmp_path, flip(name, flat=6), dtype=dtype), name)
        assert result.status == "fail"
        assert (
            "1 of 8 elements differ from audio_tower.conv1.bias on hf-cpu, worst at [6]: " in result.message
        )
        assert (result.where, result.metric, result.measured) == ("[6:7]", "elements that differ", 1)

    def test_sign_of_zero_is_a_difference_where_both_have_it(self, tmp_path: Path) -> None:
        zero = edit("conv1.bias", np.zeros_like)
        candidate = weights(tmp_path / "a", "vllm-cpu", alter=together(zero, edit("conv1.bias", np.negative)))
        result = only_red(compared(candidate, weights(tmp_path / "b", alter=zero)), "conv1.bias")
        assert result.status == "fail"
        assert "8 of 8 elements differ" in result.message
        assert "worst at [0]: -0 instead of 0" in result.message

    def test_worst_element_is_named(self, tmp_path: Path) -> None:
        alter = together(put("norm.bias", 1, 100.0), put("norm.bias", 4, -1e6))
        result = only_red(judged(tmp_path, alter), "norm.bias")
        assert "2 of 8 elements differ" in result.message
        assert "worst at [4]: -1e+06 instead of" in result.message
        assert result.where == "[1:2], [4:5]"

    def test_every_row_of_a_convolution(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, edit("conv1.weight", lambda v: v * 2)), "conv1.weight")
        assert "8 of 8 rows differ" in result.message
        assert result.where == "[0:8]"

    def test_not_finite(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, put(FC1, 9, np.nan)), FC1)
        assert result.status == "fail"
        assert "fc1.weight on vllm-cpu: 1 of 256 elements are NaN or Inf" in result.message

    def test_the_same_nan_on_both_fails(self, tmp_path: Path) -> None:
        alter = put("norm.weight", 0, np.nan)
        candidate = weights(tmp_path / "a", "vllm-cpu", alter=alter)
        result = only_red(compared(candidate, weights(tmp_path / "b", alter=alter)), "norm.weight")
        assert result.status == "fail"
        assert "NaN or Inf at [0:1]" in result.message

    def test_wrong_dtype(self, tmp_path: Path) -> None:
        alter = reshaped(FC1, lambda values: values, dtype="float16")
        result = only_red(judged(tmp_path, alter, dtype="bfloat16"), FC1)
        assert result.status == "fail"
        assert result.message == (
            "audio_tower.layers.0.mlp.fc1.weight is float16, "
            "audio_tower.layers.0.mlp.fc1.weight of the reference bfloat16"
        )

    def test_wrong_shape(self, tmp_path: Path) -> None:
        alter = reshaped(FC1, lambda values: values[:-1], dtype="float32")
        result = only_red(judged(tmp_path, alter), FC1)
        assert result.status == "fail"
        assert (
            "fc1.weight on vllm-cpu has shape [31, 8], the configuration makes it [32, 8]" in result.message
        )
        assert result.where == "audio_tower.layers.0.mlp.fc1.weight"

    def test_wrong_shape_of_the_k_bias(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, reshaped(K_BIAS, lambda v: v[:4], dtype="float32")), K_BIAS)
        assert result.status == "fail"
        assert "has shape [4], the configuration makes it [8]" in result.message


class TestNotThere:
    def test_on_one_leg(self, tmp_path: Path) -> None:
        result = only_red(judged(tmp_path, drop("conv2.bias")), "conv2.bias")
        assert result.status == "missing"
        assert result.message == "conv2.bias is not on vllm-cpu: nothing was compared"

    def test_on_the_reference(self, tmp_path: Path) -> None:
        reference = weights(tmp_path / "hf", alter=drop("conv2.bias"))
        result = only_red(compared(weights(tmp_path / "a", "vllm-cpu"), reference), "conv2.bias")
        assert result.status == "missing"
        assert result.message == "conv2.bias is not on hf-cpu: nothing was compared"

    def test_on_both(self, tmp_path: Path) -> None:
        alter = drop("conv2.bias")
        candidate = weights(tmp_path / "a", "vllm-cpu", alter=alter)
        result = only_red(compared(candidate, weights(tmp_path / "b", alter=alter)), "conv2.bias")
        assert result.status == "missing"
        assert result.message == "conv2.bias is not on vllm-cpu and hf-cpu: nothing was compared"

    @pytest.mark.parametrize("leg", ["vllm-cpu", "hf-cpu"])
    def test_name_that_the_case_does_not_know(self, tmp_path: Path, leg: str) -> None:
        candidate, reference = (
            weights(tmp_path / name, name, unmapped=("x.rotary", "x.scale") if name == leg else ())
            for name in ("vllm-cpu", "hf-cpu")
        )
        result = only_red(compared(candidate, reference), UNMAPPED)
        assert result.status == "fail"
        assert result.message == (
            f"2 parameters are unknown to the case and were not compared: {leg}: x.rotary"
        )
        assert (result.where, result.measured) == (f"{leg}: x.rotary", 2)


class TestLegsOfDifferentDType:
    def pair(self, folder: Path, **candidate: Any) -> dict[str, CheckResult]:  # noqa: ANN401
        reference = weights(folder / "hf", dtype="float32")
        return compared(weights(folder / "a", "vllm-cpu", dtype="bfloat16", **candidate), reference)

    def test_have_no_bits_to_compare(self, tmp_path: Path) -> None:
        result = self.pair(tmp_path)["conv1.weight"]
        assert result.status == "unsupported"
        assert result.message == (
            "legs of bfloat16 and float32 have no bits to compare; "
            "capture the reference at the candidate's dtype"
        )

    def test_zeros_are_still_demanded(self, tmp_path: Path) -> None:
        results = self.pair(tmp_path, alter=put(K_BIAS, 0, 1.0))
        assert results[K_BIAS].status == "fail"
        assert "1 of 8 elements are not zero" in results[K_BIAS].message


@given(st.sets(st.integers(min_value=0, max_value=60)))
def test_ranges_hold_all_indices_and_no_other(indices: set[int]) -> None:
    text = _ranges(np.array(sorted(indices), dtype=np.int64), most=100)
    found = [
        index
        for run in text.replace("[", "").replace("]", "").split(", ")
        if run
        for index in range(*map(int, run.split(":")))
    ]
    assert found == sorted(indices)


def test_only_the_first_ranges_are_written() -> None:
    assert _ranges(np.array([0, 2, 4, 5, 8, 10])) == "[0:1], [2:3], [4:6] and 2 more ranges"
