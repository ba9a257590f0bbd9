"""How many requests a second get through at most, where chance is all that widens it? Users who are never rejected, and places that are never idle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.estimate import NOTHING, Estimate
from loadgen.queueing import busy_rate_per_s, chance_per_s

if TYPE_CHECKING:
    from loadgen.estimate import Case, Stretch
    from loadgen.pacing import Closed


def rounds_per_s(case: Case, stretch: Stretch, load: Closed) -> Estimate:
    """Give how many requests a second the users of a client make who are neither rejected nor wait; nothing if it is not known that a round takes time."""
    think_s, service = load.think.mean_s, stretch.service_s
    if not think_s + service.low:
        return NOTHING
    variation = 2 * stretch.scatter - 1 if case.service is None else float(case.service.exponential)
    low, high = (
        load.users / round_s
        + sign
        * (
            chance_per_s(load.users, round_s, load.think.exponential * think_s**2 + variation * taken_s**2, stretch.seconds * case.clients)
            + stretch.begun_per_s(load.users)
        )
        for sign, round_s, taken_s in (
            (-1, think_s + stretch.overhead_s + service.high, service.high),
            (1, think_s + service.low, service.low),
        )
    )
    return Estimate(load.users / (think_s + stretch.overhead_s / 2 + stretch.middle_s), max(0.0, low), high)


def busy_per_s(places: float, case: Case, stretch: Stretch) -> float | None:
    """Give what so many places of a client let through a second at most, on average over all clients; chance widens it. None if the service may take no time."""
    if not stretch.service_s.low:
        return None
    variation = 2 * stretch.scatter - 1 if case.service is None else float(case.service.exponential)
    return busy_rate_per_s(places, stretch.service_s.low, variation, stretch.seconds * case.clients) + stretch.begun_per_s(places)
