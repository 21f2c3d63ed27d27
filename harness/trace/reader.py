"""Reads a trace: digests verified, tensors one at a time."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from harness.errors import TraceError
from harness.files import sha256_file
from harness.trace.schema import (
    SCHEMA_VERSION,
    SEAL,
    LoadAudit,
    Manifest,
    ParameterRecord,
    ParameterTable,
    Record,
    TranscriptRecord,
    TranscriptTable,
)
from harness.trace.tensors import TensorFile
from harness.trace.writer import AUDIO

if TYPE_CHECKING:
    import numpy as np

    from harness.trace.tensors import RawTensor

_Model = TypeVar("_Model", bound=Record)
_MAX_MANIFEST_BYTES = 64 << 20


class Trace:
    """A complete trace on disk. Opening it verifies every file against the manifest."""

    def __init__(self, path: Path) -> None:
        """Open and verify.

        Raises:
            TraceError: no manifest, another schema, a file missing, cut, changed or not announced, or
                one that the file system does not give.
        """
        self.path = path
        self._clips: dict[str, TensorFile] = {}
        try:
            if not (path / "manifest.json").is_file():
                found = "an empty or incomplete folder" if path.is_dir() else "nothing"
                msg = f"{path} is not a trace: expected a folder with manifest.json, found {found}"
                raise TraceError(msg)
            self.manifest = _load(path / "manifest.json", Manifest)
            self._verify_seal()
            self._verify_files()
        except OSError as error:
            msg = f"{path} cannot be read: {error.strerror or error}"
            raise TraceError(msg) from error

    def _verify_seal(self) -> None:
        seal = self.path / SEAL
        found = sha256_file(self.path / "manifest.json")
        if not seal.is_file() or seal.read_bytes()[:64].decode("ascii", "replace") != found:
            msg = f"{self.path}: manifest.json was changed after the capture; capture this leg again"
            raise TraceError(msg)

    def _verify_files(self) -> None:
        announced = set(self.manifest.files)
        for name, entry in self.manifest.files.items():
            file = self.path / name
            if Path(name).is_absolute() or ".." in Path(name).parts or file.is_symlink():
                msg = f"{self.path}: the manifest names {name!r}, which is not a plain file inside the trace"
                raise TraceError(msg)
            if not file.is_file():
                msg = f"{self.path}: {name} is in the manifest and not in the folder; capture this leg again"
                raise TraceError(msg)
            if (size := file.stat().st_size) != entry.size:
                msg = f"{self.path}: {name} has {size} bytes, the manifest says {entry.size}; capture again"
                raise TraceError(msg)
            if (digest := sha256_file(file)) != entry.sha256:
                msg = (
                    f"{self.path}: {name} was changed after the capture: sha256 is {digest[:12]}…, the "
                    f"manifest says {entry.sha256[:12]}…; capture this leg again"
                )
                raise TraceError(msg)
        if (
            missing := {"audit.json", "parameters.json", "parameters.safetensors", "transcripts.json"}
            - announced
        ):
            msg = f"{self.path}: the manifest lists no {', '.join(sorted(missing))}"
            raise TraceError(msg)

    @cached_property
    def parameters(self) -> dict[str, ParameterRecord]:
        """The parameters, by canonical name."""
        return {record.name: record for record in self._table.parameters}

    @property
    def unmapped_parameters(self) -> tuple[str, ...]:
        """Parameters of the model that the Case has no canonical name for."""
        return self._table.unmapped

    @property
    def other_parameters(self) -> dict[str, str]:
        """Digests of what is not among :attr:`parameters`: parameters without a canonical name, padding."""
        return self._table.others

    @cached_property
    def _table(self) -> ParameterTable:
        return _load(self.path / "parameters.json", ParameterTable)

    @cached_property
    def _parameter_file(self) -> TensorFile:
        return TensorFile(self.path / "parameters.safetensors")

    def parameter_values(self, name: str) -> np.ndarray[Any, np.dtype[Any]] | None:
        """The values of a one-dimensional parameter, in its own dtype (bfloat16 as float32)."""
        key = f"values/{name}"
        return self._parameter_file.read(key).values if key in self._parameter_file else None

    def row_digests(self, name: str) -> np.ndarray[Any, np.dtype[np.uint64]] | None:
        """A 64-bit digest per row of a parameter of two or more dimensions."""
        key = f"rows/{name}"
        return self._parameter_file.read(key).values if key in self._parameter_file else None

    @cached_property
    def audit(self) -> LoadAudit:
        """What loading did to the parameters."""
        return _load(self.path / "audit.json", LoadAudit)

    @cached_property
    def transcripts(self) -> dict[str, TranscriptRecord]:
        """The transcripts, by clip id."""
        table = _load(self.path / "transcripts.json", TranscriptTable)
        return {record.clip: record for record in table.transcripts}

    def activation(self, *, clip: str, probe: str) -> RawTensor | None:
        """What a probe saw for a clip, mapped; ``None`` where it was not recorded."""
        file = self._clip_file(clip)
        return file.read(probe) if file is not None and probe in file else None

    def audio(self, clip: str) -> np.ndarray[Any, np.dtype[np.float32]] | None:
        """The samples given to the stack: float32, 16 kHz, mono."""
        tensor = self.activation(clip=clip, probe=AUDIO)
        return None if tensor is None else tensor.values

    def _clip_file(self, clip: str) -> TensorFile | None:
        name = f"activations/{clip}.safetensors"
        if name not in self.manifest.files:
            return None
        if clip not in self._clips:
            self._clips[clip] = TensorFile(self.path / name)
        return self._clips[clip]


def _load(path: Path, model: type[_Model]) -> _Model:
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        msg = f"{path} is larger than {_MAX_MANIFEST_BYTES} bytes: not written by this harness"
        raise TraceError(msg)
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        msg = f"{path} is not valid (schema {SCHEMA_VERSION}): {where}: {first['msg']}"
        raise TraceError(msg) from error
