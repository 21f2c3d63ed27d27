"""Tries releases one after the other, each in its own environment, and puts the matrix together."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from harness import __version__
from harness.cases import get_case
from harness.checkpoints.checkpoint import resolve_checkpoint
from harness.releases.bench import CELLS, Bench
from harness.releases.bisection import describe, find_first_good
from harness.releases.catalogue import load_catalogue
from harness.releases.environments import Environments
from harness.releases.matrix import Bisection, Helper, Matrix, Row, answer, exit_code, outcome, verdict
from harness.releases.options import check_folders, chosen_loaders
from harness.releases.render import MATRIX_FILES
from harness.releases.trial import check_upstream_helper, try_loader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.releases.bench import TryLoader
    from harness.releases.bisection import Answer
    from harness.releases.catalogue import Catalogue, Release
    from harness.releases.options import ReleasesOptions


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
        log=lambda release: options.out / CELLS / release.version / "install.log",
        progress=progress,
    )
    bench = Bench(
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
    shutil.rmtree(out / CELLS, ignore_errors=True)


def _search(bench: Bench, chosen: tuple[Release, ...]) -> tuple[tuple[Row, ...], Bisection]:
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
