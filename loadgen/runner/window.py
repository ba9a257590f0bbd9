"""What was measured? One phase between its edges, and the whole run, before anything is made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from loadgen.ledger import Ledger
from loadgen.series import Series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.engine.edge import Edge
    from loadgen.ledger import Counters, ServiceReading
    from loadgen.policy.rule import Rule
    from loadgen.policy.state import SidecarState
    from loadgen.recorder import Tally
    from loadgen.scenario import Phase


@dataclass(slots=True)
class Window:
    """One phase as it was measured.

    ``rules`` are the policy that was in force, none if there was none. ``ends`` lacks a client, and ``service`` (what the service said at the end; ``service_before`` is what it said at the start) is None, if
    they could not be read any more; ``tallies`` has all clients when the window is closed. ``changed``: what was in force was not the same from start to end. The CPU times are seconds by process id. ``began``, ``ended`` and
    ``toggled`` (None if nothing was toggled for the phase) are on ``clock``.
    """

    phase: Phase
    starts: dict[str, Edge]
    convergence_s: dict[str, float]
    drain_s: dict[str, float]
    states: dict[str, SidecarState]
    service_before: ServiceReading
    cpu_start_s: dict[int, float]
    began: float
    toggled: float | None = None
    rules: Sequence[Rule] = ()
    ends: dict[str, Edge] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    service: ServiceReading | None = None
    cpu_end_s: dict[int, float] = field(default_factory=dict)
    ended: float = 0.0
    changed: bool = False


@dataclass(slots=True)
class Measured:
    """A whole run as it was measured. ``reasons`` say why it is not valid; ``restored`` is None if nothing had to be restored.

    ``policy_lost`` says whether somebody else changed the policy, or may have. ``began`` is when the load began, on ``clock``; ``series`` the run by the second.
    """

    windows: list[Window] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    restored: bool | None = None
    restore_detail: str = "no phase applied a policy"
    policy_lost: bool = False
    began: float = 0.0
    ended_s: float = 0.0
    series: Series = field(default_factory=lambda: Series([], [], {}))


def connections(window: Window) -> int | None:
    """Give how many connections the clients' sidecars had open when the phase began to count; None if one does not say."""
    each = [edge.reading.connections for edge in window.starts.values()]
    known = [count for count in each if count is not None]
    return sum(known) if len(known) == len(each) else None


def pool(window: Window) -> Literal["", "cold", "warm", "mixed"]:
    """Say in how many sidecars a request could find an open connection when the phase began to count; nothing if that is not known.

    A connection that carries one request only is no other request's: with ``maxRequestsPerConnection`` 1 the pool is always cold.
    """
    ready: set[bool | None] = {_ready(window, name) for name in window.starts}
    if None in ready or not ready:
        return ""
    return "mixed" if len(ready) > 1 else "warm" if True in ready else "cold"


def _ready(window: Window, name: str) -> bool | None:
    if window.states[name].limits.max_requests_per_connection == 1:
        return False
    open_ones = window.starts[name].reading.connections
    return None if open_ones is None else open_ones > 0


def counters_of(window: Window, name: str) -> Counters | None:
    """Give what a client's sidecar counted in a phase; None if that is not known."""
    end = window.ends.get(name)
    return None if end is None else end.reading.counters.since(window.starts[name].reading.counters)


def imbalance(window: Window) -> int | None:
    """Give the clients' ledger differences of a phase that is over, added up without their signs; None if one is unknown."""
    if len(window.ends) < len(window.starts):
        return None
    total = 0
    for name in window.ends:
        if (counted := counters_of(window, name)) is not None:
            total += abs(Ledger(window.tallies[name].sidecar_overflow, counted.overflow).difference)
    return total
