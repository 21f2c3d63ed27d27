"""The main job: plan the legs, capture each once, compare, report."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from harness import __version__
from harness.audio import load_clips
from harness.backends.availability import check_available, find_interpreter
from harness.backends.legs import run_leg
from harness.backends.names import LegName
from harness.backends.request import Attention, LegRequest
from harness.cases import get_case
from harness.checkpoints.checkpoint import resolve_checkpoint
from harness.compare.activations import first_divergence
from harness.compare.compare import compare_leg, compare_pair
from harness.compare.diagnosis import diagnose
from harness.compare.features import LibrosaFeatures
from harness.compare.plan import UNTRAINED, PlannedCheck, Subject, pair_name, plan_leg, plan_pair, plan_run
from harness.compare.result import LegReport, Report
from harness.compare.tolerance import load_tolerances
from harness.compare.transcripts import score_leg
from harness.compare.verdict import EXIT_CODES, count, outcome, verdict
from harness.errors import CaptureError, InputError
from harness.files import new_folder
from harness.trace import Trace
from harness.trace.schema import CheckpointEntry, ClipEntry
from harness.trace.tensors import RawTensor, TensorWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from harness.audio import Clip
    from harness.checkpoints.checkpoint import Checkpoint
    from harness.compare.result import CheckResult, LegStatus
    from harness.compare.tolerance import Tolerances
    from harness.trace.schema import DType

#: A transcript of the longest embedded clip fits; random weights never stop by themselves.
TRAINED_TOKENS, UNTRAINED_TOKENS = 200, 16
DEFAULT_TIMEOUT = 1800.0


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What ``harness run`` was asked for. ``python`` maps a leg or a backend to an interpreter."""

    out: Path
    case: str = "glm_asr"
    reference: str = "hf-cpu"
    candidates: tuple[str, ...] = ("vllm-cpu",)
    require: tuple[str, ...] = ()
    dtype: DType = "float32"
    attention: Attention = "sdpa"
    checkpoint: str = "random"
    audio: tuple[Path, ...] = ()
    python: Mapping[str, str] = field(default_factory=dict)
    timeout: float = DEFAULT_TIMEOUT
    max_new_tokens: int | None = None
    seed: int = 0
    tolerances: Path | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One capture to do."""

    name: LegName
    role: str
    required: bool
    interpreter: str


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything known before a backend starts: legs, inputs, and the plan of checks."""

    options: RunOptions
    legs: tuple[Leg, ...]
    checkpoint: Checkpoint
    clips: tuple[Clip, ...]
    entries: tuple[ClipEntry, ...]
    subject: Subject
    tolerances: Tolerances
    max_new_tokens: int
    plan: tuple[PlannedCheck, ...]


@dataclass(frozen=True, kw_only=True)
class CapturedLeg:
    """A leg and what became of it; ``trace`` only where it is complete."""

    name: LegName
    report: LegReport
    trace: Trace | None


def plan_legs(options: RunOptions, *, single: bool = False) -> tuple[Leg, ...]:
    """Take the legs' names apart and find their interpreters: reference first, then candidates.

    A leg named in ``require`` and nowhere else is a candidate too. ``single`` is for capturing the
    reference alone.

    Raises:
        InputError: an unknown leg, the same leg twice, or an interpreter that is not there.
    """
    names = [options.reference, *options.candidates]
    names += [name for name in dict.fromkeys(options.require) if name not in names]
    if len(names) == 1 and not single:
        msg = "nothing to compare: give at least one --candidate"
        raise InputError(msg)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        msg = f"leg {twice[0]} is named twice; tell legs of one backend apart with a label: {twice[0]}@LABEL"
        raise InputError(msg)
    if unknown := sorted(set(options.python) - set(names) - {LegName.parse(name).backend for name in names}):
        msg = f"--python {unknown[0]}=…: no such leg in this run, its legs are {', '.join(names)}"
        raise InputError(msg)
    legs = []
    for name in names:
        parsed = LegName.parse(name)
        given = options.python.get(name, options.python.get(parsed.backend))
        legs.append(
            Leg(
                name=parsed,
                role="reference" if name == options.reference else "candidate",
                required=name == options.reference or name in options.require,
                interpreter=find_interpreter(given),
            )
        )
    return tuple(legs)


