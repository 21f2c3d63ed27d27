"""The line that links what was found, from the parameter to the transcript."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compare.diagnosis import _runs, diagnose
from harness.compare.result import CheckResult, Divergence

if TYPE_CHECKING:
    from harness.compare.result import Kind, Status

PAIR = "vllm_cpu-vs-hf_cpu"
DIVERGENCE = Divergence(
    pair=PAIR,
    probe="encoder.layers.0.k_proj",
    clips=("cat", "dog"),
    of_clips=3,
    check="x",
    message="encoder.layers.0.k_proj: relative L2 0.5",
)


def check(
    kind: Kind,
    subject: str,
    message: str = "",
    *,
    status: Status = "fail",
    clip: str | None = None,
    pair: str = PAIR,
) -> CheckResult:
    id_ = f"glm_asr-{clip}-{subject}-{pair}"
    return CheckResult(
        id=id_, kind=kind, pair=pair, subject=subject, clip=clip, status=status, message=message
    )


def biases(*layers: int, name: str = "k_proj.bias") -> list[CheckResult]:
    return [check("parameter", f"layers.{layer}.{name}", f"layer {layer} is wrong") for layer in layers]


LOGITS = [check("logits", "lm.logits", "logits differ", clip=clip) for clip in ("cat", "dog")]
WER = check("transcript", "wer", "WER 90.00% on vllm-cpu, 3.00% on hf-cpu")
CER = check("transcript", "cer", "CER 80.00% on vllm-cpu, 2.00% on hf-cpu")


def test_nothing_failed() -> None:
    others: list[Status] = ["pass", "missing", "unsupported", "error"]
    assert diagnose([], None) == ""
    assert diagnose([check("parameter", "conv1.bias", "x", status=status) for status in others], None) == ""


def test_whole_chain() -> None:
    found = diagnose([*biases(0, 1), *LOGITS, WER, CER], DIVERGENCE)
    assert found == (
        "layers.0-1.k_proj.bias (e.g. layer 0 is wrong)"
        " -> first divergence at encoder.layers.0.k_proj in 2 of 3 clips"
        " -> first-token logits differ in 2 clips"
        " -> WER 90.00% on vllm-cpu, 3.00% on hf-cpu"
    )


def test_without_a_parameter_the_divergence_says_how_much() -> None:
    found = diagnose([check("activation", DIVERGENCE.probe, clip="cat")], DIVERGENCE)
    assert found == (
        "first divergence at encoder.layers.0.k_proj in 2 of 3 clips "
        "(encoder.layers.0.k_proj: relative L2 0.5)"
    )


def test_parameter_alone() -> None:
    assert diagnose(biases(3), None) == "layers.3.k_proj.bias (e.g. layer 3 is wrong)"


def test_features_that_both_stacks_get_wrong_alike() -> None:
    features = check("features", "features.mel", "features.mel: relative L2 2 on hf-cpu", clip="cat")
    assert diagnose([features], None) == "features.mel: relative L2 2 on hf-cpu"


def test_activation_whose_first_place_is_not_known() -> None:
    assert diagnose([check("activation", "projector", "projector: relative L2 1", clip="cat")], None) == (
        "projector: relative L2 1"
    )


def test_logits_alone() -> None:
    assert diagnose(LOGITS, None) == "first-token logits differ in 2 clips"


def test_transcripts_alone() -> None:
    assert diagnose([WER, CER], None) == WER.message
    assert diagnose([CER], None) == CER.message


def test_same_failures_in_two_pairs_are_told_once() -> None:
    other = [
        result.model_copy(update={"pair": "vllm_cuda-vs-hf_cpu", "id": f"{result.id}-2"})
        for result in (*biases(0, 1), *LOGITS)
    ]
    found = diagnose([*biases(0, 1), *LOGITS, *other], DIVERGENCE)
    assert found.startswith("layers.0-1.k_proj.bias (e.g. ")
    assert found.endswith(" -> first-token logits differ in 2 clips")


class TestFoldedLayers:
    @pytest.mark.parametrize(
        ("layers", "said"),
        [
            ((0,), "layers.0.k_proj.bias"),
            ((0, 1), "layers.0-1.k_proj.bias"),
            (tuple(range(32)), "layers.0-31.k_proj.bias"),
            ((0, 2, 3, 7), "layers.0,2-3,7.k_proj.bias"),
            ((10, 9, 2), "layers.2,9-10.k_proj.bias"),
        ],
    )
    def test_one_parameter(self, layers: tuple[int, ...], said: str) -> None:
        assert diagnose(biases(*layers), None).startswith(f"{said} (e.g. ")

    def test_parameters_apart(self) -> None:
        checks = [
            *biases(0, 1),
            *biases(0, 1, name="q_proj.weight"),
            check("parameter", "lm.layers.5.q_proj.weight"),
            check("parameter", "norm.bias"),
        ]
        assert diagnose(checks, None).startswith(
            "layers.0-1.k_proj.bias, layers.0-1.q_proj.weight, lm.layers.5.q_proj.weight, norm.bias (e.g. "
        )

    def test_only_the_first_are_named(self) -> None:
        checks = [check("parameter", f"conv{index}.bias") for index in range(6)]
        assert diagnose(checks, None).startswith(
            "conv0.bias, conv1.bias, conv2.bias, conv3.bias, and 2 more parameters (e.g. "
        )

    @given(st.lists(st.integers(0, 40), min_size=1))
    def test_runs_hold_every_number_once(self, numbers: list[int]) -> None:
        found: list[int] = []
        for run in _runs(numbers).split(","):
            first, _, last = run.partition("-")
            found += range(int(first), int(last or first) + 1)
        assert found == sorted(set(numbers))
