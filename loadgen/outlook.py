"""What will each phase of a scenario show? One prediction a phase with a limit, before any load; no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadgen.estimate import WAY_S, Case, Prediction, Stretch
from loadgen.prediction import predict
from loadgen.quantity import duration_text, interval_text
from loadgen.scenario import OpenLoad

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadgen.policy.limits import Limits
    from loadgen.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is predicted of one phase: of each client, and of ``clients`` together.

    ``rate_per_s`` is set where an open load has several rates: then there is a prediction for each, as if it held for the whole phase. ``service_time`` is what is taken for granted.
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


def outlooks(scenario: Scenario, limits: Limits, *, http2: bool = False) -> Iterator[Outlook]:
    """Predict every phase in which these limits are in force."""
    service, rates = scenario.service.time, _rates(scenario)
    for phase in scenario.phases:
        for rate in rates if phase.policy == "applied" else ():
            case = case_of(scenario, limits, rate or 0.0, http2=http2)
            found = predict(case, Stretch.planned(service, phase.duration))
            if found is not None:
                time = f"{interval_text(service.mean_s, exponential=service.exponential)}, and up to {duration_text(WAY_S)} more on the way"
                yield Outlook(phase.name, phase.duration, case.clients, found, time, rate if len(rates) > 1 else None)


def case_of(scenario: Scenario, limits: Limits, rate_per_s: float, *, http2: bool = False) -> Case:
    """Say what is to be predicted of a scenario."""
    load = scenario.load
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
    )


def _rates(scenario: Scenario) -> list[float | None]:
    """Give every rate at which an open load stays for a while; one None for another load."""
    load = scenario.load
    if not isinstance(load, OpenLoad):
        return [None]
    rates, before = [], load.rate
    for stage in load.stages:
        if stage.hold or (stage.ramp and stage.rate == before):
            rates.append(stage.rate)
        before = stage.rate
    return list(dict.fromkeys([*rates, before]))