def prepare(options: RunOptions, *, single: bool = False) -> Prepared:
    """Check all input and derive the plan; starts no backend.

    Raises:
        InputError: anything that was given is wrong; nothing but a ``random`` checkpoint is written.
    """
    case = get_case(options.case)
    legs = plan_legs(options, single=single)
    tolerances = load_tolerances(options.tolerances)
    clips = load_clips(options.audio or None)
    checkpoint = resolve_checkpoint(options.checkpoint, case=case, folder=options.out / "work" / "checkpoint")
    max_new_tokens = options.max_new_tokens or (TRAINED_TOKENS if checkpoint.trained else UNTRAINED_TOKENS)
    entries = tuple(
        ClipEntry(
            id=clip.id,
            sha256=clip.sha256,
            samples=clip.samples.size,
            transcript=clip.transcript,
            language=clip.language,
            unsupported=case.unsupported(
                clip.samples.size,
                checkpoint.configs,
                prompt_tokens=len(checkpoint.prompt_token_ids),
                max_new_tokens=max_new_tokens,
            ),
        )
        for clip in clips
    )
    subject = Subject(case=case, configs=checkpoint.configs, clips=entries, trained=checkpoint.trained)
    identifiers = [leg.name.identifier for leg in legs]
    return Prepared(
        options=options,
        legs=legs,
        checkpoint=checkpoint,
        clips=clips,
        entries=entries,
        subject=subject,
        tolerances=tolerances,
        max_new_tokens=max_new_tokens,
        plan=plan_run(subject, reference=identifiers[0], candidates=identifiers[1:]),
    )


def run(prepared: Prepared, *, progress: Callable[[str, str], None]) -> Report:
    """Capture every leg that can run, compare, and return the report.

    Args:
        prepared: From :func:`prepare`.
        progress: Called with a leg's name and what it does now.
    """
    started = time.monotonic()
    options = prepared.options
    audio = _write_audio(prepared)
    legs = [_run(leg, prepared, audio=audio, progress=progress) for leg in prepared.legs]
    captured = time.monotonic()
    progress("compare", f"{len(prepared.plan)} checks")
    checks = judge(prepared.subject, legs=legs, tolerances=prepared.tolerances)
    return make_report(
        prepared.subject,
        legs=legs,
        checks=checks,
        dtype=options.dtype,
        checkpoint=CheckpointEntry(
            source=prepared.checkpoint.source,
            digest=prepared.checkpoint.digest,
            config=prepared.checkpoint.configs,
            trained=prepared.checkpoint.trained,
        ),
        command=options.command,
        seconds={
            "capture": captured - started,
            "compare": time.monotonic() - captured,
            "total": time.monotonic() - started,
        },
    )


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
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
        prepared = prepare(replace(options, out=Path(work)), single=True)
        (planned,) = prepared.legs
        leg = _run(planned, prepared, audio=_write_audio(prepared), progress=progress)
        if leg.trace is None:
            log = ""
            if leg.report.log is not None:
                kept = out.with_name(f"{out.name}.log")
                shutil.move(leg.report.log, kept)
                log = f"; its log is {kept}"
            msg = f"leg {leg.report.name} has no trace: {leg.report.reason}{log}"
            raise CaptureError(msg)
        if out.exists():
            shutil.rmtree(out)
        leg.trace.path.rename(out)


def _write_audio(prepared: Prepared) -> Path:
    """Write the samples that every stack gets, once: float32, 16 kHz, mono, a tensor per clip."""
    with new_folder(prepared.options.out / "work" / "audio") as folder:
        room = max(1 << 16, 256 * len(prepared.clips))
        with TensorWriter(folder / "clips.safetensors", header_room=room) as writer:
            for clip in prepared.clips:
                writer.add(clip.id, RawTensor.of(clip.samples))
    return (prepared.options.out / "work" / "audio" / "clips.safetensors").resolve()


