"""Audio in: files, folders and manifests become clips at 16 kHz mono, or one error that names every fault."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_core import from_json

from harness.errors import InputError
from harness.files import sha256_file
from harness.trace.schema import Identifier, Record, Sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic_core import ErrorDetails

    Samples = np.ndarray[Any, np.dtype[np.float32]]

#: Samples per second of every clip.
SAMPLE_RATE = 16_000
MANIFEST = "manifest.json"
#: What libsndfile tells apart by content. ``.au`` is not here: it takes any bytes of that name for samples.
SUFFIXES = (".aif", ".aiff", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav")
#: Audio, but not for libsndfile: in a folder they are reported, where other files are passed over.
FOREIGN_SUFFIXES = (".aac", ".amr", ".au", ".m4a", ".mka", ".mp4", ".webm", ".wma")
MAX_SECONDS = 3600
RATES = range(1_000, 768_001)

# Decoded all channels at once, before mixing: an hour of 48 kHz stereo, 1.4 GB.
_MAX_VALUES = MAX_SECONDS * 48_000 * 2
# libsndfile's frame count for a file that was streamed and so does not know its own length.
_UNKNOWN_FRAMES = 2**62
# How far a manifest's rounded `seconds` may be from the file's.
_SECONDS_SLACK = 0.1

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """One clip as every stack gets it.

    Attributes:
        id: Its name in reports, also a file name.
        samples: float32 ``[n]``, n > 0, 16 kHz mono, finite, read-only; full scale is ±1 (not enforced).
        transcript: The words spoken; ``None`` where nobody wrote them down, and then there is no WER.
        language: As in BCP 47: ``en``, ``zh``.
        sha256: Over the samples' little-endian float32 bytes, as :func:`samples_sha256` computes it.
        source: How it was made, where a manifest says so; the file's path otherwise.
    """

    id: str
    samples: Samples
    transcript: str | None
    language: str
    sha256: str
    source: str


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A file to decode, and what its manifest, if any, says about it."""

    id: str
    path: Path
    entry: AudioEntry | None = None
    folder: Path | None = None

    def __str__(self) -> str:
        return f"{self.id} ({_shown(self.path)})"


class _UnusableError(Exception):
    """One clip or one input cannot be used; caught here and collected with the others."""


