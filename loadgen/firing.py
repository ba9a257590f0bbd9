"""Which limit fired in a phase, and why? One sentence, from counters and limits; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.ledger import Counters

MAX_REQUESTS, MAX_PENDING, MAX_CONNECTIONS = "http2MaxRequests", "http1MaxPendingRequests", "maxConnections"
REJECTING = (MAX_REQUESTS, MAX_PENDING)
"""The limits that reject. Before Envoy 1.38 their rejects are in one counter."""


def fired(limits: Mapping[str, int], counters: Counters) -> list[str]:
    """Name the limits that rejected something, with their values."""
    counts = {MAX_REQUESTS: counters.active_overflow, MAX_PENDING: counters.pending_overflow}
    found = [name for name, count in counts.items() if count and name in limits]
    only = [name for name in REJECTING if name in limits]
    if not found and counters.overflow and len(only) == 1:
        found = only
    return [f"{name} {limits[name]}" for name in found]


def why(
    limits: Mapping[str, int], counters: Counters, *, requests: int, overflow: int, server_side: int, clients: int, peak: int | None
) -> str:
    """Say what became of a phase's requests and which limit did it; nothing if no limit was in force and nothing overflowed.

    ``limits`` are those of each client, ``counters`` those of all sidecars together; ``overflow`` was rejected by the clients' own sidecars,
    ``server_side`` by another one; ``peak`` is the most that the service saw at a time, None if it does not say.
    """
    if not limits and not overflow and not server_side:
        return ""
    parts = []
    if overflow:
        names = " and ".join(name.replace(" ", " is ") for name in fired(limits, counters))
        because = f"because {names}" if names else "by a limit that the policy does not set"
        parts.append(f"{overflow:,} of {requests:,} requests were rejected at {_whose(clients)} own sidecar {because}")
    else:
        parts.append(f"none of {requests:,} requests was rejected")
    if server_side:
        parts.append(f"{server_side:,} were rejected on the server's side")
    if counters.cx_overflow and MAX_CONNECTIONS in limits:
        parts.append(f"{counters.cx_overflow:,} times a request waited because {MAX_CONNECTIONS} is {limits[MAX_CONNECTIONS]}")
    if peak is not None:
        parts.append(f"the service never saw more than {peak} at a time{_of_all(limits, clients)}")
    return "; ".join(parts)


def _whose(clients: int) -> str:
    return "the client's" if clients == 1 else "each client's"


def _of_all(limits: Mapping[str, int], clients: int) -> str:
    limit = limits.get(MAX_REQUESTS)
    return "" if limit is None or clients == 1 else f" ({clients} clients, {limit} each)"
