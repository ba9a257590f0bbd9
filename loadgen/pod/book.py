"""What has this process counted since its start? Figures that only ever grow, whatever load they came from: what Prometheus reads.

The law: every tally that ends is entered once, under the phase in which its requests ended; nothing is taken out again. A distribution is kept
in the few coarse buckets that Prometheus gets, so the book does not grow and reading it costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.outcome import Outcome
from loadgen.totals import BETWEEN_PHASES, Distribution, empty_outcomes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.recorder import Tally

OWN_LOAD = "own_load"
OTHER_PHASES = "other_phases"
"""Names that no phase of a scenario can have: they hold an underscore."""
MAX_PHASES = 8
"""So many phases are told apart; names come from outside, and each costs the scrape 170 lines."""


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
        self._phases.setdefault(phase, empty_outcomes())
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
