"""The folder that a run writes to: one run at a time, and no results of an earlier one."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from harness.errors import InputError
from harness.report import REPORT_FILES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Hold ``out`` for one run, from preparing it to writing its report.

    If the run is refused for bad input, everything that was made for it is taken away again.

    Raises:
        InputError: another run holds it.
    """
    work = out / "work"
    made = [path for path in (work, *work.parents) if not path.exists()]
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / "lock", blocking=False):
            yield
    except Timeout:
        msg = f"another run is writing to {out}: wait for it, or give another folder with --out"
        raise InputError(msg) from None
    except InputError:
        if work in made:
            shutil.rmtree(work)
        for path in made[1:]:
            if not any(path.iterdir()):
                path.rmdir()
        raise


def clear(out: Path) -> None:
    """Take away what an earlier run left: its results must not pass for those of the run that starts."""
    for name in REPORT_FILES:
        (out / name).unlink(missing_ok=True)
    for name in ("traces", "logs"):
        shutil.rmtree(out / name, ignore_errors=True)
