"""Plants defects in copies of real traces, and seals them again so that the reader takes them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.files import sha256_file
from harness.trace import Manifest
from harness.trace.schema import FileEntry
from harness.trace.tensors import RawTensor, TensorFile, TensorWriter
from harness.trace.writer import write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Alter = Callable[[np.ndarray[Any, np.dtype[Any]]], np.ndarray[Any, np.dtype[Any]]]


def alter_activation(source: Path, target: Path, *, clip: str, probe: str, alter: Alter) -> Path:
    """Copy a trace with one activation changed."""
    shutil.copytree(source, target)
    path = target / "activations" / f"{clip}.safetensors"
    changed = path.with_suffix(".new")
    tensors = TensorFile(path)
    with TensorWriter(changed) as writer:
        for name in tensors.names:
            tensor = tensors.read(name)
            if name == probe:
                tensor = RawTensor(dtype=tensor.dtype, shape=tensor.shape, data=alter(np.array(tensor.data)))
            writer.add(name, tensor)
    changed.replace(path)
    return seal(target)


def seal(trace: Path, **fields: Any) -> Path:  # noqa: ANN401 - fields of the manifest
    """Write the manifest anew, with the digests of the files as they are and any other fields changed."""
    path = trace / "manifest.json"
    manifest = Manifest.model_validate_json(path.read_bytes())
    files = {
        name: FileEntry(size=(trace / name).stat().st_size, sha256=sha256_file(trace / name))
        for name in manifest.files
    }
    write_manifest(manifest.model_copy(update={"files": files, **fields}), trace)
    return trace


def leg_trace(traces: Path, leg: str) -> Path:
    """The trace of a leg in a run's folder."""
    path = traces / "traces" / leg
    assert (path / "manifest.json").is_file(), path
    return path


def rewrite_checkpoint(source: Path, target: Path, *, change: Callable[[dict[str, RawTensor]], None]) -> Path:
    """Copy a checkpoint of one file with its tensors changed."""
    shutil.copytree(source, target)
    path = target / "model.safetensors"
    tensors = TensorFile(source / path.name)
    found = {name: tensors.read(name) for name in tensors.names}
    change(found)
    with TensorWriter(path) as writer:
        for name, tensor in found.items():
            writer.add(name, tensor)
    return target
