"""Does every format show what the report says, whole, and is all text from outside nothing but text in it?"""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from loadgen.errors import Problem, UsageError
from loadgen.render import console, document, junit, markdown, openmetrics, page, spreadsheet
from loadgen.render.columns import BURSTS, FAILURES
from loadgen.render.formats import FORMATS, formats_of
from loadgen.render.markdown import escaped
from loadgen.render.openmetrics import Figures
from loadgen.series import Series
from tests.cluster.controlplane import machine
from tests.render.results import DATA, HOSTILE, changed, hostile, real

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from loadgen.report import Report

REAL = real()


def fail_all(report: Any) -> None:
    for expectation in report["expectations"]:
        expectation["held"] = False


def families_of(text: str) -> dict[str, Metric]:
    """Read OpenMetrics with the library's own parser, which takes nothing that is not as it should be."""
    return {each.name: each for each in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]  # it has no types


def cases(report: Report) -> list[ET.Element]:
    return list(ET.fromstring(junit.render(report, None)).iter("testcase"))


def test_each_expectation_is_a_test_case_and_so_are_validity_and_restore() -> None:
    names = [case.get("name") for case in cases(REAL.report)]
    assert names == [
        *(each.wanted for each in REAL.report.expectations),
        "the figures can be trusted",
        "the mesh is as it was found",
    ]
    assert [case for case in cases(REAL.report) if case.find("failure") is not None or case.find("error") is not None] == []


def test_an_expectation_that_failed_is_a_failure_with_wanted_and_got() -> None:
    root = ET.fromstring(junit.render(changed(fail_all), None))
    failures = [case.find("failure") for case in root.iter("testcase")]
    assert [each.get("message") for each in failures if each is not None] == [
        f"wanted {each.wanted}, got {each.got}" for each in REAL.report.expectations
    ]
    assert [(each.get("tests"), each.get("failures"), each.get("errors")) for each in [root, root[0]]] == [("8", "6", "0")] * 2


def test_an_invalid_run_and_a_failed_restore_are_errors_with_their_reasons() -> None:
    def change(report: Any) -> None:
        report["validity"] = {"state": "INVALID", "reasons": ["the hammer was late", "a part died"]}
        report["restore"] = {"state": "failed", "detail": "client-1 did not confirm"}

    errors = [case.find("error") for case in cases(changed(change))]
    assert [(each.get("message"), each.text) for each in errors if each is not None] == [
        ("INVALID: the hammer was late", "the hammer was late\na part died"),
        ("restore failed: client-1 did not confirm", "client-1 did not confirm"),
    ]


def test_hostile_text_stays_text_in_xml() -> None:
    root = ET.fromstring(junit.render(hostile(), None))
    assert {each.tag for each in root.iter()} <= {
        *("testsuites", "testsuite", "properties", "property", "testcase", "failure", "error", "system-out")
    }
    assert "\\x1b[31m\\x00\\u202e\\ud800\\n@octocat" in (root[0].findtext("system-out") or "")


def test_markdown_says_the_verdict_first_and_all_figures_of_the_console() -> None:
    text = markdown.render(REAL.report, None)
    assert text.startswith(f"## ✅ Enforced: connection-pool\n\n{REAL.report.verdict.sentence}\n")
    for phase in REAL.report.phases:
        assert f"| {phase.name} | {phase.policy} | {phase.requests:,} | " in text
        for client in phase.clients:
            assert f"| {client.name} | {client.requests:,} |" in text
    assert text.count("✅ held") == len(REAL.report.expectations)
    assert markdown.render(changed(fail_all), None).count("❌ **failed**") == len(REAL.report.expectations)


def fail_for(*causes: tuple[str, str, int]) -> Report:
    def change(report: Any) -> None:
        report["phases"][1]["causes"] = [{"cause": cause, "made_by": made_by, "requests": count} for cause, made_by, count in causes]

    return changed(change)


def shown(report: Report) -> dict[str, str]:
    return {each.__name__: each.render(report, None) for each in (console, markdown, page)}


def test_failures_are_shown_with_their_cause_and_who_said_so() -> None:
    name = REAL.report.phases[1].name
    for form, text in shown(fail_for(("no_cluster", "own_sidecar", 1234), ("of_a_newer_version", "nobody", 5))).items():
        plain = re.sub(r"<[^>]+>|[|]", " ", text.replace("\\", ""))
        assert re.search(rf"{name} +1,234 +no_cluster +own sidecar +the sidecar has no such cluster", plain), form
        assert re.search(rf"{name} +5 +of_a_newer_version +nobody\s", plain), form


