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


def undone_by_a_plugin(folder: Path) -> str:
    """A line of shell that lets vLLM load the plugin from a folder."""
    info = folder / "undo_the_fix-1.dist-info"
    info.mkdir(parents=True)
    (folder / "undo_the_fix.py").write_text(UNDO)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: undo-the-fix\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\nundo = undo_the_fix:undo\n")
    return f"export PYTHONPATH={folder}"


@pytest.mark.parametrize(
    ("how", "dtype"), [("plugin", "float32"), ("reverted", "float32"), ("reverted", "bfloat16")]
)
def test_a_k_bias_that_nobody_wrote(
    one_clip: Path,
    tmp_path: Path,
    interpreter: Callable[[str], str],
    run: Callable[[RunOptions], Report],
    how: str,
    dtype: DType,
) -> None:
    """Red in every layer, every time, however the fix was lost: not only where there is garbage."""
    options = RunOptions(
        out=tmp_path / "out",
        audio=(one_clip,),
        dtype=dtype,
        max_new_tokens=2,
        loader="reverted" if how == "reverted" else "installed",
        python={"vllm-cpu": interpreter(undone_by_a_plugin(tmp_path / "plugin"))} if how == "plugin" else {},
    )
    report = run(options)

    assert (report.outcome, report.exit_code) == ("fail", ExitCode.FAIL), report.verdict
    for kind in ("audit", "parameter"):
        failed = {
            check.subject: check for check in report.checks if check.kind == kind and check.status == "fail"
        }
        assert set(failed) == {"layers.0.k_proj.bias", "layers.1.k_proj.bias"}
        for index in range(2):
            name = f"layers.{index}.self_attn.qkv_proj.bias[128:256]"
            check = failed[f"layers.{index}.k_proj.bias"]
            if kind == "audit":
                assert check.message == f"audio_tower.{name} (k): 128 of 384 elements never written"
                assert check.where == f"audio_tower.{name} (k)"
            else:
                assert f"{name} on vllm-cpu: 128 of 128 elements are NaN or Inf at [0:128]" in check.message
                assert check.message.endswith("its loader never wrote them (see the load audit)")
    assert "checks failed: layers.0-1.k_proj.bias (e.g. audio_tower.layers.0" in report.verdict
    assert report.first_divergence is not None
    assert report.first_divergence.probe == "encoder.layers.0.k_proj"
    changes = report.legs[1].loader_changes
    assert len(changes) == (2 if how == "reverted" else 0)


def test_patched_changes_nothing_where_the_fix_is(
    one_clip: Path, tmp_path: Path, run: Callable[[RunOptions], Report]
) -> None:
    options = RunOptions(
        out=tmp_path, audio=(one_clip,), max_new_tokens=2, loader="patched", dual_poison=True
    )
    report = run(options)
    assert report.outcome == "pass", report.verdict
    assert (report.legs[1].loader, report.legs[1].loader_changes) == ("patched", ())
    assert "vllm-cpu ran its loader patched: that changed nothing" in report.notes
    assert [leg.name for leg in report.legs] == ["hf-cpu", "vllm-cpu", "vllm-cpu@finite"]
    poison = {check.subject: check.status for check in report.checks if check.kind == "poison"}
    assert set(poison.values()) == {"pass"}
    assert {"layers.1.k_proj.bias", "encoder.layers.1.k_proj", "lm.logits", "transcripts"} <= set(poison)


def test_a_fix_that_was_lost_and_patched_again(
    one_clip: Path, tmp_path: Path, interpreter: Callable[[str], str], run: Callable[[RunOptions], Report]
) -> None:
    """The plugin takes the fix out of the installed loader; `patched` finds it lacking, and puts one in."""
    python = interpreter(undone_by_a_plugin(tmp_path / "plugin"))
    options = RunOptions(
        out=tmp_path / "out",
        audio=(one_clip,),
        max_new_tokens=2,
        loader="patched",
        python={"vllm-cpu": python},
    )
    report = run(options)
    assert report.outcome == "pass", report.verdict
    assert report.legs[1].loader_changes == tuple(
        f"gave load_weights audio_tower.layers.{index}.self_attn.k_proj.bias = 0, [128]" for index in range(2)
    )
