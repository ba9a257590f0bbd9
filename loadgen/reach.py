"""Can this load show what these limits do? Six mistakes that neither the rule nor the scenario has alone.

A limit that the load never reaches proves nothing; what is held back before it makes a run INVALID; a limit holds in each sidecar, so an expectation that takes it for the whole
service's cannot hold; what waits for longer than the timeout fails, and so does what a slow service answers; and of a service that is ejected no limit shows anything. Each is said only where it is sure: nobody is warned of having one client.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadgen.estimate import LATE_SHARE, WAY_S, late_share
from loadgen.policy.limits import Limits, connections_come_first
from loadgen.policy.pools import port_entries
from loadgen.policy.selection import winner
from loadgen.policy.translation import cluster_name, clusters, effective_policy
from loadgen.quantity import about_text, duration_text, interval_text, rate_text
from loadgen.queueing import Queue, Span, constant_arrivals, erlang_b, finite_loss
from loadgen.scenario import MAX_IN_FLIGHT, BurstLoad, ClosedLoad, OpenLoad
from loadgen.validity import UNSENT_SHARE
from loadgen.waiting import answered_last_s

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadgen.errors import Problem
    from loadgen.pacing import Interval
    from loadgen.policy.manifest import OutlierDetection
    from loadgen.policy.rule import Path, Rule
    from loadgen.policy.selection import Service, Workload
    from loadgen.scenario import Scenario

UNLIKELY = 0.01
"""So many rejections in a whole run are none."""
SURE = 5.0
"""So many standard deviations above its mean is no number of requests."""
_EVERYTHING = 100
"""Per cent. Of one endpoint Envoy 1.40 ejects all or nothing: nothing below this ``maxEjectionPercent``, whose default is 10 (measured)."""
_CONSECUTIVE_5XX = 5
"""Envoy's default."""
_FIRST_5XX = 500
_GATEWAY_ERRORS = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True)
class _Pool:
    """What is in force for the clients, and where: ``path`` is that of the policy."""

    rule: Rule
    path: Path
    limits: dict[str, int]
    outlier: OutlierDetection | None

    def warning(self, name: str, message: str, *, hint: str, code: str) -> Problem:
        block = "tcp" if name == "maxConnections" else "http"
        return self.rule.warning((*self.path, "connectionPool", block, name), message, hint=hint, code=code)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is around load and limits: whether sidecars speak HTTP/2 to the service, and whether that is a cluster's.

    A cluster's service takes a time of its own, its sidecars have workers of their own, and connections fail there.
    """

    http2: bool = False
    in_cluster: bool = False

    def service_time(self, scenario: Scenario) -> Interval | None:
        """Give how long the service takes; None where nobody has said it."""
        return scenario.service.time if not self.in_cluster or "time" in scenario.service.model_fields_set else None


_HERE = Surroundings()


def unfit(
    scenario: Scenario, rules: Sequence[Rule], service: Service, client: Workload, surroundings: Surroundings = _HERE
) -> list[Problem]:
    """Find the limits that the scenario's load cannot reach, or not without much that is not sent, a timeout that is too short, the expectations that take a sidecar's limit for the service's, and a service that is ejected."""
    pool = _pool(scenario, rules, service, client)
    if pool is None:
        return []
    return [
        *_unreached(scenario, pool, surroundings),
        *_unsent(scenario, pool, surroundings),
        *_waiting(scenario, pool, surroundings),
        *_too_late(scenario, pool, surroundings),
        *_for_the_service(scenario, pool),
        *_ejected(scenario, pool, surroundings),
    ]


def ejects_service(
    scenario: Scenario, rules: Sequence[Rule], service: Service, client: Workload, surroundings: Surroundings = _HERE
) -> bool:
    """Tell whether the rules eject the service for what the scenario has it answer."""
    pool = _pool(scenario, rules, service, client)
    return pool is not None and _errors_until_ejected(scenario, pool, surroundings) is not None


def _pool(scenario: Scenario, rules: Sequence[Rule], service: Service, client: Workload) -> _Pool | None:
    """Give what the clients get; None if that is nothing, or no phase applies it."""
    if not any(phase.policy == "applied" for phase in scenario.phases):
        return None
    merged = winner(rules, service, client)
    source = merged.policy_source if merged else None
    if merged is None or source is None:
        return None
    port = service.ports[0]
    limits = Limits.of_cluster(clusters(rules, service, client)[cluster_name(service, port)]).in_force()
    path: Path = ("trafficPolicy",)
    entries = port_entries(source.traffic_policy) if source.traffic_policy else {}
    if port in entries:
        path = ("trafficPolicy", "portLevelSettings", entries[port][0])
    return _Pool(source, path, limits, effective_policy(merged.rule, port).outlier_detection)


