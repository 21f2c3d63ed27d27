"""Which checkpoint tensor a loader wrote where: a dispatch mode that sees every operation of a load."""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: Operations that put values in place of others; what else writes (``mul_``) transforms what is there.
_OVERWRITING = {"copy_", "fill_", "zero_", "set_", "index_copy_", "index_put_", "masked_fill_", "scatter_"}


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of a parameter's elements: half-open ranges, one per axis."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def overlaps(self, other: Box) -> bool:
        """Whether the two have an element in common."""
        return all(
            a < d and c < b for a, b, c, d in zip(self.start, self.stop, other.start, other.stop, strict=True)
        )

    def __str__(self) -> str:
        return "[" + ", ".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True)) + "]"


@dataclass(frozen=True, kw_only=True)
class Write:
    """One write into a parameter. ``source`` is the offer that it came from, ``None`` the loader itself."""

    parameter: str
    box: Box
    source: int | None


@dataclass
class Offer:
    """A tensor that was given to the model's ``load_weights``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    non_finite: int
    written_to: list[str] = field(default_factory=list)


class _Memory:
    """Address ranges that do not overlap, each with what it belongs to; a new one takes over."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ranges: dict[int, tuple[int, Any]] = {}

    def add(self, tensor: torch.Tensor, owner: object) -> None:
        if tensor.numel() == 0 or tensor.device.type == "meta":
            return
        self.discard(tensor)
        insort(self._starts, tensor.data_ptr())
        self._ranges[tensor.data_ptr()] = (_end(tensor), owner)

    def discard(self, tensor: torch.Tensor) -> None:
        """Forget what lay where this tensor is now: memory is used again."""
        start, stop = tensor.data_ptr(), _end(tensor)
        index = max(0, bisect_right(self._starts, start) - 1)
        while index < len(self._starts) and self._starts[index] < stop:
            if self._ranges[self._starts[index]][0] > start:
                del self._ranges[self._starts.pop(index)]
            else:
                index += 1

    def find(self, tensor: torch.Tensor) -> Any:  # noqa: ANN401 - whatever was added
        if tensor.numel() == 0 or tensor.device.type == "meta":
            return None
        pointer = tensor.data_ptr()
        index = bisect_right(self._starts, pointer) - 1
        if index < 0:
            return None
        stop, owner = self._ranges[self._starts[index]]
        return owner if pointer < stop else None


def _end(tensor: torch.Tensor) -> int:
    """The address behind a tensor's last element."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.data_ptr() + (last + 1) * tensor.element_size())


class LoadWatch(TorchDispatchMode):  # type: ignore[misc]  # torch is not there
    """Follows the tensors that are offered to a loader into the parameters that they end up in.

    Views share their tensor's memory; what is computed from a tensor is followed as that tensor.
    """

    def __init__(self, parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
        super().__init__()
        self._parameters = dict(parameters)
        self._places = _Memory()
        for name, parameter in self._parameters.items():
            self._places.add(parameter.detach(), name)
        self._sources = _Memory()
        self._scalar: int | None = None
        self.offers: list[Offer] = []
        self.writes: list[Write] = []

    def restart(self) -> None:
        """Forget what was seen: the load starts anew."""
        self._sources = _Memory()
        self._scalar = None
        self.offers, self.writes = [], []

    def offer(self, name: str, tensor: torch.Tensor) -> None:
        """Note a tensor of the checkpoint as it is given to the loader."""
        self.offers.append(
            Offer(
                name=name,
                dtype=str(tensor.dtype).removeprefix("torch."),
                shape=tuple(tensor.shape),
                non_finite=count_non_finite(tensor),
            )
        )
        self._sources.add(tensor, len(self.offers) - 1)

    def is_offered(self, tensor: torch.Tensor) -> bool:
        """Whether the values of a tensor come from the checkpoint."""
        return self._sources.find(tensor) is not None

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        written: list[torch.Tensor] = []
        read: list[torch.Tensor] = []
        for argument, value in zip(func._schema.arguments, args, strict=False):  # noqa: SLF001 - its only place
            tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
            writes = argument.alias_info is not None and argument.alias_info.is_write
            (written if writes else read).extend(tensors)
        read += [leaf for leaf in tree_leaves(dict(kwargs)) if isinstance(leaf, torch.Tensor)]
        source = next((found for tensor in read if (found := self._sources.find(tensor)) is not None), None)
        name = func.overloadpacket.__name__
        if written:
            self._note(written, name=name, source=source)
            return result
        if source is not None and name == "_local_scalar_dense":
            # A scalar has no memory to follow; the next fill is taken for its.
            self._scalar = source
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and (known := self._sources.find(leaf)) != source:
                if known is not None:
                    self._sources.discard(leaf)
                if source is not None and self._places.find(leaf) is None:
                    self._sources.add(leaf, source)
        return result

    def _note(self, written: Sequence[torch.Tensor], *, name: str, source: int | None) -> None:
        if source is None and name == "fill_":
            source, self._scalar = self._scalar, None
        for tensor in written:
            parameter = self._places.find(tensor)
            if parameter is None:
                if source is not None:
                    self._sources.add(tensor, source)
                continue
            if source is None and name not in _OVERWRITING:
                continue
            box = _box(tensor, self._parameters[parameter])
            self.writes.append(Write(parameter=parameter, box=box, source=source))
            if source is not None:
                self.offers[source].written_to.append(f"{parameter}{box}")


def _box(view: torch.Tensor, parameter: torch.Tensor) -> Box:
    """Where a view lies in its parameter; a view of another layout is taken for the whole."""
    data = parameter.detach()
    whole = Box(start=(0,) * data.dim(), stop=tuple(data.shape))
    if view.dtype != data.dtype or view.stride() != data.stride() or view.dim() != data.dim():
        return whole
    offset = (view.data_ptr() - data.data_ptr()) // data.element_size()
    start = [0] * data.dim()
    for axis in sorted(range(data.dim()), key=lambda axis: -data.stride(axis)):
        start[axis], offset = divmod(offset, data.stride(axis))
    stop = tuple(first + size for first, size in zip(start, view.shape, strict=True))
    fits = all(last <= size for last, size in zip(stop, data.shape, strict=True))
    return Box(start=tuple(start), stop=stop) if fits and not offset else whole


def count_non_finite(tensor: torch.Tensor) -> int:
    """How many elements are NaN or Inf; integers have none."""
    if not tensor.dtype.is_floating_point:
        return 0
    if tensor.element_size() == 1:
        tensor = tensor.float()
    return int(tensor.numel() - torch.isfinite(tensor).sum())
