"""The matrix as it is shown: the verdict first, and text from elsewhere as text."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from harness.errors import ExitCode
from harness.releases import load_catalogue, print_matrix, write_matrix
from harness.releases.matrix import Bisection, Helper, Matrix, Row, error_cell, judge_report
from harness.releases.render import render_matrix
from tests.unit.releases_examples import make_report
from tests.unit.report_examples import DIGEST, HOSTILE

if TYPE_CHECKING:
    from pathlib import Path

    from harness.compare.result import Outcome
    from harness.releases.matrix import Cell
    from harness.trace.schema import LoaderState

KNOWN = load_catalogue()


def cell(
    release: str, loader: LoaderState, ended: Outcome, *, cached: bool = False, reason: str = ""
) -> Cell:
    return judge_report(
        make_report(release, ended, loader=loader, reason=reason),
        release=KNOWN.select(only=(release,))[0],
        loader=loader,
        catalogue=KNOWN,
        seconds=12.4,
        cached=cached,
        folder=f"cells/{release}/{loader}",
    )


def matrix(*rows: Row, bisection: Bisection | None = None, verdict: str = "as expected") -> Matrix:
    return Matrix(
        harness="0.1.0",
        created="2026-11-22T12:00:00+00:00",
        command=("harness", "releases"),
        work="audit",
        checkpoint="random",
        checkpoint_digest=DIGEST,
        dtype="float32",
        first_fixed="0.20.0",
        outcome="fail",
        exit_code=ExitCode.FAIL,
        verdict=verdict,
        rows=rows,
        bisection=bisection,
        seconds=60.0,
    )


OLD = Row(
    release="0.19.1",
    cells=(cell("0.19.1", "installed", "fail", cached=True), cell("0.19.1", "patched", "pass")),
    helper=Helper(problem="this release has no helper"),
)
NEW = Row(
    release="0.24.0",
    cells=(cell("0.24.0", "installed", "fail"), cell("0.24.0", "patched", "pass")),
    helper=Helper(signature="(weights)", cases=6, wrong={"sharded": "two for one weight", "packed": ""}),
)
BROKEN = Row(
    release="0.23.0",
    cells=tuple(
        error_cell(
            KNOWN.select(only=("0.23.0",))[0], loader=loader, catalogue=KNOWN, reason="no such package"
        )
        for loader in ("installed", "patched")
    ),
)


def shown(found: Matrix, *, width: int = 160, encoding: str = "utf-8", **how: object) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    print_matrix(found, console=Console(file=stream, width=width, no_color=True), **how)  # type: ignore[arg-type]
    stream.flush()
    return raw.getvalue().decode(encoding)


class TestTerminal:
    def test_the_matrix(self) -> None:
        lines = shown(matrix(OLD, BROKEN, NEW)).splitlines()
        assert lines[0] == "FAIL  as expected"
        assert lines[2] == ("load audit, checkpoint random, float32; the fix is in 0.20.0 and later")
        rows = {line.split(" ")[0]: line for line in lines if line.startswith("0.")}
        assert "fail, as expected (cached)" in rows["0.19.1"]
        assert "2.10.0" in rows["0.19.1"]
        assert "5.5.4" in rows["0.19.1"]
        assert "fail, expected pass" in " ".join(lines)
        assert "4 of 6 right" in " ".join(lines)

    def test_why(self) -> None:
        text = shown(matrix(OLD, BROKEN, NEW))
        assert "\n0.24.0 installed is fail, expected pass: 0.24.0 installed is fail\n" in text
        assert "\n0.23.0 patched could not be tried: no such package\n" in text
        assert "\nupstream helper of 0.24.0, sharded: two for one weight\n" in text
        assert "\nupstream helper of 0.24.0, packed: wrong\n" in text
        assert "\nupstream helper of 0.19.1: this release has no helper\n" in text
        assert "0.19.1 installed is fail, as expected" not in text
        assert "\n0.19.1 installed is fail, as expected: 0.19.1 installed is fail\n" in shown(
            matrix(OLD), verbose=True
        )

    def test_where_it_was_written(self, tmp_path: Path) -> None:
        paths = write_matrix(matrix(OLD), tmp_path / "deep" / "out")
        text = shown(matrix(OLD), width=20, path=paths["json"])
        assert f"Matrix: {tmp_path}/deep/out/releases.md\n        {tmp_path}/deep/out/releases.json\n" in text

    def test_one_line_stays_one_line(self) -> None:
        assert shown(matrix(OLD, verdict="word " * 60), width=40).splitlines()[0].count("word") == 60

    @pytest.mark.parametrize("text", HOSTILE)
    def test_text_from_elsewhere(self, text: str) -> None:
        hostile = matrix(Row(release="0.24.0", cells=(cell("0.24.0", "installed", "fail", reason=text),)))
        out = shown(hostile)
        assert "\x1b" not in out
        assert out.count("\n") == shown(matrix(Row(release="0.24.0", cells=hostile.cells))).count("\n")
        assert "[red]" in shown(matrix(OLD, verdict="[red]"))

    def test_another_encoding(self) -> None:
        assert "\\u4f60" in shown(matrix(OLD, verdict="你"), encoding="ascii")


class TestMarkdown:
    def test_the_matrix(self) -> None:
        lines = render_matrix(matrix(OLD, BROKEN, NEW)).splitlines()
        assert lines[0] == "# FAIL: as expected"
        header = "| release | installed | patched | torch | transformers | upstream helper | seconds |"
        assert header in lines
        start = lines.index(header)
        assert lines[start + 2] == (
            "| 0.19.1 | fail, as expected (cached) | pass | `2.10.0` | `5.5.4` | not checked | 25 |"
        )
        assert lines[start + 3].startswith("| 0.23.0 | **error** | **error** | ")
        assert lines[start + 4].startswith("| 0.24.0 | **fail, expected pass** | pass | ")
        assert "- upstream helper of 0.24.0, sharded: two for one weight" in lines

    def test_of_a_search(self) -> None:
        lines = render_matrix(matrix(Row(release="0.19.1", cells=OLD.cells[:1]))).splitlines()
        assert any(
            line.startswith("| 0.19.1 | fail, as expected (cached) | `2.10.0` | `5.5.4` | ") for line in lines
        )
        assert not any(line.startswith("## The upstream helper") for line in lines)

    @pytest.mark.parametrize("text", HOSTILE)
    def test_text_from_elsewhere(self, text: str) -> None:
        rows = (Row(release="0.24.0", cells=(cell("0.24.0", "installed", "fail", reason=text or "x"),)),)
        found = render_matrix(matrix(*rows, verdict=text)).splitlines()
        tables = [line for line in found if line.startswith("|")]
        assert len(tables) == 6
        assert {line.count(" | ") for line in tables[3:]} == {5}
        assert "<script>" not in "\n".join(found)


def test_written_and_read(tmp_path: Path) -> None:
    paths = write_matrix(matrix(OLD, NEW), tmp_path)
    assert Matrix.model_validate_json(paths["json"].read_bytes()) == matrix(OLD, NEW)
    assert paths["markdown"].read_text(encoding="utf-8") == render_matrix(matrix(OLD, NEW))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["releases.json", "releases.md"]