def _run(leg: Leg, prepared: Prepared, *, audio: Path, progress: Callable[[str, str], None]) -> CapturedLeg:
    options, checkpoint, name = prepared.options, prepared.checkpoint, str(leg.name)
    availability = check_available(leg.name, interpreter=leg.interpreter)
    if not availability.available:
        progress(name, f"not run: {availability.reason}")
        return _captured(leg, status="unavailable", reason=availability.reason)
    out = options.out.resolve()
    request = LegRequest(
        case=options.case,
        leg=name,
        stack=leg.name.stack,
        device=leg.name.device,
        dtype=options.dtype,
        attention=options.attention,
        loader="installed",
        checkpoint_folder=checkpoint.folder.resolve(),
        checkpoint=CheckpointEntry(
            source=checkpoint.source,
            digest=checkpoint.digest,
            config=checkpoint.configs,
            trained=checkpoint.trained,
        ),
        clips=prepared.entries,
        audio=audio,
        prompt_token_ids=checkpoint.prompt_token_ids,
        stop_token_ids=prepared.subject.case.stop_token_ids(checkpoint.configs),
        max_new_tokens=prepared.max_new_tokens,
        seed=options.seed,
        trace=out / "traces" / name,
        log=out / "logs" / f"{name}.log",
        progress=out / "work" / f"{name}.progress",
    )
    progress(name, f"starting in {leg.interpreter}")
    ended = run_leg(
        request,
        interpreter=leg.interpreter,
        timeout=options.timeout,
        progress=lambda text: progress(name, text),
    )
    if ended.trace is None:
        progress(name, f"error: {ended.reason}")
        return _captured(
            leg,
            status="error",
            reason=ended.reason,
            log=str(request.log),
            log_tail=ended.log_tail,
            seconds={"total": ended.seconds},
        )
    progress(name, f"captured in {ended.seconds:.1f} s")
    return _captured(
        leg, status="captured", log=str(request.log), trace=ended.trace, seconds={"process": ended.seconds}
    )


def _captured(
    leg: Leg,
    *,
    status: LegStatus,
    reason: str = "",
    log: str | None = None,
    log_tail: tuple[str, ...] = (),
    trace: Trace | None = None,
    seconds: Mapping[str, float] | None = None,
) -> CapturedLeg:
    manifest = None if trace is None else trace.manifest
    report = LegReport(
        name=str(leg.name),
        backend=leg.name.backend,
        role="reference" if leg.role == "reference" else "candidate",
        required=leg.required,
        status=status,
        reason=reason,
        interpreter=leg.interpreter,
        trace=None if trace is None else str(trace.path),
        log=log,
        log_tail=log_tail,
        attention="" if manifest is None else manifest.attention,
        loader="installed" if manifest is None else manifest.loader,
        environment=None if manifest is None else manifest.environment,
        seconds={**({} if manifest is None else manifest.seconds), **(seconds or {})},
    )
    return CapturedLeg(name=leg.name, report=report, trace=trace)


def captured_from(trace: Trace, *, role: str, label: str = "") -> CapturedLeg:
    """Take a trace from disk as a leg; ``label`` tells two of the same name apart."""
    name = LegName.parse(trace.manifest.leg)
    if label:
        name = LegName(stack=name.stack, device=name.device, label=label)
    leg = Leg(name=name, role=role, required=True, interpreter="")
    return _captured(leg, status="captured", trace=trace)


def judge(
    subject: Subject, *, legs: Sequence[CapturedLeg], tolerances: Tolerances
) -> tuple[CheckResult, ...]:
    """Give every planned check a result. The reference is the first of ``legs``.

    Raises:
        TraceError: two traces are not comparable.
    """
    reference, candidates = legs[0], legs[1:]
    features = LibrosaFeatures(subject.case.feature_spec(subject.configs))
    checks: list[CheckResult] = []
    for leg in legs:
        planned = plan_leg(subject, leg=leg.name.identifier)
        checks += (
            _without(planned, leg)
            if leg.trace is None
            else compare_leg(planned, trace=leg.trace, features=features, tolerances=tolerances)
        )
    for leg in candidates:
        names = leg.name.identifier, reference.name.identifier
        if leg.trace is not None and reference.trace is not None:
            checks += compare_pair(
                subject,
                names=names,
                candidate=leg.trace,
                reference=reference.trace,
                tolerances=tolerances,
            )
        else:
            lacking = leg if leg.trace is None else reference
            checks += _without(plan_pair(subject, candidate=names[0], reference=names[1]), lacking)
    return tuple(checks)


