"""Parameter parity: bit for bit, and zero where the checkpoint has nothing. No tolerance.

A constant k bias cancels in the softmax on the half of each head that is not rotated, so that neither
activations nor WER can stand in for this check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.compare.plan import UNMAPPED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.cases.case import Parameter
    from harness.compare.plan import PlannedCheck
    from harness.compare.result import CheckResult
    from harness.trace import Trace
    from harness.trace.schema import ParameterRecord


def compare_parameters(
    checks: Iterable[PlannedCheck],
    *,
    parameters: Iterable[Parameter],
    candidate: Trace,
    reference: Trace,
) -> list[CheckResult]:
    """Compare every planned parameter, and demand that both legs have no other."""
    by_name = {parameter.name: parameter for parameter in parameters}
    pair = _Pair(candidate, reference)
    return [
        pair.unmapped(check) if check.subject == UNMAPPED else pair.compare(check, by_name[check.subject])
        for check in checks
    ]


#: What a bitwise comparison counts; the other checks of parameters look at no value of the checkpoint's.
BITWISE = ("elements that differ", "rows that differ")


class _Pair:
    """Two traces, and where in the reference each digest is found."""

    def __init__(self, candidate: Trace, reference: Trace) -> None:
        self._candidate = candidate
        self._reference = reference
        self._homes: dict[str, list[str]] = {}
        for record in reference.parameters.values():
            self._homes.setdefault(record.sha256, []).append(record.name)

    def unmapped(self, check: PlannedCheck) -> CheckResult:
        """No leg may have a parameter that the Case does not know: it would not be compared."""
        names = [
            f"{trace.manifest.leg}: {name}"
            for trace in (self._reference, self._candidate)
            for name in trace.unmapped_parameters
        ]
        metric, message = "parameters without a canonical name", ""
        if names:
            message = f"{len(names)} parameters are unknown to the case and were not compared: {names[0]}"
        return check.result(
            "fail" if names else "pass",
            message,
            metric=metric,
            measured=len(names),
            allowed=0,
            where=names[0] if names else "",
        )

    def compare(self, check: PlannedCheck, parameter: Parameter) -> CheckResult:
        """Compare one parameter."""
        ours = self._candidate.parameters.get(parameter.name)
        theirs = self._reference.parameters.get(parameter.name)
        for record, trace in ((ours, self._candidate), (theirs, self._reference)):
            if record is None:
                continue
            if record.non_finite:
                return self._not_finite(check, record, trace)
            if record.shape != parameter.shape:
                return check.result(
                    "fail",
                    f"{record.source} on {trace.manifest.leg} has shape {list(record.shape)}, "
                    f"the configuration makes it {list(parameter.shape)}",
                    where=record.source,
                )
        lacks = parameter.name in self._reference.manifest.checkpoint.lacks
        if lacks or (parameter.zero_if_absent and (ours is None or theirs is None)):
            return self._must_be_zero(check, parameter, lacks=lacks)
        if ours is None or theirs is None:
            sides = ((self._candidate, ours), (self._reference, theirs))
            legs = " and ".join(trace.manifest.leg for trace, record in sides if record is None)
            return check.result("missing", f"{parameter.name} is not on {legs}: nothing was compared")
        if ours.dtype != theirs.dtype:
            if self._candidate.manifest.dtype != self._reference.manifest.dtype:
                return check.result(
                    "unsupported",
                    f"legs of {self._candidate.manifest.dtype} and {self._reference.manifest.dtype} have no "
                    "bits to compare; capture the reference at the candidate's dtype",
                )
            return check.result(
                "fail", f"{ours.source} is {ours.dtype}, {theirs.source} of the reference {theirs.dtype}"
            )
        if ours.sha256 == theirs.sha256:
            return check.result("pass", metric=_metric(ours), measured=0, allowed=0)
        return self._different(check, ours, theirs)

    def _not_finite(self, check: PlannedCheck, record: ParameterRecord, trace: Trace) -> CheckResult:
        values = trace.parameter_values(record.name)
        where = "" if values is None else _ranges(np.flatnonzero(~np.isfinite(values)))
        hint = _why_not_finite(record.name, trace)
        return check.result(
            "fail",
            f"{record.source} on {trace.manifest.leg}: {record.non_finite} of {_size(record)} elements are "
            f"NaN or Inf{f' at {where}' if where else ''}{hint}",
            metric="elements not finite",
            measured=record.non_finite,
            allowed=0,
            where=where,
        )

    def _must_be_zero(self, check: PlannedCheck, parameter: Parameter, *, lacks: bool) -> CheckResult:
        """Where there is nothing to load, a place for it must hold zeros, on whichever leg has one."""
        for has, other in ((self._candidate, self._reference), (self._reference, self._candidate)):
            record = has.parameters.get(parameter.name)
            if record is None or record.max_abs == 0:
                continue
            values = has.parameter_values(parameter.name)
            wrong = np.flatnonzero(values) if values is not None else np.arange(0)
            why = "the checkpoint" if lacks else other.manifest.leg
            return check.result(
                "fail",
                f"{record.source} on {has.manifest.leg}: {wrong.size} of {_size(record)} elements are not "
                f"zero, largest {record.max_abs:.3g}; {why} has no such parameter, so it must be zero",
                metric="elements not zero",
                measured=int(wrong.size),
                allowed=0,
                where=_ranges(wrong),
            )
        return check.result("pass", metric="elements not zero", measured=0, allowed=0)

    def _different(self, check: PlannedCheck, ours: ParameterRecord, theirs: ParameterRecord) -> CheckResult:
        name = ours.name
        elsewhere = [home for home in self._homes.get(ours.sha256, []) if home != name]
        hint = f"; it is, bit for bit, the reference's {elsewhere[0]}" if elsewhere else ""
        found, expected = self._candidate.parameter_values(name), self._reference.parameter_values(name)
        if found is not None and expected is not None:
            wrong = np.flatnonzero(found.view(_word(found)) != expected.view(_word(expected)))
            worst = int(wrong[np.argmax(np.abs(found[wrong].astype(float) - expected[wrong].astype(float)))])
            detail = f", worst at [{worst}]: {found[worst]:.6g} instead of {expected[worst]:.6g}"
        else:
            rows, reference_rows = self._candidate.row_digests(name), self._reference.row_digests(name)
            wrong = (
                np.flatnonzero(rows != reference_rows)
                if rows is not None and reference_rows is not None
                else np.arange(ours.shape[0])
            )
            detail = f" at {_ranges(wrong)}"
        unit = _metric(ours).split()[0]
        return check.result(
            "fail",
            f"{ours.source} on {self._candidate.manifest.leg}: {wrong.size} of {ours.shape[0]} {unit} differ "
            f"from {theirs.source} on {self._reference.manifest.leg}{detail}{hint}",
            metric=_metric(ours),
            measured=int(wrong.size),
            allowed=0,
            where=_ranges(wrong),
        )


def _why_not_finite(name: str, trace: Trace) -> str:
    """Poison and the checkpoint's own NaN look alike; the load audit tells them apart."""
    audit = trace.audit
    shards = [shard for shard in audit.shards if shard.name == name]
    if any(shard.uninitialised for shard in shards):
        return "; its loader never wrote them (see the load audit)"
    sources = {source for shard in shards for source in shard.sources}
    if any(tensor.non_finite for tensor in audit.tensors if tensor.name in sources):
        return "; the checkpoint itself holds them"
    return ""


def _metric(record: ParameterRecord) -> str:
    return BITWISE[0] if len(record.shape) == 1 else BITWISE[1]


def _word(values: np.ndarray[Any, np.dtype[Any]]) -> str:
    return f"u{values.dtype.itemsize}"


def _size(record: ParameterRecord) -> int:
    size = 1
    for axis in record.shape:
        size *= axis
    return size


def _ranges(indices: np.ndarray[Any, np.dtype[Any]], *, most: int = 3) -> str:
    """Write indices as half-open ranges: ``[64:128]``, the first few of them."""
    if not indices.size:
        return ""
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    text = ", ".join(f"[{run[0]}:{run[-1] + 1}]" for run in runs[:most])
    return text + (f" and {len(runs) - most} more ranges" if len(runs) > most else "")
