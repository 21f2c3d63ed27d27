from __future__ import annotations

import io
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from harness.report import print_report
from harness.report.text import HIDDEN, plain
from tests.unit.report_examples import (
    HOSTILE,
    PAIR,
    crashed,
    empty,
    failing,
    hostile,
    leg,
    passing,
    report,
    unsupported,
)

if TYPE_CHECKING:
    from harness.compare.result import Report

PATH = Path("out") / "report.json"


def printed(shown: Report, *, verbose: bool = False, width: int = 80, path: Path | None = PATH) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=False)
    print_report(shown, console=console, report_path=path, verbose=verbose)
    return stream.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("shown", "first"),
    [
        (passing(), "PASS  all 6 checks passed for 1 pair"),
        (failing(), "FAIL  2 checks failed: a parameter was not loaded"),
        (crashed(), "INCOMPLETE  vllm-cpu crashed: nothing was compared with hf-cpu"),
        (empty(), "INCOMPLETE  nothing was compared"),
    ],
)
def test_the_first_line_is_the_verdict(shown: Report, first: str) -> None:
    assert printed(shown).splitlines()[0] == first


def test_a_long_verdict_stays_one_line() -> None:
    verdict = "a verdict " * 20
    assert printed(report(verdict=verdict)).splitlines()[0] == f"INCOMPLETE  {verdict}"


def test_order_of_content() -> None:
    output = printed(failing())
    marks = (
        "FAIL",
        "uninitialised",
        "First divergence",
        "leg ",
        "kind",
        "Not passed",
        "WER and CER",
        "Report:",
    )
    positions = [output.index(mark) for mark in marks]
    assert positions == sorted(positions)


def test_nothing_is_wider_than_the_terminal() -> None:
    for shown in (passing(), failing(more=20), crashed(), unsupported()):
        assert max(map(len, printed(shown).splitlines())) <= 80


def test_names_are_never_cut_off() -> None:
    assert "encoder.layers.0.k_proj.bias" in re.sub(r"\s", "", printed(failing(), width=40))


def test_the_worst_check_comes_with_its_numbers() -> None:
    output = words(printed(failing()))
    assert "parameter 1 pass, 1 fail encoder.layers.0.k_proj.bias max_abs 6e+07, allowed 0, at [12]" in output


def test_open_checks_are_cut_at_ten_unless_verbose() -> None:
    shown = failing(more=20)
    output = printed(shown)
    assert "Not passed (23)" in output
    assert "… and 13 more" in output
    assert "layers.20.mlp" not in output
    assert output.splitlines()[-1].startswith("Option -v")
    verbose = printed(shown, verbose=True)
    assert f"{PAIR}/activation/encoder.layers.20.mlp" in verbose
    assert "more" not in verbose


def test_a_crashed_leg_shows_its_reason_and_the_end_of_its_log() -> None:
    output = printed(crashed())
    assert "vllm-cpu (required) error: exit code -9 after 12 s" in output
    assert "| line 20" in output
    assert "| line 10\n" not in output
    assert "log: traces/vllm-cpu.log" in output
    assert "| line 1\n" in printed(crashed(), verbose=True)


def test_reasons_of_unsupported_checks_are_grouped() -> None:
    output = printed(unsupported())
    assert "3 x no CUDA device" in output
    assert "vllm-cuda (not required) unavailable: no CUDA device" in output
    assert "loader patched" in words(output)


def test_what_became_of_a_captured_leg_is_shown() -> None:
    assert "hf-cpu: reused" in printed(report(legs=(leg("hf-cpu", reason="reused"),)))


def test_rates_of_legs_then_of_pairs() -> None:
    output = words(printed(passing()))
    assert "WER and CER: legs against the truth, pairs against each other leg or pair clips WER CER" in output
    legs = "hf-cpu 1 50.00% (1/2) 10.00% (1/10) vllm-cpu 1 50.00% (1/2) 10.00% (1/10)"
    assert f"{legs} {PAIR} 1 25.00% (1/2) 12.50% (1/10)" in output


def test_untrained_weights_are_named_beside_the_rates() -> None:
    assert "untrained: no measure of quality" in words(printed(failing()))
    assert "untrained" not in printed(passing())


def test_paths_close_the_output_and_are_whole() -> None:
    path = Path("/", *["a-long-folder-name"] * 8, "report.json")
    lines = printed(passing(), path=path).splitlines()
    assert lines[-2:] == [f"Report: {path.with_name('report.md')}", f"        {path}"]
    assert "report.json" not in printed(passing(), path=None)


def test_a_console_that_cannot_show_a_character_shows_its_escape() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as stream:
        console = Console(file=stream, width=80, force_terminal=False)
        print_report(report(verdict="你好"), console=console, report_path=None)
        stream.flush()
        assert raw.getvalue().startswith(b"INCOMPLETE  \\u4f60\\u597d\n")


def test_colours_are_only_ours() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system="standard", no_color=False)
    print_report(hostile("\x1b[2J[red]"), console=console, report_path=None)
    sequences = set(re.findall(r"\x1b(.[^a-zA-Z]*.?)", stream.getvalue()))
    assert sequences
    assert all(re.fullmatch(r"\[[0-9;]*m", sequence) for sequence in sequences)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_text(text: str) -> None:
    output = printed(hostile(text), verbose=True, width=200)
    assert output.splitlines()[0] == f"FAIL  {plain(text)}"
    assert f"| {plain(text)}" in output


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters()), width=st.integers(20, 120), verbose=st.booleans())
def test_no_text_acts_on_the_terminal(text: str, width: int, *, verbose: bool) -> None:
    output = printed(hostile(text), width=width, verbose=verbose)
    assert not {unicodedata.category(char) for char in output if char != "\n"} & HIDDEN
    assert output.splitlines()[0] == f"FAIL  {plain(text)}"
