from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.report import render_junit
from harness.report.text import plain
from tests.unit.report_examples import (
    HOSTILE,
    PAIR,
    check,
    crashed,
    empty,
    failing,
    hostile,
    passing,
    report,
    unsupported,
)

if TYPE_CHECKING:
    from harness.compare.result import Report


def parsed(example: Report) -> ET.Element:
    # Bytes, as a reader of the file would have them.
    return ET.fromstring(render_junit(example).encode())  # noqa: S314 - what is parsed was made here


@pytest.mark.parametrize("example", [passing(), failing(more=5), crashed(), unsupported()])
def test_counts_agree_with_the_report(example: Report) -> None:
    root = parsed(example)
    counts = example.counts
    expected = {
        "tests": len(example.checks),
        "failures": counts["fail"],
        "errors": counts["error"] + counts["missing"],
        "skipped": counts["unsupported"],
    }
    for name, number in expected.items():
        assert root.get(name) == str(number)
        assert sum(int(suite.get(name, "")) for suite in root) == number
    found = {tag: len(root.findall(f".//testcase/{tag}")) for tag in ("failure", "error", "skipped")}
    assert list(found.values()) == [expected["failures"], expected["errors"], expected["skipped"]]


def test_a_suite_per_pair_with_its_circumstances() -> None:
    suites = parsed(crashed()).findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["hf-cpu", "vllm-cpu", PAIR]
    properties = {found.get("name"): found.get("value") for found in suites[0].iter("property")}
    assert properties["case"] == "glm_asr"
    assert properties["checkpoint"] == "tiny"
    assert properties["dtype"] == "float32"
    assert properties["hf-cpu.torch"] == "2.9.0"


def test_cases_are_the_checks() -> None:
    root = parsed(failing())
    assert [case.get("name") for case in root.iter("testcase")] == [found.id for found in failing().checks]
    case = root.findall(".//testcase")[1]
    assert case.get("classname") == "glm_asr.parameter"
    failure = case.find("failure")
    assert failure is not None
    assert failure.get("message") == failing().checks[1].message
    assert failure.text == "max_abs 6e+07, allowed 0, at [12]"


def test_a_missing_check_is_an_error_and_an_unsupported_one_is_skipped() -> None:
    error = parsed(failing()).find(".//error")
    skipped = parsed(unsupported()).findall(".//skipped")
    assert error is not None
    assert (error.get("type"), error.get("message")) == ("missing", "no logits recorded")
    assert [found.get("message") for found in skipped] == ["unsupported", *["no CUDA device"] * 3]


@pytest.mark.parametrize("example", [empty(), report([check("x", status="unsupported")])])
def test_a_run_that_compared_nothing_is_not_green(example: Report) -> None:
    root = parsed(example)
    assert root.get("errors") == "1"
    assert root.find(".//testcase[@name='verdict']/error") is not None


def test_a_green_run_has_no_verdict_case() -> None:
    assert parsed(passing()).find(".//testcase[@name='verdict']") is None


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_read_back(text: str) -> None:
    failure = parsed(hostile(text)).find(".//failure")
    assert failure is not None
    assert failure.get("message") == (plain(text) or "fail")


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters()))
def test_any_text_is_valid_xml(text: str) -> None:
    root = parsed(hostile(text))
    assert root.get("tests") == "10"
    assert {case.get("name") for case in root.iter("testcase")} == {plain(text)}
