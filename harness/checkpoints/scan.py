"""The tensors of a checkpoint on disk: what is stored, and what of it is no number."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import InputError, TraceError
from harness.trace.tensors import TensorFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor as it is stored; ``non_finite`` counts its NaN and Inf."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    non_finite: int


def weight_files(folder: Path, *, source: str) -> list[Path]:
    """The files that hold weights, which are those of the index where there is one.

    Raises:
        InputError: the index is no index, or a file of it is missing.
    """
    index = folder / INDEX
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        files = sorted({str(name) for name in json.loads(index.read_text("utf-8"))["weight_map"].values()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        msg = f"checkpoint {source}: {index.name} is not an index of weights: {error!r}"
        raise InputError(msg) from error
    if missing := [name for name in files if not (folder / name).is_file()]:
        msg = (
            f"checkpoint {source}: {len(missing)} of {len(files)} weight files are missing, the first is "
            f"{missing[0]}; download it again"
        )
        raise InputError(msg)
    return [folder / name for name in files]


def tensor_names(folder: Path, *, source: str) -> list[str]:
    """The names in all weight files; one that two files hold is there twice.

    Raises:
        InputError: a file is missing, or is no safetensors file.
    """
    try:
        return [name for file in weight_files(folder, source=source) for name in TensorFile(file).names]
    except TraceError as error:
        msg = f"checkpoint {source}: {error}"
        raise InputError(msg) from error


def headers(folder: Path, *, source: str) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of every tensor, as often as it is stored; no tensor is read.

    Raises:
        InputError: a file is missing, or is no safetensors file.
    """
    try:
        for file in weight_files(folder, source=source):
            tensors = TensorFile(file)
            for name in tensors.names:
                yield name, tensors.dtype(name), tensors.shape(name)
    except TraceError as error:
        msg = f"checkpoint {source}: {error}"
        raise InputError(msg) from error


def scan(folder: Path, *, source: str) -> Iterator[StoredTensor]:
    """Read every tensor once, as often as it is stored.

    Raises:
        InputError: a file is missing, or is no safetensors file.
    """
    try:
        for file in weight_files(folder, source=source):
            tensors = TensorFile(file)
            for name in tensors.names:
                tensor = tensors.read(name)
                values = tensor.values
                finite = values.size if values.dtype.kind != "f" else np.count_nonzero(np.isfinite(values))
                yield StoredTensor(
                    name=name,
                    dtype=tensor.dtype,
                    shape=tensor.shape,
                    non_finite=int(values.size - finite),
                )
    except TraceError as error:
        msg = f"checkpoint {source}: {error}"
        raise InputError(msg) from error
