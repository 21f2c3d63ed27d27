"""What comparing yields: check results, and the report that holds them all."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import ExitCode
from harness.trace.schema import ClipEntry, DType, Environment, LoaderState, Work

REPORT_SCHEMA_VERSION = 2

#: ``missing`` should have been compared and could not be; ``unsupported`` cannot be, with the reason.
Status = Literal["pass", "fail", "missing", "unsupported", "error"]
#: From cheap to dear; also the order in which kinds are shown.
Kind = Literal["leg", "audit", "poison", "parameter", "features", "activation", "logits", "transcript"]
KINDS: tuple[Kind, ...] = (
    "leg",
    "audit",
    "poison",
    "parameter",
    "features",
    "activation",
    "logits",
    "transcript",
)
Outcome = Literal["pass", "fail", "incomplete"]
LegStatus = Literal["captured", "unavailable", "error"]
#: A twin is its leg again, over another fill of uninitialised memory.
Role = Literal["reference", "candidate", "twin"]

#: A finite number; infinities and NaN, which JSON has not, are ``None`` with the message saying so.
Measured = Annotated[float | None, Field(allow_inf_nan=False)]


class Model(BaseModel):
    """Base of the report's records: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CheckResult(Model):
    """One comparison.

    ``measured`` and ``allowed`` are in the unit that ``metric`` names; ``where`` is the worst place, such
    as an index, a row or a clip; ``message`` is one line that says what is wrong and by how much.
    """

    id: str
    kind: Kind
    pair: str
    subject: str
    clip: str | None = None
    status: Status
    metric: str = ""
    measured: Measured = None
    allowed: Measured = None
    where: str = ""
    message: str = ""


class LegReport(Model):
    """One leg of the run. ``reason`` says why it did not run, or what became of it."""

    name: str
    backend: str
    role: Role
    required: bool
    status: LegStatus
    reason: str = ""
    interpreter: str = ""
    trace: str | None = None
    log: str | None = None
    log_tail: tuple[str, ...] = ()
    attention: str = ""
    loader: LoaderState = "installed"
    #: What the loader state made the installed loader do otherwise.
    loader_changes: tuple[str, ...] = ()
    environment: Environment | None = None
    seconds: dict[str, float] = Field(default_factory=dict)


class Divergence(Model):
    """The earliest probe, in execution order, that fails while all its inputs pass."""

    pair: str
    probe: str
    clips: tuple[str, ...]
    of_clips: int
    check: str
    message: str


class AlignmentChunk(Model):
    """A run of words treated alike: ``reference[a:b]`` against ``hypothesis[c:d]``, half-open."""

    type: Literal["equal", "substitute", "delete", "insert"]
    reference: tuple[int, int]
    hypothesis: tuple[int, int]


class ErrorRate(Model):
    """Counts of one alignment; ``rate`` is errors over reference length, ``None`` where that is zero."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def length(self) -> int:
        """Units of the reference: words or characters."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float | None:
        """Errors per unit of the reference."""
        return self.errors / self.length if self.length else None


class ClipTranscript(Model):
    """One clip of one leg: what was said, what was heard, both normalised, and how they align.

    ``reference`` is the truth; where two legs are compared, it is what the reference leg heard.
    """

    id: str
    language: str
    reference: str | None
    hypothesis: str
    reference_normalised: str | None
    hypothesis_normalised: str
    wer: float | None
    cer: float | None
    words: ErrorRate | None
    characters: ErrorRate | None
    word_alignment: tuple[AlignmentChunk, ...]
    character_alignment: tuple[AlignmentChunk, ...]
    token_ids: tuple[int, ...]


class LegTranscripts(Model):
    """The transcripts of one leg; rates are over all clips together."""

    wer: float | None
    cer: float | None
    clips: tuple[ClipTranscript, ...]


class Report(Model):
    """All that a run found. Written as ``report.json``; the renderers read nothing else."""

    schema_version: Literal[2] = 2
    harness: str
    created: str
    command: tuple[str, ...]
    work: Work = "run"
    case: str
    checkpoint: str
    checkpoint_digest: str
    trained: bool
    dtype: DType
    outcome: Outcome
    exit_code: ExitCode
    verdict: str
    diagnosis: str
    notes: tuple[str, ...]
    first_divergence: Divergence | None
    legs: tuple[LegReport, ...]
    clips: tuple[ClipEntry, ...]
    counts: dict[Status, int]
    checks: tuple[CheckResult, ...]
    #: Of each leg, against the truth.
    transcripts: dict[str, LegTranscripts]
    #: Of each pair: what the candidate leg heard, against what the reference leg heard.
    between: dict[str, LegTranscripts]
    seconds: dict[str, float]
