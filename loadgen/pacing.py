"""When is the next request due? Pure functions of what happened and of a seeded random source; no clock.

Terms: in a *closed* load each of C users waits for its answer, thinks, and sends again; in an *open* load requests arrive at a rate,
whatever the answers do; in a *burst* B requests are due at the same moment, and again some time after the last of them was answered.
Times are seconds since the load began.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random


FASTEST_ANSWER_S = 0.0005
EXPECTED_ANSWER_S = 0.01


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

    @property
    def at_once(self) -> int:
        """How many connections should be open before the load begins."""

    @property
    def immediate(self) -> bool:
        """Whether every answer makes exactly one request due at once, so that the engine need not ask."""

    def first(self, rng: Random) -> list[float]:
        """Give the due times of the first requests."""

    def after_due(self, due: float, rng: Random) -> float | None:
        """Give the due time that follows from a request having been due, if any."""

    def after_done(self, done: float, left: int, rng: Random) -> Iterable[float]:
        """Give the due times that follow from a request having ended, while ``left`` others are still in flight or due."""


def highest_closed_rate_per_s(users: int, think: Interval) -> float:
    """Give the rate that so many users reach at most, if no answer comes faster than 0.5 ms."""
    return users / (think.mean_s + FASTEST_ANSWER_S)


@dataclass(frozen=True, slots=True)
class Closed:
    """``users`` users; each sends, waits for the answer, thinks, and sends again. The first requests are spread over one think time."""

    users: int
    think: Interval = Interval()

    @property
    def at_once(self) -> int:
        """Each user has a connection of its own."""
        return self.users

    @property
    def immediate(self) -> bool:
        """Without think time an answer is the next request's due time."""
        return not self.think.mean_s

    def first(self, rng: Random) -> list[float]:
        """Give one due time a user."""
        return [rng.random() * self.think.mean_s for _ in range(self.users)]

    def after_due(self, due: float, rng: Random) -> None:
        """Nothing follows before the answer."""

    def after_done(self, done: float, left: int, rng: Random) -> tuple[float]:
        """The same user is due again once it has thought."""
        return (done + self.think.draw(rng),)


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a rate's course: a straight ramp to ``rate_per_s``, then that rate for ``hold_s``."""

    rate_per_s: float
    ramp_s: float = 0.0
    hold_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Stretch:
    """From ``start_s`` on, after ``arrivals`` arrivals, the rate is ``rate_per_s`` and changes by ``slope`` per second."""

    start_s: float
    arrivals: float
    rate_per_s: float
    slope: float

    def arrived(self, at: float) -> float:
        elapsed = at - self.start_s
        return self.arrivals + elapsed * (self.rate_per_s + self.slope * elapsed / 2)

    def when(self, arrivals: float) -> float:
        """Invert ``arrived``. The form of the quadratic formula that does not cancel for a small slope."""
        missing = arrivals - self.arrivals
        if not missing:
            return self.start_s
        root = math.sqrt(max(0.0, self.rate_per_s**2 + 2 * self.slope * missing))
        if self.rate_per_s + root:
            return self.start_s + 2 * missing / (self.rate_per_s + root)
        return self.start_s if self.slope > 0 else math.inf  # so few that the root is 0, or none any more


_STEPS, _FEWEST_STEPS = 1000, 10
"""Into so many moments a time is cut in all, and at least into so many between two changes of the rate."""


