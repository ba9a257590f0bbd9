"""What does a terminal show that has no room for a table?"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from loadgen.render.columns import CLIENT_COLUMNS, LEDGER_COLUMNS, PHASE_COLUMNS, Column, clients_of
from loadgen.render.console import print_table
from loadgen.render.screen import UNKNOWN_WIDTH, leaving
from tests.render.results import real

if TYPE_CHECKING:
    from collections.abc import Sequence

REPORT = real().report
PAIRS: Sequence[Column[tuple[str, str]]] = (Column("name", lambda pair: pair[0]), Column("value", lambda pair: pair[1]))


def drawn(width: int) -> list[str]:
    """Print the tables of a report at a width; give the lines."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_table(console, "Phases", PHASE_COLUMNS, REPORT.phases)
    print_table(console, "Ledger", LEDGER_COLUMNS, REPORT.phases)
    for phase in REPORT.phases:
        print_table(console, phase.name, CLIENT_COLUMNS, clients_of(phase))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [12, 20, 30, 40, 60, 80, 120, 200])
def test_no_figure_is_cut_and_no_line_is_too_long_however_narrow_the_terminal(width: int) -> None:
    lines = drawn(width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    said = " ".join(" ".join(lines).split())
    for phase in REPORT.phases:
        assert f"{phase.outcomes.get('ok', 0):,}" in said
        assert f"{phase.ledger.proxy:,}" in said


def test_where_a_table_has_no_room_each_figure_has_a_line_and_none_is_left_out() -> None:
    lines = drawn(30)
    limited = REPORT.phases[1]
    start = lines.index("limited")
    assert lines[start + 1 : start + 4] == ["  policy: applied", f"  requests: {limited.requests:,}", f"  per s: {limited.rate_per_s:,.0f}"]
    assert lines[start + 4].startswith(f"  ok: {limited.outcomes['ok']:,}  ")  # the share has no title of its own
    assert {line.split(":")[0].strip() for line in lines if ":" in line} >= {column.title for column in PHASE_COLUMNS[1:] if column.title}


def test_forty_columns_have_room_for_the_tables_of_a_run() -> None:
    lines = drawn(40)
    assert sum("──" in line for line in lines) == 2 + len(REPORT.phases)


def test_a_value_that_no_line_holds_is_broken_and_not_lost() -> None:
    console = Console(file=io.StringIO(), width=12, highlight=False)
    print_table(console, "A title of several words", PAIRS, [("first", "x" * 40), ("second", "")])
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "A title of",
        "several",
        "words",
        "",
        "first",
        "  value:",
        *["  " + "x" * 10] * 4,
        "",
        "second",
        "",
    ]


def test_a_width_of_nothing_is_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    assert leaving(Console)(force_terminal=True).width == UNKNOWN_WIDTH
