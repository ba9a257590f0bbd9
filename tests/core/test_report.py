"""Is a report read in every form that it ever had, is its published schema true, and is what is no report said to be none, with the reason?"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from loadgen.cause import TABLE, UNANSWERED, MadeBy
from loadgen.errors import UsageError
from loadgen.recorder import MOST
from loadgen.report import Report, json_schema
from loadgen.results import read_result

REPOSITORY = Path(__file__).parents[2]
PUBLISHED = REPOSITORY / "docs" / "report-v1.schema.json"
REPORT = REPOSITORY / "tests" / "render" / "data" / "report.json"
ADDED = ("began_s", "ended_s", "toggled_s", "converged_s", "because", "pool", "connections", "bursts")
"""What phases of the first reports lack."""


def document() -> Any:
    return json.loads(REPORT.read_text(encoding="utf-8"))


def older() -> Any:
    """Give a report as it was before phases had their moments and causes, and the environment its processes."""
    report = document()
    for phase in report["phases"]:
        for name in ADDED:
            del phase[name]
        for part in (phase, *phase["clients"]):
            for name in ("causes", "connections", "bursts"):
                part.pop(name, None)
    del report["environment"]["processes"]
    return report


def newer() -> Any:
    """Give a report of the same version with fields that are not known here."""
    report = document()
    report["cost"] = {"cents": 3}
    report["phases"][0]["clients"][0]["ledger"]["more"] = None
    report["phases"][0]["causes"] = [{"cause": "of a newer version", "made_by": "nobody", "requests": 3, "more": 1}]
    return report


def without(report: Any, *path: str | int) -> Any:
    """Take one field out of a report."""
    part = report
    for step in path[:-1]:
        part = part[step]
    del part[path[-1]]
    return report


def test_the_published_schema_is_that_of_the_model() -> None:
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == json_schema(), "run make schema"


def test_the_published_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("report", [document(), older(), newer()], ids=["of today", "older", "newer"])
def test_reports_of_this_version_fit_the_schema_and_are_read(report: Any) -> None:
    jsonschema.validate(report, json.loads(PUBLISHED.read_text(encoding="utf-8")))
    assert Report.of_json(json.dumps(report)).verdict.sentence == report["verdict"]["sentence"]


@pytest.mark.parametrize(
    "path", [("schema",), ("verdict", "state"), ("phases", 0, "outcomes"), ("phases", 1, "clients", 0, "ledger", "client")], ids=str
)
def test_a_report_that_lacks_what_every_report_has_fits_neither_the_schema_nor_the_reader(path: tuple[str | int, ...]) -> None:
    report = without(document(), *path)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report, json_schema())
    with pytest.raises(UsageError):
        Report.of_json(json.dumps(report))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("phases", 0, "requests"), "5"),
        (("phases", 0, "requests"), True),
        (("phases", 0, "requests"), 5.5),
        (("phases", 0, "outcomes", "ok"), True),
        (("phases", 0, "outcomes", "ok"), -1),
        (("phases", 0, "outcomes", "ok"), 10**400),
        (("phases", 1, "ended_s"), 1e12),
        (("duration_s",), "7"),
        (("expectations", 0, "held"), "yes"),
        (("validity", "state"), "valid"),
        (("phases",), [phase for phase in document()["phases"] for _ in range(7)]),
        (("phases", 0, "clients"), document()["phases"][0]["clients"][:1] * 201),
    ],
)
def test_what_the_schema_refuses_is_not_made_to_fit(path: tuple[str | int, ...], value: object) -> None:
    report = part = document()
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report, json_schema())
    with pytest.raises(UsageError, match="the report is damaged"):
        Report.of_json(json.dumps(report))


def test_the_largest_run_that_a_scenario_can_have_is_read() -> None:
    report = document()
    report["phases"] = [{**report["phases"][1], "name": f"phase-{number}"} for number in range(20)]
    report["phases"][0]["clients"] = [{**report["phases"][1]["clients"][0], "name": f"client-{number}"} for number in range(200)]
    jsonschema.validate(report, json_schema())
    assert len(Report.of_json(json.dumps(report)).phases[0].clients) == 200


def test_whole_seconds_are_seconds() -> None:
    assert Report.of_json(json.dumps({**document(), "duration_s": 7})).duration_s == 7


def test_a_report_is_the_same_after_it_was_written_and_read() -> None:
    text = REPORT.read_text(encoding="utf-8")
    assert Report.of_json(text).to_json() == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is no JSON, or it is cut off"),
        (REPORT.read_text(encoding="utf-8")[:-100], "it is no JSON, or it is cut off"),
        ("[" * 100_000, "it is no JSON, or it is cut off"),
        ("[]", "it does not say its schema"),
        ("{}", "it does not say its schema"),
        ('{"schema": "loadgen.hit/v1"}', "its schema is loadgen.hit/v1, not loadgen.report/v1"),
        ('{"schema": 7}', "its schema is 7, not loadgen.report/v1"),
        ('{"schema": "loadgen.report/v2"}', r"the report is of version loadgen.report/v2; this loadgen knows loadgen.report/v1 only"),
        (
            '{"schema": "loadgen.report/v2", "environment": {"loadgen": "9.1\\u001b[31m"}}',
            r"of version loadgen.report/v2, written by loadgen 9.1\\x1b\[31m; this",
        ),
        (json.dumps(without(document(), "phases", 1, "name")), r"the report is damaged: phases.1.name: Field required"),
        (json.dumps({**document(), "duration_s": float("nan")}), r"the report is damaged: duration_s: "),
        (json.dumps({**document(), "started_at": "\ud800"}), r"the report is damaged: Invalid JSON: "),
    ],
)
def test_what_cannot_be_read_is_said_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        Report.of_json(text)
    assert caught.value.hint


def test_a_result_is_read_by_its_file_or_its_folder_with_the_series_beside_it() -> None:
    for path in (REPORT, REPORT.parent):
        saved = read_result(path)
        assert saved.path == REPORT
        assert saved.series is not None
        assert sum(row.count for row in saved.series.rows if row.phase) == sum(phase.requests for phase in saved.report.phases)


def test_a_report_alone_is_a_result_without_a_series(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(REPORT.read_bytes())
    assert read_result(tmp_path).series is None


def test_a_damaged_series_beside_a_report_is_named(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(REPORT.read_bytes())
    data = bytearray(REPORT.with_name("series.json.gz").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "series.json.gz").write_bytes(data)
    with pytest.raises(UsageError, match=r"series\.json\.gz: this is no series of loadgen's, or it is damaged"):
        read_result(tmp_path)


def test_a_series_of_another_run_beside_a_report_is_refused_with_what_to_do(tmp_path: Path) -> None:
    report = document()
    report["phases"][1]["outcomes"]["ok"] += 1
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "series.json.gz").write_bytes(REPORT.with_name("series.json.gz").read_bytes())
    with pytest.raises(UsageError, match=r"series\.json\.gz is of another run than report\.json: .* of phase limited$") as caught:
        read_result(tmp_path)
    assert "a folder of its own" in caught.value.hint


def test_a_file_behind_a_folder_that_nobody_may_enter_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(UsageError, match=r"secret cannot be read: Permission denied$"):
        read_result(tmp_path / "secret")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("x" * 300, "File name too long"),
        ("nowhere", "No such file"),
        ("folder", "No such file"),
        ("null\0byte", "cannot be read"),
        ("pipe", "no regular file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match=why):
        read_result(tmp_path / name)


def test_a_report_has_room_for_all_causes_at_once() -> None:
    either = [MadeBy.OWN_SIDECAR, MadeBy.SERVER_SIDE]
    possible = {(row.cause, made_by) for row in TABLE for made_by in ([row.made_by] if row.made_by else either)}
    report = document()
    report["phases"][0]["causes"] = [{"cause": cause, "made_by": made_by, "requests": MOST} for cause, made_by in possible]
    report["phases"][0]["causes"] += [{"cause": cause, "made_by": "unknown", "requests": 1} for cause in UNANSWERED.values()]
    assert Report.of_json(json.dumps(report)).phases[0].causes
