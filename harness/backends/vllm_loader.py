"""A vLLM model loader that looks at the parameters at the one moment when they can be compared.

After loading, ``process_weights_after_loading`` may repack a weight or leave it empty; so the loader,
registered through vLLM's own extension point, calls back right after ``load_weights``. Until then, memory
that nobody has written is NaN and not what the allocator finds, which is zeros by luck.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vllm.config import ModelConfig
    from vllm.config.load import LoadConfig

LOAD_FORMAT = "glm_asr_harness"


@contextmanager
def unwritten_is_nan() -> Iterator[None]:
    """Let ``torch.empty`` fill with NaN, as torch's deterministic mode can (integers: the largest value)."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    # Warn only: no operation is to fail for what is wanted of the allocation alone.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]


def register(on_loaded: Callable[[torch.nn.Module], None]) -> str:
    """Register the loader and return the load format that selects it.

    ``on_loaded`` is given the model when every weight is loaded and none is processed; the engine core
    must run in this process.
    """

    class ObservedLoader(DefaultModelLoader):  # type: ignore[misc]  # vllm is not there
        """vLLM's default loader, observed."""

        def __init__(self, load_config: LoadConfig) -> None:
            # The default loader knows its formats by name; ours is only how it was chosen.
            config = copy.copy(load_config)
            config.load_format = "auto"
            super().__init__(config)

            self._poison = ExitStack()

        def load_model(self, *args: Any, **kwargs: Any) -> torch.nn.Module:  # noqa: ANN401 - vLLM's
            with self._poison:
                self._poison.enter_context(unwritten_is_nan())
                return super().load_model(*args, **kwargs)

        def load_weights(self, model: torch.nn.Module, model_config: ModelConfig) -> None:
            super().load_weights(model, model_config)
            # What comes after is no loading: it runs as it always does.
            self._poison.close()
            on_loaded(model)

    register_model_loader(LOAD_FORMAT)(ObservedLoader)
    return LOAD_FORMAT
