"""The manifest of a set of clips."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from harness.trace.schema import Identifier, Record, Sha256

MANIFEST = "manifest.json"

Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]


class AudioEntry(Record):
    """One clip of an audio manifest.

    ``file`` is relative to the manifest's folder and stays inside it. ``sha256`` is over the file's bytes.
    Whatever is stated about the file (``sha256``, ``seconds``, ``sample_rate``, ``channels``) is verified.
    ``source`` says how the clip was made, as prose or as a command.
    """

    id: Identifier
    file: str
    transcript: Words | None = None
    language: Language = "en"
    seconds: Annotated[float, Field(gt=0)] | None = None
    sample_rate: Annotated[int, Field(gt=0)] | None = None
    channels: Annotated[int, Field(gt=0)] | None = None
    sha256: Sha256 | None = None
    licence: Words | None = None
    source: Words | None = None

    @field_validator("file")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or not path.name or set(value) & {"\\", "\0"}:
            msg = "expected a path relative to the manifest's folder and inside it, with / between its parts"
            raise ValueError(msg)
        return value


class AudioManifest(Record):
    """``manifest.json`` beside a set of clips: at least one, and no id twice."""

    schema_version: Literal[1]
    clips: tuple[AudioEntry, ...]

    @model_validator(mode="after")
    def _some_and_unique(self) -> AudioManifest:
        if not self.clips:
            msg = "expected at least one clip, found none"
            raise ValueError(msg)
        files: dict[str, list[str]] = {}
        for entry in self.clips:
            files.setdefault(entry.id, []).append(entry.file)
        if twice := [f"{id_!r} is the id of {' and '.join(of)}" for id_, of in files.items() if len(of) > 1]:
            msg = f"expected every id once: {'; '.join(twice)}"
            raise ValueError(msg)
        return self
