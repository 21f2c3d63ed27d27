from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import harness.report
from harness.errors import InputError
from harness.report import REPORT_FILES, load_report, render_junit, render_markdown, write_report
from tests.unit.report_examples import crashed, empty, failing, passing, unsupported

if TYPE_CHECKING:
    from pathlib import Path

    from harness.compare.result import Report


@pytest.mark.parametrize("example", [passing(), failing(), crashed(), empty(), unsupported()])
def test_a_report_written_is_read_back(example: Report, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    paths = write_report(example, folder)
    assert paths == {
        "json": folder / "report.json",
        "markdown": folder / "report.md",
        "junit": folder / "junit.xml",
    }
    assert sorted(folder.iterdir()) == sorted(paths.values())
    assert tuple(path.name for path in paths.values()) == REPORT_FILES
    assert load_report(paths["json"]) == example
    assert paths["markdown"].read_text(encoding="utf-8") == render_markdown(example)
    assert paths["junit"].read_text(encoding="utf-8") == render_junit(example)


def test_an_older_report_is_replaced(tmp_path: Path) -> None:
    write_report(failing(), tmp_path)
    paths = write_report(passing(), tmp_path)
    assert load_report(paths["json"]).outcome == "pass"


@pytest.mark.parametrize("renderer", ["render_markdown", "render_junit"])
def test_a_failing_renderer_leaves_nothing(
    renderer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(report: Report) -> str:
        raise RuntimeError(report.case)

    monkeypatch.setattr(harness.report, renderer, refuse)
    with pytest.raises(RuntimeError, match="glm_asr"):
        write_report(passing(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_no_report_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the report .*report\.json: No such file"):
        load_report(tmp_path / "report.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a report: Invalid JSON"),
        (b"\xff\xfe", "is not a report"),
        (b"[]", "is not a report"),
        (b"{}", "is not a report: schema_version: Field required"),
        (b'{"schema_version": 1}', "has schema version 1, this harness reads 2"),
        (b'{"schema_version": 2}', r"is not a report: harness: Field required \(and \d+ more\)"),
        (b'{"schema_version": 2, "\\u001b[2J": 1}', "is not a report"),
    ],
)
def test_not_a_report(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_report(path)
    assert str(caught.value).isprintable()


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    path = write_report(passing(), tmp_path)["json"]
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"extra\x1b": 1}), encoding="utf-8")
    with pytest.raises(InputError, match=r"extra\\x1b: Extra inputs"):
        load_report(path)
