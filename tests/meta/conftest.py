"""What the meta tests share: the session's real run, and interpreters that misbehave."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.run import RunOptions, prepare
from harness.run import run as run_legs

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.compare.result import Report


@pytest.fixture(scope="session")
def real_run(parity_report: Report) -> Path:
    """The folder of the session's own run on the real backends; skipped where they are not here."""
    for leg in parity_report.legs:
        if leg.name in {"hf-cpu", "vllm-cpu"}:
            if leg.status == "unavailable":
                pytest.skip(f"{leg.name}: {leg.reason}")
            assert leg.status == "captured", leg.reason
    trace = next(leg.trace for leg in parity_report.legs if leg.trace is not None)
    return Path(trace).parent.parent


@pytest.fixture(scope="session")
def clip() -> str:
    """One of the embedded clips: short, clean English."""
    return "lights-us"


@pytest.fixture(scope="session")
def one_clip() -> Path:
    """The file of that clip, with its transcript beside it left out."""
    import audio_fixtures

    return Path(next(iter(audio_fixtures.__path__))) / "clips" / "lights-us.flac"


@pytest.fixture
def interpreter(tmp_path: Path) -> Callable[[str], str]:
    """Make an interpreter that runs a line of shell before a leg, and is this Python in all else."""

    def make(line: str) -> str:
        path = tmp_path / "python"
        python = shlex.quote(sys.executable)
        path.write_text(f'#!/bin/sh\ncase "$1" in *leg_main.py)\n{line}\n;; esac\nexec {python} "$@"\n')
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def run() -> Callable[[RunOptions], Report]:
    """Run the main job in this process, silently."""

    def go(options: RunOptions) -> Report:
        return run_legs(prepare(options), progress=lambda _who, _what: None)

    return go
