"""Complete small traces without a backend: what a leg of the case glm_asr records, made of seeded noise.

Every leg gets the same values, so that traces made here agree. A test plants its defect in one of them::

    wrong = write_trace(path, leg="vllm-cpu", alter=edit("layers.0.k_proj.bias", lambda bias: bias + 1))
    assert compared(wrong, write_trace(other))["layers.0.k_proj.bias"].status == "fail"

Tensors are named ``PARAMETER`` or ``CLIP/PROBE``; a clip's samples are ``CLIP/audio``. The load audit says
that all was loaded, whatever the tensors hold; ``audit=`` plants a defect there.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.audio import samples_sha256
from harness.cases import get_case
from harness.compare.compare import compare_pair
from harness.compare.features import log_mel
from harness.compare.plan import FEATURES, LOGITS, Scope
from harness.compare.tolerance import load_tolerances
from harness.run import captured_from
from harness.trace import Manifest, Trace, TraceWriter
from harness.trace.schema import (
    AuditedShard,
    CheckpointEntry,
    ClipEntry,
    DType,
    Environment,
    LoadAudit,
    OfferedTensor,
    TranscriptRecord,
)
from harness.trace.tensors import RawTensor, bfloat16_words
from harness.trace.writer import AUDIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from harness.cases.case import Stack
    from harness.compare.result import CheckResult, Role
    from harness.run import CapturedLeg

Array = np.ndarray[Any, np.dtype[Any]]
#: What to record instead of a tensor, given its name; ``None`` leaves it out.
Alter = Callable[[str, RawTensor], RawTensor | None]
#: What to record instead of a clean load audit.
AlterAudit = Callable[[LoadAudit], LoadAudit]

CASE = get_case("glm_asr")
CONFIGS = CASE.small_configs(
    {"encoder_hidden": 8, "encoder_layers": 1, "text_hidden": 8, "text_layers": 1, "text_heads": 1,
     "chunk_seconds": 1}
)  # fmt: skip
SPEC = CASE.feature_spec(CONFIGS)
PROBES = CASE.probes(CONFIGS)
TOLERANCES = load_tolerances()
#: As small checkpoints are: without a k bias.
CHECKPOINT = CheckpointEntry(
    source="synthetic",
    digest="c" * 64,
    config=CONFIGS,
    trained=False,
    lacks=tuple(parameter.name for parameter in CASE.parameters(CONFIGS) if parameter.zero_if_absent),
)


def noise(clip: str, *, seconds: float) -> Array:
    """Samples of a clip: float32 at 16 kHz, the same for the same name."""
    samples = 0.1 * np.random.default_rng(zlib.crc32(clip.encode())).standard_normal(int(16_000 * seconds))
    return samples.astype(np.float32)


def make_clip(
    name: str,
    transcript: str | None = None,
    *,
    language: str = "en",
    seconds: float = 0.5,
    unsupported: str | None = None,
) -> ClipEntry:
    """An entry for a clip of noise."""
    samples = noise(name, seconds=seconds)
    return ClipEntry(
        id=name,
        sha256=samples_sha256(samples),
        samples=samples.size,
        transcript=transcript,
        language=language,
        unsupported=unsupported,
    )


#: ``dog`` is of two chunks; ``zh`` counts in CER only.
CLIPS = (
    make_clip("cat", "the cat sat on the mat"),
    make_clip("dog", "my dog ran", seconds=1.5),
    make_clip("zh", "你好世界", language="zh"),
)


def audio_of(clip: ClipEntry) -> Array:
    """The samples of a clip."""
    return noise(clip.id, seconds=clip.samples / 16_000)


@lru_cache
def features_of(clip: ClipEntry) -> Array:
    """The features of a clip by librosa, float64."""
    return log_mel(audio_of(clip), SPEC)


def rounded(values: Array, dtype: str) -> RawTensor:
    """Round numbers to a leg's dtype."""
    if dtype == "bfloat16":
        return RawTensor(dtype=dtype, shape=values.shape, data=bfloat16_words(values))
    return RawTensor.of(values.astype(dtype))


def edit(name: str, change: Callable[[Array], Array]) -> Alter:
    """Change the values of the tensors that a shell pattern names, within their dtype."""

    def alter(found: str, tensor: RawTensor) -> RawTensor:
        return rounded(change(tensor.values.copy()), tensor.dtype) if fnmatchcase(found, name) else tensor

    return alter


def put(name: str, index: int, value: float) -> Alter:
    """Write ``value`` at one place of the tensors that a pattern names, counted over all axes."""

    def change(values: Array) -> Array:
        values.flat[index] = value
        return values

    return edit(name, change)


def drop(name: str) -> Alter:
    """Leave out the tensors that a pattern names."""
    return lambda found, tensor: None if fnmatchcase(found, name) else tensor


def together(*alters: Alter) -> Alter:
    """Plant several defects, one after the other."""

    def alter(name: str, tensor: RawTensor) -> RawTensor | None:
        found: RawTensor | None = tensor
        for each in alters:
            found = None if found is None else each(name, found)
        return found

    return alter


