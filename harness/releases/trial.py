"""One loader state of one release, tried: by the load audit alone, or by the whole parity run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.backends.contract import check_helper
from harness.errors import HarnessError
from harness.releases.matrix import Helper
from harness.run import AuditOptions, RunOptions, audit, prepare, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.compare.result import Report
    from harness.releases.options import ReleasesOptions
    from harness.trace.schema import LoaderState


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What to try: a leg in its interpreter, a loader state, and the folder of its report."""

    leg: str
    interpreter: str
    loader: LoaderState
    out: Path


def try_loader(trial: Trial, options: ReleasesOptions, *, progress: Callable[[str, str], None]) -> Report:
    """Run the load audit, or with ``options.full`` the whole run against ``hf-cpu`` in this environment.

    Raises:
        HarnessError: it could not be run at all.
    """
    if not options.full:
        return audit(
            AuditOptions(
                out=trial.out,
                case=options.case,
                legs=(trial.leg,),
                checkpoint=options.checkpoint,
                dtype=options.dtype,
                loader=trial.loader,
                python={trial.leg: trial.interpreter},
                timeout=options.timeout,
                seed=options.seed,
                command=options.command,
            ),
            progress=progress,
        )
    asked = RunOptions(
        out=trial.out,
        case=options.case,
        candidates=(trial.leg,),
        require=(trial.leg,),
        checkpoint=options.checkpoint,
        dtype=options.dtype,
        loader=trial.loader,
        python={trial.leg: trial.interpreter},
        timeout=options.timeout,
        seed=options.seed,
        command=options.command,
    )
    return run(prepare(asked), progress=progress)


def check_upstream_helper(interpreter: str) -> Helper:
    """Run the contract of the helper that upstream's fix brought, in the release's interpreter.

    Raises:
        HarnessError: it could not be asked at all; that a release has no helper is an answer.
    """
    found = check_helper(interpreter)
    if not found.version:
        raise HarnessError(found.problem)
    return Helper(
        signature=found.signature,
        cases=len(found.cases),
        wrong={case.name: case.message for case in found.cases if not case.ok},
        problem=found.problem,
    )
