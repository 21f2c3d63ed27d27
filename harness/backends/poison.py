"""Uninitialised memory that shows: a fill for what is allocated, and one for what loading has to overwrite.

Whether an element was written cannot be read off its value: garbage may be zero, and a checkpoint may hold
NaN. So memory is filled with a known word while a model is built, every parameter is filled with that word
again before loading, and where it is still there after loading (or any NaN, which is what becomes of NaN),
the load is repeated over another word, for parameters and for what is allocated meanwhile. What changes with
the fill was not written. This needs no value that a checkpoint could not have, so it holds for every dtype,
integers and float8 too; only what is computed in place of a fill that is a number passes for written.
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


class _Allocations(TorchDispatchMode):  # type: ignore[misc]  # torch is not there
    """Changes every tensor that is allocated without values, after the fill of torch's own."""

    def __init__(self, change: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self._change = change

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in _ALLOCATIONS and result.device.type != "meta":
            self._change(result)
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
                stack.enter_context(_Allocations(lambda made: made.fill_(finite_value(made.dtype))))
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]


def fill_word(tensor: torch.Tensor) -> int:
    """The word that a fresh allocation of this dtype and device holds inside :func:`filled`."""
    return int(words(torch.empty(1, dtype=tensor.dtype, device=tensor.device)).item())


def holds_fill(tensor: torch.Tensor) -> torch.Tensor:
    """Where a tensor holds the fill, or what may have become of it: a NaN of any word."""
    return (words(tensor) == fill_word(tensor)) | is_nan(tensor)


def _flip(tensor: torch.Tensor) -> int:
    """Which bits of the fill to turn over for another word, that is no NaN: the exponent's highest."""
    if tensor.dtype == torch.bool:
        return 1
    if tensor.dtype == torch.complex64:
        return 0x40000000_40000000
    return 0x40 << (8 * (int(tensor.element_size()) - 1))


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

    To be used inside the same :func:`filled`. Keeps a copy, and a mask of one byte per element, of those
    parameters that the constructor gave values, and one more mask of those that loading left something of.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._constructed: dict[str, _Constructed] = {}
        for name, data in self._parameters().items():
            # What is computed of uninitialised memory, by a cast even, may be NaN in another word.
            written = ~holds_fill(data)
            if bool(written.any()):
                self._constructed[name] = _Constructed(written=written, values=data.clone())

    def load(self, load: Callable[[], None]) -> dict[str, Unwritten]:
        """Load until it is known which elements loading writes; afterwards, the others are as constructed.

        May be called again, to load in another way. Elements without a constructor's value hold the fill.
        Parameters that a loader gives other memory, or adds, are looked at where they are afterwards.

        Args:
            load: Loads the checkpoint into the model; called a second time only where elements hold the
                fill after the first.
        """
        self._pour(flipped=False)
        load()
        held = {
            name: mask for name, data in self._parameters().items() if bool((mask := holds_fill(data)).any())
        }
        if not held:
            return {}
        self._pour(flipped=True)
        with _Allocations(lambda made: words(made).bitwise_xor_(_flip(made))):
            load()
        unwritten = {}
        for name, data in self._parameters().items():
            mask = held.pop(name, None)
            if mask is None:
                continue
            left = mask & ~holds_fill(data) if mask.shape == data.shape else torch.ones_like(data).bool()
            if bool(left.any()):
                unwritten[name] = self._settle(name, data, left)
        return unwritten

    def _parameters(self) -> dict[str, torch.Tensor]:
        """Every parameter that has memory, as it is now."""
        return {
            name: parameter.detach()
            for name, parameter in self._model.named_parameters()
            if parameter.device.type != "meta"
        }

    def _pour(self, *, flipped: bool) -> None:
        for data in self._parameters().values():
            words(data).fill_(fill_word(data) ^ (_flip(data) if flipped else 0))

    def _settle(self, name: str, data: torch.Tensor, left: torch.Tensor) -> Unwritten:
        words(data)[left] = fill_word(data)
        constructed = self._constructed.get(name)
        if constructed is None or (constructed.values.shape, constructed.values.dtype) != (
            data.shape,
            data.dtype,
        ):
            return Unwritten(default=None, uninitialised=left)
        default = left & constructed.written
        words(data)[default] = words(constructed.values)[default]
        uninitialised = left & ~constructed.written
        return Unwritten(
            default=default if bool(default.any()) else None,
            uninitialised=uninitialised if bool(uninitialised.any()) else None,
        )
