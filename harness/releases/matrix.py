"""What trying releases yields: a matrix of release and loader state, and its one outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from harness.compare.result import Outcome
from harness.compare.verdict import EXIT_CODES
from harness.errors import ExitCode
from harness.releases.bisection import FoundKind
from harness.releases.catalogue import Expected
from harness.trace.schema import DECIDING_PACKAGES, DType, LoaderState, Record, Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.compare.result import Report
    from harness.releases.bisection import Answer
    from harness.releases.catalogue import Catalogue, Release

CellOutcome = Literal["pass", "fail", "error"]
#: ``unexpected`` is a regression, or a release that ought to be red and is green; ``error`` says neither.
CellState = Literal["expected", "unexpected", "error"]
#: The kinds of check that name a parameter; what else is red follows from one.
_CAUSES = frozenset({"audit", "parameter"})


class Cell(Record):
    """One loader state of one release.

    ``red`` are the parameters whose checks failed, by canonical name, ``is_symptom`` whether they are those
    that the catalogue speaks of, all of them and no other; ``seconds`` is the wall time of the
    trial, also where it is ``cached``; ``report`` is the folder of its report below the matrix's own, empty
    where there is none.
    """

    release: str
    loader: LoaderState
    outcome: CellOutcome
    expected: Expected
    state: CellState
    verdict: str
    red: tuple[str, ...] = ()
    is_symptom: bool = False
    versions: dict[str, str] = Field(default_factory=dict)
    seconds: float = 0.0
    cached: bool = False
    report: str = ""


class Helper(Record):
    """What the upstream helper of a release gets right; no part of the outcome.

    ``wrong`` are the cases it gets wrong, each with its message; ``problem`` says why there was nothing to
    check.
    """

    signature: str = ""
    cases: int = 0
    wrong: dict[str, str] = Field(default_factory=dict)
    problem: str = ""
    cached: bool = False


class Row(Record):
    """One release; ``helper`` is ``None`` where it was not asked for."""

    release: str
    cells: tuple[Cell, ...]
    helper: Helper | None = None


class Bisection(Record):
    """Where good begins, and where the catalogue has it begin among the same releases."""

    kind: FoundKind
    last_bad: str | None
    first_good: str | None
    untestable: tuple[str, ...]
    tested: int
    expected_first_good: str | None
    answer: str


class Matrix(Record):
    """All that was tried. Written as ``releases.json``."""

    schema_version: Literal[1] = 1
    harness: str
    created: str
    command: tuple[str, ...]
    work: Work
    checkpoint: str
    checkpoint_digest: str
    dtype: DType
    first_fixed: str
    outcome: Outcome
    exit_code: ExitCode
    verdict: str
    rows: tuple[Row, ...]
    bisection: Bisection | None
    seconds: float

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, release by release."""
        return tuple(cell for row in self.rows for cell in row.cells)


def judge_report(
    report: Report,
    *,
    release: Release,
    loader: LoaderState,
    catalogue: Catalogue,
    seconds: float,
    cached: bool,
    folder: str,
) -> Cell:
    """Make a cell of a report: red is as expected only if nothing but the catalogue's symptom is."""
    if report.outcome == "incomplete":
        cell = error_cell(release, loader=loader, catalogue=catalogue, reason=report.verdict)
        return cell.model_copy(
            update={"versions": _versions(report, release), "seconds": seconds, "report": folder}
        )
    expected = catalogue.expectation(release.version, loader)
    red = tuple(
        dict.fromkeys(
            check.subject for check in report.checks if check.status == "fail" and check.kind in _CAUSES
        )
    )
    planned = {
        check.subject
        for check in report.checks
        if check.kind in _CAUSES and check.subject.endswith(catalogue.symptom)
    }
    is_symptom = bool(planned) and set(red) == planned
    as_expected = report.outcome == expected and (expected == "pass" or is_symptom)
    return Cell(
        release=release.version,
        loader=loader,
        outcome=report.outcome,
        expected=expected,
        state="expected" if as_expected else "unexpected",
        verdict=report.verdict,
        red=red,
        is_symptom=is_symptom,
        versions=_versions(report, release),
        seconds=seconds,
        cached=cached,
        report=folder,
    )


def error_cell(release: Release, *, loader: LoaderState, catalogue: Catalogue, reason: str) -> Cell:
    """Make the cell of what could not be tried: never green."""
    return Cell(
        release=release.version,
        loader=loader,
        outcome="error",
        expected=catalogue.expectation(release.version, loader),
        state="error",
        verdict=f"{reason} ({release.note})" if release.note else reason,
    )


def answer(cell: Cell) -> Answer:
    """What a cell says to a search; red for another reason says nothing of this bug."""
    if cell.outcome == "pass":
        return "good"
    return "bad" if cell.outcome == "fail" and cell.is_symptom else "error"


def _versions(report: Report, release: Release) -> dict[str, str]:
    for leg in report.legs:
        if leg.name == release.leg and leg.environment is not None:
            packages = leg.environment.packages
            return {name: packages[name] for name in DECIDING_PACKAGES if name in packages}
    return {}


def explain(cell: Cell) -> str:
    """Return what is not as expected with a cell, and why, as one sentence."""
    where = f"{cell.release} {cell.loader}"
    if cell.state == "error":
        return f"{where} could not be tried: {cell.verdict}"
    if cell.outcome != cell.expected:
        return f"{where} is {cell.outcome}, expected {cell.expected}: {cell.verdict}"
    if cell.state == "unexpected":
        what = f"by {', '.join(cell.red)}" if cell.red else "though no parameter is"
        return f"{where} is red for another reason than expected, {what}: {cell.verdict}"
    return f"{where} is {cell.outcome}, as expected: {cell.verdict}"


def outcome(cells: Sequence[Cell], bisection: Bisection | None) -> Outcome:
    """Return ``fail`` if anything is not as expected, ``incomplete`` if something could not be tried.

    A search may step over what cannot be tried: its outcome rests on whether it has an answer.
    """
    if any(cell.state == "unexpected" for cell in cells):
        return "fail"
    if bisection is not None:
        if bisection.kind == "between":
            return "incomplete"
        return "pass" if bisection.first_good == bisection.expected_first_good else "fail"
    return "incomplete" if any(cell.state == "error" for cell in cells) else "pass"


def verdict(cells: Sequence[Cell], bisection: Bisection | None) -> str:
    """Return one sentence: the answer of a search, and the first thing that is not as expected."""
    parts = []
    if bisection is not None:
        parts.append(bisection.answer)
        if bisection.kind != "between" and bisection.first_good != bisection.expected_first_good:
            parts.append(f"expected {bisection.expected_first_good or 'none'} to be the first good one")
    open_cells = sorted(
        (cell for cell in cells if cell.state != "expected"), key=lambda cell: cell.state == "error"
    )
    if open_cells:
        count = f"{len(open_cells)} of {len(cells)} cells are not as expected: "
        parts.append((count if len(open_cells) > 1 else "") + explain(open_cells[0]))
    elif bisection is None:
        parts.append(f"{len(cells)} of {len(cells)} cells are as expected")
    return "; ".join(parts)


def exit_code(result: Outcome) -> ExitCode:
    """The exit code of an outcome."""
    return EXIT_CODES[result]
