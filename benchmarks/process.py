"""Runs a command to its end and says what it took."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Wall time in seconds, and the peak of resident memory in bytes over the process and its children."""

    seconds: float
    peak: int


def cost_of(command: list[str], *, env: dict[str, str], status: int = 0) -> Cost:
    """Run a command; one that ends with another exit status than ``status`` ends the benchmark."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
        _, ended, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(ended)
        seconds = time.perf_counter() - started
        if process.returncode != status:
            output.seek(0)
            said = output.read().decode(errors="replace")[-6000:]
            sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
    # Linux counts in KiB.
    return Cost(seconds=seconds, peak=usage.ru_maxrss << 10)
