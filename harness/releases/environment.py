"""The environment of a release: built by its lock or reused, and taken away after use."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from harness.errors import HarnessError
from harness.releases import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SCRIPT = Path(build.__file__)
#: How often the build's output is looked at, and how often it is said that it goes on, in seconds.
_POLL, _HEARTBEAT = 0.2, 10.0


class InstallError(HarnessError):
    """The environment of a release cannot be built: its cells end as ``error``."""


@contextmanager
def release_environment(
    lock: Path,
    folder: Path,
    *,
    log: Path,
    free_gigabytes: float,
    keep: bool,
    progress: Callable[[str], None],
) -> Iterator[str]:
    """Give the interpreter of an environment of ``lock`` at ``folder``.

    One that is there and complete is reused, and stays. One that is built here is taken away at the end
    unless ``keep``; what is left of a build that failed is always taken away.

    Args:
        lock: A lock file of :mod:`harness.releases.build`.
        folder: Where the environment is, or is to be.
        log: Where the build's output goes.
        free_gigabytes: Without so much free space, in units of 10^9 bytes, nothing is built.
        keep: Whether an environment that is built here stays.
        progress: Called with what is done now.

    Raises:
        InstallError: it cannot be built, with the last error of pip.
    """
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder.parent}: cannot be made a folder: {error.strerror}; give another --environments"
        raise InstallError(msg) from error
    with _alone(folder, progress):
        try:
            reused = build.is_built(lock, folder)
            if not reused:
                _check(lock, folder, free_gigabytes=free_gigabytes)
        except build.LockError as error:
            raise InstallError(str(error)) from error
        done = False
        try:
            if reused:
                progress(f"reusing {folder}")
            else:
                _build(lock, folder, log=log, progress=progress)
            done = True
            yield str(folder / "bin" / "python")
        finally:
            if not reused and not (done and keep):
                progress(f"removing {folder}")
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _alone(folder: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Keep other commands from taking the environment away while it is used."""
    lock = FileLock(folder.with_name(f"{folder.name}.use-lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        progress(f"waiting for another command that uses {folder}")
        lock.acquire()
    except OSError as error:
        msg = f"{folder.parent}: cannot be written to: {error.strerror}; give another --environments"
        raise InstallError(msg) from error
    try:
        yield
    finally:
        lock.release()


def _check(lock: Path, folder: Path, *, free_gigabytes: float) -> None:
    """See that building would take away nothing of value, and that there is room."""
    if build.runs_in(folder):
        msg = (
            f"{folder} is not what {lock.name} pins, and this harness runs in it; let tox build it anew, or "
            "give another --environments"
        )
        raise InstallError(msg)
    # Whoever made it otherwise is not asked; the file beside it shows that it was built by a lock.
    if folder.is_file() or (
        folder.is_dir() and any(folder.iterdir()) and not build.guard_file(folder).is_file()
    ):
        msg = f"{folder}: expected an environment of this harness or nothing, found something else; move it"
        raise InstallError(msg)
    free = shutil.disk_usage(folder.parent).free / 1e9
    if free < free_gigabytes:
        msg = (
            f"{folder} needs {free_gigabytes:g} GB of free space to be built, and there are {free:.1f}; free "
            "some, or give a folder on another disk with --environments"
        )
        raise InstallError(msg)


def _build(lock: Path, folder: Path, *, log: Path, progress: Callable[[str], None]) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    started = shown = time.monotonic()
    doing = "starting to build"

    def said() -> list[str]:
        """What the script itself has said since; the rest is pip's."""
        return [line[len(build.SAYS) :].rstrip() for line in reader if line.startswith(build.SAYS)]

    with log.open("w", encoding="utf-8") as output, log.open(encoding="utf-8", errors="replace") as reader:
        process = subprocess.Popen(
            [sys.executable, str(_SCRIPT), str(lock.absolute()), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # A group of its own: pip ends with it when the harness is stopped.
            start_new_session=True,
        )
        try:
            while (code := process.poll()) is None:
                for doing in said():
                    shown = time.monotonic()
                    progress(doing)
                if time.monotonic() - shown >= _HEARTBEAT:
                    shown = time.monotonic()
                    progress(f"{doing} ({shown - started:.0f} s)")
                time.sleep(_POLL)
            for doing in said():
                progress(doing)
        except BaseException:
            _kill(process)
            raise
    if code:
        msg = f"{folder.name} could not be installed: {_last_error(log)}; the whole output is in {log}"
        raise InstallError(msg)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_error(log: Path) -> str:
    """The last line of pip's error, or else the last line there is."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    said = [line.removeprefix(build.SAYS) for line in lines if line]
    return (errors or said or ["no output"])[-1]
