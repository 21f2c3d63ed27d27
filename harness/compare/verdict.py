"""From check results to one outcome: green is only what was compared and passed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from harness.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.compare.result import CheckResult, Outcome, Status

EXIT_CODES: dict[Outcome, ExitCode] = {
    "pass": ExitCode.PASS,
    "fail": ExitCode.FAIL,
    "incomplete": ExitCode.INCOMPLETE,
}


def count(checks: Iterable[CheckResult]) -> dict[Status, int]:
    """Return how many checks ended in each status, every status named."""
    found = Counter(check.status for check in checks)
    statuses: tuple[Status, ...] = ("pass", "fail", "missing", "unsupported", "error")
    return {status: found[status] for status in statuses}


def outcome(counts: dict[Status, int]) -> Outcome:
    """Return ``fail`` if anything failed, ``pass`` only if something passed and nothing is open."""
    if counts["fail"]:
        return "fail"
    if counts["missing"] or counts["error"] or not counts["pass"]:
        return "incomplete"
    return "pass"
