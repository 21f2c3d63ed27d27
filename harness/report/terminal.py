"""Prints a report on a terminal: the verdict first, then why, then on what it rests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.compare.result import KINDS
from harness.report import summary
from harness.report.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console, RenderableType

    from harness.compare.result import CheckResult, LegReport, Report

#: How many open checks, and how many lines of a log, are shown without ``-v``.
LISTED = 10
#: The width of the column of counts, beyond which it wraps.
COUNTS_WIDTH = 28

STYLES = {
    "pass": "green",
    "fail": "bold red",
    "incomplete": "bold yellow",
    "error": "bold magenta",
    "missing": "bold yellow",
    "unsupported": "dim",
    "captured": "green",
    "unavailable": "yellow",
}


def print_report(
    report: Report, *, console: Console, report_path: Path | None, verbose: bool = False
) -> None:
    """Print ``report``.

    Args:
        report: What to print.
        console: Where to.
        report_path: The ``report.json`` that was written, with ``report.md`` beside it; ``None`` if none was.
        verbose: Whether to list every open check and every log line that the report holds.
    """
    if console.encoding.startswith("utf"):
        _print(report, console=console, report_path=report_path, verbose=verbose)
        return
    # Elsewhere a transcript in Chinese would be an UnicodeEncodeError instead of a verdict.
    with console.capture() as captured:
        _print(report, console=console, report_path=report_path, verbose=verbose)
    shown = captured.get().encode(console.encoding, "backslashreplace").decode(console.encoding)
    console.file.write(shown)


def _print(report: Report, *, console: Console, report_path: Path | None, verbose: bool) -> None:
    verdict = Text.assemble((report.outcome.upper(), STYLES[report.outcome]), "  ", plain(report.verdict))
    # Soft wrap keeps one line one line, for whoever reads only that, or copies a path.
    console.print(verdict, soft_wrap=True)
    sections = (
        _diagnosis(report),
        _legs(report, verbose=verbose),
        _kinds(report),
        _open(report, verbose=verbose),
        _unsupported(report),
        _rates(report),
        _notes(report),
    )
    for section in sections:
        for position, renderable in enumerate(section):
            if position == 0:
                console.print()
            console.print(renderable)
    more = _more(report, report_path=report_path, verbose=verbose)
    if more:
        console.print()
        console.print(more, soft_wrap=True)


def _diagnosis(report: Report) -> Iterator[RenderableType]:
    # Where the run is red, the verdict ends in the diagnosis.
    if report.diagnosis and report.diagnosis not in report.verdict:
        yield _text(report.diagnosis)
    if report.first_divergence:
        yield _text(f"First divergence: {summary.divergence(report.first_divergence)}")


def _legs(report: Report, *, verbose: bool) -> Iterator[RenderableType]:
    yield _text(summary.run_line(report), "bold")
    if not report.legs:
        return
    table = _table("leg", "status", "device, attention", "versions")
    table.add_column(Text("seconds"), justify="right", no_wrap=True)
    for leg in report.legs:
        table.add_row(
            _text(leg.name),
            _status(leg.status),
            _text(summary.device(leg)),
            _text(summary.versions_text(leg)),
            summary.total(leg.seconds),
        )
    yield table
    for leg in report.legs:
        yield from _leg_end(leg, verbose=verbose)


def _leg_end(leg: LegReport, *, verbose: bool) -> Iterator[RenderableType]:
    if leg.status != "captured":
        need = " (required)" if leg.required else " (not required)" if leg.status == "unavailable" else ""
        yield _text(f"{leg.name}{need} {leg.status}: {leg.reason or 'no reason given'}")
    elif leg.reason:
        yield _text(f"{leg.name}: {leg.reason}")
    if leg.status == "error":
        for line in leg.log_tail if verbose else leg.log_tail[-LISTED:]:
            yield Padding(_text(f"| {line}", "dim"), (0, 0, 0, 2), expand=False)
        if leg.log:
            yield _text(f"  log: {leg.log}")


def _kinds(report: Report) -> Iterator[RenderableType]:
    rows = summary.rows(report)
    # One table per pair, since a row cannot span columns; the same widths make them look like one.
    width = min(COUNTS_WIDTH, max((len(summary.counts_text(row.counts)) for row in rows), default=0))
    for position, pair in enumerate(dict.fromkeys(row.pair for row in rows)):
        table = _table("kind", "checks", "worst check")
        table.show_header = position == 0
        table.columns[0].min_width = max(map(len, KINDS))
        table.columns[1].min_width = width
        for row in rows:
            if row.pair == pair:
                table.add_row(Text(row.kind), _counts(row), _worst(row.worst))
        yield _text(summary.pair_name(pair), "bold")
        yield table


def _counts(row: summary.Row) -> Text:
    return Text(", ").join(
        Text(f"{number} {status}", style=STYLES[status]) for status, number in row.counts.items() if number
    )


def _worst(check: CheckResult | None) -> Text:
    if check is None:
        return Text(summary.NONE)
    lines = (summary.check_name(check), summary.comparison(check))
    return Text("\n").join(_text(line) for line in lines if line)


def _open(report: Report, *, verbose: bool) -> Iterator[RenderableType]:
    checks = summary.open_checks(report)
    if not checks:
        return
    yield Text(f"Not passed ({len(checks)})", style="bold")
    groups = [(check, 1) for check in checks] if verbose else summary.alike(checks)[:LISTED]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check, number in groups:
        numbers = summary.comparison(check) if verbose or not check.message else ""
        more = f"and {number - 1} more for the same reason" if number > 1 else ""
        lines = dict.fromkeys((check.id, check.message, numbers, more))
        table.add_row(_status(check.status), Text("\n").join(_text(line) for line in lines if line))
    yield table
    if left := len(checks) - sum(number for _, number in groups):
        yield Text(f"… and {left} more (-v lists all)")


def _unsupported(report: Report) -> Iterator[RenderableType]:
    reasons = summary.unsupported_reasons(report)
    if reasons:
        yield Text("Not gated, or not supported", style="bold")
    for reason, number in reasons:
        yield _text(f"{number} x {reason}")


def _rates(report: Report) -> Iterator[RenderableType]:
    if not report.transcripts:
        return
    yield Text(summary.rates_heading(report), style="bold")
    table = _table("leg or pair", "clips", "WER", "CER")
    for name, transcripts in summary.scored(report).items():
        table.add_row(_text(name), Text(str(len(transcripts.clips))), *summary.rates(transcripts))
    yield table


def _notes(report: Report) -> Iterator[RenderableType]:
    if report.notes:
        yield Text("Notes", style="bold")
    for note in report.notes:
        yield Padding(_text(note), (0, 0, 0, 2), expand=False)


def _more(report: Report, *, report_path: Path | None, verbose: bool) -> Text:
    lines: list[str] = []
    if report_path:
        lines += [f"Report: {report_path.with_name('report.md')}", f"        {report_path}"]
    cut = len(summary.open_checks(report)) > LISTED or any(
        leg.status == "error" and len(leg.log_tail) > LISTED for leg in report.legs
    )
    if cut and not verbose:
        lines.append("Option -v lists every check that did not pass, and the whole end of each log.")
    return Text("\n").join(_text(line) for line in lines)


def _table(*headers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for header in headers:
        # The default cuts long words off: a parameter's name must stay whole.
        table.add_column(Text(header), overflow="fold")
    return table


def _status(status: str) -> Text:
    return Text(status, style=STYLES[status])


def _text(value: str, style: str = "") -> Text:
    return Text(plain(value), style=style, overflow="fold")
