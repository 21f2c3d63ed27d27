"""Which checkpoint tensor a loader wrote where: a dispatch mode that sees every operation of a load."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: Operations that put values in place of some of what is there.
_REPLACING_PARTS = {"index_copy_", "index_put_", "masked_fill_", "scatter_"}
#: Operations that put values in place of others; what else writes (``mul_``) transforms what is there.
_REPLACING = {"copy_", "fill_", "zero_", "set_"} | _REPLACING_PARTS
#: Operations that take the shape of a tensor and none of its values.
_SHAPE_ONLY = {f"{kind}_like" for kind in ("empty", "full", "ones", "rand", "randint", "randn", "zeros")} | {
    f"new_{kind}" for kind in ("empty", "empty_strided", "full", "ones", "zeros")
}


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of a parameter's elements: half-open ranges, one per axis."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def overlaps(self, other: Box) -> bool:
        """Whether the two have an element in common."""
        return all(
            max(a, c) < min(b, d)
            for a, b, c, d in zip(self.start, self.stop, other.start, other.stop, strict=True)
        )

    def __str__(self) -> str:
        return "[" + ", ".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True)) + "]"


@dataclass(frozen=True, kw_only=True)
class Write:
    """One write into a parameter. ``sources`` are the offers that it came from; none is the loader itself.

    ``replaces`` is false where it transformed what was there.
    """

    parameter: str
    box: Box
    sources: tuple[int, ...]
    replaces: bool


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
        for start in self._touched(tensor):
            self._starts.remove(start)
            del self._ranges[start]

    def find(self, tensor: torch.Tensor) -> list[Any]:
        """Whatever was added where this tensor is, by address."""
        return [self._ranges[start][1] for start in self._touched(tensor)]

    def covered_by(self, tensor: torch.Tensor) -> bool:
        """Whether nothing of what was added where this tensor is lies beyond it."""
        start, stop = tensor.data_ptr(), _end(tensor)
        touched = self._touched(tensor)
        return bool(tensor.is_contiguous()) and all(
            start <= first and self._ranges[first][0] <= stop for first in touched
        )

    def _touched(self, tensor: torch.Tensor) -> list[int]:
        if tensor.numel() == 0 or tensor.device.type == "meta":
            return []
        start, stop = tensor.data_ptr(), _end(tensor)
        index = max(0, bisect_right(self._starts, start) - 1)
        return [
            first
            for first in self._starts[index : bisect_left(self._starts, stop)]
            if self._ranges[first][0] > start
        ]


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
        # Their memory as it is now: a loader may give a parameter another.
        self._parameters = {name: parameter.detach() for name, parameter in parameters}
        self._places = _Memory()
        for name, parameter in self._parameters.items():
            self._places.add(parameter, name)
        self._sources = _Memory()
        self._scalar: tuple[int, ...] = ()
        self.offers: list[Offer] = []
        self.writes: list[Write] = []

    def restart(self) -> None:
        """Forget what was seen: the load starts anew."""
        self._sources = _Memory()
        self._scalar = ()
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
        self._sources.add(tensor, (len(self.offers) - 1,))
        # Counting reads scalars too.
        self._scalar = ()

    def is_offered(self, tensor: torch.Tensor) -> bool:
        """Whether the values of a tensor come from the checkpoint."""
        return bool(self._sources.find(tensor))

    def look_again(self, parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
        """After a load: what lies in memory that the loader itself gave a parameter was written there."""
        for name, parameter in parameters:
            if name not in self._places.find(parameter) and (sources := self._sources_of([parameter])):
                self._record(name, _whole(parameter), sources=sources, replaces=True)

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        written: list[torch.Tensor] = []
        read: list[torch.Tensor] = []
        replaces = name in _REPLACING
        for index, argument in enumerate(func._schema.arguments):  # noqa: SLF001 - its only place
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
            writes = argument.alias_info is not None and argument.alias_info.is_write
            (written if writes else read).extend(tensors)
            # What is given as `out` is replaced, whatever the operation.
            replaces |= writes and argument.kwarg_only
        sources = () if name in _SHAPE_ONLY else self._sources_of(read)
        if written:
            self._note(written, name=name, sources=sources, replaces=replaces)
            return result
        if sources and name == "_local_scalar_dense":
            # A scalar has no memory to follow; the next fill is taken for its.
            self._scalar = sources
        if name == "lift_fresh":
            # A tensor that was made of Python's numbers, in memory that may have been another's.
            sources = self._take_scalar() if not result.dim() else ()
        elif any(returned.alias_info is not None for returned in func._schema.returns):  # noqa: SLF001
            # A view: it is followed by its memory.
            return result
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf, sources)
        return result

    def _sources_of(self, tensors: Iterable[torch.Tensor]) -> tuple[int, ...]:
        found = (source for tensor in tensors for sources in self._sources.find(tensor) for source in sources)
        return tuple(dict.fromkeys(found))

    def _follow(self, tensor: torch.Tensor, sources: tuple[int, ...]) -> None:
        """Take what is in a tensor's memory for values of these sources; without one, for the loader's."""
        self._sources.discard(tensor)
        if sources:
            self._sources.add(tensor, sources)

    def _take_scalar(self) -> tuple[int, ...]:
        taken, self._scalar = self._scalar, ()
        return taken

    def _note(
        self, written: Sequence[torch.Tensor], *, name: str, sources: tuple[int, ...], replaces: bool
    ) -> None:
        if not sources and name == "fill_":
            sources = self._take_scalar()
        for tensor in written:
            parameters = self._places.find(tensor)
            if not parameters:
                # Of a tensor that is put together from parts, every part's source is a source.
                all_new = replaces and name not in _REPLACING_PARTS and self._sources.covered_by(tensor)
                kept = () if all_new else self._sources_of([tensor])
                self._follow(tensor, tuple(dict.fromkeys((*kept, *sources))))
            elif sources or replaces:
                for parameter in parameters:
                    box = _box(tensor, self._parameters[parameter])
                    self._record(parameter, box, sources=sources, replaces=replaces)

    def _record(self, parameter: str, box: Box, *, sources: tuple[int, ...], replaces: bool) -> None:
        self.writes.append(Write(parameter=parameter, box=box, sources=sources, replaces=replaces))
        for source in sources:
            self.offers[source].written_to.append(f"{parameter}{box}")


def _whole(data: torch.Tensor) -> Box:
    return Box(start=(0,) * data.dim(), stop=tuple(data.shape))


def _box(view: torch.Tensor, data: torch.Tensor) -> Box:
    """Where a view lies in its parameter; a view that is no rectangle of it is taken for the whole."""
    # An axis of one element may have any stride, and only one place.
    axes = {stride: axis for axis, stride in enumerate(data.stride()) if data.shape[axis] > 1}
    start, extent = [0] * data.dim(), [1] * data.dim()
    for size, stride in zip(view.shape, view.stride(), strict=True):
        if size > 1:
            if stride not in axes:
                return _whole(data)
            extent[axes[stride]] *= size
    offset, rest = divmod(view.data_ptr() - data.data_ptr(), data.element_size())
    for stride, axis in sorted(axes.items(), reverse=True):
        start[axis], offset = divmod(offset, stride) if stride else (0, offset)
    stop = tuple(first + size for first, size in zip(start, extent, strict=True))
    fits = all(a >= 0 and b <= size for a, b, size in zip(start, stop, data.shape, strict=True))
    if view.dtype != data.dtype or rest or offset or not fits:
        return _whole(data)
    return Box(start=tuple(start), stop=stop)


def count_non_finite(tensor: torch.Tensor) -> int:
    """How many elements are NaN or Inf; integers have none."""
    if not tensor.dtype.is_floating_point:
        return 0
    if tensor.element_size() == 1:
        tensor = tensor.float()
    return int(tensor.numel() - torch.isfinite(tensor).sum())
