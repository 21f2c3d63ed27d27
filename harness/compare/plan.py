"""The checks to be made, derived before anything runs: from the Case, the checkpoint and the clips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.compare.normalise import is_unspaced
from harness.compare.result import CheckResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.cases.case import Case, Configs
    from harness.compare.result import Kind, Status
    from harness.trace.schema import ClipEntry

LOGITS = "lm.logits"
FEATURES = "features.mel"
LIBROSA = "librosa"
UNMAPPED = "parameters.unmapped"
TRANSCRIPTS = "transcripts"
#: Of a leg's load audit, beside its parameters: those without a canonical name, and the checkpoint's side.
OTHERS = "parameters.others"
CONSUMED, ONCE = "checkpoint.consumed", "checkpoint.once"
EXPECTED, FINITE = "checkpoint.expected", "checkpoint.finite"
#: Rates over all clips of a pair: the change of each leg's rate against the truth, and the rate of the
#: candidate leg's transcripts against the reference leg's.
RATES = ("wer", "cer", "wer.between", "cer.between")
UNTRAINED = "reported, not gated: the checkpoint is untrained"


@dataclass(frozen=True, kw_only=True)
class PlannedCheck:
    """A check that must get a result. ``unsupported`` is the reason where it is known to have none."""

    id: str
    kind: Kind
    pair: str
    subject: str
    clip: str | None = None
    unsupported: str | None = None

    def result(
        self,
        status: Status,
        message: str = "",
        *,
        metric: str = "",
        measured: float | None = None,
        allowed: float | None = None,
        where: str = "",
    ) -> CheckResult:
        """What became of this check. A ``measured`` that is not finite is left to the message."""
        return CheckResult(
            id=self.id,
            kind=self.kind,
            pair=self.pair,
            subject=self.subject,
            clip=self.clip,
            status=status,
            metric=metric,
            measured=measured if measured is not None and math.isfinite(measured) else None,
            allowed=allowed,
            where=where,
            message=message,
        )


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What a plan is derived from; the same for every leg of a run."""

    case: Case
    configs: Configs
    clips: tuple[ClipEntry, ...]
    trained: bool


def pair_name(candidate: str, reference: str) -> str:
    """``vllm_cpu-vs-hf_cpu``: both as :attr:`LegName.identifier`."""
    return f"{candidate}-vs-{reference}"


def plan_audit(scope: Scope, *, leg: str) -> tuple[PlannedCheck, ...]:
    """The checks of one leg's loading: that it ran, every parameter, and the checkpoint's side."""
    case = scope.case
    names = [parameter.name for parameter in case.parameters(scope.configs)]
    return (
        PlannedCheck(id=f"{case.name}-leg-{leg}", kind="leg", pair=leg, subject="leg"),
        *(
            PlannedCheck(id=f"{case.name}-audit-{name}-{leg}", kind="audit", pair=leg, subject=name)
            for name in (*names, OTHERS, CONSUMED, ONCE, EXPECTED, FINITE)
        ),
    )


def plan_twin(scope: Scope, *, leg: str) -> tuple[PlannedCheck, ...]:
    """The checks of a leg against itself over another fill: nothing may differ in any bit."""
    case = scope.case
    subjects = [*(parameter.name for parameter in case.parameters(scope.configs)), OTHERS]
    if scope.clips:
        subjects += [probe.name for probe in case.probes(scope.configs)]
        subjects.append(TRANSCRIPTS)
    return tuple(
        PlannedCheck(id=f"{case.name}-poison-{subject}-{leg}", kind="poison", pair=leg, subject=subject)
        for subject in subjects
    )


def plan_leg(scope: Scope, *, leg: str) -> tuple[PlannedCheck, ...]:
    """The checks of one leg by itself: that it ran, its load audit, and its features against librosa's."""
    case = scope.case.name
    pair = pair_name(leg, LIBROSA)
    return (
        *plan_audit(scope, leg=leg),
        *(
            PlannedCheck(
                id=f"{case}-{clip.id}-{FEATURES}-{pair}",
                kind="features",
                pair=pair,
                subject=FEATURES,
                clip=clip.id,
                unsupported=clip.unsupported,
            )
            for clip in scope.clips
        ),
    )


def plan_pair(scope: Scope, *, candidate: str, reference: str) -> tuple[PlannedCheck, ...]:
    """The checks of a candidate leg against a reference leg, from cheap to dear."""
    case, pair = scope.case, pair_name(candidate, reference)
    names = [parameter.name for parameter in case.parameters(scope.configs)]
    checks = [
        PlannedCheck(id=f"{case.name}-{name}-{pair}", kind="parameter", pair=pair, subject=name)
        for name in (*names, UNMAPPED)
    ]
    checks += [
        PlannedCheck(
            id=f"{case.name}-{clip.id}-{probe.name}-{pair}",
            kind="logits" if probe.name == LOGITS else "activation",
            pair=pair,
            subject=probe.name,
            clip=clip.id,
            unsupported=clip.unsupported,
        )
        for clip in scope.clips
        for probe in case.probes(scope.configs)
    ]
    checks += [
        PlannedCheck(
            id=f"{case.name}-{rate}-{pair}",
            kind="transcript",
            pair=pair,
            subject=rate,
            unsupported=_ungated(scope, rate),
        )
        for rate in RATES
    ]
    return tuple(checks)


def plan_run(
    scope: Scope, *, reference: str, candidates: Sequence[str], twins: Sequence[str] = ()
) -> tuple[PlannedCheck, ...]:
    """Every check of a run: each leg once, each twin with its leg, each candidate against the reference.

    ``twins`` are the legs that run twice, over two fills.
    """
    checks = [check for leg in (reference, *candidates) for check in plan_leg(scope, leg=leg)]
    checks += [check for leg in twins for check in plan_twin(scope, leg=leg)]
    for candidate in candidates:
        checks += plan_pair(scope, candidate=candidate, reference=reference)
    return tuple(checks)


def _ungated(scope: Scope, rate: str) -> str | None:
    if not scope.trained:
        return UNTRAINED
    unit, _, between = rate.partition(".")
    known = [
        clip for clip in scope.clips if clip.unsupported is None and (between or clip.transcript is not None)
    ]
    if not known:
        return "no clip has a transcript to measure against"
    if unit == "wer" and all(is_unspaced(clip.language) for clip in known):
        return "no clip with a transcript is in a language that is scored by word"
    return None
