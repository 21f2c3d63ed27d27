"""Runs legs in a process of their own, and knows what became of each."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import TraceError
from harness.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.backends.request import LegRequest

_MAIN = Path(__file__).with_name("leg_main.py")
_POLL_SECONDS = 0.05
_TAIL_LINES = 15


@dataclass(frozen=True, kw_only=True)
class LegOutcome:
    """A leg that ran: its trace, or why there is none and the last lines of its log."""

    trace: Trace | None
    reason: str
    log_tail: tuple[str, ...]
    seconds: float


def run_leg(
    request: LegRequest, *, interpreter: str, timeout: float, progress: Callable[[str], None]
) -> LegOutcome:
    """Capture one leg: :func:`run_legs` of one request."""
    return run_legs((request,), interpreter=interpreter, timeout=timeout, progress=progress)[0]


def run_legs(
    requests: Sequence[LegRequest],
    *,
    interpreter: str,
    timeout: float,
    progress: Callable[[str], None],
) -> tuple[LegOutcome, ...]:
    """Do several requests in one process, which imports the backend once; never raises for what it does.

    The process leads a group of its own, and the whole group is killed at the end, however it ends.

    Args:
        requests: What to capture, at least one; they share log and progress file. Traces are replaced.
        interpreter: The python that holds the backend.
        timeout: Seconds per request after which the process is killed.
        progress: Called with what the process says it does now.
    """
    first = requests[0]
    own = [path.parent for request in requests for path in (request.trace, request.failure)]
    for path in (first.log.parent, first.progress.parent, *own):
        path.mkdir(parents=True, exist_ok=True)
    first.progress.unlink(missing_ok=True)
    files = []
    for request in requests:
        shutil.rmtree(request.trace, ignore_errors=True)
        request.failure.unlink(missing_ok=True)
        files.append(request.failure.with_suffix(".request.json"))
        files[-1].write_text(request.model_dump_json(indent=1), encoding="utf-8")
    started = time.monotonic()
    with first.log.open("wb") as log:
        process = subprocess.Popen(
            [interpreter, str(_MAIN), str(os.getpid()), *map(str, files)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = started + timeout * len(requests)
        try:
            timed_out = _wait(process, first.progress, deadline=deadline, progress=progress)
        finally:
            _kill_group(process)
            # A leg that was killed could not take its unfinished trace away.
            for request in requests:
                for unfinished in request.trace.parent.glob(f".{request.trace.name}.*"):
                    shutil.rmtree(unfinished, ignore_errors=True)
    seconds = time.monotonic() - started
    tail = _tail(first.log)
    reason = (
        f"no result within {timeout * len(requests):g} s, killed"
        if timed_out
        else _reason(process.returncode, tail)
    )
    return tuple(_outcome(request, reason=reason, tail=tail, seconds=seconds) for request in requests)


def _outcome(request: LegRequest, *, reason: str, tail: tuple[str, ...], seconds: float) -> LegOutcome:
    """What became of one request; ``reason`` is why the process ended, empty where it ended well."""
    trace = None
    if request.failure.is_file():
        reason = request.failure.read_text(encoding="utf-8")
    elif not reason or (request.trace / "manifest.json").is_file():
        try:
            trace, reason = Trace(request.trace), ""
        except TraceError as error:
            reason = str(error)
    return LegOutcome(trace=trace, reason=reason, log_tail=tail, seconds=seconds)


def _wait(
    process: subprocess.Popen[bytes], path: Path, *, deadline: float, progress: Callable[[str], None]
) -> bool:
    said = ""
    while process.poll() is None:
        if time.monotonic() > deadline:
            return True
        try:
            now = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            now = ""
        if now and now != said:
            said = now
            progress(said)
        time.sleep(_POLL_SECONDS)
    return False


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # Also after a good end: a backend's own workers must not outlive their leg.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(returncode: int, tail: tuple[str, ...]) -> str:
    if returncode == 0:
        return ""
    last = f": {tail[-1]}" if tail else ", and it logged nothing"
    if returncode < 0:
        known = {member.value: member.name for member in signal.Signals}
        name = known.get(-returncode, f"signal {-returncode}")
        memory = " (out of memory?)" if name == "SIGKILL" else ""
        return f"killed by {name}{memory}{last}"
    return f"ended with exit status {returncode}{last}"


def _tail(log: Path) -> tuple[str, ...]:
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - (64 << 10)))
        text = stream.read().decode("utf-8", errors="replace")
    # Of a progress bar, which goes back to the start of its line, only the last state.
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in text.split("\n")]
    return tuple(line for line in lines if line)[-_TAIL_LINES:]
