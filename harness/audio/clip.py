"""A clip, as every stack gets it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

#: float32, one axis.
Samples = np.ndarray[Any, np.dtype[np.float32]]
#: Samples per second of every clip.
SAMPLE_RATE = 16_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """One clip as every stack gets it.

    Attributes:
        id: Its name in reports, also a file name.
        samples: float32 ``[n]``, n > 0, 16 kHz mono, finite, read-only; full scale is ±1 (not enforced).
        transcript: The words spoken; ``None`` where nobody wrote them down, and then there is no WER.
        language: As in BCP 47: ``en``, ``zh``.
        sha256: Over the samples' little-endian float32 bytes, as :func:`samples_sha256` computes it.
        source: How it was made, where a manifest says so; the file's path otherwise.
    """

    id: str
    samples: Samples
    transcript: str | None
    language: str
    sha256: str
    source: str


def samples_sha256(samples: Samples) -> str:
    """Return the SHA-256 of samples (float32 ``[n]``) as little-endian bytes, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(samples, dtype="<f4").tobytes()).hexdigest()
