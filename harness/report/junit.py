"""Writes a report as JUnit XML: one test suite per pair, one test case per check."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from harness.report import summary
from harness.report.text import plain

if TYPE_CHECKING:
    from harness.compare.result import CheckResult, Report

#: The tag within a test case that tells its status; ``pass`` has none.
TAGS = {"fail": "failure", "error": "error", "missing": "error", "unsupported": "skipped"}
#: The attribute of a suite that counts each tag.
TOTALS = {"failure": "failures", "error": "errors", "skipped": "skipped"}


def render_junit(report: Report) -> str:
    """Return the report as JUnit XML.

    A run that passed nothing and failed nothing gets a test case ``verdict`` in error: readers of JUnit
    take a file without errors for a success.
    """
    root = ET.Element("testsuites", name=plain(f"harness {report.case}"))
    for pair in summary.pairs(report):
        suite = _suite(root, report, name=summary.pair_name(pair))
        for check in report.checks:
            if check.pair == pair:
                _add_check(suite, check, case=report.case)
    if report.outcome != "pass" and not summary.open_checks(report):
        suite = _suite(root, report, name="verdict")
        case = ET.SubElement(suite, "testcase", classname=plain(f"{report.case}.verdict"), name="verdict")
        ET.SubElement(case, "error", message=plain(report.verdict), type=report.outcome)
    for element in (root, *root.findall("testsuite")):
        _add_totals(element)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite(root: ET.Element, report: Report, *, name: str) -> ET.Element:
    suite = ET.SubElement(root, "testsuite", name=plain(name), timestamp=plain(report.created))
    found = {"case": report.case, "checkpoint": report.checkpoint, "dtype": report.dtype}
    found |= {"checkpoint_digest": report.checkpoint_digest, "harness": report.harness}
    for leg in report.legs:
        found |= {f"{leg.name}.{package}": version for package, version in summary.versions(leg).items()}
    properties = ET.SubElement(suite, "properties")
    for key, value in found.items():
        ET.SubElement(properties, "property", name=plain(key), value=plain(value))
    return suite


def _add_check(suite: ET.Element, check: CheckResult, *, case: str) -> None:
    attributes = {"classname": plain(f"{case}.{check.kind}"), "name": plain(check.id)}
    element = ET.SubElement(suite, "testcase", attributes)
    if check.status != "pass":
        message = plain(check.message or summary.comparison(check) or check.status)
        detail = ET.SubElement(element, TAGS[check.status], message=message, type=check.status)
        if check.measured is not None or check.allowed is not None:
            detail.text = plain(summary.comparison(check))


def _add_totals(element: ET.Element) -> None:
    element.set("tests", str(len(element.findall(".//testcase"))))
    for tag, attribute in TOTALS.items():
        element.set(attribute, str(len(element.findall(f".//testcase/{tag}"))))