def what_it_takes(scenario: Scenario, limit: int, mean_s: float | None) -> str:
    """Say what load it would take to go beyond a limit of requests in each client, after one that did not; nothing if that is not known.

    ``mean_s`` is how long an answer took on average, None if there was none.
    """
    most, why = _at_once(scenario)
    if most <= limit:
        return f"It takes more than {limit} at a time in each client, and {why}."
    if isinstance(scenario.load, ClosedLoad):
        return f"It takes more than {limit} of the {most} users of a client waiting at the same time: less think time, or more users."
    if isinstance(scenario.load, OpenLoad) and mean_s:
        return f"It takes some {limit / mean_s:,.0f}/s in each client: an answer took {mean_s * 1000:,.1f} ms on average."
    return ""


def _unreached(scenario: Scenario, pool: _Pool, around: Surroundings) -> Iterator[Problem]:
    for name, limit in pool.limits.items():
        reason, hint = _why_unreached(name, limit, scenario, pool, around)
        if reason:
            yield pool.warning(name, f"this load never reaches {name} {limit}: {reason}", hint=hint, code="limit-never-reached")


def _why_unreached(name: str, limit: int, scenario: Scenario, pool: _Pool, around: Surroundings) -> tuple[str, str]:
    """Say why a limit is not reached, and what to do; both empty if it may be."""
    most, why = _at_once(scenario)
    otherwise = f"{' or lower the limit' if limit > 1 else ''}, or the run shows nothing of it"
    more = f"offer more load{otherwise}"
    if name == "maxRequestsPerConnection":
        return _too_few(scenario, limit, around.service_time(scenario)), more
    if limit >= most:
        hint = f"raise max_in_flight{otherwise}" if isinstance(scenario.load, OpenLoad) else more
        return f"{why}, so a client has at most {most} in flight", hint
    if name == "maxRetries" and not around.in_cluster:
        hint = "try it in a cluster whose connections fail; a run on this machine shows nothing of it"
        return "a sidecar retries what could not be sent, never an overflow, and the service of this machine takes everything", hint
    if name != "http2MaxRequests":
        return "", ""
    workers = scenario.clients.workers
    if not connections_come_first(pool.limits, workers) or around.http2 or around.in_cluster:
        return _too_slow(scenario, limit, around.service_time(scenario)), more
    connections = pool.limits["maxConnections"] + workers - 1
    reason = (
        f"a client's sidecar has at most {connections} connection{'s' if connections != 1 else ''}, and each carries one request at a time"
    )
    hint = "make maxConnections larger than http2MaxRequests, or leave one of the two out"
    return (reason, hint) if "http1MaxPendingRequests" in pool.limits else ("", "")  # a queue without an end is said of maxConnections


def _at_once(scenario: Scenario) -> tuple[int, str]:
    most = scenario.load.max_in_flight
    many = "s" if most != 1 else ""
    match scenario.load:
        case ClosedLoad():
            return most, f"each client has {most} user{many}"
        case BurstLoad():
            return most, f"a burst has {most} request{many}"
    return most, f"max_in_flight is {most}"


def _too_few(scenario: Scenario, limit: int, time: Interval | None) -> str:
    """Say why no connection carries so many requests: a client has not as many while the rule is applied, over all its connections."""
    load = scenario.load
    rate = load.highest_rate_per_s
    if isinstance(load, ClosedLoad) and time is not None and (round_s := load.think_time.mean_s + time.mean_s):
        rate = min(rate, load.users / round_s)
    count = rate * _applied_s(scenario)
    if count + SURE * math.sqrt(count) + load.max_in_flight >= limit:
        return ""
    return f"a client has at most some {count:,.0f} requests while the rule is applied, over all its connections"


def _applied_s(scenario: Scenario) -> float:
    return sum(phase.duration for phase in scenario.phases if phase.policy == "applied")


