"""What uninitialised memory holds, however it is allocated, and that torch is left as it was."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch", reason="needs torch, which belongs to the environment under test")

import torch

from harness.backends.fill import filled, finite_value, flip, flipped, holds_fill, is_nan, words
from tests.unit.test_poison import both_fills, every_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.trace.schema import Fill


def global_state() -> tuple[bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def set_global_state(on: bool, warn_only: bool, fill: bool) -> None:
    torch.use_deterministic_algorithms(on, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = fill


class TestFilled:
    @pytest.fixture(autouse=True)
    def _put_back(self) -> Iterator[None]:
        before = global_state()
        yield
        set_global_state(*before)

    @both_fills
    @pytest.mark.parametrize("before", [(False, False, True), (True, False, False), (True, True, True)])
    @pytest.mark.parametrize("raises", [False, True])
    def test_leaves_torch_as_it_was(self, fill: Fill, before: tuple[bool, bool, bool], raises: bool) -> None:
        set_global_state(*before)
        with pytest.raises(RuntimeError, match="inside") if raises else nullcontext(), filled(fill):
            assert global_state() == (True, True, True)
            if raises:
                raise RuntimeError("inside")
        assert global_state() == before

    def test_the_finite_fill_ends(self) -> None:
        with filled("nan"):
            with filled("finite"):
                assert torch.empty(2).tolist() == [32768, 32768]
            assert torch.empty(2).isnan().all()

    @pytest.mark.parametrize(
        "allocate",
        [
            lambda: torch.empty(2, 3),
            lambda: torch.empty_like(torch.zeros(2, 3)),
            lambda: torch.zeros(1).new_empty(2, 3),
            lambda: torch.empty_strided((2, 3), (1, 2)),
            lambda: torch.Tensor(2, 3),
            lambda: torch.nn.Parameter(torch.empty(2, 3)),
        ],
        ids=["empty", "empty_like", "new_empty", "empty_strided", "Tensor", "Parameter"],
    )
    def test_every_way_to_allocate(self, allocate: Callable[[], torch.Tensor]) -> None:
        with filled("finite"):
            assert allocate().tolist() == [[32768] * 3] * 2
        with filled("nan"):
            assert allocate().isnan().all()

    @every_dtype
    def test_the_finite_fill_is_exact(self, dtype: torch.dtype) -> None:
        value = finite_value(dtype)
        assert torch.tensor([value]).to(dtype).item() == value
        assert dtype == torch.bool or value >= 32


@both_fills
@every_dtype
def test_flipped_memory_holds_another_word(dtype: torch.dtype, fill: Fill) -> None:
    """One that is no NaN, so that it cannot be taken for what becomes of the fill."""
    with filled(fill):
        before = torch.empty(3, dtype=dtype)
        with flipped():
            made = torch.empty(3, dtype=dtype)
        assert words(made).tolist() == [word ^ flip(before) for word in words(before).tolist()]
        assert holds_fill(before).all()
        assert not holds_fill(made).any()
        assert not is_nan(made).any()
        assert torch.equal(words(torch.empty(3, dtype=dtype)), words(before)), "the context has ended"
