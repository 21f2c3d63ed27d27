"""Dual poison: a leg over two fills of uninitialised memory; what differs in any bit depended on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.compare.plan import TRANSCRIPTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harness.cases.case import Case
    from harness.compare.plan import PlannedCheck
    from harness.compare.result import CheckResult
    from harness.trace import Trace
    from harness.trace.schema import ParameterRecord
    from harness.trace.tensors import RawTensor


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
    same: dict[str, bool | None] = {}
    for clip in _clips(trace):
        one = trace.activation(clip=clip, probe=check.subject)
        other = twin.activation(clip=clip, probe=check.subject)
        same[clip] = None if one is None or other is None else _same(one, other)
    text = "{what} depends on memory that nobody wrote, in {number} of {of} clips"
    return _by_clip(check, same, what=check.subject, text=text)


def _transcripts(check: PlannedCheck, trace: Trace, twin: Trace) -> CheckResult:
    same: dict[str, bool | None] = {}
    for clip in _clips(trace):
        one, other = trace.transcripts.get(clip), twin.transcripts.get(clip)
        same[clip] = None if one is None or other is None else one.token_ids == other.token_ids
    text = "the tokens of {number} of {of} clips depend on memory that nobody wrote"
    return _by_clip(check, same, what="the transcript", text=text)


def _clips(trace: Trace) -> list[str]:
    return [clip.id for clip in trace.manifest.clips if clip.unsupported is None]


def _by_clip(check: PlannedCheck, same: Mapping[str, bool | None], *, what: str, text: str) -> CheckResult:
    """Judge by clip whether both are the same; ``None`` says that one was not recorded."""
    differ = [clip for clip, equal in same.items() if equal is False]
    lacking = [clip for clip, equal in same.items() if equal is None]
    # A difference is one, whatever else was not recorded.
    if not differ and (lacking or not same):
        return check.result("missing", f"{what} was not recorded for {lacking[0] if lacking else 'any clip'}")
    return check.result(
        "fail" if differ else "pass",
        text.format(what=what, number=len(differ), of=len(same)) if differ else "",
        metric="clips that differ",
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
