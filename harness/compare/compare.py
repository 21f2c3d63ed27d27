"""Two traces in, check results out; nothing is shown before they are known to be comparable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.compare.activations import compare_activations
from harness.compare.audit import compare_audit
from harness.compare.features import compare_features
from harness.compare.parameters import compare_parameters
from harness.compare.plan import plan_pair
from harness.compare.transcripts import compare_transcripts
from harness.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.compare.features import LibrosaFeatures
    from harness.compare.plan import PlannedCheck, Scope
    from harness.compare.result import CheckResult
    from harness.compare.tolerance import Tolerances
    from harness.trace import Manifest, Trace


def check_comparable(candidate: Manifest, reference: Manifest) -> None:
    """Refuse traces that did not do the same work.

    Raises:
        TraceError: they differ in case, checkpoint, clips or prompt; names every field that differs.
    """
    for manifest in (candidate, reference):
        if manifest.work != "run":
            msg = (
                f"the trace of {manifest.leg} is of an audit alone: it has no activations to compare; "
                "capture the leg with 'harness capture'"
            )
            raise TraceError(msg)
    fields = {
        "case": (candidate.case, reference.case),
        "checkpoint.digest": (candidate.checkpoint.digest, reference.checkpoint.digest),
        "clips": (_other_clips(candidate, reference), _other_clips(reference, candidate)),
        "transcripts": (_other_truths(candidate, reference), _other_truths(reference, candidate)),
        "prompt_token_ids": (candidate.prompt_token_ids, reference.prompt_token_ids),
        "stop_token_ids": (candidate.stop_token_ids, reference.stop_token_ids),
        "max_new_tokens": (candidate.max_new_tokens, reference.max_new_tokens),
    }
    different = [
        f"{name}: {_short(ours)} on {candidate.leg}, {_short(theirs)} on {reference.leg}"
        for name, (ours, theirs) in fields.items()
        if ours != theirs
    ]
    if different:
        msg = f"these traces cannot be compared, they differ in {'; '.join(different)}"
        raise TraceError(msg)


def _other_clips(trace: Manifest, other: Manifest) -> str:
    """The clips that another trace has not, or has with other samples."""
    known = {(clip.id, clip.sha256) for clip in other.clips}
    return ", ".join(
        f"{clip.id} {clip.sha256}" for clip in trace.clips if (clip.id, clip.sha256) not in known
    )


def _other_truths(trace: Manifest, other: Manifest) -> str:
    """The clips that another trace has too, but measures against another transcript."""
    known = {clip.id: (clip.language, clip.transcript) for clip in other.clips}
    return ", ".join(
        f"{clip.id} ({clip.language}): {clip.transcript!r}"
        for clip in trace.clips
        if clip.id in known and known[clip.id] != (clip.language, clip.transcript)
    )


def _short(value: object) -> str:
    text = str(value) or "no other"
    return text if len(text) <= 80 else f"{text[:77]}…"


def compare_pair(
    scope: Scope,
    *,
    names: tuple[str, str],
    candidate: Trace,
    reference: Trace,
    tolerances: Tolerances,
) -> list[CheckResult]:
    """Make every planned check of a pair; ``names`` are both legs' identifiers, candidate first.

    Raises:
        TraceError: the traces are not comparable.
    """
    check_comparable(candidate.manifest, reference.manifest)
    planned = plan_pair(scope, candidate=names[0], reference=names[1])

    def of(*kinds: str) -> list[PlannedCheck]:
        return [check for check in planned if check.kind in kinds]

    parameters = scope.case.parameters(scope.configs)
    return [
        *compare_parameters(of("parameter"), parameters=parameters, candidate=candidate, reference=reference),
        *compare_activations(
            of("activation", "logits"), candidate=candidate, reference=reference, tolerances=tolerances
        ),
        *compare_transcripts(
            of("transcript"), candidate=candidate, reference=reference, tolerances=tolerances
        ),
    ]


def compare_loading(planned: Sequence[PlannedCheck], *, trace: Trace, scope: Scope) -> list[CheckResult]:
    """Make the checks of a leg's loading."""
    return [
        *(check.result("pass") for check in planned if check.kind == "leg"),
        *compare_audit(
            [check for check in planned if check.kind == "audit"],
            trace=trace,
            case=scope.case,
            configs=scope.configs,
        ),
    ]


def compare_leg(
    planned: Sequence[PlannedCheck],
    *,
    trace: Trace,
    scope: Scope,
    features: LibrosaFeatures,
    tolerances: Tolerances,
) -> list[CheckResult]:
    """Make the checks of one captured leg by itself."""
    return [
        *compare_loading(planned, trace=trace, scope=scope),
        *compare_features(
            [check for check in planned if check.kind == "features"],
            trace=trace,
            features=features,
            tolerances=tolerances,
        ),
    ]
