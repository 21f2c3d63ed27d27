"""The pytest plugin, run by pytester on the real backends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import harness
import harness.report

if TYPE_CHECKING:
    from collections.abc import Callable

SUITE = """
import sys
from harness.pytest_plugin import assert_check

def test_check(planned_check, parity_results):
    assert not {"torch", "vllm", "transformers"} & set(sys.modules)
    assert_check(planned_check, parity_results)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project that has nothing but a test of the plan."""
    monkeypatch.setenv("PYTHONPATH", str(Path(harness.__file__).parent.parent))
    pytester.makepyfile(test_parity=SUITE)
    return pytester


def go(suite: pytest.Pytester, *arguments: str | Path) -> pytest.RunResult:
    return suite.runpytest_subprocess("-p", "harness.pytest_plugin", "-p", "no:cacheprovider", *arguments)


def test_collecting_starts_no_backend(
    suite: pytest.Pytester, one_clip: Path, interpreter: Callable[[str], str], tmp_path: Path
) -> None:
    python = interpreter(f"echo started >> {tmp_path}/started")
    result = go(
        suite, "--collect-only", "-q", "-k", "glm_asr", "--audio", one_clip,
        "--python", f"vllm-cpu={python}", "--python", f"hf-cpu={python}",
    )  # fmt: skip
    assert result.ret == 0
    for name in (
        "glm_asr-layers.0.k_proj.bias-vllm_cpu-vs-hf_cpu",
        "glm_asr-layers.0.k_proj.bias-vllm_cuda-vs-hf_cpu",
        "glm_asr-lights-us-encoder.layers.1.v_proj-vllm_cpu-vs-hf_cpu",
        "glm_asr-lights-us-lm.logits-vllm_cpu-vs-hf_cpu",
    ):
        result.stdout.fnmatch_lines([f"*test_check?{name}?"])
    assert not (tmp_path / "started").exists()
    assert not (suite.path / "glm-asr-report-pytest").exists()


def test_two_workers_capture_once(
    suite: pytest.Pytester, one_clip: Path, interpreter: Callable[[str], str], tmp_path: Path
) -> None:
    python = interpreter(f"echo started >> {tmp_path}/started")
    result = go(
        suite, "-n", "2", "--audio", one_clip, "--candidate", "vllm-cpu",
        "--python", f"vllm-cpu={python}", "--python", f"hf-cpu={python}",
    )  # fmt: skip
    outcomes = result.parseoutcomes()
    assert "failed" not in outcomes
    assert "errors" not in outcomes
    assert outcomes["passed"] > 80
    assert (tmp_path / "started").read_text().splitlines() == ["started", "started"]
    result.stdout.fnmatch_lines(
        ["*GLM-ASR parity*", "PASS  vllm-cpu agrees with hf-cpu: *", "report: *report.md"]
    )
    report = harness.report.load_report(suite.path / "glm-asr-report-pytest" / "report.json")
    assert report.outcome == "pass"


def test_a_cuda_leg_that_cannot_run(suite: pytest.Pytester, one_clip: Path, tmp_path: Path) -> None:
    """Skipped with what is missing; failed where it is required."""
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no CUDA in this test >&2\nexit 1\n")
    broken.chmod(0o755)
    arguments = (
        "--audio", one_clip, "--candidate", "vllm-cuda", "-k", "vllm_cuda-vs-hf_cpu",
        "--python", f"vllm-cuda={broken}",
    )  # fmt: skip
    result = go(suite, *arguments)
    outcomes = result.parseoutcomes()
    # Nothing failed, and nothing was compared: that is no success.
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert set(outcomes) == {"skipped", "deselected"}
    result.stdout.fnmatch_lines(
        ["*vllm-cuda (candidate): cannot run: *no CUDA in this test*", "INCOMPLETE  *"]
    )

    result = go(suite, *arguments, "--require", "vllm-cuda")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert set(result.parseoutcomes()) == {"failed", "deselected"}
    assert result.parseoutcomes()["failed"] == outcomes["skipped"]
    result.stdout.fnmatch_lines(
        ["*missing: leg vllm-cuda is required, and not available: *no CUDA in this test*"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--candidate", "tpu"), "there is no backend 'tpu'"),
        (("--python", "vllm-cpu"), "expected LEG=INTERPRETER"),
        (("-q", "--python", "vllm-cpu"), "expected LEG=INTERPRETER"),
        (("--audio", "nowhere.wav"), "nowhere.wav"),
    ],
)
def test_bad_input_is_a_usage_error(suite: pytest.Pytester, arguments: tuple[str, ...], message: str) -> None:
    result = go(suite, *arguments)
    assert result.ret in {pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERRUPTED}
    said = result.stdout.str() + result.stderr.str()
    assert message in said
    assert "INTERNALERROR" not in said