def write_trace(
    path: Path,
    *,
    leg: str = "hf-cpu",
    dtype: DType = "float32",
    trained: bool = False,
    clips: Sequence[ClipEntry] = CLIPS,
    said: Mapping[str, str | None] | None = None,
    alter: Alter | None = None,
    audit: AlterAudit | None = None,
    unmapped: Sequence[str] = (),
    others: Mapping[str, Array] | None = None,
    parts: Mapping[str, Array] | None = None,
    **manifest: object,
) -> Trace:
    """Write a complete trace and open it.

    Args:
        path: The folder to write.
        leg: Its name; a vllm leg has fused sources and a k bias of zeros, an hf leg has no k bias.
        dtype: Of parameters and activations; logits are float32 on every leg.
        trained: Whether transcripts mean something.
        clips: All have their samples; what is unsupported has nothing else.
        said: What the leg heard, by clip; ``None`` for no transcript. The truth where it is left out.
        alter: Called with every tensor before it is written.
        audit: Called with the clean audit before it is written.
        unmapped: Names of parameters that the case does not know.
        others: What of the model is no canonical parameter.
        parts: What quantised weights are kept as, by canonical name.
        manifest: Fields of the manifest to set otherwise.
    """
    alter = alter or (lambda _, tensor: tensor)
    stack: Stack = "hf" if leg.startswith("hf") else "vllm"
    with TraceWriter.create(path) as writer:
        for parameter in CASE.parameters(CONFIGS):
            if parameter.zero_if_absent and stack == "hf":
                continue
            values = (
                np.zeros(parameter.shape)
                if parameter.zero_if_absent
                else _values(parameter.name, parameter.shape)
            )
            if (tensor := alter(parameter.name, rounded(values, dtype))) is not None:
                source = _source(parameter.name, stack)
                writer.add_parameter(name=parameter.name, source=source, tensor=tensor)
        writer.add_unmapped(unmapped)
        for name, values in (others or {}).items():
            writer.add_other(name=name, tensor=RawTensor.of(values))
        for name, values in (parts or {}).items():
            writer.add_parameter(name=name, source=CASE.published_name(name), tensor=RawTensor.of(values))
        checkpoint = manifest.get("checkpoint", CHECKPOINT)
        assert isinstance(checkpoint, CheckpointEntry)
        fill = manifest.get("fill", "nan")
        clean = clean_audit(stack, dtype=dtype, lacks=checkpoint.lacks, fill=fill)
        writer.add_audit(clean if audit is None else audit(clean))
        for clip in clips:
            if (audio := alter(f"{clip.id}/{AUDIO}", RawTensor.of(audio_of(clip)))) is not None:
                writer.add_audio(clip=clip.id, samples=audio.values)
            if clip.unsupported is None:
                _write_clip(writer, clip, dtype=dtype, alter=alter)
                text = (said or {}).get(clip.id, clip.transcript or "")
                if text is not None:
                    tokens = tuple(text.encode())
                    writer.add_transcript(TranscriptRecord(clip=clip.id, text=text, token_ids=tokens))
        fields = {
            "case": CASE.name,
            "leg": leg,
            "backend": leg.partition("@")[0],
            "device": "cpu",
            "dtype": dtype,
            "attention": "sdpa",
            "work": "run",
            "loader": "installed",
            "loader_changes": (),
            "fill": "nan",
            "seed": 0,
            "max_new_tokens": 16,
            "prompt_token_ids": (258, 262, 259),
            "stop_token_ids": (256,),
            "checkpoint": CHECKPOINT.model_copy(update={"trained": trained}),
            "clips": tuple(clips),
            "environment": Environment(
                python="3.11", platform="", device_name="", cpu_isa="", threads=1, packages={}, variables={}
            ),
            "started": "2026-11-22T00:00:00+00:00",
            "seconds": {},
            "files": {},
        }
        writer.finish(Manifest.model_validate({**fields, **manifest}))
    return Trace(path)


def _write_clip(writer: TraceWriter, clip: ClipEntry, *, dtype: DType, alter: Alter) -> None:
    chunks = CASE.chunks(clip.samples, CONFIGS)
    vocabulary = int(CONFIGS["config.json"]["text_config"]["vocab_size"])
    tensors = {FEATURES: rounded(features_of(clip), dtype)}
    for probe in PROBES[1:]:
        values = _values(f"{clip.id}/{probe.name}", (vocabulary,) if probe.name == LOGITS else (chunks, 5, 8))
        tensors[probe.name] = rounded(values, "float32" if probe.name == LOGITS else dtype)
    for name, tensor in tensors.items():
        if (altered := alter(f"{clip.id}/{name}", tensor)) is not None:
            writer.add_activation(clip=clip.id, probe=name, tensor=altered)


def _values(name: str, shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)


