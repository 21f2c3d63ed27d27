"""From check results to one outcome: green is only what was compared and passed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from harness.compare.parameters import BITWISE
from harness.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.compare.result import CheckResult, Kind, LegReport, Outcome, Status
    from harness.trace.schema import Work

EXIT_CODES: dict[Outcome, ExitCode] = {
    "pass": ExitCode.PASS,
    "fail": ExitCode.FAIL,
    "incomplete": ExitCode.INCOMPLETE,
}
#: A run is no comparison unless each of these kinds has at least one check that passed or failed.
_ESSENTIAL: dict[Work, dict[Kind, str]] = {
    "run": {"parameter": "parameters", "activation": "activations", "logits": "logits"},
    "audit": {"audit": "load audit"},
}


def count(checks: Sequence[CheckResult]) -> dict[Status, int]:
    """Return how many checks ended in each status, every status named."""
    found = Counter(check.status for check in checks)
    statuses: tuple[Status, ...] = ("pass", "fail", "missing", "unsupported", "error")
    return {status: found[status] for status in statuses}


def not_compared(checks: Sequence[CheckResult], *, work: Work = "run") -> list[str]:
    """The kinds of comparison that looked at nothing, in any pair that was compared at all."""
    essential = _ESSENTIAL[work]
    looked: dict[str, set[Kind]] = {}
    for check in checks:
        if check.status in {"pass", "fail"} and check.kind in essential:
            kinds = looked.setdefault(check.pair, set())
            # That zeros are zero says nothing of the weights.
            if check.kind != "parameter" or check.metric in BITWISE:
                kinds.add(check.kind)
    return [
        name
        for kind, name in essential.items()
        if not looked or any(kind not in found for found in looked.values())
    ]


def outcome(checks: Sequence[CheckResult], *, work: Work = "run") -> Outcome:
    """Return ``fail`` if anything failed, ``pass`` only if all kinds were compared and nothing is open."""
    counts = count(checks)
    if counts["fail"]:
        return "fail"
    if counts["missing"] or counts["error"] or not_compared(checks, work=work):
        return "incomplete"
    return "pass"


def verdict(
    checks: Sequence[CheckResult],
    *,
    legs: Sequence[LegReport],
    diagnosis: str,
    work: Work = "run",
) -> str:
    """One sentence: what was compared and how it ended, the cause first where it is red."""
    counts = count(checks)
    candidates = [leg.name for leg in legs if leg.role == "candidate" and leg.status == "captured"]
    reference = next((leg.name for leg in legs if leg.role == "reference"), "the reference")
    if counts["fail"]:
        return f"{counts['fail']} of {len(checks)} checks failed: {diagnosis}"
    for leg in legs:
        if leg.status == "error":
            return f"leg {leg.name} did not finish: {leg.reason}"
    for leg in legs:
        if leg.status == "unavailable" and leg.required:
            return f"required leg {leg.name} did not run: {leg.reason}"
    if nothing := not_compared(checks, work=work):
        reasons = [f"{leg.name} did not run: {leg.reason}" for leg in legs if leg.status == "unavailable"]
        why = reasons or [
            check.message
            for check in checks
            if check.message
            and check.status not in {"pass", "fail"}
            and _ESSENTIAL[work].get(check.kind) in nothing
        ]
        return f"no {', '.join(nothing)} compared" + (f": {why[0]}" if why else "")
    if counts["missing"] or counts["error"]:
        first = next(check for check in checks if check.status in {"missing", "error"})
        return (
            f"{counts['missing'] + counts['error']} of {len(checks)} checks have no result: {first.message}"
        )
    if work == "audit":
        names = ", ".join(leg.name for leg in legs if leg.status == "captured" and leg.role != "twin")
        return f"{names} loaded every element from the checkpoint: {counts['pass']} checks passed"
    agree = "agrees" if len(candidates) == 1 else "agree"
    compared = {check.pair for check in checks if check.status == "pass"}
    ungated = sum(check.status == "unsupported" and check.pair in compared for check in checks)
    return (
        f"{', '.join(candidates)} {agree} with {reference}: {counts['pass']} checks passed"
        + (f", {ungated} not gated or not supported" if ungated else "")
        + "".join(
            f"; {leg.name}, not required, did not run: {leg.reason}"
            for leg in legs
            if leg.status == "unavailable"
        )
    )
