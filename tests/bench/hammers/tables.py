"""What does a person see of the results? Rows in, text out: drawn lines on a terminal; elsewhere plain ASCII that is Markdown, for a note."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.hammers.cost import REFERENCE, costs
from tests.bench.hammers.lateness import EARLY_SHARE, punctualities

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

    from tests.bench.hammers.cost import Cost, Hit, Spread, Usage
    from tests.bench.hammers.lateness import Attack, Punctuality

WIDTH = 200
"""More than any table needs: on a narrower terminal lines are wrapped, for a figure must not be cut."""
DISTURBED_SHARE = 0.1
"""If others and steal took more of the tool's core than this, a measurement is called disturbed."""

COST_TITLE = "CPU per request, closed load"
COST_CAPTION = (
    f"Median over the rounds; ratio to {REFERENCE} within each round. CPU is user + system of the whole process tree, start-up included;\n"
    "requests are what the target counted. others, steal: the most of the tool's core that other processes and other guests had in a round."
)
LATENESS_TITLE = "Lateness at a constant rate, seen from the server"
LATENESS_CAPTION = (
    "Arrival k against t0 + k / rate, stamped by the kernel; t0 is the best for the tool: the latest start that no more than\n"
    f"{EARLY_SHARE:.0%} of its arrivals precede. p50 and p99 are medians over the rounds, best..worst is p99 of a round; arrived is the least, of rate x\n"
    "duration. CPU is per request that arrived. metronome is no load tool: it spins until each moment, and shows what can be seen at best."
)


def print_costs(hits: Sequence[Hit], file: TextIO) -> None:
    """Print the first table, and what did not count."""
    header = ("tool", "CPU us/req", f"x {REFERENCE}", "min..max", "requests/s", "connections", "others", "steal", "rounds")
    _print(COST_TITLE, COST_CAPTION, header, [_cost_cells(row) for row in costs(hits)], file)
    _print_errors(((hit.tool, f"round {hit.round}", hit.error) for hit in hits), file)
    _print_disturbed([hit.usage for hit in hits], file)


def print_punctualities(attacks: Sequence[Attack], file: TextIO) -> None:
    """Print the second table, and what did not count."""
    header = (
        "rate/s",
        "tool",
        "p50 ms",
        "p99 ms",
        "best..worst",
        "max ms",
        "arrived",
        "connections",
        "CPU us/req",
        "others",
        "steal",
        "rounds",
    )
    _print(LATENESS_TITLE, LATENESS_CAPTION, header, [_punctuality_cells(row) for row in punctualities(attacks)], file)
    _print_errors(((attack.tool, f"{attack.rate_per_s:,}/s, round {attack.round}", attack.error) for attack in attacks), file)
    _print_disturbed([attack.usage for attack in attacks], file)
    if unstamped := sum(attack.unstamped for attack in attacks):
        print(
            f"{unstamped:,} of {sum(attack.arrived for attack in attacks):,} arrivals have the server's stamp, not the kernel's", file=file
        )


def _cost_cells(row: Cost) -> tuple[str, ...]:
    return (
        row.tool,
        f"{row.cpu_us.median:,.2f}",
        f"{row.ratio.median:.2f}" if row.ratio else "-",
        _range(row.ratio),
        f"{row.rate_per_s:,.0f}",
        f"{row.connections:,.0f}",
        f"{row.others_share:.0%}",
        f"{row.steal_share:.0%}",
        str(row.rounds),
    )


def _range(spread: Spread | None) -> str:
    return f"{spread.least:.2f}..{spread.most:.2f}" if spread else "-"


def _punctuality_cells(row: Punctuality) -> tuple[str, ...]:
    return (
        f"{row.rate_per_s:,}",
        row.tool,
        f"{row.lateness.p50_s * 1e3:,.3f}",
        f"{row.lateness.p99_s * 1e3:,.3f}",
        f"{row.p99_s.least * 1e3:,.3f}..{row.p99_s.most * 1e3:,.3f}",
        f"{row.lateness.max_s * 1e3:,.3f}",
        f"{row.arrived_share:.1%}",
        f"{row.connections:,.0f}",
        f"{row.cpu_us:,.1f}",
        f"{row.others_share:.0%}",
        f"{row.steal_share:.0%}",
        str(row.rounds),
    )


def _print(title: str, caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], file: TextIO) -> None:
    """Print one table: its first column that holds names to the left, figures to the right."""
    terminal = file.isatty()
    console = Console(file=file, width=WIDTH, highlight=False, markup=False)
    table = Table(box=box.SIMPLE_HEAD if terminal else box.MARKDOWN)
    for name in header:
        table.add_column(name, justify="left" if name == "tool" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    with console.capture() as drawn:
        console.print(table)
    lines = [line.rstrip() for line in drawn.get().splitlines()]
    print("", title, "", *(line for line in lines if line), "", caption, sep="\n", file=file)


def _print_disturbed(usages: Sequence[Usage], file: TextIO) -> None:
    disturbed = sum(usage.others_share + usage.steal_share > DISTURBED_SHARE for usage in usages)
    if disturbed:
        print(
            f"disturbed: in {disturbed} of {len(usages)} measurements others and steal took more than {DISTURBED_SHARE:.0%} of the tool's core",
            file=file,
        )


def _print_errors(errors: Iterable[tuple[str, str, str]], file: TextIO) -> None:
    for tool, when, error in errors:
        if error:
            print(f"left out: {tool}, {when}: {error}", file=file)
