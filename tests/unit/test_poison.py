"""Which elements loading wrote: told by what memory held before, whatever the values are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytest.importorskip("torch", reason="needs torch, which belongs to the environment under test")

import torch

from harness.backends.fill import fill_word, filled, finite_value, is_nan, words
from harness.backends.poison import PoisonedParameters, Unwritten

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.trace.schema import Fill

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
DTYPES = [*FLOATS, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool]
FILLS: tuple[Fill, ...] = ("nan", "finite")


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
both_fills = pytest.mark.parametrize("fill", FILLS)


def model_of(**parameters: torch.Tensor) -> torch.nn.Module:
    model = torch.nn.Module()
    for name, tensor in parameters.items():
        model.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))
    return model


def held(dtype: torch.dtype, fill: Fill) -> int:
    """The word of a fill, from its value."""
    if fill == "finite":
        value: Any = finite_value(dtype)
    elif dtype.is_floating_point:
        value = float("nan")
    else:
        value = True if dtype == torch.bool else torch.iinfo(dtype).max
    return int(words(torch.full((1,), value, dtype=dtype)).item())


def telling(dtype: torch.dtype) -> torch.Tensor:
    """Values that a loader might write: of one byte all there are, else those of both fills and more."""
    if dtype == torch.bool:
        return torch.tensor([False, True])
    if dtype.itemsize == 1:
        return torch.arange(256, dtype=torch.uint8).view(dtype)
    fills = [held(dtype, fill) for fill in FILLS]
    integers = words(torch.empty(0, dtype=dtype)).dtype
    found = torch.tensor([*fills, *(word ^ 1 for word in fills), 0, 1, -1], dtype=torch.int64)
    extremes = [torch.finfo(dtype).max if dtype.is_floating_point else torch.iinfo(dtype).max, 0]
    return torch.cat([found.to(integers).view(dtype), torch.tensor(extremes, dtype=dtype)])


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(torch.equal(words(one), words(other)))


def load(
    make: Callable[[], torch.nn.Module], loader: Callable[[torch.nn.Module], None], *, fill: Fill = "nan"
) -> tuple[torch.nn.Module, dict[str, Unwritten]]:
    with filled(fill):
        model = make()
        return model, PoisonedParameters(model).load(lambda: loader(model))


def left(unwritten: dict[str, Unwritten]) -> tuple[object, object]:
    """What was left of the only parameter: as constructed, and by nobody."""
    (found,) = unwritten.values()
    default, uninitialised = (
        None if mask is None else mask.int().tolist() for mask in (found.default, found.uninitialised)
    )
    return default, uninitialised


@both_fills
@every_dtype
class TestEveryDtype:
    def test_nothing_is_written(self, dtype: torch.dtype, fill: Fill) -> None:
        model, unwritten = load(lambda: model_of(w=torch.empty(3, 2, dtype=dtype)), lambda _: None, fill=fill)
        assert left(unwritten) == (None, [[1, 1]] * 3)
        # What reads the memory afterwards finds the fill, and not what the proof needed.
        assert set(words(model.w).flatten().tolist()) == {held(dtype, fill)}

    def test_everything_is_written_whatever_the_value(self, dtype: torch.dtype, fill: Fill) -> None:
        values = telling(dtype)
        assert held(dtype, fill) in words(values).tolist()
        model, unwritten = load(
            lambda: model_of(w=torch.empty_like(values)), lambda model: model.w.data.copy_(values), fill=fill
        )
        assert unwritten == {}
        assert same(model.w, values)

    @pytest.mark.parametrize("elements", [1, 7, 64, 100_003])
    def test_an_allocation_of_any_size_holds_one_word(
        self, dtype: torch.dtype, fill: Fill, elements: int
    ) -> None:
        with filled(fill):
            found = torch.empty(elements, dtype=dtype)
            assert fill_word(found) == held(dtype, fill)
        assert bool((words(found) == held(dtype, fill)).all())

    def test_a_part_is_written(self, dtype: torch.dtype, fill: Fill) -> None:
        values = telling(dtype)
        count = len(values)
        model, unwritten = load(
            lambda: model_of(w=torch.empty(count + 3, dtype=dtype)),
            lambda model: model.w.data[:count].copy_(values),
            fill=fill,
        )
        assert left(unwritten) == (None, [0] * count + [1] * 3)
        assert same(model.w[:count], values)

    def test_a_default_is_put_back_bit_for_bit(self, dtype: torch.dtype, fill: Fill) -> None:
        values = telling(dtype)
        values = values[(words(values) != held(dtype, fill)) & ~is_nan(values)]
        count = len(values)

        def make() -> torch.nn.Module:
            model = model_of(w=torch.empty(count + 2, dtype=dtype))
            model.w.data[:count].copy_(values)
            return model

        model, unwritten = load(make, lambda model: model.w.data[:1].copy_(values[-1:]), fill=fill)
        default = [0] + [1] * (count - 1) + [0] * 2
        assert left(unwritten) == (default if any(default) else None, [0] * count + [1] * 2)
        assert same(model.w[:count], torch.cat([values[-1:].view(dtype), values[1:]]))

    @pytest.mark.parametrize("state", ["uninitialised", "default", "loaded"])
    def test_without_axes(self, dtype: torch.dtype, fill: Fill, state: str) -> None:
        other = words(torch.empty((), dtype=dtype)).dtype
        value = torch.tensor(held(dtype, "finite") ^ (fill == "finite"), dtype=other).view(dtype)
        model, unwritten = load(
            lambda: model_of(w=value.clone() if state == "default" else torch.empty((), dtype=dtype)),
            lambda model: model.w.data.copy_(value) if state == "loaded" else None,
            fill=fill,
        )
        if state == "loaded":
            assert unwritten == {}
        else:
            assert left(unwritten) == ((1, None) if state == "default" else (None, 1))
        assert same(model.w, value) == (state != "uninitialised")

    def test_without_elements(self, dtype: torch.dtype, fill: Fill) -> None:
        assert load(lambda: model_of(w=torch.empty(0, 3, dtype=dtype)), lambda _: None, fill=fill)[1] == {}


class TestLoad:
    @pytest.mark.parametrize(
        ("value", "elements", "times"),
        [(1.0, 4, 1), (float("nan"), 4, 2), (1.0, 3, 2)],
        ids=["all written", "written with the fill's own value", "one left"],
    )
    def test_is_called_twice_only_where_it_has_to_be(self, value: float, elements: int, times: int) -> None:
        calls: list[int] = []

        def loader(model: torch.nn.Module) -> None:
            calls.append(len(calls))
            model.w.data[:elements].copy_(torch.full((elements,), value))

        _, unwritten = load(lambda: model_of(w=torch.empty(4)), loader)
        assert len(calls) == times
        assert bool(unwritten) == (elements < 4)

    def test_again_in_another_way(self) -> None:
        """As the patched loader state does: once as installed, once with the fix."""
        with filled("nan"):
            model = model_of(w=torch.empty(3), d=torch.ones(3))
            poisoned = PoisonedParameters(model)
            found = [
                poisoned.load(lambda: model.w.data[:1].fill_(5)),
                poisoned.load(lambda: model.w.data[1:].fill_(6)),
                poisoned.load(lambda: model.d.data.fill_(7)),
            ]
        masks = [left({"w": unwritten["w"]}) for unwritten in found]
        assert masks == [(None, [0, 1, 1]), (None, [1, 0, 0]), (None, [1, 1, 1])]
        assert [sorted(unwritten) for unwritten in found] == [["d", "w"], ["d", "w"], ["w"]]
        assert model.d.tolist() == [7, 7, 7]

    def test_a_default_outlives_a_load_that_wrote_it(self) -> None:
        with filled("nan"):
            model = model_of(d=torch.ones(3))
            poisoned = PoisonedParameters(model)
            poisoned.load(lambda: model.d.data.fill_(7))
            poisoned.load(lambda: None)
        assert model.d.tolist() == [1, 1, 1]

    def test_a_loader_that_fails(self) -> None:
        def loader(_: torch.nn.Module) -> None:
            raise KeyError("no such weight")

        with pytest.raises(KeyError, match="no such weight"):
            load(lambda: model_of(w=torch.empty(3)), loader)

    @pytest.mark.parametrize("dtype", FLOATS, ids=name_of)
    def test_a_cast_of_uninitialised_memory_is_no_default(self, dtype: torch.dtype) -> None:
        """NaN may come out of a cast as another word than the one that memory is filled with."""
        _, unwritten = load(lambda: model_of(w=torch.empty(40).to(dtype)), lambda _: None)
        assert left(unwritten) == (None, [1] * 40)

    def test_memory_that_is_not_in_order(self) -> None:
        model, unwritten = load(
            lambda: model_of(w=torch.empty(2, 3).t()), lambda model: model.w.data[1].fill_(1)
        )
        assert left(unwritten) == (None, [[1, 1], [0, 0], [1, 1]])
        assert model.w[1].tolist() == [1, 1]

    def test_values_added_to_uninitialised_memory_are_not_loaded(self) -> None:
        _, unwritten = load(lambda: model_of(w=torch.empty(2)), lambda model: model.w.data.add_(1))
        assert left(unwritten) == (None, [1, 1])


@both_fills
@every_dtype
class TestWrittenFromNothing:
    """A loader may copy what nobody wrote: the values are there, and mean nothing."""

    def test_a_copy_of_it(self, dtype: torch.dtype, fill: Fill) -> None:
        def loader(model: torch.nn.Module) -> None:
            model.w.data.copy_(torch.empty(4, dtype=dtype))

        _, unwritten = load(lambda: model_of(w=torch.empty(4, dtype=dtype)), loader, fill=fill)
        assert left(unwritten) == (None, [1] * 4)

    @pytest.mark.parametrize(
        "allocate",
        [
            lambda like: torch.empty(4, dtype=like.dtype),
            torch.empty_like,
            lambda like: like.new_empty(4),
            lambda like: torch.empty_strided((4,), (1,), dtype=like.dtype),
        ],
        ids=["empty", "empty_like", "new_empty", "empty_strided"],
    )
    def test_padded_with_it(
        self, allocate: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype, fill: Fill
    ) -> None:
        def loader(model: torch.nn.Module) -> None:
            padded = allocate(model.w.data)
            padded[:2] = torch.zeros(2, dtype=dtype)
            model.w.data.copy_(padded)

        _, unwritten = load(lambda: model_of(w=torch.empty(4, dtype=dtype)), loader, fill=fill)
        assert left(unwritten) == (None, [0, 0, 1, 1])


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.mul_(2),
        lambda data: data.neg_(),
        lambda data: data.add_(1),
        lambda data: data.abs_(),
    ],
    ids=["mul", "neg", "add", "abs"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=name_of)
def test_what_becomes_of_nan_is_not_written(
    dtype: torch.dtype, change: Callable[[torch.Tensor], object]
) -> None:
    """Another sign, another word: it is NaN of uninitialised memory all the same."""

    def loader(model: torch.nn.Module) -> None:
        change(model.w.data)

    _, unwritten = load(lambda: model_of(w=torch.empty(3, dtype=dtype)), loader)
    assert left(unwritten) == (None, [1, 1, 1])


@both_fills
class TestNewMemory:
    """Loaders that give a parameter other memory than it was built with."""

    @pytest.mark.parametrize("whole", [False, True])
    def test_new_data(self, fill: Fill, whole: bool) -> None:
        def loader(model: torch.nn.Module) -> None:
            model.w.data = torch.empty(5)
            model.w.data[: 5 if whole else 2].fill_(1)

        _, unwritten = load(lambda: model_of(w=torch.empty(3)), loader, fill=fill)
        if whole:
            assert unwritten == {}
        else:
            assert left(unwritten) == (None, [0, 0, 1, 1, 1])

    @pytest.mark.parametrize("whole", [False, True])
    def test_a_new_parameter(self, fill: Fill, whole: bool) -> None:
        def loader(model: torch.nn.Module) -> None:
            data = torch.empty(2, 2, dtype=torch.bfloat16)
            data[: 2 if whole else 1].fill_(1)
            model.w = torch.nn.Parameter(data, requires_grad=False)

        _, unwritten = load(lambda: model_of(w=torch.zeros(3)), loader, fill=fill)
        if whole:
            assert unwritten == {}
        else:
            assert left(unwritten) == (None, [[0, 0], [1, 1]])

    @every_dtype
    def test_its_values_may_be_any(self, dtype: torch.dtype, fill: Fill) -> None:
        """A checkpoint's NaN, or its largest integer, in memory that the loader brought."""
        values = telling(dtype)

        def loader(model: torch.nn.Module) -> None:
            model.w = torch.nn.Parameter(values.clone(), requires_grad=False)

        model, unwritten = load(lambda: model_of(w=torch.empty(1, dtype=dtype)), loader, fill=fill)
        assert unwritten == {}
        assert same(model.w, values)

    def test_a_default_in_it_is_put_back(self, fill: Fill) -> None:
        def loader(model: torch.nn.Module) -> None:
            model.w.data = model.w.data.clone()
            model.w.data[:2].fill_(5)

        model, unwritten = load(lambda: model_of(w=torch.ones(4)), loader, fill=fill)
        assert left(unwritten) == ([0, 0, 1, 1], None)
        assert model.w.tolist() == [5, 5, 1, 1]

    def test_a_parameter_that_was_not_there_before(self, fill: Fill) -> None:
        def loader(model: torch.nn.Module) -> None:
            model.scale = torch.nn.Parameter(torch.empty(1))

        _, unwritten = load(lambda: model_of(w=torch.empty(0)), loader, fill=fill)
        assert unwritten["scale"].uninitialised is not None

    def test_without_memory(self, fill: Fill) -> None:
        """That is for the audit to say."""
        _, unwritten = load(
            lambda: model_of(w=torch.empty(3, device="meta"), x=torch.empty(1)), lambda _: None, fill=fill
        )
        assert set(unwritten) == {"x"}

    def test_memory_that_loading_makes(self, fill: Fill) -> None:
        def loader(model: torch.nn.Module) -> None:
            model.w = torch.nn.Parameter(torch.empty(3))
            model.w.data[1:].fill_(1)

        _, unwritten = load(lambda: model_of(w=torch.empty(3, device="meta")), loader, fill=fill)
        assert left(unwritten) == (None, [1, 0, 0])


