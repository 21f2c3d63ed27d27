"""How far two tensors are apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from harness.trace.tensors import RawTensor

#: Bits of each float format, and the integer that orders them.
_INTEGER: dict[str, type[np.signedinteger[Any]]] = {
    "float64": np.int64,
    "float32": np.int32,
    "bfloat16": np.int16,
    "float16": np.int16,
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of a candidate from a reference of the same shape.

    ``relative_l2`` is ``|c - r| / |r|`` over all elements and ``relative_max`` is ``max|c - r| / max|r|``;
    both are infinite where the reference is zero and the candidate is not. ``cosine`` is NaN where either
    is zero. ``mean_ulp`` is the mean distance in units of the last place of the coarser dtype, NaN where
    the dtypes differ. ``index`` is where the absolute error is greatest. With any element not finite, on
    either side, no distance means anything: all are NaN, and ``index`` is the first such element.
    """

    size: int
    non_finite_candidate: int
    non_finite_reference: int
    max_abs: float
    relative_l2: float
    relative_max: float
    cosine: float
    mean_ulp: float
    index: tuple[int, ...]

    @property
    def finite(self) -> bool:
        """Whether every element of both tensors is a finite number."""
        return not self.non_finite_candidate and not self.non_finite_reference


def difference(candidate: RawTensor, reference: RawTensor) -> Difference:
    """Measure ``candidate`` against ``reference``; sums are taken in float64.

    Raises:
        ValueError: the shapes differ, or there are no elements.
    """
    if candidate.shape != reference.shape or not math.prod(reference.shape):
        msg = f"cannot compare shape {candidate.shape} with {reference.shape}"
        raise ValueError(msg)
    found, expected = candidate.values, reference.values
    bad_found, bad_expected = ~np.isfinite(found), ~np.isfinite(expected)
    bad = bad_found | bad_expected
    if bad.any():
        return Difference(
            size=found.size,
            non_finite_candidate=int(np.count_nonzero(bad_found)),
            non_finite_reference=int(np.count_nonzero(bad_expected)),
            max_abs=math.nan,
            relative_l2=math.nan,
            relative_max=math.nan,
            cosine=math.nan,
            mean_ulp=math.nan,
            index=_index(int(np.argmax(bad)), reference.shape),
        )
    left, right = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    # Only float64 near its ends can overflow here; the ratios are then infinite or NaN, and nobody's pass.
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(left - right)
        worst = int(np.argmax(error))
        norm, largest = float(np.linalg.norm(right)), float(np.max(np.abs(right)))
        other, distance, inner = (
            float(np.linalg.norm(left)),
            float(np.linalg.norm(error)),
            float(left @ right),
        )
    return Difference(
        size=found.size,
        non_finite_candidate=0,
        non_finite_reference=0,
        max_abs=float(error[worst]),
        relative_l2=_ratio(distance, norm),
        relative_max=_ratio(float(error[worst]), largest),
        cosine=inner / norm / other if norm and other else math.nan,
        mean_ulp=_mean_ulp(candidate, reference),
        index=_index(worst, reference.shape),
    )


def _ratio(error: float, scale: float) -> float:
    if scale:
        return error / scale
    return math.inf if error else 0.0


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.unravel_index(flat, shape))


def _mean_ulp(candidate: RawTensor, reference: RawTensor) -> float:
    if candidate.dtype != reference.dtype:
        return math.nan
    left, right = _ordered(candidate), _ordered(reference)
    apart = (left - right).astype(np.float64)
    if candidate.dtype == "float64":
        # Numbers of unlike sign may be further apart than an integer holds.
        apart = np.where((left < 0) == (right < 0), apart, left.astype(np.float64) - right)
    return float(np.mean(np.abs(apart)))


def _ordered(tensor: RawTensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    # Sign and magnitude to two's complement: neighbours in value are then neighbours as integers.
    words = np.ascontiguousarray(tensor.data).view(_INTEGER[tensor.dtype]).astype(np.int64)
    lowest = np.int64(np.iinfo(_INTEGER[tensor.dtype]).min)
    return np.where(words < 0, lowest - words, words)
