"""From captured legs to a report."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from harness import __version__
from harness.cases import get_case
from harness.compare.activations import first_divergence
from harness.compare.compare import compare_leg, compare_loading, compare_pair
from harness.compare.diagnosis import diagnose
from harness.compare.features import LibrosaFeatures
from harness.compare.plan import (
    PlannedCheck,
    Scope,
    pair_name,
    plan_audit,
    plan_leg,
    plan_pair,
    plan_twin,
)
from harness.compare.poison import compare_poison
from harness.compare.result import Report
from harness.compare.tolerance import load_tolerances
from harness.compare.transcripts import score_between, score_leg
from harness.compare.verdict import EXIT_CODES, count, outcome, verdict
from harness.errors import InputError
from harness.run.capture import CapturedLeg, captured_from
from harness.run.options import twin_name
from harness.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from harness.compare.result import CheckResult
    from harness.compare.tolerance import Tolerances
    from harness.trace.schema import CheckpointEntry, DType, Work


def judge(scope: Scope, *, legs: Sequence[CapturedLeg], tolerances: Tolerances) -> tuple[CheckResult, ...]:
    """Give every planned check a result. The reference is the first of ``legs``.

    Raises:
        TraceError: two traces are not comparable.
    """
    twins = {str(leg.name): leg for leg in legs if leg.report.role == "twin"}
    reference, *candidates = [leg for leg in legs if leg.report.role != "twin"]
    features = LibrosaFeatures(scope.case.feature_spec(scope.configs))
    checks: list[CheckResult] = []
    for leg in (reference, *candidates):
        planned = plan_leg(scope, leg=leg.name.identifier)
        checks += (
            _without(planned, leg)
            if leg.trace is None
            else compare_leg(planned, trace=leg.trace, scope=scope, features=features, tolerances=tolerances)
        )
    checks += judge_twins(scope, legs=(reference, *candidates), twins=twins)
    for leg in candidates:
        names = leg.name.identifier, reference.name.identifier
        if leg.trace is not None and reference.trace is not None:
            checks += compare_pair(
                scope,
                names=names,
                candidate=leg.trace,
                reference=reference.trace,
                tolerances=tolerances,
            )
        else:
            lacking = leg if leg.trace is None else reference
            checks += _without(plan_pair(scope, candidate=names[0], reference=names[1]), lacking)
    return tuple(checks)


def judge_loading(scope: Scope, *, legs: Sequence[CapturedLeg]) -> tuple[CheckResult, ...]:
    """Give every planned check of an audit a result: each leg's loading, and each twin's difference."""
    twins = {str(leg.name): leg for leg in legs if leg.report.role == "twin"}
    legs = [leg for leg in legs if leg.report.role != "twin"]
    checks: list[CheckResult] = []
    for leg in legs:
        planned = plan_audit(scope, leg=leg.name.identifier)
        checks += (
            _without(planned, leg)
            if leg.trace is None
            else compare_loading(planned, trace=leg.trace, scope=scope)
        )
    return (*checks, *judge_twins(scope, legs=legs, twins=twins))


def judge_twins(
    scope: Scope, *, legs: Sequence[CapturedLeg], twins: Mapping[str, CapturedLeg]
) -> list[CheckResult]:
    """Compare every leg that has a twin with it; ``twins`` is by the twin's name."""
    checks: list[CheckResult] = []
    for leg in legs:
        twin = twins.get(str(twin_name(leg.name)))
        if twin is None:
            continue
        planned = plan_twin(scope, leg=leg.name.identifier)
        if leg.trace is not None and twin.trace is not None:
            checks += compare_poison(planned, trace=leg.trace, twin=twin.trace, case=scope.case)
        else:
            checks += _without(planned, leg if leg.trace is None else twin)
    return checks


def _without(planned: Sequence[PlannedCheck], leg: CapturedLeg) -> list[CheckResult]:
    """What the checks of a leg without a trace end in: never in green, and as missing if it had to run."""
    report = leg.report
    if report.status == "error":
        message = f"leg {report.name} did not finish: {report.reason}"
        return [check.result("error" if check.kind == "leg" else "missing", message) for check in planned]
    need = "required, and " if report.required else ""
    message = f"leg {report.name} is {need}not available: {report.reason}"
    return [check.result("missing" if report.required else "unsupported", message) for check in planned]


