"""The contract of the fix has teeth: each way to get it wrong is red, whatever interpreter answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from harness.backends.contract import (
    ContractCase,
    Emission,
    check_helper,
    judge_case,
    load_cases,
    offered,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.backends.contract import CaseResult

ROWS = 4
CASES = {case.name: case for case in load_cases()}


def real(name: str) -> Emission:
    entry = offered(name)
    size = 1
    for length in entry["shape"]:
        size *= length
    return Emission(name=name, shape=tuple(entry["shape"]), values=(float(entry["value"]),) * size)


def zeros(name: str, *, rows: int = ROWS, value: float = 0.0) -> Emission:
    return Emission(name=name, shape=(rows,), values=(value,) * rows)


def bias_of(name: str) -> str:
    return f"{name.rpartition('.')[0]}.bias"


def is_weight(name: str) -> bool:
    """Whether this is the one part of a k projection that every way to store it has under some name."""
    return ".k_proj." in name and name.endswith((".weight", ".weight_packed", ".qweight"))


class Right:
    """A fix that is right; those that are wrong change one thing about it."""

    rows = ROWS
    value = 0.0
    times = 1
    looks_back = True
    looks_ahead = True

    def __init__(self) -> None:
        self.came: set[str] = set()

    def is_weight(self, name: str) -> bool:
        return is_weight(name)

    def lacks(self, bias: str, names: Sequence[str]) -> bool:
        return bias not in names and not (self.looks_back and bias in self.came)

    def __call__(self, names: Sequence[str]) -> list[Emission]:
        out = [real(name) for name in names]
        for name in names:
            bias = bias_of(name)
            if self.is_weight(name) and (not self.looks_ahead or self.lacks(bias, names)):
                out += [zeros(bias, rows=self.rows, value=self.value)] * self.times
        self.came |= set(names)
        return out


class AddsNothing(Right):
    times = 0


class AddsTwice(Right):
    times = 2


class AddsToAny(Right):
    """Zeros for each weight, whether the checkpoint has a bias or not."""

    looks_ahead = False


class Forgets(Right):
    """It knows the names of one call only."""

    looks_back = False


class WrongRows(Right):
    """The second axis of the weight, where the first is the number of rows."""

    rows = 6


class Ones(Right):
    value = 1.0


class NotANumber(Right):
    value = float("nan")


class PlainWeightsOnly(Right):
    def is_weight(self, name: str) -> bool:
        return ".k_proj." in name and name.endswith(".weight")


class AllProjections(Right):
    """Also for q and v, and their bias is not looked for."""

    def is_weight(self, name: str) -> bool:
        return name.endswith(".weight")

    def lacks(self, bias: str, names: Sequence[str]) -> bool:
        return ".k_proj." not in bias or super().lacks(bias, names)


class OneForAll(Right):
    """What one layer has decides for every other."""

    def lacks(self, bias: str, names: Sequence[str]) -> bool:
        return not any(name.endswith("k_proj.bias") for name in {*names, *self.came})


class AddsForEachPart(Right):
    """Once for each part of a packed weight."""

    def is_weight(self, name: str) -> bool:
        return ".k_proj." in name and "weight" in name.rpartition(".")[2]


class ReplacesEveryWeight(Right):
    """The word is replaced wherever it is in a name."""

    def __call__(self, names: Sequence[str]) -> list[Emission]:
        out = []
        for found in super().__call__(names):
            name = found.name
            if name not in names:
                name = name.replace("weight", "bias")
            out.append(found.model_copy(update={"name": name}))
        return out


class LosesTheLast(Right):
    def __call__(self, names: Sequence[str]) -> list[Emission]:
        return super().__call__(names)[1:]


class LosesTheRealBias(Right):
    """Zeros in the place of the checkpoint's own bias."""

    def __call__(self, names: Sequence[str]) -> list[Emission]:
        return [
            zeros(found.name) if found.name.endswith("k_proj.bias") else found
            for found in super().__call__(names)
        ]


def judged(fix: type[Right]) -> dict[str, CaseResult]:
    results = {}
    for case in CASES.values():
        each = fix()
        results[case.name] = judge_case(case, [each(names) for names in case.calls])
    return results


def red(fix: type[Right]) -> set[str]:
    return {name for name, result in judged(fix).items() if not result.ok}


