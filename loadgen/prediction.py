"""What will be seen of a limit under a load? Admitted at a time, what is lost and what gets through, from theory; no load, no I/O.

The law: a figure is given where theory gives it, a bound where it gives no more, and nothing where the outcome is a matter of chance or of timing that
nobody states. Everything is said of one client: its sidecar counts for itself, so the service sees the sum.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from loadgen.estimate import LATE_SHARE, NOTHING, WAY_S, Case, Estimate, Law, Prediction, Stretch
from loadgen.pacing import Burst, Closed, Open
from loadgen.policy.limits import UNSET
from loadgen.quantity import duration_text, seconds_text
from loadgen.queueing import Loss, Span, constant_arrivals, finite_loss, loss_span, poisson_loss, through_span
from loadgen.throughput import busy_per_s, rounds_per_s
from loadgen.waiting import predict_waiting

if TYPE_CHECKING:
    from collections.abc import Sequence


QUICK_S = 0.05
"""A burst takes some milliseconds to arrive; a service that takes so long or longer has ended none of it by then."""


def predict(case: Case, stretch: Stretch) -> Prediction | None:
    """Predict what a stretch shows; None if nothing is limited."""
    if case.limits.in_force() and case.ejected:
        because = (
            "nothing is predicted: the service is ejected for what it answers, and until it is tried again the sidecar answers by itself"
        )
        return Prediction(Law.UNDETERMINED, because, NOTHING)
    if case.limits.in_force() and case.late_share > LATE_SHARE:
        because = (
            f"nothing is predicted: {case.late_share:.1%} of the answers take longer than the timeout of {duration_text(case.timeout_s)}"
        )
        return Prediction(Law.UNDETERMINED, because, NOTHING)
    found = _admitted(case, stretch)
    if found is None:
        return None
    if case.workers > 1:  # the law is that of no race, and a race may go beyond what it bounds
        found = replace(found, lost=_without_value(found.lost), through_per_s=_without_value(found.through_per_s))
    if case.unexpected_status is None:
        return found
    because = f"{found.because}; the service answers {case.unexpected_status}, which is not what is expected, so nothing is ok and no goodput is predicted"
    return replace(found, because=because, through_per_s=NOTHING)


def _without_value(estimate: Estimate) -> Estimate:
    """Leave out what theory gives for a figure of which there is one bound only: it would be taken for that bound."""
    return replace(estimate, value=None) if (estimate.low is None) is not (estimate.high is None) else estimate


def _admitted(case: Case, stretch: Stretch) -> Prediction | None:
    """Predict for a service whose answers are in time and as expected."""
    limits = case.limits
    requests, connections, pending = (
        None if each == UNSET else each for each in (limits.max_requests, limits.max_connections, limits.max_pending_requests)
    )
    if case.http2:  # one connection carries everything; it is waited for at the start only
        connections, pending = None, pending if requests is None else None
    at_once = case.at_once
    reached = pending is not None and (at_once is None or at_once > pending)
    if requests is not None and (connections is None or connections > requests):
        found = _rejecting(case, stretch, requests)
        return _with_pending(found, stretch, pending) if pending is not None and reached else found
    if connections is not None:
        return predict_waiting(case, stretch, connections, pending if reached else None)
    if pending is None:
        return _admitting(case)
    if not reached:
        return _unreached(case, stretch, f"http1MaxPendingRequests {pending}")
    because = f"what http1MaxPendingRequests {pending} bounds is how many wait for a connection, not how many are served: what it rejects depends on how many connections are warm and on when requests come, so nothing is predicted"
    return Prediction(Law.UNDETERMINED, because, NOTHING)


def undetermined(case: Case) -> Prediction | None:
    """Say that nothing is predicted of a stretch in which the rate of arrivals changes; None if nothing is limited."""
    because = "the rate of arrivals changes in this phase, and theory says something only of one that stays"
    return Prediction(Law.UNDETERMINED, because, NOTHING) if case.limits.in_force() else None


def _admitting(case: Case) -> Prediction | None:
    """Say that nothing is rejected where all that is limited makes no request fail; None if nothing is."""
    what = {
        "maxConnections": "bounds how many HTTP/2 connections there are, and each carries any number of requests",
        "maxRequestsPerConnection": "bounds how many requests a connection carries before a new one takes its place",
        "maxRetries": "bounds how many retries are under way: what may not be tried again fails as it had failed",
    }
    found = [f"{name} {value} {what[name]}" for name, value in case.limits.in_force().items()]
    return Prediction(Law.ADMITTING, f"nothing is rejected: {'; '.join(found)}", NOTHING, Estimate(0.0, 0.0, 0.0)) if found else None


# http2MaxRequests: what finds so many in service is lost at once.


def _rejecting(case: Case, stretch: Stretch, limit: int) -> Prediction:
    at_once = case.at_once
    if at_once is not None and at_once <= limit:
        return _unreached(case, stretch, f"http2MaxRequests {limit}")
    match case.load:
        case Burst():
            return _burst(case, stretch, limit, case.load)
        case Closed():
            found = _closed(case, stretch, limit, case.load)
        case _:
            found = _open(case, stretch, limit)
    return replace(found, admitted=Estimate(limit, None, min(limit + case.workers - 1, *([] if at_once is None else [at_once]))))


def _unreached(case: Case, stretch: Stretch, limit: str) -> Prediction:
    """Say what is seen where a client has fewer in flight than a limit admits, so that nothing is lost."""
    at_once = case.at_once
    because, through = f"a client has at most {at_once} in flight, so {limit} rejects nothing", NOTHING
    match case.load:
        case Closed():
            through = rounds_per_s(case, stretch, case.load)
        case Open() if at_once is not None:  # a loss system, too: what finds so many in flight is not sent
            because += f"; what finds {at_once} in flight is not sent"
            through = _open(replace(case, workers=1), stretch, at_once).through_per_s
    return Prediction(Law.UNREACHED, because, Estimate(None, None, at_once), Estimate(0.0, 0.0, 0.0), through)


def _open(case: Case, stretch: Stretch, limit: int) -> Prediction:
    match case.load:
        case Open(poisson=True):
            return _poisson(case, stretch, limit)
        case _ if case.service is not None and case.service.exponential:
            return _takacs(case, stretch, limit)
    return _open_bound(case, stretch, limit)


def _poisson(case: Case, stretch: Stretch, limit: int) -> Prediction:
    systems = [poisson_loss(limit + race, case.rate_per_s, service) for race, service in _systems(case, stretch)]
    because = f"Poisson arrivals that find {limit} in service are lost, which is Erlang's B({limit}, {case.rate_per_s * stretch.middle_s:.3g}), whatever the distribution of the service time"
    return _between(Law.ERLANG, because, case, stretch, systems, stretch.offered(case.rate_per_s))


def _open_bound(case: Case, stretch: Stretch, limit: int) -> Prediction:
    """Bound what arrivals at constant intervals lose, if service is constant or nothing is known of it.

    The lower bound is Little's law. The upper one without knowledge: while all places are taken, one arrival an interval is lost, and ``limit`` times that while is no more than
    all that is served takes; so lost / served <= offered / limit, in any order and for any service time.
    """
    offered, most = stretch.offered(case.rate_per_s), limit + case.workers - 1
    places = "its one place is" if limit == 1 else f"each of {limit} places is"
    low = max(0.0, 1 - most / offered.low) if offered.low else 0.0
    if case.service is None:
        high = offered.high / (offered.high + limit)
        because = f"arrivals come at constant intervals, and nothing is known of how the service time is distributed, so what is lost is only bounded: no more than {most} are in service, and while {limit} are, one arrival an interval is lost at most"
    elif case.rate_per_s * (stretch.service_s.high + WAY_S) > limit:
        high = max(0.0, 1 - limit / (offered.high + 1))
        because = f"arrivals and service are constant, so what is lost depends on how they fall together: {places} taken again at the next arrival, at the latest an interval after it is free"
    elif (held_up := _held_up(case, stretch, limit)) is not None:
        because = f"arrivals and service are constant, and {places} free again before the arrival that needs it; but {held_up}"
        return Prediction(Law.BOUND, because, NOTHING, offered=offered)
    else:
        high = 0.0
        because = f"arrivals and service are constant, and {places} free again before the arrival that needs it, so nothing is lost"
    through, ends = Span(case.rate_per_s * (1 - high), case.rate_per_s * (1 - low)), stretch.begun_per_s(most)
    value = through.low if through.low == through.high else None
    goodput = Estimate(value, max(0.0, through.low - ends), through.high + ends)
    lost = _at_the_ends(low, high, case, stretch, max(most, offered.high) if case.service is None else most)
    return Prediction(Law.BOUND, because, NOTHING, lost, goodput, offered)


def _held_up(case: Case, stretch: Stretch, limit: int) -> str | None:
    """Say of a measured stretch that a request was held up for so long that a place may not have been free in time; None if none was."""
    if stretch.longest_s is None or case.rate_per_s * (stretch.longest_s + WAY_S) <= limit:
        return None
    return f"a request ended {seconds_text(stretch.longest_s)} after it was due, so of this run that is not true, and neither loss nor goodput is predicted"


def _takacs(case: Case, stretch: Stretch, limit: int) -> Prediction:
    systems = []
    for race, service in _systems(case, stretch):
        share = constant_arrivals(limit + race, case.rate_per_s * service)
        alike = poisson_loss(limit + race, case.rate_per_s, service)  # scatters more, so the interval is on the safe side
        systems.append(replace(alike, share=share, through_per_s=case.rate_per_s * (1 - share)))
    offered = case.rate_per_s * stretch.middle_s
    because = f"arrivals at constant intervals that find {limit} in exponential service are lost (Takács, {offered:.3g} Erlang offered)"
    return _between(Law.TAKACS, because, case, stretch, systems, stretch.offered(case.rate_per_s))


def _closed(case: Case, stretch: Stretch, limit: int, load: Closed) -> Prediction:
    users, think_s = load.users, load.think.mean_s
    if not think_s:
        most = busy_per_s(limit + case.workers - 1, case, stretch)
        because = "a rejected user who does not think is back at once, so the share of rejections measures how fast a rejection is, not the limit; "
        because += (
            "a service that may take no time bounds nothing, either"
            if most is None
            else "only what gets through is bounded, by the limit over the service time"
        )
        value = None if most is None else limit / stretch.middle_s
        return Prediction(Law.SATURATED, because, NOTHING, NOTHING, Estimate(value, None, most))
    if not load.think.exponential and (case.service is None or not case.service.exponential):
        return _closed_bound(case, stretch, limit, load)
    thinks = (think_s, think_s + stretch.overhead_s, think_s + stretch.overhead_s / 2)
    systems = [
        finite_loss(limit + race, users, think, service) for think, (race, service) in zip(thinks, _systems(case, stretch), strict=True)
    ]
    because = f"of {users} users who think {duration_text(think_s)} on average, try, and think again when they are served or rejected, those who find {limit} in service are lost: Engset's formula, whatever the distribution of the {'service' if load.think.exponential else 'think'} time"
    return _between(Law.ENGSET, because, case, stretch, systems, None)


def _closed_bound(case: Case, stretch: Stretch, limit: int, load: Closed) -> Prediction:
    """Bound what a constant think time loses, whatever the service time.

    A user tries once per round of thinking, so users = attempts x think + served x service. Where places are free, more users than those think, and all of
    them try within a think time.
    """
    users, think_s = load.users, load.think.mean_s + stretch.overhead_s
    slow, fast = stretch.service_s.high, stretch.service_s.low
    least, most = limit / (slow + think_s), (limit + case.workers - 1) / fast if fast else math.inf
    most = min(most, users / (load.think.mean_s + fast))
    low, high = (
        1 - through * think / (users - through * service)
        for through, think, service in ((most, load.think.mean_s, fast), (least, think_s, slow))
    )
    known = (
        "think time is constant, and nothing is known of how the service time is distributed"
        if case.service is None
        else "service and think time are constant"
    )
    because = f"{known}, so what is lost depends on how they fall together: {'its one place' if limit == 1 else f'each of {limit} places'} is taken again a think time after it is free, at the latest"
    lost = _at_the_ends(low, high, case, stretch, limit + case.workers - 1)
    return Prediction(Law.BOUND, because, NOTHING, lost, Estimate(None, least, most + stretch.begun_per_s(limit + case.workers - 1)))


def _at_the_ends(low: float, high: float, case: Case, stretch: Stretch, requests: float) -> Estimate:
    """Widen a bound by what may be in service, in a client, when the stretch begins and ends: bounds are those of the long run."""
    slack = case.clients * requests * stretch.scatter / stretch.attempts if stretch.attempts else 0.0
    return Estimate(None, max(0.0, low - slack), min(1.0, high + slack))


def _burst(case: Case, stretch: Stretch, limit: int, load: Burst) -> Prediction:
    band = min(load.size, limit + case.workers - 1)
    held = case.service is not None and not case.service.exponential and stretch.service_s.low >= QUICK_S
    of = f"of {load.size} requests at the same moment {limit}{f' to {band}' if band > limit else ''} are admitted"
    if not held:
        because = f"{of}, and more are let through if some end before the last has come, for it is not sure that the service holds them all for {QUICK_S * 1000:.0f} ms or longer"
        lost = Estimate(None, None, _cut(1 - limit / load.size, stretch, case, load))
        return Prediction(Law.BURST, because, Estimate(None, None, band), lost)
    because = f"{of}, and all others rejected, for the service holds them until the last has come; a burst that the end of the phase cuts adds its rejections and not its answers"
    low, high = _cut(1 - band / load.size, stretch, case, load, lowest=True), _cut(1 - limit / load.size, stretch, case, load)
    return Prediction(Law.BURST, because, Estimate(limit, limit, band), Estimate(1 - limit / load.size, low, high))


def _cut(share: float, stretch: Stretch, case: Case, load: Burst, *, lowest: bool = False) -> float:
    """Say how far the bursts that the ends of the stretch cut in two may move a share: rejections end at once, the others when they are served.

    How many are whole is told by the attempts, or before there are any by how long a burst lasts: of exponential times the longest decides.
    """
    lost, through = share * load.size, (1 - share) * load.size
    if stretch.attempts is None:
        last = sum(1 / each for each in range(1, max(1, round(through)) + 1)) if case.service is None or case.service.exponential else 1.0
        whole = max(0, int(stretch.seconds / (stretch.service_s.high * last + load.pause_s)) - 1)
    else:
        whole = max(0, stretch.attempts // (case.clients * load.size) - 1)
    return whole * lost / (whole * load.size + through) if lowest else (whole + 1) * lost / (whole * load.size + lost)


# What they have in common.


def _systems(case: Case, stretch: Stretch) -> tuple[tuple[int, float], ...]:
    """Give what makes the most be lost, the least, and what the law says where no worker races: by how many the race lifts the limit, and the mean service time."""
    return (0, stretch.service_s.high), (case.workers - 1, stretch.service_s.low), (0, stretch.middle_s)


def _between(law: Law, because: str, case: Case, stretch: Stretch, systems: Sequence[Loss], offered: Span | None) -> Prediction:
    """Make a prediction of what is lost at most, at least, and by the law; chance widens what is between the first two."""
    *_, named = systems
    most, least = (
        replace(each, variance=each.variance * stretch.scatter, through_variance_per_s=each.through_variance_per_s * stretch.scatter)
        for each in systems[:2]
    )
    seconds = stretch.seconds * case.clients
    attempts = [stretch.attempts or each.attempts_per_s * seconds for each in (most, least)]
    low, high = loss_span(least.share, least.variance, attempts[1]).low, loss_span(most.share, most.variance, attempts[0]).high
    rate = Estimate(named.through_per_s, through_span(most, seconds).low, through_span(least, seconds).high)
    return Prediction(law, because, NOTHING, Estimate(named.share, low, high), rate, offered)


def _with_pending(found: Prediction, stretch: Stretch, pending: int) -> Prediction:
    """Add what ``http1MaxPendingRequests`` rejects before: what is lost there can make fewer be lost later, but never by as much.

    It is not determined beforehand, but it is counted. So the prediction bounds the loss from below, and from above once that share is known.
    """
    before, lost, through = stretch.pending_share, found.lost, found.through_per_s
    some = "may reject some while connections are set up" if before is None else f"rejected {before:.1%} while connections were set up"
    because = found.because if before == 0 else f"{found.because}. http1MaxPendingRequests {pending} {some}, too"
    high = None if before is None or lost.high is None else before + (1 - before) * lost.high
    return replace(
        found,
        because=because,
        admitted=replace(found.admitted, low=None),
        lost=replace(lost, high=high),
        through_per_s=replace(through, low=None),
    )
