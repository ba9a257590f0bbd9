"""When exactly does a phase begin and end to count, so that the ledger is exact to the request while the load goes on?

The law: the edge of a window is a moment at which the client has seen every overflow that its sidecar has counted. A reject takes well
under a millisecond, so such moments are frequent; the edge is looked for by reading the counters until both witnesses are equal and
nothing came in between. If the rejects come too thick for that, sending is held back for the few milliseconds it takes; how long is in
the report. If the witnesses do not come together even then, the difference is real and stays in the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from loadgen.engine.load import ClientLoad, clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from loadgen.ledger import Counters
    from loadgen.recorder import Tally

HOLD_AFTER = 12
"""So many readings that failed, and the sender is held back."""
GIVE_UP_S = 2.0
POLL_S = 0.003


@dataclass(frozen=True, slots=True)
class Edge:
    """One edge of one client's window: when it was found, what the proxy had counted, and the tally that begins there."""

    at: float
    counters: Counters
    tally: Tally
    held_s: float


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
                return Edge(clock(), counters, load.begin_tally(), clock() - held_at if held_at else 0.0)
            if attempt == HOLD_AFTER:
                load.hold()
                held_at = clock()
            await anyio.sleep(POLL_S)
    finally:
        if held_at:
            load.release()