def _too_slow(scenario: Scenario, limit: int, time: Interval | None) -> str:
    """Say why a load is not worth a rejection in a whole run, however long its phases with the policy are; empty if it is."""
    if time is None:
        return ""
    match scenario.load:
        case OpenLoad() as load:
            lost_per_s, how = _lost_of_open(load, limit, time)
        case ClosedLoad(think_time=think) as load if think.mean_s and (think.exponential or time.exponential):
            lost_per_s, how = _lost_of_closed(load, limit, time)
        case _:
            return ""
    if lost_per_s * scenario.clients.count * _applied_s(scenario) >= UNLIKELY:
        return ""
    return f"{how} in service on average, and no rejection is to be expected in the whole run"


def _lost_of_open(load: OpenLoad, limit: int, time: Interval) -> tuple[float, str]:
    """Give how many requests a client loses a second at its highest rate, and how many are in service then."""
    rate = load.highest_rate_per_s
    offered = rate * (time.mean_s + WAY_S)
    constant = load.arrivals != "poisson" and not time.exponential
    if constant and rate * (time.mean_s + 2 * WAY_S) > limit:
        share = 1.0  # how many depends on how they fall together; below that each place is free again before the arrival that needs it
    else:
        share = _lost_share(load, offered, limit, exponential=time.exponential)
    return share * rate, f"at {rate:.6g}/s and with a service time of {_text(time)} there are {offered:.2g}"


def _lost_of_closed(load: ClosedLoad, limit: int, time: Interval) -> tuple[float, str]:
    """Give how many requests a client loses a second (Engset's formula: think or service time is exponential), and how many are in service."""
    found = finite_loss(limit, load.users, load.think_time.mean_s, time.mean_s + WAY_S)
    how = f"of {load.users} users who think {duration_text(load.think_time.mean_s)} on average, and with a service time of {_text(time)}, {found.busy:.2g} are"
    return found.share * found.attempts_per_s, how


def _text(time: Interval) -> str:
    return f"{interval_text(time.mean_s, exponential=time.exponential)} and up to {duration_text(WAY_S)} on the way"


def _unsent(scenario: Scenario, pool: _Pool, around: Surroundings) -> Iterator[Problem]:
    """Find that ``max_in_flight`` holds back so much of an open load, in a phase whose limits do not keep it below, that the run will be INVALID."""
    load, time = scenario.load, around.service_time(scenario)
    limits = {name: pool.limits[name] for name in _AT_A_TIME if name in pool.limits}
    if not isinstance(load, OpenLoad) or time is None or not limits:
        return
    name, limit = next(iter(limits.items()))
    first = min(limits.values()) >= load.max_in_flight
    share, phase, applied = max(
        _unsent_shares(scenario, load, time, limited=not first), key=lambda found: (round(found[0], 6), found[2]), default=(0.0, "", False)
    )
    if share > UNSENT_SHARE:
        why = f"comes before {name} {limit}" if applied else "is too low for what no limit rejects"
        enough, beyond = _enough_in_flight(load, time), max(limits.values()) + 1
        raised = f"raise max_in_flight to {max(enough, beyond)} or more, or " if enough and beyond <= MAX_IN_FLIGHT else ""
        yield pool.warning(
            name,
            f"max_in_flight {load.max_in_flight} {why}: some {share:.1%} of all requests of phase {phase} are not sent, and more than {UNSENT_SHARE:.0%} make a run INVALID",
            hint=f"{raised}offer less load",
            code="max-in-flight-too-low",
        )


def _waiting(scenario: Scenario, pool: _Pool, around: Surroundings) -> Iterator[Problem]:
    """Find that the queue before ``maxConnections`` outgrows the timeout or ``max_in_flight``: what waits for too long fails, and what would be more is not sent."""
    load, time, servers = scenario.load, around.service_time(scenario), pool.limits.get("maxConnections")
    if servers is None or time is None or not time.mean_s or around.http2 or around.in_cluster or servers >= load.max_in_flight:
        return
    if not connections_come_first(pool.limits, scenario.clients.workers) and "http2MaxRequests" in pool.limits:
        return
    places, most = servers + scenario.clients.workers - 1, pool.limits.get("http1MaxPendingRequests", math.inf)
    if late_share(time, load.timeout) > LATE_SHARE:
        return  # the service itself is too slow
    if isinstance(load, OpenLoad):
        yield from _growing(load, scenario, pool, Queue(places, time.mean_s, min(load.max_in_flight, places + most), load.timeout))
        return
    span = Span(time.mean_s, time.mean_s)
    answered_s = answered_last_s(load.pacing, load.max_in_flight, most, places, span, constant=not time.exponential)
    if answered_s > load.timeout:
        yield pool.warning(
            "maxConnections",
            f"of all that wait before maxConnections {servers} the last would be answered after about {about_text(answered_s)}, and the timeout is {duration_text(load.timeout)}",
            hint="offer less load, bound the queue (a smaller http1MaxPendingRequests), or raise load.timeout",
            code="queue-outgrows-timeout",
        )


