"""What in a connection pool does nothing, or something else than it seems to? The checks of single pools.

A pool that holds nowhere is none of them: what stands in its place is the finding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.policy.limits import connections_come_first
from loadgen.policy.manifest import ConnectionPool, HttpPool, PortPolicy, TcpPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadgen.errors import Problem
    from loadgen.policy.lint import Scene
    from loadgen.policy.manifest import TrafficPolicy
    from loadgen.policy.rule import Path, Rule


def in_use(rule: Rule, scene: Scene) -> Iterator[tuple[Path, ConnectionPool]]:
    """Give the pools that hold for a port of the service, with their paths from ``spec``: a port's policy replaces the one above it as a whole."""
    for path, policy in rule.policies():
        if isinstance(policy, PortPolicy):
            continue
        entries = port_entries(policy)
        if policy.connection_pool is not None and not all(port in entries for port in scene.service.ports):
            yield (*path, "connectionPool"), policy.connection_pool
        for port in scene.service.ports:
            index, entry = entries.get(port, (0, PortPolicy()))
            if entry.connection_pool is not None:
                yield (*path, "portLevelSettings", index, "connectionPool"), entry.connection_pool


def port_entries(policy: TrafficPolicy) -> dict[int, tuple[int, PortPolicy]]:
    """Give the entry that counts for each port, with its place in the list: of two for one port the first one."""
    found: dict[int, tuple[int, PortPolicy]] = {}
    for index, entry in enumerate(policy.port_level_settings or ()):
        if entry.port is not None and entry.port.number is not None:
            found.setdefault(entry.port.number, (index, entry))
    return found


def zero(rule: Rule, scene: Scene) -> Iterator[Problem]:
    for path, pool in in_use(rule, scene):
        for where, value in limits_of(pool).items():
            if value == 0 and where[-1] != "maxRequestsPerConnection":  # its 0 is said to mean no limit
                message = f"{where[-1]}: 0 does not mean none, Istio takes it for unset: there is no limit"
                yield rule.warning(
                    (*path, *where), message, hint="the smallest limit is 1; leave the key out for no limit", code="zero-is-unset"
                )


def empty_half(rule: Rule, scene: Scene) -> Iterator[Problem]:
    for path, pool in in_use(rule, scene):
        for key, half in (("tcp", pool.tcp), ("http", pool.http)):
            if half is not None and half == type(half)():
                message = f"{key} is empty: Istio accepts it, and it sets no limit"
                yield rule.warning((*path, key), message, hint="set a limit in it, or leave the block out", code="empty-block", at_key=True)


def endless_queue(rule: Rule, scene: Scene) -> Iterator[Problem]:
    for path, pool in in_use(rule, scene):
        tcp, http = _halves(pool)
        if not tcp.max_connections or http.http1_max_pending_requests or http.h2_upgrade_policy == "UPGRADE":
            continue
        limits = {str(where[-1]): value for where, value in limits_of(pool).items() if value}
        if not http.http2_max_requests:
            message = "maxConnections alone rejects nothing: what finds no connection waits in a queue without an end"
            hint = "add http.http2MaxRequests to reject, or http.http1MaxPendingRequests to bound the queue"
        elif connections_come_first(limits, scene.workers or 1):
            first = f"maxConnections {tcp.max_connections} {_comes_before(scene.workers, http.http2_max_requests)}"
            message = f"{first}: what finds no connection waits in a queue without an end, and is not rejected"
            hint = (
                "make maxConnections larger than http2MaxRequests or leave it out, or add http.http1MaxPendingRequests to bound the queue"
            )
        else:
            continue
        yield rule.warning((*path, "tcp", "maxConnections"), message, hint=hint, code="endless-queue")


def _comes_before(workers: int | None, requests: int) -> str:
    """Say what is known of connections that may run out first: each worker may have one to each endpoint, whatever their limit."""
    if workers is None:
        return f"comes before http2MaxRequests {requests} in a sidecar with one worker and a service with one endpoint, and may with more"
    return f"comes before http2MaxRequests {requests} in a sidecar with {workers} worker{'s' if workers != 1 else ''}"


def one_connection(rule: Rule, scene: Scene) -> Iterator[Problem]:
    for path, pool in in_use(rule, scene):
        tcp, http = _halves(pool)
        if tcp.max_connections and http.h2_upgrade_policy == "UPGRADE" and not http.http2_max_requests:
            message = (
                "maxConnections limits no requests over HTTP/2, which h2UpgradePolicy: UPGRADE asks for: one connection carries them all"
            )
            hint = "add http.http2MaxRequests to limit requests"
            yield rule.warning((*path, "tcp", "maxConnections"), message, hint=hint, code="http2-one-connection")


def http2_only(rule: Rule, scene: Scene) -> Iterator[Problem]:
    for path, pool in in_use(rule, scene):
        http = pool.http or HttpPool()
        settings = {"maxConcurrentStreams": http.max_concurrent_streams, "http2KeepAlive": http.http2_keep_alive}
        for key in (key for key, value in settings.items() if value):
            message = f"{key} has no effect on an HTTP/1.1 port, even one that is upgraded to HTTP/2"
            yield rule.warning((*path, "http", key), message, hint="use http2MaxRequests to limit requests", code="http2-only", at_key=True)


def _halves(pool: ConnectionPool) -> tuple[TcpPool, HttpPool]:
    return pool.tcp or TcpPool(), pool.http or HttpPool()


def limits_of(pool: ConnectionPool | None) -> dict[Path, int]:
    """Give the limits that a pool names, zeros too, by their paths in it."""
    tcp, http = _halves(pool or ConnectionPool())
    named = {
        ("tcp", "maxConnections"): tcp.max_connections,
        ("http", "http1MaxPendingRequests"): http.http1_max_pending_requests,
        ("http", "http2MaxRequests"): http.http2_max_requests,
        ("http", "maxRetries"): http.max_retries,
        ("http", "maxRequestsPerConnection"): http.max_requests_per_connection,
    }
    return {path: value for path, value in named.items() if value is not None}