def test_where_nothing_failed_nothing_is_said_of_failures() -> None:
    for form, text in shown(REAL.report).items():
        assert FAILURES not in text.replace("&#x27;", "'"), form


def test_more_causes_than_a_person_reads_stand_in_one_line() -> None:
    for form, text in shown(fail_for(*((f"cause{number}", "unknown", 100 - number) for number in range(12)))).items():
        plain = re.sub(r"<[^>]+>|[|]", " ", text.replace("\\", ""))
        assert [f"cause{number} " in plain for number in range(12)] == [True] * 8 + [False] * 4, form
        assert re.search(rf" {92 + 91 + 90 + 89} +others +4 more causes are in report.json", plain), form


def burst(count: int, least: int, most: int) -> dict[str, Any]:
    return {
        "count": count,
        "least": least,
        "most": most,
        "untold": 7,
        "cut": 13,
        "seen": {"count": count - 1, "least": least, "most": most + 1},
    }


def with_bursts(report: Any) -> None:
    phase = report["phases"][1]
    phase["bursts"] = burst(2345, 4, 6)
    for number, client in enumerate(phase["clients"]):
        client["bursts"] = burst(700 + number, 5, 5) if number else None


def test_bursts_are_shown_as_the_clients_and_as_the_service_saw_them() -> None:
    for form, text in shown(changed(with_bursts)).items():
        plain = re.sub(r"<[^>]+>|[|]", " ", text.replace("\\", ""))
        assert re.search(r"limited +2,345 +4 to 6 +7 +2,344 +4 to 7 +13\s", plain), form
        assert BURSTS in re.sub(r"\s+", " ", html.unescape(text)), form
    cells = re.findall(r">client-\d</th>(.*?)</tr>", page.render(changed(with_bursts), None))
    assert [re.findall(r"<td>([^<]*)</td>", row)[-3:] for row in cells[3:6]] == [["-"] * 3, ["701", "5", "5 to 6"], ["702", "5", "5 to 6"]]


def test_what_failed_between_the_phases_is_said() -> None:
    def change(report: Any) -> None:
        report["between_phases"] = {"ok": 420, "overflow": 5, "timeout": 1061}

    for form, text in shown(changed(change)).items():
        plain = re.sub(r"<[^>]+>|[|*]", "", html.unescape(text).replace("\\", ""))
        assert "between the phases: 1,061 of 1,486 requests failed (timeout 1,061); they count in no phase." in re.sub(
            r"\s+", " ", plain
        ), form
    for form, text in shown(REAL.report).items():
        assert "between the phases" not in text, form


def test_where_there_were_no_bursts_nothing_is_said_of_them() -> None:
    for form, text in shown(REAL.report).items():
        assert "burst" not in text.lower(), form


def with_pool(pool: str, connections: tuple[int, ...] = (0, 3, 5), **effective: int) -> Report:
    def change(report: Any) -> None:
        phase = report["phases"][1]
        phase.update(pool=pool, because="none of 7 requests was rejected")
        for client, count in zip(phase["clients"], connections, strict=True):
            client["connections"] = count
            client["effective"].update({"max_requests_per_connection": 0, "max_pending_requests": 1, **effective})

    return changed(change)


@pytest.mark.parametrize(
    ("report", "wanted"),
    [
        (with_pool("mixed"), "The pool of connections was mixed when the phase began to count: 0 to 5 open in each sidecar."),
        (with_pool("warm", (2, 2, 2)), "The pool of connections was warm when the phase began to count: 2 open in each sidecar."),
        (with_pool("cold", max_requests_per_connection=1), "always cold: maxRequestsPerConnection is 1"),
        (with_pool("warm", max_pending_requests=2**32 - 1), ""),
        (with_pool(""), ""),
    ],
    ids=["mixed", "warm", "never warm", "no limit that minds", "not known"],
)
def test_how_warm_the_pool_was_is_said_where_what_waits_for_a_connection_is_limited(report: Report, wanted: str) -> None:
    for form, text in shown(report).items():
        plain = re.sub(r"<[^>]+>", "", html.unescape(text))
        assert ("The pool of connections" in plain) is bool(wanted), form
        assert wanted in plain, form


