"""From a file to samples at 16 kHz, mono."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from harness.audio.clip import SAMPLE_RATE
from harness.audio.problem import UnusableError

if TYPE_CHECKING:
    from pathlib import Path

    from harness.audio.clip import Samples
    from harness.audio.manifest import AudioEntry

MAX_SECONDS = 3600
RATES = range(1_000, 768_001)

# Decoded all channels at once, before mixing: an hour of 48 kHz stereo, 1.4 GB.
_MAX_VALUES = MAX_SECONDS * 48_000 * 2
# libsndfile's frame count for a file that was streamed and so does not know its own length.
_UNKNOWN_FRAMES = 2**62
# How far a manifest's rounded `seconds` may be from the file's.
_SECONDS_SLACK = 0.1


def decode(path: Path, entry: AudioEntry | None) -> Samples:
    """Decode to 16 kHz mono: float32 ``[n]``, read-only, n > 0, all finite.

    Read in one piece: soundfile seeks between pieces, and MP3 comes out different after a seek.
    """
    import soundfile

    try:
        # The name as bytes: soundfile cannot encode names that are not UTF-8.
        with soundfile.SoundFile(os.fsencode(path)) as stream:
            frames, rate, channels = int(stream.frames), int(stream.samplerate), int(stream.channels)
            _check_header(frames=frames, rate=rate, channels=channels)
            values = stream.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        msg = (
            f"cannot be decoded, truncated or not audio (libsndfile: {error.error_string.rstrip('. ')}); "
            "replace it, or convert it to flac or wav"
        )
        raise UnusableError(msg) from error
    if len(values) != frames:
        msg = f"its header announces {frames} frames, {len(values)} could be decoded: truncated; replace it"
        raise UnusableError(msg)
    if (bad := ~np.isfinite(values).all(axis=1)).any():
        msg = f"{int(bad.sum())} of {frames} frames are NaN or Inf, the first is frame {int(bad.argmax())}"
        raise UnusableError(msg)
    if entry is not None:
        _check_stated(entry, frames=frames, rate=rate, channels=channels)

    # The mean in float64: two channels near the end of float32's range must not overflow.
    return _resample(values.mean(axis=1, dtype=np.float64).astype(np.float32), rate=rate)


def _check_header(*, frames: int, rate: int, channels: int) -> None:
    if frames >= _UNKNOWN_FRAMES:
        msg = "its header does not say how long it is (a streamed file); convert it to a plain flac or wav"
        raise UnusableError(msg)
    if frames == 0:
        msg = "it holds no samples; record or copy it again"
        raise UnusableError(msg)
    if rate not in RATES:
        msg = f"sample rate is {rate} Hz, expected {RATES[0]} to {RATES[-1]}"
        raise UnusableError(msg)
    if frames > MAX_SECONDS * rate:
        msg = f"it lasts {frames / rate:.0f} s, at most {MAX_SECONDS} s are accepted; cut it"
        raise UnusableError(msg)
    if frames * channels > _MAX_VALUES:
        msg = f"{channels} channels of {frames} frames exceed {_MAX_VALUES} samples; convert it to mono"
        raise UnusableError(msg)


def _check_stated(entry: AudioEntry, *, frames: int, rate: int, channels: int) -> None:
    wrong = []
    if entry.sample_rate is not None and entry.sample_rate != rate:
        wrong.append(f"sample_rate is {rate}, the manifest says {entry.sample_rate}")
    if entry.channels is not None and entry.channels != channels:
        wrong.append(f"channels is {channels}, the manifest says {entry.channels}")
    if entry.seconds is not None and abs(entry.seconds - frames / rate) > _SECONDS_SLACK:
        wrong.append(f"seconds is {frames / rate:.3f}, the manifest says {entry.seconds}")
    if wrong:
        msg = f"{'; '.join(wrong)}; restore the file or correct its entry"
        raise UnusableError(msg)


def _resample(mono: Samples, *, rate: int) -> Samples:
    """Bring float32 ``[n]`` at ``rate`` Hz to 16 kHz: float32 ``[n * 16000 / rate]``, rounded, read-only."""
    if rate != SAMPLE_RATE:
        import soxr

        frames = len(mono)
        mono = np.asarray(soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ"), dtype=np.float32)
        if not len(mono):
            msg = (
                f"{frames} frames at {rate} Hz are less than one sample at {SAMPLE_RATE} Hz; record it again"
            )
            raise UnusableError(msg)
        if not np.isfinite(mono).all():
            msg = "its samples are so large that resampling overflows float32; scale them to ±1"
            raise UnusableError(msg)
    mono.setflags(write=False)
    return mono
