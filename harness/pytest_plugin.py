"""The harness as a pytest plugin: one test per planned check, legs captured once per session.

Load it with ``-p harness.pytest_plugin`` or ``pytest_plugins``. A test that takes ``planned_check`` is
collected once per check of the plan, before any backend has started; ``parity_report`` runs the legs.
"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from harness.compare.plan import PlannedCheck
    from harness.compare.result import CheckResult, Report
    from harness.run import Prepared, RunOptions

#: Workers of pytest-xdist inherit it, so that one session's report is not taken for another's.
_SESSION = "GLM_ASR_HARNESS_SESSION"
_OUT = "glm-asr-report-pytest"
_prepared = pytest.StashKey["Prepared"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of ``harness run``, by the same names."""
    group = parser.getgroup("glm-asr-harness", "cross-backend parity of GLM-ASR")
    many = {"action": "append", "default": []}
    group.addoption("--reference", default="hf-cpu", help="leg that the others are compared with")
    group.addoption("--candidate", **many, help="leg to judge (default: vllm-cpu and vllm-cuda)")
    group.addoption("--require", **many, help="leg that must run: its tests fail instead of being skipped")
    group.addoption("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    group.addoption("--attention", default="sdpa", choices=("sdpa", "eager"))
    group.addoption("--checkpoint", default="random", help="'random', a folder, or a hub id")
    group.addoption("--audio", **many, help="a file, a folder, or a manifest (default: embedded clips)")
    group.addoption("--python", **many, metavar="LEG=INTERPRETER", help="interpreter that holds a backend")
    group.addoption("--tolerances", default=None, help="a tolerances file instead of the harness's own")
    group.addoption("--leg-timeout", type=float, default=1800.0, help="seconds after which a leg is killed")
    group.addoption("--out", default=_OUT, help=f"folder of the report (default: {_OUT})")


def pytest_configure(config: pytest.Config) -> None:
    """Give the session a name of its own."""
    if not hasattr(config, "workerinput"):
        os.environ[_SESSION] = uuid.uuid4().hex


def _options(config: pytest.Config) -> RunOptions:
    from harness.cli import read_interpreters
    from harness.run import RunOptions

    option: Any = config.option
    return RunOptions(
        out=config.invocation_params.dir / option.out,
        reference=option.reference,
        candidates=tuple(option.candidate or ("vllm-cpu", "vllm-cuda")),
        require=tuple(option.require),
        dtype=option.dtype,
        attention=option.attention,
        checkpoint=option.checkpoint,
        audio=tuple(Path(path) for path in option.audio),
        python=read_interpreters(option.python),
        timeout=option.leg_timeout,
        tolerances=Path(option.tolerances) if option.tolerances else None,
        command=tuple(map(str, ("pytest", *config.invocation_params.args))),
    )


def _prepare(config: pytest.Config) -> Prepared:
    """Derive the plan, once per process; every worker does, in a folder of its own."""
    from harness.run import prepare

    if _prepared not in config.stash:
        with TemporaryDirectory() as folder:
            try:
                config.stash[_prepared] = prepare(replace(_options(config), out=Path(folder)))
            except HarnessError as error:
                raise pytest.UsageError(str(error)) from None
    return config.stash[_prepared]


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Versions and devices of the legs, and why a leg cannot run."""
    from harness import __version__
    from harness.backends.availability import check_available
    from harness.run import plan_legs
    from harness.trace.schema import DECIDING_PACKAGES

    try:
        legs = plan_legs(_options(config))
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from None
    lines = [f"glm-asr-harness {__version__}, {config.option.dtype}, checkpoint {config.option.checkpoint}"]
    for leg in legs:
        found = check_available(leg.name, interpreter=leg.interpreter)
        shown = ", ".join(
            f"{name} {version}" for name, version in found.versions.items() if name in DECIDING_PACKAGES
        )
        lines.append(
            f"  {leg.name} ({leg.role}): "
            + (f"{found.device_name}; {shown}" if found.available else f"cannot run: {found.reason}")
        )
    return lines


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per planned check; the id is the check's."""
    if "planned_check" in metafunc.fixturenames:
        plan = _prepare(metafunc.config).plan
        metafunc.parametrize("planned_check", plan, ids=[check.id for check in plan])


@pytest.fixture(scope="session")
def parity_report(request: pytest.FixtureRequest) -> Report:
    """The report of this session's legs: captured by the first worker that asks, read by the others."""
    from filelock import FileLock

    from harness.report import load_report

    config = request.config
    out = _options(config).out
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    state, session = work / "session.json", os.environ[_SESSION]
    with FileLock(work / "session.lock"):
        try:
            known = json.loads(state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        if known.get("session") != session:
            # Written first, as failed: a worker that comes after a crash must not start the legs again.
            error = "an earlier test of this session could not run the legs"
            state.write_text(json.dumps({"session": session, "error": error}), encoding="utf-8")
            _run(config)
            known = {"session": session}
            state.write_text(json.dumps(known), encoding="utf-8")
    if "error" in known:
        pytest.fail(known["error"], pytrace=False)
    return load_report(out / "report.json")


def _run(config: pytest.Config) -> None:
    from harness.progress import Progress
    from harness.report import write_report
    from harness.run import prepare, run

    options = _options(config)
    capture = config.pluginmanager.getplugin("capturemanager")
    shown: AbstractContextManager[object] = (
        capture.global_and_fixture_disabled() if capture is not None else nullcontext()
    )
    with shown, Progress() as progress:
        report = run(prepare(options), progress=progress)
    write_report(report, options.out)


@pytest.fixture(scope="session")
def parity_results(parity_report: Report) -> dict[str, CheckResult]:
    """The session's check results, by id."""
    return {check.id: check for check in parity_report.checks}


def assert_check(planned: PlannedCheck, results: dict[str, CheckResult]) -> None:
    """End the test as the check ended: passed, skipped with the reason, or failed with the message."""
    result = results.get(planned.id)
    if result is None:
        pytest.fail("missing: planned, but no result came of it", pytrace=False)
    if result.status == "unsupported":
        pytest.skip(result.message)
    if result.status != "pass":
        pytest.fail(f"{result.status}: {result.message}", pytrace=False)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401
    """The verdict and where the report is, if this session ran the legs."""
    from harness.report import load_report
    from harness.report.text import plain

    out = _options(config).out
    try:
        state = json.loads((out / "work" / "session.json").read_text(encoding="utf-8"))
        if state != {"session": os.environ[_SESSION]}:
            return
        report = load_report(out / "report.json")
    except (OSError, ValueError, HarnessError):
        return
    terminalreporter.section("GLM-ASR parity")
    terminalreporter.line(plain(f"{report.outcome.upper()}  {report.verdict}"))
    terminalreporter.line(plain(f"report: {out / 'report.md'}"))