def make_report(
    scope: Scope,
    *,
    legs: Sequence[CapturedLeg],
    checks: tuple[CheckResult, ...],
    dtype: DType,
    checkpoint: CheckpointEntry,
    command: tuple[str, ...],
    seconds: dict[str, float],
    work: Work = "run",
) -> Report:
    """Put results, legs and verdict together."""
    all_legs, legs = legs, [leg for leg in legs if leg.report.role != "twin"]
    pairs = [pair_name(leg.name.identifier, legs[0].name.identifier) for leg in legs[1:]]
    if work == "audit":
        pairs = []
    probes = scope.case.probes(scope.configs)
    divergences = {pair: first_divergence(checks, probes=probes, pair=pair) for pair in pairs}
    red = [pair for pair in pairs if any(check.pair == pair and check.status == "fail" for check in checks)]
    # One pair's story is told; a leg's own checks belong to every pair.
    others = {pair for pair in pairs if pair not in red[:1]}
    divergence = divergences[red[0]] if red else None
    diagnosis = diagnose([check for check in checks if check.pair not in others], divergence)
    if len(red) > 1:
        diagnosis += f"; also red: {', '.join(red[1:])}"
    reports = tuple(leg.report for leg in all_legs)
    result = outcome(checks, work=work)
    notes = []
    for leg in legs:
        state, changes = leg.report.loader, leg.report.loader_changes
        if state != "installed" and leg.trace is not None:
            notes.append(f"{leg.name} ran its loader {state}: {'; '.join(changes) or 'that changed nothing'}")
    if not scope.trained and work == "run":
        notes.append(
            "WER, CER and tokens are reported and not gated: the weights are random, their logits have near "
            "ties everywhere, and their transcripts mean nothing."
        )
    notes += [f"clip {clip.id}: {clip.unsupported}" for clip in scope.clips if clip.unsupported]
    return Report(
        harness=__version__,
        created=datetime.now(tz=UTC).isoformat(timespec="seconds"),
        command=command or tuple(sys.argv),
        work=work,
        case=scope.case.name,
        checkpoint=checkpoint.source,
        checkpoint_digest=checkpoint.digest,
        trained=checkpoint.trained,
        dtype=dtype,
        outcome=result,
        exit_code=EXIT_CODES[result],
        verdict=verdict(checks, legs=reports, diagnosis=diagnosis, work=work),
        diagnosis=diagnosis,
        notes=tuple(notes),
        first_divergence=divergence,
        legs=reports,
        clips=scope.clips,
        counts=count(checks),
        checks=checks,
        transcripts={
            leg.report.name: score_leg(leg.trace) for leg in legs if leg.trace is not None and work == "run"
        },
        between={
            pair: score_between(leg.trace, legs[0].trace)
            for pair, leg in zip(pairs, legs[1:], strict=work == "run")
            if leg.trace is not None and legs[0].trace is not None
        },
        seconds=seconds,
    )


def judge_traces(
    reference: Path, candidates: Sequence[Path], *, tolerances: Path | None, command: tuple[str, ...]
) -> Report:
    """Compare traces that are on disk already; needs no backend.

    Raises:
        InputError: a trace is not complete, was changed, or did other work than the reference.
    """
    rules = load_tolerances(tolerances)
    if reference.resolve() in (path.resolve() for path in candidates):
        msg = f"{reference} is compared with itself; give another trace"
        raise InputError(msg)
    started = time.monotonic()
    opened = [Trace(path) for path in (reference, *candidates)]
    names = [trace.manifest.leg for trace in opened]
    legs = [
        captured_from(
            trace,
            role="candidate" if index else "reference",
            # Two traces of one leg, as from two runs, still need names of their own.
            label=f"trace{index}" if names.index(trace.manifest.leg) < index else "",
        )
        for index, trace in enumerate(opened)
    ]
    manifest = opened[0].manifest
    scope = Scope(
        case=get_case(manifest.case),
        configs=manifest.checkpoint.config,
        clips=manifest.clips,
        trained=manifest.checkpoint.trained,
    )
    checks = judge(scope, legs=legs, tolerances=rules)
    return make_report(
        scope,
        legs=legs,
        checks=checks,
        dtype=manifest.dtype,
        checkpoint=manifest.checkpoint,
        command=command,
        seconds={"compare": time.monotonic() - started},
    )
