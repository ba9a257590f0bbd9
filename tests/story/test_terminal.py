"""What a person sees at a terminal, in a pseudo-terminal of its own."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING

import pexpect
import pytest

from tests.story.command import AGAIN_IF_STARVED, PATIENCE_S, REPOSITORY, SCENARIOS, Loadgen

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.envoy, AGAIN_IF_STARVED]
ESCAPE = "\x1b["


def in_terminal(folder: Path, *options: str, columns: int = 100, **environment: str) -> pexpect.spawn[str]:
    arguments = [
        "-m",
        "loadgen",
        "run",
        str(SCENARIOS / "connection-pool.yaml"),
        "--clients",
        "2",
        "--duration",
        "1s",
        "--out",
        str(folder / "out"),
        *options,
    ]
    variables = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}}
    return pexpect.spawn(
        sys.executable,
        arguments,
        cwd=str(REPOSITORY),
        env=variables | {"TERM": "xterm-256color", "TMPDIR": str(folder)} | environment,
        dimensions=(50, columns),
        encoding="utf-8",
        timeout=PATIENCE_S,
    )


def run_in_terminal(folder: Path, *options: str, columns: int = 100, **environment: str) -> tuple[int | None, str]:
    terminal = in_terminal(folder, *options, columns=columns, **environment)
    terminal.expect(pexpect.EOF)
    text = terminal.before or ""
    terminal.close()
    return terminal.exitstatus, text


def plain(text: str) -> str:
    """Take colours and movements of the cursor out of what a terminal got."""
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text)


def test_a_terminal_shows_a_live_picture_colours_and_the_verdict(tmp_path: Path) -> None:
    code, text = run_in_terminal(tmp_path)
    assert code == 0, text
    assert "\x1b[32m" in text
    assert "━" in text
    assert "[2/3] limited" in text
    assert "▒" in text
    assert re.search(r"\d+ in flight, limit 2\b", plain(text))
    assert re.search(r"in flight\S*( limit \d+)?  p99 ok \d", plain(text))
    assert "Kevin" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor is shown again


def test_no_color_takes_the_colours_and_leaves_the_text(tmp_path: Path) -> None:
    code, text = run_in_terminal(tmp_path, NO_COLOR="1")
    assert code == 0, text
    assert "\x1b[32m" not in text
    assert "\x1b[1;32m" not in text
    assert "Enforced: " in text


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    code, text = run_in_terminal(tmp_path, TERM="dumb")
    assert code == 0, text
    assert ESCAPE not in text
    assert "--- limited" in text


def test_quiet_prints_the_verdict_and_where_the_report_lies_and_nothing_else(loadgen: Loadgen) -> None:
    ended = loadgen.run_scenario(SCENARIOS / "connection-pool.yaml", "--clients", "2", "--duration", "1s", "-q")
    assert ended.stderr == ""
    lines = [line for line in ended.stdout.splitlines() if line]
    assert len(lines) == 3, ended.stdout
    assert lines[0].startswith("Enforced: ")
    assert lines[1].startswith("VALID: ")
    assert lines[2] == f"Report: {loadgen.results / 'report.json'}"


@pytest.mark.parametrize("columns", [40, *(pytest.param(each, marks=pytest.mark.thorough) for each in (60, 80, 132))])
def test_no_table_is_wider_than_the_terminal(tmp_path: Path, columns: int) -> None:
    _, text = run_in_terminal(tmp_path, columns=columns, NO_COLOR="1")
    tables = re.sub(r"\x1b\[\d*m", "", text[text.index("Phases") : text.index("held ")])
    assert "…" not in tables
    assert all(len(line.rstrip()) <= columns for line in tables.splitlines())


def test_forty_columns_are_enough_for_the_live_picture(tmp_path: Path) -> None:
    code, text = run_in_terminal(tmp_path, columns=40)
    assert code == 0, text
    live = plain(text[: text.index("Phases")])
    assert "in flight" in live
    assert all(len(part) <= 40 for line in live.split("\n") for part in line.split("\r"))


def test_a_terminal_that_becomes_narrower_during_the_run_gets_lines_that_fit(tmp_path: Path) -> None:
    terminal = in_terminal(tmp_path, columns=120)
    terminal.expect(r"\[2/3\] limited")
    terminal.setwinsize(50, 40)
    terminal.expect(r"\[3/3\] recovered")
    terminal.expect("Phases")
    live = plain(terminal.before or "")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert "in flight" in live
    assert all(len(part) <= 40 for line in live.split("\n") for part in line.split("\r"))


def test_a_log_gets_plain_lines_and_no_escape(loadgen: Loadgen) -> None:
    ended = loadgen.run_scenario(SCENARIOS / "connection-pool.yaml", "--clients", "2", "--duration", "6s")
    assert ended.code == 0, ended.stdout + ended.stderr
    assert ESCAPE not in ended.stdout + ended.stderr
    lines = [line for line in ended.stderr.splitlines() if " in flight" in line]
    assert len(lines) == 3, ended.stderr
    assert "waiting" not in ended.stderr  # no transition took so long
    assert re.search(r"limited 5 of 6 s  .*/s  ok .*  p99 ok .* in flight, limit 2  ", lines[1])


def test_json_is_a_line_a_second_and_the_verdict_and_the_reports_path_in_the_last_one(loadgen: Loadgen) -> None:
    ended = loadgen.run_scenario(SCENARIOS / "connection-pool.yaml", "--clients", "2", "--duration", "2s", "--json")
    assert ended.code == 0, ended.stdout + ended.stderr
    *seconds, last = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {line["schema"] for line in (*seconds, last)} == {"loadgen.progress/v1"}
    assert {line["kind"] for line in seconds} == {"second"}
    assert 5 <= len(seconds) <= 9
    limited = [line for line in seconds if line["phase"] == "limited" and line["counting"]]
    assert limited[-1]["limit"] == 2
    assert limited[-1]["outcomes"]["overflow"] > 0
    assert limited[-1]["confirmed"] == limited[-1]["clients"] == 2
    report = loadgen.report()
    assert last == {
        "schema": "loadgen.progress/v1",
        "kind": "end",
        "exit_code": 0,
        "report": str(loadgen.results / "report.json"),
        "validity": "VALID",
        "reasons": [],
        "verdict": "enforced",
        "sentence": report["verdict"]["sentence"],
        "expectations": {"held": 6, "failed": 0},
        "restore": "verified",
    }
    assert "--- limited" in ended.stderr


def test_a_reader_of_the_json_that_has_seen_enough_does_not_end_the_run(loadgen: Loadgen) -> None:
    process = loadgen.start_scenario(SCENARIOS / "connection-pool.yaml", "--clients", "2", "--duration", "2s", "--json", "-q")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    code, said = process.wait(PATIENCE_S), process.stderr.read()
    process.stderr.close()
    assert (code, said) == (0, ""), loadgen.report()["validity"]
