"""Which elements of a parameter a view of it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of a tensor's elements: half-open ranges, one per axis.

    ``exact`` is false where what it stands for is only somewhere in it.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    exact: bool = True

    @classmethod
    def whole(cls, tensor: torch.Tensor, *, exact: bool = True) -> Box:
        """All elements of a tensor."""
        return cls(start=(0,) * tensor.dim(), stop=tuple(tensor.shape), exact=exact)

    @classmethod
    def of(cls, view: torch.Tensor, tensor: torch.Tensor) -> Box:
        """Where a view lies in its tensor; one that is no rectangle of it is taken for the whole."""
        # An axis of one element may have any stride, and only one place.
        axes = {stride: axis for axis, stride in enumerate(tensor.stride()) if tensor.shape[axis] > 1}
        start, extent = [0] * tensor.dim(), [1] * tensor.dim()
        for size, stride in zip(view.shape, view.stride(), strict=True):
            if size > 1:
                if stride not in axes:
                    return cls.whole(tensor, exact=False)
                extent[axes[stride]] *= size
        offset, rest = divmod(view.data_ptr() - tensor.data_ptr(), tensor.element_size())
        for stride, axis in sorted(axes.items(), reverse=True):
            start[axis], offset = divmod(offset, stride) if stride else (0, offset)
        stop = tuple(first + size for first, size in zip(start, extent, strict=True))
        fits = all(a >= 0 and b <= size for a, b, size in zip(start, stop, tensor.shape, strict=True))
        if view.dtype != tensor.dtype or rest or offset or not fits:
            return cls.whole(tensor, exact=False)
        return cls(start=tuple(start), stop=stop)

    @property
    def index(self) -> tuple[slice, ...]:
        """What indexes these elements."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def has_rows(self, rows: tuple[int, int]) -> bool:
        """Whether it has an element in rows, half-open on axis 0; without axes there is one row."""
        return not self.start or (self.start[0] < rows[1] and rows[0] < self.stop[0])

    def overlaps(self, other: Box) -> bool:
        """Whether the two have an element in common."""
        return all(
            max(a, c) < min(b, d)
            for a, b, c, d in zip(self.start, self.stop, other.start, other.stop, strict=True)
        )

    def __str__(self) -> str:
        return "[" + ", ".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True)) + "]"
