"""What every stack implements: capture the clips of a request into a trace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.cases import get_case
from harness.trace.tensors import TensorFile

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from harness.backends.request import LegRequest
    from harness.trace import TraceWriter


@dataclass(frozen=True, kw_only=True)
class Captured:
    """What only the stack can tell about its run, for the manifest."""

    attention: str
    device_name: str
    seconds: dict[str, float]
    loader_changes: tuple[str, ...] = ()


class Backend(ABC):
    """One stack; device, dtype and attention come with the request."""

    def __init__(self, request: LegRequest, progress: Callable[[str], None]) -> None:
        self.request = request
        self.progress = progress
        self.case = get_case(request.case)
        self.configs = request.checkpoint.config
        self._audio = TensorFile(request.audio) if request.audio is not None else None

    def samples(self, clip: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The clip's samples: float32, 16 kHz, mono, the same bytes for every stack."""
        assert self._audio is not None, "an audit has no audio"  # noqa: S101 - the caller's mistake
        return self._audio.read(clip).values.copy()

    @abstractmethod
    def capture(self, writer: TraceWriter) -> Captured:
        """Run all runnable clips and record parameters, activations and transcripts.

        Raises:
            CaptureError: the stack cannot do what was asked; the leg ends as ``error``.
        """

    @abstractmethod
    def audit(self, writer: TraceWriter) -> Captured:
        """Build and load the model, record its parameters and the load audit, and no more.

        Raises:
            CaptureError: the stack refuses the checkpoint.
        """