def samples_sha256(samples: Samples) -> str:
    """Return the SHA-256 of samples (float32 ``[n]``) as little-endian bytes, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(samples, dtype="<f4").tobytes()).hexdigest()


def load_clips(paths: Sequence[Path] | None) -> tuple[Clip, ...]:
    """Load every clip that ``paths`` name, in their order, those of a folder sorted by file name.

    Channels are averaged and the rate brought to 16 kHz by soxr (HQ). Samples beyond ±1 are kept.

    Args:
        paths: Each an audio file, a folder of audio files (not searched deeper; names with a leading dot are
            passed over), a manifest (``.json``), or a folder with a ``manifest.json``. A file given
            without a manifest takes its transcript from the ``.txt`` of the same stem beside it, if any.
            ``None`` stands for the embedded clips.

    Returns:
        At least one clip, no two with the same id.

    Raises:
        InputError: Nothing to load, or any clip is missing, unreadable, empty, too long, not finite, not what
            its manifest says, or shares its id with another. All such clips are in the one message.
    """
    roots = [_embedded()] if paths is None else list(paths)
    problems: list[str] = []
    candidates: list[_Candidate] = []
    if not roots:
        problems.append("nothing given: expected an audio file, a folder of them, or a manifest.json")
    for root in roots:
        try:
            candidates += _find(root, problems)
        except (_UnusableError, OSError) as error:
            problems.append(f"{_shown(root)}: {_reason(error)}")
    problems += _clashes(candidates)

    clips: list[Clip] = []
    for candidate in candidates:
        try:
            clips.append(_load(candidate))
        except (_UnusableError, OSError) as error:
            problems.append(f"{candidate}: {_reason(error)}")
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        msg = f"the audio cannot be used, {count}:\n" + "\n".join(f"  {problem}" for problem in problems)
        raise InputError(msg)
    return tuple(clips)


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


def _embedded() -> Path:
    try:
        folder = Path(str(importlib.resources.files("audio_fixtures")))
    except ModuleNotFoundError as error:
        msg = "the embedded clips are missing: expected the package audio_fixtures; install again"
        raise InputError(msg) from error
    # Without the manifest the folder would be searched for loose files, and found empty.
    return folder / MANIFEST


def _find(root: Path, problems: list[str]) -> Iterator[_Candidate]:
    if root.is_dir():
        if (root / MANIFEST).is_file():
            yield from _from_manifest(root / MANIFEST, problems)
        else:
            yield from _from_folder(root)
    elif not root.exists():
        msg = "no such file or folder; check the path"
        raise _UnusableError(msg)
    elif root.suffix.lower() == ".json" and root.is_file():
        yield from _from_manifest(root, problems)
    else:
        yield _Candidate(id=identifier_from(root.stem), path=root)


def _from_folder(folder: Path) -> Iterator[_Candidate]:
    wanted = {*SUFFIXES, *FOREIGN_SUFFIXES}
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in wanted and not path.name.startswith(".") and not path.is_dir()
    )
    if not files:
        msg = f"no audio in this folder: expected {MANIFEST} or files ending in {' '.join(SUFFIXES)}"
        raise _UnusableError(msg)
    for path in files:
        yield _Candidate(id=identifier_from(path.stem), path=path)


def _from_manifest(path: Path, problems: list[str]) -> Iterator[_Candidate]:
    try:
        raw = from_json(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is 0x{error.object[error.start]:02x}"
        problems.append(f"{_shown(path)}: not UTF-8, {found}; save it as UTF-8")
        return
    except ValueError as error:
        problems.append(f"{_shown(path)}: not JSON: {error}")
        return
    try:
        manifest = AudioManifest.model_validate(raw)
    except ValidationError as error:
        problems += [f"{_shown(path)}: {_located(raw, detail)}" for detail in error.errors()]
        return
    for entry in manifest.clips:
        yield _Candidate(id=entry.id, path=path.parent / entry.file, entry=entry, folder=path.parent)


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


def _clashes(candidates: Sequence[_Candidate]) -> list[str]:
    paths: dict[str, list[str]] = {}
    for candidate in candidates:
        paths.setdefault(candidate.id, []).append(_shown(candidate.path))
    return [
        f"{id_}: expected one clip of this id, found {len(of)}: {' and '.join(of)}; rename or leave out"
        for id_, of in paths.items()
        if len(of) > 1
    ]


def _load(candidate: _Candidate) -> Clip:
    path, entry = candidate.path, candidate.entry
    _check_file(candidate)
    if entry is not None and entry.sha256 is not None and (digest := sha256_file(path)) != entry.sha256:
        msg = (
            f"sha256 is {digest[:12]}…, the manifest says {entry.sha256[:12]}…; restore the file or its entry"
        )
        raise _UnusableError(msg)
    transcript = _transcript_beside(path) if entry is None else entry.transcript
    samples = _decode(path, entry)
    return Clip(
        id=candidate.id,
        samples=samples,
        transcript=transcript,
        language="en" if entry is None else entry.language,
        sha256=samples_sha256(samples),
        source=_shown(path) if entry is None or entry.source is None else entry.source,
    )


def _check_file(candidate: _Candidate) -> None:
    path = candidate.path
    if not path.is_file():
        msg = "expected an audio file, found " + (
            "something else" if path.exists() else "nothing at this path"
        )
        raise _UnusableError(msg)
    if candidate.folder is not None and not path.resolve().is_relative_to(candidate.folder.resolve()):
        msg = f"a link leads out of the manifest's folder, to {_shown(path.resolve())}; put a copy inside"
        raise _UnusableError(msg)
    if path.suffix.lower() not in SUFFIXES:
        msg = (
            f"unknown suffix {path.suffix!r}: expected one of {' '.join(SUFFIXES)}; convert it to flac or wav"
        )
        raise _UnusableError(msg)
    if path.stat().st_size == 0:
        msg = "the file is empty (0 bytes); record or copy it again"
        raise _UnusableError(msg)


def _transcript_beside(path: Path) -> str | None:
    text = path.with_suffix(".txt")
    if not text.is_file():
        return None
    try:
        words = " ".join(text.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        msg = f"its transcript {text.name} is not UTF-8 (byte {error.start}); save it as UTF-8"
        raise _UnusableError(msg) from error
    if not words:
        msg = (
            f"its transcript {text.name} is empty; write the words in it, or remove it if they are not known"
        )
        raise _UnusableError(msg)
    return words


def _decode(path: Path, entry: AudioEntry | None) -> Samples:
    """Decode to 16 kHz mono: float32 ``[n]``, read-only, n > 0, all finite.

    Read in one piece: soundfile seeks between pieces, and MP3 comes out different after a seek.
    """
    import soundfile

    try:
        # The name as bytes: soundfile cannot encode names that are not UTF-8.
        with soundfile.SoundFile(os.fsencode(path)) as stream:
            frames, rate, channels = int(stream.frames), int(stream.samplerate), int(stream.channels)
            _check_header(frames=frames, rate=rate, channels=channels)
            values = stream.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        msg = (
            f"cannot be decoded, truncated or not audio (libsndfile: {error.error_string.rstrip('. ')}); "
            "replace it, or convert it to flac or wav"
        )
        raise _UnusableError(msg) from error
    if len(values) != frames:
        msg = f"its header announces {frames} frames, {len(values)} could be decoded: truncated; replace it"
        raise _UnusableError(msg)
    if (bad := ~np.isfinite(values).all(axis=1)).any():
        msg = f"{int(bad.sum())} of {frames} frames are NaN or Inf, the first is frame {int(bad.argmax())}"
        raise _UnusableError(msg)
    if entry is not None:
        _check_stated(entry, frames=frames, rate=rate, channels=channels)

    # The mean in float64: two channels near the end of float32's range must not overflow.
    return _resample(values.mean(axis=1, dtype=np.float64).astype(np.float32), rate=rate)


def _check_header(*, frames: int, rate: int, channels: int) -> None:
    if frames >= _UNKNOWN_FRAMES:
        msg = "its header does not say how long it is (a streamed file); convert it to a plain flac or wav"
        raise _UnusableError(msg)
    if frames == 0:
        msg = "it holds no samples; record or copy it again"
        raise _UnusableError(msg)
    if rate not in RATES:
        msg = f"sample rate is {rate} Hz, expected {RATES[0]} to {RATES[-1]}"
        raise _UnusableError(msg)
    if frames > MAX_SECONDS * rate:
        msg = f"it lasts {frames / rate:.0f} s, at most {MAX_SECONDS} s are accepted; cut it"
        raise _UnusableError(msg)
    if frames * channels > _MAX_VALUES:
        msg = f"{channels} channels of {frames} frames exceed {_MAX_VALUES} samples; convert it to mono"
        raise _UnusableError(msg)


def _check_stated(entry: AudioEntry, *, frames: int, rate: int, channels: int) -> None:
    wrong = []
    if entry.sample_rate is not None and entry.sample_rate != rate:
        wrong.append(f"sample_rate is {rate}, the manifest says {entry.sample_rate}")
    if entry.channels is not None and entry.channels != channels:
        wrong.append(f"channels is {channels}, the manifest says {entry.channels}")
    if entry.seconds is not None and abs(entry.seconds - frames / rate) > _SECONDS_SLACK:
        wrong.append(f"seconds is {frames / rate:.3f}, the manifest says {entry.seconds}")
    if wrong:
        msg = f"{'; '.join(wrong)}; restore the file or correct its entry"
        raise _UnusableError(msg)


def _resample(mono: Samples, *, rate: int) -> Samples:
    """Bring float32 ``[n]`` at ``rate`` Hz to 16 kHz: float32 ``[n * 16000 / rate]``, rounded, read-only."""
    if rate != SAMPLE_RATE:
        import soxr

        frames = len(mono)
        mono = np.asarray(soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ"), dtype=np.float32)
        if not len(mono):
            msg = (
                f"{frames} frames at {rate} Hz are less than one sample at {SAMPLE_RATE} Hz; record it again"
            )
            raise _UnusableError(msg)
        if not np.isfinite(mono).all():
            msg = "its samples are so large that resampling overflows float32; scale them to ±1"
            raise _UnusableError(msg)
    mono.setflags(write=False)
    return mono


def _reason(error: Exception) -> str:
    """The text of an error without the path that the line begins with already."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return str(error)


def _shown(path: Path) -> str:
    """A path on one line and encodable, whatever bytes its name has."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(path))
