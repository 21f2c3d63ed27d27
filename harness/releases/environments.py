"""The environments of several releases, one after the other; what some are based on is built once for all."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from harness.releases.build import base_of
from harness.releases.environment import InstallError, release_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from harness.releases.catalogue import Catalogue, Release


class Environments:
    """Hands out one release's environment at a time, and takes each away that nobody needs any more.

    A release whose lock is based on another's begins with the files of that one's environment, if it is
    there: so it is built first where several of the expected releases begin with it, and stays until the
    last of them is done.
    """

    def __init__(
        self,
        folder: Path,
        *,
        catalogue: Catalogue,
        expected: Iterable[Release],
        keep: bool,
        log: Callable[[Release], Path],
        progress: Callable[[str, str], None],
    ) -> None:
        """Build nothing yet.

        Args:
            folder: Of all environments.
            catalogue: Has the locks.
            expected: The releases whose environments will be asked for, as far as that is known.
            keep: Whether an environment that is built here stays.
            log: Where the output of building a release's environment goes.
            progress: Called with a leg's name and what is done now.
        """
        self._folder = folder
        self._catalogue = catalogue
        self._keep = keep
        self._log = log
        self._progress = progress
        #: By release, what it begins with.
        self._base = {release: _base(release, catalogue) for release in catalogue.releases}
        self._left = set(expected)
        #: What is there for others to begin with: what takes it away, and its interpreter.
        self._open: dict[Release, tuple[ExitStack, str]] = {}
        self._failed: set[Release] = set()

    def __enter__(self) -> Self:
        """Take away at the end what was built here."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take away what is left."""
        for base in list(self._open):
            self._close(base)

    @contextmanager
    def of(self, release: Release) -> Iterator[str]:
        """Give the interpreter of a release's environment; afterwards it may be gone.

        Raises:
            InstallError: it cannot be built.
        """
        try:
            base = self._base[release]
            if base is not None and self._users(base) > 1:
                self._prepare(base)
            if release in self._open:
                yield self._open[release][1]
            else:
                with self._environment(release) as interpreter:
                    yield interpreter
        finally:
            self.done(release)

    def done(self, release: Release) -> None:
        """Say that a release's environment will not be asked for again."""
        self._left.discard(release)
        for base in list(self._open):
            if not self._users(base):
                self._close(base)

    def _users(self, base: Release) -> int:
        return sum(self._base[release] == base for release in self._left)

    def _prepare(self, base: Release) -> None:
        if base in self._open or base in self._failed:
            return
        stack = ExitStack()
        try:
            interpreter = stack.enter_context(self._environment(base))
        except InstallError as error:
            # Those who would begin with it may do without.
            self._failed.add(base)
            self._progress(base.leg, f"error: {error}")
        else:
            self._open[base] = (stack, interpreter)

    def _close(self, base: Release) -> None:
        self._open.pop(base)[0].close()

    @contextmanager
    def _environment(self, release: Release) -> Iterator[str]:
        with release_environment(
            self._catalogue.lock(release),
            self._folder / release.environment,
            log=self._log(release),
            free_gigabytes=self._catalogue.free_gigabytes,
            keep=self._keep,
            progress=lambda text: self._progress(release.leg, text),
        ) as interpreter:
            yield interpreter


def _base(release: Release, catalogue: Catalogue) -> Release | None:
    """What a release begins with, and others may too: itself, if its lock is based on none."""
    lock = catalogue.lock(release)
    while (base := base_of(lock)) is not None:
        lock = base
    return next((other for other in catalogue.releases if catalogue.lock(other) == lock), None)
