"""Captures the legs of a run, one after the other."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from harness.backends.availability import check_available
from harness.backends.legs import run_leg
from harness.backends.names import LegName
from harness.backends.request import LegRequest
from harness.compare.result import LegReport
from harness.errors import CaptureError, InputError
from harness.files import new_folder, replace_folder
from harness.run.options import Leg, RunOptions
from harness.run.prepare import Prepared, prepare
from harness.trace.tensors import RawTensor, TensorWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.backends.legs import LegOutcome
    from harness.cases.case import Case
    from harness.checkpoints.checkpoint import Checkpoint
    from harness.compare.result import LegStatus, Role
    from harness.run.options import AuditOptions
    from harness.trace import Trace


@dataclass(frozen=True, kw_only=True)
class CapturedLeg:
    """A leg and what became of it; ``trace`` only where it is complete."""

    name: LegName
    report: LegReport
    trace: Trace | None


def capture_one(options: RunOptions, *, progress: Callable[[str, str], None]) -> None:
    """Capture one leg, ``options.reference``, into the trace ``options.out``.

    Raises:
        InputError: bad input, or ``out`` holds something that is not a trace.
        CaptureError: the leg cannot run or did not finish; its log is left beside ``out``.
    """
    out = options.out
    if out.exists() and not (out / "manifest.json").is_file() and (out.is_file() or any(out.iterdir())):
        msg = f"--out {out}: expected a new folder or a trace to replace, found something else there"
        raise InputError(msg)
    # On the same file system as `out`, so that the trace can be renamed into place.
    nearest = next(parent for parent in out.absolute().parents if parent.is_dir())
    with TemporaryDirectory(prefix=f".{out.name}.", dir=nearest) as work:
        prepared = prepare(replace(options, out=Path(work)), single=True)
        (planned,) = prepared.legs
        leg = capture_leg(planned, prepared, audio=write_audio(prepared), progress=progress)
        out.parent.mkdir(parents=True, exist_ok=True)
        if leg.trace is None:
            log = ""
            if leg.report.log is not None:
                kept = out.with_name(f"{out.name}.log")
                shutil.move(leg.report.log, kept)
                log = f"; its log is {kept}"
            msg = f"leg {leg.report.name} has no trace: {leg.report.reason}{log}"
            raise CaptureError(msg)
        replace_folder(leg.trace.path, out)


def write_audio(prepared: Prepared) -> Path:
    """Write the samples that every stack gets, once: float32, 16 kHz, mono, a tensor per clip."""
    with new_folder(prepared.options.out / "work" / "audio") as folder:
        room = max(1 << 16, 256 * len(prepared.clips))
        with TensorWriter(folder / "clips.safetensors", header_room=room) as writer:
            for clip in prepared.clips:
                writer.add(clip.id, RawTensor.of(clip.samples))
    return (prepared.options.out / "work" / "audio" / "clips.safetensors").resolve()


def capture_leg(
    leg: Leg, prepared: Prepared, *, audio: Path, progress: Callable[[str, str], None]
) -> CapturedLeg:
    """Capture one leg of a run if it can run here; never raises for what becomes of it.

    Args:
        leg: What to capture, and where.
        prepared: What every leg of the run shares.
        audio: From :func:`write_audio`.
        progress: Called with the leg's name and what it does now.
    """
    options, checkpoint, name = prepared.options, prepared.checkpoint, str(leg.name)
    availability = check_available(leg.name, interpreter=leg.interpreter)
    if not availability.available:
        progress(name, f"not run: {availability.reason}")
        return as_leg(leg, status="unavailable", reason=availability.reason)
    out = options.out.resolve()
    request = LegRequest(
        **shared_fields(leg, options, checkpoint=checkpoint, case=prepared.scope.case),
        work="run",
        clips=prepared.entries,
        audio=audio,
        max_new_tokens=prepared.max_new_tokens,
        trace=out / "traces" / name,
        log=out / "logs" / f"{name}.log",
        progress=out / "work" / f"{name}.progress",
        failure=out / "work" / f"{name}.failure",
    )
    progress(name, f"starting in {leg.interpreter}")
    ended = run_leg(
        request,
        interpreter=leg.interpreter,
        timeout=options.timeout,
        progress=lambda text: progress(name, text),
    )
    return ended_leg(leg, ended, log=request.log, progress=progress)


def shared_fields(
    leg: Leg, options: RunOptions | AuditOptions, *, checkpoint: Checkpoint, case: Case
) -> dict[str, Any]:
    """The fields of a request that do not depend on what the leg is to do."""
    return {
        "case": options.case,
        "leg": str(leg.name),
        "stack": leg.name.stack,
        "device": leg.name.device,
        "dtype": options.dtype,
        "attention": options.attention,
        "loader": leg.loader,
        "fill": leg.fill,
        "checkpoint_folder": checkpoint.folder.resolve(),
        "checkpoint": checkpoint.entry,
        "prompt_token_ids": checkpoint.prompt_token_ids,
        "stop_token_ids": case.stop_token_ids(checkpoint.configs),
        "seed": options.seed,
    }


def ended_leg(leg: Leg, ended: LegOutcome, *, log: Path, progress: Callable[[str, str], None]) -> CapturedLeg:
    """A leg whose process has ended, with a trace or with the reason why there is none."""
    name = str(leg.name)
    if ended.trace is None:
        progress(name, f"error: {ended.reason}")
        return as_leg(
            leg,
            status="error",
            reason=ended.reason,
            log=str(log),
            log_tail=ended.log_tail,
            seconds={"total": ended.seconds},
        )
    progress(name, f"captured in {ended.seconds:.1f} s")
    return as_leg(leg, status="captured", log=str(log), trace=ended.trace, seconds={"process": ended.seconds})


def as_leg(
    leg: Leg,
    *,
    status: LegStatus,
    reason: str = "",
    log: str | None = None,
    log_tail: tuple[str, ...] = (),
    trace: Trace | None = None,
    seconds: Mapping[str, float] | None = None,
) -> CapturedLeg:
    """Put what is known of a leg together."""
    manifest = None if trace is None else trace.manifest
    report = LegReport(
        name=str(leg.name),
        backend=leg.name.backend,
        role=leg.role,
        required=leg.required,
        status=status,
        reason=reason,
        interpreter=leg.interpreter,
        trace=None if trace is None else str(trace.path),
        log=log,
        log_tail=log_tail,
        attention="" if manifest is None else manifest.attention,
        loader=leg.loader if manifest is None else manifest.loader,
        loader_changes=() if manifest is None else manifest.loader_changes,
        environment=None if manifest is None else manifest.environment,
        seconds={**({} if manifest is None else manifest.seconds), **(seconds or {})},
    )
    return CapturedLeg(name=leg.name, report=report, trace=trace)


def captured_from(trace: Trace, *, role: Role, label: str = "") -> CapturedLeg:
    """Take a trace from disk as a leg; ``label`` tells two of the same name apart."""
    name = LegName.parse(trace.manifest.leg)
    if label:
        label = f"{name.label}-{label}" if name.label else label
        name = LegName(stack=name.stack, device=name.device, label=label)
    leg = Leg(name=name, role=role, required=True, interpreter="")
    return as_leg(leg, status="captured", trace=trace)
