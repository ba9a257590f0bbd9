"""What does a CI server read? JUnit XML: each expectation is a test case, and so are the run's validity and the restore of what was there."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from loadgen.errors import printable, printable_lines

if TYPE_CHECKING:
    from loadgen.report import ExpectationPart, Report
    from loadgen.series import Series

SUITE = "loadgen"


def render(report: Report, _series: Series | None) -> str:
    """Write the report as one test suite. Control characters, which XML cannot hold, are written as escapes."""
    name = printable(report.scenario.name)
    cases = [*(_expectation(each, name) for each in report.expectations), _validity(report, name), _restore(report, name)]
    failed = sum(case.find("failure") is not None for case in cases)
    errors = sum(case.find("error") is not None for case in cases)
    counts = {"tests": str(len(cases)), "failures": str(failed), "errors": str(errors), "skipped": "0", "time": f"{report.duration_s:.3f}"}
    root = ET.Element("testsuites", {"name": SUITE, **counts})
    suite = ET.SubElement(root, "testsuite", {"name": f"{SUITE}.{name}", "timestamp": printable(report.started_at), **counts})
    properties = ET.SubElement(suite, "properties")
    for key, value in _properties(report).items():
        ET.SubElement(properties, "property", {"name": key, "value": printable(value)})
    suite.extend(cases)
    said = [*map(printable, (report.verdict.sentence, *report.validity.reasons))]
    said += [line for finding in report.findings for line in printable_lines(finding)]
    ET.SubElement(suite, "system-out").text = "\n".join(said)
    ET.indent(root, " ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _properties(report: Report) -> dict[str, str]:
    return {
        "verdict": report.verdict.state,
        "validity": report.validity.state,
        "mesh": report.mesh,
        "loadgen": report.environment.loadgen,
        "envoy": report.environment.envoy,
        "platform": report.environment.platform,
    }


def _case(suite: str, group: str, name: str) -> ET.Element:
    return ET.Element("testcase", {"classname": f"{SUITE}.{suite}.{printable(group)}", "name": printable(name), "time": "0"})


def _expectation(expectation: ExpectationPart, suite: str) -> ET.Element:
    case = _case(suite, expectation.phase, expectation.wanted)
    wanted, got = printable(expectation.wanted), printable(expectation.got)
    if expectation.held:
        ET.SubElement(case, "system-out").text = f"wanted {wanted}, got {got}"
    else:
        failure = ET.SubElement(case, "failure", {"message": f"wanted {wanted}, got {got}", "type": "expectation"})
        failure.text = f"phase:  {printable(expectation.phase)}\nmetric: {printable(expectation.metric)}\nwanted: {wanted}\ngot:    {got}"
    return case


def _validity(report: Report, suite: str) -> ET.Element:
    case = _case(suite, "run", "the figures can be trusted")
    if report.validity.state == "INVALID":
        reasons = [printable(reason) for reason in report.validity.reasons]
        error = ET.SubElement(case, "error", {"message": f"INVALID: {reasons[0] if reasons else 'no reason is given'}", "type": "validity"})
        error.text = "\n".join(reasons)
    return case


def _restore(report: Report, suite: str) -> ET.Element:
    case = _case(suite, "run", "the mesh is as it was found")
    detail = printable(report.restore.detail)
    if report.restore.state == "failed":
        ET.SubElement(case, "error", {"message": f"restore failed: {detail}", "type": "restore"}).text = detail
    elif detail:
        ET.SubElement(case, "system-out").text = detail
    return case
