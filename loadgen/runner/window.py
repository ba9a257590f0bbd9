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
from loadgen.recorder import Histogram

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from loadgen.ledger import Counters, ServiceCount
    from loadgen.policy.state import SidecarState
    from loadgen.recorder import Tally
    from loadgen.scenario import Phase

HOLD_AFTER = 12
"""So many readings that failed, and the sender is held back."""
GIVE_UP_S = 1.0
POLL_S = 0.003


@dataclass(frozen=True, slots=True)
class Reading:
    """What the other two witnesses said of one client: its sidecar's counters, and the requests of it that had reached the service."""

    counters: Counters
    arrived: int = 0


@dataclass(frozen=True, slots=True)
class Edge:
    """One edge of one client's window: when it was found, what was read, and the tally that begins there.

    ``in_flight`` is the client's at that moment. ``settled`` is false if client and sidecar could not be brought to agree.
    """

    at: float
    reading: Reading
    tally: Tally
    held_s: float = 0.0
    in_flight: int = 0
    settled: bool = True


@dataclass(slots=True)
class Window:
    """One phase as it was measured.

    ``ends`` lacks a client, and ``service`` (all counts at the end, in all and per client) is None, if they could not be read any more.
    ``strangers`` are requests that had reached the service without the name of a client when the phase began; ``loop_lag`` is how late the
    hammer's own loop was.
    """

    phase: Phase
    starts: dict[str, Edge]
    convergence_s: dict[str, float]
    drain_s: dict[str, float]
    states: dict[str, SidecarState]
    strangers: int
    cpu_start_s: float
    began: float
    loop_lag: Histogram = field(default_factory=Histogram)
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


async def find_edge(load: ClientLoad, read: Callable[[], Awaitable[Reading]], *, offset: int = 0) -> Edge:
    """Find an edge and begin a new tally there; nothing is awaited between the last reading and the new tally.

    ``read`` reads the other witnesses. ``offset`` is by how much client and sidecar are known to differ from before (client less sidecar): a
    difference is counted once, in the window in which it came about.
    """
    started = clock()
    held_at = 0.0
    attempt = 0
    try:
        while True:
            before = load.sidecar_overflow
            reading = await read()
            attempt += 1
            settled = before - offset == reading.counters.overflow == load.sidecar_overflow - offset
            if settled or clock() - started > GIVE_UP_S:
                held_s = clock() - held_at if held_at else 0.0
                return Edge(clock(), reading, load.begin_tally(), held_s, load.in_flight, settled)
            if attempt == HOLD_AFTER:
                load.hold()
                held_at = clock()
            await anyio.sleep(POLL_S)
    finally:
        if held_at:
            load.release()
