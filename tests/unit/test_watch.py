"""Following the checkpoint's tensors into the parameters: through views, casts, scalars and used memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch", reason="needs torch, which belongs to the environment under test")

import torch

from harness.backends.watch import LoadWatch, count_non_finite
from tests.unit.test_poison import FLOATS, model_of, name_of

if TYPE_CHECKING:
    from collections.abc import Callable

#: What a loader may do to a tensor of 4 x 6 on its way, and still load it.
CHANGES = {
    "as it is": lambda a: a,
    "detached": lambda a: a.detach(),
    "view": lambda a: a.view(2, 12),
    "reshaped with a copy": lambda a: a.t().reshape(3, 8),
    "narrow": lambda a: a.narrow(0, 2, 1),
    "columns": lambda a: a[:, 3:5],
    "one row": lambda a: a[2],
    "one element": lambda a: a[1, 1],
    "transposed": lambda a: a.t(),
    "transposed and copied": lambda a: a.t().contiguous(),
    "cast": lambda a: a.to(torch.bfloat16),
    "cast there and back": lambda a: a.half().float(),
    "float8 and back": lambda a: a.to(torch.float8_e4m3fn).to(torch.float32),
    "as other words": lambda a: a.view(torch.int32).view(torch.float32),
    "second chunk": lambda a: a.chunk(2)[1],
    "chunks put together": lambda a: torch.cat(a.chunk(2)[::-1]),
    "chunks stacked": lambda a: torch.stack(a.chunk(2)),
    "padded": lambda a: torch.nn.functional.pad(a, (0, 2)),
    "rows by index": lambda a: a[torch.tensor([2, 0])],
    "computed": lambda a: -a * 2 + 1,
    "put elsewhere": lambda a: torch.add(a, 1, out=torch.zeros(4, 6)),
    "copied into what was allocated": lambda a: torch.empty(4, 6).copy_(a),
    "changed in place": lambda a: a.clone().mul_(2),
    "changed in parts": lambda a: a.clone().masked_fill_(torch.zeros(4, 6, dtype=torch.bool), 0),
}

#: What a loader may make of a tensor of 4 without loading any of it.
MADE_UP = {
    "zeros alike": torch.zeros_like,
    "ones alike": torch.ones_like,
    "empty alike": torch.empty_like,
    "rand alike": torch.rand_like,
    "full alike": lambda a: torch.full_like(a, 3),
    "new zeros": lambda a: a.new_zeros(4),
    "new full": lambda a: a.new_full((4,), 3),
    "new empty": lambda a: a.new_empty(4),
    "zeros": lambda a: torch.zeros(a.shape[0]),
    "tensor": lambda a: torch.tensor([0.0] * a.shape[0]),
    "emptied": lambda a: torch.empty_like(a).zero_(),
    "zeroed": lambda a: a.clone().zero_(),
    "copied over": lambda a: a.clone().copy_(torch.zeros(4)),
    "out": lambda a: torch.zeros(4, out=a.clone()),
}


def write(
    parameter: str, box: str, *sources: int, replaces: bool = True
) -> tuple[str, str, tuple[int, ...], bool]:
    return parameter, box, sources, replaces


def seen(watch: LoadWatch) -> list[tuple[str, str, tuple[int, ...], bool]]:
    """By parameter, in the order of each."""
    return [
        (name, str(found.box), found.sources, found.replaces)
        for name, writes in watch.writes.items()
        for found in writes
    ]


class Loading:
    """A load that is watched: ``w``, ``x`` are the parameters; offers get the names a, b, c."""

    def __init__(self, *, w: tuple[int, ...] = (4,), x: tuple[int, ...] = (4,)) -> None:
        self.model = model_of(w=torch.zeros(w), x=torch.zeros(x))
        self.watch = LoadWatch(self.model.named_parameters())
        self.w, self.x = self.model.w.data, self.model.x.data

    def offer(self, *shape: int, tensor: torch.Tensor | None = None) -> torch.Tensor:
        tensor = torch.ones(shape) if tensor is None else tensor
        self.watch.offer(chr(ord("a") + len(self.watch.offers)), tensor)
        return tensor


class TestFollowing:
    @pytest.mark.parametrize(
        "change",
        CHANGES.values(),
        ids=CHANGES,
    )
    def test_a_tensor(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        shape = tuple(change(torch.ones(4, 6)).shape)
        load = Loading(w=shape)
        with load.watch:
            offered = load.offer(4, 6)
            load.w.copy_(change(offered))
            load.x.copy_(torch.zeros(4))
        box = "[" + ", ".join(f"0:{size}" for size in shape) + "]"
        assert seen(load.watch) == [write("w", box, 0), write("x", "[0:4]")]
        assert load.watch.offers[0].written_to == [f"w{box}"]

    @pytest.mark.parametrize(
        "make",
        MADE_UP.values(),
        ids=MADE_UP,
    )
    def test_what_has_none_of_its_values(self, make: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """A made-up bias is no tensor of the checkpoint, however it got its shape."""
        load = Loading()
        with load.watch:
            made = make(load.offer(4))
            assert not load.watch.is_offered(made)
            load.w.copy_(made)
        assert seen(load.watch) == [write("w", "[0:4]")]
        assert load.watch.offers[0].written_to == []

    def test_a_value_that_two_tensors_make(self) -> None:
        load = Loading()
        with load.watch:
            a, b = load.offer(2), load.offer(2)
            load.w.copy_(torch.cat([a, b]))
            torch.stack([a, b], out=load.x.view(2, 2))
        assert seen(load.watch) == [write("w", "[0:4]", 0, 1), write("x", "[0:4]", 0, 1)]
        assert [offer.written_to for offer in load.watch.offers] == [["w[0:4]", "x[0:4]"]] * 2

    @pytest.mark.parametrize("axis", [0, 1])
    def test_a_tensor_that_is_put_together_from_parts(self, axis: int) -> None:
        load = Loading(w=(4, 6))
        with load.watch:
            whole = torch.empty(4, 6)
            for half in whole.chunk(2, dim=axis):
                half.copy_(load.offer(*half.shape))
            load.w.copy_(whole)
        assert seen(load.watch) == [write("w", "[0:4, 0:6]", 0, 1)]

    def test_a_value_that_a_tensor_scales(self) -> None:
        load = Loading()
        with load.watch:
            load.w.copy_(load.offer(4))
            load.w.mul_(load.offer(1))
            load.w.add_(1)
        assert seen(load.watch) == [write("w", "[0:4]", 0), write("w", "[0:4]", 1, replaces=False)]

    def test_two_tensors_in_one_place(self) -> None:
        load = Loading()
        with load.watch:
            load.w[:3].copy_(load.offer(3))
            load.w[2:].copy_(load.offer(2))
            load.w[:1].zero_()
        assert seen(load.watch) == [write("w", "[0:3]", 0), write("w", "[2:4]", 1), write("w", "[0:1]")]

    def test_the_same_tensor_in_two_places(self) -> None:
        load = Loading()
        with load.watch:
            a = load.offer(4)
            load.w.copy_(a)
            load.x[1:3].copy_(a[:2])
        assert load.watch.offers[0].written_to == ["w[0:4]", "x[1:3]"]

    def test_a_parameter_without_memory_is_not_in_the_way(self) -> None:
        model = model_of(m=torch.empty(4, device="meta"), w=torch.zeros(4))
        watch = LoadWatch(model.named_parameters())
        with watch:
            watch.offer("a", a := torch.ones(4))
            model.m.data.copy_(a)
            model.w.data.copy_(a)
        assert seen(watch) == [write("w", "[0:4]", 0)]

    def test_reading_writes_nothing(self) -> None:
        load = Loading()
        with load.watch:
            a = load.offer(4)
            assert not bool((load.w + a).isnan().any())
        assert seen(load.watch) == []


class TestScalars:
    def test_the_next_fill_is_taken_for_it_and_no_other(self) -> None:
        load = Loading()
        with load.watch:
            scale = load.offer()
            load.w[1:3].fill_(scale.item())
            load.w[3:].fill_(0)
        assert seen(load.watch) == [write("w", "[1:3]", 0), write("w", "[3:4]")]

    def test_a_scalar_that_was_put_at_an_index(self) -> None:
        load = Loading()
        with load.watch:
            load.w[2] = float(load.offer(1)[0])
        assert seen(load.watch) == [write("w", "[2:3]", 0)]

    def test_a_fill_after_another_tensor_was_offered_is_the_loader_s(self) -> None:
        load = Loading()
        with load.watch:
            assert load.offer(1).item() == 1
            load.offer(4)
            load.w.fill_(0)
        assert seen(load.watch) == [write("w", "[0:4]")]

    def test_counting_what_is_not_finite_is_no_scalar_of_the_loader(self) -> None:
        load = Loading()
        staging = torch.ones(4)
        with load.watch:
            load.offer(tensor=staging)
            load.offer(tensor=staging)
            load.w.fill_(0)
        assert seen(load.watch) == [write("w", "[0:4]")]

    @pytest.mark.parametrize("value", [0.0, 2.0])
    def test_a_fill_with_another_value_is_the_loader_s(self, value: float) -> None:
        """A scalar may be read to look at it, and for nothing else."""
        load = Loading()
        with load.watch:
            a = load.offer(tensor=torch.tensor(1.0))
            assert a.item() == 1
            load.w.fill_(value)
        assert seen(load.watch) == [write("w", "[0:4]")]
        assert load.watch.offers[0].written_to == []

    def test_what_a_comparison_yields_is_no_value_of_a_tensor(self) -> None:
        load = Loading()
        with load.watch:
            assert bool((load.offer(4) > 0).all())
            load.w.fill_(1)
        assert seen(load.watch) == [write("w", "[0:4]")]

    def test_nan(self) -> None:
        load = Loading()
        with load.watch:
            load.w.fill_(load.offer(tensor=torch.tensor(math.nan)).item())
        assert seen(load.watch) == [write("w", "[0:4]", 0)]


class TestParameters:
    def test_what_is_computed_from_one_is_followed_as_what_was_written_there(self) -> None:
        load = Loading()
        with load.watch:
            load.w[:2].copy_(load.offer(2))
            load.w[2:].copy_(load.offer(2))
            load.x[:2].copy_(load.w[:2] * 2)
            load.x[2:].copy_(load.w[1:3].clone())
        assert seen(load.watch)[2:] == [write("x", "[0:2]", 0), write("x", "[2:4]", 0, 1)]

    def test_its_own_memory_made_anew(self) -> None:
        load = Loading()
        with load.watch:
            load.w.copy_(load.offer(4))
            load.model.w.data = load.model.w.data.half()
        load.watch.look_again(load.model.named_parameters())
        assert seen(load.watch) == [write("w", "[0:4]", 0)]

    def test_two_that_share_their_memory(self) -> None:
        memory = torch.zeros(4)
        model = model_of(w=memory, flat=memory.view(2, 2), other=torch.zeros(1))
        watch = LoadWatch(model.named_parameters())
        with watch:
            watch.offer("a", a := torch.ones(2))
            model.w.data[2:].copy_(a)
        assert seen(watch) == [write("w", "[2:4]", 0), write("flat", "[1:2, 0:2]", 0)]

    @pytest.mark.parametrize("change", ["normal_", "uniform_", "random_", "exponential_", "bernoulli_"])
    def test_drawn_anew(self, change: str) -> None:
        load = Loading()
        with load.watch:
            load.w.copy_(load.offer(4))
            getattr(load.w, change)()
        assert seen(load.watch) == [write("w", "[0:4]", 0), write("w", "[0:4]")]

    @pytest.mark.parametrize(
        ("rows", "loaded"), [((0, 1), False), ((1, 2), True), ((0, 4), True), ((3, 4), False)]
    )
    def test_which_rows_were_loaded(self, rows: tuple[int, int], loaded: bool) -> None:
        load = Loading()
        with load.watch:
            load.w.fill_(0)
            load.w[1:3].copy_(load.offer(2))
        assert load.watch.has_loaded("w", rows) is loaded
        load.watch.forget("w", after=1)
        assert not load.watch.has_loaded("w", rows)


class TestUsedMemory:
    def test_a_tensor_where_another_one_was(self) -> None:
        memory = bytearray(16)
        load = Loading()
        with load.watch:
            load.offer(tensor=torch.frombuffer(memory, dtype=torch.float32))
            b = load.offer(tensor=torch.frombuffer(memory, dtype=torch.float32)[:3])
            load.w[:3].copy_(b)
        assert seen(load.watch) == [write("w", "[0:3]", 1)]

    def test_a_buffer_that_is_used_for_one_after_the_other(self) -> None:
        load = Loading()
        staging = torch.zeros(4)
        with load.watch:
            load.w.copy_(staging.copy_(load.offer(4)))
            load.x.copy_(staging.copy_(load.offer(4)))
            load.w.copy_(staging.fill_(0))
        assert seen(load.watch) == [write("w", "[0:4]", 0), write("w", "[0:4]"), write("x", "[0:4]", 1)]

    def test_memory_that_was_freed_and_given_out_again(self) -> None:
        load = Loading(w=(64,))
        with load.watch:
            for _ in range(20):
                freed = load.offer(64)
                assert load.watch.is_offered(freed)
                del freed
                # Wherever the allocator puts them, these are the loader's own.
                assert not any(load.watch.is_offered(made) for made in [torch.zeros(64) for _ in range(4)])
                assert not load.watch.is_offered(torch.tensor([0.0] * 64))

    def test_a_parameter_that_was_given_other_memory(self) -> None:
        load = Loading()
        with load.watch:
            load.model.w.data = torch.zeros(2)
            load.w[1:].copy_(load.offer(3))
        assert seen(load.watch) == [write("w", "[1:4]", 0)]

    def test_what_lies_in_other_memory_after_the_load(self) -> None:
        load = Loading()
        with load.watch:
            a, b, c = load.offer(4), load.offer(2), load.offer(3)
            load.model.w.data = a.half()
            load.model.x = torch.nn.Parameter(torch.zeros(2, 3))
            load.model.x.data[0, :2].copy_(b)
            load.model.x.data[1].copy_(c)
        load.watch.look_again(load.model.named_parameters())
        assert seen(load.watch) == [write("w", "[0:4]", 0), write("x", "[0:2, 0:3]", 1, 2)]
        assert [offer.written_to for offer in load.watch.offers] == [["w[0:4]"], *[["x[0:2, 0:3]"]] * 2]

    def test_restart(self) -> None:
        load = Loading()
        with load.watch:
            a = load.offer(1)
            load.w.copy_(a)
            a.item()
            load.watch.restart(load.model.named_parameters())
            assert (load.watch.offers, seen(load.watch)) == ([], [])
            assert not load.watch.is_offered(a)
            load.w.fill_(0)
            load.w.copy_(a)
        assert seen(load.watch) == [write("w", "[0:4]")] * 2


class TestCountNonFinite:
    @pytest.mark.parametrize("dtype", FLOATS, ids=name_of)
    def test_nan_and_infinity(self, dtype: torch.dtype) -> None:
        # float8_e4m3fn has no infinity.
        bad = ["nan", "nan"] if dtype == torch.float8_e4m3fn else ["nan", "inf", "-inf"]
        values = torch.tensor([0.0, 1.0, *map(float, bad), -2.0]).to(dtype)
        assert count_non_finite(values) == len(bad)
        assert count_non_finite(values[:2]) == count_non_finite(values[:0]) == 0
        assert count_non_finite(torch.tensor(torch.finfo(dtype).max, dtype=dtype)) == 0

    @pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool], ids=name_of)
    def test_integers_have_none(self, dtype: torch.dtype) -> None:
        assert count_non_finite(torch.tensor([0, 1, 127]).to(dtype)) == 0

    def test_an_offer_is_counted_and_described(self) -> None:
        load = Loading()
        with load.watch:
            load.offer(tensor=torch.tensor([[1.0, float("nan")]]).to(torch.bfloat16))
        (offer,) = load.watch.offers
        assert (offer.name, offer.dtype, offer.shape, offer.non_finite) == ("a", "bfloat16", (1, 2), 1)
        assert seen(load.watch) == []
