"""From results to one outcome: green is only what was compared and passed."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compare.parameters import BITWISE
from harness.compare.result import KINDS, CheckResult, LegReport, Status
from harness.compare.verdict import EXIT_CODES, count, not_compared, outcome, verdict
from harness.errors import ExitCode

if TYPE_CHECKING:
    from harness.compare.result import Kind, LegStatus

STATUSES: tuple[Status, ...] = get_args(Status)


def check(kind: Kind, status: Status = "pass", message: str = "", *, pair: str = "p") -> CheckResult:
    metric = BITWISE[0] if kind == "parameter" else ""
    return CheckResult(
        id=f"{kind}-{status}-{pair}",
        kind=kind,
        pair=pair,
        subject="s",
        status=status,
        metric=metric,
        message=message,
    )


def leg(
    name: str = "vllm-cpu",
    status: LegStatus = "captured",
    *,
    required: bool = False,
    reason: str = "",
    reference: bool = False,
) -> LegReport:
    return LegReport(
        name=name,
        backend=name,
        role="reference" if reference else "candidate",
        required=required,
        status=status,
        reason=reason,
    )


REFERENCE = leg("hf-cpu", required=True, reference=True)
ESSENTIAL: tuple[Kind, ...] = ("parameter", "activation", "logits")
ALL = [check(kind) for kind in KINDS]
results = st.lists(
    st.builds(check, st.sampled_from(KINDS), st.sampled_from(STATUSES), pair=st.sampled_from("pq")),
    max_size=12,
)


def said(checks: list[CheckResult], *legs: LegReport, diagnosis: str = "") -> str:
    return verdict(checks, legs=[REFERENCE, *(legs or [leg()])], diagnosis=diagnosis)


def test_every_status_is_counted() -> None:
    checks = [*ALL, check("logits", "fail"), check("leg", "error"), check("leg", "error")]
    assert count(checks) == {"pass": 8, "fail": 1, "missing": 0, "unsupported": 0, "error": 2}
    assert count([]) == dict.fromkeys(STATUSES, 0)


def test_exit_codes() -> None:
    assert EXIT_CODES == {"pass": ExitCode.PASS, "fail": ExitCode.FAIL, "incomplete": ExitCode.INCOMPLETE}
    assert [int(code) for code in EXIT_CODES.values()] == [0, 1, 3]


class TestOutcome:
    def test_pass(self) -> None:
        assert outcome(ALL) == "pass"
        assert outcome([*ALL, check("transcript", "unsupported")]) == "pass"

    def test_parameters_that_are_zero_alone(self) -> None:
        """Legs of two dtypes have no weight in common to compare, and a k bias of zeros on both."""
        zero = check("parameter").model_copy(update={"metric": "elements not zero"})
        assert outcome([*(result for result in ALL if result.kind != "parameter"), zero]) == "incomplete"

    def test_nothing(self) -> None:
        assert outcome([]) == "incomplete"

    @pytest.mark.parametrize("kind", ["parameter", "activation", "logits"])
    def test_kind_of_which_nothing_was_compared(self, kind: Kind) -> None:
        without = [result for result in ALL if result.kind != kind]
        assert outcome(without) == "incomplete"
        for status in ("unsupported", "missing", "error"):
            assert outcome([*without, check(kind, status)]) == "incomplete"
        assert outcome([*without, check(kind), check(kind, "unsupported")]) == "pass"

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("status", ["missing", "error"])
    def test_open(self, kind: Kind, status: Status) -> None:
        assert outcome([*ALL, check(kind, status)]) == "incomplete"

    @given(results)
    def test_a_failure_is_always_a_failure(self, checks: list[CheckResult]) -> None:
        assert (outcome(checks) == "fail") == any(result.status == "fail" for result in checks)

    @given(results)
    def test_green_is_only_what_was_compared(self, checks: list[CheckResult]) -> None:
        if outcome(checks) == "pass":
            assert {result.status for result in checks} <= {"pass", "unsupported"}
            compared = {r.pair for r in checks if r.status == "pass" and r.kind in ESSENTIAL}
            assert compared
            for pair in compared:
                assert set(ESSENTIAL) <= {r.kind for r in checks if r.status == "pass" and r.pair == pair}


def test_not_compared() -> None:
    assert not_compared([]) == ["parameters", "activations", "logits"]
    assert not_compared([check("parameter", "fail"), check("logits", "missing")]) == ["activations", "logits"]
    assert not_compared(ALL) == []


class TestPairs:
    @pytest.mark.parametrize("kind", ESSENTIAL)
    def test_one_pairs_checks_do_not_stand_in_for_anothers(self, kind: Kind) -> None:
        other = [check(each, pair="q") for each in ESSENTIAL if each != kind]
        assert not_compared([*ALL, *other]) == [f"{kind}s".replace("logitss", "logits")]
        assert outcome([*ALL, *other]) == "incomplete"
        assert outcome([*ALL, *other, check(kind, pair="q")]) == "pass"
        assert not_compared([*ALL, *other, check(kind, "fail", pair="q")]) == []

    def test_zeros_alone_are_no_comparison_of_weights(self) -> None:
        """Legs of two dtypes beside a good pair."""
        other = [check("activation", pair="q"), check("logits", pair="q")]
        for metric in ("elements not zero", "parameters without a canonical name", ""):
            zero = check("parameter", pair="q").model_copy(update={"metric": metric})
            assert not_compared([*ALL, zero, *other]) == ["parameters"]
        for metric in BITWISE:
            weighed = check("parameter", pair="q").model_copy(update={"metric": metric})
            assert not_compared([*ALL, weighed, *other]) == []

    @pytest.mark.parametrize("status", ["unsupported", "missing", "error"])
    def test_pair_that_was_not_compared_at_all(self, status: Status) -> None:
        """An optional leg that is not there."""
        other = [check(kind, status, pair="q") for kind in KINDS]
        assert not_compared([*ALL, *other]) == []
        assert (outcome([*ALL, *other]) == "pass") == (status == "unsupported")

    def test_legs_own_checks_are_no_pair(self) -> None:
        assert outcome([*ALL, check("leg", pair="q"), check("features", pair="q-vs-librosa")]) == "pass"

    def test_verdict_gives_the_reason_of_the_pair(self) -> None:
        other = [check("activation", pair="q"), check("logits", pair="q")]
        bits = check("parameter", "unsupported", "no bits to compare", pair="q")
        assert said([*ALL, bits, *other]) == "no parameters compared: no bits to compare"
        assert said([*ALL, *other]) == "no parameters compared"


class TestVerdict:
    def test_pass(self) -> None:
        assert said(ALL) == "vllm-cpu agrees with hf-cpu: 8 checks passed"

    def test_pass_with_what_was_not_gated(self) -> None:
        legs = [leg(), leg("vllm-cuda"), leg("hf-cuda", "unavailable", reason="no GPU")]
        assert said([*ALL, check("transcript", "unsupported")], *legs) == (
            "vllm-cpu, vllm-cuda agree with hf-cpu: 8 checks passed, 1 not gated or not supported; "
            "hf-cuda, not required, did not run: no GPU"
        )

    def test_fail_comes_before_everything(self) -> None:
        checks = [*ALL, check("parameter", "fail"), check("leg", "error"), check("logits", "missing")]
        crashed = leg("vllm-cuda", "error", reason="killed")
        assert said(checks, leg(), crashed, diagnosis="k is wrong") == "1 of 11 checks failed: k is wrong"

    def test_crashed_leg(self) -> None:
        legs = [
            leg("vllm-cpu", "unavailable", required=True, reason="no vllm"),
            leg("b", "error", reason="killed"),
        ]
        assert said([*ALL, check("leg", "error")], *legs) == "leg b did not finish: killed"

    def test_required_leg_that_is_not_there(self) -> None:
        legs = [leg(), leg("vllm-cuda", "unavailable", required=True, reason="no GPU")]
        assert said([*ALL, check("leg", "missing")], *legs) == "required leg vllm-cuda did not run: no GPU"

    def test_no_leg_to_compare_with(self) -> None:
        message = said(
            [check("leg"), check("parameter", "unsupported")], leg("x", "unavailable", reason="no GPU")
        )
        assert message == "no parameters, activations, logits compared: x did not run: no GPU"

    def test_no_clip_that_the_model_can_take(self) -> None:
        checks = [
            check("parameter"),
            check("transcript", "unsupported", "untrained"),
            check("activation", "unsupported", "too long"),
            check("logits", "unsupported", "too long"),
        ]
        assert said(checks) == "no activations, logits compared: too long"

    def test_nothing_recorded(self) -> None:
        """What says nothing of the cause is not given for it."""
        checks = [
            check("parameter"),
            check("transcript", "unsupported", "untrained"),
            check("activation", "missing", "not recorded"),
            check("logits", "missing", "not recorded"),
        ]
        assert said(checks) == "no activations, logits compared: not recorded"

    def test_nothing_planned(self) -> None:
        assert said([check("parameter")]) == "no activations, logits compared"

    def test_some_without_a_result(self) -> None:
        checks = [
            *ALL,
            check("activation", "missing", "projector was not recorded"),
            check("logits", "error"),
        ]
        assert said(checks) == "2 of 10 checks have no result: projector was not recorded"

    @given(results, st.lists(st.sampled_from(["captured", "unavailable", "error"]), max_size=3))
    def test_says_agrees_only_where_it_is_a_pass(
        self, checks: list[CheckResult], legs: list[LegStatus]
    ) -> None:
        reports = [leg(f"vllm-cpu@{index}", status, reason="r") for index, status in enumerate(legs)]
        message = said(checks, *reports, diagnosis="d")
        assert message
        if " agree" in message:
            assert outcome(checks) == "pass"
