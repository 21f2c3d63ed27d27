"""Dual poison: a leg over two fills of uninitialised memory; what differs in any bit depended on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.compare.plan import OTHERS, TRANSCRIPTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harness.cases.case import Case, Stack
    from harness.compare.plan import PlannedCheck
    from harness.compare.result import CheckResult
    from harness.trace import Trace
    from harness.trace.schema import ParameterRecord
    from harness.trace.tensors import RawTensor


def compare_poison(
    checks: Iterable[PlannedCheck], *, trace: Trace, twin: Trace, case: Case
) -> list[CheckResult]:
    """Compare two traces of one leg bit for bit: ``trace`` over NaN, ``twin`` over the finite fill."""
    if problem := _no_twins(trace, twin):
        return [check.result("error", problem) for check in checks]
    weights = _weights(trace, case) | _weights(twin, case)
    probes = {probe.name for probe in case.probes(trace.manifest.checkpoint.config)}
    results = []
    for check in checks:
        if check.subject == TRANSCRIPTS:
            results.append(_transcripts(check, trace, twin))
        elif check.subject == OTHERS:
            results.append(_others(check, trace, twin))
        elif check.subject in probes:
            results.append(_probe(check, trace, twin))
        else:
            results.append(_parameter(check, trace.parameters, twin.parameters, weights=weights))
    return results


def _no_twins(trace: Trace, twin: Trace) -> str:
    """Why two traces cannot show what depends on the fill; what does would look the same on both."""
    ours, theirs = trace.manifest, twin.manifest
    if ours.fill == theirs.fill or trace.audit.fill_word == twin.audit.fill_word:
        return (
            f"{ours.leg} and {theirs.leg} ran over the same fill ({ours.fill}, word {trace.audit.fill_word}; "
            f"{theirs.fill}, word {twin.audit.fill_word}): dual poison needs two"
        )
    for name in ("dtype", "loader", "clips", "prompt_token_ids", "seed"):
        if getattr(ours, name) != getattr(theirs, name):
            return f"{ours.leg} and {theirs.leg} differ in {name}: dual poison needs the same leg twice"
    if ours.checkpoint.digest != theirs.checkpoint.digest:
        return f"{ours.leg} and {theirs.leg} loaded other checkpoints: dual poison needs the same leg twice"
    return ""


def _weights(trace: Trace, case: Case) -> dict[str, str]:
    """By the name of every recorded part of a quantised weight, that weight's."""
    stack: Stack = "hf" if trace.manifest.backend.startswith("hf") else "vllm"
    configs = trace.manifest.checkpoint.config
    return {
        part.name: part.of
        for record in trace.parameters.values()
        for part in case.parts(stack, record.source.partition("[")[0], configs)
        if part.name == record.name
    }


def _parameter(
    check: PlannedCheck,
    ours: dict[str, ParameterRecord],
    theirs: dict[str, ParameterRecord],
    *,
    weights: Mapping[str, str],
) -> CheckResult:
    # A quantised weight is its parts, which lie beside it.
    names = [name for name in {**ours, **theirs} if weights.get(name, name) == check.subject]
    lacking = [name for name in names if name not in ours or name not in theirs]
    if lacking or not names:
        name = lacking[0] if lacking else check.subject
        return check.result("missing", f"{name} was not recorded: nothing was compared")
    return _differing(
        check, [ours[name].source for name in names if ours[name].sha256 != theirs[name].sha256]
    )


def _others(check: PlannedCheck, trace: Trace, twin: Trace) -> CheckResult:
    ours, theirs = trace.other_parameters, twin.other_parameters
    return _differing(check, [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)])


def _differing(check: PlannedCheck, places: Sequence[str]) -> CheckResult:
    return check.result(
        "fail" if places else "pass",
        f"{places[0]} depends on memory that nobody wrote: it differs between two fills" if places else "",
        metric="parameters that differ",
        measured=len(places),
        allowed=0,
        where=places[0] if places else "",
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
