"""How do the engine's counts get into Locust's statistics? By what a tally has more than at the last look, entered all at once.

The law: a request is entered once, so Locust's counts are the engine's in the end. And an overflow is forgiven if a rule may have been in force
when it happened, not when we hear of it: a tally comes late, so one in which a rule was at any moment is one with a rule.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from locust.stats import StatsEntry, StatsError

from loadgen.outcome import Outcome
from loadgen.recorder import value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from locust.stats import RequestStats

    from loadgen.recorder import Histogram, Tally

METHOD = "GET"


class Statistics:
    """Enters tallies. ``failed`` tells whether an overflow is a failure, with a rule or without one."""

    def __init__(self, stats: RequestStats, failed: Callable[[bool], bool]) -> None:
        self._stats = stats
        self._failed = failed
        self._name = ""
        self._entered: dict[tuple[str, int, Outcome], Counter[int]] = {}
        self._ruled = False
        self._with_rule: dict[str, bool] = {}
        """By client: whether a rule may have been in force since its present tally began."""

    def begin(self, name: str, clients: Iterable[str]) -> None:
        """Enter what comes of these clients under this name; nothing of it was entered yet, and there is no rule."""
        self._name = name
        self._entered.clear()
        self._ruled = False
        self._with_rule = dict.fromkeys(clients, False)

    def rule(self, ruled: bool) -> None:
        """Take in whether a rule may be in force from now on."""
        self._ruled = ruled
        if ruled:
            self._with_rule = dict.fromkeys(self._with_rule, True)

    def notice(self, client: str, tally: Tally, *, ended: bool = False) -> None:
        """Enter what a client's tally has more than before; ``ended`` says that another one follows."""
        for outcome, histogram in tally.latency.items():
            before = self._entered.setdefault((client, tally.number, outcome), Counter())
            if histogram.count > before.total():
                more = {bucket: count - before[bucket] for bucket, count in histogram.buckets.items() if count > before[bucket]}
                before.update(more)
                self._enter(outcome, more, histogram, self._failed(self._with_rule[client]))
        if ended:
            self._with_rule[client] = self._ruled

    def _enter(self, outcome: Outcome, more: dict[int, int], histogram: Histogram, overflow_fails: bool) -> None:
        name = f"{self._name} (overflow)" if outcome is Outcome.OVERFLOW else self._name
        failure = outcome.value if outcome is not Outcome.OK and (outcome is not Outcome.OVERFLOW or overflow_fails) else None
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
            error.first_seen, error.last_seen = getattr(error, "first_seen", None) or now, now  # Locust 2.44 has neither
        self._stats.get(name, METHOD).extend(delta)
        self._stats.total.extend(delta)


def _rounded(milliseconds: float) -> int:
    """Round as Locust does: to two digits from 100 ms on."""
    whole = round(milliseconds)
    digits = len(str(whole)) - 2
    return round(whole, -digits) if digits > 0 else whole
