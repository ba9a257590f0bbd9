"""What will be seen of a limit under a load? Admitted at a time, what is lost and what gets through, from theory; no load, no I/O.

The law: a figure is given where theory gives it, a bound where it gives no more, and nothing where the outcome is a matter of chance or of timing that
nobody states. Everything is said of one client: its sidecar counts for itself, so the service sees the sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from loadgen.pacing import Burst, Closed, Open
from loadgen.policy.limits import UNSET
from loadgen.quantity import duration_text
from loadgen.queueing import Loss, Span, constant_arrivals, finite_loss, loss_span, poisson_loss, queue_loss, through_span

if TYPE_CHECKING:
    from loadgen.pacing import Interval, Pacing
    from loadgen.policy.limits import Limits

QUICK_S = 0.05
"""A burst takes some milliseconds to arrive; a service that takes so long or longer has ended none of it by then."""


class Law(StrEnum):
    """Where a prediction comes from."""

    ERLANG = "erlang"
    TAKACS = "takacs"
    ENGSET = "engset"
    BOUND = "bound"
    BURST = "burst"
    SATURATED = "saturated"
    UNREACHED = "unreached"
    QUEUE = "queue"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True, slots=True)
class Estimate:
    """One figure: what theory gives, None if only bounds, and between what it is to be measured, chance included; None where nothing is sure."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def times(self, factor: float) -> Estimate:
        """Give the same of so many clients."""
        return Estimate(*(None if each is None else each * factor for each in (self.value, self.low, self.high)))

    def holds(self, measured: float) -> bool | None:
        """Tell whether a measurement lies where it should; None if there is no bound."""
        if self.low is None and self.high is None:
            return None
        return (self.low is None or self.low <= measured) and (self.high is None or measured <= self.high)

    def to_json(self) -> dict[str, float | None]:
        """Give the figure as JSON holds it."""
        return {"predicted": _rounded(self.value), "low": _rounded(self.low), "high": _rounded(self.high)}


