"""How do requests get to the target on plain HTTP/1.1 connections? The carrier of the wire engine.

What makes it cheap, without leaving anything out: the whole bytes of a response that was once parsed, checked and found complete are
remembered with the histogram that they count in. The same bytes again mean the same outcome; anything else goes through the parser.
"""

from __future__ import annotations

import asyncio
import errno
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from loadgen.cause import cause_of
from loadgen.engine.load import clock
from loadgen.engine.poller import Poller
from loadgen.engine.wire import KEPT_BYTES, MAX_RESPONSE_BYTES, Connection
from loadgen.outcome import Expected, Origin, Outcome, Response, classify, origin

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from loadgen.engine.load import ClientLoad
    from loadgen.recorder import Waiting

CONNECT_PAUSE_S = 0.05
"""A user whose connection was refused waits at least so long: a dead target must not make the hammer spin."""
CONNECTING_AT_ONCE = 256
"""More at once would overrun the target's queue of connections to accept (somaxconn), and wait a second for the kernel's next try."""
DEADLINE_TICK_S = 0.01
LONG_BYTES = 4096
"""A request that is not longer is written as a whole, so it cannot be answered before that."""
KNOWN_RESPONSES = 64
KNOWN_BYTES = 2048
"""Responses that are remembered: so many, each at most so long. They differ in their date and in Envoy's service time."""


@dataclass(frozen=True, slots=True)
class Shot:
    """What is sent where, what is expected back, and how long that may take. ``headless``: the answer has no body (HEAD)."""

    address: tuple[str, int]
    request: bytes
    expected: Expected
    timeout_s: float
    max_bytes: int = MAX_RESPONSE_BYTES
    headless: bool = False


Known = dict[bytes, "Waiting"]
_NOTHING: Known = {}


