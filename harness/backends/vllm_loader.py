"""A vLLM model loader that looks at the parameters at the one moment when they can be compared.

After loading, ``process_weights_after_loading`` may repack a weight or leave it empty; so the loader,
registered through vLLM's own extension point, calls back right after ``load_weights``.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from vllm.config import ModelConfig
    from vllm.config.load import LoadConfig

LOAD_FORMAT = "glm_asr_harness"


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

        def load_weights(self, model: torch.nn.Module, model_config: ModelConfig) -> None:
            super().load_weights(model, model_config)
            on_loaded(model)

    register_model_loader(LOAD_FORMAT)(ObservedLoader)
    return LOAD_FORMAT
