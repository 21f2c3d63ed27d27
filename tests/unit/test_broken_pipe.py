"""Whoever reads the output may leave early; the exit code must not turn into another verdict."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import ExitCode
from tests.synthetic import put, write_trace

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(("planted", "code"), [(False, ExitCode.PASS), (True, ExitCode.FAIL)])
def test_exit_code_without_a_reader(tmp_path: Path, planted: bool, code: ExitCode) -> None:
    reference = write_trace(tmp_path / "r")
    candidate = write_trace(
        tmp_path / "c", leg="vllm-cpu", alter=put("norm.weight", 0, 9.0) if planted else None
    )
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "harness", "compare", str(reference.path), str(candidate.path)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")],
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        check=False,
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == code
