"""What does the page's script draw? The series in columns, the phases as bands, and the moments that matter, as one value that is fit for JSON."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from loadgen.errors import printable
from loadgen.firing import MAX_REQUESTS
from loadgen.outcome import Outcome
from loadgen.render.timeline import timeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.report import Report
    from loadgen.series import Series


def data_of(report: Report, series: Series) -> dict[str, Any]:
    """Give the plots' data. Each line has a name, the outcome that it is of (its colour), and its values; times are in seconds."""
    found = timeline(series)
    latencies = []
    for outcome in found.p50_s:
        latencies.append(_line(f"{outcome} p50", outcome, found.p50_s[outcome], dash=True))
        latencies.append(_line(f"{outcome} p99", outcome, found.p99_s[outcome]))
    rates = [_line(outcome, outcome, [round(rate, 1) for rate in values]) for outcome, values in found.rate_per_s.items()]
    return {
        "step": found.step_s,
        "at": list(found.at_s),
        "rates": rates,
        "latencies": latencies,
        "in_flight": [_line("in flight", Outcome.OK, found.in_flight)],
        "phases": [
            {"name": printable(phase.name), "policy": phase.policy, "from": phase.began_s, "to": phase.ended_s}
            for phase in report.phases
            if phase.began_s is not None and phase.ended_s is not None
        ],
        "moments": moments(report),
        "limits": limits(report),
    }


def limits(report: Report) -> list[dict[str, Any]]:
    """Give how many requests all sidecars together let through at a time, and from when to when, as far as the report says it.

    A limit holds from when the last sidecar showed it until the policy is toggled again, or else until its phase ends.
    """
    found = []
    for phase, following in itertools.zip_longest(report.phases, report.phases[1:]):
        each = [client.effective.in_force().get(MAX_REQUESTS) for client in phase.clients]
        known = [limit for limit in each if limit is not None]
        begins = phase.began_s if phase.converged_s is None else phase.converged_s
        ends = phase.ended_s if following is None or following.toggled_s is None else following.toggled_s
        if known and len(known) == len(each) and begins is not None and ends is not None:
            found.append({"from": begins, "to": ends, "value": sum(known)})
    return found


def moments(report: Report) -> list[dict[str, Any]]:
    """Give when the policy was toggled, and when that was in force everywhere, as far as the report says it."""
    found = []
    for phase in report.phases:
        put = "put" if phase.policy == "applied" else "removed"
        shown = "in force" if phase.policy == "applied" else "gone"
        for at, kind, what in (
            (phase.toggled_s, "toggle", f"policy {put}"),
            (phase.converged_s, "convergence", f"policy {shown} everywhere"),
        ):
            if at is not None:
                found.append({"at": at, "kind": kind, "what": what})
    return found


def _line(name: str, outcome: Outcome, values: Sequence[float | None], *, dash: bool = False) -> dict[str, Any]:
    return {"name": str(name), "outcome": outcome.value, "dash": dash, "values": list(values)}
