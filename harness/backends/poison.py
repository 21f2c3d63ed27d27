"""Uninitialised memory that shows: a fill for what is allocated, and one for what loading has to overwrite.

Whether an element was written cannot be read off its value: garbage may be zero, and a checkpoint may hold
NaN. So memory is filled with a known word while a model is built, every parameter is filled with that word
again before loading, and where it is still there after loading, the load is repeated over another word. What
holds both fills was not written. This needs no value that a checkpoint could not have, so it holds for every
dtype, integers and float8 too.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from harness.trace.schema import Fill

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
#: The finite fill: large, and exact in every floating dtype that can hold it.
_FINITE = 2.0**15
_ALLOCATIONS = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted")


def words(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as integers of the same width, to be compared bit for bit."""
    return tensor.detach().view(_WORDS[tensor.element_size()])


def is_nan(tensor: torch.Tensor) -> torch.Tensor:
    """Where a tensor is NaN; torch cannot tell of float8."""
    wide = tensor.dtype.is_floating_point and tensor.element_size() == 1
    return (tensor.detach().float() if wide else tensor.detach()).isnan()


def finite_value(dtype: torch.dtype) -> float | int | bool:
    """The value of the finite fill: 32768, or the largest power of two that the dtype holds."""
    if dtype == torch.bool:
        return False
    if dtype.is_floating_point or dtype.is_complex:
        largest = torch.finfo(dtype).max
        value = _FINITE
        while value > largest:
            value /= 2
        return value
    return int(torch.iinfo(dtype).max) // 2


class _FiniteFill(TorchDispatchMode):  # type: ignore[misc]  # torch is not there
    """Fills every tensor that is allocated without values, over the fill of torch's own."""

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in _ALLOCATIONS and result.device.type != "meta":
            result.fill_(finite_value(result.dtype))
        return result


@contextmanager
def filled(fill: Fill) -> Iterator[None]:
    """Fill what is allocated without values: with NaN (integers: the largest value), or a finite value.

    NaN is torch's own deterministic mode, which reaches allocations inside torch as well; the finite fill
    goes over it, wherever Python allocates.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    # Warn only: no operation is to fail for what is wanted of the allocation alone.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        with ExitStack() as stack:
            if fill == "finite":
                stack.enter_context(_FiniteFill())
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]


def fill_word(tensor: torch.Tensor) -> int:
    """The word that a fresh allocation of this dtype and device holds inside :func:`filled`."""
    return int(words(torch.empty(1, dtype=tensor.dtype, device=tensor.device)).item())


@dataclass(frozen=True, kw_only=True)
class _Constructed:
    """What the constructor left of one parameter, where that is more than uninitialised memory."""

    written: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Unwritten:
    """The elements of a parameter that loading left alone: bool masks of the parameter's shape.

    ``default`` has the constructor's value, ``uninitialised`` has none. ``None`` means not one element.
    """

    default: torch.Tensor | None
    uninitialised: torch.Tensor | None


class PoisonedParameters:
    """The parameters of a model that was built inside :func:`filled`, made ready for loading.

    To be used inside the same :func:`filled`. Keeps at most one copy of the parameters: only of those that
    the constructor gave values.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._places: dict[str, tuple[torch.Tensor, int]] = {}
        self._constructed: dict[str, _Constructed] = {}
        #: Parameters without memory yet, such as those that online quantisation makes while it loads.
        self.without_memory: list[str] = []
        for name, parameter in model.named_parameters():
            if parameter.device.type == "meta":
                self.without_memory.append(name)
                continue
            data, word = parameter.detach(), fill_word(parameter)
            # What is computed of uninitialised memory, by a cast even, may be NaN in another word.
            written = (words(data) != word) & ~is_nan(data)
            if bool(written.any()):
                self._constructed[name] = _Constructed(written=written, values=data.clone())
            self._places[name] = (data, word)

    def load(self, load: Callable[[], None]) -> dict[str, Unwritten]:
        """Load until it is known which elements loading writes; afterwards, the others are as constructed.

        May be called again, to load in another way. Elements without a constructor's value hold the fill.

        Args:
            load: Loads the checkpoint into the model; called a second time only where elements hold the
                fill after the first.
        """
        self._pour(flip=0)
        load()
        candidates = {
            name: held
            for name, (data, word) in self._places.items()
            if bool((held := words(data) == word).any())
        }
        if candidates:
            self._pour(flip=1)
            load()
            candidates = {
                name: left
                for name, held in candidates.items()
                if bool((left := held & (words(self._places[name][0]) == (self._places[name][1] ^ 1))).any())
            }
        unwritten = {name: self._settle(name, mask) for name, mask in candidates.items()}
        return {**unwritten, **self._replaced()}

    def _pour(self, *, flip: int) -> None:
        for data, word in self._places.values():
            words(data).fill_(word ^ flip)

    def _settle(self, name: str, mask: torch.Tensor) -> Unwritten:
        data, word = self._places[name]
        words(data)[mask] = word
        constructed = self._constructed.get(name)
        if constructed is None:
            return Unwritten(default=None, uninitialised=mask)
        default = mask & constructed.written
        words(data)[default] = words(constructed.values)[default]
        uninitialised = mask & ~constructed.written
        return Unwritten(
            default=default if bool(default.any()) else None,
            uninitialised=uninitialised if bool(uninitialised.any()) else None,
        )

    def _replaced(self) -> dict[str, Unwritten]:
        """Parameters whose loader gave them new memory: there, uninitialised is what holds the fill."""
        found = {}
        for name, parameter in self._model.named_parameters():
            place = self._places.get(name)
            if place is not None and place[0].data_ptr() == parameter.data_ptr():
                continue
            if parameter.device.type == "meta":
                continue
            mask = words(parameter) == fill_word(parameter)
            found[name] = Unwritten(default=None, uninitialised=mask if bool(mask.any()) else None)
        return found
