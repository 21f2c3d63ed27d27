from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console

from harness import progress as module
from harness.progress import Progress

if TYPE_CHECKING:
    import pytest


def lines(*steps: tuple[str, str]) -> list[str]:
    stream = io.StringIO()
    with Progress(Console(file=stream, force_terminal=False, width=40)) as progress:
        for who, what in steps:
            progress(who, what)
    return [line.split(" s  ", 1)[1] for line in stream.getvalue().splitlines()]


def test_each_step_is_a_line() -> None:
    assert lines(("hf-cpu", "loading"), ("hf-cpu", "writing"), ("vllm-cpu", "writing")) == [
        "hf-cpu: loading",
        "hf-cpu: writing",
        "vllm-cpu: writing",
    ]


def test_counting_on_is_not_said_at_once() -> None:
    assert lines(*(("hf-cpu", f"clip {number}/9") for number in range(1, 10)), ("hf-cpu", "writing")) == [
        "hf-cpu: clip 1/9",
        "hf-cpu: writing",
    ]


def test_counting_on_is_said_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS_BETWEEN", 0.0)
    assert len(lines(("hf-cpu", "clip 1/9"), ("hf-cpu", "clip 2/9"))) == 2


def test_what_a_leg_says_is_untrusted_and_stays_one_line() -> None:
    (line,) = lines(("hf-cpu", "[red]loading\x1b[2J\nand a name far longer than the console is wide"))
    assert "[red]loading" in line
    assert "\x1b" not in line


def test_a_terminal_gets_one_live_line() -> None:
    stream = io.StringIO()
    with Progress(Console(file=stream, force_terminal=True, width=40)) as progress:
        progress("hf-cpu", "loading")
    assert "\x1b[?25l" in stream.getvalue()
