"""When exactly does a phase begin and end to count, so that the ledger is exact to the request while the load goes on?

The law: the edge of a window is a moment at which the client has seen every overflow that its sidecar has counted. A reject takes well
under a millisecond, so such moments are frequent; the edge is looked for by reading the counters until both witnesses are equal and
nothing came in between. If the rejects come too thick for that, sending is held back for the few milliseconds it takes; how long is in
the report. If the witnesses do not come together even then, the difference is real and stays in the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from loadgen.engine.load import ClientLoad, clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from loadgen.ledger import Counters, ServiceCount
    from loadgen.policy.state import SidecarState
    from loadgen.recorder import Tally
    from loadgen.scenario import Phase

HOLD_AFTER = 12
"""So many readings that failed, and the sender is held back."""
GIVE_UP_S = 2.0
POLL_S = 0.003


@dataclass(frozen=True, slots=True)
class Edge:
    """One edge of one client's window: when it was found, what the proxy had counted, and the tally that begins there.

    ``in_flight`` is the client's at that moment; ``arrived`` the requests of this client that the service had counted just after it.
    """

    at: float
    counters: Counters
    tally: Tally
    held_s: float
    in_flight: int = 0
    arrived: int = 0


@dataclass(slots=True)
class Window:
    """One phase as it was measured. ``ends`` and ``service`` (the peaks, in all and per client) are empty if the run was cut short."""

    phase: Phase
    starts: dict[str, Edge]
    convergence_s: dict[str, float]
    drain_s: dict[str, float]
    states: dict[str, SidecarState]
    cpu_start_s: float
    began: float
    ends: dict[str, Edge] = field(default_factory=dict)
    service: tuple[ServiceCount, dict[str, ServiceCount]] | None = None
    cpu_end_s: float = 0.0
    ended: float = 0.0


@dataclass(slots=True)
class Measured:
    """A whole run as it was measured. ``reasons`` say why it is not valid; ``restored`` is None if nothing had to be restored."""

    windows: list[Window] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    restored: bool | None = None
    restore_detail: str = "no phase applied a policy"
    ended_s: float = 0.0


async def find_edge(load: ClientLoad, read: Callable[[], Awaitable[Counters]]) -> Edge:
    """Find an edge and begin a new tally there. ``read`` reads the counters of the client's sidecar."""
    started = clock()
    held_at = 0.0
    attempt = 0
    try:
        while True:
            before = load.sidecar_overflow
            counters = await read()
            attempt += 1
            settled = before == counters.overflow == load.sidecar_overflow
            if settled or clock() - started > GIVE_UP_S:
                held_s = clock() - held_at if held_at else 0.0
                return Edge(clock(), counters, load.begin_tally(), held_s, load.in_flight)
            if attempt == HOLD_AFTER:
                load.hold()
                held_at = clock()
            await anyio.sleep(POLL_S)
    finally:
        if held_at:
            load.release()
