"""What was counted since the start, in the few coarse buckets that Prometheus gets? Figures that only ever grow.

The laws: a request is in one phase only, that of the tally in which its end was counted; a tally counts for nothing until it is known to which
phase it belongs; and what was shown once is never taken back, however late, or twice, a tally is told.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loadgen.outcome import Outcome
from loadgen.recorder import INFINITE_BUCKET, buckets_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loadgen.recorder import Histogram, Tally

BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds; an overflow takes half a millisecond, a request that times out 5 s."""
_WRITTEN = (*map(str, BOUNDS_S), "+Inf")
_EDGES = tuple(buckets_of(BOUNDS_S))
"""The fine bucket that holds each bound. It counts as below the bound, so a bound is exact to 0.8 %."""
_PLACES = b"".join(
    bytes([place]) * (edge - below) for place, (below, edge) in enumerate(itertools.pairwise((-1, *_EDGES, INFINITE_BUCKET - 1)))
)
"""For each fine bucket its place among the bounds: a scrape looks up some thousand of them."""
BETWEEN_PHASES = "between_phases"
OTHER_CLIENTS = "other_clients"
"""Names that no phase and no client can have: they hold an underscore."""
MAX_CLIENTS = 200
"""So many clients are told apart."""


class Distribution:
    """How many durations were at most how long: ``counts`` by the bounds, the last one for the longer ones; all together ``sum_s`` seconds."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, histogram: Histogram) -> None:
        """Enter a histogram."""
        counts, places = self.counts, _PLACES
        for bucket, count in histogram.buckets.items():
            counts[places[bucket]] += count
        self.sum_s += histogram.sum_s

    def merge(self, other: Distribution) -> None:
        """Enter another distribution."""
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum_s += other.sum_s

    @property
    def cumulative(self) -> list[tuple[str, float]]:
        """How many were at most as long as each bound, which is written as Prometheus does."""
        return list(zip(_WRITTEN, itertools.accumulate(self.counts), strict=True))

    @property
    def count(self) -> int:
        """All durations."""
        return sum(self.counts)


def empty_outcomes() -> dict[Outcome, Distribution]:
    """Give every outcome with nothing in it, so that its rate starts there."""
    return {outcome: Distribution() for outcome in Outcome}


@dataclass(slots=True)
class _Part:
    """What one tally of a client holds."""

    requests: int
    latency: dict[Outcome, Distribution]
    lag: Distribution

    @classmethod
    def of(cls, tally: Tally, before: _Part | None = None) -> _Part:
        """Read a tally; what has not changed since ``before`` is taken from there."""
        latency = {}
        for outcome, histogram in tally.latency.items():
            if histogram.count:
                latency[outcome] = _distribution(histogram, before.latency.get(outcome) if before else None)
        lag = _distribution(tally.lag, before.lag if before else None)
        return cls(sum(each.count for each in latency.values()), latency, lag)


def _distribution(histogram: Histogram, before: Distribution | None) -> Distribution:
    if before is not None and before.count == histogram.count:
        return before
    distribution = Distribution()
    distribution.add(histogram)
    return distribution


@dataclass(slots=True)
class Figures:
    """The figures at a moment: latencies by phase and outcome, how late requests were sent, and counts by client, phase and outcome."""

    latency: dict[str, dict[Outcome, Distribution]]
    lag: Distribution = field(default_factory=Distribution)
    clients: Counter[tuple[str, str, Outcome]] = field(default_factory=Counter)

    def enter(self, client: str, phase: str, part: _Part) -> None:
        """Add what a client's tally holds."""
        outcomes = self.latency.setdefault(phase, empty_outcomes())
        for outcome, distribution in part.latency.items():
            outcomes[outcome].merge(distribution)
            self.clients[client, phase, outcome] += distribution.count
        self.lag.merge(part.lag)


class Totals:
    """The figures of a run. All ``phases`` are there from the start, and so are all clients once they are known, with every outcome at 0.

    A phase that comes again, ``limited-2``, counts with the first one: how often a policy is toggled does not make more figures.
    """

    def __init__(self, phases: Sequence[str]) -> None:
        self._phases = (BETWEEN_PHASES, *phases)
        self._shown: dict[str, str] = {}
        """By client: the name under which it is shown."""
        self._opened: dict[tuple[str, int], str] = {}
        self._done: dict[str, int] = {}
        """By client: the number of its last tally that is complete."""
        self._present: dict[tuple[str, int], _Part] = {}
        """By client and tally: while one ends, the next one may have begun already."""
        self._ended = Figures({phase: empty_outcomes() for phase in self._phases})

    def expect(self, clients: Iterable[str]) -> None:
        """Make clients appear. What changes at the same time lies together, so that little of the page has to be written again."""
        for client in clients:
            self._shown.setdefault(client, client if len(self._shown) < MAX_CLIENTS else OTHER_CLIENTS)
        for phase, outcome, name in itertools.product(self._phases, Outcome, self._shown.values()):
            self._ended.clients.setdefault((name, phase, outcome), 0)

    def opens(self, client: str, number: int, phase: str) -> None:
        """Say that this tally of a client is what it counts of a phase; no name stands for what lies between two phases."""
        self._opened[client, number] = self._known(phase) if phase else BETWEEN_PHASES

    def notice(self, client: str, tally: Tally) -> None:
        """Take in what the present tally of a client says now. One that is complete, or of which more was known before, is stale news."""
        if tally.number <= self._done.get(client, -1):
            return
        known = self._present.get((client, tally.number))
        part = _Part.of(tally, known)
        if known is None or (part.requests >= known.requests and part.lag.count >= known.lag.count):
            self._present[client, tally.number] = part

    def complete(self, client: str, tally: Tally) -> None:
        """Take in a tally that has ended: it gets nothing more."""
        if tally.number <= self._done.get(client, -1):
            return
        self._done[client] = tally.number
        self._present.pop((client, tally.number), None)
        self._ended.enter(self._name(client), self._opened.pop((client, tally.number), BETWEEN_PHASES), _Part.of(tally))

    def figures(self) -> Figures:
        """Give what is known now."""
        now = Figures({phase: empty_outcomes() for phase in self._phases}, clients=Counter(self._ended.clients))
        for phase, outcomes in self._ended.latency.items():
            for outcome, distribution in outcomes.items():
                now.latency.setdefault(phase, empty_outcomes())[outcome].merge(distribution)
        now.lag.merge(self._ended.lag)
        for (client, number), part in self._present.items():
            if (client, number) in self._opened:
                now.enter(self._name(client), self._opened[client, number], part)
        return now

    def _known(self, phase: str) -> str:
        first, _, number = phase.rpartition("-")
        return first if phase not in self._phases and number.isdigit() and first in self._phases else phase

    def _name(self, client: str) -> str:
        return self._shown.get(client, OTHER_CLIENTS)
