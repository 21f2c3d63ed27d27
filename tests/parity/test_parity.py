"""The parity suite: one test per planned check, on the real backends. ``pytest -k glm_asr`` runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.pytest_plugin import assert_check

if TYPE_CHECKING:
    from harness.compare.plan import PlannedCheck
    from harness.compare.result import CheckResult, Report


def test_check(planned_check: PlannedCheck, parity_results: dict[str, CheckResult]) -> None:
    assert_check(planned_check, parity_results)


@pytest.mark.parametrize("case", ["glm_asr"])
def test_verdict(case: str, parity_report: Report) -> None:
    """Skips alone are no success: a run that compared nothing is not green."""
    assert parity_report.case == case
    assert parity_report.outcome == "pass", parity_report.verdict