class RateCourse:
    """A rate of arrivals over time: ``rate_per_s`` from the start, then through the stages; the last rate stays.

    ``arrived`` is the expected number of arrivals until a time and ``when`` its inverse, so evenly spaced numbers make constant arrivals, and
    exponentially spaced ones a Poisson process of that rate (the time-change theorem). Two with the same stretches are equal.
    """

    def __init__(self, rate_per_s: float, stages: Iterable[Stage] = ()) -> None:
        self._stretches: list[_Stretch] = []
        now, arrivals, rate, highest = 0.0, 0.0, rate_per_s, 0.0
        for stage in stages:
            for duration, slope in ((stage.ramp_s, (stage.rate_per_s - rate) / stage.ramp_s if stage.ramp_s else 0.0), (stage.hold_s, 0.0)):
                if duration:
                    stretch = _Stretch(now, arrivals, rate, slope)
                    self._stretches.append(stretch)
                    now, arrivals = now + duration, stretch.arrived(now + duration)
                    highest = max(highest, rate, stage.rate_per_s)
                rate = stage.rate_per_s
        self._stretches.append(_Stretch(now, arrivals, rate, 0.0))
        self.highest_per_s = max(highest, rate)
        self._starts = [stretch.start_s for stretch in self._stretches]
        self._arrivals = [stretch.arrivals for stretch in self._stretches]

    def __eq__(self, other: object) -> bool:
        return self._stretches == other._stretches if isinstance(other, RateCourse) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._stretches))

    def arrived(self, at: float) -> float:
        """Give the expected number of arrivals until a time."""
        return self._stretches[bisect_right(self._starts, at) - 1].arrived(at)

    def steady_rate_per_s(self, start: float, end: float) -> float | None:
        """Give the rate between two times, None if it changes in between."""
        first, last = (max(0, bisect_right(self._starts, at) - 1) for at in (start, end))
        stretches = self._stretches[first : last + 1]
        rates = {stretch.rate_per_s for stretch in stretches}
        return rates.pop() if len(rates) == 1 and not any(stretch.slope for stretch in stretches) else None

    def held_s(self, start: float, end: float) -> dict[float, float]:
        """Give the rates that stay for a while between two times, and for how many seconds in all."""
        held: dict[float, float] = {}
        for stretch, until in zip(self._stretches, [*self._starts[1:], math.inf], strict=True):
            seconds = min(end, until) - max(start, stretch.start_s)
            if seconds > 0 and not stretch.slope:
                held[stretch.rate_per_s] = held.get(stretch.rate_per_s, 0.0) + seconds
        return held

    def times(self, start: float, end: float) -> list[float]:
        """Give moments from one time to another at which to look at what depends on the rate: those at which its course changes, and many after each, the later the fewer."""
        changes = [start, *(at for at in self._starts if start < at < end), end]
        steps = max(_STEPS // (len(changes) - 1), _FEWEST_STEPS)
        return [start, *(one + (other - one) * (step / steps) ** 3 for one, other in pairwise(changes) for step in range(1, steps + 1))]

    def when(self, arrivals: float) -> float:
        """Give the time until which so many arrivals are expected; infinity if there never are so many."""
        return self._stretches[bisect_right(self._arrivals, arrivals) - 1].when(arrivals)


@dataclass(frozen=True, slots=True)
class Coming:
    """What comes between two times of a course, and before them, from ``since_s`` on, under the same limits: a queue may be there from then."""

    course: RateCourse
    since_s: float
    begins_s: float
    ends_s: float

    @property
    def count(self) -> float:
        """How many are expected."""
        return self.course.arrived(self.ends_s) - self.course.arrived(self.begins_s)

    @property
    def steady(self) -> bool:
        """Whether the rate has been the same all the time."""
        return self.course.steady_rate_per_s(self.since_s, self.ends_s) is not None

    @property
    def held_s(self) -> dict[float, float]:
        """The rates that stay for a while, and for how many seconds in all."""
        return self.course.held_s(self.begins_s, self.ends_s)

    @property
    def times(self) -> list[float]:
        """Moments at which to look, from ``since_s`` on."""
        return self.course.times(self.since_s, self.ends_s)


@dataclass(frozen=True, slots=True)
class Open:
    """Arrivals along a course of the rate, constant or as a Poisson process, whatever the answers do.

    The first of constant arrivals comes at a random part of an interval, so that several clients are not in step.
    """

    course: RateCourse
    poisson: bool = False
    immediate: bool = False

    @property
    def at_once(self) -> int:
        """Little's law, for answers of 10 ms. Without open connections a fast load would begin with hundreds of requests that wait for one."""
        return math.ceil(self.course.highest_per_s * EXPECTED_ANSWER_S)

    def first(self, rng: Random) -> list[float]:
        """Give the first arrival."""
        return self._due(rng.expovariate(1) if self.poisson else rng.random())

    def after_due(self, due: float, rng: Random) -> float | None:
        """The next arrival follows the schedule, not the clock: a late sender does not slow the schedule down."""
        following = self._due(self.course.arrived(due) + (rng.expovariate(1) if self.poisson else 1.0))
        return following[0] if following else None

    def after_done(self, done: float, left: int, rng: Random) -> tuple[()]:
        """An answer makes nothing due."""
        return ()

    def _due(self, arrivals: float) -> list[float]:
        due = self.course.when(arrivals)
        return [due] if due < math.inf else []


@dataclass(frozen=True, slots=True)
class Burst:
    """``size`` requests at the same moment, and again ``pause_s`` after the last of them has ended."""

    size: int
    pause_s: float
    immediate: bool = False

    @property
    def at_once(self) -> int:
        """All of them."""
        return self.size

    def first(self, rng: Random) -> list[float]:
        """Give the first burst."""
        return [0.0] * self.size

    def after_due(self, due: float, rng: Random) -> None:
        """Nothing follows before the answers."""

    def after_done(self, done: float, left: int, rng: Random) -> list[float]:
        """The last answer makes the next burst due."""
        return [] if left else [done + self.pause_s] * self.size
