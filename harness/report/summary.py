"""What every renderer says alike: the order of things, the worst check of each kind, and numbers.

Strings from here are as the report holds them: each renderer escapes them its own way.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.compare.result import KINDS
from harness.compare.verdict import count
from harness.trace.schema import DECIDING_PACKAGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harness.compare.result import (
        CheckResult,
        ClipTranscript,
        Divergence,
        ErrorRate,
        Kind,
        LegReport,
        LegTranscripts,
        Report,
        Status,
    )

#: Shown where there is no number.
NONE = "\N{EN DASH}"
#: The statuses that keep a run from passing, worst first.
OPEN: tuple[Status, ...] = ("fail", "error", "missing")
SEVERITY: tuple[Status, ...] = ("unsupported", "pass", "missing", "error", "fail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The checks of one kind for one pair; ``worst`` is ``None`` where none could be made."""

    pair: str
    kind: Kind
    counts: dict[Status, int]
    worst: CheckResult | None


def number(value: float | None) -> str:
    """Return three significant digits, scientific where that is shorter: ``0.05``, ``6e+07``, ``inf``."""
    return NONE if value is None else f"{value:.3g}"


def percent(value: float | None) -> str:
    """Return a rate in percent."""
    return NONE if value is None else f"{value:.2%}"


def total(seconds: Mapping[str, float]) -> str:
    """Return the ``total`` of the stages' seconds, or their sum where no total was recorded."""
    return f"{seconds.get('total', math.fsum(seconds.values())):.1f}" if seconds else NONE


def rows(report: Report) -> list[Row]:
    """Return one row per pair and kind: pairs as the report first names them, kinds from cheap to dear.

    That a leg ran is no row here: every renderer has a table of legs.
    """
    groups: dict[tuple[str, Kind], list[CheckResult]] = {}
    for check in report.checks:
        if check.kind != "leg":
            groups.setdefault((check.pair, check.kind), []).append(check)
    return [
        Row(pair=pair, kind=kind, counts=count(groups[pair, kind]), worst=worst(groups[pair, kind]))
        for pair in pairs(report)
        for kind in KINDS
        if (pair, kind) in groups
    ]


def pairs(report: Report) -> list[str]:
    """Return the pairs in the order in which the report first names them."""
    return list(dict.fromkeys(check.pair for check in report.checks))


def pair_name(pair: str) -> str:
    """Return the pair's name, or ``run`` for the checks that concern no pair."""
    return pair or "run"


def worst(checks: Iterable[CheckResult]) -> CheckResult | None:
    """Return the check of the worst status with the greatest ``measured / allowed``; the first of equals."""
    return max((check for check in checks if check.status != "unsupported"), key=_badness, default=None)


def _badness(check: CheckResult) -> tuple[int, float, float]:
    # A check that is not green and has no number is worse than any number: NaN, another shape, no data.
    unknown = -math.inf if check.status == "pass" else math.inf
    severity = SEVERITY.index(check.status)
    if check.measured is None or check.allowed is None or check.allowed < 0:
        return severity, unknown, unknown if check.measured is None else check.measured
    if check.allowed == 0:
        return severity, math.inf if check.measured > 0 else 0.0, check.measured
    return severity, check.measured / check.allowed, check.measured


def counts_text(counts: Mapping[Status, int]) -> str:
    """Return the counts that are not zero: ``412 pass, 3 fail``."""
    return ", ".join(f"{number} {status}" for status, number in counts.items() if number) or "none"


def open_checks(report: Report) -> list[CheckResult]:
    """Return the checks that keep the run from passing: failing first, then from cheap to dear."""
    found = (check for check in report.checks if check.status in OPEN)
    return sorted(found, key=lambda check: (OPEN.index(check.status), KINDS.index(check.kind)))


