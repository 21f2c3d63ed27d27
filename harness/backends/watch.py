"""Which checkpoint tensor a loader wrote where: a dispatch mode that sees every operation of a load."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.backends.box import Box
from harness.backends.memory import MemoryMap

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: Operations that put values in place of some of what is there.
_REPLACING_PARTS = {
    "bernoulli_", "index_copy_", "index_fill_", "index_put_", "masked_fill_", "masked_scatter_", "scatter_",
}  # fmt: skip
#: Operations that put values in place of others; what else writes (``mul_``) transforms what is there.
_REPLACING = _REPLACING_PARTS | {
    "_foreach_copy_", "_foreach_zero_", "copy_", "exponential_", "fill_", "normal_", "random_", "set_",
    "uniform_", "zero_",
}  # fmt: skip
#: Operations that take the shape of a tensor and none of its values.
_SHAPE_ONLY = {f"{kind}_like" for kind in ("empty", "full", "ones", "rand", "randint", "randn", "zeros")} | {
    f"new_{kind}" for kind in ("empty", "empty_strided", "full", "ones", "zeros")
}


@dataclass(frozen=True, kw_only=True)
class Write:
    """One write into a parameter. ``sources`` are the offers that it came from; none is the loader itself.

    ``replaces`` is false where it transformed what was there.
    """

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


@dataclass(frozen=True, kw_only=True)
class _Scalar:
    """A number that was read from a tensor: it has no memory to follow."""

    value: float | int
    sources: tuple[int, ...]

    @staticmethod
    def is_number(value: object) -> bool:
        """Whether a value may be one of a checkpoint's: what a comparison yields is none."""
        return isinstance(value, float | int) and not isinstance(value, bool)

    def is_in(self, value: object) -> bool:
        """Whether a value is this one; NaN is NaN."""
        return self.is_number(value) and (value == self.value or str(value) == str(self.value) == "nan")


class LoadWatch(TorchDispatchMode):  # type: ignore[misc]  # torch is not there
    """Follows the tensors that are offered to a loader into the parameters that they end up in.

    Views share their tensor's memory; what is computed from a tensor is followed as that tensor, and what is
    computed from a parameter as what was written there.
    """

    def __init__(self, parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
        super().__init__()
        self.restart(parameters)

    def restart(self, parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Forget what was seen: a load starts anew."""
        # Their memory as it is now: a loader may give a parameter another.
        self._parameters = {name: parameter.detach() for name, parameter in parameters}
        self._places: MemoryMap[str] = MemoryMap()
        for name, parameter in self._parameters.items():
            self._places.share(parameter, name)
        self._sources: MemoryMap[tuple[int, ...]] = MemoryMap()
        self._scalar: _Scalar | None = None
        self.offers: list[Offer] = []
        #: By parameter, in their order.
        self.writes: dict[str, list[Write]] = {name: [] for name in self._parameters}

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
        self._scalar = None

    def is_offered(self, tensor: torch.Tensor) -> bool:
        """Whether the values of a tensor come from the checkpoint."""
        return bool(self._sources.find(tensor))

    def has_loaded(self, parameter: str, rows: tuple[int, int]) -> bool:
        """Whether the checkpoint has been written to any of these rows, half-open on axis 0."""
        return any(write.sources and write.box.has_rows(rows) for write in self.writes[parameter])

    def forget(self, parameter: str, *, after: int) -> None:
        """Keep the first so many writes to a parameter only: what came after was undone."""
        del self.writes[parameter][after:]

    def look_again(self, parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
        """After a load: what lies in memory that the loader itself gave a parameter was written there."""
        for name, parameter in parameters:
            if name in self._places.find(parameter):
                continue
            # What was written to its old memory is no longer the parameter's.
            self.writes[name] = []
            if sources := self._sources_of([parameter]):
                self._record(name, Box.whole(parameter), sources=sources, replaces=True)

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
            if name == "fill_" and not sources:
                sources = self._take_scalar(args[1] if len(args) > 1 else None)
            self._note(written, name=name, sources=sources, replaces=replaces)
            return result
        if name == "_local_scalar_dense":
            self._scalar = _Scalar(value=result, sources=sources) if _Scalar.is_number(result) else None
        if name == "lift_fresh":
            # A tensor that was made of Python's numbers, in memory that may have been another's.
            sources = self._take_scalar(result.item()) if not result.dim() else ()
        elif any(returned.alias_info is not None for returned in func._schema.returns):  # noqa: SLF001
            # A view: it is followed by its memory.
            return result
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf, sources)
        return result

    def _sources_of(self, tensors: Iterable[torch.Tensor]) -> tuple[int, ...]:
        found: dict[int, None] = {}
        for tensor in tensors:
            for sources in self._sources.find(tensor):
                found |= dict.fromkeys(sources)
            for name in self._places.find(tensor):
                box = Box.of(tensor, self._parameters[name])
                for write in self.writes[name]:
                    if write.box.overlaps(box):
                        found |= dict.fromkeys(write.sources)
        return tuple(found)

    def _follow(self, tensor: torch.Tensor, sources: tuple[int, ...]) -> None:
        """Take what is in a tensor's memory for values of these sources; without one, for the loader's."""
        self._sources.discard(tensor)
        if sources:
            self._sources.add(tensor, sources)

    def _take_scalar(self, value: object) -> tuple[int, ...]:
        """The sources of the last scalar that was read, if this is its value."""
        taken, self._scalar = self._scalar, None
        return taken.sources if taken is not None and taken.is_in(value) else ()

    def _note(
        self, written: Sequence[torch.Tensor], *, name: str, sources: tuple[int, ...], replaces: bool
    ) -> None:
        for tensor in written:
            parameters = self._places.find(tensor)
            if not parameters:
                # Of a tensor that is put together from parts, every part's source is a source.
                all_new = replaces and name not in _REPLACING_PARTS and self._sources.covered_by(tensor)
                kept = () if all_new else self._sources_of([tensor])
                self._follow(tensor, tuple(dict.fromkeys((*kept, *sources))))
            elif sources or replaces:
                for parameter in parameters:
                    box = Box.of(tensor, self._parameters[parameter])
                    if name in _REPLACING_PARTS:
                        box = replace(box, exact=False)
                    self._record(parameter, box, sources=sources, replaces=replaces)

    def _record(self, parameter: str, box: Box, *, sources: tuple[int, ...], replaces: bool) -> None:
        self.writes[parameter].append(Write(box=box, sources=sources, replaces=replaces))
        for source in sources:
            self.offers[source].written_to.append(f"{parameter}{box}")


def count_non_finite(tensor: torch.Tensor) -> int:
    """How many elements are NaN or Inf; integers have none."""
    if not tensor.dtype.is_floating_point:
        return 0
    if tensor.element_size() == 1:
        tensor = tensor.float()
    return int(tensor.numel() - torch.isfinite(tensor).sum())
