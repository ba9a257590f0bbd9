"""What does each limit do, and did it? One law for each, from what Envoy 1.40 was measured to do.

* ``http2MaxRequests: L`` rejects what would be more than L at a time, with W worker threads L + W - 1, whatever the arrivals and the pool.
* ``http1MaxPendingRequests`` rejects what would wait as one too many; how many that are depends on how they arrive and on how many
  connections are open. So only that it rejected shows anything.
* ``maxConnections: C`` rejects nothing: what finds no connection waits. Each worker may always have one, so C + W - 1 requests are under way at
  a time at most, where a connection carries one.
* ``maxRequestsPerConnection: R``: so many connections carry at most R times as many requests.
* ``maxRetries`` keeps retries from being made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loadgen.evidence import State
from loadgen.firing import MAX_CONNECTIONS, MAX_PENDING, MAX_PER_CONNECTION, MAX_REQUESTS, MAX_RETRIES, fired, many, times
from loadgen.policy.limits import connections_come_first

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loadgen.evidence import Evidence


class Judgement(NamedTuple):
    """What a run shows of one limit.

    ``said`` are words that follow the limit's name and value; none where a limit that rejects did so, or where the load never reached it.
    """

    name: str
    value: int
    state: State
    said: str

    def of(self, rule: str = "") -> str:
        """Say it, with the rule that sets the limit if that is named."""
        return f"{self.name} {self.value}{rule} {self.said or 'was never reached'}"


def judgements(evidence: Evidence) -> list[Judgement]:
    """Judge each limit of the policy by its own law."""
    limits = evidence.limits
    return [Judgement(name, limits[name], *law(evidence, limits[name])) for name, law in LAWS.items() if name in limits]


def _requests(evidence: Evidence, limit: int) -> tuple[State, str]:
    admitted, most = evidence.admitted or 0, limit + evidence.band
    race = f", inside the race of {evidence.workers} workers" if admitted <= most else ""
    beyond = f"is in force, but {evidence.how_sure} {admitted} requests of a client were admitted at a time{race}"
    if admitted > most:
        return State.NOT_ENFORCED, beyond
    if not _rejected(evidence, MAX_REQUESTS):
        first = connections_come_first(evidence.limits, evidence.workers) and not evidence.multiplexed
        # that so few are in the way is seen only where they ran out: else the load was smaller than both limits
        return State.INCONCLUSIVE, "cannot be reached through so few connections" if first and evidence.counters.cx_overflow else ""
    bursts = evidence.bursts
    if bursts is not None and MAX_PENDING not in evidence.limits and bursts.least < limit:
        return (
            State.INCONCLUSIVE,
            f"allows more than the {bursts.least:,} that were let through of some bursts: something else limits them, too",
        )
    if bursts is not None and bursts.most > most and not _is_seen(evidence):
        return (
            State.INCONCLUSIVE,
            f"allows less than the {bursts.most:,} that were let through of some bursts, and nothing shows whether they were under way at a time",
        )
    return (State.OVERSHOOT, beyond) if admitted > limit else (State.ENFORCED, "")


def _pending(evidence: Evidence, limit: int) -> tuple[State, str]:
    del limit  # how long the queue was at most is in no counter
    return State.ENFORCED if _rejected(evidence, MAX_PENDING) else State.INCONCLUSIVE, ""


def _rejected(evidence: Evidence, name: str) -> bool:
    return evidence.overflow > 0 and name in (each for each, _ in fired(evidence.limits, evidence.counters).limits)


def _connections(evidence: Evidence, limit: int) -> tuple[State, str]:
    admitted, refused = evidence.admitted, evidence.counters.cx_overflow
    if admitted is not None and admitted > limit + evidence.band and not evidence.multiplexed:
        return State.NOT_ENFORCED, f"is in force, but {evidence.how_sure} {admitted} requests of a client were under way at a time"
    if not refused:
        return State.INCONCLUSIVE, "is in force, but no request ever waited for a connection"
    made = f"refused a further connection {times(refused)}, so requests waited"
    if admitted is None or not _is_seen(evidence) or evidence.multiplexed:
        return State.INCONCLUSIVE, f"{made}, but nothing shows how many were under way at a time"
    if admitted > limit:
        return (
            State.OVERSHOOT,
            f"{made}, and up to {admitted} of a client were under way at a time, for each of {evidence.workers} workers may have a connection",
        )
    return State.ENFORCED, f"{made}, and at most {admitted} of a client {'was' if admitted == 1 else 'were'} under way at a time"


def _is_seen(evidence: Evidence) -> bool:
    return evidence.admitted is not None and not evidence.gaps.unseen


def _per_connection(evidence: Evidence, limit: int) -> tuple[State, str]:
    for client in evidence.clients:
        carried, connections = client.counters.total, client.counters.cx_total + (client.connections or 0)
        most = limit * (connections + evidence.workers)  # each worker may have counted the one and not yet the other
        if client.connections is not None and carried > most and not evidence.multiplexed:
            return State.NOT_ENFORCED, f"is in force, but {connections:,} connections of {client.name} carried {carried:,} requests"
    counters = evidence.counters
    if not counters.cx_max_requests:
        return State.INCONCLUSIVE, "is in force, but no connection was closed for it"
    closed, carried = counters.cx_max_requests, counters.total
    if closed == carried > 1:
        return State.ENFORCED, "had a connection closed after each request that was let through"
    # a client counts a request as it ends: where an edge of the phase cuts some, its count is another
    clock = "" if carried == evidence.requests - evidence.overflow else ", as the sidecars count them when they begin"
    return State.ENFORCED, f"had connections closed {times(closed)} while {many(carried, 'request')} let through{clock}"


def _retries(evidence: Evidence, limit: int) -> tuple[State, str]:
    del limit
    dropped = evidence.counters.retry_overflow
    if not dropped:
        return State.INCONCLUSIVE, "is in force, but so many retries were never needed at a time"
    return State.ENFORCED, f"kept {dropped:,} retries from being made"


LAWS: Mapping[str, Callable[[Evidence, int], tuple[State, str]]] = {
    MAX_REQUESTS: _requests,
    MAX_PENDING: _pending,
    MAX_CONNECTIONS: _connections,
    MAX_PER_CONNECTION: _per_connection,
    MAX_RETRIES: _retries,
}
