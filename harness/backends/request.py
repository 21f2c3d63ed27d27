"""What a leg's process is asked to do; the only thing it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from harness.trace.schema import CheckpointEntry, ClipEntry, DType, Fill, LoaderState, Record, Work

Attention = Literal["sdpa", "eager"]


class LegRequest(Record):
    """One capture. Paths are absolute; ``audio`` is a safetensors file with one tensor per clip id.

    An audit has no clips, and reads no audio.
    """

    case: str
    leg: str
    stack: Literal["hf", "vllm"]
    device: Literal["cpu", "cuda"]
    dtype: DType
    attention: Attention
    work: Work
    loader: LoaderState
    fill: Fill
    checkpoint_folder: Path
    checkpoint: CheckpointEntry
    clips: tuple[ClipEntry, ...]
    audio: Path | None
    prompt_token_ids: tuple[int, ...]
    stop_token_ids: tuple[int, ...]
    max_new_tokens: int
    seed: int
    trace: Path
    log: Path
    progress: Path
    #: Written by a leg that cannot do what is asked: the reason, in one line.
    failure: Path

    @property
    def runnable(self) -> tuple[ClipEntry, ...]:
        """The clips that the model can take."""
        return tuple(clip for clip in self.clips if clip.unsupported is None)
