"""The bare build of the model: import vLLM, build and load by its own loader; audit nothing."""

from __future__ import annotations

import os
import sys
import tempfile

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import vllm
from vllm.config import set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model_loader
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.utils.torch_utils import set_default_torch_dtype


def main() -> None:
    """Load the checkpoint named on the command line, in the dtype named after it."""
    folder, dtype = sys.argv[1:3]
    config = EngineArgs(
        model=folder, dtype=dtype, enforce_eager=True, limit_mm_per_prompt={"audio": 1}
    ).create_engine_config()
    with tempfile.TemporaryDirectory() as store, set_current_vllm_config(config):
        backend = vllm.platforms.current_platform.dist_backend
        init_distributed_environment(1, 0, f"file://{store}/store", 0, backend)
        initialize_model_parallel()
        with set_default_torch_dtype(config.model_config.dtype):
            model = initialize_model(vllm_config=config)
            get_model_loader(config.load_config).load_weights(model, config.model_config)
    sys.stdout.write(f"{sum(p.numel() * p.element_size() for p in model.parameters())}\n")
    sys.stdout.flush()
    # As the harness's legs do: taking vLLM down in order costs seconds that nobody waits for.
    os._exit(0)


if __name__ == "__main__":
    main()
