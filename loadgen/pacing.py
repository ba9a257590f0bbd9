"""When is the next request due? Pure functions of what happened and of a seeded random source; no clock.

Terms: in a *closed* load each of C users waits for its answer, thinks, and sends again; in an *open* load requests arrive at a rate,
whatever the answers do. Times are seconds on one monotonic axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True, slots=True)
class Interval:
    """A time between two events: always ``mean_s``, or drawn from an exponential distribution with that mean."""

    mean_s: float = 0.0
    exponential: bool = False

    def draw(self, rng: Random) -> float:
        """Give the next interval in seconds."""
        return rng.expovariate(1 / self.mean_s) if self.exponential and self.mean_s else self.mean_s


class Pacing(Protocol):
    """A load model, as the engine sees it."""

    def first(self, start: float, rng: Random) -> list[float]:
        """Give the due times of the first requests."""

    def after_due(self, due: float, rng: Random) -> float | None:
        """Give the due time that follows from a request having been due, if any."""

    def after_done(self, done: float, rng: Random) -> float | None:
        """Give the due time that follows from a request having been answered, if any."""


@dataclass(frozen=True, slots=True)
class Closed:
    """``users`` users; each sends, waits for the answer, thinks, and sends again. The first requests are spread over one think time."""

    users: int
    think: Interval = Interval()

    def first(self, start: float, rng: Random) -> list[float]:
        """Give one due time a user."""
        return [start + rng.random() * self.think.mean_s for _ in range(self.users)]

    def after_due(self, due: float, rng: Random) -> None:
        """Nothing follows before the answer."""

    def after_done(self, done: float, rng: Random) -> float:
        """The same user is due again once it has thought."""
        return done + self.think.draw(rng)


@dataclass(frozen=True, slots=True)
class Open:
    """Arrivals with the given time between them, whatever the answers do. Exponential intervals make it a Poisson process."""

    between: Interval

    def first(self, start: float, rng: Random) -> list[float]:
        """Give the first arrival."""
        return [start + self.between.draw(rng)]

    def after_due(self, due: float, rng: Random) -> float:
        """The next arrival follows the schedule, not the clock: a late sender does not slow the schedule down."""
        return due + self.between.draw(rng)

    def after_done(self, done: float, rng: Random) -> None:
        """An answer makes nothing due."""
