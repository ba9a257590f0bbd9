"""Which limit fired in a phase, and why? One sentence, from counters and limits; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadgen.ledger import Counters

MAX_REQUESTS, MAX_PENDING, MAX_CONNECTIONS = "http2MaxRequests", "http1MaxPendingRequests", "maxConnections"
MAX_PER_CONNECTION, MAX_RETRIES = "maxRequestsPerConnection", "maxRetries"
REJECTING = (MAX_REQUESTS, MAX_PENDING)
"""The limits that reject."""
NONE_CAME = "no request came to the service after the phase had begun to count"
"""What a peak of 0 shows. Some may be ok all the same: the service had answered them before the phase began, and the client saw it in the phase."""


@dataclass(frozen=True, slots=True)
class Fired:
    """The limits that rejected something, by name and value, and how many rejects no limit of the policy explains.

    ``known``: which of them it was. Before Envoy 1.38 the rejects of both are in one counter.
    """

    limits: Sequence[tuple[str, int]]
    unexplained: int
    known: bool = True

    def __str__(self) -> str:
        return self.listed(" ")

    def listed(self, between: str) -> str:
        """Name the limits with their values; ``between`` stands between the two."""
        return f" {'and' if self.known else 'or'} ".join(f"{name}{between}{value}" for name, value in self.limits)


def fired(limits: Mapping[str, int], counters: Counters) -> Fired:
    """Say which limits rejected what sidecars have counted."""
    counts = {MAX_REQUESTS: counters.active_overflow, MAX_PENDING: counters.pending_overflow}
    names = [name for name, count in counts.items() if count and name in limits]
    unexplained = sum(count for name, count in counts.items() if name not in limits)
    if not counters.combined_overflow:
        return Fired([(name, limits[name]) for name in names], unexplained)
    either = [name for name in REJECTING if name in limits]
    return Fired([(name, limits[name]) for name in either], unexplained + (0 if either else counters.combined_overflow), len(either) == 1)


def why(
    limits: Mapping[str, int], counters: Counters, *, requests: int, overflow: int, server_side: int, clients: int, peak: int | None
) -> str:
    """Say what became of a phase's requests and which limit did it; nothing if no limit was in force and nothing overflowed.

    ``limits`` are those of each client, ``counters`` those of all sidecars together; ``overflow`` was rejected by the clients' own sidecars,
    ``server_side`` by another one; ``peak`` is the most that the service saw at a time, None if it does not say.
    """
    if not limits and not overflow and not server_side:
        return ""
    own = f"at {_whose(clients)} own sidecar"
    if overflow:
        parts = [f"{overflow:,} of {requests:,} requests were rejected {own}{_because(fired(limits, counters))}"]
    else:
        parts = [f"none of {requests:,} requests was rejected {own}" if server_side else f"none of {requests:,} requests was rejected"]
    if server_side:
        parts.append(f"{server_side:,} were rejected on the server's side")
    parts += _quiet(limits, counters, rejected=overflow > 0)
    if peak is not None:
        parts.append(f"the service never saw more than {peak} at a time{_of_all(limits, clients)}" if peak else NONE_CAME)
    return "; ".join(parts)


def _because(found: Fired) -> str:
    policy = f" because {found.listed(' is ')}" if found.limits else ""
    together = "" if found.known else ", which this Envoy counts together"
    other = f"{' and' if policy else ''} by a limit that the policy does not set" if found.unexplained else ""
    return policy + together + other


def _quiet(limits: Mapping[str, int], counters: Counters, *, rejected: bool) -> list[str]:
    """Say what the limits did that reject nothing. That connections were closed is worth a word only where nothing was ``rejected``; the verdict counts it."""
    refused, closed, dropped = counters.cx_overflow, counters.cx_max_requests, counters.retry_overflow
    did = {
        MAX_CONNECTIONS: f"a further connection was refused {times(refused)}" if refused else "",
        MAX_PER_CONNECTION: f"{many(closed, 'connection')} closed" if closed and not rejected else "",
        MAX_RETRIES: f"{many(dropped, 'retry', 'retries')} not made" if dropped else "",
    }
    return [f"{said} because {name} is {limits[name]}" for name, said in did.items() if said and name in limits]


def times(count: int) -> str:
    """Say how often, as in ``3 times``."""
    return "once" if count == 1 else f"{count:,} times"


def many(count: int, one: str, more: str = "") -> str:
    """Say how many there were, as in ``3 connections were``."""
    return f"1 {one} was" if count == 1 else f"{count:,} {more or one + 's'} were"


def _whose(clients: int) -> str:
    return "the client's" if clients == 1 else "each client's"


def _of_all(limits: Mapping[str, int], clients: int) -> str:
    limit = limits.get(MAX_REQUESTS)
    return "" if limit is None or clients == 1 else f" ({clients} clients, {limit} each)"
