"""The distance of two tensors, against its formulas written out and the properties they must have."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.compare.metrics import Difference, difference
from harness.trace.tensors import RawTensor, TensorFile, TensorWriter
from tests.synthetic import Array, rounded

if TYPE_CHECKING:
    from pathlib import Path

    from harness.trace.schema import DType

DTYPES: tuple[DType, ...] = ("float64", "float32", "bfloat16", "float16")
#: Numbers whose squares neither overflow nor vanish, in any dtype.
MODERATE = st.one_of(st.just(0.0), st.floats(2.0**-10, 2.0**10), st.floats(-(2.0**10), -(2.0**-10)))
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=4)


@st.composite
def pairs(draw: st.DrawFn, dtype: str | None = None) -> tuple[RawTensor, RawTensor]:
    dtype = dtype or draw(st.sampled_from(DTYPES))
    shape = draw(SHAPES)
    left, right = (rounded(draw(hnp.arrays(np.float64, shape, elements=MODERATE)), dtype) for _ in range(2))
    return left, right


def measure(candidate: object, reference: object, dtype: str = "float32") -> Difference:
    return difference(
        rounded(np.asarray(candidate, dtype=np.float64), dtype),
        rounded(np.asarray(reference, dtype=np.float64), dtype),
    )


def numbers(tensor: RawTensor) -> list[float]:
    return [float(value) for value in tensor.values.ravel()]


class TestFormulas:
    @given(pairs())
    def test_written_out(self, pair: tuple[RawTensor, RawTensor]) -> None:
        found = difference(*pair)
        ours, theirs = numbers(pair[0]), numbers(pair[1])
        errors = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
        norm, other = (math.sqrt(math.fsum(x * x for x in side)) for side in (theirs, ours))
        distance = math.sqrt(math.fsum(error * error for error in errors))
        assert found.size == len(ours)
        assert found.finite
        assert found.max_abs == max(errors)
        if norm:
            assert found.relative_l2 == pytest.approx(distance / norm, rel=1e-12)
            assert found.relative_max == max(errors) / max(map(abs, theirs))
        if norm and other:
            inner = math.fsum(a * b for a, b in zip(ours, theirs, strict=True))
            assert found.cosine == pytest.approx(inner / norm / other, rel=1e-9, abs=1e-12)
        else:
            assert math.isnan(found.cosine)

    @given(pairs())
    def test_index_is_where_the_error_is_greatest(self, pair: tuple[RawTensor, RawTensor]) -> None:
        found = difference(*pair)
        ours, theirs = (side.values.astype(np.float64) for side in pair)
        assert len(found.index) == len(pair[0].shape)
        assert abs(ours[found.index] - theirs[found.index]) == found.max_abs

    @given(SHAPES, st.data())
    def test_index_of_a_planted_error(self, shape: tuple[int, ...], data: st.DataObject) -> None:
        index = tuple(data.draw(st.integers(0, side - 1)) for side in shape)
        candidate = np.ones(shape)
        candidate[index] = 1.5
        found = measure(candidate, np.ones(shape))
        assert found.index == index
        assert (found.max_abs, found.relative_max) == (0.5, 0.5)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_example(self, dtype: DType) -> None:
        found = measure([3.0, 4.0], [0.0, 4.0], dtype)
        assert (found.max_abs, found.relative_l2, found.relative_max) == (3.0, 0.75, 0.75)
        assert found.cosine == pytest.approx(0.8)
        assert found.index == (0,)

    def test_sums_are_taken_in_float64(self) -> None:
        """In float16 both norms would overflow."""
        found = measure(np.full(1000, 60000.0), np.full(1000, 30000.0), "float16")
        assert found.relative_l2 == pytest.approx(1.0)
        assert found.cosine == pytest.approx(1.0)

    def test_single_number(self) -> None:
        found = measure(np.float64(2.0), np.float64(1.0))
        assert (found.index, found.relative_l2, found.size) == ((), 1.0, 1)


class TestProperties:
    @given(pairs())
    def test_zero_on_equal(self, pair: tuple[RawTensor, RawTensor]) -> None:
        found = difference(pair[0], pair[0])
        assert (found.max_abs, found.relative_l2, found.relative_max, found.mean_ulp) == (0, 0, 0, 0)
        assert found.cosine == pytest.approx(1.0) or not np.any(pair[0].values)

    @given(pairs())
    def test_symmetric_but_for_the_scale(self, pair: tuple[RawTensor, RawTensor]) -> None:
        one, other = difference(*pair), difference(*reversed(pair))
        assert one.max_abs == other.max_abs
        assert one.index == other.index
        assert one.mean_ulp == other.mean_ulp
        assert one.cosine == pytest.approx(other.cosine, nan_ok=True)

    @given(hnp.arrays(np.float64, SHAPES, elements=MODERATE), st.floats(1e-8, 10.0))
    def test_relative_to_the_reference(self, reference: Array, error: float) -> None:
        assume(reference.any())
        found = difference(RawTensor.of(reference * (1 + error)), RawTensor.of(reference))
        assert found.relative_l2 == pytest.approx(error, rel=1e-6)
        assert found.relative_max == pytest.approx(error, rel=1e-6)
        assert found.cosine == pytest.approx(1.0)

    @given(pairs("float32"), st.integers(-30, 30))
    def test_scaling_both_changes_no_ratio(self, pair: tuple[RawTensor, RawTensor], power: int) -> None:
        scaled = [RawTensor.of(np.asarray(np.ldexp(side.values, power))) for side in pair]
        one, other = difference(*pair), difference(*scaled)
        assert one.relative_max == other.relative_max
        assert one.relative_l2 == pytest.approx(other.relative_l2, rel=1e-12)

    def test_opposite(self) -> None:
        found = measure([1.0, -2.0], [-1.0, 2.0])
        assert found.cosine == pytest.approx(-1.0)
        assert found.relative_l2 == pytest.approx(2.0)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_reference_of_zeros(self, dtype: DType) -> None:
        found = measure([0.0, 1.0], [0.0, 0.0], dtype)
        assert (found.relative_l2, found.relative_max, found.max_abs) == (math.inf, math.inf, 1.0)
        assert math.isnan(found.cosine)
        found = measure([0.0, -0.0], [0.0, 0.0], dtype)
        assert (found.relative_l2, found.relative_max, found.mean_ulp) == (0.0, 0.0, 0.0)

    @pytest.mark.parametrize("value", [1e-160, 1e-200, 1e200, 1.7e308])
    def test_ends_of_float64(self, value: float) -> None:
        """Squares of these vanish or overflow: the greatest error still tells them apart."""
        found = measure([value, value], [value, -value], "float64")
        assert found.relative_max >= 2


class TestUnitsOfTheLastPlace:
    @pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
    @given(data=st.data())
    def test_next_number_is_one_away(self, dtype: str, data: st.DataObject) -> None:
        width = 8 * np.dtype(dtype).itemsize
        largest = float(np.finfo(dtype).max) / 2
        elements = st.floats(-largest, largest, width=width)  # type: ignore[arg-type]
        values = data.draw(hnp.arrays(dtype, st.integers(1, 5), elements=elements))
        up = np.nextafter(values, np.array(np.inf, dtype=dtype), dtype=dtype)
        assert difference(RawTensor.of(up), RawTensor.of(values)).mean_ulp == 1
        assert difference(RawTensor.of(values), RawTensor.of(up)).mean_ulp == 1

    @given(st.integers(-0x7F7E, 0x7F7E))
    def test_next_bfloat16_is_one_away(self, place: int) -> None:
        def word(place: int) -> int:
            return place if place >= 0 else 0x8000 | -place

        left, right = (
            RawTensor(dtype="bfloat16", shape=(1,), data=np.array([word(at)], dtype=np.uint16))
            for at in (place, place + 1)
        )
        assert left.values[0] < right.values[0]
        assert difference(left, right).mean_ulp == 1

    def test_bfloat16_after_one(self) -> None:
        assert measure([1.0078125, 1.0], [1.0, 1.0], "bfloat16").mean_ulp == 0.5

    @pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
    def test_across_zero(self, dtype: str) -> None:
        tiny = np.nextafter(np.zeros(1, dtype=dtype), np.ones(1, dtype=dtype))
        assert difference(RawTensor.of(tiny), RawTensor.of(-tiny)).mean_ulp == 2
        assert difference(RawTensor.of(-tiny), RawTensor.of(0 * tiny)).mean_ulp == 1
        assert difference(RawTensor.of(-0.0 * tiny), RawTensor.of(0 * tiny)).mean_ulp == 0

    def test_ends_of_float64(self) -> None:
        top = np.array([np.finfo(np.float64).max])
        ulp = difference(RawTensor.of(top / 2), RawTensor.of(-top / 2)).mean_ulp
        assert ulp == pytest.approx(2.0 * 0x7FDF_FFFF_FFFF_FFFF)

    def test_mean_over_all_elements(self) -> None:
        reference = np.ones(4, dtype=np.float32)
        candidate = reference.copy()
        candidate[1] += np.spacing(reference[1]) * 6
        assert difference(RawTensor.of(candidate), RawTensor.of(reference)).mean_ulp == 1.5

    def test_different_dtypes_have_no_common_unit(self) -> None:
        values = np.array([1.0, 2.5])
        found = difference(rounded(values, "bfloat16"), rounded(values, "float32"))
        assert math.isnan(found.mean_ulp)
        assert (found.relative_l2, found.max_abs) == (0.0, 0.0)


class TestNotFinite:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_on_one_side(self, dtype: DType, value: float) -> None:
        bad, good = np.ones((2, 3)), np.ones((2, 3))
        bad[1, 1:] = value
        found = measure(bad, good, dtype)
        assert not found.finite
        assert (found.non_finite_candidate, found.non_finite_reference) == (2, 0)
        assert found.index == (1, 1)
        found = measure(good, bad, dtype)
        assert (found.non_finite_candidate, found.non_finite_reference) == (0, 2)

    def test_no_distance_means_anything(self) -> None:
        found = measure([np.nan, 1.0], [1.0, 1.0])
        names = {field.name for field in fields(found)}
        for name in names - {"size", "non_finite_candidate", "non_finite_reference", "index"}:
            assert math.isnan(getattr(found, name)), name

    def test_same_on_both_sides(self) -> None:
        found = measure([1.0, np.inf], [1.0, np.inf])
        assert not found.finite
        assert (found.non_finite_candidate, found.non_finite_reference, found.index) == (1, 1, (1,))

    def test_first_of_both_sides(self) -> None:
        assert measure([1.0, 1.0, np.nan], [1.0, np.nan, 1.0]).index == (1,)


class TestTensors:
    @pytest.mark.parametrize(
        ("left", "right"), [((2, 3), (3, 2)), ((6,), (2, 3)), ((0,), (0,)), ((2, 0), (2, 0))]
    )
    def test_shapes_that_cannot_be_compared(self, left: tuple[int, ...], right: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="cannot compare shape"):
            measure(np.zeros(left), np.zeros(right))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_read_from_a_file(self, tmp_path: Path, dtype: DType) -> None:
        values = np.linspace(-1, 1, 24).reshape(2, 3, 4)
        with TensorWriter(tmp_path / "a.safetensors") as writer:
            writer.add("a", rounded(values, dtype))
            writer.add("b", rounded(values * 2, dtype))
        file = TensorFile(tmp_path / "a.safetensors")
        found = difference(file.read("b"), file.read("a"))
        assert found.relative_l2 == 1.0
        assert found == measure(values * 2, values, dtype)

    def test_not_contiguous(self) -> None:
        values = np.arange(12, dtype=np.float32).reshape(3, 4)
        turned = replace(RawTensor.of(values.T.copy()), data=values.T)
        assert difference(turned, RawTensor.of(values.T + 1)).max_abs == 1.0
