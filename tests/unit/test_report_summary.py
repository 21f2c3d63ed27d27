from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from harness.compare.result import LegTranscripts
from harness.report import summary
from tests.unit.report_examples import PAIR, check, clip, crashed, failing, leg, passing, report, unsupported

if TYPE_CHECKING:
    from harness.compare.result import CheckResult


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, summary.NONE),
        (0.0, "0"),
        (0.05, "0.05"),
        (1.23456e-5, "1.23e-05"),
        (6e7, "6e+07"),
        (-1234.0, "-1.23e+03"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_number(value: float | None, shown: str) -> None:
    assert summary.number(value) == shown


def test_percent() -> None:
    assert summary.percent(0.0123) == "1.23%"
    assert summary.percent(None) == summary.NONE


def test_total_is_the_recorded_one_or_the_sum() -> None:
    assert summary.total({"load": 1.0, "forward": 2.5}) == "3.5"
    assert summary.total({"load": 1.0, "total": 9.0}) == "9.0"
    assert summary.total({}) == summary.NONE


def test_rows_are_by_pair_as_named_and_kind_from_cheap_to_dear() -> None:
    checks = [
        check("b", kind="transcript", pair="second"),
        check("a", kind="logits", pair="first"),
        check("a", kind="parameter", pair="second"),
        check("a", kind="leg", pair="third"),
        check("a", kind="logits", pair="first", status="fail"),
    ]
    rows = summary.rows(report(checks))
    assert [(row.pair, row.kind) for row in rows] == [
        ("second", "parameter"),
        ("second", "transcript"),
        ("first", "logits"),
    ]
    assert rows[2].counts == {"pass": 1, "fail": 1, "missing": 0, "unsupported": 0, "error": 0}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (check("x", measured=5, allowed=10), check("y", measured=1, allowed=1)),
        (check("x", measured=0, allowed=0), check("y", measured=1e-9, allowed=1)),
        (check("x", measured=1, allowed=0, status="fail"), check("y", measured=2, allowed=0, status="fail")),
        (check("x"), check("y", measured=0, allowed=0)),
        (check("x", measured=9, allowed=1), check("y", status="missing")),
        (check("x", status="missing"), check("y", status="error")),
        (check("x", status="error"), check("y", status="fail", measured=2, allowed=1)),
        (check("x", status="fail", measured=9, allowed=1), check("y", status="fail", message="NaN")),
        (check("x", status="unsupported"), check("y")),
    ],
)
def test_worst(better: CheckResult, worse: CheckResult) -> None:
    assert summary.worst([better, worse]) == worse
    assert summary.worst([worse, better]) == worse


def test_worst_of_equals_is_the_first_and_of_none_is_none() -> None:
    checks = [check("x", status="fail"), check("y", status="fail")]
    assert summary.worst(checks) is checks[0]
    assert summary.worst([check("x", status="unsupported")]) is None


def test_open_checks_are_failing_first_then_cheap_first() -> None:
    shown = [(found.status, found.kind) for found in summary.open_checks(failing())]
    assert shown == [("fail", "parameter"), ("fail", "activation"), ("missing", "logits")]
    assert summary.open_checks(passing()) == []


def test_unsupported_reasons_are_grouped() -> None:
    assert summary.unsupported_reasons(unsupported()) == [("no CUDA device", 3), ("no reason given", 1)]


def test_comparison_falls_back_on_words() -> None:
    found = check("x", metric="max_abs", measured=2.0, allowed=1.0, where="[3]", message="too far")
    assert summary.comparison(found) == "max_abs 2, allowed 1, at [3]"
    assert summary.comparison(check("x", measured=2.0)) == f"measured 2, allowed {summary.NONE}"
    assert summary.comparison(check("x", message="too far")) == "too far"
    assert summary.comparison(check("x", where="row 3")) == "at row 3"
    assert summary.comparison(check("x")) == ""


def test_check_name_falls_back_on_the_id() -> None:
    assert summary.check_name(check("x", clip="hello")) == "x, hello"
    assert summary.check_name(check("")) == f"{PAIR}/activation/"


def test_a_leg_says_where_it_ran_and_on_what() -> None:
    patched = leg("vllm-cpu", loader="patched")
    assert summary.device(patched) == "AMD EPYC 9B14, sdpa, loader patched"
    assert summary.versions_text(patched) == "vllm 0.20.0, torch 2.9.0, transformers 5.0.0"
    absent = crashed().legs[1]
    assert summary.device(absent) == "cpu, sdpa"
    assert summary.versions_text(absent) == summary.NONE


def test_rates_count_all_clips_together() -> None:
    found = LegTranscripts(wer=0.5, cer=None, clips=(clip("a"), clip("b"), clip("c")))
    assert summary.rates(found) == ("50.00% (3/6)", summary.NONE)


def test_legs_are_scored_before_pairs() -> None:
    found = passing()
    assert summary.scored(found) == {**found.transcripts, **found.between}
    assert list(summary.scored(found)) == ["hf-cpu", "vllm-cpu", PAIR]


def test_one_cause_is_one_line() -> None:
    gone = [check(f"probe{number}", status="missing", message="leg vllm-cpu is gone") for number in range(3)]
    silent = [check(f"quiet{number}", status="missing", message="") for number in range(2)]
    failed = check("probe9", status="fail", message="leg vllm-cpu is gone")
    found = summary.alike([failed, *gone, *silent])
    assert [(first.subject, number) for first, number in found] == [
        ("probe9", 1),
        ("probe0", 3),
        ("quiet0", 1),
        ("quiet1", 1),
    ]
