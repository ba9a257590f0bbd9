"""What did one load without a scenario show? A value, and the same as JSON (``loadgen.hit/v1``). Times are seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadgen.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.recorder import Histogram, Tally

SCHEMA = "loadgen.hit/v1"
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
LAGS = frozenset({"p50", "p99", "max"})


@dataclass(frozen=True, slots=True)
class Summary:
    """One load: whom it was sent at, how it was paced, and what came of it.

    ``duration_s`` is how long it was sent, and ``ended_in_time`` how many of the requests that were sent ended in that time; the last answers
    may have come later.
    ``hammer_cpu_share`` is the busiest hammer process's share of one core; ``reasons`` say why the figures cannot be trusted.
    """

    url: str
    load: Mapping[str, object]
    processes: int
    duration_s: float
    ended_in_time: int
    tally: Tally
    hammer_cpu_share: float
    reasons: tuple[str, ...]

    @property
    def rate_per_s(self) -> float:
        """What ended in time, per second."""
        return self.ended_in_time / self.duration_s if self.duration_s else 0.0

    @property
    def validity(self) -> str:
        """``VALID`` or ``INVALID``."""
        return "INVALID" if self.reasons else "VALID"

    @property
    def all_ok(self) -> bool:
        """Whether every request was ok, and no flow failed."""
        return self.tally.outcomes[Outcome.OK] == self.tally.requests and not self.tally.flow_failures

    def as_dict(self) -> dict[str, Any]:
        """Give everything as JSON holds it. Fields may be added in a version; none is renamed or taken away."""
        tally = self.tally
        return {
            "schema": SCHEMA,
            "url": self.url,
            "load": dict(self.load),
            "processes": self.processes,
            "validity": {"state": self.validity, "reasons": list(self.reasons)},
            "duration_s": round(self.duration_s, 4),
            "requests": tally.requests,
            "ended_in_time": self.ended_in_time,
            "rate_per_s": round(self.rate_per_s, 2),
            "outcomes": {outcome.value: count for outcome, count in tally.outcomes.items()},
            "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
            "connect_errors": dict(sorted(tally.connect_errors.items())),
            "flow_failures": dict(tally.flow_failures.most_common()),
            "latency_s": {
                outcome.value: latencies(histogram)
                for outcome, histogram in tally.latency.items()
                if histogram.count and outcome is not Outcome.UNSENT
            },
            "schedule_lag_s": lags(tally.lag),
            "loop_lag_s": lags(tally.loop_lag),
            "hammer_cpu_share": round(self.hammer_cpu_share, 3),
        }


def latencies(histogram: Histogram) -> dict[str, float]:
    """Give the quantiles, the mean and the longest of a histogram that is not empty."""
    return {**quantiles(histogram), "mean": _rounded(histogram.sum_s / histogram.count)}


def quantiles(histogram: Histogram) -> dict[str, float]:
    """Give p50, p90, p99 and p999 of a histogram, and the longest."""
    return {**{name: _rounded(histogram.quantile(share)) for name, share in QUANTILES.items()}, "max": _rounded(histogram.max_s)}


def latency_s(histogram: Histogram, figure: str | float) -> float | None:
    """Give one figure of a distribution: a quantile (0 to 1), ``avg``, ``min``, ``med`` or ``max``; None of no request.

    The quantile 1 is ``max``, exactly, and 0 is ``min``, which is known as well as its bucket, within 0.8 %.
    """
    if not histogram.count:
        return None
    if figure == "avg":
        return _rounded(histogram.sum_s / histogram.count)
    if figure == "max":
        return _rounded(histogram.max_s)
    quantile = {"min": 0.0, "med": 0.5}.get(figure) if isinstance(figure, str) else figure
    assert quantile is not None, f"no figure of a distribution: {figure}"
    return _rounded(histogram.quantile(quantile))


def lags(histogram: Histogram) -> dict[str, float]:
    """Give what is shown of a lag: p50, p99 and the longest."""
    return {name: value for name, value in quantiles(histogram).items() if name in LAGS}


def _rounded(seconds: float) -> float:
    return round(seconds, 7)
