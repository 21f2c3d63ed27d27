"""Activations and first-token logits, probe by probe, and the place where they first part."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.compare.metrics import difference
from harness.compare.result import Divergence

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harness.cases.case import ProbePoint
    from harness.compare.plan import PlannedCheck
    from harness.compare.result import CheckResult
    from harness.compare.tolerance import TensorRule, Tolerances
    from harness.trace import Trace
    from harness.trace.schema import DType
    from harness.trace.tensors import RawTensor

_COARSENESS: Mapping[DType, int] = {"float64": 0, "float32": 1, "float16": 2, "bfloat16": 3}


def coarser_dtype(left: DType, right: DType) -> DType:
    """The dtype with the larger rounding: it sets the tolerance."""
    return max(left, right, key=_COARSENESS.__getitem__)


def compare_activations(
    checks: Iterable[PlannedCheck], *, candidate: Trace, reference: Trace, tolerances: Tolerances
) -> list[CheckResult]:
    """Compare every planned probe of every clip; each tensor is read once."""
    dtype = coarser_dtype(candidate.manifest.dtype, reference.manifest.dtype)
    results = []
    for check in checks:
        if check.unsupported is not None:
            results.append(check.result("unsupported", check.unsupported))
            continue
        clip = str(check.clip)
        results.append(
            judge_tensor(
                check,
                candidate=candidate.activation(clip=clip, probe=check.subject),
                reference=reference.activation(clip=clip, probe=check.subject),
                legs=(candidate.manifest.leg, reference.manifest.leg),
                rule=tolerances.for_probe(check.subject, dtype=dtype),
            )
        )
    return results


def judge_tensor(
    check: PlannedCheck,
    *,
    candidate: RawTensor | None,
    reference: RawTensor | None,
    legs: tuple[str, str],
    rule: TensorRule,
) -> CheckResult:
    """Judge one tensor: presence, then shape, then NaN and Inf, then distance."""
    if candidate is None or reference is None:
        lacking = [leg for leg, tensor in zip(legs, (candidate, reference), strict=True) if tensor is None]
        return check.result("missing", f"{check.subject} was not recorded on {' and '.join(lacking)}")
    if candidate.shape != reference.shape or not math.prod(candidate.shape):
        return check.result(
            "fail",
            f"{check.subject} has shape {list(candidate.shape)} on {legs[0]}, "
            f"{list(reference.shape)} on {legs[1]}",
        )
    found = difference(candidate, reference)
    if not found.finite:
        sides = [
            f"{count} of {found.size} elements on {leg}"
            for leg, count in zip(legs, (found.non_finite_candidate, found.non_finite_reference), strict=True)
            if count
        ]
        return check.result(
            "fail",
            f"{check.subject}: NaN or Inf in {' and '.join(sides)}, first at {list(found.index)}",
            metric="elements not finite",
            measured=max(found.non_finite_candidate, found.non_finite_reference),
            allowed=0,
            where=str(list(found.index)),
        )
    bounds = (
        ("relative L2", found.relative_l2, rule.relative_l2),
        ("relative max", found.relative_max, rule.relative_max),
    )
    metric, measured, allowed = max(bounds, key=lambda bound: _excess(bound[1], bound[2]))
    excess = _excess(measured, allowed)
    message = ""
    if excess > 1:
        message = (
            f"{check.subject}: {metric} {measured:.3g} on {legs[0]} against {legs[1]}, allowed {allowed:.3g} "
            f"(x{excess:.3g}); max abs {found.max_abs:.3g} at {list(found.index)}, "
            f"cosine {found.cosine:.6f}, mean {found.mean_ulp:.3g} ULP"
        )
    return check.result(
        "fail" if excess > 1 else "pass",
        message,
        metric=metric,
        measured=measured,
        allowed=allowed,
        where=str(list(found.index)),
    )


def _excess(measured: float, allowed: float) -> float:
    if math.isnan(measured):
        return math.inf
    if allowed:
        return measured / allowed
    return math.inf if measured else 0.0


def first_divergence(
    results: Iterable[CheckResult], *, probes: Sequence[ProbePoint], pair: str
) -> Divergence | None:
    """Find the earliest probe, in execution order, that fails while all its inputs pass.

    Clips may part at different probes: the earliest is named, with the clips that part there.
    """
    by_clip: dict[str, dict[str, CheckResult]] = {}
    for result in results:
        if result.pair == pair and result.kind in {"activation", "logits"} and result.clip is not None:
            by_clip.setdefault(result.clip, {})[result.subject] = result
    compared = {
        clip: found
        for clip, found in by_clip.items()
        if any(r.status in {"pass", "fail"} for r in found.values())
    }
    for probe in probes:
        parting = [
            (clip, found[probe.name])
            for clip, found in compared.items()
            if probe.name in found
            and found[probe.name].status == "fail"
            and all(name in found and found[name].status == "pass" for name in probe.inputs)
        ]
        if parting:
            worst = max((result for _, result in parting), key=_severity)
            return Divergence(
                pair=pair,
                probe=probe.name,
                clips=tuple(clip for clip, _ in parting),
                of_clips=len(compared),
                check=worst.id,
                message=worst.message,
            )
    return None


def _severity(result: CheckResult) -> float:
    if result.measured is None or result.allowed is None:
        return math.inf
    return _excess(result.measured, result.allowed)
