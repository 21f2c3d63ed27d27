"""Shows a report: on the terminal, as JSON, Markdown and JUnit XML. Reads nothing but the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from harness.compare.result import REPORT_SCHEMA_VERSION, Report
from harness.errors import InputError
from harness.files import write_text
from harness.report.junit import render_junit
from harness.report.markdown import render_markdown
from harness.report.terminal import print_report
from harness.report.text import plain

if TYPE_CHECKING:
    from pathlib import Path

#: The names of JSON, Markdown and JUnit in a run's folder.
REPORT_FILES = ("report.json", "report.md", "junit.xml")

__all__ = ["REPORT_FILES", "load_report", "print_report", "render_junit", "render_markdown", "write_report"]


class _Versioned(BaseModel):
    schema_version: int


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write the report into ``folder``, which is made if need be.

    Returns:
        The paths of ``json``, ``markdown`` and ``junit``.
    """
    # All is rendered before anything is written: an error leaves no folder with half a report.
    contents = {
        "json": report.model_dump_json(indent=1) + "\n",
        "markdown": render_markdown(report),
        "junit": render_junit(report),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / name for kind, name in zip(contents, REPORT_FILES, strict=True)}
    for kind, text in contents.items():
        write_text(paths[kind], text)
    return paths


def load_report(path: Path) -> Report:
    """Return the report that :func:`write_report` wrote as ``report.json``.

    Raises:
        InputError: it cannot be read, is of another schema version, or is no report.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        msg = f"cannot read the report {path}: {error.strerror}"
        raise InputError(msg) from error
    try:
        version = _Versioned.model_validate_json(content).schema_version
        if version != REPORT_SCHEMA_VERSION:
            msg = f"{path} has schema version {version}, this harness reads {REPORT_SCHEMA_VERSION}"
            raise InputError(msg)
        return Report.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        rest = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        msg = plain(f"{path} is not a report: {where + ': ' if where else ''}{first['msg']}{rest}")
        raise InputError(msg) from error
