"""What will be seen of ``maxConnections``? What finds no connection waits: how many are served at a time, how a queue grows, and who waits for too long; no load, no I/O."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from loadgen.estimate import NOTHING, Estimate, Law, Prediction
from loadgen.pacing import Burst, Closed, Open
from loadgen.policy.limits import UNSET, connections_come_first
from loadgen.quantity import duration_text
from loadgen.queueing import Queue, chance_per_s, queue_loss
from loadgen.throughput import busy_per_s, rounds_per_s

if TYPE_CHECKING:
    from loadgen.estimate import Case, Stretch


def queueing(case: Case, stretch: Stretch, servers: int, places: int | None) -> Prediction:
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
    if places is None:
        because = f"with maxConnections {servers} nothing is rejected: what finds no connection waits{', without an end' if case.limits.max_pending_requests == UNSET else ''}"
        return Prediction(Law.QUEUE, because + too_long, admitted, Estimate(0.0, 0.0, 0.0), most)
    how = f"with maxConnections {servers} so many are served at a time over warm connections, and with http1MaxPendingRequests so many more wait: {places}"
    exponential = case.service is not None and case.service.exponential and service.high > 0
    if isinstance(case.load, Open) and case.load.poisson and exponential and case.workers == 1 and not too_long:
        found = queue_loss(servers, places, case.rate_per_s, stretch.middle_s)
        because = f"{how}; with one worker, one endpoint and Poisson arrivals that is the queue M/M/{servers}/{servers + places}. While connections are set up it rejects more, so it is not judged"
        return Prediction(
            Law.QUEUE, because, admitted, Estimate(found.share), replace(most, value=found.through_per_s), stretch.offered(case.rate_per_s)
        )
    return Prediction(
        Law.QUEUE, f"{how}{too_long}; how many are rejected depends on when they come, and is not predicted", admitted, NOTHING, most
    )


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
            high = None if places is None else rate + chance + stretch.begun_per_s((admitted.high or 0.0) + places)
            offered = Estimate(rate, None, high)
        case _:
            offered = NOTHING
    if served is None or busy is None:
        return NOTHING
    return Estimate(
        min(served, served if offered.value is None else offered.value), None, busy if offered.high is None else min(busy, offered.high)
    )


def _too_long(case: Case, stretch: Stretch, served: float | None, places: int | None) -> str:
    """Say what waits for longer than the timeout, and how a queue without an end grows, if no more than ``served`` are served at a time; nothing if it is not known, or none does."""
    service_s = stretch.service_s.low
    if served is None or not service_s:
        return ""
    if isinstance(case.load, Open) and places is None:
        return _growing(case, stretch, Queue(served, service_s, case.max_in_flight or math.inf, case.timeout_s))
    wait_s = min(_waiting(case, service_s, served), math.inf if places is None else places) * service_s / served
    if wait_s + service_s <= case.timeout_s:
        return ""
    return f"; what comes last waits for about {wait_s:.2g} s, and the timeout is {duration_text(case.timeout_s)}"


def _waiting(case: Case, service_s: float, served: float) -> float:
    """Give how many wait in a queue that takes all; of users who think, those who do not think or are served."""
    match case.load:
        case Closed(users=users, think=think):
            return max(0.0, users - served * (1 + think.mean_s / service_s))
        case Burst(size=size):
            return max(0.0, size - served)
    return (case.max_in_flight or math.inf) - served if case.rate_per_s * service_s > served else 0.0


def _growing(case: Case, stretch: Stretch, queue: Queue) -> str:
    """Say how a queue without an end grows, and what ends that within the stretch; nothing if it does not."""
    if case.rate_per_s <= queue.served_per_s:
        return ""
    because = f", and the queue grows for as long as {case.rate_per_s:.4g} a second come and {queue.served_per_s:.4g} can be served"
    found = queue.fill(lambda at: case.rate_per_s * at, 0.0, min(stretch.seconds, stretch.held_s))
    if found.full_s is not None and (found.late_s is None or found.full_s < found.late_s):
        return f"{because}; after about {found.full_s:.2g} s there are {case.max_in_flight} in flight, and what would be more is not sent"
    if found.late_s is not None:
        return f"{because}; what comes after about {found.late_s:.2g} s waits longer than the timeout of {duration_text(case.timeout_s)}"
    return because


def _connected(case: Case, servers: int) -> Estimate:
    """Give how many are served at a time over so many connections: each worker may have one to each endpoint, whatever the limit says, and workers race."""
    limits = [servers] if case.service is not None else []
    limits += [] if case.limits.max_requests == UNSET else [case.limits.max_requests]
    if not limits:
        return Estimate(servers)
    bounds = [limit + case.workers - 1 for limit in limits] + [each for each in (case.at_once,) if each is not None]
    return Estimate(min(servers, *bounds), None, min(bounds))
