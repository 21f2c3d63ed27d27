"""Log-mel features against a computation of our own.

Both stacks share one feature extractor, so that their agreeing proves little. This one goes by
librosa: Slaney mel filters over the power spectrum, then log10 with Whisper's floor, clamp and scale
(``max(x, 1e-10)``; ``max(x, max(x) - 8)``; ``(x + 4) / 4``; A. Radford et al., Whisper, 2022, audio.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.audio import samples_sha256
from harness.compare.activations import judge_tensor
from harness.compare.plan import LIBROSA
from harness.trace.tensors import RawTensor, bfloat16_words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.cases.case import FeatureSpec
    from harness.compare.plan import PlannedCheck
    from harness.compare.result import CheckResult
    from harness.compare.tolerance import Tolerances
    from harness.trace import Trace
    from harness.trace.schema import DType

_FLOOR = 1e-10
_DYNAMIC_RANGE = 8.0
_OFFSET = _SCALE = 4.0


def log_mel(
    samples: np.ndarray[Any, np.dtype[np.float32]], spec: FeatureSpec
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Compute the features of a clip, float64 ``[chunks, n_mels, frames]``, chunks padded with silence."""
    from librosa.core import stft
    from librosa.filters import mel as mel_filters

    chunks = max(1, -(-samples.size // spec.chunk_samples))
    padded = np.zeros(chunks * spec.chunk_samples, dtype=np.float64)
    padded[: samples.size] = samples
    filters = mel_filters(
        sr=spec.sample_rate, n_fft=spec.n_fft, n_mels=spec.n_mels, norm="slaney", htk=False, dtype=np.float64
    )
    features = []
    for chunk in padded.reshape(chunks, spec.chunk_samples):
        spectrum = stft(
            chunk,
            n_fft=spec.n_fft,
            hop_length=spec.hop_length,
            window="hann",
            center=True,
            pad_mode="reflect",
        )
        # The last frame is centred on the end of the chunk; Whisper leaves it out.
        mel = filters @ np.abs(spectrum[:, :-1]) ** 2
        log = np.log10(np.maximum(mel, _FLOOR))
        log = np.maximum(log, log.max() - _DYNAMIC_RANGE)
        features.append((log + _OFFSET) / _SCALE)
    return np.stack(features)


class LibrosaFeatures:
    """The features of clips by :func:`log_mel`, computed once each and used for every leg."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._spec = spec
        self._known: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}

    def of(self, clip: str, samples: np.ndarray[Any, np.dtype[np.float32]], *, dtype: DType) -> RawTensor:
        """The features of a clip, rounded to a leg's dtype as the stacks round theirs."""
        if clip not in self._known:
            self._known[clip] = log_mel(samples, self._spec)
        exact = self._known[clip]
        if dtype == "bfloat16":
            single = exact.astype(np.float32)
            return RawTensor(dtype=dtype, shape=single.shape, data=bfloat16_words(single))
        return RawTensor.of(exact.astype(dtype))


def compare_features(
    checks: Iterable[PlannedCheck], *, trace: Trace, features: LibrosaFeatures, tolerances: Tolerances
) -> list[CheckResult]:
    """Compare a leg's recorded features with librosa's, for every planned clip."""
    dtype = trace.manifest.dtype
    digests = {clip.id: clip.sha256 for clip in trace.manifest.clips}
    results = []
    for check in checks:
        if check.unsupported is not None:
            results.append(check.result("unsupported", check.unsupported))
            continue
        clip = str(check.clip)
        samples = trace.audio(clip)
        if samples is None:
            message = (
                f"the samples of {clip} were not recorded on {trace.manifest.leg}: nothing to compute from"
            )
            results.append(check.result("missing", message))
            continue
        # The samples of one clip are the same on every leg, or this leg did not hear the clip.
        if samples_sha256(samples) != digests[clip]:
            message = f"the samples recorded on {trace.manifest.leg} are not those of {clip}"
            results.append(check.result("fail", message))
            continue
        results.append(
            judge_tensor(
                check,
                candidate=trace.activation(clip=clip, probe=check.subject),
                reference=features.of(clip, samples, dtype=dtype),
                legs=(trace.manifest.leg, LIBROSA),
                rule=tolerances.for_features(check.subject, dtype=dtype),
            )
        )
    return results
