"""Defects planted in copies of the session's real traces."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from harness.errors import ExitCode, TraceError
from harness.run import judge_traces
from harness.trace import Trace
from tests.surgery import alter_activation, leg_trace, seal

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

PROBE = "encoder.layers.0.self_attn"


def test_the_real_traces_agree(real_run: Path) -> None:
    """The traces that the other tests spoil are green before."""
    report = judge_traces(
        leg_trace(real_run, "hf-cpu"), [leg_trace(real_run, "vllm-cpu")], tolerances=None, command=()
    )
    assert report.outcome == "pass", report.verdict


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("leg", ["vllm-cpu", "hf-cpu"])
def test_one_element_that_is_no_number(
    real_run: Path, tmp_path: Path, clip: str, leg: str, bad: float
) -> None:
    def plant(data: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
        data[0, 3, 5] = bad
        return data

    spoilt = alter_activation(leg_trace(real_run, leg), tmp_path / leg, clip=clip, probe=PROBE, alter=plant)
    traces = {name: leg_trace(real_run, name) for name in ("hf-cpu", "vllm-cpu")} | {leg: spoilt}
    report = judge_traces(traces["hf-cpu"], [traces["vllm-cpu"]], tolerances=None, command=())

    assert (report.outcome, report.exit_code) == ("fail", ExitCode.FAIL)
    (failed,) = [check for check in report.checks if check.status == "fail"]
    assert failed.id == f"glm_asr-{clip}-{PROBE}-vllm_cpu-vs-hf_cpu"
    assert "NaN or Inf in 1 of " in failed.message
    assert f"on {leg}" in failed.message
    assert failed.where == "[0, 3, 5]"
    assert report.first_divergence is not None
    assert report.first_divergence.probe == PROBE
    assert report.first_divergence.clips == (clip,)


def test_the_same_nan_on_both_sides_is_no_agreement(real_run: Path, tmp_path: Path, clip: str) -> None:
    def plant(data: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
        data[0, 0, 0] = np.nan
        return data

    both = [
        alter_activation(leg_trace(real_run, leg), tmp_path / leg, clip=clip, probe=PROBE, alter=plant)
        for leg in ("hf-cpu", "vllm-cpu")
    ]
    report = judge_traces(both[0], both[1:], tolerances=None, command=())
    assert report.outcome == "fail"


@pytest.mark.parametrize(
    "name", ["activations/lights-us.safetensors", "parameters.safetensors", "transcripts.json"]
)
def test_one_flipped_byte(real_run: Path, tmp_path: Path, name: str) -> None:
    spoilt = tmp_path / "spoilt"
    shutil.copytree(leg_trace(real_run, "vllm-cpu"), spoilt)
    with (spoilt / name).open("r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)[0]
        stream.seek(-1, 2)
        stream.write(bytes([last ^ 1]))
    with pytest.raises(TraceError, match=rf"{name} was changed after the capture") as caught:
        judge_traces(leg_trace(real_run, "hf-cpu"), [spoilt], tolerances=None, command=())
    assert "capture this leg again" in str(caught.value)


def test_other_audio(real_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(leg_trace(real_run, "vllm-cpu"), other)
    clips = Trace(other).manifest.clips
    changed = (clips[0].model_copy(update={"sha256": "0" * 64}), *clips[1:])
    with pytest.raises(TraceError, match="cannot be compared, they differ in clips"):
        judge_traces(leg_trace(real_run, "hf-cpu"), [seal(other, clips=changed)], tolerances=None, command=())
