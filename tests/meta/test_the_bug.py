"""vLLM pull request 40160, undone in the real engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.errors import ExitCode
from harness.run import RunOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.compare.result import Report
    from harness.trace.schema import DType

#: A plugin of vLLM's own kind (entry point vllm.general_plugins), loaded when the engine starts.
UNDO = """
from vllm.model_executor.models import glmasr

def undo():
    if not hasattr(glmasr, "_create_fake_bias_for_k_proj"):
        raise RuntimeError("this release has no fix to undo")
    glmasr._create_fake_bias_for_k_proj = lambda weights, *args, **kwargs: weights
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_k_bias_that_nobody_wrote(
    one_clip: Path,
    tmp_path: Path,
    interpreter: Callable[[str], str],
    run: Callable[[RunOptions], Report],
    dtype: DType,
) -> None:
    """Red in every layer, every time: not only where the allocator hands out garbage."""
    plugin = tmp_path / "plugin"
    info = plugin / "undo_the_fix-1.dist-info"
    info.mkdir(parents=True)
    (plugin / "undo_the_fix.py").write_text(UNDO)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: undo-the-fix\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\nundo = undo_the_fix:undo\n")
    python = interpreter(f"export PYTHONPATH={plugin}")
    options = RunOptions(
        out=tmp_path / "out",
        audio=(one_clip,),
        dtype=dtype,
        max_new_tokens=2,
        python={"vllm-cpu": python},
    )
    report = run(options)

    assert (report.outcome, report.exit_code) == ("fail", ExitCode.FAIL), report.verdict
    failed = {
        check.subject: check
        for check in report.checks
        if check.kind == "parameter" and check.status == "fail"
    }
    assert set(failed) == {"layers.0.k_proj.bias", "layers.1.k_proj.bias"}
    for index in range(2):
        check = failed[f"layers.{index}.k_proj.bias"]
        assert (
            f"layers.{index}.self_attn.qkv_proj.bias[128:256] on vllm-cpu: 128 of 128 elements"
            in check.message
        )
        assert check.message.endswith("NaN or Inf at [0:128]; what vLLM's loader never wrote is NaN")
        assert check.where == "[0:128]"
    assert "layers.0-1.k_proj.bias" in report.verdict
    assert report.first_divergence is not None
    assert report.first_divergence.probe == "encoder.layers.0.k_proj"
