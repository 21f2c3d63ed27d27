"""Keeps a loader's own values out of parameters that only a checkpoint may write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from harness.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.backends.watch import LoadWatch
    from harness.trace.schema import LoaderState

#: Half-open, on axis 0.
Rows = tuple[int, int]


class Guard:
    """Undoes what a loader writes by itself to a bias that a checkpoint need not have.

    ``reverted`` undoes every such write: that is the fix of a release, whatever it is called. ``patched``
    undoes only one that would replace what the checkpoint had there. ``installed`` undoes none.
    """

    def __init__(self, watch: LoadWatch, *, state: LoaderState) -> None:
        self._watch = watch
        self._state = state
        #: Every write that was undone, as a sentence.
        self.undone: list[str] = []

    def install(self, model: torch.nn.Module, *, rows_of: Callable[[str], Sequence[Rows]]) -> None:
        """Stand before the ``weight_loader`` of every parameter that has such a bias.

        Args:
            model: As vLLM built it.
            rows_of: Gives the rows of such biases in a parameter, by its name.

        Raises:
            CaptureError: this release's parameters do not let their loader be replaced.
        """
        if self._state == "installed":
            return
        for name, parameter in model.named_parameters():
            rows = rows_of(name)
            if not rows or (loader := getattr(parameter, "weight_loader", None)) is None:
                continue
            try:
                parameter.weight_loader = self._guarded(loader, name=name, rows=rows)
            except AttributeError as error:
                msg = f"the loader state {self._state} cannot be put on {name}: {error}"
                raise CaptureError(msg) from error

    def _guarded(self, loader: Callable[..., Any], *, name: str, rows: Sequence[Rows]) -> Callable[..., Any]:
        def guarded(
            parameter: torch.nn.Parameter,
            weight: torch.Tensor,
            *args: Any,  # noqa: ANN401 - vLLM's
            **kwargs: Any,  # noqa: ANN401
        ) -> object:
            if self._watch.is_offered(weight):
                return loader(parameter, weight, *args, **kwargs)
            kept = {
                place: parameter.detach()[slice(*place)].clone()
                for place in rows
                if self._state == "reverted" or self._watch.has_loaded(name, place)
            }
            seen = len(self._watch.writes[name])
            result = loader(parameter, weight, *args, **kwargs)
            for (start, stop), values in kept.items():
                if not torch.equal(_bytes(parameter.detach()[start:stop]), _bytes(values)):
                    parameter.detach()[start:stop].copy_(values)
                    self._watch.forget(name, after=seen)
                    self.undone.append(
                        f"undid a write to {name}[{start}:{stop}] that came from no checkpoint"
                    )
            return result

        return guarded


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)
