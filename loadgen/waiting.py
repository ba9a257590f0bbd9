"""What will be seen of ``maxConnections``? What finds no connection waits: how many are served at a time, how a queue grows, and who waits for too long; no load, no I/O."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from loadgen.estimate import LATE_SHARE, NOTHING, Estimate, Law, Prediction
from loadgen.pacing import Closed, Coming, Open, RateCourse
from loadgen.policy.limits import UNSET, connections_come_first
from loadgen.quantity import about_text, duration_text, rate_text
from loadgen.queueing import Queue, chance_per_s, queue_loss, waiting_share
from loadgen.throughput import busy_per_s, rounds_per_s

if TYPE_CHECKING:
    from loadgen.estimate import Case, Stretch
    from loadgen.pacing import Pacing
    from loadgen.queueing import Span


def predict_waiting(case: Case, stretch: Stretch, servers: int, places: int | None) -> Prediction:
    """Predict for ``places`` to wait in, None if more than can come."""
    admitted, service = _connected(case, servers), stretch.service_s
    most = _through_most(case, stretch, admitted, places)
    limits = case.limits.in_force()
    if (requests := limits.get("http2MaxRequests")) is not None and (
        case.service is None or not connections_come_first(limits, case.workers)
    ):
        why = (
            "each endpoint of the service may have one, and how many there are is not known"
            if case.service is None
            else f"{case.workers} workers of Envoy race for them"
        )
        because = f"there may be more connections than maxConnections {servers}, for {why}; so http2MaxRequests {requests} may reject some: how many is not predicted"
        return Prediction(Law.QUEUE, because, admitted, NOTHING, most)
    too_long = _too_long(case, stretch, admitted.high, places)
    if too_long.some:
        most = replace(most, value=None)  # places are spent on what is about to give up: how many, theory does not say
    if places is None:
        because = f"with maxConnections {servers} nothing is rejected: what finds no connection waits{', without an end' if case.limits.max_pending_requests == UNSET else ''}"
        return Prediction(Law.QUEUE, because + too_long.said, admitted, Estimate(0.0, 0.0, 0.0), most)
    how = f"with maxConnections {servers} so many are served at a time over warm connections, and with http1MaxPendingRequests so many more wait: {places}{too_long.said}"
    if case.at_once is not None and case.at_once <= servers + places:
        because = f"{how}; a client has at most {case.at_once} in flight, so it rejects only while connections are set up: how many is not predicted"
        return Prediction(Law.QUEUE, because, admitted, NOTHING, replace(most, value=None))
    exponential = case.service is not None and case.service.exponential and service.high > 0
    if isinstance(case.load, Open) and case.load.poisson and exponential and case.workers == 1 and not too_long.some:
        found = queue_loss(servers, places, case.rate_per_s, stretch.middle_s)
        because = f"{how}; with one worker, one endpoint and Poisson arrivals that is the queue M/M/{servers}/{servers + places}. While connections are set up it rejects more, so it is not judged"
        return Prediction(
            Law.QUEUE, because, admitted, Estimate(found.share), replace(most, value=found.through_per_s), stretch.offered(case.rate_per_s)
        )
    return Prediction(Law.QUEUE, f"{how}; how many are rejected depends on when they come, and is not predicted", admitted, NOTHING, most)


def _through_most(case: Case, stretch: Stretch, admitted: Estimate, places: int | None) -> Estimate:
    """Give what gets through at most: what so many connections serve, and no more than is offered; ``value`` is that of the long run."""
    served = None if admitted.value is None or admitted.high is None or not stretch.service_s.low else admitted.value / stretch.middle_s
    busy = None if admitted.high is None else busy_per_s(admitted.high, case, stretch)
    match case.load:
        case Closed():
            offered = rounds_per_s(case, stretch, case.load)
        case Open():
            rate = case.rate_per_s
            chance = chance_per_s(1, 1 / rate, 1 / rate**2, stretch.seconds * case.clients) if case.load.poisson and rate else 0.0
            # how much waits in a queue without an end when the stretch begins is not known, and it may get through, too
            high = rate + chance + stretch.begun_per_s((admitted.high or 0.0) + places) if places is not None else None
            coming = stretch.coming
            empty = coming is None or coming.steady or coming.course.highest_per_s * stretch.service_s.high <= (admitted.value or 0.0)
            offered = Estimate(rate, None, high) if places is not None or empty else NOTHING
        case _:
            offered = NOTHING
    if served is None or busy is None:
        return NOTHING
    return Estimate(
        min(served, served if offered.value is None else offered.value), None, busy if offered.high is None else min(busy, offered.high)
    )


class _TooLong(NamedTuple):
    """Whether some wait for longer than the timeout, and what is said of the queue."""

    some: bool
    said: str


_NOBODY = _TooLong(some=False, said="")


def _too_long(case: Case, stretch: Stretch, served: float | None, places: int | None) -> _TooLong:
    """Say who waits for longer than the timeout, if no more than ``served`` are served at a time, and how a queue without an end grows; of a service whose time is not known nothing."""
    service_s, at_once = stretch.service_s.low, math.inf if case.at_once is None else case.at_once
    if served is None or not service_s or at_once <= case.limits.max_connections:
        return _NOBODY
    room = math.inf if places is None else places
    most = min(at_once, served + room)
    if isinstance(case.load, Open) and case.rate_per_s * service_s <= served:
        if case.load.poisson:
            return _by_chance(case, service_s, math.floor(served), places)
        return _at_capacity(case, stretch, served, most)
    if isinstance(case.load, Open):
        queue = Queue(served, service_s, most, case.timeout_s)
        return _growing(case, stretch, queue, rejecting=served + room < at_once)
    constant = case.service is not None and not case.service.exponential
    answered_s = answered_last_s(case.load, at_once, room, served, stretch.service_s, constant=constant)
    if answered_s <= case.timeout_s:
        return _NOBODY
    timeout = duration_text(case.timeout_s)
    return _TooLong(
        some=True, said=f"; what comes last would be answered after about {about_text(answered_s)}, and the timeout is {timeout}"
    )


def answered_last_s(load: Pacing, at_once: float, room: float, served: float, service_s: Span, *, constant: bool) -> float:
    """Give how long it takes until the last of a closed load or a burst is answered, of whom so many are served at a time and there is ``room`` for others; 0 if none has to wait.

    Of users who think, those do not wait. Those who do not are served in rounds, if the service takes a ``constant`` time.
    """
    think_s = load.think.mean_s if isinstance(load, Closed) else 0.0
    waiting = min(at_once - served - served * think_s / service_s.low, room)
    rounds = waiting / served if think_s or not constant else math.ceil(waiting / served)
    return rounds * service_s.low + service_s.high if waiting > 0 else 0.0


def _growing(case: Case, stretch: Stretch, queue: Queue, *, rejecting: bool) -> _TooLong:
    """Say how a queue grows, and what ends that within the stretch; one that is ``rejecting`` what is too much has an end."""
    because = f", and the queue grows for as long as {rate_text(case.rate_per_s)} come and {rate_text(queue.served_per_s)} can be served"
    found = queue.walk(_coming(case, stretch))
    said = "" if rejecting else because
    if found.late_s is not None:
        said += f"; what comes after about {about_text(found.late_s)} waits longer than the timeout of {duration_text(case.timeout_s)}"
    if found.full_s is not None and not rejecting:
        said += f"; after about {about_text(found.full_s)} there are {case.max_in_flight} in flight, and what would be more is not sent"
    return _TooLong(found.late_s is not None, said)


def _at_capacity(case: Case, stretch: Stretch, served: float, most: float) -> _TooLong:
    """Say who waits for too long if constant arrivals are more than can be served, for a request may take a little more than the service does."""
    longest_s = stretch.service_s.high
    if case.rate_per_s * longest_s <= served:
        return _NOBODY
    found = Queue(served, longest_s, most, case.timeout_s).walk(_coming(case, stretch))
    if found.late_s is None:
        return _NOBODY
    takes, timeout = duration_text(longest_s), duration_text(case.timeout_s)
    return _TooLong(
        some=True,
        said=f"; if each takes {takes}, what comes after about {about_text(found.late_s)} waits longer than the timeout of {timeout}",
    )


def _coming(case: Case, stretch: Stretch) -> Coming:
    return stretch.coming or Coming(RateCourse(case.rate_per_s), 0.0, 0.0, stretch.seconds)


def _by_chance(case: Case, service_s: float, served: int, places: int | None) -> _TooLong:
    """Say whether a queue of Poisson arrivals that does not grow is so long by chance that some wait too long. Before a constant service about half as many wait (Pollaczek and Khinchine)."""
    room = min((each for each in (places, case.max_in_flight) if each is not None), default=None)
    if room is None or case.service is None:
        return _NOBODY
    before = served * (case.timeout_s - service_s) / service_s * (1 if case.service.exponential else 2)
    if before > room or waiting_share(served, room, case.rate_per_s, service_s, before) <= LATE_SHARE:
        return _NOBODY
    return _TooLong(some=True, said=f"; by chance some may wait longer than the timeout of {duration_text(case.timeout_s)}")


def _connected(case: Case, servers: int) -> Estimate:
    """Give how many are served at a time over so many connections: each worker may have one to each endpoint, whatever the limit says, and workers race."""
    limits = [servers] if case.service is not None else []
    limits += [] if case.limits.max_requests == UNSET else [case.limits.max_requests]
    if not limits:
        return Estimate(servers)
    bounds = [limit + case.workers - 1 for limit in limits] + [each for each in (case.at_once,) if each is not None]
    return Estimate(min(servers, *bounds), None, min(bounds))
