"""Does ``loadgen report`` render a saved result as it was asked to, and say clearly what it cannot read?"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loadgen.cli.report import add_to_job_summary
from loadgen.render.formats import FORMATS
from loadgen.series import MAX_BYTES
from tests.render.results import DATA, real
from tests.story.command import SCENARIOS, Loadgen

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def loadgen(tmp_path: Path) -> Loadgen:
    return Loadgen(tmp_path)


def test_the_console_is_what_one_gets_without_asking(loadgen: Loadgen) -> None:
    ended = loadgen.run("report", DATA)
    assert (ended.code, ended.stderr) == (0, "")
    assert real().report.verdict.sentence in ended.stdout
    assert "Clients in phase limited" in ended.stdout


def test_the_console_says_what_it_can_where_the_terminal_lacks_a_character(loadgen: Loadgen) -> None:
    report = json.loads((DATA / "report.json").read_text(encoding="utf-8"))
    report["phases"][0]["latency_s"]["ok"]["p50"] = 0.0004
    report["verdict"]["sentence"] = "Enforced: 5 \N{GREATER-THAN OR EQUAL TO} 1"
    (loadgen.folder / "report.json").write_text(json.dumps(report))
    loadgen.environment.update(PYTHONIOENCODING="ascii", LC_ALL="C")
    ended = loadgen.run("report", loadgen.folder)
    assert (ended.code, ended.stderr) == (0, "")
    assert " 400 us " in ended.stdout
    assert "Enforced: 5 ? 1" in ended.stdout


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "console"])
def test_one_format_goes_to_stdout_as_it_is_whatever_the_locale(loadgen: Loadgen, name: str) -> None:
    loadgen.environment.update(PYTHONIOENCODING="ascii", LC_ALL="C")
    ended = loadgen.run("report", DATA / "report.json", "--format", name)
    assert (ended.code, ended.stderr) == (0, "")
    saved = real()
    assert ended.stdout == FORMATS[name].render(saved.report, saved.series)


def test_several_formats_go_to_a_folder(loadgen: Loadgen) -> None:
    ended = loadgen.run("report", DATA, "--format", ",".join(FORMATS), "--out", loadgen.folder / "new" / "out")
    assert (ended.code, ended.stdout) == (0, "")
    saved = real()
    for each in FORMATS.values():
        text = (loadgen.folder / "new" / "out" / each.file).read_text(encoding="utf-8")
        assert text == each.render(saved.report, saved.series)
        assert each.file in ended.stderr


def test_several_formats_do_not_fit_on_stdout(loadgen: Loadgen) -> None:
    ended = loadgen.run("report", DATA, "--format", "junit,csv")
    assert (ended.code, ended.stdout) == (2, "")
    assert "name a folder for their files with --out" in ended.stderr


def test_the_report_itself_is_never_replaced(loadgen: Loadgen) -> None:
    shutil.copytree(DATA, loadgen.results)
    before = (loadgen.results / "report.json").read_bytes()
    ended = loadgen.run("report", loadgen.results, "--format", "json", "--out", loadgen.results)
    assert (ended.code, (loadgen.results / "report.json").read_bytes()) == (2, before)
    assert "is the report itself" in ended.stderr


def newer(report: Any) -> None:
    report["schema"] = "loadgen.report/v2"


def damaged(report: Any) -> None:
    del report["phases"][0]["outcomes"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (newer, "the report is of version loadgen.report/v2, written by loadgen 0.1.0; this loadgen knows loadgen.report/v1 only"),
        (damaged, "the report is damaged: phases.0.outcomes: Field required"),
    ],
)
def test_a_report_that_cannot_be_rendered_says_why(loadgen: Loadgen, change: Callable[[Any], None], why: str) -> None:
    report = json.loads((DATA / "report.json").read_text(encoding="utf-8"))
    change(report)
    (loadgen.folder / "report.json").write_text(json.dumps(report))
    ended = loadgen.run("report", loadgen.folder, "--format", "html")
    assert (ended.code, ended.stdout) == (2, "")
    assert why in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", ["nowhere.json", "."])
def test_a_file_that_is_not_there_is_named(loadgen: Loadgen, name: str) -> None:
    ended = loadgen.run("report", loadgen.folder / name)
    assert (ended.code, ended.stdout) == (2, "")
    assert "cannot be read: No such file or directory" in ended.stderr


@pytest.mark.parametrize(("name", "code"), [("report", 2), ("--out", 3)])
def test_a_path_that_no_file_can_have_is_named(loadgen: Loadgen, name: str, code: int) -> None:
    path = loadgen.folder / ("x" * 300)
    ended = loadgen.run("report", *([DATA, "--format", "json", "--out", path] if name == "--out" else [path]))
    assert (ended.code, ended.stdout) == (code, "")
    assert "File name too long" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_report_that_does_not_fit_on_the_disk_is_no_bug(loadgen: Loadgen) -> None:
    full = ("-c", "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); from loadgen.cli import main; main()")
    for name in ("console", "html"):
        ended = loadgen.run("report", DATA, "--format", name, program=full)
        assert (ended.code, "Traceback" in ended.stderr) == (3, False)
        assert "the report cannot be printed: No space left on device" in ended.stderr


def test_a_series_that_is_too_large_is_left_out_and_that_is_said(loadgen: Loadgen) -> None:
    shutil.copy(DATA / "report.json", loadgen.folder)
    (loadgen.folder / "series.json.gz").write_bytes(gzip.compress(bytes(MAX_BYTES + 1), 1))
    ended = loadgen.run("report", loadgen.folder, "--format", "html")
    assert ended.code == 0
    assert "without the time series: " in ended.stderr
    assert "the series unpacks to more than 268,435,456 bytes" in ended.stderr
    assert "There was no time series beside the report" in ended.stdout


@pytest.mark.envoy
def test_a_run_whose_verdict_is_printed_on_an_old_terminal_keeps_its_exit_code_and_its_files(loadgen: Loadgen) -> None:
    loadgen.environment.update(PYTHONIOENCODING="ascii", LC_ALL="C")
    shown = loadgen.run_scenario(SCENARIOS / "connection-pool.yaml", "--duration", "1s", "--clients", "1", "--format", "html")
    assert shown.code in {0, 4}, shown.stdout + shown.stderr
    assert "Report: " in shown.stdout
    assert (loadgen.results / "report.html").exists()


def test_an_unknown_format_is_bad_usage(loadgen: Loadgen) -> None:
    ended = loadgen.run("report", DATA, "--format", "pdf")
    assert ended.code == 2
    assert "there is no format 'pdf'; there are console, html" in ended.stderr


def test_a_report_of_the_csv_without_its_series_says_what_is_missing(loadgen: Loadgen) -> None:
    shutil.copy(DATA / "report.json", loadgen.folder)
    ended = loadgen.run("report", loadgen.folder, "--format", "csv")
    assert (ended.code, ended.stdout) == (2, "")
    assert "there is no time series beside the report" in ended.stderr


def test_a_reader_who_has_seen_enough_is_no_error(loadgen: Loadgen) -> None:
    command = f"{sys.executable} -m loadgen report {DATA} --format csv | head -1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("second,phase,")


@pytest.mark.envoy
def test_a_run_writes_the_formats_beside_its_report_and_adds_to_the_jobs_summary(loadgen: Loadgen) -> None:
    summary = loadgen.folder / "summary.md"
    summary.write_text("before\n")
    loadgen.environment["GITHUB_STEP_SUMMARY"] = str(summary)
    formats = "html,junit,markdown,openmetrics,csv,json,console"
    ended = loadgen.run_scenario(SCENARIOS / "connection-pool.yaml", "--duration", "1s", "--clients", "2", "--format", formats)
    assert ended.code in {0, 4}, ended.stdout + ended.stderr
    files = {each.name for each in loadgen.results.iterdir()}
    assert files == {"series.json.gz", *(each.file for each in FORMATS.values())}
    for name in ("html", "junit", "markdown", "openmetrics", "csv", "json"):
        rendered = loadgen.run("report", loadgen.results, "--format", name).stdout
        assert rendered == (loadgen.results / FORMATS[name].file).read_text(encoding="utf-8"), name
    assert summary.read_text(encoding="utf-8") == "before\n" + (loadgen.results / "report.md").read_text(encoding="utf-8")


def test_a_summary_that_is_no_regular_file_is_said_and_never_waited_for(
    loadgen: Loadgen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = loadgen.folder / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pipe))
    add_to_job_summary(real().report)
    assert capsys.readouterr().err == f"loadgen: the job summary {pipe} cannot be written: No such device or address\n"
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    add_to_job_summary(real().report)
    assert capsys.readouterr().err == f"loadgen: the job summary {pipe} cannot be written: it is no regular file\n"
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize("name", ["console", "html"])
def test_a_stdout_that_is_closed_takes_the_report_and_says_nothing(loadgen: Loadgen, name: str) -> None:
    closed = ("-c", "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, '-m', 'loadgen', *sys.argv[1:]])")
    ended = loadgen.run("report", DATA, "--format", name, program=closed)
    assert (ended.code, ended.stderr) == (0, "")


@pytest.mark.envoy
def test_a_summary_that_cannot_be_written_is_said_and_spoils_nothing(loadgen: Loadgen) -> None:
    loadgen.environment["GITHUB_STEP_SUMMARY"] = str(loadgen.folder / "nowhere" / "summary.md")
    ended = loadgen.run_scenario(SCENARIOS / "connection-pool.yaml", "--duration", "1s", "--clients", "1")
    assert ended.code in {0, 4}, ended.stdout + ended.stderr
    assert "the job summary" in ended.stderr
    assert "Report: " in ended.stdout
