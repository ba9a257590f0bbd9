"""May the figures be trusted? Says why the hammer itself spoils a measurement: it was too busy, too late, or ran out of something."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

BUSY_CPU_SHARE = 0.9
LATE_S = 0.05
UNSENT_SHARE = 0.01
TOO_MANY = "too many were in flight; raise the limit of requests in flight or lower the rate"
SENT_NOTHING = "the flow failed before it sent anything"
_EXHAUSTED = {
    "EMFILE": "file descriptors (raise the limit: ulimit -n)",
    "ENFILE": "the machine's file descriptors",
    "EADDRNOTAVAIL": "local ports (use fewer connections, or a wider net.ipv4.ip_local_port_range)",
    "ENOBUFS": "the kernel's buffers",
    "ENOMEM": "memory",
}
"""Errors of ``connect`` that are this side's fault, not the target's."""


@dataclass(frozen=True, slots=True)
class Health:
    """How the hammer fared over a stretch of time: CPU as a share of one core, lags at the 99th percentile in seconds, counts."""

    requests: int
    unsent: int
    cpu_share: float
    lag_p99_s: float
    loop_lag_p99_s: float
    connect_errors: Mapping[str, int]
    unsent_because: str = TOO_MANY


def busiest_share(spans: Iterable[tuple[Mapping[int, float], Mapping[int, float]]], wall_s: float) -> float:
    """Give the share of one core that the busiest process used over spans of time that lasted ``wall_s`` seconds in all.

    A span is the CPU time in seconds by process id at its start and at its end; a process that is not in the first is left out.
    """
    used: defaultdict[int, float] = defaultdict(float)
    for before, after in spans:
        for pid, spent_s in after.items():
            used[pid] += spent_s - before.get(pid, spent_s)
    return max(used.values(), default=0.0) / wall_s if wall_s else 0.0


def doubts(health: Health, where: str = "", *, more: str = "offer less load") -> list[str]:
    """Say why the hammer spoils a measurement; nothing if it does not.

    ``where`` names the stretch (such as " in phase limited"), ``more`` what to do about a hammer that is too busy.
    """
    found = []
    if health.cpu_share >= BUSY_CPU_SHARE:
        found.append(f"the hammer was the bottleneck{where}: it used {health.cpu_share:.0%} of a core; {more}")
    if health.lag_p99_s >= LATE_S:
        found.append(
            f"the hammer was late{where}: 1 % of the requests left {health.lag_p99_s * 1000:.0f} ms or more after they were due; {more}, or use a quieter machine"
        )
    elif health.loop_lag_p99_s >= LATE_S:
        found.append(
            f"the hammer was starved{where}: 1 % of the time it got to run {health.loop_lag_p99_s * 1000:.0f} ms late or more; use a quieter machine, or {more}"
        )
    if health.unsent > UNSENT_SHARE * health.requests:
        found.append(f"{health.unsent:,} of {health.requests:,} requests{where} were not sent because {health.unsent_because}")
    found += [
        f"the hammer ran out of {what}{where}: {health.connect_errors[name]:,} connections could not be opened ({name})"
        for name, what in _EXHAUSTED.items()
        if health.connect_errors.get(name)
    ]
    return found
