"""What will each phase of a scenario show? One prediction a phase with a limit, before any load; no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadgen.estimate import WAY_S, Case, Prediction, Stretch
from loadgen.pacing import Open
from loadgen.prediction import predict, undetermined
from loadgen.quantity import duration_text, interval_text
from loadgen.scenario import OpenLoad

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadgen.policy.limits import Limits
    from loadgen.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is predicted of one phase: of each client, and of ``clients`` together.

    ``rate_per_s`` is set where the rate of an open load changes: then there is a prediction for each at which it stays for a while in the phase, and ``duration_s`` is for how
    long, where no time passes between two phases. ``service_time`` is what is taken for granted.
    """

    phase: str
    duration_s: float
    clients: int
    prediction: Prediction
    service_time: str
    rate_per_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Give the outlook as ``plan --json`` prints it."""
        offered = self.prediction.offered
        return {
            "phase": self.phase,
            "duration_s": self.duration_s,
            "rate_per_s": self.rate_per_s,
            "service_time": self.service_time,
            "law": self.prediction.law.value,
            "because": self.prediction.because,
            "offered": None if offered is None else round(offered.high, 4),
            "client": self.prediction.to_json(),
            "service": self.prediction.to_json(self.clients),
        }


_MOMENT_S = 1e-6


def outlooks(scenario: Scenario, limits: Limits, *, http2: bool = False, ejected: bool = False) -> Iterator[Outlook]:
    """Predict every phase in which these limits are in force."""
    service, pacing = scenario.service.time, scenario.load.pacing
    time = f"{interval_text(service.mean_s, exponential=service.exponential)}, and up to {duration_text(WAY_S)} more on the way"
    changes = isinstance(pacing, Open) and pacing.course.steady_rate_per_s(0.0, math.inf) is None
    for span in scenario.spans():
        coming = span.coming(pacing.course) if isinstance(pacing, Open) else None
        held: dict[float | None, float] = dict(coming.held_s.items()) if coming else {}
        rest_s = span.phase.duration - sum(held.values())
        if not held or rest_s > _MOMENT_S:
            held[None] = rest_s  # of a load without a rate, or while it changes
        for rate, seconds in held.items() if span.phase.policy == "applied" else ():
            case = case_of(scenario, limits, rate or 0.0, http2=http2, ejected=ejected)
            found = undetermined(case) if changes and rate is None else predict(case, Stretch.planned(service, seconds, coming))
            if found is not None:
                yield Outlook(span.phase.name, seconds, case.clients, found, time, rate if changes else None)


def case_of(scenario: Scenario, limits: Limits, rate_per_s: float, *, http2: bool = False, ejected: bool = False) -> Case:
    """Say what is to be predicted of a scenario."""
    load, status = scenario.load, scenario.service.status
    return Case(
        limits,
        load.pacing,
        scenario.service.time,
        workers=scenario.clients.workers,
        clients=scenario.clients.count,
        rate_per_s=rate_per_s,
        max_in_flight=load.max_in_flight if isinstance(load, OpenLoad) else None,
        timeout_s=load.timeout,
        http2=http2,
        unexpected_status=None if status == scenario.target.expect.status else status,
        ejected=ejected,
    )
