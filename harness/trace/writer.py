"""Writes a trace: tensors as they come, the manifest and the rename last."""

from __future__ import annotations

import hashlib
import math
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.files import new_folder, sha256_file
from harness.trace.schema import (
    SEAL,
    FileEntry,
    LoadAudit,
    Manifest,
    ParameterRecord,
    ParameterTable,
    Record,
    TranscriptRecord,
    TranscriptTable,
)
from harness.trace.tensors import RawTensor, TensorWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

AUDIO = "audio"


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write the manifest and, last of all, its seal."""
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    seal(folder)


def seal(folder: Path) -> None:
    """Write the digest of the manifest as it is now."""
    (folder / SEAL).write_text(f"{sha256_file(folder / 'manifest.json')}\n", encoding="ascii")


def _digest(data: np.ndarray[Any, np.dtype[Any]]) -> str:
    return hashlib.sha256(data.reshape(-1).view(np.uint8).data).hexdigest()


class TraceWriter:
    """Fills the folder of a trace that is not complete yet; made by :func:`TraceWriter.create`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        (folder / "activations").mkdir()
        self._stack = stack
        self._parameters = stack.enter_context(
            TensorWriter(folder / "parameters.safetensors", header_room=1 << 20)
        )
        self._records: list[ParameterRecord] = []
        self._unmapped: list[str] = []
        self._others: dict[str, str] = {}
        self._audit: LoadAudit | None = None
        self._transcripts: dict[str, TranscriptRecord] = {}
        self._clips: dict[str, TensorWriter] = {}

    @classmethod
    @contextmanager
    def create(cls, path: Path) -> Iterator[TraceWriter]:
        """Open a trace for writing; it appears at ``path`` only if :meth:`finish` was called.

        Raises:
            RuntimeError: the block ended without :meth:`finish`.
        """
        with new_folder(path) as folder:
            with ExitStack() as stack:
                yield cls(folder, stack)
            if not (folder / "manifest.json").is_file():
                msg = f"the trace for {path} was left without a manifest"
                raise RuntimeError(msg)

    def add_parameter(self, *, name: str, source: str, tensor: RawTensor) -> None:
        """Record one parameter under its canonical name: digest, and values or digests of rows."""
        data = np.ascontiguousarray(tensor.data)
        if len(tensor.shape) == 1:
            self._parameters.add(f"values/{name}", tensor)
        else:
            rows = [
                int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little")
                for row in data.reshape(tensor.shape[0], math.prod(tensor.shape[1:]))
            ]
            self._parameters.add(f"rows/{name}", RawTensor.of(np.array(rows, dtype=np.uint64)))
        values = tensor.values
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            non_finite = int(values.size - np.count_nonzero(finite))
            max_abs = float(np.max(np.abs(values), where=finite, initial=0.0))
        else:
            non_finite, max_abs = 0, float(np.max(np.abs(values.astype(np.float64)), initial=0.0))
        self._records.append(
            ParameterRecord(
                name=name,
                source=source,
                dtype=tensor.dtype,
                shape=tensor.shape,
                sha256=_digest(data),
                non_finite=non_finite,
                max_abs=max_abs,
            )
        )

    def add_unmapped(self, names: Iterable[str]) -> None:
        """Record parameters of the model that have no canonical name."""
        self._unmapped.extend(names)

    def add_other(self, *, name: str, tensor: RawTensor) -> None:
        """Record the digest of a parameter, or of rows of one, that :meth:`add_parameter` has no name for."""
        self._others[name] = _digest(np.ascontiguousarray(tensor.data))

    def add_audit(self, audit: LoadAudit) -> None:
        """Record what loading did to the parameters."""
        self._audit = audit

    def add_activation(self, *, clip: str, probe: str, tensor: RawTensor) -> None:
        """Record what a probe saw for one clip; on disk when this returns."""
        self._clip_file(clip).add(probe, tensor)

    def add_audio(self, *, clip: str, samples: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
        """Record the samples that the stack was given, so that the trace can be judged alone."""
        self._clip_file(clip).add(AUDIO, RawTensor.of(samples))

    def add_transcript(self, record: TranscriptRecord) -> None:
        """Record one clip's transcript; a later record of the same clip takes its place."""
        self._transcripts[record.clip] = record

    def _clip_file(self, clip: str) -> TensorWriter:
        if clip not in self._clips:
            path = self.folder / "activations" / f"{clip}.safetensors"
            self._clips[clip] = self._stack.enter_context(TensorWriter(path))
        return self._clips[clip]

    def finish(self, manifest: Manifest, *, log: Path | None = None) -> None:
        """Close all files, digest them, and write the manifest. ``manifest.files`` is filled in here.

        Raises:
            RuntimeError: there was no :meth:`add_audit`.
        """
        self._stack.close()
        if self._audit is None:
            msg = f"the trace of {manifest.leg} has no load audit"
            raise RuntimeError(msg)
        order = {clip.id: index for index, clip in enumerate(manifest.clips)}
        tables: dict[str, Record] = {
            "audit.json": self._audit,
            "parameters.json": ParameterTable(
                parameters=tuple(sorted(self._records, key=lambda record: record.name)),
                unmapped=tuple(sorted(self._unmapped)),
                others=dict(sorted(self._others.items())),
            ),
            "transcripts.json": TranscriptTable(
                transcripts=tuple(sorted(self._transcripts.values(), key=lambda record: order[record.clip]))
            ),
        }
        for name, table in tables.items():
            (self.folder / name).write_text(table.model_dump_json(indent=1), encoding="utf-8")
        if log is not None and log.is_file():
            (self.folder / "log.txt").write_bytes(log.read_bytes())
        files = {
            path.relative_to(self.folder).as_posix(): FileEntry(
                size=path.stat().st_size, sha256=sha256_file(path)
            )
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        complete = manifest.model_copy(update={"files": files})
        write_manifest(complete, self.folder)
