"""Dual poison: what differs in any bit between two fills is named; what was not looked at is not green."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.compare.plan import LOGITS, OTHERS, TRANSCRIPTS, Scope, plan_twin
from harness.compare.poison import compare_poison
from harness.trace.tensors import RawTensor
from tests.synthetic import (
    CASE,
    CHECKPOINT,
    CLIPS,
    CONFIGS,
    PROBES,
    Alter,
    Array,
    drop,
    edit,
    leg_of,
    make_clip,
    put,
    red,
    scope_of,
    together,
    write_trace,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from harness.compare.result import CheckResult
    from harness.trace.schema import ClipEntry, DType


K_BIAS, FC1 = "layers.0.k_proj.bias", "layers.0.fc1.weight"
FUSED_K_BIAS = "audio_tower.layers.0.self_attn.qkv_proj.bias[8:16]"
K_PROBE = "encoder.layers.0.k_proj"
PARAMETERS = [parameter.name for parameter in CASE.parameters(CONFIGS)]
SUBJECTS = [*PARAMETERS, OTHERS, *(probe.name for probe in PROBES), TRANSCRIPTS]
DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")
SHORT = make_clip("short", seconds=0.01, unsupported="too short")


def twins(
    folder: Path,
    *,
    ours: Alter | None = None,
    theirs: Alter | None = None,
    said: tuple[Mapping[str, str | None], Mapping[str, str | None]] = ({}, {}),
    clips: Sequence[ClipEntry] = CLIPS,
    planned: Sequence[ClipEntry] | None = None,
    dtype: DType = "float32",
) -> dict[str, CheckResult]:
    """Compare a leg and its twin; every planned check gets one result, in the plan's order.

    Args:
        folder: Where both traces are written.
        ours: What the leg has otherwise than the other, by tensor.
        theirs: The same of its twin.
        said: What each of both heard.
        clips: Recorded by both.
        planned: What the plan is derived from; ``clips`` where it is left out.
        dtype: Of both.
    """
    common: dict[str, Any] = {"clips": clips, "dtype": dtype}
    trace = write_trace(folder / "leg", leg="vllm-cpu", alter=ours, said=said[0], **common)
    twin = write_trace(
        folder / "twin", leg="vllm-cpu@finite", alter=theirs, said=said[1], fill="finite", **common
    )
    scope = Scope(
        case=CASE, configs=CONFIGS, clips=tuple(clips if planned is None else planned), trained=False
    )
    checks = plan_twin(scope, leg=leg_of(trace).name.identifier)
    results = compare_poison(checks, trace=trace, twin=twin, case=CASE)
    assert [result.id for result in results] == [check.id for check in checks]
    assert {(result.kind, result.pair) for result in results} == {("poison", "vllm_cpu")}
    return {result.subject: result for result in results}


def only_red(results: dict[str, CheckResult], name: str) -> CheckResult:
    assert red(results) == [name]
    return results[name]


def flip(name: str, *, flat: int = 0, bit: int = 0) -> Alter:
    """Turn one bit of one element over."""

    def alter(found: str, tensor: RawTensor) -> RawTensor:
        if found != name:
            return tensor
        words = tensor.data.copy()
        words.view(f"u{words.dtype.itemsize}").reshape(-1)[flat] ^= 1 << bit
        return replace(tensor, data=words)

    return alter


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_differs(tmp_path: Path, dtype: DType) -> None:
    results = twins(tmp_path, dtype=dtype)
    assert list(results) == SUBJECTS
    assert {result.status for result in results.values()} == {"pass"}
    assert {
        (result.measured, result.allowed, result.message, result.where) for result in results.values()
    } == {(0, 0, "", "")}
    by_clip = SUBJECTS[len(PARAMETERS) + 1 :]
    assert {results[name].metric for name in by_clip} == {"clips that differ"}
    assert {results[name].metric for name in (*PARAMETERS, OTHERS)} == {"parameters that differ"}


def test_an_audit_has_parameters_alone(tmp_path: Path) -> None:
    results = twins(tmp_path, clips=())
    assert list(results) == [*PARAMETERS, OTHERS]
    assert {result.status for result in results.values()} == {"pass"}


class TestTwins:
    """Two traces of which nothing differs prove something only if they are of one leg over two fills."""

    def judged(self, folder: Path, *, leg: dict[str, Any], twin: dict[str, Any]) -> list[CheckResult]:
        trace = write_trace(folder / "leg", **{"leg": "vllm-cpu", "clips": (), **leg})
        other = write_trace(
            folder / "twin", **{"leg": "vllm-cpu@finite", "clips": (), "fill": "finite", **twin}
        )
        plan = plan_twin(scope_of(trace), leg="vllm_cpu")
        results = compare_poison(plan, trace=trace, twin=other, case=CASE)
        assert [result.id for result in results] == [check.id for check in plan]
        return results

    @pytest.mark.parametrize(
        ("leg", "twin", "said"),
        [
            ({}, {"fill": "nan"}, "ran over the same fill (nan, word 2143289344; nan, word 2143289344)"),
            ({"fill": "finite"}, {}, "ran over the same fill (finite, "),
            (
                {},
                {"audit": lambda audit: audit.model_copy(update={"fill_word": 0x7FC00000})},
                "the same fill (nan, ",
            ),
            ({}, {"dtype": "bfloat16"}, "differ in dtype"),
            ({}, {"loader": "reverted"}, "differ in loader"),
            ({}, {"seed": 1}, "differ in seed"),
            ({}, {"clips": CLIPS[:1]}, "differ in clips"),
            ({}, {"prompt_token_ids": (1,)}, "differ in prompt_token_ids"),
            (
                {},
                {"checkpoint": CHECKPOINT.model_copy(update={"digest": "d" * 64})},
                "loaded other checkpoints",
            ),
        ],
    )
    def test_that_are_none(
        self, tmp_path: Path, leg: dict[str, Any], twin: dict[str, Any], said: str
    ) -> None:
        results = self.judged(tmp_path, leg=leg, twin=twin)
        assert {result.status for result in results} == {"error"}
        assert {said in result.message for result in results} == {True}, results[0].message

    def test_that_are(self, tmp_path: Path) -> None:
        assert {result.status for result in self.judged(tmp_path, leg={}, twin={})} == {"pass"}


class TestParameters:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("side", ["ours", "theirs"])
    def test_one_bit(self, tmp_path: Path, dtype: DType, side: str) -> None:
        change: Any = {side: flip(K_BIAS, flat=3)}
        result = only_red(twins(tmp_path, dtype=dtype, **change), K_BIAS)
        assert result.status == "fail"
        assert result.message == (
            f"{FUSED_K_BIAS} depends on memory that nobody wrote: it differs between two fills"
        )
        assert (result.where, result.measured, result.allowed) == (FUSED_K_BIAS, 1, 0)

    def test_of_a_matrix(self, tmp_path: Path) -> None:
        result = only_red(twins(tmp_path, theirs=flip(FC1, flat=77)), FC1)
        assert result.where == "audio_tower.layers.0.mlp.fc1.weight"

    def test_the_fills_themselves(self, tmp_path: Path) -> None:
        """What an unwritten bias looks like: NaN in the one, the finite fill in the other."""
        nan, finite = edit(K_BIAS, lambda bias: bias + np.nan), edit(K_BIAS, lambda bias: bias + 1e30)
        assert only_red(twins(tmp_path, ours=nan, theirs=finite), K_BIAS).status == "fail"

    def test_the_same_nan_on_both_does_not_depend_on_it(self, tmp_path: Path) -> None:
        nan = put(FC1, 5, np.nan)
        assert red(twins(tmp_path, ours=nan, theirs=nan)) == []

    def test_zeros_of_another_sign(self, tmp_path: Path) -> None:
        assert red(twins(tmp_path, theirs=put(K_BIAS, 0, -0.0))) == [K_BIAS]

    @pytest.mark.parametrize("sides", [("ours",), ("theirs",), ("ours", "theirs")])
    @pytest.mark.parametrize("name", [K_BIAS, FC1])
    def test_not_recorded(self, tmp_path: Path, sides: tuple[str, ...], name: str) -> None:
        change: Any = dict.fromkeys(sides, drop(name))
        result = only_red(twins(tmp_path, **change), name)
        assert (result.status, result.message) == (
            "missing",
            f"{name} was not recorded: nothing was compared",
        )


class TestOthers:
    """What has no canonical name, and rows beyond the shards: padding."""

    NAME = "language_model.lm_head.weight[263:320]"

    def pair(self, folder: Path, *others: Mapping[str, Array]) -> CheckResult:
        trace, twin = (
            write_trace(folder / fill, leg="vllm-cpu", clips=(), others=other, fill=fill)
            for fill, other in zip(("nan", "finite"), others, strict=True)
        )
        plan = plan_twin(Scope(case=CASE, configs=CONFIGS, clips=(), trained=False), leg="vllm_cpu")
        results = compare_poison(plan, trace=trace, twin=twin, case=CASE)
        assert {result.status for result in results if result.subject != OTHERS} == {"pass"}
        return next(result for result in results if result.subject == OTHERS)

    def test_the_same(self, tmp_path: Path) -> None:
        zeros: dict[str, Array] = {
            self.NAME: np.zeros((57, 8), dtype=np.float32),
            "x.table": np.zeros(3, dtype=np.int8),
        }
        assert self.pair(tmp_path, zeros, zeros).status == "pass"

    @pytest.mark.parametrize("value", [1.0, -0.0, np.nan])
    def test_another_bit(self, tmp_path: Path, value: float) -> None:
        one: Array = np.zeros((57, 8), dtype=np.float32)
        other: Array = one.copy()
        other[56, 7] = value
        result = self.pair(tmp_path, {self.NAME: one}, {self.NAME: other})
        assert (result.status, result.where, result.measured) == ("fail", self.NAME, 1)
        assert result.message.startswith(f"{self.NAME} depends on memory that nobody wrote")

    @pytest.mark.parametrize("order", [1, -1])
    def test_on_one_side_only(self, tmp_path: Path, order: int) -> None:
        sides: list[dict[str, Array]] = [{self.NAME: np.zeros(3)}, {}]
        assert self.pair(tmp_path, *sides[::order]).status == "fail"


class TestParts:
    """A quantised weight is compared by what it is kept as."""

    NAMES = ("layers.0.fc1.weight_packed", "layers.0.fc1.weight_scale")

    def pair(self, folder: Path, *values: float, names: Sequence[str] = NAMES) -> CheckResult:
        trace, twin = (
            write_trace(
                folder / fill, leg="vllm-cpu", clips=(), alter=drop(FC1), fill=fill,
                parts=dict(zip(names, (np.zeros(4), np.full(4, value)), strict=False)),
            )
            for fill, value in zip(("nan", "finite"), values, strict=True)
        )  # fmt: skip
        plan = plan_twin(Scope(case=CASE, configs=CONFIGS, clips=(), trained=False), leg="vllm_cpu")
        results = compare_poison(plan, trace=trace, twin=twin, case=CASE)
        assert {result.status for result in results if result.subject != FC1} == {"pass"}
        return next(result for result in results if result.subject == FC1)

    def test_the_same(self, tmp_path: Path) -> None:
        assert self.pair(tmp_path, 1, 1).status == "pass"

    def test_another_scale(self, tmp_path: Path) -> None:
        result = self.pair(tmp_path, 1, 2)
        assert (result.status, result.where) == ("fail", "audio_tower.layers.0.mlp.fc1.weight_scale")

    @pytest.mark.parametrize("side", ["nan", "finite"])
    def test_recorded_over_one_fill_only(self, tmp_path: Path, side: str) -> None:
        scale = {"layers.0.fc1.weight_scale": np.zeros(4)}
        trace, twin = (
            write_trace(
                tmp_path / fill, leg="vllm-cpu", clips=(), fill=fill, parts=scale if fill == side else None
            )
            for fill in ("nan", "finite")
        )
        plan = plan_twin(Scope(case=CASE, configs=CONFIGS, clips=(), trained=False), leg="vllm_cpu")
        results = {found.subject: found for found in compare_poison(plan, trace=trace, twin=twin, case=CASE)}
        assert only_red(results, FC1).message == (
            "layers.0.fc1.weight_scale was not recorded: nothing was compared"
        )

    def test_none_recorded(self, tmp_path: Path) -> None:
        assert self.pair(tmp_path, 1, 1, names=()).status == "missing"


class TestProbes:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("side", ["ours", "theirs"])
    def test_one_bit_of_one_element(self, tmp_path: Path, dtype: DType, side: str) -> None:
        change: Any = {side: flip(f"dog/{K_PROBE}", flat=41)}
        result = only_red(twins(tmp_path, dtype=dtype, **change), K_PROBE)
        assert result.status == "fail"
        assert result.message == f"{K_PROBE} depends on memory that nobody wrote, in 1 of 3 clips"
        assert (result.where, result.measured, result.allowed) == ("dog", 1, 0)

    def test_every_clip(self, tmp_path: Path) -> None:
        result = only_red(twins(tmp_path, theirs=put(f"*/{K_PROBE}", 0, 1e30)), K_PROBE)
        assert result.message.endswith("in 3 of 3 clips")
        assert (result.where, result.measured) == ("cat", 3)

    @pytest.mark.parametrize("probe", [probe.name for probe in PROBES])
    def test_each_probe_by_itself(self, tmp_path: Path, probe: str) -> None:
        assert only_red(twins(tmp_path, theirs=flip(f"zh/{probe}")), probe).where == "zh"

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_same_nan_on_both(self, tmp_path: Path, dtype: DType) -> None:
        """Bits are compared, not numbers: NaN is not equal to itself."""
        name = f"cat/{K_PROBE}"
        quiet = together(put(name, 0, np.inf), flip(name, bit=0))
        assert red(twins(tmp_path / "same", ours=quiet, theirs=quiet, dtype=dtype)) == []
        payload = together(quiet, flip(name, bit=1))
        assert red(twins(tmp_path / "payload", ours=quiet, theirs=payload, dtype=dtype)) == [K_PROBE]

    def test_zeros_of_another_sign(self, tmp_path: Path) -> None:
        name = f"cat/{K_PROBE}"
        results = twins(tmp_path, ours=put(name, 2, 0.0), theirs=put(name, 2, -0.0))
        assert only_red(results, K_PROBE).measured == 1

    @pytest.mark.parametrize("what", ["shape", "dtype"])
    def test_another_form_of_the_same_bytes(self, tmp_path: Path, what: str) -> None:
        def alter(name: str, tensor: RawTensor) -> RawTensor:
            if name != f"cat/{K_PROBE}":
                return tensor
            if what == "shape":
                return RawTensor.of(tensor.data.reshape(-1))
            return RawTensor.of(tensor.data.view("i4"))

        assert only_red(twins(tmp_path, theirs=alter), K_PROBE).status == "fail"

    @pytest.mark.parametrize("sides", [("ours",), ("theirs",), ("ours", "theirs")])
    @pytest.mark.parametrize("probe", [K_PROBE, LOGITS])
    def test_not_recorded_for_a_clip(self, tmp_path: Path, sides: tuple[str, ...], probe: str) -> None:
        change: Any = dict.fromkeys(sides, drop(f"dog/{probe}"))
        result = only_red(twins(tmp_path, **change), probe)
        assert (result.status, result.message) == ("missing", f"{probe} was not recorded for dog")

    def test_a_difference_is_one_whatever_was_not_recorded(self, tmp_path: Path) -> None:
        results = twins(tmp_path, ours=drop(f"cat/{K_PROBE}"), theirs=flip(f"dog/{K_PROBE}"))
        result = only_red(results, K_PROBE)
        assert (result.status, result.where, result.measured) == ("fail", "dog", 1)

    def test_nothing_at_all_recorded(self, tmp_path: Path) -> None:
        results = twins(tmp_path, theirs=drop("*/*"))
        assert red(results) == [probe.name for probe in PROBES]
        assert {results[probe.name].status for probe in PROBES} == {"missing"}


class TestTokens:
    @pytest.mark.parametrize("side", [0, 1])
    def test_other_tokens(self, tmp_path: Path, side: int) -> None:
        said: list[Mapping[str, str | None]] = [{}, {}]
        said[side] = {"dog": "my dog sat"}
        result = only_red(twins(tmp_path, said=(said[0], said[1])), TRANSCRIPTS)
        assert result.status == "fail"
        assert result.message == "the tokens of 1 of 3 clips depend on memory that nobody wrote"
        assert (result.where, result.measured, result.allowed) == ("dog", 1, 0)

    @pytest.mark.parametrize("sides", [(0,), (1,), (0, 1)])
    @pytest.mark.parametrize("clips", [("dog",), ("cat", "dog", "zh")])
    def test_not_recorded(self, tmp_path: Path, sides: tuple[int, ...], clips: tuple[str, ...]) -> None:
        """Of one clip or of all, on either side or on both: never green, and no other tokens either."""
        none: Mapping[str, str | None] = dict.fromkeys(clips)
        said = [none if side in sides else {} for side in (0, 1)]
        result = only_red(twins(tmp_path, said=(said[0], said[1])), TRANSCRIPTS)
        assert (result.status, result.message) == (
            "missing",
            f"the transcript was not recorded for {clips[0]}",
        )


class TestClips:
    def test_those_that_the_model_cannot_take_are_left_out(self, tmp_path: Path) -> None:
        results = twins(tmp_path, clips=(*CLIPS, SHORT), theirs=flip("cat/projector"))
        assert only_red(results, "projector").message.endswith("in 1 of 3 clips")

    @pytest.mark.parametrize("clips", [(), (SHORT,)])
    def test_no_clip_to_compare(self, tmp_path: Path, clips: tuple[ClipEntry, ...]) -> None:
        results = twins(tmp_path, clips=clips, planned=CLIPS)
        assert red(results) == [*(probe.name for probe in PROBES), TRANSCRIPTS]
        assert {results[name].status for name in red(results)} == {"missing"}
        assert results[K_PROBE].message == f"{K_PROBE} was not recorded for any clip"
        assert results[TRANSCRIPTS].message == "the transcript was not recorded for any clip"


#: One bit or one word of each subject, where the whole of a leg and its twin agree otherwise.
_WHERE = {name: name for name in PARAMETERS} | {probe.name: f"zh/{probe.name}" for probe in PROBES}


@settings(max_examples=15)
@given(st.sets(st.sampled_from([*_WHERE, TRANSCRIPTS])), st.integers(0, 15), st.booleans())
def test_exactly_what_differs_is_red(
    tmp_path_factory: pytest.TempPathFactory, planted: set[str], bit: int, swapped: bool
) -> None:
    alter = together(*(flip(_WHERE[name], bit=bit) for name in planted - {TRANSCRIPTS}))
    sides: Any = {"ours" if swapped else "theirs": alter}
    said: Mapping[str, str | None] = {"cat": "the cat"} if TRANSCRIPTS in planted else {}
    results = twins(tmp_path_factory.mktemp("traces"), said=(said, {}), **sides)
    assert set(red(results)) == planted
    assert {results[name].status for name in planted} <= {"fail"}
