"""Tries releases one after the other, each in its own environment, and puts the matrix together."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from harness import __version__
from harness.cases import get_case
from harness.checkpoints.checkpoint import resolve_checkpoint
from harness.errors import HarnessError
from harness.releases.bisection import describe, find_first_good
from harness.releases.build import identity
from harness.releases.cache import Cache, Key, Result, reference_digest, sources_digest
from harness.releases.catalogue import load_catalogue
from harness.releases.environment import InstallError
from harness.releases.environments import Environments
from harness.releases.matrix import (
    Bisection,
    Cell,
    Helper,
    Matrix,
    Row,
    answer,
    error_cell,
    exit_code,
    judge_report,
    outcome,
    verdict,
)
from harness.releases.options import check_folders, chosen_loaders
from harness.releases.render import MATRIX_FILES
from harness.releases.trial import Trial, check_upstream_helper, try_loader
from harness.report import write_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Protocol

    from harness.compare.result import Report
    from harness.releases.bisection import Answer
    from harness.releases.catalogue import Catalogue, Release
    from harness.releases.options import ReleasesOptions
    from harness.trace.schema import LoaderState

    class TryLoader(Protocol):
        """:func:`harness.releases.trial.try_loader`, or what stands in for it."""

        def __call__(  # noqa: D102 - as the class says
            self, trial: Trial, options: ReleasesOptions, *, progress: Callable[[str, str], None]
        ) -> Report: ...


#: The folder of the cells' reports, below the matrix's own.
_CELLS = "cells"


def run_releases(
    options: ReleasesOptions,
    *,
    progress: Callable[[str, str], None],
    catalogue: Catalogue | None = None,
    try_loader: TryLoader = try_loader,
    check_helper: Callable[[str], Helper] = check_upstream_helper,
) -> Matrix:
    """Try the chosen releases, oldest first, or search them for the first good one.

    The folder ``options.out`` is the caller's to claim. A release that cannot be tried ends in ``error``
    cells and stops no other.

    Args:
        options: What was asked for.
        progress: Called with who and what.
        catalogue: The known releases; by default the harness's own.
        try_loader: Tries one loader state of one release.
        check_helper: Checks the upstream helper in a release's interpreter.

    Raises:
        InputError: anything that was given is wrong; nothing was tried.
    """
    started = time.monotonic()
    catalogue = catalogue or load_catalogue()
    chosen = catalogue.select(only=options.only, since=options.since, until=options.until)
    loaders = chosen_loaders(options)
    check_folders(options)
    checkpoint = resolve_checkpoint(
        options.checkpoint, case=get_case(options.case), folder=options.out / "work" / "checkpoint"
    )
    _clear(options.out)
    environments = Environments(
        options.environments,
        catalogue=catalogue,
        # Which ones a search will try is not known.
        expected=() if options.bisect else chosen,
        keep=options.keep,
        log=lambda release: options.out / _CELLS / release.version / "install.log",
        progress=progress,
    )
    bench = _Bench(
        options,
        catalogue=catalogue,
        checkpoint=checkpoint.digest,
        environments=environments,
        progress=progress,
        try_loader=try_loader,
        check_helper=check_helper,
    )
    with environments:
        if options.bisect:
            rows, bisection = _search(bench, chosen)
        else:
            progress("releases", f"{len(chosen)} to try, each {', '.join(loaders)}")
            for release in chosen:
                if bench.knows(release, loaders):
                    environments.done(release)
            rows, bisection = tuple(bench.row(release, loaders, helper=True) for release in chosen), None
    cells = [cell for row in rows for cell in row.cells]
    result = outcome(cells, bisection)
    return Matrix(
        harness=__version__,
        created=datetime.now(tz=UTC).isoformat(timespec="seconds"),
        command=options.command,
        work=options.work,
        checkpoint=checkpoint.source,
        checkpoint_digest=checkpoint.digest,
        dtype=options.dtype,
        first_fixed=catalogue.first_fixed,
        outcome=result,
        exit_code=exit_code(result),
        verdict=verdict(cells, bisection),
        rows=rows,
        bisection=bisection,
        seconds=time.monotonic() - started,
    )


def _clear(out: Path) -> None:
    """Take away what an earlier command left: its results must not pass for those of this one."""
    for name in MATRIX_FILES:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / _CELLS, ignore_errors=True)


def _search(bench: _Bench, chosen: tuple[Release, ...]) -> tuple[tuple[Row, ...], Bisection]:
    """Find the first good release; the rows are of those tested, oldest first."""
    by_version = {release.version: release for release in chosen}
    rows: dict[str, Row] = {}

    def test(version: str) -> Answer:
        rows[version] = bench.row(by_version[version], ("installed",), helper=False)
        return answer(rows[version].cells[0])

    bench.progress("releases", f"searching {len(chosen)} for the first good one")
    found = find_first_good(tuple(by_version), test)
    fixed = [version for version in by_version if bench.catalogue.is_fixed(version)]
    bisection = Bisection(
        kind=found.kind,
        last_bad=found.last_bad,
        first_good=found.first_good,
        untestable=found.untestable,
        tested=found.tested,
        expected_first_good=fixed[0] if fixed else None,
        answer=describe(found),
    )
    return tuple(rows[version] for version in by_version if version in rows), bisection


def _reason(error: Exception) -> str:
    """An error as a cell tells it: one raised on purpose speaks for itself."""
    return str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"


class _Bench:
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
        return self._options.out / _CELLS / release.version / loader
