"""What a person sees at a terminal, in a pseudo-terminal of its own."""

from __future__ import annotations

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


def run_in_terminal(folder: Path, *options: str, columns: int = 100, **environment: str) -> tuple[int | None, str]:
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
    terminal: pexpect.spawn[str] = pexpect.spawn(
        sys.executable,
        arguments,
        cwd=str(REPOSITORY),
        env=variables | {"TERM": "xterm-256color", "TMPDIR": str(folder)} | environment,
        dimensions=(50, columns),
        encoding="utf-8",
        timeout=PATIENCE_S,
    )
    terminal.expect(pexpect.EOF)
    text = terminal.before or ""
    terminal.close()
    return terminal.exitstatus, text


def test_a_terminal_shows_a_live_line_colours_and_the_verdict(tmp_path: Path) -> None:
    code, text = run_in_terminal(tmp_path)
    assert code == 0, text
    assert "\x1b[32m" in text
    assert "━" in text
    assert "[2/3] limited" in text
    assert "Kevin" in text


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


@pytest.mark.parametrize("columns", [40, 60, 80, 132])
def test_no_table_is_wider_than_the_terminal(tmp_path: Path, columns: int) -> None:
    _, text = run_in_terminal(tmp_path, columns=columns, NO_COLOR="1")
    tables = re.sub(r"\x1b\[\d*m", "", text[text.index("Phases") : text.index("held ")])
    assert "…" not in tables
    assert all(len(line.rstrip()) <= columns for line in tables.splitlines())