@pytest.mark.parametrize("name", ["console", "markdown", "html"])
def test_a_prediction_stands_beside_the_measurement_and_says_whether_they_part(name: str) -> None:
    def part(report: Any) -> None:
        found = report["phases"][1]["prediction"]
        found["loss"]["measured"], found["parts"], found["sentence"] = 0.5, True, "Parts from the prediction: 50.0% lost."

    def without(report: Any) -> None:
        report["phases"][1]["prediction"] = None

    def shown(report: Report) -> str:
        return re.sub(r"<[^>]*>|[|\s]+", " ", FORMATS[name].render(report, None))

    assert re.search(r"limited +lost +72.8% +69.5% to 76.6% +73.3% +yes", shown(REAL.report))
    assert "limited: As predicted: 73.3% lost, 69.5% to 76.6% predicted" in shown(REAL.report)
    assert re.search(r"limited +lost +72.8% +69.5% to 76.6% +50.0% +NO", shown(changed(part)))
    assert "limited: Parts from the prediction: 50.0% lost." in shown(changed(part))
    assert "Prediction beside" not in shown(changed(without))


def test_what_is_worse_than_a_verdict_comes_before_it() -> None:
    failed = markdown.render(changed(fail_all), None)
    assert failed.startswith("## ❌ Expectations failed (enforced): connection-pool\n")
    assert "❌ **6 of 6 expectations failed**" in failed
    invalid = markdown.render(changed(lambda report: report.update(validity={"state": "INVALID", "reasons": ["it was late"]})), None)
    assert invalid.startswith("## ❌ INVALID (enforced): connection-pool\n")
    assert "❌ **INVALID: it was late**" in invalid
    assert "**VALID**" not in invalid
    lost = markdown.render(changed(lambda report: report.update(restore={"state": "failed", "detail": "one is left"})), None)
    assert lost.startswith("## ❌ Restore failed (enforced): connection-pool\n")
    assert "❌ **RESTORE FAILED: one is left**" in lost


def test_hostile_text_makes_no_html_no_link_and_no_column_in_markdown() -> None:
    text = markdown.render(hostile(), None)
    assert "<script" not in text
    assert "<img" not in text
    assert "\x1b" not in text
    assert "http://b" not in text, "would become a link"
    assert " @octocat" not in text
    tables = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {5, 14, 9, 6, 7, 12}, "expectations, phases, ledger, failures, predictions, clients"


@given(st.text())
def test_what_is_escaped_is_one_line_without_tags_and_cells(text: str) -> None:
    shown = escaped(text).replace("<!-- -->", "")
    assert not set(shown) & set("<>\n\r\x00")
    assert shown.replace("\\\\", "").replace("\\|", "").count("|") == 0
    escaped(text).encode()


def test_a_summary_that_is_too_long_leaves_out_whole_parts_and_says_so() -> None:
    def change(report: Any) -> None:
        client = report["phases"][1]["clients"][0]
        report["phases"][1]["clients"] = [{**client, "name": f"client-{number}-{'x' * 5_000}"} for number in range(200)]

    text = markdown.render(changed(change), None)
    assert len(text.encode()) <= markdown.MAX_BYTES
    assert "too long to be shown" in text
    assert "Clients in phase recovered" in text
    assert "client-199" not in text


def test_a_summary_without_room_for_anything_is_empty() -> None:
    for room in (-5, 0, 20):
        assert markdown.summary(REAL.report, room) == ""
    for room in range(60, 3000, 97):
        assert len(markdown.summary(REAL.report, room).encode()) <= room


WARNING = Problem("a.yaml", 7, 3, "the host is misspelt", "did you mean user?", excerpt="  host: usr <b>", width=4)


def test_a_warning_keeps_its_lines_its_excerpt_and_its_carets_in_every_format() -> None:
    report = REAL.report.model_copy(update={"findings": [str(WARNING)]})
    lines = str(WARNING).split("\n")
    assert len(lines) == 4
    for name in ("html", "markdown", "junit"):
        assert "\\n" not in FORMATS[name].render(report, None).partition("Warnings")[2], name
    said = ET.fromstring(junit.render(report, None))[0].findtext("system-out") or ""
    assert said.endswith("\n".join(lines))
    shown = markdown.render(report, None)
    assert f"- {escaped(lines[0])}\n\n  <pre>\n" + "\n".join(f"  {html.escape(line)}" for line in lines[1:]) + "\n  </pre>\n" in shown
    spans = "".join(f"<span>{html.escape(line)}</span>" for line in lines[1:])
    assert f"<li>{html.escape(lines[0])}<pre>{spans}</pre></li>" in page.render(report, None)


