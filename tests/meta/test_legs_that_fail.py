"""Real legs that are killed, hang, or cannot run: never green, and nothing is left of them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.errors import ExitCode
from harness.run import RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.compare.result import Report

ROOT = Path(__file__).parent.parent.parent


def processes_with(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


def test_a_leg_killed_half_way(
    one_clip: Path, tmp_path: Path, interpreter: Callable[[str], str], run: Callable[[RunOptions], Report]
) -> None:
    """SIGKILL while vLLM writes: what it had started goes with it, and its unfinished trace."""
    traces = tmp_path / "out" / "traces"
    half = f"{traces}/.vllm-cpu.*/activations/lights-us.safetensors"
    python = interpreter(f"(until [ -s {half} ]; do sleep 0.02; done; kill -9 $$) & sleep 987654 &")
    options = RunOptions(
        out=tmp_path / "out", audio=(one_clip,), max_new_tokens=2, python={"vllm-cpu": python}
    )
    report = run(options)

    legs = {leg.name: leg for leg in report.legs}
    assert legs["hf-cpu"].status == "captured"
    assert legs["vllm-cpu"].status == "error"
    assert "killed by SIGKILL" in legs["vllm-cpu"].reason
    assert "[vllm-cpu] importing vllm" in Path(str(legs["vllm-cpu"].log)).read_text(encoding="utf-8")
    assert legs["vllm-cpu"].log_tail
    assert [path.name for path in traces.iterdir()] == ["hf-cpu"]
    assert (report.outcome, report.exit_code) == ("incomplete", ExitCode.INCOMPLETE)
    assert "leg vllm-cpu did not finish: killed by SIGKILL" in report.verdict
    assert report.counts["missing"] > 0
    assert report.counts["fail"] == 0
    assert not processes_with("sleep 987654")


def test_a_leg_that_hangs(
    one_clip: Path, tmp_path: Path, interpreter: Callable[[str], str], run: Callable[[RunOptions], Report]
) -> None:
    python = interpreter("sleep 876543")
    started = time.monotonic()
    options = RunOptions(
        out=tmp_path / "out",
        audio=(one_clip,),
        max_new_tokens=2,
        python={"hf-cpu": python, "vllm-cpu": python},
        timeout=1.5,
    )
    report = run(options)
    assert time.monotonic() - started < 30
    assert {leg.status for leg in report.legs} == {"error"}
    assert all("no result within 1.5 s, killed" in leg.reason for leg in report.legs)
    assert report.exit_code == ExitCode.INCOMPLETE
    assert not processes_with("sleep 876543")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_harness_is_told_to_stop(one_clip: Path, tmp_path: Path, number: signal.Signals) -> None:
    """A terminal's Ctrl-C, or a CI job that is cancelled: the leg that runs goes with the harness."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("an older run's")
    log = out / "logs" / "hf-cpu.log"
    command = [sys.executable, "-m", "harness", "run", "--audio", str(one_clip), "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        while not (log.is_file() and "importing" in log.read_text(encoding="utf-8")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == ExitCode.INCOMPLETE
        assert said.splitlines()[-1].startswith(f"error: stopped by {number.name} after ")
    gone = time.monotonic() + 5
    while processes_with(str(out)) and time.monotonic() < gone:
        time.sleep(0.05)
    assert not processes_with(str(out))
    assert not (out / "report.json").exists()


@pytest.mark.parametrize("require", [(), ("vllm-cuda",)])
def test_nothing_to_compare(
    one_clip: Path, tmp_path: Path, run: Callable[[RunOptions], Report], require: tuple[str, ...]
) -> None:
    """A reference alone is no comparison, whether or not the missing leg was required."""
    options = RunOptions(
        out=tmp_path / "out",
        audio=(one_clip,),
        candidates=("vllm-cuda",),
        require=require,
        python={"vllm-cuda": "/bin/false"},
        max_new_tokens=2,
    )
    report = run(options)
    assert (report.outcome, report.exit_code) == ("incomplete", ExitCode.INCOMPLETE)
    assert "vllm-cuda" in report.verdict
    statuses = {check.status for check in report.checks if check.pair == "vllm_cuda-vs-hf_cpu"}
    assert statuses == {"missing" if require else "unsupported"}
