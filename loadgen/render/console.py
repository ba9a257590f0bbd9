"""What does a person at a terminal see: while a run goes on, and at the end?

Progress and the client's log go to stderr, the result goes to stdout, so that the result can be piped. On a terminal the progress is a
live line; elsewhere it is plain lines, few enough for a CI log. ``NO_COLOR`` and ``TERM=dumb`` are honoured (by rich).
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from loadgen.errors import printable
from loadgen.outcome import Answer, Outcome
from loadgen.quantity import seconds_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.live import Live

    from loadgen.progress import Progress
    from loadgen.report import PhasePart, Report

PLAIN_EVERY_S = 5.0
BODY_CHARACTERS = 90
_BAR = 24


def answer_line(answer: Answer) -> str:
    """Write one answer as a line of the client's log: ``client-3 200 Kevin (21.4 ms)``."""
    took = seconds_text(answer.latency_s)
    if answer.response is None:
        return f"{answer.client:<10} ---  {answer.outcome} ({took})"
    body = printable(answer.response.body[:BODY_CHARACTERS].decode("utf-8", "replace").strip())
    return f"{answer.client:<10} {answer.response.status}  {body} ({took})"


class Screen:
    """Watches a run for a person. Use as a context manager around the run."""

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        self._quiet = quiet
        self._verbose = verbose
        self._live: Live | None = None
        self._console: Console | None = None
        self._last_line = time.monotonic()
        self._last: tuple[float, dict[Outcome, int]] | None = None

    def __enter__(self) -> Screen:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415  # costs 80 ms, and only a terminal needs it
            from rich.live import Live  # noqa: PLC0415

            self._console = Console(stderr=True, highlight=False)
            if not self._console.is_dumb_terminal:
                self._live = Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str, style: str = "") -> None:
        """Print one line above the progress."""
        if self._quiet:
            return
        if self._console is not None:
            self._console.print(text, style=style or None, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    # What the runner calls.

    def ready(self, clients: int, seconds: float) -> None:
        """The mesh is up, and the first request goes out."""
        self.say(f"{clients} sidecars and the user service are up; first request after {seconds:.2f} s")

    def phase_began(self, name: str, policy: str, convergence_s: Sequence[float]) -> None:
        """A phase begins to count."""
        toggled = f", in force at all {len(convergence_s)} sidecars after {min(convergence_s) * 1000:.0f} to {max(convergence_s) * 1000:.0f} ms" if convergence_s else ""
        self.say(f"--- {name}: policy {policy}{toggled}", style="bold")
        self._last = None
        self._last_line = time.monotonic()

    def answer(self, answer: Answer) -> None:
        """One of the answers, now and then."""
        style = "green" if answer.outcome is Outcome.OK else "yellow" if answer.outcome is Outcome.OVERFLOW else "red"
        self.say(f"  {answer_line(answer)}", style=style)

    def progress(self, progress: Progress) -> None:
        """Several times a second."""
        now = time.monotonic()
        rate = self._rate(now, progress.outcomes)
        if self._live is not None:
            self._live.update(_progress_text(progress, rate), refresh=True)
        elif now - self._last_line >= PLAIN_EVERY_S and progress.counting:
            self._last_line = now
            self.say(_progress_line(progress, rate))

    def _rate(self, now: float, outcomes: dict[Outcome, int]) -> float:
        """Give the rate since the last look, smoothed over about a second."""
        total = sum(outcomes.values())
        if self._last is None or total < sum(self._last[1].values()) or now - self._last[0] > 2 * PLAIN_EVERY_S:
            self._last = (now, dict(outcomes))
            return 0.0
        before, counts = self._last
        if now - before < 1.0:
            return (total - sum(counts.values())) / (now - before) if now > before else 0.0
        rate = (total - sum(counts.values())) / (now - before)
        self._last = (now - 0.5, {outcome: round((counts[outcome] + outcomes[outcome]) / 2) for outcome in outcomes})
        return rate


def _split(outcomes: dict[Outcome, int]) -> str:
    total = sum(outcomes.values())
    ok, overflow = outcomes[Outcome.OK], outcomes[Outcome.OVERFLOW]
    other = total - ok - overflow
    share = f" ({overflow / total:.0%})" if total else ""
    return f"ok {ok:,}  overflow {overflow:,}{share}" + (f"  other {other:,}" if other else "")


def _progress_line(progress: Progress, rate: float) -> str:
    return f"  {progress.phase} {progress.elapsed_s:.0f} of {progress.duration_s:.0f} s  {rate:,.0f}/s  {_split(progress.outcomes)}  {progress.left_s:.0f} s left"


def _progress_text(progress: Progress, rate: float) -> Any:
    from rich.text import Text  # noqa: PLC0415

    filled = round(_BAR * min(1.0, progress.elapsed_s / progress.duration_s))
    bar = "━" * filled + "─" * (_BAR - filled)
    state = f"{progress.phase} (policy {progress.policy})" if progress.counting else f"{progress.phase} (waiting until the policy is {progress.policy} everywhere)"
    text = Text(f"[{progress.index + 1}/{progress.phases}] {state}  ", style="bold")
    text.append(f"{bar} ", style="cyan")
    text.append(f"{rate:,.0f}/s  {_split(progress.outcomes)}  in flight {progress.in_flight}  {progress.left_s:.0f} s left", style="not bold")
    return text


# The result.


def print_report(report: Report, *, verbose: bool, where: str) -> None:
    """Print the tables, the verdict and where the report lies, to stdout."""
    from rich.console import Console  # noqa: PLC0415

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print()
    if report.phases:
        console.print(_phase_table(report))
        console.print(_ledger_table(report))
    if verbose:
        for phase in report.phases:
            console.print(_client_table(phase))
    for expectation in report.expectations:
        mark, style = ("held", "green") if expectation.held else ("FAILED", "bold red")
        console.print(f"{mark:<6}  {expectation.phase}: {expectation.wanted} (got {expectation.got})", style=style, markup=False)
    print_verdict(report, where=where, console=console)


def print_verdict(report: Report, *, where: str, console: Console | None = None) -> None:
    """Print only the verdict, the validity and where the report lies."""
    from rich.console import Console  # noqa: PLC0415

    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print()
    style = {"enforced": "bold green", "overshoot": "bold yellow", "not_enforced": "bold red"}.get(report.verdict.state, "bold yellow")
    console.print(report.verdict.sentence, style=style, markup=False, soft_wrap=not sys.stdout.isatty())
    for reason in report.validity.reasons:
        console.print(f"INVALID: {reason}", style="bold red", markup=False, soft_wrap=True)
    if report.validity.state == "VALID":
        console.print(f"VALID: the hammer used {report.environment.hammer_cpu_share:.0%} of a core; the ledger differs by {sum(abs(phase.ledger.difference or 0) for phase in report.phases)}.", markup=False)
    if report.restore.state == "failed":
        console.print(f"RESTORE FAILED: {report.restore.detail}", style="bold red", markup=False, soft_wrap=True)
    console.print(f"Report: {where}", markup=False, soft_wrap=True)


def _table(title: str, *columns: str) -> Any:
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _phase_table(report: Report) -> Any:
    table = _table("Phases", "phase", "policy", "seconds", "requests", "per s", "ok", "overflow", "other", "p50 ok", "p99 ok", "p99 overflow", "in service")
    for phase in report.phases:
        ok, overflow = phase.outcomes["ok"], phase.outcomes["overflow"]
        cells = [phase.policy, f"{phase.duration_s:.1f}", f"{phase.requests:,}", f"{phase.rate_per_s:,.0f}"]
        cells += [_share(ok, phase.requests), _share(overflow, phase.requests), f"{phase.requests - ok - overflow:,}"]
        cells += [_quantile(phase, "ok", "p50"), _quantile(phase, "ok", "p99"), _quantile(phase, "overflow", "p99"), str(phase.service.peak_in_flight)]
        table.add_row(phase.name, *cells)
    return table


def _share(count: int, total: int) -> str:
    if not total or not count:
        return f"{count:,}"
    share = count / total
    return f"{count:,} (100%)" if count == total else f"{count:,} ({min(share, 0.999):.1%})"


def _quantile(phase: PhasePart, outcome: str, name: str) -> str:
    quantiles = phase.latency_s.get(outcome)
    return seconds_text(getattr(quantiles, name)) if quantiles else "-"


def _ledger_table(report: Report) -> Any:
    table = _table("Ledger: overflows as the clients saw them, and as their sidecars counted them", "phase", "clients saw", "sidecars counted", "of these pending", "active", "difference", "converged after", "drained after")
    for phase in report.phases:
        ledger = phase.ledger
        proxy = "unknown" if ledger.proxy is None else f"{ledger.proxy:,}"
        difference = "unknown" if ledger.difference is None else f"{ledger.difference:,}"
        converged = f"{phase.convergence_s.max * 1000:.0f} ms" if phase.convergence_s else "-"
        table.add_row(phase.name, f"{ledger.client:,}", proxy, f"{ledger.pending_overflow:,}", f"{ledger.active_overflow:,}", difference, converged, f"{phase.drain_s.max * 1000:.0f} ms")
    return table


def _client_table(phase: PhasePart) -> Any:
    table = _table(f"Clients in phase {phase.name}", "client", "requests", "ok", "overflow", "sidecar", "difference", "p99 ok", "in service", "converged after", "max requests", "max pending")
    for client in phase.clients:
        ok = client.latency_s.get("ok")
        converged = "-" if client.convergence_s is None else f"{client.convergence_s * 1000:.0f} ms"
        cells = [f"{client.requests:,}", f"{client.outcomes['ok']:,}", f"{client.outcomes['overflow']:,}", str(client.ledger.proxy), str(client.ledger.difference)]
        cells += [seconds_text(ok.p99) if ok else "-", str(client.service.peak_in_flight), converged, _limit(client.effective.max_requests), _limit(client.effective.max_pending_requests)]
        table.add_row(client.name, *cells)
    return table


def _limit(value: int) -> str:
    return "-" if value == NO_LIMIT else str(value)


NO_LIMIT = 2**32 - 1