def alike(checks: Iterable[CheckResult]) -> list[tuple[CheckResult, int]]:
    """Return the first check of each status and message, and how many there are: one cause, one line."""
    groups: dict[tuple[Status, str], list[CheckResult]] = {}
    for check in checks:
        groups.setdefault((check.status, check.message or check.id), []).append(check)
    return [(found[0], len(found)) for found in groups.values()]


def unsupported_reasons(report: Report) -> list[tuple[str, int]]:
    """Return each reason why checks were unsupported, with how many it stopped, most first."""
    reasons = Counter(
        check.message or "no reason given" for check in report.checks if check.status == "unsupported"
    )
    return reasons.most_common()


def check_name(check: CheckResult) -> str:
    """Return what was compared, without the pair and kind that its row already names."""
    subject = check.subject or check.id
    return f"{subject}, {check.clip}" if check.clip else subject


def comparison(check: CheckResult) -> str:
    """Return the numbers of a check: ``max_abs 6e+07, allowed 0, at [12]``, or its message without any."""
    if check.status == "pass" and check.measured == 0:
        return "all exactly equal"
    if check.measured is None and check.allowed is None:
        return check.message or (f"at {check.where}" if check.where else "")
    parts = [f"{check.metric or 'measured'} {number(check.measured)}", f"allowed {number(check.allowed)}"]
    return ", ".join([*parts, f"at {check.where}"] if check.where else parts)


def run_line(report: Report) -> str:
    """Return what the run compared: case, checkpoint and dtype."""
    weights = "" if report.trained else " (untrained weights)"
    return f"{report.case}, checkpoint {report.checkpoint}{weights}, {report.dtype}"


def divergence(found: Divergence) -> str:
    """Return the first divergence as one line."""
    return f"{found.probe} on {len(found.clips)} of {found.of_clips} clips, {found.pair}: {found.message}"


def device(leg: LegReport) -> str:
    """Return the device, attention implementation and loader state of a leg, as far as they are known."""
    name = leg.environment.device_name if leg.environment else leg.backend.rpartition("-")[2]
    loader = "" if leg.loader == "installed" else f"loader {leg.loader}"
    return ", ".join(part for part in (name, leg.attention, loader) if part)


def versions(leg: LegReport) -> dict[str, str]:
    """Return the versions that decide what the leg computes; empty where it did not run."""
    packages = leg.environment.packages if leg.environment else {}
    return {name: packages[name] for name in DECIDING_PACKAGES if name in packages}


def versions_text(leg: LegReport) -> str:
    """Return the versions as one line: ``torch 2.9.0, transformers 5.0.0``."""
    return ", ".join(f"{name} {version}" for name, version in versions(leg).items()) or NONE


def rates(transcripts: LegTranscripts) -> tuple[str, str]:
    """Return WER and CER over all clips together, each with its errors and length."""
    words = [clip.words for clip in transcripts.clips]
    characters = [clip.characters for clip in transcripts.clips]
    return _rate(transcripts.wer, words), _rate(transcripts.cer, characters)


def _rate(value: float | None, counts: Sequence[ErrorRate | None]) -> str:
    known = [count for count in counts if count is not None]
    errors, length = sum(count.errors for count in known), sum(count.length for count in known)
    return NONE if value is None else f"{percent(value)} ({errors}/{length})"


def scored(report: Report) -> dict[str, LegTranscripts]:
    """Return each leg against the truth, then each pair: what one leg heard against what the other did."""
    return {**report.transcripts, **report.between}


def rates_heading(report: Report) -> str:
    """Return the heading of the table of rates, which says when they mean nothing."""
    meaning = "" if report.trained else " (untrained: no measure of quality)"
    return f"WER and CER: legs against the truth, pairs against each other{meaning}"


def clips_by_id(report: Report) -> dict[str, dict[str, ClipTranscript]]:
    """Return, for each clip, what each leg made of it."""
    found: dict[str, dict[str, ClipTranscript]] = {}
    for leg, transcripts in report.transcripts.items():
        for clip in transcripts.clips:
            found.setdefault(clip.id, {})[leg] = clip
    return found
