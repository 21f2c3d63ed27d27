"""Safetensors files, written one tensor at a time and read one tensor at a time.

The library writes a file only from tensors that are all in memory, and its numpy reader refuses
bfloat16. A leg of the full-size model records some gigabytes per clip, and bfloat16 is its dtype: hence
a writer that streams and a reader that maps. The format is the library's own, which checks every file
that is opened here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from harness.errors import TraceError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

#: safetensors' name, and numpy's; numpy has no bfloat16, its words are read as integers.
_NUMPY: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"), "U64": np.dtype("<u8"), "I32": np.dtype("<i4"), "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"), "F8_E4M3": np.dtype("u1"), "F8_E5M2": np.dtype("u1"),
}  # fmt: skip
_DTYPE = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64",
          "uint64": "U64", "int32": "I32", "int16": "I16", "uint32": "U32", "uint16": "U16",
          "bool": "BOOL", "int8": "I8", "uint8": "U8", "float8_e4m3fn": "F8_E4M3",
          "float8_e5m2": "F8_E5M2"}  # fmt: skip
_NAME = {code: name for name, code in _DTYPE.items()}


@dataclass(frozen=True, kw_only=True)
class RawTensor:
    """A tensor as bytes: ``dtype`` by its torch name, ``data`` C-contiguous words of the same width.

    bfloat16 and float8 travel as unsigned integers of their width; every other dtype as itself.
    """

    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray[Any, np.dtype[Any]]

    @classmethod
    def of(cls, array: np.ndarray[Any, np.dtype[Any]]) -> RawTensor:
        """Wrap a numpy array of a dtype that numpy has."""
        return cls(dtype=array.dtype.name, shape=array.shape, data=np.ascontiguousarray(array))

    @property
    def values(self) -> np.ndarray[Any, np.dtype[Any]]:
        """The numbers: a bfloat16 tensor widened to float32 (exact), any other as it is."""
        words = self.data.reshape(self.shape)
        if self.dtype == "bfloat16":
            return (words.astype(np.uint32) << 16).view(np.float32)
        return words


def bfloat16_words(array: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Round finite float32 to bfloat16, to nearest and ties to even, and return its 16-bit words."""
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


class TensorWriter:
    """Writes one safetensors file as a stream: a tensor is on disk, and forgotten, once added.

    The format allows a header padded with spaces: room for it is reserved first and filled last.
    """

    def __init__(self, path: Path, *, header_room: int = 1 << 16) -> None:
        self._room = header_room
        self._header: dict[str, dict[str, object]] = {}
        self._offset = 0
        self._stream = path.open("wb")
        self._stream.seek(8 + header_room)

    def __contains__(self, name: object) -> bool:
        return name in self._header

    def add(self, name: str, tensor: RawTensor) -> None:
        """Append a tensor.

        Raises:
            ValueError: the name is taken, or the dtype is not one that safetensors has.
        """
        if name in self._header:
            msg = f"tensor {name!r} was recorded twice"
            raise ValueError(msg)
        if tensor.dtype not in _DTYPE:
            msg = f"tensor {name!r} has dtype {tensor.dtype}, which safetensors cannot hold"
            raise ValueError(msg)
        data = np.ascontiguousarray(tensor.data)
        self._stream.write(data.reshape(-1).view(np.uint8).data if data.size else b"")
        end = self._offset + data.nbytes
        self._header[name] = {
            "dtype": _DTYPE[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [self._offset, end],
        }
        self._offset = end

    def close(self) -> None:
        """Write the header into its room.

        Raises:
            ValueError: more names than the room holds; the file is not valid then.
        """
        if self._stream.closed:
            return
        try:
            header = json.dumps(self._header, separators=(",", ":")).encode()
            if len(header) > self._room:
                msg = (
                    f"the header of {self._stream.name} needs {len(header)} bytes, {self._room} were reserved"
                )
                raise ValueError(msg)
            self._stream.seek(0)
            self._stream.write(self._room.to_bytes(8, "little") + header.ljust(self._room, b" "))
        finally:
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TensorFile:
    """Reads single tensors from a safetensors file, mapped and not loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _header(self) -> dict[str, dict[str, Any]]:
        from safetensors import SafetensorError, safe_open

        try:
            # The library refuses a header that lies: overlapping, short, or outside the file.
            with safe_open(self.path, framework="numpy"):
                pass
            with self.path.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header: dict[str, dict[str, Any]] = json.loads(stream.read(length))
        except (OSError, SafetensorError, ValueError) as error:
            msg = f"{self.path} is not a readable safetensors file: {error}"
            raise TraceError(msg) from error
        header.pop("__metadata__", None)
        self._start = 8 + length
        return header

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors in this file, in the order they were written."""
        return tuple(sorted(self._header, key=lambda name: int(self._header[name]["data_offsets"][0])))

    def __contains__(self, name: object) -> bool:
        return name in self._header

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return tuple(self._header[name]["shape"])

    def dtype(self, name: str) -> str:
        """The dtype of a tensor by its torch name, without reading it; safetensors' name if it has none."""
        code = str(self._header[name]["dtype"])
        return _NAME.get(code, code)

    def read(self, name: str) -> RawTensor:
        """Map one tensor.

        Raises:
            KeyError: no tensor of that name.
            TraceError: a dtype that the harness does not read.
        """
        entry = self._header[name]
        code, shape = str(entry["dtype"]), tuple(int(size) for size in entry["shape"])
        if code not in _NUMPY:
            msg = f"{self.path}: tensor {name!r} has dtype {code}, which the harness does not read"
            raise TraceError(msg)
        dtype = _NUMPY[code]
        if math.prod(shape) == 0:
            return RawTensor(dtype=_NAME[code], shape=shape, data=np.empty(shape, dtype))
        offset = self._start + int(entry["data_offsets"][0])
        return RawTensor(
            dtype=_NAME[code], shape=shape, data=np.memmap(self.path, dtype, "r", offset=offset, shape=shape)
        )
