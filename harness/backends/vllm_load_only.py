"""Build and load a model by vLLM's own loader, with nothing of an engine around it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from vllm.config import set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.distributed.parallel_state import model_parallel_is_initialized
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model_loader
from vllm.platforms import current_platform

if TYPE_CHECKING:
    from pathlib import Path


class LoadedOnly(BaseException):
    """Raised by a loader when it has loaded: nothing of what follows is wanted."""


def load_only(arguments: dict[str, Any], *, folder: Path) -> None:
    """Build the model and load its weights, as a worker of the engine does; stop before they are processed.

    Args:
        arguments: For ``EngineArgs``; the ``load_format`` names a loader that raises :class:`LoadedOnly`.
        folder: Where the process group of one member keeps its store.
    """
    config = EngineArgs(**arguments).create_engine_config()
    with set_current_vllm_config(config):
        # Once per process, which may load several checkpoints.
        if not model_parallel_is_initialized():
            init_distributed_environment(
                world_size=1,
                rank=0,
                distributed_init_method=f"file://{folder / f'process-group-{os.getpid()}'}",
                local_rank=0,
                backend=current_platform.dist_backend,
            )
            initialize_model_parallel()
        loader = get_model_loader(config.load_config)
        try:
            loader.load_model(vllm_config=config, model_config=config.model_config)
        except LoadedOnly:
            return
        msg = f"the loader {arguments['load_format']!r} went on after loading"
        raise RuntimeError(msg)