class Lane(Connection):
    """A connection, and the request on it: ``due`` and ``sent_at`` on ``clock``.

    ``known`` are the responses that need no parsing now: none while a response is coming in pieces, or when none is expected.
    ``descriptor`` is the socket's while a poller reads the lane, else -1.
    """

    __slots__ = ("_lanes", "_load", "_long", "candidate", "descriptor", "due", "known", "request", "sent_at")

    def __init__(self, lanes: Lanes, load: ClientLoad, shot: Shot) -> None:
        expected = shot.expected.body
        super().__init__(lanes, max_bytes=shot.max_bytes, kept_bytes=max(KEPT_BYTES, 2 * len(expected or b"")))
        self.headless = shot.headless
        self.request = shot.request
        self._long = len(shot.request) > LONG_BYTES
        self.candidate = b""
        self.due = 0.0
        self.sent_at = 0.0
        self.known = _NOTHING
        self.descriptor = -1
        self._lanes = lanes
        self._load = load

    @property
    def busy(self) -> bool:
        """Whether a request is on it."""
        return self._busy

    @property
    def heard(self) -> bool:
        """Whether something came on it that does not belong to an answer that has ended."""
        return self._received > 0

    @property
    def connected(self) -> bool:
        """Whether it was opened."""
        return self._transport is not None

    def shoot(self, due: float, sent_at: float, known: Known) -> None:
        """Send a request; ``known`` are the responses that need no parsing."""
        self.due = due
        self.sent_at = sent_at
        self.known = known
        self.send(self.request)

    def pause(self) -> int:
        """Have the event loop read no more, and give the descriptor to whoever reads instead."""
        assert self._transport is not None, "pause before connection_made"
        self._transport.pause_reading()
        descriptor: int = self._transport.get_extra_info("socket").fileno()
        return descriptor

    def resume(self) -> None:
        """Have the event loop read again."""
        assert self._transport is not None, "resume before connection_made"
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Count a known response at once; everything else takes the long way."""
        waiting = self.known.get(data)
        self.known = _NOTHING
        if waiting is None or (self._long and self.unwritten()):
            self.candidate = b"" if self._received or len(data) > KNOWN_BYTES else data
            self.parse(data)
            return
        now = clock()
        waiting.singles.append(now - self.due)
        self._busy = False
        self._lanes.free(self)
        self._load.follow(now)


class Lanes:
    """The connections of one load, and the requests that wait for one to be open."""

    def __init__(self, load: ClientLoad, shot: Shot, tasks: TaskGroup) -> None:
        self._load = load
        self._shot = shot
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._lanes: set[Lane] = set()
        self._idle: dict[Lane, None] = {}
        self._waiting: deque[tuple[float, float]] = deque()
        """Requests without a lane: when they were due, and when they were to be sent."""
        self._connecting = 0
        self._known: Known = {}
        self._poller = Poller(load, shot.request, self._waiting) if load.often_immediate else None
        self._dropped = False
        self._watch_deadlines()

    def __repr__(self) -> str:
        return f"<Lanes {len(self._lanes)} idle={len(self._idle)} waiting={len(self._waiting)}>"

    # What the load asks for.

    async def open(self, count: int) -> None:
        """Open so many lanes. One that cannot be opened is tried again by the request that needs it."""
        limiter = anyio.CapacityLimiter(CONNECTING_AT_ONCE)

        async def open_one() -> None:
            async with limiter:
                await self._open_lane()

        with anyio.move_on_after(self._shot.timeout_s):
            async with anyio.create_task_group() as tasks:
                for _ in range(count - len(self._idle)):
                    tasks.start_soon(open_one)

    def carry(self, due: float, now: float) -> None:
        """Send a request on the lane that was free last; without one it waits for a new lane, or for one that becomes free before that."""
        while self._idle:
            lane, _ = self._idle.popitem()
            if lane.usable:
                lane.shoot(due, now, self._known)
                return
        self._waiting.append((due, now))
        if self._connecting < min(len(self._waiting), CONNECTING_AT_ONCE):
            self._connecting += 1
            self._tasks.start_soon(self._open_for_waiting)

    def recount(self) -> None:
        """Forget the known responses: they count in a tally that has ended, or the next answer is to be seen."""
        self._known.clear()
        if self._poller is not None:
            self._poller.recount()

    def drop(self) -> None:
        """Drop all lanes and what is on them."""
        self._dropped = True
        self._deadline_timer.cancel()
        for lane in list(self._lanes):
            self._forget(lane)
            lane.abort()
        if self._poller is not None:
            self._poller.close()
        self._idle.clear()
        self._waiting.clear()

    def all_done_since(self, moment: float) -> bool:
        """Tell whether everything that was sent until a moment on ``clock`` has ended."""
        self._note_times()
        return (not self._waiting or self._waiting[0][1] > moment) and not any(lane.busy and lane.sent_at <= moment for lane in self._lanes)

    # Connections.

    async def _open_for_waiting(self) -> None:
        """Open lanes while requests wait for one. A connection that is refused is the end of the request that has waited longest."""
        try:
            while len(self._waiting) >= self._connecting:  # else the others who are connecting are enough
                failure = await self._open_lane()
                if failure is not None and self._waiting:
                    outcome, error = failure
                    if error:
                        self._load.tally.connect_errors[error] += 1
                    self._give_up(outcome, pause_s=CONNECT_PAUSE_S)
        finally:
            self._connecting -= 1

    async def _open_lane(self) -> tuple[Outcome, str] | None:
        """Open a lane; say why there is none, with the name of the system's error. One that takes too long is given up without an error."""
        lane = Lane(self, self._load, self._shot)
        try:
            with anyio.move_on_after(self._shot.timeout_s) as patience:  # the kernel would go on trying for two minutes
                await self._loop.create_connection(lambda: lane, *self._shot.address)
        except OSError as error:
            return Outcome.CONNECT, errno.errorcode.get(error.errno or 0, "OTHER")
        if self._dropped or patience.cancelled_caught:  # one that was made just then is closed by the loop, which tells nobody
            lane.abort()
        elif lane.usable and lane.connected:
            self._lanes.add(lane)
            if self._poller is not None:
                self._poller.adopt(lane)
            self.free(lane)
        elif lane.connected:  # closed, or spoken on, before it could be asked anything
            return Outcome.PROTOCOL if lane.heard else Outcome.RESET, ""
        return None

    def _give_up(self, outcome: Outcome, *, pause_s: float = 0.0) -> None:
        """End the request that has waited longest for a lane."""
        due, _ = self._waiting.popleft()
        now = clock()
        self._load.ended(due, now, outcome)
        self._load.follow(now, pause_s=pause_s)

    # How a request ends (called by the lane).

    def answered(self, lane: Lane, response: Response) -> None:
        """Count a complete response."""
        outcome = classify(response, self._shot.expected)
        cause = None if outcome is Outcome.OK else cause_of(outcome, response)
        if outcome is Outcome.OVERFLOW and origin(response) is Origin.SERVER:
            self._load.tally.server_overflow += 1
        elif lane.usable and lane.candidate:
            if len(self._known) >= KNOWN_RESPONSES:
                self._known.clear()
            self._known[lane.candidate] = self._load.tally.waiting(outcome, response.status, cause)
        lane.candidate = b""
        now = clock()
        self._load.ended(lane.due, now, outcome, response, cause)
        self.free(lane)
        self._load.follow(now)

    def failed(self, lane: Lane, outcome: Outcome) -> None:
        """Count a request that got no complete response."""
        self._forget(lane)
        lane.abort()
        now = clock()
        self._load.ended(lane.due, now, outcome)
        self._load.follow(now)

    def free(self, lane: Lane) -> None:
        """Take a lane that has nothing to do: for the request that has waited longest, or to keep."""
        if not lane.usable:
            self._forget(lane)
        elif self._waiting:
            lane.shoot(*self._waiting.popleft(), self._known)
        else:
            self._idle[lane] = None

    def closed(self, lane: Lane) -> None:
        """Forget an idle lane that the peer closed."""
        self._idle.pop(lane, None)
        self._forget(lane)

    def _forget(self, lane: Lane) -> None:
        self._lanes.discard(lane)
        if self._poller is not None:
            self._poller.forget(lane)

    def _note_times(self) -> None:
        if self._poller is not None:
            self._poller.note_times()

    # Deadlines.

    def _watch_deadlines(self) -> None:
        """End what took too long. All requests have the same time to live, so none ends before the oldest one's deadline."""
        self._note_times()
        now = clock()
        while self._waiting and self._waiting[0][1] + self._shot.timeout_s <= now:
            self._give_up(Outcome.TIMEOUT)
        oldest = min(now, self._waiting[0][1]) if self._waiting else now
        for lane in list(self._lanes):
            if lane.busy:
                if lane.sent_at + self._shot.timeout_s <= now:
                    self.failed(lane, Outcome.TIMEOUT)
                else:
                    oldest = min(oldest, lane.sent_at)
        wait = max(DEADLINE_TICK_S, oldest + self._shot.timeout_s - clock())
        self._deadline_timer = self._loop.call_later(math.ceil(wait * 1000) / 1000, self._watch_deadlines)  # uvloop rounds: down would spin
