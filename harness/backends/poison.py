"""Which elements of its parameters loading a model wrote.

Whether an element was written cannot be read off its value: garbage may be zero, and a checkpoint may hold
NaN. So memory is filled with a known word while a model is built, every parameter is filled with that word
again before loading, and where it is still there after loading (or any NaN, which is what becomes of NaN),
the load is repeated over another word, for parameters and for what is allocated meanwhile. What changes with
the fill was not written. This needs no value that a checkpoint could not have, so it holds for every dtype,
integers and float8 too; only what is computed in place of a fill that is a number passes for written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.backends.fill import fill_word, flip, flipped, holds_fill, words

if TYPE_CHECKING:
    from collections.abc import Callable


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
    """The parameters of a model that was built over a fill, made ready for loading.

    To be used inside the same :func:`harness.backends.fill.filled`. Keeps a copy, and a mask of one byte per
    element, of those parameters that the constructor gave values, and one more mask of those that loading
    left something of.
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
        with flipped():
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
            words(data).fill_(fill_word(data) ^ (flip(data) if flipped else 0))

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