def _growing(load: OpenLoad, scenario: Scenario, pool: _Pool, queue: Queue) -> Iterator[Problem]:
    """Find the first phase in which a queue without an end is full, and the first in which what comes waits for too long."""
    queued = f"the queue before maxConnections {pool.limits['maxConnections']} grows, for no more than {rate_text(queue.served_per_s)} can be served"
    comings = {span.phase.name: span.coming(load.course) for span in scenario.spans() if span.phase.policy == "applied"}
    walked = {phase: queue.walk(coming) for phase, coming in comings.items()}
    for phase, found in walked.items():
        if found.full_s is None or found.full_rate_per_s is None or found.unsent <= UNSENT_SHARE * comings[phase].count:
            continue
        if queue.most < load.max_in_flight:
            break  # what would be more is rejected
        most = load.highest_rate_per_s * load.timeout
        enough = math.ceil(most + SURE * math.sqrt(most))
        raised = f", or raise max_in_flight to {enough}: no more come within the timeout" if enough <= MAX_IN_FLIGHT else ""
        yield pool.warning(
            "maxConnections",
            f"{queued}: after about {about_text(found.full_s)} of phase {phase}, when {rate_text(found.full_rate_per_s)} come, there are {load.max_in_flight} in flight, and what would be more is not sent, which makes the run INVALID",
            hint=f"offer less load, or bound the queue: http1MaxPendingRequests{raised}",
            code="max-in-flight-too-low",
        )
        break
    for phase, found in walked.items():
        if found.late_s is None or found.late <= LATE_SHARE * comings[phase].count:
            continue
        yield pool.warning(
            "maxConnections",
            f"{queued}: what comes after about {about_text(found.late_s)} of phase {phase} waits longer than the timeout of {duration_text(load.timeout)}",
            hint="offer less load, bound the queue: http1MaxPendingRequests, or raise load.timeout",
            code="queue-outgrows-timeout",
        )
        break


def _too_late(scenario: Scenario, pool: _Pool, around: Surroundings) -> Iterator[Problem]:
    """Find that the service itself takes longer than the timeout, so that what the limits let through fails."""
    time, timeout = around.service_time(scenario), scenario.load.timeout
    name = next(iter(pool.limits), None)
    if time is not None and name is not None and (share := late_share(time, timeout)) > LATE_SHARE:
        takes = interval_text(time.mean_s, exponential=time.exponential)
        yield pool.warning(
            name,
            f"with a service time of {takes} {share:.1%} of what {name} {pool.limits[name]} lets through fails: its answer takes longer than the timeout of {duration_text(timeout)}",
            hint="raise load.timeout, or lower service.time",
            code="timeout-too-short",
        )


_AT_A_TIME = ("http2MaxRequests", "maxConnections", "http1MaxPendingRequests")


def _unsent_shares(scenario: Scenario, load: OpenLoad, time: Interval, *, limited: bool) -> Iterator[tuple[float, str, bool]]:
    """Give the share of requests, in each phase, that finds ``max_in_flight`` others, and whether the policy is applied; none of what comes while the rate changes.

    Where the policy is applied and ``limited`` keeps fewer in flight, that is none.
    """
    for span in scenario.spans():
        coming, applied = span.coming(load.course), span.phase.policy == "applied"
        unsent = sum(
            _lost_share(load, rate * _in_flight_s(load, time), load.max_in_flight, exponential=time.exponential) * rate * seconds
            for rate, seconds in coming.held_s.items()
        )
        if not (applied and limited) and coming.count > 0:
            yield unsent / coming.count, span.phase.name, applied


