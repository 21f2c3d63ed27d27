"""Dual poison: a leg over two fills of uninitialised memory; what differs in any bit depended on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.compare.plan import TRANSCRIPTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.cases.case import Case
    from harness.compare.plan import PlannedCheck
    from harness.compare.result import CheckResult
    from harness.trace import Trace
    from harness.trace.schema import ParameterRecord
    from harness.trace.tensors import RawTensor

_METRIC = "clips that differ"


def compare_poison(
    checks: Iterable[PlannedCheck], *, trace: Trace, twin: Trace, case: Case
) -> list[CheckResult]:
    """Compare two traces of one leg bit for bit: ``trace`` over NaN, ``twin`` over the finite fill."""
    probes = {probe.name for probe in case.probes(trace.manifest.checkpoint.config)}
    results = []
    for check in checks:
        if check.subject == TRANSCRIPTS:
            results.append(_transcripts(check, trace, twin))
        elif check.subject in probes:
            results.append(_probe(check, trace, twin))
        else:
            results.append(_parameter(check, trace.parameters, twin.parameters))
    return results


def _parameter(
    check: PlannedCheck, ours: dict[str, ParameterRecord], theirs: dict[str, ParameterRecord]
) -> CheckResult:
    one, other = ours.get(check.subject), theirs.get(check.subject)
    if one is None or other is None:
        return check.result("missing", f"{check.subject} was not recorded: nothing was compared")
    same = one.sha256 == other.sha256
    return check.result(
        "pass" if same else "fail",
        "" if same else f"{one.source} depends on memory that nobody wrote: it differs between two fills",
        metric="parameters that differ",
        measured=0 if same else 1,
        allowed=0,
        where="" if same else one.source,
    )


def _probe(check: PlannedCheck, trace: Trace, twin: Trace) -> CheckResult:
    clips = [clip.id for clip in trace.manifest.clips if clip.unsupported is None]
    differ, lacking = [], []
    for clip in clips:
        one = trace.activation(clip=clip, probe=check.subject)
        other = twin.activation(clip=clip, probe=check.subject)
        if one is None or other is None:
            lacking.append(clip)
        elif not _same(one, other):
            differ.append(clip)
    if lacking or not clips:
        where = lacking[0] if lacking else "any clip"
        return check.result("missing", f"{check.subject} was not recorded for {where}")
    return check.result(
        "fail" if differ else "pass",
        f"{check.subject} depends on memory that nobody wrote, in {len(differ)} of {len(clips)} clips"
        if differ
        else "",
        metric=_METRIC,
        measured=len(differ),
        allowed=0,
        where=differ[0] if differ else "",
    )


def _same(one: RawTensor, other: RawTensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    # As words: NaN is unequal to itself.
    word = f"u{one.data.dtype.itemsize}"
    return bool(np.array_equal(one.data.view(word), other.data.view(word)))


def _transcripts(check: PlannedCheck, trace: Trace, twin: Trace) -> CheckResult:
    differ = [
        clip
        for clip, record in trace.transcripts.items()
        if clip not in twin.transcripts or record.token_ids != twin.transcripts[clip].token_ids
    ]
    if not trace.transcripts:
        return check.result("missing", "no clip has a transcript: nothing was compared")
    return check.result(
        "fail" if differ else "pass",
        f"the tokens of {len(differ)} of {len(trace.transcripts)} clips depend on memory that nobody wrote"
        if differ
        else "",
        metric=_METRIC,
        measured=len(differ),
        allowed=0,
        where=differ[0] if differ else "",
    )
