"""Can this load show what these limits do? Two mistakes that neither the rule nor the scenario has alone.

A limit that the load never reaches proves nothing; and a limit holds in each sidecar, so an expectation that takes it for the whole service's cannot hold.
Both are said only where they are sure: nobody is warned of having one client.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadgen.pacing import Open
from loadgen.policy.limits import Limits
from loadgen.policy.selection import winner
from loadgen.policy.translation import cluster_name, clusters
from loadgen.quantity import interval_text
from loadgen.queueing import constant_arrivals, erlang_b
from loadgen.scenario import BurstLoad, ClosedLoad, OpenLoad

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadgen.errors import Problem
    from loadgen.policy.rule import Path, Rule
    from loadgen.policy.selection import Service, Workload
    from loadgen.scenario import Scenario

UNLIKELY = 0.01
"""So many rejections in a whole run are none."""
_KEYS = {
    "maxConnections": ("tcp", "maxConnections"),
    "http1MaxPendingRequests": ("http", "http1MaxPendingRequests"),
    "http2MaxRequests": ("http", "http2MaxRequests"),
}


@dataclass(frozen=True, slots=True)
class _Pool:
    """Where the limits stand that are in force for the clients."""

    rule: Rule
    path: Path
    limits: dict[str, int]

    def warning(self, name: str, message: str, *, hint: str, code: str) -> Problem:
        return self.rule.warning((*self.path, *_KEYS[name]), message, hint=hint, code=code)


def unfit(scenario: Scenario, rules: Sequence[Rule], service: Service, client: Workload) -> list[Problem]:
    """Find the limits that the scenario's load cannot reach, and the expectations that take a sidecar's limit for the service's."""
    pool = _pool(rules, service, client)
    if pool is None or not any(phase.policy == "applied" for phase in scenario.phases):
        return []
    return [*_unreached(scenario, pool), *_for_the_service(scenario, pool)]


def _pool(rules: Sequence[Rule], service: Service, client: Workload) -> _Pool | None:
    merged = winner(rules, service, client)
    source = merged.policy_source if merged else None
    if source is None:
        return None
    port = service.ports[0]
    limits = Limits.of_cluster(clusters(rules, service, client)[cluster_name(service, port)]).in_force()
    path: Path = ("trafficPolicy", "connectionPool")
    settings = (source.traffic_policy.port_level_settings or ()) if source.traffic_policy else ()
    for index, each in enumerate(settings):
        if each.port and each.port.number == port:
            path = ("trafficPolicy", "portLevelSettings", index, "connectionPool")
    return _Pool(source, path, limits)


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


def _unreached(scenario: Scenario, pool: _Pool) -> Iterator[Problem]:
    most, why = _at_once(scenario)
    for name, limit in pool.limits.items():
        if name not in _KEYS:
            continue
        reason = f"{why}, so a client has at most {most} in flight" if limit >= most else ""
        if not reason and name == "http2MaxRequests":
            reason = _too_slow(scenario, limit)
        if reason:
            yield pool.warning(
                name,
                f"this load never reaches {name} {limit}: {reason}",
                hint="offer more load or lower the limit, or the run shows nothing of it",
                code="limit-never-reached",
            )


def _at_once(scenario: Scenario) -> tuple[int, str]:
    most = scenario.load.max_in_flight
    many = "s" if most != 1 else ""
    match scenario.load:
        case ClosedLoad():
            return most, f"each client has {most} user{many}"
        case BurstLoad():
            return most, f"a burst has {most} request{many}"
    return most, f"max_in_flight is {most}"


def _too_slow(scenario: Scenario, limit: int) -> str:
    """Say why an open load is not worth a rejection in a whole run, however long its phases with the policy are; empty if it is."""
    load, service = scenario.load, scenario.service.time
    if not isinstance(load, OpenLoad) or not isinstance(load.pacing, Open):
        return ""
    rate = load.highest_rate_per_s
    offered = rate * service.mean_s
    seconds = scenario.clients.count * sum(phase.duration for phase in scenario.phases if phase.policy == "applied")
    if load.arrivals == "poisson":
        share = erlang_b(limit, offered)
    elif service.exponential:
        share = constant_arrivals(limit, offered)
    else:
        share = 0.0 if offered + 1 <= limit else 1.0
    if share * rate * seconds >= UNLIKELY:
        return ""
    time = interval_text(service.mean_s, exponential=service.exponential)
    return f"at {rate:.6g}/s and with a service time of {time} there are {offered:.2g} in service on average, and no rejection is to be expected in the whole run"


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
