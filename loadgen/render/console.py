"""What does a person at a terminal see: while a run goes on, and at the end?

Progress and the client's log go to stderr, the result goes to stdout, so that the result can be piped. On a terminal the progress is a
live line; elsewhere it is plain lines, few enough for a CI log. ``NO_COLOR`` and ``TERM=dumb`` are honoured (by rich).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from loadgen.errors import printable
from loadgen.outcome import Answer, Outcome
from loadgen.quantity import seconds_text
from loadgen.verdict import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    from loadgen.progress import Progress
    from loadgen.report import ClientPart, PhasePart, Quantiles, Report

PLAIN_EVERY_S = 5.0
SHOW_EVERY_S = 0.8
SHOW_CHANGE_S = 0.4
BODY_CHARACTERS = 120
_BAR = 12
_LOOKS = 8
PLAIN_WIDTH = 200


def answer_line(answer: Answer) -> str:
    """Write one answer as a line of the client's log: the client, the status, the time that it took, and what came back."""
    took = seconds_text(answer.latency_s)
    if answer.response is None:
        return f"{answer.client:<10} ---  {took:>8}  {answer.outcome}"
    body = printable(answer.response.body[:BODY_CHARACTERS].decode("utf-8", "replace").strip())
    return f"{answer.client:<10} {answer.response.status}  {took:>8}  {body}"


