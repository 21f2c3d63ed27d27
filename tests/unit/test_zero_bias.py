"""The harness's own zero bias: the contract of the fix, and any checkpoint there may be."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs torch, which belongs to the environment under test")

import torch

from harness.backends.contract import ContractCase, Emission, judge_case, load_cases, offered
from harness.backends.zero_bias import ZeroBias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROWS = 4


def tensor_of(name: str) -> torch.Tensor:
    entry = offered(name)
    return torch.full(tuple(entry["shape"]), entry["value"], dtype=getattr(torch, entry["dtype"]))


def emission(name: str, tensor: torch.Tensor) -> Emission:
    return Emission(name=name, shape=tuple(tensor.shape), values=tuple(tensor.flatten().float().tolist()))


@pytest.mark.parametrize("case", load_cases(), ids=lambda case: case.name)
def test_it_keeps_the_contract(case: ContractCase) -> None:
    # The biases that may be absent are those of k; q and v have theirs in every checkpoint.
    fix = ZeroBias({name: ROWS for name in case.want if ".k_proj." in name})
    calls = [
        [emission(*found) for found in fix((name, tensor_of(name)) for name in names)] for names in case.calls
    ]
    result = judge_case(case, calls)
    assert result.ok, result.message
    assert set(fix.added) >= {name for name, want in case.want.items() if want == "zeros"}


def weight(layer: int, part: str = "k", kind: str = "weight") -> str:
    return f"layers.{layer}.{part}_proj.{kind}"


KINDS = (
    ("weight",),
    ("weight", "weight_scale"),
    ("weight_packed", "weight_scale", "weight_shape"),
    ("g_idx", "qweight", "qzeros", "scales"),
)


@st.composite
def checkpoint(draw: st.DrawFn) -> tuple[dict[str, bool], list[list[str]]]:
    """For each k bias whether the checkpoint has it, and all names in any order, split into any streams."""
    has = {weight(layer, kind="bias"): draw(st.booleans()) for layer in range(draw(st.integers(1, 4)))}
    names = [name for name, real in has.items() if real]
    for layer in range(len(has)):
        names += [weight(layer, kind=kind) for kind in draw(st.sampled_from(KINDS))]
        names += [weight(layer, part, kind) for part in "qv" for kind in ("weight", "bias")]
    names = draw(st.permutations([*names, "conv1.weight", "conv1.bias", "norm.weight"]))
    cuts = sorted(draw(st.sets(st.integers(0, len(names)))) | {0, len(names)})
    return has, [names[start:stop] for start, stop in pairwise(cuts)]


def value(name: str) -> torch.Tensor:
    """Like the data file's, for names that it does not have: all ones, a bias of ROWS elements."""
    return torch.ones(ROWS) if name.endswith("bias") else torch.ones(3, 2)


@given(checkpoint())
def test_any_checkpoint_in_any_order_and_any_streams(found: tuple[dict[str, bool], list[list[str]]]) -> None:
    has, streams = found
    fix = ZeroBias(dict.fromkeys(has, ROWS))
    final: dict[str, torch.Tensor] = {}
    added: list[str] = []
    for names in streams:
        out = list(fix((name, value(name)) for name in names))
        # What is there is passed on in its order; what is added comes after all of it.
        assert [name for name, _ in out[: len(names)]] == names
        added += [name for name, _ in out[len(names) :]]
        # A loader keeps what comes last.
        final |= dict(out)
    assert added == fix.added
    assert len(set(added)) == len(added)
    absent = {bias for bias, real in has.items() if not real}
    assert absent <= set(added) <= set(has)
    offered_names = {name for names in streams for name in names}
    assert set(final) == offered_names | absent
    for name in offered_names:
        assert torch.equal(final[name], value(name)), f"{name} was overwritten"
    for bias in absent:
        assert torch.equal(final[bias], torch.zeros(ROWS))


@given(checkpoint())
def test_in_one_stream_nothing_is_added_that_the_checkpoint_has(
    found: tuple[dict[str, bool], list[list[str]]],
) -> None:
    has, streams = found
    fix = ZeroBias(dict.fromkeys(has, ROWS))
    names = [name for stream in streams for name in stream]
    out = [name for name, _ in fix((name, value(name)) for name in names)]
    assert out[: len(names)] == names
    assert sorted(out[len(names) :]) == sorted(bias for bias, real in has.items() if not real)


