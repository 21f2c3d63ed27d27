"""From what was given (files, folders, manifests) to the files to decode."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_core import from_json

from harness.audio.clip import Clip, samples_sha256
from harness.audio.manifest import MANIFEST, AudioEntry, AudioManifest
from harness.audio.problem import UnusableError, shown
from harness.errors import InputError, TraceError
from harness.trace import Trace
from harness.trace.schema import SEAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic_core import ErrorDetails

#: What libsndfile tells apart by content. ``.au`` is not here: it takes any bytes of that name for samples.
SUFFIXES = (".aif", ".aiff", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav")
#: Audio, but not for libsndfile: in a folder they are reported, where other files are passed over.
FOREIGN_SUFFIXES = (".aac", ".amr", ".au", ".m4a", ".mka", ".mp4", ".webm", ".wma")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A file to decode, and what its manifest, if any, says about it."""

    id: str
    path: Path
    entry: AudioEntry | None = None
    folder: Path | None = None
    #: Decoded already, where it comes from a trace.
    clip: Clip | None = None

    def __str__(self) -> str:
        return f"{self.id} ({shown(self.path)})"


def identifier_from(stem: str) -> str:
    """Turn a file's stem into an id: other characters become ``_``.

    Characters outside ASCII would all become the same one, so a stem that has any also gets eight digits of
    its own SHA-256.
    """
    name = re.sub(r"[^A-Za-z0-9._+-]", "_", stem)
    name = re.sub(r"^[^A-Za-z0-9]+", "", name) or "clip"
    if stem.isascii() and len(name) <= 120:
        return name
    return f"{name[:111]}-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}"


def embedded() -> Path:
    """The manifest of the clips that come with the harness."""
    try:
        folder = Path(str(importlib.resources.files("audio_fixtures")))
    except ModuleNotFoundError as error:
        msg = "the embedded clips are missing: expected the package audio_fixtures; install again"
        raise InputError(msg) from error
    # Without the manifest the folder would be searched for loose files, and found empty.
    return folder / MANIFEST


def find_candidates(root: Path, problems: list[str]) -> Iterator[Candidate]:
    """List the files that one input stands for; what a manifest gets wrong is added to ``problems``."""
    if root.is_dir():
        if (root / SEAL).is_file():
            yield from _from_trace(root)
        elif (root / MANIFEST).is_file():
            yield from _from_manifest(root / MANIFEST, problems)
        else:
            yield from _from_folder(root)
    elif not root.exists():
        msg = "no such file or folder; check the path"
        raise UnusableError(msg)
    elif root.suffix.lower() == ".json" and root.is_file():
        yield from _from_manifest(root, problems)
    else:
        yield Candidate(id=identifier_from(root.stem), path=root)


def _from_folder(folder: Path) -> Iterator[Candidate]:
    wanted = {*SUFFIXES, *FOREIGN_SUFFIXES}
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in wanted and not path.name.startswith(".") and not path.is_dir()
    )
    if not files:
        msg = f"no audio in this folder: expected {MANIFEST} or files ending in {' '.join(SUFFIXES)}"
        raise UnusableError(msg)
    for path in files:
        yield Candidate(id=identifier_from(path.stem), path=path)


def _from_trace(path: Path) -> Iterator[Candidate]:
    """Give the very samples that a leg was given, on whatever machine they were resampled."""
    try:
        trace = Trace(path)
    except TraceError as error:
        raise UnusableError(str(error)) from error
    for entry in trace.manifest.clips:
        samples = trace.audio(entry.id)
        if samples is None:
            msg = f"the trace holds no samples of {entry.id}; capture it again"
            raise UnusableError(msg)
        yield Candidate(
            id=entry.id,
            path=path,
            clip=Clip(
                id=entry.id,
                samples=samples,
                transcript=entry.transcript,
                language=entry.language,
                sha256=samples_sha256(samples),
                source=shown(path),
            ),
        )


def _from_manifest(path: Path, problems: list[str]) -> Iterator[Candidate]:
    try:
        raw = from_json(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is 0x{error.object[error.start]:02x}"
        problems.append(f"{shown(path)}: not UTF-8, {found}; save it as UTF-8")
        return
    except ValueError as error:
        problems.append(f"{shown(path)}: not JSON: {error}")
        return
    try:
        manifest = AudioManifest.model_validate(raw)
    except ValidationError as error:
        problems += [f"{shown(path)}: {_located(raw, detail)}" for detail in error.errors()]
        return
    for entry in manifest.clips:
        yield Candidate(id=entry.id, path=path.parent / entry.file, entry=entry, folder=path.parent)


def _located(raw: object, detail: ErrorDetails) -> str:
    """Say where in the manifest, by the clip's id if it has one, what was expected and what was found."""
    where = [str(part) for part in detail["loc"]]
    match raw, detail["loc"]:
        case {"clips": list(clips)}, ("clips", int(index), *rest):
            match clips[index]:
                case {"id": str(id_)}:
                    where = [f"clip {id_!r}", *(str(part) for part in rest)]
                case _:
                    where = [f"clip number {index + 1}", *(str(part) for part in rest)]
    found = repr(detail["input"])
    # A missing key or a clash has the whole record for input: no help to anyone.
    told = "" if isinstance(detail["input"], dict) else f", found {found[:80]}"
    return f"not an audio manifest: {': '.join([*where, detail['msg']])}{told}"


def same_ids(candidates: Sequence[Candidate]) -> list[str]:
    """Name the ids that more than one file has."""
    paths: dict[str, list[str]] = {}
    for candidate in candidates:
        paths.setdefault(candidate.id, []).append(shown(candidate.path))
    return [
        f"{id_}: expected one clip of this id, found {len(of)}: {' and '.join(of)}; rename or leave out"
        for id_, of in paths.items()
        if len(of) > 1
    ]