class Screen:
    """Watches a run for a person. Use as a context manager around the run."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live: Live | None = None
        self._console: Console | None = None
        self._last_line = time.monotonic()
        self._last_answer = 0.0
        self._last_outcome: Outcome | None = None
        self._looks: deque[tuple[float, int]] = deque(maxlen=_LOOKS)

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415  # costs 80 ms, and only a terminal needs it
            from rich.live import Live  # noqa: PLC0415

            self._console = _console(Console)(stderr=True, highlight=False)
            if not self._console.is_dumb_terminal:
                self._live = Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the live line away and show the cursor again."""
        if self._live is not None:
            with self._guard():
                self._live.stop()

    def say(self, text: str, style: str = "", *, crop: bool = False) -> None:
        """Print a line above the progress; with ``crop`` a terminal shows only as much as fits into one."""
        if self._quiet:
            return
        with self._guard():
            if self._console is not None:
                self._console.print(
                    text, style=style or None, markup=False, emoji=False, no_wrap=crop, overflow="ellipsis" if crop else None
                )
            else:
                print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Go silent for good when stderr is gone (``2>&1 | head``, a closed terminal): the run and its report matter more."""
        try:
            yield
        except OSError:
            self._quiet = True
            self._live = None

    # What the runner calls.

    def ready(self, clients: int, seconds: float, processes: int) -> None:
        """The mesh is up, and the first request goes out."""
        by = f" from {processes} processes" if processes > 1 else ""
        self.say(f"{clients} sidecars and the user service are up; first request{by} after {seconds:.2f} s")

    def phase_began(self, name: str, policy: str, rule: str | None, convergence_s: Sequence[float]) -> None:
        """A phase begins to count."""
        self.say(f"--- {name}: {_toggled(policy, rule, convergence_s)}", style="bold")
        self._looks.clear()
        self._last_line = time.monotonic()

    def answer(self, answer: Answer) -> None:
        """One of the answers, several times a second: so many are shown as can be read, and one that differs from the last a little sooner."""
        now = time.monotonic()
        if now - self._last_answer < (SHOW_EVERY_S if answer.outcome is self._last_outcome else SHOW_CHANGE_S):
            return
        self._last_answer, self._last_outcome = now, answer.outcome
        style = "green" if answer.outcome is Outcome.OK else "yellow" if answer.outcome is Outcome.OVERFLOW else "red"
        self.say(f"  {answer_line(answer)}", style=style, crop=True)

    def progress(self, progress: Progress) -> None:
        """Several times a second."""
        now = time.monotonic()
        rate = self._rate(now, sum(progress.outcomes.values()))
        if self._live is not None:
            with self._guard():
                self._live.update(_progress_text(progress, rate), refresh=True)
        elif now - self._last_line >= PLAIN_EVERY_S and progress.counting:
            self._last_line = now
            self.say(_progress_line(progress, rate))

    def _rate(self, now: float, total: int) -> float:
        """Give the rate over the last second or so, from what was counted at the last looks."""
        if self._looks and total < self._looks[-1][1]:
            self._looks.clear()  # another phase
        self._looks.append((now, total))
        since, count = self._looks[0]
        return (total - count) / (now - since) if now > since else 0.0


def _toggled(policy: str, rule: str | None, convergence_s: Sequence[float]) -> str:
    if not convergence_s:
        return f"policy {policy}"
    after = f"all {len(convergence_s)} sidecars after {min(convergence_s) * 1000:.0f} to {max(convergence_s) * 1000:.0f} ms"
    if policy == "applied":
        return (
            f"policy applied, rule {rule} in force at {after}"
            if rule
            else f"policy applied, but no rule has an effect: confirmed by {after}"
        )
    return f"policy {policy}, gone from {after}"


def _split(outcomes: dict[Outcome, int]) -> str:
    total = sum(outcomes.values())
    others = {outcome: count for outcome, count in outcomes.items() if count and outcome is not Outcome.OK}
    return "  ".join([f"ok {outcomes[Outcome.OK]:,}", *(f"{outcome} {count:,} ({count / total:.0%})" for outcome, count in others.items())])


def _progress_line(progress: Progress, rate: float) -> str:
    return f"  {f'{progress.phase} ' if progress.phase else ''}{progress.elapsed_s:.0f} of {progress.duration_s:.0f} s  {rate:,.0f}/s  {_split(progress.outcomes)}  {progress.left_s:.0f} s left"


def _progress_text(progress: Progress, rate: float) -> Text:
    from rich.text import Text  # noqa: PLC0415

    filled = round(_BAR * min(1.0, progress.elapsed_s / max(progress.duration_s, progress.elapsed_s, 1e-9)))
    text = Text(no_wrap=True, overflow="ellipsis")
    if progress.phase:
        text.append(f"[{progress.index + 1}/{progress.phases}] {progress.phase} ", style="bold")
    text.append("━" * filled + "─" * (_BAR - filled), style="cyan")
    if not progress.counting:
        return text.append(f" waiting until the policy is {progress.policy} everywhere")
    return text.append(f" {rate:,.0f}/s  {_split(progress.outcomes)}  {progress.left_s:.0f} s left  {progress.in_flight} in flight")


# The result.


def print_report(report: Report, *, verbose: bool, where: str) -> None:
    """Print the tables, the verdict and where the report lies, to stdout."""
    console = _stdout()
    console.print()
    if report.phases:
        _print_table(console, "Phases", _PHASE_COLUMNS, report.phases)
        _print_table(
            console, "Ledger: overflows as the clients saw them and as their sidecars counted them", _LEDGER_COLUMNS, report.phases
        )
    if verbose:
        for phase in report.phases:
            clients = sorted(phase.clients, key=lambda client: (len(client.name), client.name))
            _print_table(console, f"Clients in phase {phase.name}", _CLIENT_COLUMNS, clients)
    for expectation in report.expectations:
        mark, style = ("held", "green") if expectation.held else ("FAILED", "bold red")
        console.print(f"{mark:<6}  {expectation.phase}: {expectation.wanted} (got {expectation.got})", style=style, markup=False)
    _print_conclusion(console, report, where)


def print_verdict(report: Report, *, where: str) -> None:
    """Print only the verdict, the validity and where the report lies, to stdout."""
    _print_conclusion(_stdout(), report, where)


def _stdout() -> Console:
    from rich.console import Console  # noqa: PLC0415

    return _console(Console)(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def _console(base: type[Console]) -> type[Console]:
    """Make a console that leaves a broken pipe to the caller: rich would end the process."""

    class Leaving(base):  # type: ignore[misc,valid-type]  # rich is imported late, so its class is a value here
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Leaving


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


def _print_table(console: Console, title: str, columns: Sequence[Column[Row]], rows: Sequence[Row]) -> None:
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