def _without(planned: Sequence[PlannedCheck], leg: CapturedLeg) -> list[CheckResult]:
    """What the checks of a leg without a trace end in: never in green, and as missing if it had to run."""
    report = leg.report
    if report.status == "error":
        message = f"leg {report.name} did not finish: {report.reason}"
        return [check.result("error" if check.kind == "leg" else "missing", message) for check in planned]
    need = "required, and " if report.required else ""
    message = f"leg {report.name} is {need}not available: {report.reason}"
    return [check.result("missing" if report.required else "unsupported", message) for check in planned]


def make_report(
    subject: Subject,
    *,
    legs: Sequence[CapturedLeg],
    checks: tuple[CheckResult, ...],
    dtype: DType,
    checkpoint: CheckpointEntry,
    command: tuple[str, ...],
    seconds: dict[str, float],
) -> Report:
    """Put results, legs and verdict together."""
    pairs = [pair_name(leg.name.identifier, legs[0].name.identifier) for leg in legs[1:]]
    probes = subject.case.probes(subject.configs)
    divergences = [found for pair in pairs if (found := first_divergence(checks, probes=probes, pair=pair))]
    divergence = divergences[0] if divergences else None
    diagnosis = diagnose(checks, divergence)
    reports = tuple(leg.report for leg in legs)
    result = outcome(checks)
    notes = []
    if not subject.trained:
        notes.append(f"WER, CER and tokens are {UNTRAINED}.")
    notes += [f"clip {clip.id}: {clip.unsupported}" for clip in subject.clips if clip.unsupported]
    return Report(
        harness=__version__,
        created=datetime.now(tz=UTC).isoformat(timespec="seconds"),
        command=command or tuple(sys.argv),
        case=subject.case.name,
        checkpoint=checkpoint.source,
        checkpoint_digest=checkpoint.digest,
        trained=checkpoint.trained,
        dtype=dtype,
        outcome=result,
        exit_code=EXIT_CODES[result],
        verdict=verdict(checks, legs=reports, diagnosis=diagnosis),
        diagnosis=diagnosis,
        notes=tuple(notes),
        first_divergence=divergence,
        legs=reports,
        clips=subject.clips,
        counts=count(checks),
        checks=checks,
        transcripts={leg.report.name: score_leg(leg.trace) for leg in legs if leg.trace is not None},
        seconds=seconds,
    )


def judge_traces(
    reference: Path, candidates: Sequence[Path], *, tolerances: Path | None, command: tuple[str, ...]
) -> Report:
    """Compare traces that are on disk already; needs no backend.

    Raises:
        InputError: a trace is not complete, was changed, or did other work than the reference.
    """
    rules = load_tolerances(tolerances)
    started = time.monotonic()
    opened = [Trace(path) for path in (reference, *candidates)]
    names = [trace.manifest.leg for trace in opened]
    legs = [
        captured_from(
            trace,
            role="candidate" if index else "reference",
            # Two traces of one leg, as from two runs, still need names of their own.
            label=f"trace{index}" if names.index(trace.manifest.leg) < index else "",
        )
        for index, trace in enumerate(opened)
    ]
    manifest = opened[0].manifest
    subject = Subject(
        case=get_case(manifest.case),
        configs=manifest.checkpoint.config,
        clips=manifest.clips,
        trained=manifest.checkpoint.trained,
    )
    checks = judge(subject, legs=legs, tolerances=rules)
    return make_report(
        subject,
        legs=legs,
        checks=checks,
        dtype=manifest.dtype,
        checkpoint=manifest.checkpoint,
        command=command,
        seconds={"compare": time.monotonic() - started},
    )
