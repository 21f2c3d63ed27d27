"""Writes a report as GitHub Markdown, for job summaries and comments on pull requests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from harness.report import summary
from harness.report.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.compare.result import CheckResult, Report

#: How many open checks are listed: a comment on GitHub holds 65,536 characters. ``report.json`` has all.
LISTED = 100

#: Entities where a backslash would not do: for HTML, for mathematics, and where a table's row is cut.
ENTITIES = {"&": "&amp;", "<": "&lt;", "|": "&#124;", "`": "&#96;", "$": "&#36;"}
#: Marks with a meaning inside a line. An underscore within a word, as in ``k_proj``, has none.
MARKS = re.compile(r"[\\*\[\]~#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
#: What would begin a list, a quotation, a heading's underline or a rule at the start of a line.
OPENERS = re.compile(r"^([-+=>]|\d+(?=[.)]))")
#: An at sign that would call a person.
MENTION = re.compile(r"(?<!\w)@(?=\w)")


def render_markdown(report: Report) -> str:
    """Return the report as Markdown: the verdict first, then why, then on what it rests."""
    sections = (
        _verdict(report),
        _legs(report),
        _kinds(report),
        _open(report),
        _unsupported(report),
        _rates(report),
        _notes(report),
        _transcripts(report),
    )
    return "\n\n".join(block for section in sections for block in section) + "\n"


def escape(text: str) -> str:
    """Return ``text`` as prose that Markdown shows as it is."""
    # Stripped: four spaces at the start of a line would make it code.
    marked = OPENERS.sub(_opener, MARKS.sub(r"\\\g<0>", plain(text).strip()))
    safe = "".join(ENTITIES.get(char, char) for char in marked)
    # A space of no width between the sign and the name, as Renovate does.
    return MENTION.sub("@&#8203;", safe)


def _opener(match: re.Match[str]) -> str:
    return f"{match[0]}\\" if match[0].isdigit() else f"\\{match[0]}"


def code(text: str) -> str:
    """Return ``text`` as code."""
    safe = plain(text)
    # Inside backticks nothing can be escaped, yet a pipe would still cut a table's row.
    if safe.strip() and not any(char in safe for char in ENTITIES):
        return f"`{safe}`"
    return f"<code>{escape(text)}</code>" if safe else ""


def fence(lines: Iterable[str]) -> str:
    """Return ``lines`` as a block of code that none of them can end."""
    shown = [plain(line) for line in lines]
    longest = max((len(run) for line in shown for run in re.findall("`+", line)), default=0)
    marks = "`" * max(3, longest + 1)
    return "\n".join([f"{marks}text", *shown, marks])


def table(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table; its cells are Markdown already."""
    titles = list(headers)
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _verdict(report: Report) -> Iterator[str]:
    yield f"# {report.outcome.upper()}: {escape(report.verdict)}"
    if report.diagnosis:
        yield escape(report.diagnosis)
    if report.first_divergence:
        yield f"**First divergence:** {escape(summary.divergence(report.first_divergence))}"


def _legs(report: Report) -> Iterator[str]:
    yield "## Legs"
    yield escape(summary.run_line(report))
    if report.legs:
        yield table(
            ("leg", "role", "status", "device, attention", "versions", "seconds", "reason"),
            (
                (
                    code(leg.name),
                    leg.role if leg.required else f"{leg.role}, not required",
                    leg.status if leg.status == "captured" else f"**{leg.status}**",
                    escape(summary.device(leg)),
                    escape(summary.versions_text(leg)),
                    summary.total(leg.seconds),
                    escape(leg.reason),
                )
                for leg in report.legs
            ),
        )
    for leg in report.legs:
        if leg.status == "error" and leg.log_tail:
            yield f"The end of the log of {code(leg.name)}:"
            yield fence(leg.log_tail)


def _kinds(report: Report) -> Iterator[str]:
    rows = summary.rows(report)
    if not rows:
        return
    yield "## Checks"
    yield table(
        ("pair", "kind", "checks", "worst check", "measured", "allowed", "where"),
        (
            (code(summary.pair_name(row.pair)), row.kind, summary.counts_text(row.counts), *_worst(row.worst))
            for row in rows
        ),
    )


def _worst(check: CheckResult | None) -> tuple[str, str, str, str]:
    if check is None:
        return (summary.NONE, summary.NONE, summary.NONE, "")
    measured = f"{escape(check.metric)} {summary.number(check.measured)}".strip()
    return (code(summary.check_name(check)), measured, summary.number(check.allowed), code(check.where))


def _open(report: Report) -> Iterator[str]:
    checks = summary.open_checks(report)
    if not checks:
        return
    groups = summary.alike(checks)[:LISTED]
    yield f"## Not passed ({len(checks)})"
    yield table(
        ("status", "check", "measured", "allowed", "where", "message"),
        (
            (
                f"**{check.status}**",
                code(check.id),
                summary.number(check.measured),
                summary.number(check.allowed),
                code(check.where),
                escape(check.message) + (f" (and {number - 1} more)" if number > 1 else ""),
            )
            for check, number in groups
        ),
    )
    if left := len(checks) - sum(number for _, number in groups):
        yield f"… and {left} more, in `report.json`."


def _unsupported(report: Report) -> Iterator[str]:
    reasons = summary.unsupported_reasons(report)
    if reasons:
        yield "## Not gated, or not supported"
        yield table(("checks", "reason"), ((str(number), escape(reason)) for reason, number in reasons))


def _rates(report: Report) -> Iterator[str]:
    if report.transcripts:
        yield f"## {summary.rates_heading(report)}"
        yield table(
            ("leg or pair", "clips", "WER", "CER"),
            (
                (code(name), str(len(found.clips)), *summary.rates(found))
                for name, found in summary.scored(report).items()
            ),
        )


def _notes(report: Report) -> Iterator[str]:
    if report.notes:
        yield "## Notes"
        yield "\n".join(f"- {escape(note)}" for note in report.notes)


def _transcripts(report: Report) -> Iterator[str]:
    clips = summary.clips_by_id(report)
    if not clips:
        return
    yield "<details>\n<summary>Transcripts per clip</summary>"
    for clip, legs in clips.items():
        first = next(iter(legs.values()))
        truth = summary.NONE if first.reference is None else escape(first.reference)
        yield f"Clip {code(clip)}, {escape(first.language)}"
        yield table(
            ("leg", "transcript", "WER", "CER"),
            [
                ("truth", truth, "", ""),
                *(
                    (
                        code(leg),
                        escape(found.hypothesis),
                        summary.percent(found.wer),
                        summary.percent(found.cer),
                    )
                    for leg, found in legs.items()
                ),
            ],
        )
    yield "</details>"
