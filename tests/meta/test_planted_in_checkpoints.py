"""Defects planted in checkpoints and loaded by the real vLLM engine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from harness.errors import ExitCode
from harness.run import RunOptions, capture_one, judge_traces
from harness.trace import Trace
from harness.trace.tensors import RawTensor
from tests.surgery import leg_trace, rewrite_checkpoint, seal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.compare.result import Report


def test_a_k_bias_that_is_not_zero(
    real_run: Path, one_clip: Path, tmp_path: Path, run: Callable[[RunOptions], Report]
) -> None:
    """VLLM has a place for a k bias and HuggingFace has none: what stands there must be zero."""

    def plant(tensors: dict[str, RawTensor]) -> None:
        for layer in range(2):
            values = np.zeros(128, dtype=np.float32)
            values[64:66] = 0.5, -0.25
            tensors[f"audio_tower.layers.{layer}.self_attn.k_proj.bias"] = RawTensor.of(values)

    checkpoint = rewrite_checkpoint(real_run / "work" / "checkpoint", tmp_path / "checkpoint", change=plant)
    options = RunOptions(
        out=tmp_path / "out", checkpoint=str(checkpoint), audio=(one_clip,), max_new_tokens=4
    )
    report = run(options)

    assert (report.outcome, report.exit_code) == ("fail", ExitCode.FAIL)
    failed = {
        check.subject for check in report.checks if check.kind == "parameter" and check.status == "fail"
    }
    assert failed == {"layers.0.k_proj.bias", "layers.1.k_proj.bias"}
    check = next(
        check
        for check in report.checks
        if check.kind == "parameter" and check.subject == "layers.1.k_proj.bias"
    )
    assert check.where == "[64:66]"
    assert "audio_tower.layers.1.self_attn.qkv_proj.bias[128:256]" in check.message
    assert "2 of 128 elements are not zero, largest 0.5; hf-cpu has no such parameter" in check.message
    assert report.first_divergence is not None
    assert report.first_divergence.probe == "encoder.layers.0.k_proj"
    assert "layers.0-1.k_proj.bias" in report.verdict


@pytest.mark.parametrize(("half", "seen"), [("rotated", True), ("not_rotated", False)])
def test_where_a_k_bias_cannot_be_seen(
    half: str, seen: bool, real_run: Path, one_clip: Path, tmp_path: Path, run: Callable[[RunOptions], Report]
) -> None:
    """On the half of each head that is not rotated a constant cancels in the softmax: only the bits tell."""
    columns = slice(0, 32) if half == "rotated" else slice(32, 64)

    def plant(tensors: dict[str, RawTensor]) -> None:
        for layer in range(2):
            heads = np.zeros((2, 64), dtype=np.float32)
            heads[:, columns] = 1.0
            tensors[f"audio_tower.layers.{layer}.self_attn.k_proj.bias"] = RawTensor.of(heads.reshape(-1))

    checkpoint = rewrite_checkpoint(real_run / "work" / "checkpoint", tmp_path / "checkpoint", change=plant)
    options = RunOptions(
        out=tmp_path / "out", checkpoint=str(checkpoint), audio=(one_clip,), max_new_tokens=2
    )
    report = run(options)

    assert report.outcome == "fail"
    red = [check for check in report.checks if check.status == "fail"]
    failed = {
        kind: {check.subject for check in red if check.kind == kind}
        for kind in ("parameter", "activation", "logits")
    }
    assert failed["parameter"] == {"layers.0.k_proj.bias", "layers.1.k_proj.bias"}
    assert "encoder.layers.0.k_proj" in failed["activation"]
    behind = {"encoder.layers.0.self_attn", "encoder.norm", "projector"}
    assert behind & failed["activation"] == (behind if seen else set())
    assert failed["logits"] == ({"lm.logits"} if seen else set())


def test_q_and_k_swapped(real_run: Path, tmp_path: Path) -> None:
    """The reference keeps the real checkpoint; the candidate loads one whose shards changed places."""

    def swap(tensors: dict[str, RawTensor]) -> None:
        q, k = (f"audio_tower.layers.1.self_attn.{shard}_proj.weight" for shard in "qk")
        tensors[q], tensors[k] = tensors[k], tensors[q]

    checkpoint = rewrite_checkpoint(real_run / "work" / "checkpoint", tmp_path / "checkpoint", change=swap)
    reference = leg_trace(real_run, "hf-cpu")
    candidate = tmp_path / "vllm-cpu"
    options = RunOptions(out=candidate, reference="vllm-cpu", candidates=(), checkpoint=str(checkpoint))
    tokens = Trace(reference).manifest.max_new_tokens
    capture_one(replace(options, max_new_tokens=tokens), progress=lambda _who, _what: None)
    seal(candidate, checkpoint=Trace(reference).manifest.checkpoint)
    report = judge_traces(reference, [candidate], tolerances=None, command=())

    assert report.outcome == "fail"
    failed = {
        check.subject: check
        for check in report.checks
        if check.kind == "parameter" and check.status == "fail"
    }
    assert set(failed) == {"layers.1.q_proj.weight", "layers.1.k_proj.weight"}
    assert "bit for bit, the reference's layers.1.k_proj.weight" in failed["layers.1.q_proj.weight"].message
    assert report.first_divergence is not None
    assert report.first_divergence.probe == "encoder.layers.1.q_proj"
    assert len(report.first_divergence.clips) == report.first_divergence.of_clips == len(report.clips)
