"""What was measured of a metric in a phase? The figures that expectations are compared with; None for what does not exist."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from loadgen.expectation import Kind, measure_of
from loadgen.outcome import Outcome
from loadgen.recorder import merged
from loadgen.summary import latency_s

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.recorder import Tally
    from loadgen.report import PhasePart


class PhaseFigures:
    """The figures of one phase; those of latencies, which the report holds only some of, come from the clients' tallies."""

    def __init__(self, phase: PhasePart, tallies: Mapping[str, Tally]) -> None:
        self._phase = phase
        self._tallies = tallies

    def __getitem__(self, metric: str, /) -> float | str | None:
        measure, phase = measure_of(metric), self._phase
        if measure.kind is Kind.OUTCOME:
            return phase.outcomes[measure.name]
        if measure.kind is Kind.RATE:
            count = phase.outcomes[measure.outcome] if measure.outcome else phase.requests
            return count / phase.duration_s if phase.duration_s else None
        if measure.name == "convergence":
            return phase.convergence_s.max if phase.convergence_s else None
        if measure.kind is Kind.DURATION:
            return latency_s(
                self._tally.latency[measure.outcome or Outcome.OK], measure.quantile if measure.quantile is not None else measure.name
            )
        counts = {"requests": phase.requests, "ledger": phase.imbalance, "peak_in_flight": phase.service.peak_in_flight}
        return counts[measure.name]

    @cached_property
    def _tally(self) -> Tally:
        return merged(self._tallies.values())


class _Nothing:
    """The figures of a phase that was not measured: none of anything."""

    def __getitem__(self, _metric: str, /) -> None:
        return None


NOTHING = _Nothing()
