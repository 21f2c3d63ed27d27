"""vLLM 0.19.1, the last release before pull request 40160: red as installed, for that reason, every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.backends.names import LegName
from harness.errors import ExitCode
from harness.run import AuditOptions, RunOptions, audit, audit_many, prepare
from harness.run import run as run_legs
from tests.known_bad.conftest import LEG

if TYPE_CHECKING:
    from pathlib import Path

    from harness.compare.result import CheckResult, Kind, LegReport, Report
    from harness.trace.schema import LoaderState

#: What alone may be red: of the default checkpoint's two layers.
K_BIAS = {"layers.0.k_proj.bias", "layers.1.k_proj.bias"}
#: The leg in the ids and pairs of checks.
IDENTIFIER = LegName.parse(LEG).identifier


def failed(report: Report, kind: Kind) -> dict[str, CheckResult]:
    """The failed checks of a kind, by subject; all of them are the release's."""
    found = [check for check in report.checks if check.kind == kind and check.status == "fail"]
    assert all(IDENTIFIER in check.pair for check in found), "the reference is red"
    return {check.subject: check for check in found}


def messages(report: Report) -> dict[str, str]:
    """What failed, by id, and what is said of it."""
    return {check.id: check.message for check in report.checks if check.status == "fail"}


def leg_of(report: Report) -> LegReport:
    (leg,) = (leg for leg in report.legs if leg.name == LEG)
    return leg


def run(loader: LoaderState, *, python: str, clip: Path, out: Path) -> Report:
    options = RunOptions(
        out=out,
        candidates=(LEG,),
        require=(LEG,),
        loader=loader,
        audio=(clip,),
        max_new_tokens=2,
        python={LEG: python},
    )
    return run_legs(prepare(options), progress=lambda _who, _what: None)


def audit_installed(python: str, out: Path) -> Report:
    options = AuditOptions(out=out, legs=(LEG,), loader="installed", python={LEG: python})
    return audit(options, progress=lambda _who, _what: None)


@pytest.fixture(scope="module")
def report(release_python: str, one_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The whole run, as installed."""
    out = tmp_path_factory.mktemp("installed")
    return run("installed", python=release_python, clip=one_clip, out=out)


class TestInstalled:
    def test_is_a_regression(self, report: Report) -> None:
        assert (report.outcome, report.exit_code) == ("fail", ExitCode.FAIL), report.verdict
        assert leg_of(report).status == "captured"
        assert leg_of(report).loader == "installed"
        assert leg_of(report).loader_changes == ()

    @pytest.mark.parametrize("kind", ["audit", "parameter"])
    def test_by_the_k_bias_of_every_layer_and_nothing_else(self, report: Report, kind: Kind) -> None:
        every = {check.subject for check in report.checks if check.subject.endswith(".k_proj.bias")}
        assert set(failed(report, kind)) == K_BIAS == every

    @pytest.mark.parametrize("layer", [0, 1])
    def test_the_audit_names_the_shard(self, report: Report, layer: int) -> None:
        message = failed(report, "audit")[f"layers.{layer}.k_proj.bias"].message
        assert f"audio_tower.layers.{layer}.self_attn.qkv_proj.bias[128:256] (k)" in message
        assert "128 of 384 elements never written" in message

    def test_the_verdict_names_it_first(self, report: Report) -> None:
        assert "layers.0-1.k_proj.bias" in report.verdict.splitlines()[0]
        assert "qkv_proj.bias[128:256]" in report.verdict.splitlines()[0]

    def test_where_it_shows_first(self, report: Report) -> None:
        assert report.first_divergence is not None
        assert report.first_divergence.probe == "encoder.layers.0.k_proj"


class TestPatched:
    def test_is_green(self, release_python: str, one_clip: Path, tmp_path: Path) -> None:
        report = run("patched", python=release_python, clip=one_clip, out=tmp_path / "out")
        assert (report.outcome, report.exit_code) == ("pass", ExitCode.PASS), report.verdict
        assert leg_of(report).loader == "patched"
        assert leg_of(report).loader_changes, "green, and nothing was changed"
        audited = {
            check.subject: check.status
            for check in report.checks
            if check.kind == "audit" and check.pair == IDENTIFIER
        }
        assert {audited[name] for name in K_BIAS} == {"pass"}


#: The spec, and in which layers the release as installed leaves the bias to chance.
CHECKPOINTS = {
    "random:shards=3": (0, 1),
    "random:k_bias=all": (),
    "random:k_bias=all,shards=3,order=reversed": (),
    "random:k_bias=all,shards=4,encoder_layers=4,order=reversed": (),
    "random:k_bias=even,encoder_layers=4": (1, 3),
    "random:k_bias=even,encoder_layers=4,shards=3": (1, 3),
    "random:k_bias=even,encoder_layers=4,shards=3,order=by_name": (1, 3),
}


@pytest.fixture(scope="module")
def reports(
    release_python: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[LoaderState, tuple[Report, ...]]:
    """Every checkpoint by loader state; one process for each state."""
    states: tuple[LoaderState, ...] = ("installed", "patched")
    return {
        loader: audit_many(
            AuditOptions(
                out=tmp_path_factory.mktemp(loader),
                legs=(LEG,),
                loader=loader,
                python={LEG: release_python},
            ),
            tuple(CHECKPOINTS),
            progress=lambda _who, _what: None,
        )
        for loader in states
    }


class TestARealKBias:
    """Checkpoints that have a k bias, or some of it, in every order that files can have."""

    @pytest.mark.parametrize(("spec", "left"), CHECKPOINTS.items(), ids=list(CHECKPOINTS))
    def test_installed_leaves_what_the_checkpoint_lacks(
        self, spec: str, left: tuple[int, ...], reports: dict[LoaderState, tuple[Report, ...]]
    ) -> None:
        report = reports["installed"][list(CHECKPOINTS).index(spec)]
        assert list(messages(report)) == [
            f"glm_asr-audit-layers.{layer}.k_proj.bias-{IDENTIFIER}" for layer in left
        ], report.verdict

    @pytest.mark.parametrize(("spec", "left"), CHECKPOINTS.items(), ids=list(CHECKPOINTS))
    def test_patched_gives_zeros_there_and_nowhere_else(
        self, spec: str, left: tuple[int, ...], reports: dict[LoaderState, tuple[Report, ...]]
    ) -> None:
        report = reports["patched"][list(CHECKPOINTS).index(spec)]
        assert report.outcome == "pass", report.verdict
        changes = leg_of(report).loader_changes
        assert [change.split("layers.")[1].split(".")[0] for change in changes] == [str(i) for i in left]


@pytest.fixture(scope="module")
def first(release_python: str, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The first of several audits."""
    return audit_installed(release_python, tmp_path_factory.mktemp("first"))


class TestEveryTime:
    """Uninitialised memory is luck; what is said of it must not be."""

    def test_the_same_finding(
        self, first: Report, release_python: str, tmp_path: Path, repetition: int
    ) -> None:
        again = audit_installed(release_python, tmp_path / "out")
        for report in (first, again):
            assert report.outcome == "fail", report.verdict
            assert set(failed(report, "audit")) == K_BIAS
        assert messages(again) == messages(first)