ABSENT = {name for name, case in CASES.items() if "zeros" in case.want.values()}


class TestWrongFixes:
    def test_the_right_one_is_green(self) -> None:
        results = judged(Right)
        assert set(results) == set(CASES)
        assert all(result.ok and not result.message for result in results.values()), results

    @pytest.mark.parametrize(
        ("fix", "cases", "says"),
        [
            (AddsNothing, ABSENT, "never came: it stays uninitialised"),
            (AddsTwice, ABSENT, "was added 2 times"),
            (WrongRows, ABSENT, "has shape [6], expected [4]"),
            (Ones, ABSENT, "it is not zero"),
            (NotANumber, ABSENT, "it is not zero"),
            (PlainWeightsOnly, {"packed weight", "transposed packed weight"}, "never came"),
            (
                AddsToAny,
                {"bias after its weight", "bias before its weight", "bias in some layers"}
                | {"bias in one call, weight in a later one"},
                "the checkpoint's own values were overwritten",
            ),
            (Forgets, {"bias in one call, weight in a later one"}, "own values were overwritten"),
            (AllProjections, {"q and v beside it"}, "own values were overwritten"),
            (OneForAll, {"bias in some layers"}, "layers.1.k_proj.bias never came"),
            (AddsForEachPart, {"packed weight"}, "was added 3 times"),
            (ReplacesEveryWeight, {"the word weight elsewhere in the name"}, "which is no bias of this"),
            (LosesTheLast, set(CASES), "was lost"),
            (
                LosesTheRealBias,
                {name for name, case in CASES.items() if case.want.get("layers.0.k_proj.bias") == "real"},
                "own values were overwritten",
            ),
        ],
        ids=lambda value: value.__name__ if isinstance(value, type) else "",
    )
    def test_is_red_where_it_is_wrong(self, fix: type[Right], cases: set[str], says: str) -> None:
        results = judged(fix)
        assert cases
        assert cases <= red(fix)
        for name in cases:
            assert says in results[name].message

    @pytest.mark.parametrize("name", CASES)
    def test_every_case_catches_a_fix(self, name: str) -> None:
        """No case is there for nothing, and none can be passed by doing nothing wrong twice."""
        wrong = [fix for fix in Right.__subclasses__() if name in red(fix)]
        assert len(wrong) >= 2


class TestJudging:
    CASE = ContractCase(name="x", why="", calls=(("a.k_proj.weight",),), want={"a.k_proj.bias": "zeros"})

    def test_every_problem_is_named(self) -> None:
        result = judge_case(self.CASE, [[zeros("b.bias"), zeros("a.k_proj.bias", value=2)]])
        assert not result.ok
        assert result.message == (
            "a.k_proj.weight was lost; b.bias was added, which is no bias of this checkpoint; "
            "a.k_proj.bias: it is not zero"
        )

    def test_one_wrong_element_is_enough(self) -> None:
        bias = Emission(name="a.k_proj.bias", shape=(ROWS,), values=(0.0, 0.0, 1e-30, 0.0))
        assert not judge_case(self.CASE, [[real("a.k_proj.weight"), bias]]).ok

    def test_minus_zero_is_zero(self) -> None:
        assert judge_case(self.CASE, [[real("a.k_proj.weight"), zeros("a.k_proj.bias", value=-0.0)]]).ok

    def test_a_weight_that_comes_twice(self) -> None:
        result = judge_case(
            self.CASE, [[real("a.k_proj.weight"), real("a.k_proj.weight"), zeros("a.k_proj.bias")]]
        )
        assert result.message == "a.k_proj.weight came again"

    def test_as_many_answers_as_calls(self) -> None:
        with pytest.raises(ValueError, match="shorter"):
            judge_case(self.CASE, [])


def test_the_cases_are_sound() -> None:
    assert len(CASES) == len(load_cases()) >= 10
    for case in CASES.values():
        names = [name for stream in case.calls for name in stream]
        assert case.want, case.name
        assert case.why, case.name
        for name in names:
            assert offered(name)["shape"], name
        for bias, want in case.want.items():
            assert (want == "real") == (bias in names), (case.name, bias)


