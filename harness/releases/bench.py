"""Tries one release after the other: from the cache, or in its environment; nothing of it stops the next."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from harness import __version__
from harness.errors import HarnessError
from harness.releases.build import identity
from harness.releases.cache import Cache, Key, Result, reference_digest, sources_digest
from harness.releases.environment import InstallError
from harness.releases.matrix import Helper, Row, error_cell, judge_report
from harness.releases.trial import Trial
from harness.report import write_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Protocol

    from harness.compare.result import Report
    from harness.releases.catalogue import Catalogue, Release
    from harness.releases.environments import Environments
    from harness.releases.matrix import Cell
    from harness.releases.options import ReleasesOptions
    from harness.trace.schema import LoaderState

    class TryLoader(Protocol):
        """:func:`harness.releases.trial.try_loader`, or what stands in for it."""

        def __call__(  # noqa: D102 - as the class says
            self, trial: Trial, options: ReleasesOptions, *, progress: Callable[[str, str], None]
        ) -> Report: ...


#: The folder of the cells' reports, below the matrix's own.
CELLS = "cells"


def _reason(error: Exception) -> str:
    """An error as a cell tells it: one raised on purpose speaks for itself."""
    return str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"


class Bench:
    """Tries one release after the other, with what all of them share."""

    def __init__(
        self,
        options: ReleasesOptions,
        *,
        catalogue: Catalogue,
        checkpoint: str,
        environments: Environments,
        progress: Callable[[str, str], None],
        try_loader: TryLoader,
        check_helper: Callable[[str], Helper],
    ) -> None:
        self.catalogue = catalogue
        self.progress = progress
        self._options = options
        self._checkpoint = checkpoint
        self._environments = environments
        self._try_loader = try_loader
        self._check_helper = check_helper
        self._cache = Cache(options.cache, warn=lambda text: progress("cache", text))

    def knows(self, release: Release, loaders: tuple[LoaderState, ...]) -> bool:
        """Whether a row can be had from the cache alone."""
        keys = [*(self._key(release, loader) for loader in loaders), self._helper_key(release)]
        return all(self._cache.holds(key) for key in keys)

    def row(self, release: Release, loaders: tuple[LoaderState, ...], *, helper: bool) -> Row:
        """Try a release; never raises for what becomes of it.

        Args:
            release: Which one.
            loaders: The loader states to try on it.
            helper: Whether its upstream helper is checked too.
        """
        cells = {loader: cell for loader in loaders if (cell := self._kept(release, loader)) is not None}
        contract = self._kept_helper(release) if helper else None
        left = [loader for loader in loaders if loader not in cells]
        if left or (helper and contract is None):
            try:
                with self._environments.of(release) as interpreter:
                    for loader in left:
                        cells[loader] = self._cell(release, loader, interpreter)
                    if helper and contract is None:
                        contract = self._helper(release, interpreter)
            except InstallError as error:
                self.progress(release.leg, f"error: {error}")
                for loader in left:
                    cells[loader] = error_cell(
                        release, loader=loader, catalogue=self.catalogue, reason=str(error)
                    )
        return Row(release=release.version, cells=tuple(cells[loader] for loader in loaders), helper=contract)

    def _cell(self, release: Release, loader: LoaderState, interpreter: str) -> Cell:
        started = time.monotonic()
        folder = self._folder(release, loader)
        trial = Trial(leg=release.leg, interpreter=interpreter, loader=loader, out=folder)
        who = f"{release.leg} {loader}"
        try:
            report = self._try_loader(
                trial, self._options, progress=lambda leg, what: self.progress(who, f"{leg}: {what}")
            )
            write_report(report, folder)
        except Exception as error:  # noqa: BLE001 - one trial that breaks must not stop the others
            reason = _reason(error)
            self.progress(who, f"error: {reason}")
            return error_cell(release, loader=loader, catalogue=self.catalogue, reason=reason)
        seconds = time.monotonic() - started
        cell = self._judge(report, release, loader, seconds=seconds, cached=False)
        if cell.outcome != "error":
            self._cache.save(self._key(release, loader), Result(report=report, seconds=seconds))
        self.progress(who, f"{cell.outcome} after {seconds:.0f} s, expected {cell.expected}")
        return cell

    def _kept(self, release: Release, loader: LoaderState) -> Cell | None:
        """The cell of a kept result, its report written to where a new one's would be."""
        if (result := self._cache.load(self._key(release, loader), Result)) is None:
            return None
        # Its traces and logs went with the command that made them.
        legs = tuple(leg.model_copy(update={"trace": None, "log": None}) for leg in result.report.legs)
        report = result.report.model_copy(update={"legs": legs})
        write_report(report, self._folder(release, loader))
        self.progress(f"{release.leg} {loader}", f"{report.outcome}, from the cache")
        return self._judge(report, release, loader, seconds=result.seconds, cached=True)

    def _judge(
        self, report: Report, release: Release, loader: LoaderState, *, seconds: float, cached: bool
    ) -> Cell:
        return judge_report(
            report,
            release=release,
            loader=loader,
            catalogue=self.catalogue,
            seconds=seconds,
            cached=cached,
            folder=str(self._folder(release, loader).relative_to(self._options.out)),
        )

    def _helper(self, release: Release, interpreter: str) -> Helper:
        self.progress(release.leg, "checking the upstream helper")
        try:
            found = self._check_helper(interpreter)
        except Exception as error:  # noqa: BLE001 - as above
            return Helper(problem=f"it could not be checked: {_reason(error)}")
        self._cache.save(self._helper_key(release), found)
        return found

    def _kept_helper(self, release: Release) -> Helper | None:
        found = self._cache.load(self._helper_key(release), Helper)
        return None if found is None else found.model_copy(update={"cached": True})

    def _key(self, release: Release, loader: LoaderState) -> Key:
        options = self._options
        return self._helper_key(release).model_copy(
            update={
                "checkpoint": self._checkpoint,
                "dtype": options.dtype,
                "loader": loader,
                "work": options.work,
                "seed": options.seed,
                "reference": reference_digest() if options.full else "",
            }
        )

    def _helper_key(self, release: Release) -> Key:
        return Key(
            release=release.version,
            lock=identity(self.catalogue.lock(release)).strip(),
            harness=__version__,
            sources=sources_digest(),
            work="helper",
        )

    def _folder(self, release: Release, loader: LoaderState) -> Path:
        return self._options.out / CELLS / release.version / loader
