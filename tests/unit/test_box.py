"""Rectangles of a parameter: which elements a view of it is, and what is no rectangle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="needs torch, which belongs to the environment under test")

import torch

from harness.backends.box import Box

if TYPE_CHECKING:
    from collections.abc import Callable

#: Views of a parameter of 4 x 6, and the box that they are.
VIEWS = {
    "rows": (lambda p: p[1:3], "[1:3, 0:6]"),
    "columns": (lambda p: p[:, 2:5], "[0:4, 2:5]"),
    "a row": (lambda p: p[1], "[1:2, 0:6]"),
    "a column": (lambda p: p[:, 2], "[0:4, 2:3]"),
    "an element": (lambda p: p[3, 5], "[3:4, 5:6]"),
    "transposed": (lambda p: p[1:3, 2:5].t(), "[1:3, 2:5]"),
    "with one more axis": (lambda p: p[1:3].unsqueeze(0), "[1:3, 0:6]"),
    "a part of a row, flat": (lambda p: p.view(-1)[8:10], "[1:2, 2:4]"),
    "over the end of a row": (lambda p: p.view(-1)[5:8], "[0:4, 0:6]"),
    "two rows, flat": (lambda p: p.view(-1)[6:18], "[0:4, 0:6]"),
    "every second row": (lambda p: p[::2], "[0:4, 0:6]"),
    "other words": (lambda p: p[1:2].view(torch.int32), "[0:4, 0:6]"),
    "the diagonal": (lambda p: p.diagonal(), "[0:4, 0:6]"),
}


@st.composite
def box(draw: st.DrawFn, shape: tuple[int, ...]) -> Box:
    ends = [sorted((draw(st.integers(0, size)), draw(st.integers(0, size)))) for size in shape]
    return Box(start=tuple(first for first, _ in ends), stop=tuple(last for _, last in ends))


def covers(found: Box, shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(first, last) for first, last in zip(found.start, found.stop, strict=True))] = True
    return mask


shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)


class TestBox:
    @given(st.data(), shapes)
    def test_overlaps_where_an_element_is_in_both(self, data: st.DataObject, shape: tuple[int, ...]) -> None:
        one, other = data.draw(box(shape)), data.draw(box(shape))
        expected = bool((covers(one, shape) & covers(other, shape)).any())
        assert one.overlaps(other) == other.overlaps(one) == expected

    def test_is_written_as_half_open_ranges(self) -> None:
        assert str(Box(start=(0, 4), stop=(3, 8))) == "[0:3, 4:8]"
        assert str(Box(start=(), stop=())) == "[]"

    @given(st.data(), shapes)
    def test_of_any_slice_of_any_axis(self, data: st.DataObject, shape: tuple[int, ...]) -> None:
        order = data.draw(st.permutations(range(len(shape))))
        parameter = torch.arange(math.prod(shape)).reshape(shape).permute(order)
        index: list[slice | int] = []
        for size in parameter.shape:
            first = data.draw(st.integers(0, size - 1))
            last = data.draw(st.integers(first + 1, size))
            index.append(first if data.draw(st.booleans()) else slice(first, last))
        view = parameter[tuple(index)]
        view = view.permute(data.draw(st.permutations(range(view.dim()))))
        mask = covers(Box.of(view, parameter), tuple(parameter.shape))
        assert sorted(view.flatten().tolist()) == sorted(parameter[torch.from_numpy(mask)].tolist())

    @pytest.mark.parametrize(
        ("view", "expected"),
        VIEWS.values(),
        ids=VIEWS,
    )
    def test_what_is_no_rectangle_is_taken_for_the_whole(
        self, view: Callable[[torch.Tensor], torch.Tensor], expected: str
    ) -> None:
        parameter = torch.zeros(4, 6)
        found = Box.of(view(parameter), parameter)
        assert (str(found), found.exact) == (expected, expected != "[0:4, 0:6]")
