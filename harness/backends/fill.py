"""What uninitialised memory holds: a word that is known, instead of what the allocator finds."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
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


def flip(tensor: torch.Tensor) -> int:
    """Which bits of the fill to turn over for another word, that is no NaN: the exponent's highest."""
    if tensor.dtype == torch.bool:
        return 1
    if tensor.dtype == torch.complex64:
        return 0x40000000_40000000
    return 0x40 << (8 * (int(tensor.element_size()) - 1))


@contextmanager
def flipped() -> Iterator[None]:
    """Fill what is allocated with the word that :func:`flip` makes of the fill; inside :func:`filled`."""
    with _Allocations(lambda made: words(made).bitwise_xor_(flip(made))):
        yield