class TestOverTwoCalls:
    """A bias that comes in another call than its weight; the first call cannot know of it."""

    @staticmethod
    def loaded(fix: ZeroBias, *calls: Sequence[str]) -> dict[str, list[float]]:
        memory: dict[str, list[float]] = {}
        for names in calls:
            for name, tensor in fix((name, value(name)) for name in names):
                memory[name] = tensor.flatten().tolist()
        return memory

    def test_the_weight_first(self) -> None:
        """Zeros come with the weight, and the real bias over them."""
        fix = ZeroBias({weight(0, kind="bias"): ROWS})
        memory = self.loaded(fix, [weight(0)], [weight(0, kind="bias")])
        assert memory[weight(0, kind="bias")] == [1.0] * ROWS

    def test_the_bias_first(self) -> None:
        fix = ZeroBias({weight(0, kind="bias"): ROWS})
        memory = self.loaded(fix, [weight(0, kind="bias")], [weight(0)])
        assert memory[weight(0, kind="bias")] == [1.0] * ROWS
        assert fix.added == []

    def test_the_bias_between_two_parts_of_its_weight(self) -> None:
        fix = ZeroBias({weight(0, kind="bias"): ROWS})
        parts = [
            [weight(0, kind="weight_packed")],
            [weight(0, kind="bias")],
            [weight(0, kind="weight_scale")],
        ]
        assert self.loaded(fix, *parts)[weight(0, kind="bias")] == [1.0] * ROWS

    def test_another_load_is_another_instance(self) -> None:
        rows = {weight(0, kind="bias"): ROWS}
        for _ in range(2):
            assert self.loaded(ZeroBias(rows), [weight(0)])[weight(0, kind="bias")] == [0.0] * ROWS


def zeros_for(*stream: tuple[str, torch.Tensor], rows: int = ROWS) -> torch.Tensor:
    *_, (name, tensor) = ZeroBias({weight(0, kind="bias"): rows})(iter(stream))
    assert name == weight(0, kind="bias")
    return tensor


class TestTheZeros:
    @pytest.mark.parametrize(
        ("dtype", "expected"),
        [
            (torch.float32, torch.float32),
            (torch.bfloat16, torch.bfloat16),
            (torch.float16, torch.float16),
            (torch.float8_e4m3fn, torch.float32),
            (torch.int32, torch.float32),
            (torch.uint8, torch.float32),
        ],
        ids=lambda dtype: str(dtype).removeprefix("torch."),
    )
    def test_are_of_the_weight_s_dtype_unless_it_is_packed(
        self, dtype: torch.dtype, expected: torch.dtype
    ) -> None:
        zeros = zeros_for((weight(0), torch.ones(ROWS, 2).to(dtype)))
        assert zeros.dtype == expected
        assert zeros.tolist() == [0.0] * ROWS

    @pytest.mark.parametrize("kinds", KINDS, ids="+".join)
    def test_are_as_long_as_the_bias_whatever_the_weight_looks_like(self, kinds: Iterable[str]) -> None:
        stream = [(weight(0, kind=kind), torch.ones(1, 3)) for kind in kinds]
        assert zeros_for(*stream, rows=6).shape == (6,)

    def test_are_on_the_weight_s_device(self) -> None:
        assert zeros_for((weight(0), torch.ones(ROWS, 2, device="meta"))).device.type == "meta"

    @pytest.mark.parametrize(
        "name",
        [
            "layers.0.k_proj.bias_scale",
            "layers.0.k_proj.input_scale",
            "layers.0.q_proj.weight",
            "k_proj.weight",
        ],
    )
    def test_are_not_made_for(self, name: str) -> None:
        fix = ZeroBias({weight(0, kind="bias"): ROWS})
        assert [found for found, _ in fix([(name, torch.ones(ROWS))])] == [name]

    def test_nothing_is_read_ahead(self) -> None:
        """A checkpoint is read tensor by tensor: one in memory at a time."""
        read: list[str] = []

        def stream() -> Iterable[tuple[str, torch.Tensor]]:
            for name in (weight(0), weight(1), weight(2)):
                read.append(name)
                yield name, torch.ones(ROWS, 2)

        for name, _ in ZeroBias({weight(0, kind="bias"): ROWS})(stream()):
            if not name.endswith("bias"):
                assert read[-1] == name
        assert len(read) == 3