class TestCheckHelper:
    """An interpreter that holds no vLLM, or anything else, gives a reason and never an exception."""

    @staticmethod
    def interpreter(folder: Path, *lines: str) -> str:
        """A program that is given the runner, the question and where to put the answer."""
        path = folder / "interpreter"
        path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    def answering(self, folder: Path, answer: object) -> str:
        (folder / "answer").write_text(json.dumps(answer), encoding="utf-8")
        return self.interpreter(folder, f"cp '{folder}/answer' \"$3\"")

    @pytest.mark.parametrize("name", ["missing", ".", "interpreter\0"])
    def test_that_cannot_be_started(self, tmp_path: Path, name: str) -> None:
        found = check_helper(str(tmp_path / name))
        assert found.problem
        assert (found.version, found.cases) == ("", ())

    def test_that_hangs(self, tmp_path: Path) -> None:
        found = check_helper(self.interpreter(tmp_path, "exec tail -f /dev/null"), timeout=0.3)
        assert "timed out" in found.problem
        assert found.cases == ()

    @pytest.mark.parametrize(
        ("lines", "says"),
        [
            (
                ["echo working >&2", "echo 'ModuleNotFoundError: no vllm' >&2", "exit 1"],
                "ModuleNotFoundError: no vllm",
            ),
            (["printf '\\377\\376' >&2", "exit 1"], "\N{REPLACEMENT CHARACTER}"),
            (["exit 0"], "answer.json"),
            (['echo "no json" > "$3"'], "Expecting value"),
            ([': > "$3"'], "Expecting value"),
        ],
        ids=["says why", "bytes", "nothing", "garbage", "an empty file"],
    )
    def test_that_does_not_answer(self, tmp_path: Path, lines: list[str], says: str) -> None:
        found = check_helper(self.interpreter(tmp_path, *lines))
        assert says in found.problem
        assert found.cases == ()

    @pytest.mark.parametrize("answer", [{}, [], 3, None, {"version": "1", "signature": "", "problem": ""}])
    def test_that_answers_something_else(self, tmp_path: Path, answer: object) -> None:
        found = check_helper(self.answering(tmp_path, answer))
        assert found.problem
        assert found.cases == ()

    def test_whose_vllm_has_no_helper(self, tmp_path: Path) -> None:
        answer = {"version": "0.19.1", "signature": "", "problem": "has no such helper", "cases": {}}
        found = check_helper(self.answering(tmp_path, answer))
        assert (found.version, found.problem, found.cases) == ("0.19.1", "has no such helper", ())

    def answer(self, fix: type[Right]) -> dict[str, object]:
        calls = {}
        for case in CASES.values():
            each = fix()
            calls[case.name] = [
                {"error": "", "weights": [found.model_dump() for found in each(names)]}
                for names in case.calls
            ]
        return {"version": "1.0", "signature": "(weights)", "problem": "", "cases": calls}

    @pytest.mark.parametrize("fix", [Right, AddsNothing, Forgets])
    def test_whose_helper_is_judged(self, tmp_path: Path, fix: type[Right]) -> None:
        found = check_helper(self.answering(tmp_path, self.answer(fix)))
        assert (found.version, found.signature, found.problem) == ("1.0", "(weights)", "")
        assert [result.name for result in found.cases] == list(CASES)
        assert {result.name for result in found.cases if not result.ok} == red(fix)

    def test_that_leaves_out_a_case_or_a_call(self, tmp_path: Path) -> None:
        """What was not answered was not passed."""
        answer = self.answer(Right)
        calls = answer["cases"]
        assert isinstance(calls, dict)
        two = "weight in one call, bias in a later one"
        del calls["absent"]
        calls[two] = calls[two][:1]
        found = check_helper(self.answering(tmp_path, answer))
        wrong = {result.name: result.message for result in found.cases if not result.ok}
        assert wrong == {"absent": "0 of 1 calls were answered", two: "1 of 2 calls were answered"}

    def test_whose_helper_raises(self, tmp_path: Path) -> None:
        answer = self.answer(Right)
        calls = answer["cases"]
        assert isinstance(calls, dict)
        calls["packed weight"] = [{"error": "KeyError: 'weight'", "weights": []}]
        found = check_helper(self.answering(tmp_path, answer))
        assert {result.name: result.message for result in found.cases if not result.ok} == {
            "packed weight": "raised KeyError: 'weight'"
        }
