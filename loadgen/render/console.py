"""What does a person at a terminal see at the end? Tables, the verdict, whether it can be trusted, and where the report lies, on stdout."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from loadgen.quantity import seconds_text
from loadgen.render.screen import leaving
from loadgen.verdict import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import Console
    from rich.table import Table

    from loadgen.report import ClientPart, PhasePart, Quantiles, Report

PLAIN_WIDTH = 200


def print_report(report: Report, *, verbose: bool, where: str) -> None:
    """Print the tables, the verdict and where the report lies, to stdout."""
    console = stdout()
    console.print()
    if report.phases:
        print_table(console, "Phases", _PHASE_COLUMNS, report.phases)
        print_table(console, "Ledger: overflows as the clients saw them and as their sidecars counted them", _LEDGER_COLUMNS, report.phases)
    if verbose:
        for phase in report.phases:
            clients = sorted(phase.clients, key=lambda client: (len(client.name), client.name))
            print_table(console, f"Clients in phase {phase.name}", _CLIENT_COLUMNS, clients)
    for expectation in report.expectations:
        mark, style = ("held", "green") if expectation.held else ("FAILED", "bold red")
        console.print(f"{mark:<6}  {expectation.phase}: {expectation.wanted} (got {expectation.got})", style=style, markup=False)
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
        console.print(f"INVALID: {reason}", style="bold red", markup=False, soft_wrap=True)
    console.print(report.verdict.sentence, style=_VERDICT_STYLES[report.verdict.state], markup=False, soft_wrap=not console.is_terminal)
    if report.validity.state == "VALID":
        differences = sum(phase.imbalance or 0 for phase in report.phases)
        console.print(
            f"VALID: the hammer used {report.environment.hammer_cpu_share:.0%} of a core; the ledger differs by {differences}.",
            markup=False,
        )
    if report.restore.state == "failed":
        console.print(f"RESTORE FAILED: {report.restore.detail}", style="bold red", markup=False, soft_wrap=True)
    console.print(f"Report: {where}", markup=False, soft_wrap=True)


_VERDICT_STYLES = {
    State.ENFORCED: "bold green",
    State.OVERSHOOT: "bold yellow",
    State.NOT_ENFORCED: "bold red",
    State.INCONCLUSIVE: "bold yellow",
}


Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column of a table. On a narrow terminal those with the highest ``rank`` are left out first; 0 always stays."""

    title: str
    cell: Callable[[Row], str]
    rank: int = 0


_PHASE_COLUMNS: Sequence[Column[PhasePart]] = (
    Column("phase", lambda phase: phase.name),
    Column("policy", lambda phase: phase.policy, 3),
    Column("requests", lambda phase: f"{phase.requests:,}", 1),
    Column("per s", lambda phase: f"{phase.rate_per_s:,.0f}", 4),
    Column("ok", lambda phase: f"{phase.outcomes['ok']:,}"),
    Column("", lambda phase: _share(phase.outcomes["ok"], phase.requests), 2),
    Column("overflow", lambda phase: f"{phase.outcomes['overflow']:,}"),
    Column("", lambda phase: _share(phase.outcomes["overflow"], phase.requests), 2),
    Column("other", lambda phase: f"{phase.requests - phase.outcomes['ok'] - phase.outcomes['overflow']:,}"),
    Column("p50 ok", lambda phase: _quantile(phase.latency_s, "ok", "p50"), 5),
    Column("p99 ok", lambda phase: _quantile(phase.latency_s, "ok", "p99"), 2),
    Column("p99 overflow", lambda phase: _quantile(phase.latency_s, "overflow", "p99"), 6),
    Column("peak", lambda phase: _known(phase.service.peak_in_flight), 1),
)
_LEDGER_COLUMNS: Sequence[Column[PhasePart]] = (
    Column("phase", lambda phase: phase.name),
    Column("clients", lambda phase: f"{phase.ledger.client:,}"),
    Column("sidecars", lambda phase: _known(phase.ledger.proxy)),
    Column("difference", lambda phase: _known(phase.imbalance), 1),
    Column("by max requests", lambda phase: _known(phase.ledger.active_overflow), 2),
    Column("by max pending", lambda phase: _known(phase.ledger.pending_overflow), 2),
    Column("in force after", lambda phase: f"{phase.convergence_s.max * 1000:.0f} ms" if phase.convergence_s else "-", 1),
    Column("drained after", lambda phase: f"{phase.drain_s.max * 1000:.0f} ms", 3),
)
_CLIENT_COLUMNS: Sequence[Column[ClientPart]] = (
    Column("client", lambda client: client.name),
    Column("requests", lambda client: f"{client.requests:,}"),
    Column("ok", lambda client: f"{client.outcomes['ok']:,}"),
    Column("overflow", lambda client: f"{client.outcomes['overflow']:,}"),
    Column("", lambda client: _share(client.outcomes["overflow"], client.requests), 2),
    Column("sidecar", lambda client: _known(client.ledger.proxy)),
    Column("difference", lambda client: _known(client.ledger.difference)),
    Column("p99 ok", lambda client: _quantile(client.latency_s, "ok", "p99"), 2),
    Column("peak", lambda client: _known(client.service.peak_in_flight)),
    Column("in force after", lambda client: "-" if client.convergence_s is None else f"{client.convergence_s * 1000:.0f} ms", 3),
    Column("limits", lambda client: ", ".join(f"{name} {value}" for name, value in client.effective.in_force().items()) or "none", 4),
)


def print_table(console: Console, title: str, columns: Sequence[Column[Row]], rows: Sequence[Row]) -> None:
    """Print a table, without the columns that the terminal has no room for."""
    ranks = sorted({column.rank for column in columns}, reverse=True)
    table = _table(title, columns, rows)
    for highest in ranks:
        table = _table(title, [column for column in columns if column.rank <= highest], rows)
        if console.measure(table, options=console.options.update(max_width=10 * PLAIN_WIDTH)).maximum <= console.width:
            break
    with console.capture() as drawn:
        console.print(table)
    console.file.write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))


def _table(title: str, columns: Sequence[Column[Row]], rows: Sequence[Row]) -> Table:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.title, justify="left" if column is columns[0] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(column.cell(row)) for column in columns))
    return table


def _share(count: int, total: int) -> str:
    """Write a share; 100% and 0% stand for exactly all and none."""
    if not total:
        return "-"
    if count in {0, total}:
        return "100%" if count else "0%"
    return f"{min(max(count / total, 0.001), 0.999):.1%}"


def _quantile(latencies: Mapping[str, Quantiles], outcome: str, name: str) -> str:
    quantiles = latencies.get(outcome)
    return seconds_text(getattr(quantiles, name)) if quantiles else "-"


def _known(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"
