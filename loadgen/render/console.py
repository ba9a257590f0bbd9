"""What does a person at a terminal see at the end? Tables, the verdict, whether it can be trusted, and where the report lies, on stdout."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from loadgen.errors import printable
from loadgen.evidence import State
from loadgen.render.columns import (
    BURST_COLUMNS,
    BURSTS,
    CLIENT_COLUMNS,
    FAILURE_COLUMNS,
    FAILURES,
    LEDGER_COLUMNS,
    PHASE_COLUMNS,
    PREDICTION_COLUMNS,
    PREDICTIONS,
    besides,
    bursts_of,
    clients_of,
    failures_of,
    said_of_phases,
    said_of_predictions,
    total_difference,
)
from loadgen.render.screen import leaving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, Group
    from rich.table import Table

    from loadgen.render.columns import Column, Row
    from loadgen.report import Report
    from loadgen.series import Series

PLAIN_WIDTH = 200


def print_report(report: Report, *, verbose: bool, where: str) -> None:
    """Print the tables, the verdict and where the report lies, to stdout."""
    _print_all(stdout(), report, verbose, where)


def render(report: Report, _series: Series | None, *, where: str = "report.json") -> str:
    """Write what ``print_report`` prints, with all tables and without colours."""
    from rich.console import Console  # noqa: PLC0415

    file = io.StringIO()
    _print_all(Console(file=file, highlight=False, width=PLAIN_WIDTH, no_color=True), report, verbose=True, where=where)
    return file.getvalue()


def _print_all(console: Console, report: Report, verbose: bool, where: str) -> None:
    console.print()
    if report.phases:
        print_table(console, "Phases", PHASE_COLUMNS, report.phases)
        print_table(console, "Ledger: overflows as the clients saw them and as their sidecars counted them", LEDGER_COLUMNS, report.phases)
    for name, said in said_of_phases(report):
        console.print(printable(f"{name}: {said}"), markup=False, soft_wrap=not console.is_terminal)
        console.print()
    if bursts := bursts_of(report):
        print_table(console, BURSTS, BURST_COLUMNS, bursts)
    if failures := failures_of(report):
        print_table(console, FAILURES, FAILURE_COLUMNS, failures)
    if rows := besides(report):
        print_table(console, PREDICTIONS, PREDICTION_COLUMNS, rows)
    for sentence in said_of_predictions(report):
        console.print(printable(sentence), markup=False, soft_wrap=not console.is_terminal)
        console.print()
    if verbose:
        for phase in report.phases:
            print_table(console, f"Clients in phase {phase.name}", CLIENT_COLUMNS, clients_of(phase))
    for expectation in report.expectations:
        mark, style = ("held", "green") if expectation.held else ("FAILED", "bold red")
        line = printable(f"{expectation.phase}: {expectation.wanted} (got {expectation.got})")
        console.print(f"{mark:<6}  {line}", style=style, markup=False)
    _print_conclusion(console, report, where)


def print_verdict(report: Report, *, where: str) -> None:
    """Print only the verdict, the validity and where the report lies, to stdout."""
    _print_conclusion(stdout(), report, where)


def stdout() -> Console:
    """Give the console that a result is printed to; where stdout is no terminal, wide."""
    from rich.console import Console  # noqa: PLC0415

    return leaving(Console)(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def _print_conclusion(console: Console, report: Report, where: str) -> None:
    console.print()
    for reason in report.validity.reasons:
        console.print(f"INVALID: {printable(reason)}", style="bold red", markup=False, soft_wrap=True)
    console.print(
        printable(report.verdict.sentence), style=_VERDICT_STYLES[report.verdict.state], markup=False, soft_wrap=not console.is_terminal
    )
    if report.validity.state == "VALID":
        console.print(
            f"VALID: the hammer used {report.environment.hammer_cpu_share:.0%} of a core; the ledger differs by {total_difference(report)}.",
            markup=False,
        )
    if report.restore.state == "failed":
        console.print(f"RESTORE FAILED: {printable(report.restore.detail)}", style="bold red", markup=False, soft_wrap=True)
    console.print(f"Report: {where}", markup=False, soft_wrap=True)


_VERDICT_STYLES = {
    State.ENFORCED: "bold green",
    State.OVERSHOOT: "bold yellow",
    State.NOT_ENFORCED: "bold red",
    State.INCONCLUSIVE: "bold yellow",
}


def print_table(console: Console, title: str, columns: Sequence[Column[Row]], rows: Sequence[Row]) -> None:
    """Print a table, without the columns that the terminal has no room for; if it has none for the rest either, one figure a line."""
    for highest in sorted({column.rank for column in columns}, reverse=True):
        table = _table(title, [column for column in columns if column.rank <= highest], rows)
        if console.measure(table, options=console.options.update(max_width=10 * PLAIN_WIDTH)).maximum <= console.width:
            shown: Table | Group = table
            break
    else:
        shown = _list(title, columns, rows)
    with console.capture() as drawn:
        console.print(shown)
    console.file.write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))


def _list(title: str, columns: Sequence[Column[Row]], rows: Sequence[Row]) -> Group:
    """Write a table's rows below one another: what stands in the first column, then each further figure behind its title.

    A column without a title goes on with the one before it.
    """
    from rich.console import Group  # noqa: PLC0415
    from rich.padding import Padding  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    first, *further = columns
    shown: list[Text | Padding] = [Text(printable(title), style="bold")]
    for row in rows:
        lines: list[str] = []
        for column in further:
            value = column.cell(row)
            if not column.title and lines:
                lines[-1] += f"  {value}" if value else ""
            elif value:
                lines.append(f"{column.title}: {value}")
        shown += [Text(), Text(printable(first.cell(row)))]
        shown += [Padding(Text(printable(line), overflow="fold"), (0, 0, 0, 2)) for line in lines]
    return Group(*shown, Text())


def _table(title: str, columns: Sequence[Column[Row]], rows: Sequence[Row]) -> Table:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=Text(printable(title)), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.title, justify="left" if column is columns[0] or column.words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(column.cell(row))) for column in columns))
    return table
