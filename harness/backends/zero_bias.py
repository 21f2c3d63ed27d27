"""The fix of vLLM pull request 40160 in the harness's own words: zeros where a checkpoint has no bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class ZeroBias:
    """Adds a zero bias to a stream of weights for each weight whose checkpoint has none.

    A fused projection has one bias for q, k and v together; a checkpoint without a bias for k leaves its
    third of it to whatever the allocator returned. One instance sees all of a checkpoint, in one stream or
    in several (``load_weights`` is called anew for every run of names with one prefix): each bias is added
    once, and never after the checkpoint's own, in whatever order the names come.
    """

    def __init__(self, rows: Mapping[str, int]) -> None:
        """``rows``: by the name of each bias that may be absent, its number of elements.

        Not taken from the weight, which is packed where it is quantised.
        """
        self._rows = rows
        self._known: set[str] = set()
        #: The biases that were added, in order.
        self.added: list[str] = []

    def __call__(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the stream as it is, then the biases that it lacks."""
        lacking: dict[str, torch.Tensor] = {}
        for name, tensor in weights:
            yield name, tensor
            module, _, kind = name.rpartition(".")
            if name in self._rows:
                self._known.add(name)
                lacking.pop(name, None)
            elif "weight" in kind and (bias := f"{module}.bias") in self._rows and bias not in self._known:
                lacking[bias] = self._zeros(tensor, rows=self._rows[bias])
        for bias, zeros in lacking.items():
            self._known.add(bias)
            self.added.append(bias)
            yield bias, zeros

    @staticmethod
    def _zeros(weight: torch.Tensor, *, rows: int) -> torch.Tensor:
        # A packed weight's dtype is no dtype for a bias.
        plain = weight.dtype.is_floating_point and weight.element_size() > 1
        return torch.zeros(rows, dtype=weight.dtype if plain else torch.float32, device=weight.device)
