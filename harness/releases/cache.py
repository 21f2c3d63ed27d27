"""Results kept between commands, by everything that decides them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

import harness
from harness.audio.inputs import embedded
from harness.compare.result import Report
from harness.files import sha256_file, write_text
from harness.releases.matrix import Helper
from harness.trace.schema import DECIDING_PACKAGES, DType, LoaderState, Record, Work

if TYPE_CHECKING:
    from collections.abc import Callable

_PACKAGE = Path(harness.__file__).parent


class Key(Record):
    """What decides a result. ``reference`` is what a whole run needs of the harness's own environment."""

    release: str
    lock: str
    harness: str
    sources: str
    checkpoint: str = ""
    dtype: DType | None = None
    loader: LoaderState | None = None
    work: Work | Literal["helper"]
    seed: int = 0
    reference: str = ""

    @property
    def file_name(self) -> str:
        """The name of its file: readable in front, and one per key."""
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:24]
        return f"{self.release}-{self.loader or self.work}-{digest}.json"


class Result(Record):
    """A report, and how many seconds it took to make."""

    report: Report
    seconds: float


Stored = TypeVar("Stored", Result, Helper)


class _File(BaseModel):
    """What a file of the cache holds."""

    model_config = ConfigDict(extra="forbid")
    schema_version: Literal[1] = 1
    key: Key
    content: Result | Helper


class Cache:
    """A folder of results; ``None`` keeps nothing and finds nothing."""

    def __init__(self, folder: Path | None, *, warn: Callable[[str], None]) -> None:
        """Use ``folder``, which is made when the first result is kept; ``warn`` is told of broken files."""
        self._folder = folder
        self._warn = warn

    def holds(self, key: Key) -> bool:
        """Whether there is a result of ``key``; :meth:`load` says whether it can be used."""
        return self._folder is not None and (self._folder / key.file_name).is_file()

    def load(self, key: Key, kind: type[Stored]) -> Stored | None:
        """Return what is kept for ``key``; a file that cannot be used counts as none."""
        if self._folder is None:
            return None
        path = self._folder / key.file_name
        try:
            found = _File.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            self._warn(f"{path} cannot be used and is made anew: {str(error).splitlines()[0]}")
            return None
        if found.key != key or not isinstance(found.content, kind):
            self._warn(f"{path} cannot be used and is made anew: it holds another result")
            return None
        return found.content

    def save(self, key: Key, content: Result | Helper) -> None:
        """Keep ``content``; where that is not possible, say so and go on: the result itself is not lost."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_text(
                self._folder / key.file_name, _File(key=key, content=content).model_dump_json(indent=1) + "\n"
            )
        except OSError as error:
            self._warn(f"{self._folder}: the result is not kept: {error.strerror}")


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/glm-asr-harness``, or ``~/.cache/glm-asr-harness``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path is to be ignored, says the standard of these variables.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "glm-asr-harness"


@cache
def sources_digest() -> str:
    """A digest of the harness's own code and data: a change of either makes all results old."""
    total = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in {".py", ".toml"} and path.is_file():
            total.update(f"{path.relative_to(_PACKAGE).as_posix()}\0{sha256_file(path)}\n".encode())
    return total.hexdigest()


@cache
def reference_digest() -> str:
    """A digest of what a whole run takes from this environment: the reference's stack, and the clips."""
    parts = []
    for name in (*DECIDING_PACKAGES, "numpy", "librosa"):
        try:
            parts.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            parts.append(f"{name} -")
    parts.append(sha256_file(embedded()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
