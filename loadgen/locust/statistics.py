"""How do the engine's counts get into Locust's statistics? By what a tally has more than at the last look, entered all at once.

The law: a request is entered once, so Locust's counts are the engine's in the end.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from locust.stats import StatsEntry, StatsError

from loadgen.outcome import Outcome
from loadgen.recorder import value_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from locust.stats import RequestStats

    from loadgen.recorder import Histogram, Tally

METHOD = "GET"


class Statistics:
    """Enters tallies. ``failed`` tells whether an overflow is a failure now."""

    def __init__(self, stats: RequestStats, failed: Callable[[], bool]) -> None:
        self._stats = stats
        self._failed = failed
        self._name = ""
        self._entered: dict[tuple[str, int, Outcome], Counter[int]] = {}

    def begin(self, name: str) -> None:
        """Enter what comes under this name; nothing of it was entered yet."""
        self._name = name
        self._entered.clear()

    def notice(self, client: str, tally: Tally) -> None:
        """Enter what a client's tally has more than before."""
        for outcome, histogram in tally.latency.items():
            before = self._entered.setdefault((client, tally.number, outcome), Counter())
            if histogram.count > before.total():
                more = {bucket: count - before[bucket] for bucket, count in histogram.buckets.items() if count > before[bucket]}
                before.update(more)
                self._enter(outcome, more, histogram)

    def _enter(self, outcome: Outcome, more: dict[int, int], histogram: Histogram) -> None:
        name = f"{self._name} (overflow)" if outcome is Outcome.OVERFLOW else self._name
        failure = outcome.value if outcome is not Outcome.OK and (outcome is not Outcome.OVERFLOW or self._failed()) else None
        delta, now = StatsEntry(self._stats, name, METHOD), time.time()
        count = sum(more.values())
        for bucket, times in more.items():
            milliseconds = value_of(bucket) * 1000
            delta.response_times[_rounded(milliseconds)] += times
            delta.total_response_time += milliseconds * times  # type: ignore[assignment]  # Locust's own are floats, too
        delta.num_requests = count
        delta.min_response_time = value_of(min(more)) * 1000  # type: ignore[assignment]  # as above
        delta.max_response_time = min(value_of(max(more)), histogram.max_s) * 1000  # type: ignore[assignment]  # as above
        delta.num_reqs_per_sec[int(now)] = count
        delta.last_request_timestamp = now
        if failure is not None:
            delta.num_failures = count
            delta.num_fail_per_sec[int(now)] = count
            key = StatsError.create_key(METHOD, name, failure)
            error = self._stats.errors.setdefault(key, StatsError(METHOD, name, failure))
            error.occurrences += count
        self._stats.get(name, METHOD).extend(delta)
        self._stats.total.extend(delta)


def _rounded(milliseconds: float) -> int:
    """Round as Locust does: to two digits from 100 ms on."""
    whole = round(milliseconds)
    digits = len(str(whole)) - 2
    return round(whole, -digits) if digits > 0 else whole
