"""What ``harness releases`` was asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import InputError
from harness.releases.catalogue import LOADERS
from harness.run import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

    from harness.trace.schema import DType, LoaderState, Work


@dataclass(frozen=True, kw_only=True)
class ReleasesOptions:
    """What ``harness releases`` was asked for. ``cache`` is ``None`` where results are neither kept nor used.

    ``only``, ``since`` and ``until`` choose releases; ``loaders`` is empty for the default: all, and
    ``installed`` for a search.
    """

    out: Path
    environments: Path
    cache: Path | None
    only: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None
    loaders: tuple[LoaderState, ...] = ()
    bisect: bool = False
    full: bool = False
    keep: bool = False
    case: str = "glm_asr"
    checkpoint: str = "random"
    dtype: DType = "float32"
    timeout: float = DEFAULT_TIMEOUT
    seed: int = 0
    command: tuple[str, ...] = ()

    @property
    def work(self) -> Work:
        """The load audit alone, or the whole parity run."""
        return "run" if self.full else "audit"


def chosen_loaders(options: ReleasesOptions) -> tuple[LoaderState, ...]:
    """The loader states to try, each once, in the order of the matrix.

    Raises:
        InputError: a search, which has a use for ``installed`` only, is asked for another one.
    """
    if not options.bisect:
        return tuple(loader for loader in LOADERS if not options.loaders or loader in options.loaders)
    if others := sorted(set(options.loaders) - {"installed"}):
        msg = (
            f"--bisect looks for the first release that is good as installed; leave out --loader {others[0]}"
        )
        raise InputError(msg)
    return ("installed",)


def check_folders(options: ReleasesOptions) -> None:
    """See that the folders can be used; makes none.

    Raises:
        InputError: one is not a folder, or cannot be made or written to.
    """
    for option, folder in (("--environments", options.environments), ("--cache", options.cache)):
        if folder is None:
            continue
        nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            msg = f"{option} {folder}: expected a folder or a new name, found the file {nearest}"
            raise InputError(msg)
        if not os.access(nearest, os.W_OK | os.X_OK):
            msg = f"{option} {folder}: {nearest} cannot be written to; give another folder"
            raise InputError(msg)
