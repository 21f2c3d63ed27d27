"""Starts :mod:`harness.backends.capture` in an interpreter that need not have the harness installed.

Run as a file: only the package ``harness`` is taken from where this file lies, so that nothing else
there can shadow what the leg's own environment has.
"""

import ctypes
import importlib.util
import os
import pathlib
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with(harness: int) -> None:
    """Let the kernel kill this process when its parent ends, by whatever signal: nobody else would."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have ended before that took hold; a process that nobody has waited for yet is still listed.
    try:
        state = (
            pathlib.Path(f"/proc/{harness}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        )
    except OSError:
        state = "X"
    if sys.platform == "linux" and state in {"X", "Z"}:
        sys.exit("the harness that asked for this leg is gone")


def main() -> int:
    """Make ``harness`` importable, and nothing else; then capture."""
    if sys.version_info < (3, 11):  # noqa: UP036 - any interpreter may be named for a leg
        sys.stderr.write(
            f"a leg's interpreter must be Python 3.11 or later, {sys.executable} is {sys.version}\n"
        )
        return 1
    die_with(int(sys.argv[1]))
    package = pathlib.Path(__file__).resolve().parent.parent
    sys.path[:] = [
        entry for entry in sys.path if pathlib.Path(entry or ".").resolve() != package / "backends"
    ]
    spec = importlib.util.spec_from_file_location(
        "harness", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - for the type checker
    module = importlib.util.module_from_spec(spec)
    sys.modules["harness"] = module
    spec.loader.exec_module(module)
    from harness.backends.capture import main as capture

    return capture(sys.argv[2:])


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # What was asked for is on disk; taking a backend down in order costs seconds and nobody waits for it.
    os._exit(status)
