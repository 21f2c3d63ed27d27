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
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from harness.errors import HarnessError
from harness.files import sha256_file
from harness.report import REPORT_FILES, load_report, write_report
from harness.report.text import plain

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from harness.compare.plan import PlannedCheck
    from harness.compare.result import CheckResult, Report
    from harness.run import RunOptions

#: Workers of pytest-xdist inherit it, so that one session's report is not taken for another's.
_SESSION = "GLM_ASR_HARNESS_SESSION"
_OUT = "glm-asr-report-pytest"
_plan = pytest.StashKey["tuple[PlannedCheck, ...]"]()
_report = pytest.StashKey["Report"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of ``harness run``; its ``--timeout`` is ``--leg-timeout`` here."""
    from harness.run import DEFAULT_TIMEOUT

    group = parser.getgroup("glm-asr-harness", "cross-backend parity of GLM-ASR")
    many = {"action": "append", "default": []}
    group.addoption("--reference", default="hf-cpu", help="leg that the others are compared with")
    group.addoption("--candidate", **many, help="leg to judge (default: vllm-cpu and vllm-cuda)")
    group.addoption("--require", **many, help="leg that must run: its tests fail instead of being skipped")
    group.addoption("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    group.addoption("--attention", default="sdpa", choices=("sdpa", "eager"))
    group.addoption("--loader", default="installed", choices=("installed", "patched", "reverted"),
                    help="state of vLLM's loader")  # fmt: skip
    group.addoption("--dual-poison", action="store_true", help="capture vLLM legs over two fills of memory")
    group.addoption("--checkpoint", default="random", help="'random', a folder, or a hub id")
    group.addoption("--audio", **many, help="a file, a folder, or a manifest (default: embedded clips)")
    group.addoption("--python", **many, metavar="LEG=INTERPRETER", help="interpreter that holds a backend")
    group.addoption("--max-new-tokens", type=int, default=None, help="longest transcript, in tokens")
    group.addoption("--seed", type=int, default=0, help="seed of both stacks")
    group.addoption("--tolerances", default=None, help="a tolerances file instead of the harness's own")
    group.addoption(
        "--leg-timeout", type=float, default=DEFAULT_TIMEOUT, help="seconds after which a leg is killed"
    )
    group.addoption("--out", default=_OUT, help=f"folder of the report (default: {_OUT})")


def pytest_configure(config: pytest.Config) -> None:
    """Give the session a name of its own."""
    if not hasattr(config, "workerinput"):
        os.environ[_SESSION] = uuid.uuid4().hex


def _out(config: pytest.Config) -> Path:
    """The folder of the report; known also where another option is wrong."""
    return Path(config.invocation_params.dir, config.option.out)


def _options(config: pytest.Config) -> RunOptions:
    from harness.run import RunOptions, read_interpreters

    option: Any = config.option
    return RunOptions(
        out=_out(config),
        reference=option.reference,
        candidates=tuple(option.candidate or ("vllm-cpu", "vllm-cuda")),
        require=tuple(option.require),
        dtype=option.dtype,
        attention=option.attention,
        loader=option.loader,
        dual_poison=option.dual_poison,
        checkpoint=option.checkpoint,
        audio=tuple(Path(path) for path in option.audio),
        python=read_interpreters(option.python),
        timeout=option.leg_timeout,
        max_new_tokens=option.max_new_tokens,
        seed=option.seed,
        tolerances=Path(option.tolerances) if option.tolerances else None,
        command=tuple(map(str, ("pytest", *config.invocation_params.args))),
    )


def _planned(config: pytest.Config) -> tuple[PlannedCheck, ...]:
    """Derive the plan, once per process; every worker does, in a folder of its own."""
    from harness.run import prepare

    if _plan not in config.stash:
        with TemporaryDirectory() as folder:
            try:
                config.stash[_plan] = prepare(replace(_options(config), out=Path(folder))).plan
            except HarnessError as error:
                raise pytest.UsageError(str(error)) from None
    return config.stash[_plan]


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
        plan = _planned(metafunc.config)
        metafunc.parametrize("planned_check", plan, ids=[check.id for check in plan])


class _Session:
    """What the processes of one session know of its report: nothing yet, its digest, or why there is none."""

    def __init__(self, config: pytest.Config) -> None:
        self._state = Path(gettempdir()) / f"glm-asr-harness-{os.environ[_SESSION]}.json"
        self._path = _out(config) / REPORT_FILES[0]
        self.lock = FileLock(self._state.with_suffix(".lock"))

    def load(self) -> Report | None:
        """The session's report, or ``None`` if its legs have not run.

        Raises:
            HarnessError: they could not run, or another session has written to the same folder since.
        """
        try:
            known = json.loads(self._state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if known["error"]:
            raise HarnessError(known["error"])
        if not self._path.is_file() or sha256_file(self._path) != known["report"]:
            msg = f"another run has written to {self._path.parent} since; give each its own --out"
            raise HarnessError(msg)
        return load_report(self._path)

    def save(self, *, error: str = "") -> None:
        """Note that the report is written, or that there will be none."""
        report = "" if error else sha256_file(self._path)
        self._state.write_text(json.dumps({"error": error, "report": report}), encoding="utf-8")

    def forget(self) -> None:
        """Take the notes away: the session is over."""
        for path in (self._state, self._state.with_suffix(".lock")):
            path.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def parity_report(request: pytest.FixtureRequest) -> Report:
    """The report of this session's legs: captured by the first worker that asks, read by the others."""
    session = _Session(request.config)
    try:
        with session.lock:
            report = session.load()
            if report is None:
                # First noted as failed: a worker that comes after a crash must not start the legs again.
                session.save(error="an earlier test of this session could not run the legs")
                _run(request.config)
                session.save()
                report = session.load()
    except HarnessError as error:
        pytest.fail(str(error), pytrace=False)
    assert report is not None  # noqa: S101 - just saved
    return report


def _run(config: pytest.Config) -> None:
    from harness.progress import Progress
    from harness.run import claimed, prepare, run

    options = _options(config)
    capture = config.pluginmanager.getplugin("capturemanager")
    shown: AbstractContextManager[object] = (
        capture.global_and_fixture_disabled() if capture is not None else nullcontext()
    )
    if (terminal := config.pluginmanager.getplugin("terminalreporter")) is not None:
        terminal.ensure_newline()
    with shown, Progress() as progress, claimed(options.out):
        write_report(run(prepare(options), progress=progress), options.out)


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


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A session whose run is incomplete does not end in success, whichever tests were selected."""
    config = session.config
    if hasattr(config, "workerinput"):
        return
    known = _Session(config)
    try:
        report = known.load()
    except HarnessError:
        report = None
    finally:
        known.forget()
    if report is None:
        return
    config.stash[_report] = report
    if report.outcome == "incomplete" and session.exitstatus in {
        pytest.ExitCode.OK,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    }:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401
    """The verdict and where the report is, if this session ran the legs."""
    report = config.stash.get(_report, None)
    if report is not None:
        terminalreporter.section("GLM-ASR parity")
        terminalreporter.line(plain(f"{report.outcome.upper()}  {report.verdict}"))
        terminalreporter.line(plain(f"report: {_out(config) / REPORT_FILES[1]}"))
