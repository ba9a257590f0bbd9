"""How do requests get to the target on plain HTTP/1.1 connections, and at what price? The carrier of the hot path.

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

from loadgen.engine.load import clock
from loadgen.engine.wire import MAX_RESPONSE_BYTES, Connection
from loadgen.outcome import Expected, Origin, Outcome, Response, classify, origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from loadgen.engine.load import ClientLoad

CONNECT_PAUSE_S = 0.05
"""A user whose connection was refused waits at least so long: a dead target must not make the hammer spin."""
CONNECTING_AT_ONCE = 256
"""More at once would overrun the target's queue of connections to accept (somaxconn), and wait a second for the kernel's next try."""
DEADLINE_TICK_S = 0.01
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


Known = dict[bytes, "Callable[[float], None]"]
_NOTHING: Known = {}


class Lane(Connection):
    """A connection, and the request on it: ``due`` and ``sent_at`` on ``clock``."""

    __slots__ = ("_known", "_lanes", "_load", "candidate", "due", "sent_at")

    def __init__(self, lanes: Lanes, load: ClientLoad, shot: Shot) -> None:
        super().__init__(lanes, max_bytes=shot.max_bytes)
        self.headless = shot.headless
        self.candidate = b""
        self.due = 0.0
        self.sent_at = 0.0
        self._lanes = lanes
        self._load = load
        self._known = _NOTHING

    @property
    def busy(self) -> bool:
        """Whether a request is on it, or waits for it to be open."""
        return self._busy

    @property
    def connected(self) -> bool:
        """Whether it was opened."""
        return self._transport is not None

    def take(self, due: float, now: float) -> None:
        """Be busy with a request, before it is sent."""
        self._busy = True
        self.due = due
        self.sent_at = now

    def shoot(self, request: bytes, known: Known) -> None:
        """Send; ``known`` are the responses that need no parsing."""
        self._known = known
        self.send(request)

    def data_received(self, data: bytes) -> None:
        """Count a known response and go on; everything else takes the long way. This is the hot path."""
        record = self._known.get(data)
        if record is None:
            self._known = _NOTHING
            self.candidate = b"" if self._received else data
            self.parse(data)
            return
        now = clock()
        record(now - self.due)
        if self._load.immediate:
            self.due = self.sent_at = now
            self._write(self._lanes.request)
        else:
            self._known = _NOTHING
            self._busy = False
            self._lanes.free(self)
            self._load.follow(now)


class Lanes:
    """The connections of one load, and the requests that wait for one to be open."""

    def __init__(self, load: ClientLoad, shot: Shot, tasks: TaskGroup) -> None:
        self.request = shot.request
        self._load = load
        self._shot = shot
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._lanes: set[Lane] = set()
        self._idle: dict[Lane, None] = {}
        self._waiting: deque[Lane] = deque()
        self._connecting = 0
        self._known: Known = {}
        self._watch_deadlines()

    def __repr__(self) -> str:
        return f"<Lanes {len(self._lanes)} idle={len(self._idle)} waiting={len(self._waiting)}>"

    # What the load asks for.

    async def open(self, count: int) -> None:
        """Open so many lanes. One that cannot be opened is tried again by the request that needs it."""
        limiter = anyio.CapacityLimiter(CONNECTING_AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for _ in range(count - len(self._idle)):
                tasks.start_soon(self._open_lane, limiter)

    async def _open_lane(self, limiter: anyio.CapacityLimiter) -> None:
        async with limiter:
            lane = Lane(self, self._load, self._shot)
            await self._connect(lane)
            if lane.usable and lane.connected:
                self._lanes.add(lane)
                self._idle[lane] = None

    def carry(self, due: float, now: float) -> None:
        """Send a request on the lane that was free last, or on a new one."""
        while self._idle:
            lane, _ = self._idle.popitem()
            if lane.usable:
                lane.take(due, now)
                lane.shoot(self.request, self._known)
                return
        lane = Lane(self, self._load, self._shot)
        lane.take(due, now)
        self._lanes.add(lane)
        self._waiting.append(lane)
        if self._connecting < CONNECTING_AT_ONCE:
            self._connecting += 1
            self._tasks.start_soon(self._connect_waiting)

    def recount(self) -> None:
        """Forget the known responses: they count in a tally that has ended, or the next answer is to be seen."""
        self._known.clear()

    def drop(self) -> None:
        """Drop all lanes and what is on them."""
        self._deadline_timer.cancel()
        for lane in list(self._lanes):
            lane.abort()
        self._lanes.clear()
        self._idle.clear()
        self._waiting.clear()

    def all_done_since(self, moment: float) -> bool:
        """Tell whether everything that was sent until a moment on ``clock`` has ended."""
        return not any(lane.busy and lane.sent_at <= moment for lane in self._lanes)

    # Connections.

    async def _connect_waiting(self) -> None:
        """Open the connections that requests wait for, one after the other."""
        try:
            while self._waiting:
                lane = self._waiting.popleft()
                if not lane.busy:
                    continue  # its deadline has passed
                error = await self._connect(lane)
                if not lane.busy:
                    lane.abort()
                elif error is not None:
                    self._load.tally.connect_errors[error] += 1
                    self.failed(lane, Outcome.CONNECT)
                elif lane.connected:
                    lane.shoot(self.request, self._known)
        finally:
            self._connecting -= 1

    async def _connect(self, lane: Lane) -> str | None:
        """Open a lane; give the name of the system's error if it refuses. If that takes too long, the request's own deadline ends it."""
        try:
            with anyio.move_on_after(self._shot.timeout_s):  # the kernel would go on trying for two minutes
                await self._loop.create_connection(lambda: lane, *self._shot.address)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "OTHER")
        return None

    # How a request ends (called by the lane).

    def answered(self, lane: Lane, response: Response) -> None:
        """Count a complete response."""
        outcome = classify(response, self._shot.expected)
        if outcome is Outcome.OVERFLOW and origin(response) is Origin.SERVER:
            self._load.tally.server_overflow += 1
        elif lane.usable and lane.candidate and len(lane.candidate) <= KNOWN_BYTES:
            if len(self._known) >= KNOWN_RESPONSES:
                self._known.clear()
            self._known[lane.candidate] = self._load.tally.waiting(outcome, response.status).append
        now = clock()
        self._load.ended(lane.due, now, outcome, response)
        self.free(lane)
        self._load.follow(now)

    def failed(self, lane: Lane, outcome: Outcome) -> None:
        """Count a request that got no complete response."""
        lane.abort()
        now = clock()
        self._load.ended(lane.due, now, outcome)
        self.free(lane)
        self._load.follow(now, pause_s=CONNECT_PAUSE_S if outcome is Outcome.CONNECT else 0.0)

    def free(self, lane: Lane) -> None:
        """Take a lane back whose request has ended."""
        if lane.usable:
            self._idle[lane] = None
        else:
            self._lanes.discard(lane)

    def closed(self, lane: Lane) -> None:
        """Forget an idle lane that the peer closed."""
        self._idle.pop(lane, None)
        self._lanes.discard(lane)

    # Deadlines.

    def _watch_deadlines(self) -> None:
        """End what took too long. All requests have the same time to live, so none ends before the oldest one's deadline."""
        now = clock()
        oldest = now
        for lane in list(self._lanes):
            if lane.busy:
                if lane.sent_at + self._shot.timeout_s <= now:
                    self.failed(lane, Outcome.TIMEOUT)
                else:
                    oldest = min(oldest, lane.sent_at)
        wait = max(DEADLINE_TICK_S, oldest + self._shot.timeout_s - clock())
        self._deadline_timer = self._loop.call_later(math.ceil(wait * 1000) / 1000, self._watch_deadlines)  # uvloop rounds: down would spin