def test_openmetrics_parses_and_has_the_counts_of_the_report() -> None:
    families = families_of(openmetrics.render(REAL.report, REAL.series))
    counts = {(each.labels["phase"], each.labels["outcome"]): each.value for each in families["loadgen_requests"].samples}
    assert counts == {(phase.name, outcome): count for phase in REAL.report.phases for outcome, count in phase.outcomes.items()}
    durations = families["loadgen_request_duration_seconds"].samples
    whole = {
        (each.labels["phase"], each.labels["outcome"]): each.value
        for each in durations
        if each.name == "loadgen_request_duration_seconds_count"
    }
    assert whole == {labels: count for labels, count in counts.items() if labels[1] != "unsent"}, "what was not sent has no latency"
    quantiles = {
        (each.labels["phase"], each.labels["outcome"]): each.value
        for each in families["loadgen_request_latency_seconds"].samples
        if each.labels.get("quantile") == "0.99"
    }
    assert quantiles == {(phase.name, outcome): each.p99 for phase in REAL.report.phases for outcome, each in phase.latency_s.items()}
    assert [each.value for each in families["loadgen_run_verdict"].samples if each.labels["state"] == "enforced"] == [1]


def test_openmetrics_parses_with_hostile_labels_and_without_a_series() -> None:
    families = families_of(openmetrics.render(hostile(), None))
    assert "loadgen_request_duration_seconds" not in families
    assert families["loadgen_run_info"].samples[0].labels["scenario"].startswith("</script>")


def test_promtool_has_nothing_to_say_about_names_units_and_types() -> None:
    machine.install_missing(machine.METRICS_TOOLS)
    if shutil.which("promtool") is None:
        pytest.skip("no promtool: apt install prometheus")
    registry = CollectorRegistry()
    registry.register(Figures(REAL.report, REAL.series))
    ended = subprocess.run(["promtool", "check", "metrics"], input=generate_latest(registry), capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_csv_has_every_row_of_the_series() -> None:
    assert REAL.series is not None
    header, *rows = csv.reader(io.StringIO(spreadsheet.render(REAL.report, REAL.series)))
    assert tuple(header) == spreadsheet.HEADER
    assert [(int(row[0]), row[1], row[2], row[3], int(row[4])) for row in rows] == [
        (row.second, row.phase, row.client, row.outcome, row.count) for row in REAL.series.rows
    ]
    assert [float(row[6]) for row in rows] == pytest.approx([row.p99_s for row in REAL.series.rows], rel=1e-5)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", HOSTILE])
def test_no_cell_of_csv_is_a_formula(text: str) -> None:
    assert REAL.series is not None
    row = dataclasses.replace(REAL.series.rows[0], phase=text, client=text)
    _, cells = csv.reader(io.StringIO(spreadsheet.render(REAL.report, Series([row], [], {}))))
    for cell in cells[1:3]:
        assert not cell.lstrip().startswith(("=", "+", "-", "@"))
        assert cell.isprintable()


def test_csv_without_a_series_says_what_is_missing() -> None:
    with pytest.raises(UsageError, match="there is no time series beside the report"):
        spreadsheet.render(REAL.report, None)


def test_the_console_shows_hostile_text_as_text() -> None:
    text = console.render(hostile(), None)
    assert not set(text) & set("\x1b\x00\u202e\ud800")
    assert text.count("*_[a](http://b)") > len(REAL.report.expectations)


def test_the_console_again_has_all_tables_and_no_colours() -> None:
    text = console.render(REAL.report, None)
    assert "Clients in phase limited" in text
    assert REAL.report.verdict.sentence in text
    assert "\x1b" not in text


def test_json_is_the_report() -> None:
    assert document.render(REAL.report, None) == (DATA / "report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_of_the_report_alone_and_the_same_every_time(name: str) -> None:
    again = real()
    assert FORMATS[name].render(REAL.report, REAL.series) == FORMATS[name].render(again.report, again.series)


def test_a_format_that_is_named_twice_is_written_once() -> None:
    assert [each.name for each in formats_of(["csv", "junit", "csv"])] == ["csv", "junit"]


def test_an_unknown_format_is_said_to_be_unknown() -> None:
    with pytest.raises(UsageError, match="there is no format 'pdf'") as caught:
        formats_of(["pdf"])
    assert "junit" in caught.value.hint
