"""What does a person see of two sides of runs? Every figure with its change and interval, then what is worse, on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.comparison import State
from loadgen.errors import printable
from loadgen.quantity import seconds_text
from loadgen.render.columns import Column
from loadgen.render.console import print_table, stdout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from loadgen.comparison import Comparison, Figure


def print_comparison(comparison: Comparison) -> None:
    """Print the table of figures and the conclusion, to stdout."""
    console = stdout()
    for doubt in comparison.doubts:
        console.print(f"Compared anyway: {doubt}", style="yellow", markup=False, soft_wrap=not console.is_terminal)
    sides = f"{_runs(len(comparison.base))} of the base, {_runs(len(comparison.new))} new"
    print_table(console, f"Compared: {sides}; tolerated: {comparison.tolerance * 100:.4g}%", _columns(), comparison.figures)
    _print_conclusion(console, comparison)


def _print_conclusion(console: Console, comparison: Comparison) -> None:
    tolerated = f"{comparison.tolerance * 100:.4g}%"
    for figure in comparison.regressions:
        console.print(
            f"WORSE: {_sentence(figure)}; tolerated: {tolerated}", style="bold red", markup=False, soft_wrap=not console.is_terminal
        )
    if comparison.without_interval:
        console.print(
            "No interval: there is no series.json.gz beside the reports, or the phases are shorter than 4 s. Noise may look like a change here.",
            style="yellow",
            soft_wrap=not console.is_terminal,
        )
    unclear = [figure for figure in comparison.figures if figure.state is State.UNCLEAR]
    blind = [figure for figure in unclear if figure.interval is None]
    if blind:
        console.print(
            f"No interval: {len(blind)} of {len(comparison.figures)} figures are of phases shorter than 4 s, or of runs without a series.json.gz; what is noise there is not known.",
            style="yellow",
            soft_wrap=not console.is_terminal,
        )
    if len(unclear) > len(blind):
        console.print(
            f"Unclear: {len(unclear) - len(blind)} of {len(comparison.figures)} figures vary too much from second to second to tell a change of {tolerated}; longer phases, or several runs of a side, tell more.",
            soft_wrap=not console.is_terminal,
        )
    if comparison.regressions:
        console.print(f"Regression: {len(comparison.regressions)} of {len(comparison.figures)} figures are worse.", style="bold red")
    else:
        console.print(f"No regression beyond {tolerated}.", style="bold green")


def _columns() -> Sequence[Column[Figure]]:
    return (
        Column("phase", lambda figure: figure.phase),
        Column("outcome", lambda figure: figure.outcome.value),
        Column("figure", lambda figure: figure.name),
        Column("base", lambda figure: _value(figure, figure.base), 2),
        Column("new", lambda figure: _value(figure, figure.new), 1),
        Column("change", lambda figure: "-" if figure.change is None else _change(figure, figure.change)),
        Column(
            "interval",
            lambda figure: f"{_change(figure, figure.interval[0])} to {_change(figure, figure.interval[1])}" if figure.interval else "-",
            3,
        ),
        Column("judged", lambda figure: _MARKS[figure.state]),
    )


_MARKS = {State.SAME: "same", State.BETTER: "better", State.WORSE: "WORSE", State.UNCLEAR: "unclear", State.NOT_JUDGED: ""}


def _sentence(figure: Figure) -> str:
    assert figure.change is not None, "what is worse has changed"
    within = f", between {_change(figure, figure.interval[0])} and {_change(figure, figure.interval[1])}" if figure.interval else ""
    what = f"{figure.name} of {figure.outcome} in phase {figure.phase}"
    return printable(f"{what}: {_value(figure, figure.base)}, now {_value(figure, figure.new)} ({_change(figure, figure.change)}{within})")


def _value(figure: Figure, value: float | None) -> str:
    if value is None:
        return "-"
    if figure.name == "share":
        return f"{value * 100:.2f}%"
    return f"{value:,.1f}/s" if figure.name == "rate" else seconds_text(value)


_UNBOUNDED = 1e6
"""A figure that may have become a million times larger may have become anything."""


def _change(figure: Figure, change: float) -> str:
    if change > _UNBOUNDED:
        return "unbounded"
    return f"{change * 100:+.2f} points" if figure.name == "share" else f"{change * 100:+.1f}%"


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
