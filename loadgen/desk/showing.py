"""What does the page show of a session? Its phases, its clients and its verdict as JSON; nothing is measured here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loadgen.ledger import Ledger
from loadgen.outcome import Outcome
from loadgen.runner.window import imbalance

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loadgen.errors import Problem
    from loadgen.policy.state import SidecarState
    from loadgen.recorder import Tally
    from loadgen.runner.result import Result
    from loadgen.runner.window import Window


def problem(found: Problem) -> dict[str, Any]:
    """Show a mistake in a rule, or what is noteworthy of it; ``text`` is as a terminal would show it."""
    return {
        "line": found.line,
        "column": found.column,
        "severity": found.severity.value,
        "message": found.message,
        "hint": found.hint,
        "code": found.code,
        "text": str(found),
    }


def judged(result: Result | None) -> dict[str, Any]:
    """Show what a test has come to, as far as it is known."""
    if result is None:
        return {"verdict": None, "validity": None, "restore": None}
    report = result.report
    return {
        "verdict": {"state": report.verdict.state.value, "sentence": report.verdict.sentence},
        "validity": {"state": report.validity.state, "reasons": list(report.validity.reasons)},
        "restore": {"state": report.restore.state, "detail": report.restore.detail},
    }


def split(tallies: Iterable[Tally]) -> dict[str, int]:
    """Give how many requests ended how, in the page's three groups."""
    ok = overflow = requests = 0
    for tally in tallies:
        outcomes = tally.outcomes
        ok, overflow, requests = ok + outcomes[Outcome.OK], overflow + outcomes[Outcome.OVERFLOW], requests + sum(outcomes.values())
    return {"ok": ok, "overflow": overflow, "other": requests - ok - overflow}


def phase(window: Window, began: float) -> dict[str, Any]:
    """Show a phase that is over. Times are seconds since the test began."""
    ledgers = {name: ledger for name in window.starts if (ledger := ledger_of(window, name)) is not None}
    known = len(ledgers) == len(window.starts)
    return {
        "name": window.phase.name,
        "policy": window.phase.policy,
        "rule": next((state.rule for state in window.states.values()), None),
        "began_s": round(window.began - began, 3),
        "ended_s": round(window.ended - began, 3),
        "converged_ms": slowest_ms(window),
        **split(window.tallies.values()),
        "ledger": {
            "client": sum(ledger.client for ledger in ledgers.values()),
            "proxy": sum(ledger.proxy for ledger in ledgers.values()) if known else None,
            "difference": imbalance(window),
        },
    }


def slowest_ms(window: Window) -> float | None:
    """Give how long the slowest sidecar took to show the toggle before this phase; None without one."""
    return round(max(window.convergence_s.values()) * 1000, 1) if window.convergence_s else None


def ledger_of(window: Window, name: str) -> Ledger | None:
    """Give a client's ledger of a phase that is over; None if its sidecar could not be read any more."""
    end = window.ends.get(name)
    if end is None:
        return None
    counted = end.reading.counters.since(window.starts[name].reading.counters)
    return Ledger(window.tallies[name].sidecar_overflow, counted.overflow)


def toggles(windows: Sequence[Window], began: float) -> list[dict[str, Any]]:
    """Show when the policy was toggled, and when the slowest sidecar showed it, in seconds since the test began."""
    return [
        {
            "policy": window.phase.policy,
            "at_s": round(window.toggled - began, 3),
            "converged_s": round(window.toggled - began + max(window.convergence_s.values()), 3),
        }
        for window in windows
        if window.toggled is not None and window.convergence_s
    ]


def clients(
    states: Mapping[str, SidecarState],
    window: Window | None,
    present: Mapping[str, Sequence[Tally]],
    closed: Sequence[Window],
    wanted: SidecarState | None,
) -> list[dict[str, Any]]:
    """Show every client: what is in force at its sidecar, what it has seen by the tallies that are ``present``, and the ledger of all phases that are over.

    ``confirmed`` says whether its sidecar shows what is ``wanted``; None if nothing is.
    """
    return [
        {
            "name": name,
            "rule": state.rule,
            "limits": state.limits.in_force(),
            "confirmed": None if wanted is None else state == wanted,
            "converged_ms": round(window.convergence_s[name] * 1000, 1) if window and name in window.convergence_s else None,
            **split(present.get(name, ())),
            "ledger": _ledger(closed, name),
        }
        for name, state in states.items()
    ]


def _ledger(windows: Sequence[Window], name: str) -> dict[str, int | None]:
    ledgers = [ledger_of(window, name) for window in windows]
    known = [ledger for ledger in ledgers if ledger is not None]
    if len(known) < len(ledgers):
        return {"client": sum(each.client for each in known), "proxy": None, "difference": None}
    client, proxy = sum(each.client for each in known), sum(each.proxy for each in known)
    return {"client": client, "proxy": proxy, "difference": client - proxy}