@st.composite
def parameter(draw: st.DrawFn, fill: Fill) -> tuple[torch.Tensor, ...]:
    """Words before and after loading, and which of them constructor and loader write."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    constructed, loaded = (torch.from_numpy(np.array(draw(hnp.arrays(bool, shape)))) for _ in range(2))
    word = held(dtype, fill)
    integers = words(torch.empty(0, dtype=dtype)).dtype
    span = torch.iinfo(integers)

    def typed(found: object) -> torch.Tensor:
        return torch.tensor(found, dtype=integers).view(dtype)

    others = st.just(word ^ 1) if dtype == torch.bool else st.integers(span.min, span.max)
    count = constructed.numel()
    sizes = {"min_size": count, "max_size": count}
    plain = others.filter(lambda found: found != word and not is_nan(typed(found)))
    defaults = draw(st.lists(plain, **sizes))
    values = draw(st.lists(st.one_of(st.sampled_from([word, word ^ 1]), others), **sizes))
    return (
        *(typed(found).reshape(shape) for found in (defaults, values)),
        constructed,
        loaded,
    )


@given(st.data(), st.sampled_from(FILLS))
def test_any_module_loaded_in_any_part(data: st.DataObject, fill: Fill) -> None:
    parts = {
        f"p{index}": found for index, found in enumerate(data.draw(st.lists(parameter(fill), max_size=3)))
    }

    def make() -> torch.nn.Module:
        model = model_of(**{name: torch.empty_like(values) for name, (_, values, *_) in parts.items()})
        for name, (defaults, _, constructed, _) in parts.items():
            words(getattr(model, name))[constructed] = words(defaults)[constructed]
        return model

    def loader(model: torch.nn.Module) -> None:
        for name, (_, values, _, loaded) in parts.items():
            words(getattr(model, name))[loaded] = words(values)[loaded]

    model, unwritten = load(make, loader, fill=fill)
    assert set(unwritten) == {name for name, (*_, loaded) in parts.items() if not bool(loaded.all())}
    for name, (defaults, values, constructed, loaded) in parts.items():
        found = unwritten.get(name, Unwritten(default=None, uninitialised=None))
        now = words(getattr(model, name))
        filler = torch.full_like(now, held(values.dtype, fill))
        expected = torch.where(loaded, words(values), torch.where(constructed, words(defaults), filler))
        assert torch.equal(now, expected)
        for mask, wanted in (
            (found.default, constructed & ~loaded),
            (found.uninitialised, ~constructed & ~loaded),
        ):
            assert (mask is None) == (not bool(wanted.any()))
            assert mask is None or torch.equal(mask, wanted)