NOTHING = Estimate(None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


@dataclass(frozen=True, slots=True)
class Case:
    """What is to be predicted: limits, Envoy's workers and the load in each of ``clients`` clients.

    ``rate_per_s`` is that of an open load in this stretch, which may have several. ``http2`` says whether the sidecar speaks HTTP/2 to the service.
    """

    limits: Limits
    load: Pacing
    service: Interval
    workers: int = 1
    clients: int = 1
    rate_per_s: float = 0.0
    max_in_flight: int | None = None
    http2: bool = False


@dataclass(frozen=True, slots=True)
class Stretch:
    """How long it is measured, and what is known of it.

    The mean time that a request counts in the sidecar lies in ``service_s``. ``overhead_s`` is what client and sidecar take beside it at most: an answer's user thinks, so much
    longer, before the sidecar sees him again. ``attempts`` is the number of requests of all clients, None before they are counted;
    ``pending_share`` the share of them that ``http1MaxPendingRequests`` rejected, None before.
    """

    seconds: float
    service_s: Span
    overhead_s: float = 0.0
    attempts: int | None = None
    pending_share: float | None = None

    @classmethod
    def planned(cls, case: Case, seconds: float) -> Stretch:
        """Say what is known before a load: that the service takes as long as the scenario says."""
        return cls(seconds, Span(case.service.mean_s, case.service.mean_s))


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one client will show: ``admitted`` at a time, the share that is ``lost``, ``through_per_s``; ``because`` is one sentence.

    ``lost`` is that of all clients together where chance is concerned. ``offered`` is in Erlang: how many requests would be in service at a time without a limit.
    """

    law: Law
    because: str
    admitted: Estimate
    lost: Estimate = NOTHING
    through_per_s: Estimate = NOTHING
    offered: Span | None = None

    def to_json(self, clients: int = 1) -> dict[str, Any]:
        """Give the prediction for so many clients together as JSON holds it."""
        return {
            "admitted": self.admitted.times(clients).to_json(),
            "loss": self.lost.to_json(),
            "goodput_per_s": self.through_per_s.times(clients).to_json(),
        }


def predict(case: Case, stretch: Stretch) -> Prediction | None:
    """Predict what a stretch shows; None if nothing is limited."""
    limits = case.limits
    requests, connections, pending = (
        None if each == UNSET else each for each in (limits.max_requests, limits.max_connections, limits.max_pending_requests)
    )
    if case.http2:  # one connection carries everything; it is waited for at the start only
        connections, pending = None, pending if requests is None else None
    if requests is not None and (connections is None or connections > requests):
        found = _rejecting(case, stretch, requests)
        at_once = _at_once(case)
        return found if pending is None or (at_once is not None and at_once <= pending) else _with_pending(found, stretch, pending)
    if connections is not None:
        return _queueing(case, stretch, connections, pending)
    if pending is not None:
        because = f"what http1MaxPendingRequests {pending} bounds is how many wait for a connection, not how many are served: what it rejects depends on how many connections are warm and on when requests come, so nothing is predicted"
        return Prediction(Law.UNDETERMINED, because, NOTHING)
    return None


# http2MaxRequests: what finds so many in service is lost at once.


def _rejecting(case: Case, stretch: Stretch, limit: int) -> Prediction:
    at_once = _at_once(case)
    admitted = Estimate(limit, None, limit + case.workers - 1)
    if at_once is not None and at_once <= limit:
        because = f"a client has at most {at_once} in flight, so http2MaxRequests {limit} rejects nothing"
        return Prediction(Law.UNREACHED, because, Estimate(None, None, at_once), Estimate(0.0, 0.0, 0.0), _unhindered(case, stretch))
    match case.load:
        case Burst():
            return _burst(case, stretch, limit, case.load)
        case Closed():
            found = _closed(case, stretch, limit, case.load)
        case Open(poisson=True):
            found = _poisson(case, stretch, limit)
        case _:
            found = _constant(case, stretch, limit)
    return replace(found, admitted=admitted)


def _at_once(case: Case) -> int | None:
    """Give how many requests of a client can be in flight at most."""
    match case.load:
        case Closed(users=users):
            return users
        case Burst(size=size):
            return size
    return case.max_in_flight


def _unhindered(case: Case, stretch: Stretch) -> Estimate:
    """Give what gets through where nothing is lost."""
    match case.load:
        case Closed(users=users, think=think) if think.mean_s + stretch.service_s.high > 0:
            return Estimate(users / (think.mean_s + stretch.service_s.high))
        case Open():
            return Estimate(case.rate_per_s)
    return NOTHING


def _poisson(case: Case, stretch: Stretch, limit: int) -> Prediction:
    most, least = (poisson_loss(limit + race, case.rate_per_s, max(_TINY_S, service)) for race, service in _extremes(case, stretch))
    offered = _offered(case, stretch)
    because = f"Poisson arrivals that find {limit} in service are lost, which is Erlang's B({limit}, {offered.high:.3g}), whatever the distribution of the service time"
    return _between(Law.ERLANG, because, case, stretch, (most, least), offered)


def _constant(case: Case, stretch: Stretch, limit: int) -> Prediction:
    offered = _offered(case, stretch)
    if not case.service.exponential:
        low = max(0.0, 1 - (limit + case.workers - 1) / offered.low) if offered.low else 0.0
        high = max(0.0, 1 - limit / (offered.high + 1))
        because = f"arrivals and service are constant, so what is lost depends on how they fall together: each of {limit} places is taken again at the next arrival, at the latest an interval after it is free"
        through = Estimate(None, case.rate_per_s * (1 - high), case.rate_per_s * (1 - low))
        return Prediction(Law.BOUND, because, NOTHING, _at_the_ends(low, high, case, stretch, limit), through, offered)
    systems = []
    for race, service in _extremes(case, stretch):
        share = constant_arrivals(limit + race, case.rate_per_s * service)
        alike = poisson_loss(limit + race, case.rate_per_s, max(_TINY_S, service))  # scatters more, so the interval is on the safe side
        systems.append(replace(alike, share=share, through_per_s=case.rate_per_s * (1 - share)))
    because = (
        f"arrivals at constant intervals that find {limit} in exponential service are lost (Takács, {offered.high:.3g} Erlang offered)"
    )
    return _between(Law.TAKACS, because, case, stretch, (systems[0], systems[1]), offered)


def _closed(case: Case, stretch: Stretch, limit: int, load: Closed) -> Prediction:
    users, think_s = load.users, load.think.mean_s
    service = stretch.service_s
    if not think_s:
        most = (limit + case.workers - 1) / service.low if service.low else None
        because = "a rejected user who does not think is back at once, so the share of rejections measures how fast a rejection is, not the limit; only what gets through is bounded, by the limit over the service time"
        value = limit / service.high if service.high else None
        return Prediction(Law.SATURATED, because, NOTHING, NOTHING, Estimate(value, None, most))
    if not (load.think.exponential or case.service.exponential):
        return _closed_bound(case, stretch, limit, load)
    (_, slow), (race, fast) = _extremes(case, stretch)
    systems = (
        finite_loss(limit, users, think_s, max(_TINY_S, slow)),
        finite_loss(limit + race, users, think_s + stretch.overhead_s, max(_TINY_S, fast)),
    )
    because = f"of {users} users who think {duration_text(think_s)} on average, try, and think again when they are served or rejected, those who find {limit} in service are lost: Engset's formula, whatever the distribution of the {'service' if load.think.exponential else 'think'} time"
    return _between(Law.ENGSET, because, case, stretch, systems, None)


def _closed_bound(case: Case, stretch: Stretch, limit: int, load: Closed) -> Prediction:
    """Bound what neither time makes random. A user tries once per round of thinking, so users = attempts x think + served x service, whatever the order."""
    users, think_s = load.users, load.think.mean_s + stretch.overhead_s
    slow, fast = stretch.service_s.high, stretch.service_s.low
    least, most = limit / (slow + think_s), (limit + case.workers - 1) / fast if fast else math.inf
    most = min(most, users / (load.think.mean_s + fast))
    low, high = (
        1 - through * think / (users - through * service)
        for through, think, service in ((most, load.think.mean_s, fast), (least, think_s, slow))
    )
    because = f"service and think time are constant, so what is lost depends on how they fall together: each of {limit} places is taken again a think time after it is free, at the latest"
    return Prediction(Law.BOUND, because, NOTHING, _at_the_ends(low, high, case, stretch, limit), Estimate(None, least, most))


def _at_the_ends(low: float, high: float, case: Case, stretch: Stretch, limit: int) -> Estimate:
    """Widen a bound by what may be in service when the stretch begins and ends: bounds are those of the long run."""
    slack = case.clients * (limit + case.workers - 1) / stretch.attempts if stretch.attempts else 0.0
    return Estimate(None, max(0.0, low - slack), min(1.0, high + slack))


def _burst(case: Case, stretch: Stretch, limit: int, load: Burst) -> Prediction:
    band = min(load.size, limit + case.workers - 1)
    held = not case.service.exponential and stretch.service_s.low >= QUICK_S
    of = f"of {load.size} requests at the same moment {limit}{f' to {band}' if band > limit else ''} are admitted"
    if not held:
        because = f"{of}, and more if some end before the last has come, for the service does not hold them all for {QUICK_S * 1000:.0f} ms or longer"
        return Prediction(
            Law.BURST, because, Estimate(limit, limit), Estimate(None, None, _cut(1 - limit / load.size, stretch, case, load))
        )
    because = f"{of}, and all others rejected, for the service holds them until the last has come"
    low, high = _cut(1 - band / load.size, stretch, case, load, lowest=True), _cut(1 - limit / load.size, stretch, case, load)
    return Prediction(Law.BURST, because, Estimate(limit, limit, band), Estimate(1 - limit / load.size, low, high))


def _cut(share: float, stretch: Stretch, case: Case, load: Burst, *, lowest: bool = False) -> float:
    """Say how far the bursts that the ends of the stretch cut in two may move a share: rejections end at once, the others when they are served."""
    if stretch.attempts is None:
        return share
    whole = max(0, stretch.attempts // (case.clients * load.size) - 1)
    lost, through = share * load.size, (1 - share) * load.size
    return whole * lost / (whole * load.size + through) if lowest else (whole + 1) * lost / (whole * load.size + lost)


# maxConnections: what finds no connection waits.


def _queueing(case: Case, stretch: Stretch, servers: int, places: int | None) -> Prediction:
    admitted = Estimate(servers, None, servers if case.workers == 1 else None)
    service = stretch.service_s
    most = Estimate(None, None, servers / service.low if service.low and case.workers == 1 else None)
    if places is None:
        because = f"with maxConnections {servers} nothing is rejected: what finds no connection waits, without an end"
        if isinstance(case.load, Open) and case.rate_per_s * service.low > servers:
            because += (
                f", and the queue grows for as long as {case.rate_per_s:.4g} a second come and {servers / service.low:.4g} can be served"
            )
        return Prediction(Law.QUEUE, because, admitted, Estimate(0.0, 0.0, 0.0), most)
    how = f"with maxConnections {servers} so many are served at a time over warm connections, and with http1MaxPendingRequests so many more wait: {places}"
    if isinstance(case.load, Open) and case.load.poisson and case.service.exponential and service.high > 0:
        found = queue_loss(servers, places, case.rate_per_s, service.high)
        because = f"{how}; with one worker, one endpoint and Poisson arrivals that is the queue M/M/{servers}/{servers + places}. While connections are set up it rejects more, so it is not judged"
        return Prediction(
            Law.QUEUE, because, admitted, Estimate(found.share), replace(most, value=found.through_per_s), _offered(case, stretch)
        )
    return Prediction(Law.QUEUE, f"{how}; how many are rejected depends on when they come, and is not predicted", admitted, NOTHING, most)


# What they have in common.

_TINY_S = 1e-9


def _extremes(case: Case, stretch: Stretch) -> tuple[tuple[int, float], tuple[int, float]]:
    """Give what makes the most be lost, and the least: by how many the workers' race lifts the limit, and the mean service time."""
    return (0, stretch.service_s.high), (case.workers - 1, stretch.service_s.low)


def _offered(case: Case, stretch: Stretch) -> Span:
    return Span(case.rate_per_s * stretch.service_s.low, case.rate_per_s * stretch.service_s.high)


def _between(law: Law, because: str, case: Case, stretch: Stretch, systems: tuple[Loss, Loss], offered: Span | None) -> Prediction:
    """Make a prediction of what is lost at most and at least; the value lies between them, and chance widens what is between."""
    most, least = systems
    seconds = stretch.seconds * case.clients
    attempts = [stretch.attempts or each.attempts_per_s * seconds for each in systems]
    low, high = loss_span(least.share, least.variance, attempts[1]).low, loss_span(most.share, most.variance, attempts[0]).high
    through = [each.through_per_s for each in systems]
    rate = Estimate(sum(through) / 2, through_span(most, seconds).low, through_span(least, seconds).high)
    return Prediction(law, because, NOTHING, Estimate((most.share + least.share) / 2, low, high), rate, offered)


def _with_pending(found: Prediction, stretch: Stretch, pending: int) -> Prediction:
    """Add what ``http1MaxPendingRequests`` rejects before: what is lost there can make fewer be lost later, but never by as much.

    It is not determined beforehand, but it is counted. So the prediction bounds the loss from below, and from above once that share is known.
    """
    before, lost, through = stretch.pending_share, found.lost, found.through_per_s
    because = f"{found.because}. http1MaxPendingRequests {pending} rejects some while connections are set up, too"
    high = None if before is None or lost.high is None else before + (1 - before) * lost.high
    return replace(
        found,
        because=because,
        admitted=replace(found.admitted, low=None),
        lost=replace(lost, high=high),
        through_per_s=replace(through, low=None),
    )
