"""The main job: capture every leg once, compare, report."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from harness.run.capture import capture_leg, write_audio
from harness.run.folder import clear
from harness.run.judge import judge, make_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.compare.result import Report
    from harness.run.prepare import Prepared


def run(prepared: Prepared, *, progress: Callable[[str, str], None]) -> Report:
    """Capture every leg that can run, compare, and return the report.

    The folder ``prepared.options.out`` is the caller's to claim (:func:`harness.run.folder.claimed`).

    Args:
        prepared: From :func:`prepare`.
        progress: Called with a leg's name and what it does now.
    """
    started = time.monotonic()
    options = prepared.options
    clear(options.out)
    audio = write_audio(prepared)
    legs = [capture_leg(leg, prepared, audio=audio, progress=progress) for leg in prepared.legs]
    captured = time.monotonic()
    progress("compare", f"{len(prepared.plan)} checks")
    checks = judge(prepared.scope, legs=legs, tolerances=prepared.tolerances)
    return make_report(
        prepared.scope,
        legs=legs,
        checks=checks,
        dtype=options.dtype,
        checkpoint=prepared.checkpoint.entry,
        command=options.command,
        seconds={
            "capture": captured - started,
            "compare": time.monotonic() - captured,
            "total": time.monotonic() - started,
        },
    )
