"""The audit alone: load checkpoints in every leg, and judge what loading wrote. No engine, no audio."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.backends.availability import check_available
from harness.backends.legs import run_legs
from harness.backends.request import LegRequest
from harness.cases import get_case
from harness.checkpoints.checkpoint import resolve_checkpoint
from harness.compare.plan import Scope
from harness.run.capture import CapturedLeg, as_leg, ended_leg, shared_fields
from harness.run.folder import clear
from harness.run.judge import judge_loading, make_report
from harness.run.options import find_legs, twin_name, with_twins

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from harness.cases.case import Case
    from harness.checkpoints.checkpoint import Checkpoint
    from harness.compare.result import Report
    from harness.run.options import AuditOptions, Leg


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One checkpoint to load, and where its traces go."""

    checkpoint: Checkpoint
    folder: Path


def audit(options: AuditOptions, *, progress: Callable[[str, str], None]) -> Report:
    """Audit how every leg loads ``options.checkpoint``.

    The folder ``options.out`` is the caller's to claim (:func:`harness.run.folder.claimed`).

    Raises:
        InputError: anything that was given is wrong.
    """
    (report,) = audit_many(options, (options.checkpoint,), progress=progress)
    return report


def audit_many(
    options: AuditOptions, checkpoints: Sequence[str], *, progress: Callable[[str, str], None]
) -> tuple[Report, ...]:
    """Audit several checkpoints, one report for each: every backend is started once for all of them.

    Raises:
        InputError: anything that was given is wrong.
    """
    started = time.monotonic()
    case = get_case(options.case)
    legs = find_legs(options.legs, python=options.python, loader=options.loader)
    if options.dual_poison:
        legs = with_twins(legs)
    folders = [
        options.out if len(checkpoints) == 1 else options.out / str(i) for i in range(len(checkpoints))
    ]
    jobs = [
        _Job(
            # All in the one folder that is taken away again if a later one is refused.
            checkpoint=resolve_checkpoint(
                name, case=case, folder=options.out / "work" / folder.relative_to(options.out) / "checkpoint"
            ),
            folder=folder.resolve(),
        )
        for name, folder in zip(checkpoints, folders, strict=True)
    ]
    for folder in {options.out, *folders}:
        clear(folder)
    captured: list[list[CapturedLeg]] = [[] for _ in jobs]
    # A leg and its twin share a process: they differ in nothing that a process has once.
    for leg in legs:
        if leg.role != "twin":
            twins = [other for other in legs if other.role == "twin" and other.name == twin_name(leg.name)]
            for index, ended in _load((leg, *twins), jobs, options=options, case=case, progress=progress):
                captured[index].append(ended)
    seconds = time.monotonic() - started
    return tuple(
        _report(job, found, options=options, case=case, seconds=seconds)
        for job, found in zip(jobs, captured, strict=True)
    )


def _load(
    legs: Sequence[Leg],
    jobs: Sequence[_Job],
    *,
    options: AuditOptions,
    case: Case,
    progress: Callable[[str, str], None],
) -> list[tuple[int, CapturedLeg]]:
    """Load every job in every one of the legs, in one process."""
    first = legs[0]
    found = check_available(first.name, interpreter=first.interpreter)
    if not found.available:
        progress(str(first.name), f"not run: {found.reason}")
        return [
            (index, as_leg(leg, status="unavailable", reason=found.reason))
            for index in range(len(jobs))
            for leg in legs
        ]
    out = options.out.resolve()
    work = [(index, job, leg) for index, job in enumerate(jobs) for leg in legs]
    requests = [
        LegRequest(
            **shared_fields(leg, options, checkpoint=job.checkpoint, case=case),
            work="audit",
            clips=(),
            audio=None,
            max_new_tokens=0,
            trace=job.folder / "traces" / str(leg.name),
            log=out / "logs" / f"{first.name}.log",
            progress=out / "work" / f"{first.name}.progress",
            failure=job.folder / "work" / f"{leg.name}.failure",
        )
        for _, job, leg in work
    ]
    progress(str(first.name), f"starting in {first.interpreter}")
    ended = run_legs(
        requests,
        interpreter=first.interpreter,
        timeout=options.timeout,
        progress=lambda text: progress(str(first.name), text),
    )
    return [
        (index, ended_leg(leg, outcome, log=requests[0].log, progress=progress))
        for (index, _, leg), outcome in zip(work, ended, strict=True)
    ]


def _report(
    job: _Job, legs: Sequence[CapturedLeg], *, options: AuditOptions, case: Case, seconds: float
) -> Report:
    checkpoint = job.checkpoint
    scope = Scope(case=case, configs=checkpoint.configs, clips=(), trained=checkpoint.trained)
    return make_report(
        scope,
        legs=legs,
        checks=judge_loading(scope, legs=legs),
        dtype=options.dtype,
        checkpoint=checkpoint.entry,
        command=options.command,
        seconds={"total": seconds},
        work="audit",
    )
