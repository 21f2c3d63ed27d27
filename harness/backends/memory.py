"""What lies where in memory: tensors told apart by their addresses."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import torch

Owner = TypeVar("Owner")


class MemoryMap(Generic[Owner]):
    """Address ranges that do not overlap, each with what it belongs to."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ranges: dict[int, tuple[int, list[Owner]]] = {}

    def add(self, tensor: torch.Tensor, owner: Owner) -> None:
        """Say whose a tensor's memory is; what lay there before is forgotten."""
        self.discard(tensor)
        if _has_memory(tensor):
            insort(self._starts, tensor.data_ptr())
            self._ranges[tensor.data_ptr()] = (_end(tensor), [owner])

    def share(self, tensor: torch.Tensor, owner: Owner) -> None:
        """:meth:`add`, beside the owners of the very same range."""
        found = self._ranges.get(tensor.data_ptr()) if _has_memory(tensor) else None
        if found is not None and found[0] == _end(tensor):
            found[1].append(owner)
        else:
            self.add(tensor, owner)

    def discard(self, tensor: torch.Tensor) -> None:
        """Forget what lay where this tensor is now: memory is used again."""
        for start in self._touched(tensor):
            self._starts.remove(start)
            del self._ranges[start]

    def find(self, tensor: torch.Tensor) -> list[Owner]:
        """The owners of whatever was added where this tensor is, by address."""
        return [owner for start in self._touched(tensor) for owner in self._ranges[start][1]]

    def covered_by(self, tensor: torch.Tensor) -> bool:
        """Whether nothing of what was added where this tensor is lies beyond it."""
        start, stop = tensor.data_ptr(), _end(tensor)
        touched = self._touched(tensor)
        return bool(tensor.is_contiguous()) and all(
            start <= first and self._ranges[first][0] <= stop for first in touched
        )

    def _touched(self, tensor: torch.Tensor) -> list[int]:
        if not _has_memory(tensor):
            return []
        start, stop = tensor.data_ptr(), _end(tensor)
        index = max(0, bisect_right(self._starts, start) - 1)
        return [
            first
            for first in self._starts[index : bisect_left(self._starts, stop)]
            if self._ranges[first][0] > start
        ]


def _has_memory(tensor: torch.Tensor) -> bool:
    return bool(tensor.numel()) and tensor.device.type != "meta"


def _end(tensor: torch.Tensor) -> int:
    """The address behind a tensor's last element."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.data_ptr() + (last + 1) * tensor.element_size())
