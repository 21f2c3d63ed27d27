"""Loads clips, or says everything that is wrong with them in one error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.audio.clip import Clip, samples_sha256
from harness.audio.decode import decode
from harness.audio.inputs import SUFFIXES, Candidate, embedded, find_candidates, same_ids
from harness.audio.problem import UnusableError, reason, shown
from harness.errors import InputError
from harness.files import sha256_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def load_clips(paths: Sequence[Path] | None) -> tuple[Clip, ...]:
    """Load every clip that ``paths`` name, in their order, those of a folder sorted by file name.

    Channels are averaged and the rate brought to 16 kHz by soxr (HQ). Samples beyond ±1 are kept.

    Args:
        paths: Each an audio file, a folder of audio files (not searched deeper; names with a leading dot are
            passed over), a manifest (``.json``), a folder with a ``manifest.json``, or a trace. A file given
            without a manifest takes its transcript from the ``.txt`` of the same stem beside it, if any.
            ``None`` stands for the embedded clips.

    Returns:
        At least one clip, no two with the same id.

    Raises:
        InputError: Nothing to load, or any clip is missing, unreadable, empty, too long, not finite, not what
            its manifest says, or shares its id with another. All such clips are in the one message.
    """
    roots = [embedded()] if paths is None else list(paths)
    problems: list[str] = []
    candidates: list[Candidate] = []
    if not roots:
        problems.append("nothing given: expected an audio file, a folder of them, or a manifest.json")
    for root in roots:
        try:
            candidates += find_candidates(root, problems)
        except (UnusableError, OSError) as error:
            problems.append(f"{shown(root)}: {reason(error)}")
    problems += same_ids(candidates)

    clips: list[Clip] = []
    for candidate in candidates:
        try:
            clips.append(_load(candidate))
        except (UnusableError, OSError) as error:
            problems.append(f"{candidate}: {reason(error)}")
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        msg = f"the audio cannot be used, {count}:\n" + "\n".join(f"  {problem}" for problem in problems)
        raise InputError(msg)
    return tuple(clips)


def _load(candidate: Candidate) -> Clip:
    if candidate.clip is not None:
        return candidate.clip
    path, entry = candidate.path, candidate.entry
    _check_file(candidate)
    if entry is not None and entry.sha256 is not None and (digest := sha256_file(path)) != entry.sha256:
        msg = (
            f"sha256 is {digest[:12]}…, the manifest says {entry.sha256[:12]}…; restore the file or its entry"
        )
        raise UnusableError(msg)
    transcript = _transcript_beside(path) if entry is None else entry.transcript
    samples = decode(path, entry)
    return Clip(
        id=candidate.id,
        samples=samples,
        transcript=transcript,
        language="en" if entry is None else entry.language,
        sha256=samples_sha256(samples),
        source=shown(path) if entry is None or entry.source is None else entry.source,
    )


def _check_file(candidate: Candidate) -> None:
    path = candidate.path
    if not path.is_file():
        msg = "expected an audio file, found " + (
            "something else" if path.exists() else "nothing at this path"
        )
        raise UnusableError(msg)
    if candidate.folder is not None and not path.resolve().is_relative_to(candidate.folder.resolve()):
        msg = f"a link leads out of the manifest's folder, to {shown(path.resolve())}; put a copy inside"
        raise UnusableError(msg)
    if path.suffix.lower() not in SUFFIXES:
        msg = (
            f"unknown suffix {path.suffix!r}: expected one of {' '.join(SUFFIXES)}; convert it to flac or wav"
        )
        raise UnusableError(msg)
    if path.stat().st_size == 0:
        msg = "the file is empty (0 bytes); record or copy it again"
        raise UnusableError(msg)


def _transcript_beside(path: Path) -> str | None:
    text = path.with_suffix(".txt")
    if not text.is_file():
        return None
    try:
        words = " ".join(text.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        msg = f"its transcript {text.name} is not UTF-8 (byte {error.start}); save it as UTF-8"
        raise UnusableError(msg) from error
    if not words:
        msg = (
            f"its transcript {text.name} is empty; write the words in it, or remove it if they are not known"
        )
        raise UnusableError(msg)
    return words
