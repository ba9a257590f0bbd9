"""When exactly does a phase begin and end to count, so that the ledger is exact to the request while the load goes on?

The law: the edge of a window is a moment at which the client has seen every overflow that its sidecar has counted. A reject takes well
under a millisecond, so such moments are frequent; the edge is looked for by reading the counters until both witnesses are equal and
nothing came in between. If the rejects come too thick for that, sending is held back for as long as it takes, some milliseconds where readings are
quick; how long is in the report. If the witnesses do not come together even then, the difference is real and stays in the ledger. Time alone says nothing of that: on a
machine that stands still for a second, one reading takes longer than a hundred do elsewhere.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from loadgen.engine.load import clock
from loadgen.errors import HammerError
from loadgen.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from loadgen.engine.hammers import Load
    from loadgen.engine.load import Sight
    from loadgen.ledger import Counters
    from loadgen.recorder import Tally

HOLD_AFTER = 12
"""So many readings that failed, and the sender is held back."""
HELD_READINGS = 12
"""At least so many more are made then, however long one takes."""
GIVE_UP_S = 1.0
PATIENCE_S = 10.0
"""And no further one after this time, even if they were fewer."""
POLL_S = 0.003
LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What the other two witnesses said of one client: its sidecar's counters, and the requests of it that had reached the service.

    ``arrived`` is None of a service that does not count. ``connections`` is a gauge, and therefore no counter: how many connections to the service
    the sidecar had open, or was opening; None if it does not say.
    """

    counters: Counters
    arrived: int | None = 0
    connections: int | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """One edge of one client's window: when it was found, what was read, and the tally that ended there.

    ``overflow`` is what the client had seen since the start of the load. ``on_the_way`` were at most so many requests: one that was in flight
    or sent while the others were read may be in what one of them said, and not in what the other did. ``settled`` is false if client and
    sidecar could not be brought to agree.
    """

    at: float
    reading: Reading
    tally: Tally
    overflow: int
    held_s: float = 0.0
    on_the_way: int = 0
    settled: bool = True


async def find_edge(load: Load, read: Callable[[], Awaitable[Reading]], *, offset: int = 0) -> Edge:
    """Find an edge and begin a new tally there, only if the client has seen no further overflow since before the last reading.

    ``read`` reads the other witnesses. ``offset`` is by how much client and sidecar are known to differ from before (client less sidecar): a
    difference is counted once, in the window in which it came about.
    """
    started = clock()
    held_at = 0.0
    attempt = 0
    try:
        while True:
            before = await load.look()
            reading = await read()
            attempt += 1
            agree = before.sidecar_overflow - offset == reading.counters.overflow
            ended = await load.begin_tally(if_overflow=before.sidecar_overflow) if agree else None
            settled = ended is not None
            overflow = before.sidecar_overflow
            tried_s = clock() - started
            if ended is None and ((tried_s > GIVE_UP_S and attempt >= HOLD_AFTER + HELD_READINGS) or tried_s > PATIENCE_S):
                overflow = (await load.look()).sidecar_overflow
                ended = await load.begin_tally()
            if ended is not None:
                at = clock()
                held_s = at - held_at if held_at else 0.0
                on_the_way = await _on_the_way(load, before, ended)
                return Edge(at, reading, ended, overflow, held_s, on_the_way, settled)
            if attempt == HOLD_AFTER:
                load.hold()
                held_at = clock()
            await anyio.sleep(POLL_S)
    finally:
        if held_at:
            load.release()


async def _on_the_way(load: Load, before: Sight, ended: Tally) -> int:
    """Bound what one witness may have counted and the other not: what was in flight or sent meanwhile, and what the client gave up on.

    The tally that ended must not be lost here, whoever is cancelled: without an answer of the load all of its requests are in the bound.
    """
    given_up = ended.outcomes[Outcome.TIMEOUT] + ended.outcomes[Outcome.RESET]
    with anyio.move_on_after(LOOK_S, shield=True), contextlib.suppress(HammerError):
        return before.in_flight + (await load.look()).sent - before.sent + given_up
    return before.in_flight + ended.requests