def _enough_in_flight(load: OpenLoad, time: Interval) -> int | None:
    """Give the smallest ``max_in_flight`` that holds back next to nothing where no limit rejects, None if it may not be so large.

    That is a tenth of what makes a run INVALID, for a short phase has more by chance.
    """
    offered = load.highest_rate_per_s * (_in_flight_s(load, time) + WAY_S)
    counts = range(1, MAX_IN_FLIGHT + 1)
    share = functools.partial(_lost_share, load, offered, exponential=time.exponential)
    found = bisect_left(counts, True, key=lambda count: share(count) <= UNSENT_SHARE / 10)
    return counts[found] if found < len(counts) else None


def _in_flight_s(load: OpenLoad, time: Interval) -> float:
    """Give how long a request that nothing holds up is in flight on average: until its answer comes, or the client gives up."""
    if not time.exponential:
        return min(time.mean_s, load.timeout)
    return time.mean_s * -math.expm1(-load.timeout / time.mean_s) if time.mean_s else 0.0


def _lost_share(load: OpenLoad, offered: float, most: int, *, exponential: bool) -> float:
    """Give the share that finds so many in flight at least: by Erlang's or Takács' formula, or if both are constant by Little's law."""
    if load.arrivals == "poisson":
        return erlang_b(most, offered)
    if exponential:
        return constant_arrivals(most, offered)
    return max(0.0, 1 - most / offered) if offered else 0.0


def _for_the_service(scenario: Scenario, pool: _Pool) -> Iterator[Problem]:
    clients, limit = scenario.clients.count, pool.limits.get("http2MaxRequests")
    applied = {phase.name for phase in scenario.phases if phase.policy == "applied"}
    if limit is None:
        return
    for each in scenario.expected():
        if each.phase not in applied or each.metric != "peak_in_flight" or each.operator not in _BOUNDS or isinstance(each.wanted, str):
            continue
        bound = math.ceil(each.wanted) - 1 if each.operator == "<" else math.floor(each.wanted)
        together = clients * min(limit, _at_once(scenario)[0])
        if limit <= bound < together:
            share = bound // clients
            split = f", or give each client its share: http2MaxRequests {share}" if share else ""
            yield pool.warning(
                "http2MaxRequests",
                f"http2MaxRequests {limit} holds in each of {clients} sidecars, so the service may see {together} at a time; '{each}' of phase {each.phase} takes it for the whole service's",
                hint=f"expect peak_in_flight <= {together}{split}",
                code="limit-is-per-client",
            )


_BOUNDS = ("<", "<=", "==")


def _ejected(scenario: Scenario, pool: _Pool, around: Surroundings) -> Iterator[Problem]:
    """Warn of a rule that ejects the service of this machine, its one endpoint, for what the scenario has it answer."""
    errors = _errors_until_ejected(scenario, pool, around)
    if errors is None:
        return
    yield pool.rule.warning(
        (*pool.path, "outlierDetection", "maxEjectionPercent"),
        f"the scenario's service answers {_status(scenario)}, and after {errors} such answer{'s' if errors != 1 else ''} a sidecar ejects its only endpoint: until it is tried again the sidecar answers 'no healthy upstream' by itself, and no limit shows anything",
        hint="leave outlierDetection out, or maxEjectionPercent (its default 10 ejects none of one endpoint), or have the service succeed: service.status",
        code="service-ejected",
    )


def _errors_until_ejected(scenario: Scenario, pool: _Pool, around: Surroundings) -> int | None:
    """Give after how many answers, one after the other, a sidecar ejects the service; None if it does not, or a client has fewer. Of a cluster's neither is known.

    Without a ``minHealthPercent`` istiod switches Envoy's panic off: then nobody is asked when all are ejected (measured on Envoy 1.40).
    """
    outlier, status = pool.outlier, _status(scenario)
    if around.in_cluster or outlier is None or outlier.max_ejection_percent != _EVERYTHING or outlier.min_health_percent:
        return None
    server_errors = _CONSECUTIVE_5XX if outlier.consecutive_5xx_errors is None else outlier.consecutive_5xx_errors
    gateway_errors = outlier.consecutive_gateway_errors or 0
    counted = [server_errors] if status >= _FIRST_5XX else []
    counted += [gateway_errors] if status in _GATEWAY_ERRORS else []
    errors = min(filter(None, counted), default=None)
    return None if errors is None or _too_few(scenario, errors, around.service_time(scenario)) else errors


def _status(scenario: Scenario) -> int:
    return scenario.service.status or scenario.target.expect.status
