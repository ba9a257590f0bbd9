"""What has this process counted since its start? Figures that only ever grow, whatever load they came from: what Prometheus reads.

The law: every tally that ends is entered once, under the phase in which its requests ended; nothing is taken out again. A distribution is kept
in the few coarse buckets that Prometheus gets, so the book does not grow and reading it costs next to nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from loadgen.outcome import Outcome
from loadgen.recorder import buckets_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.recorder import Histogram, Tally

BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds; an overflow takes half a millisecond, a request that times out 5 s."""
_EDGES = tuple(buckets_of(BOUNDS_S))
"""The fine bucket that holds each bound. It counts as below the bound, so a bound is exact to 0.8 %."""
OWN_LOAD = "own_load"
BETWEEN_PHASES = "between_phases"
OTHER_PHASES = "other_phases"
"""Names that no phase of a scenario can have: they hold an underscore."""
MAX_PHASES = 8
"""So many phases are told apart; names come from outside, and each costs the scrape 170 lines."""


class Distribution:
    """How many durations were at most how long: ``counts`` by the bounds, the last one for the longer ones; all together ``sum_s`` seconds."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, histogram: Histogram) -> None:
        """Enter a histogram."""
        for bucket, count in histogram.buckets.items():
            self.counts[bisect_left(_EDGES, bucket)] += count
        self.sum_s += histogram.sum_s

    @property
    def count(self) -> int:
        """All durations."""
        return sum(self.counts)


class Book:
    """The figures by phase and outcome, and how late requests were sent, in all."""

    def __init__(self) -> None:
        self.lag = Distribution()
        self._phases: dict[str, dict[Outcome, Distribution]] = {}
        self.open(OWN_LOAD)
        self.open(BETWEEN_PHASES)

    def open(self, phase: str) -> str:
        """Make a phase appear with all outcomes at 0, so that rates start there; give the name that it is entered under."""
        if phase not in self._phases and len(self._phases) >= MAX_PHASES + 2:
            phase = OTHER_PHASES
        self._phases.setdefault(phase, {outcome: Distribution() for outcome in Outcome})
        return phase

    def enter(self, phase: str, ended: Tally) -> None:
        """Enter a tally that counts no more."""
        outcomes = self._phases[self.open(phase)]
        for outcome, histogram in ended.latency.items():
            if histogram.count:
                outcomes[outcome].add(histogram)
        self.lag.add(ended.lag)

    @property
    def phases(self) -> Mapping[str, Mapping[Outcome, Distribution]]:
        """The distributions by phase and outcome."""
        return self._phases

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """How many requests ended how, in all phases."""
        return {outcome: sum(phase[outcome].count for phase in self._phases.values()) for outcome in Outcome}
