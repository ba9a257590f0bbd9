"""What do the plots of a page show? The time series in columns: rates and latencies by outcome, all clients together, in as many steps as a plot has room for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadgen.outcome import Outcome
from loadgen.recorder import Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadgen.series import Series

MAX_STEPS = 1200
"""More are taken together, so that a page does not grow with the length of its run."""
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Timeline:
    """The plots' columns. ``at_s`` is where each step begins, in seconds since the load began; a step lasts ``step_s`` seconds.

    A rate is of the requests that ended in the step, latencies are of those; None where there was none. ``in_flight`` is what was in flight at
    the moment at which the step ends, no mean: one across a change of the policy would be of neither side.
    """

    step_s: int
    at_s: Sequence[int]
    rate_per_s: Mapping[Outcome, Sequence[float]]
    p50_s: Mapping[Outcome, Sequence[float | None]]
    p99_s: Mapping[Outcome, Sequence[float | None]]
    in_flight: Sequence[int | None]


def timeline(series: Series, max_steps: int = MAX_STEPS) -> Timeline:
    """Take the moments of a series together to a timeline, with the outcomes that occurred."""
    seconds = max((moment.second for moment in series.moments), default=-1) + 1
    step_s = max(1, -(-seconds // max_steps))
    steps = range(-(-seconds // step_s))
    latency: dict[Outcome, dict[int, Histogram]] = {}
    for moment in series.moments:
        latency.setdefault(moment.outcome, {}).setdefault(moment.second // step_s, Histogram()).add(moment.latency)
    occurred = [outcome for outcome in Outcome if outcome in latency]
    timed = [outcome for outcome in occurred if outcome is not Outcome.UNSENT]
    return Timeline(
        step_s=step_s,
        at_s=[step * step_s for step in steps],
        rate_per_s={
            outcome: [latency[outcome][step].count / step_s if step in latency[outcome] else 0 for step in steps] for outcome in occurred
        },
        p50_s={outcome: _quantiles(latency[outcome], 0.5, steps) for outcome in timed},
        p99_s={outcome: _quantiles(latency[outcome], 0.99, steps) for outcome in timed},
        in_flight=[series.in_flight.get((step + 1) * step_s - 1) for step in steps],
    )


def _quantiles(latency: Mapping[int, Histogram], share: float, steps: range) -> list[float | None]:
    return [float(f"{latency[step].quantile(share):.{_DIGITS}g}") if step in latency else None for step in steps]
