"""``loadgen compare`` as a command: what it reads, what it refuses, what it prints, and how it ends."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from loadgen.results import REPORT_FILE, SERIES_FILE
from tests.core.test_comparison import TEMPLATE, run, together
from tests.story.command import Loadgen, finish

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.report import Report
    from tests.core.test_comparison import Saved


@pytest.fixture
def loadgen(tmp_path: Path) -> Loadgen:
    return Loadgen(tmp_path)


def save(folder: Path, saved: Saved, **changes: object) -> Path:
    """Save a made-up run as a run saves itself."""
    folder.mkdir()
    valid = TEMPLATE.validity.model_copy(update={"state": "VALID", "reasons": []})
    report: Report = saved.report.model_copy(update={"validity": valid, **changes})
    (folder / REPORT_FILE).write_text(report.to_json())
    if saved.series is not None:
        (folder / SERIES_FILE).write_bytes(saved.series.to_bytes())
    return folder


def test_two_runs_that_are_alike_end_with_0_and_show_every_figure_with_its_interval(loadgen: Loadgen, tmp_path: Path) -> None:
    ended = loadgen.run("compare", save(tmp_path / "a", run(1)), save(tmp_path / "b", run(2)) / REPORT_FILE)
    assert ended.code == 0, ended.stderr
    assert "No regression beyond 5%." in ended.stdout
    rows = [line.split() for line in ended.stdout.splitlines() if line.startswith(" limited")]
    assert [row[2] for row in rows] == ["share", "rate", "p50", "p99"]
    assert all("to" in row for row in rows)


def test_a_slower_run_ends_with_99_and_is_named_with_figure_interval_and_tolerance(loadgen: Loadgen, tmp_path: Path) -> None:
    base, new = save(tmp_path / "a", run(1)), save(tmp_path / "b", run(2, slower=2))
    ended = loadgen.run("compare", base, new, "--tolerance", "10%")
    assert ended.code == 99
    assert "WORSE: p99 of ok in phase limited: " in ended.stdout
    assert "; tolerated: 10%" in ended.stdout
    assert "Regression: 2 of 4 figures are worse." in ended.stdout
    assert loadgen.run("compare", base, new, "--tolerance", "500%").code == 0
    assert loadgen.run("compare", new, base).code == 0


def test_several_runs_of_a_side_are_taken_together_and_json_names_them(loadgen: Loadgen, tmp_path: Path) -> None:
    paths = [save(tmp_path / str(number), run(number)) for number in range(4)]
    ended = loadgen.run("compare", "--base", paths[0], "--base", paths[1], paths[2], paths[3], "--json")
    assert (ended.code, ended.stderr) == (0, "")
    document = json.loads(ended.stdout)
    assert document["schema"] == "loadgen.comparison/v1"
    assert [[each["report"] for each in document[side]] for side in ("base", "new")] == [
        [str(path / REPORT_FILE) for path in paths[:2]],
        [str(path / REPORT_FILE) for path in paths[2:]],
    ]
    assert loadgen.run("compare", "--base", paths[0], "--base", paths[1], paths[2], paths[3], "--json").stdout == ended.stdout


def test_without_a_series_the_points_are_compared_and_it_is_said_that_there_is_no_interval(loadgen: Loadgen, tmp_path: Path) -> None:
    base, new = save(tmp_path / "a", run(1)), save(tmp_path / "b", run(1))
    (base / SERIES_FILE).unlink()
    ended = loadgen.run("compare", base, new)
    assert ended.code == 0
    assert "No interval: there is no series.json.gz beside the reports" in ended.stdout


def test_a_phase_that_is_too_short_for_an_interval_is_said_to_be(loadgen: Loadgen, tmp_path: Path) -> None:
    base, new = (
        save(tmp_path / folder, together(run(seed), run(seed + 2, seconds=3, name="short", slower=slower)))
        for folder, seed, slower in (("a", 1, 1.0), ("b", 2, 1.5))
    )
    ended = loadgen.run("compare", "--tolerance", "60%", base, new)
    assert ended.code == 0
    assert "No interval: 3 of 8 figures are of phases shorter than 4 s" in ended.stdout
    assert "Unclear: " not in ended.stdout


def test_an_interval_without_bounds_is_shown_as_such(loadgen: Loadgen, tmp_path: Path) -> None:
    paths = [save(tmp_path / str(number), run(number, slower=60 if number == 1 else 1, seconds=5)) for number in range(4)]
    ended = loadgen.run("compare", "--base", paths[0], "--base", paths[1], paths[2], paths[3])
    assert (ended.code, ended.stderr) == (0, "")
    assert re.search(r" p50 .* -100.0% to unbounded +unclear", ended.stdout)


def test_a_saved_name_cannot_drive_a_terminal(loadgen: Loadgen, tmp_path: Path) -> None:
    name = "\x1b[2Jlimited"
    invalid = TEMPLATE.validity.model_copy(update={"state": "INVALID", "reasons": ["\x1b[2J"]})
    base, new = save(tmp_path / "a", run(1, name=name)), save(tmp_path / "b", run(2, name=name, slower=2), validity=invalid)
    refused, ended = loadgen.run("compare", base, new), loadgen.run("compare", base, new, "--anyway")
    assert (refused.code, ended.code) == (4, 99)
    assert r"WORSE: p50 of ok in phase \x1b[2Jlimited" in ended.stdout
    assert "\x1b" not in ended.stdout + ended.stderr + refused.stderr


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_reader_who_has_seen_enough_changes_no_exit_code_and_a_full_disk_is_told(
    loadgen: Loadgen, tmp_path: Path, form: list[str]
) -> None:
    base, new = save(tmp_path / "a", run(1)), save(tmp_path / "b", run(2, slower=2))
    for other, code in ((base, 0), (new, 99)):
        process = loadgen.start("compare", base, other, *form)
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None  # there is nothing to wait for
        ended = finish(process)
        assert (ended.code, ended.stderr) == (code, "")
    full = loadgen.run("compare", base, new, *form, program=ON_A_FULL_DISK)
    assert full.code == 3
    assert full.stderr.splitlines() == [
        "loadgen: the comparison cannot be printed: No space left on device",
        "   hint: free some space there",
    ]


ON_A_FULL_DISK = ("-c", "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); from loadgen.cli import main; main()")


def test_runs_that_are_not_alike_are_refused_with_2_unless_they_are_compared_anyway(loadgen: Loadgen, tmp_path: Path) -> None:
    scenario = TEMPLATE.scenario.model_copy(update={"clients": 77})
    base, new = save(tmp_path / "a", run(1)), save(tmp_path / "b", run(2), scenario=scenario)
    ended = loadgen.run("compare", base, new)
    assert (ended.code, ended.stdout) == (2, "")
    assert "the runs are not alike: the new run has another number of clients: 77" in ended.stderr
    anyway = loadgen.run("compare", base, new, "--anyway")
    assert anyway.code == 0
    assert "Compared anyway: the new run has another number of clients: 77" in anyway.stdout


def test_an_invalid_run_is_refused_with_4_unless_it_is_compared_anyway(loadgen: Loadgen, tmp_path: Path) -> None:
    invalid = TEMPLATE.validity.model_copy(update={"state": "INVALID", "reasons": ["the hammer was late"]})
    base, new = save(tmp_path / "a", run(1), validity=invalid), save(tmp_path / "b", run(2))
    ended = loadgen.run("compare", base, new)
    assert (ended.code, ended.stdout) == (4, "")
    assert "the base run is INVALID: the hammer was late" in ended.stderr
    assert loadgen.run("compare", base, new, "--anyway", "--json").code == 0


def test_an_invalid_run_that_is_not_alike_is_refused_with_4_and_both_are_said(loadgen: Loadgen, tmp_path: Path) -> None:
    """It may be unlike because it was cut short, and a pipeline takes 2 for another scenario."""
    invalid = TEMPLATE.validity.model_copy(update={"state": "INVALID", "reasons": ["interrupted"]})
    scenario = TEMPLATE.scenario.model_copy(update={"clients": 77})
    base, new = save(tmp_path / "a", run(1)), save(tmp_path / "b", run(2), validity=invalid, scenario=scenario)
    ended = loadgen.run("compare", base, new)
    assert ended.code == 4
    assert "the new run is INVALID: interrupted; the new run has another number of clients: 77" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "there is nothing to compare with the base"),
        (["a", "nothing"], "cannot be read"),
        (["a", "b", "--tolerance", "5"], "'5' is no percentage; write for example 5%"),
        (["a", "b", "--tolerance", "-5%"], "is no percentage"),
        ([], "Missing argument"),
    ],
)
def test_bad_usage_ends_with_2_and_says_what_to_write(loadgen: Loadgen, tmp_path: Path, arguments: list[str], message: str) -> None:
    for name in ("a", "b"):
        save(tmp_path / name, run(1, seconds=2))
    ended = loadgen.run("compare", *(tmp_path / each if each in {"a", "b", "nothing"} else each for each in arguments))
    assert ended.code == 2
    assert message in ended.stderr