def _own_name(name: str, stack: Stack) -> str:
    """The stack's own parameter that a canonical one is, or is a part of."""
    own = CASE.published_name(name)
    if stack == "vllm":
        own = re.sub(r"\b[qkv]_proj\b", "qkv_proj", own)
        own = re.sub(r"\b(gate|up)_proj\b", "gate_up_proj", own)
    return own


def _source(name: str, stack: Stack) -> str:
    """The stack's own name of a parameter, with the rows of a fused one."""
    own = _own_name(name, stack)
    if own == CASE.published_name(name):
        return own
    (shard,) = (shard for shard in CASE.shards(stack, own, CONFIGS) if shard.name == name)
    return f"{own}[{shard.start}:{shard.stop}]"


def clean_audit(
    stack: Stack,
    *,
    dtype: str = "float32",
    lacks: Sequence[str] = CHECKPOINT.lacks,
    fill: object = "nan",
) -> LoadAudit:
    """The audit of a load that left nothing: every element written, every tensor of the checkpoint used.

    Args:
        stack: As :func:`write_trace` names its parameters; vllm pads the vocabulary.
        dtype: Of the parameters; the checkpoint's is float32.
        lacks: The parameters that the checkpoint has not. vllm has them, written by the loader itself.
        fill: Of vllm's memory.
    """
    parameters = {
        parameter.name: parameter
        for parameter in CASE.parameters(CONFIGS)
        if stack == "vllm" or not parameter.zero_if_absent
    }
    # What the loader writes by itself: zeros for a bias, and for padding.
    own_values = {None, *lacks}
    shards: list[AuditedShard] = []
    for own in dict.fromkeys(_own_name(name, stack) for name in parameters):
        cuts: list[tuple[str | None, str, int, int]] = []
        for shard in CASE.shards(stack, own, CONFIGS):
            part = re.search(r"\b(\w+)_proj\.\w+$", shard.name)
            fused = own != CASE.published_name(shard.name) and part is not None
            cuts.append((shard.name, part[1] if part and fused else "", shard.start, shard.stop))
        first = parameters[str(cuts[0][0])]
        end = rows = cuts[-1][3]
        if stack == "vllm" and first.name in CASE.padded:
            rows = -(-end // 64) * 64
            cuts.append((None, "padding", end, rows))
        width = math.prod(first.shape[1:])
        shards += [
            AuditedShard(
                parameter=own,
                shard=short,
                name=name,
                rows=(start, stop),
                of=rows * width,
                dtype=dtype,
                elements=(stop - start) * width,
                loaded=0 if name in own_values else (stop - start) * width,
                made=(stop - start) * width if name in own_values else 0,
                default=0,
                uninitialised=0,
                sources=(CASE.published_name(name),) if name is not None and name not in lacks else (),
            )
            for name, short, start, stop in cuts
        ]
    return LoadAudit(
        fill_word=None if stack == "hf" else 0x7FC00000 if fill == "nan" else 0x47000000,
        shards=tuple(shards),
        tensors=tuple(
            OfferedTensor(
                name=CASE.published_name(parameter.name),
                dtype="float32",
                shape=parameter.shape,
                non_finite=0,
                consumed=parameter.name in parameters,
                written_to=(_source(parameter.name, stack),) if parameter.name in parameters else (),
            )
            for parameter in CASE.parameters(CONFIGS)
            if parameter.name not in lacks
        ),
    )


def scope_of(trace: Trace) -> Scope:
    """What a plan for this trace is derived from."""
    manifest = trace.manifest
    return Scope(case=CASE, configs=CONFIGS, clips=manifest.clips, trained=manifest.checkpoint.trained)


def leg_of(trace: Trace, *, role: Role = "candidate") -> CapturedLeg:
    """A trace as a leg of a run."""
    return captured_from(trace, role=role)


def compared(candidate: Trace, reference: Trace) -> dict[str, CheckResult]:
    """Compare a pair by the harness's own tolerances: results by ``PARAMETER``, ``CLIP/PROBE`` or rate."""
    names = (leg_of(candidate).name.identifier, leg_of(reference).name.identifier)
    results = compare_pair(
        scope_of(reference), names=names, candidate=candidate, reference=reference, tolerances=TOLERANCES
    )
    found = {
        f"{result.clip}/{result.subject}" if result.clip else result.subject: result for result in results
    }
    assert len(found) == len(results)
    return found


def write_pair(
    folder: Path,
    *,
    alter: Alter | None = None,
    dtype: DType = "float32",
    trained: bool = False,
    clips: Sequence[ClipEntry] = CLIPS,
) -> tuple[Trace, Trace]:
    """Write a candidate of vLLM with defects, and a reference of HuggingFace without."""
    return (
        write_trace(folder / "c", leg="vllm-cpu", dtype=dtype, trained=trained, clips=clips, alter=alter),
        write_trace(folder / "r", leg="hf-cpu", dtype=dtype, trained=trained, clips=clips),
    )


def red(results: Mapping[str, CheckResult]) -> list[str]:
    """The names of the checks that are neither green nor unsupported."""
    return [name for name, result in results.items() if result.status not in {"pass", "unsupported"}]
