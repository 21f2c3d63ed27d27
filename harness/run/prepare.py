"""Everything that is known before a backend starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.audio import load_clips
from harness.cases import get_case
from harness.checkpoints.checkpoint import resolve_checkpoint
from harness.compare.plan import FEATURES, RATES, PlannedCheck, Scope, plan_run
from harness.compare.tolerance import load_tolerances
from harness.errors import InputError
from harness.run.options import Leg, RunOptions, plan_legs
from harness.trace.schema import ClipEntry

if TYPE_CHECKING:
    from harness.audio import Clip
    from harness.checkpoints.checkpoint import Checkpoint
    from harness.compare.tolerance import Tolerances

#: A transcript of the longest embedded clip fits; random weights never stop by themselves.
TRAINED_TOKENS, UNTRAINED_TOKENS = 200, 16


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything known before a backend starts: legs, inputs, and the plan of checks."""

    options: RunOptions
    legs: tuple[Leg, ...]
    checkpoint: Checkpoint
    clips: tuple[Clip, ...]
    entries: tuple[ClipEntry, ...]
    scope: Scope
    tolerances: Tolerances
    max_new_tokens: int
    plan: tuple[PlannedCheck, ...]


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
    if "quantization_config" in checkpoint.configs["config.json"]:
        msg = (
            f"checkpoint {checkpoint.source} is quantised (quantization_config in config.json): its values "
            "cannot be compared with the reference's; 'harness audit' takes it"
        )
        raise InputError(msg)
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
    # Asked for now: a rule that is missing must not be found after the legs have run.
    for probe in case.probes(checkpoint.configs):
        tolerances.for_probe(probe.name, dtype=options.dtype)
    tolerances.for_features(FEATURES, dtype=options.dtype)
    for rate in RATES if checkpoint.trained else ():
        tolerances.for_rate(rate, dtype=options.dtype)
    scope = Scope(case=case, configs=checkpoint.configs, clips=entries, trained=checkpoint.trained)
    identifiers = [leg.name.identifier for leg in legs if leg.role != "twin"]
    twins = [leg.name.identifier for leg in legs if leg.role != "twin" and leg.name.stack == "vllm"]
    return Prepared(
        options=options,
        legs=legs,
        checkpoint=checkpoint,
        clips=clips,
        entries=entries,
        scope=scope,
        tolerances=tolerances,
        max_new_tokens=max_new_tokens,
        plan=plan_run(
            scope,
            reference=identifiers[0],
            candidates=identifiers[1:],
            twins=twins if options.dual_poison and not single else (),
        ),
    )
