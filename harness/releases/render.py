"""Shows a matrix of releases: on the terminal, as JSON, as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from harness.files import write_text
from harness.releases.matrix import explain
from harness.report.markdown import code, escape, table
from harness.report.summary import NONE
from harness.report.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from harness.releases.matrix import Cell, Helper, Matrix, Row

#: The names of JSON and Markdown in the matrix's folder.
MATRIX_FILES = ("releases.json", "releases.md")
_STYLES = {"expected": "green", "unexpected": "bold red", "error": "bold magenta"}
_OUTCOMES = {"pass": "green", "fail": "bold red", "incomplete": "bold yellow"}
_PACKAGES = ("torch", "transformers")


def write_matrix(matrix: Matrix, folder: Path) -> dict[str, Path]:
    """Write the matrix into ``folder``, which is made if need be.

    Returns:
        The paths of ``json`` and ``markdown``.
    """
    contents = {"json": matrix.model_dump_json(indent=1) + "\n", "markdown": render_matrix(matrix)}
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / name for kind, name in zip(contents, MATRIX_FILES, strict=True)}
    for kind, text in contents.items():
        write_text(paths[kind], text)
    return paths


def print_matrix(
    matrix: Matrix, *, console: Console, path: Path | None = None, verbose: bool = False
) -> None:
    """Print ``matrix``.

    Args:
        matrix: What to print.
        console: Where to.
        path: The ``releases.json`` that was written, if one was.
        verbose: Whether to print the verdict of every cell, and not only of those that are not as expected.
    """
    if console.encoding.startswith("utf"):
        _print(matrix, console=console, path=path, verbose=verbose)
        return
    # Elsewhere a name in Chinese would be an UnicodeEncodeError instead of a verdict.
    with console.capture() as captured:
        _print(matrix, console=console, path=path, verbose=verbose)
    console.file.write(captured.get().encode(console.encoding, "backslashreplace").decode(console.encoding))


def _print(matrix: Matrix, *, console: Console, path: Path | None, verbose: bool) -> None:
    console.print(
        Text.assemble((matrix.outcome.upper(), _OUTCOMES[matrix.outcome]), "  ", plain(matrix.verdict)),
        soft_wrap=True,
    )
    console.print()
    console.print(Text(plain(_asked(matrix)), style="bold"), soft_wrap=True)
    console.print(_table(matrix))
    told = [cell for cell in matrix.cells if verbose or cell.state != "expected"]
    if told:
        console.print()
    for cell in told:
        console.print(Text(plain(explain(cell)), style=_STYLES[cell.state]), soft_wrap=True)
    for line in _contract_lines(matrix):
        console.print(Text(plain(line)), soft_wrap=True)
    if path is not None:
        console.print()
        console.print(Text(plain(f"Matrix: {path.with_name(MATRIX_FILES[1])}")), soft_wrap=True)
        console.print(Text(plain(f"        {path}")), soft_wrap=True)


def _table(matrix: Matrix) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    loaders = _loaders(matrix)
    for header in ("release", *loaders, *_PACKAGES, "upstream helper", "seconds"):
        shown.add_column(Text(header), overflow="fold")
    shown.columns[-1].justify = "right"
    for row in matrix.rows:
        cells = {cell.loader: cell for cell in row.cells}
        shown.add_row(
            Text(row.release),
            *(
                Text(_cell(cells[name]), style=_STYLES[cells[name].state]) if name in cells else Text(NONE)
                for name in loaders
            ),
            *(Text(plain(_version(row, package))) for package in _PACKAGES),
            Text(plain(_helper(row.helper))),
            Text(_seconds(row)),
        )
    return shown


def render_matrix(matrix: Matrix) -> str:
    """Return the matrix as Markdown: the verdict, the table, then what each cell found."""
    return "\n\n".join(_blocks(matrix)) + "\n"


def _blocks(matrix: Matrix) -> Iterator[str]:
    loaders = _loaders(matrix)
    yield f"# {matrix.outcome.upper()}: {escape(matrix.verdict)}"
    yield escape(_asked(matrix))
    rows = []
    for row in matrix.rows:
        cells = {cell.loader: cell for cell in row.cells}
        rows.append(
            [
                row.release,
                *(_marked(cells[name]) if name in cells else NONE for name in loaders),
                *(_code(_version(row, package)) for package in _PACKAGES),
                escape(_helper(row.helper)),
                _seconds(row),
            ]
        )
    yield table(("release", *loaders, *_PACKAGES, "upstream helper", "seconds"), rows)
    yield "## Cells"
    yield table(
        ("release", "loader state", "outcome", "expected", "verdict", "report"),
        (
            (
                cell.release,
                cell.loader,
                _marked(cell),
                cell.expected,
                escape(cell.verdict),
                code(cell.report) or NONE,
            )
            for cell in matrix.cells
        ),
    )
    lines = list(_contract_lines(matrix))
    if lines:
        yield "## The upstream helper"
        yield "\n".join(f"- {escape(line)}" for line in lines)


def _loaders(matrix: Matrix) -> list[str]:
    return list(dict.fromkeys(cell.loader for cell in matrix.cells))


def _asked(matrix: Matrix) -> str:
    what = "load audit" if matrix.work == "audit" else "whole parity run"
    since = f"the fix is in {matrix.first_fixed} and later"
    return f"{what}, checkpoint {matrix.checkpoint}, {matrix.dtype}; {since}"


def _cell(cell: Cell) -> str:
    """One cell in a word or two: ``fail, as expected``, ``pass, expected fail``."""
    if cell.state == "error":
        return "error"
    if cell.state == "expected":
        text = cell.outcome if cell.outcome == "pass" else f"{cell.outcome}, as expected"
    elif cell.outcome == cell.expected:
        text = f"{cell.outcome}, for another reason"
    else:
        text = f"{cell.outcome}, expected {cell.expected}"
    return f"{text} (cached)" if cell.cached else text


def _marked(cell: Cell) -> str:
    return _cell(cell) if cell.state == "expected" else f"**{_cell(cell)}**"


def _version(row: Row, package: str) -> str:
    return next((cell.versions[package] for cell in row.cells if package in cell.versions), NONE)


def _code(text: str) -> str:
    return text if text == NONE else code(text)


def _helper(helper: Helper | None) -> str:
    if helper is None:
        return NONE
    if helper.problem or not helper.cases:
        return "not checked"
    return f"{helper.cases - len(helper.wrong)} of {helper.cases} right"


def _contract_lines(matrix: Matrix) -> Iterator[str]:
    """What the upstream helpers get wrong, release by release."""
    for row in matrix.rows:
        if row.helper is None:
            continue
        if row.helper.problem:
            yield f"upstream helper of {row.release}: {row.helper.problem}"
        for case, message in row.helper.wrong.items():
            yield f"upstream helper of {row.release}, {case}: {message or 'wrong'}"


def _seconds(row: Row) -> str:
    return f"{sum(cell.seconds for cell in row.cells):.0f}"
