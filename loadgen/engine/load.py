"""Who sends when? One client's share of the load: pacing says what is due, connections carry it, the tally counts how it ended.

It knows nothing of meshes and phases. A phase is whatever tally the owner puts in: ``begin_tally`` makes the results from now on count
in a new one, so a request counts where it ends, and its latency runs from the moment it was due.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from loadgen.engine.wire import Connection
from loadgen.outcome import Answer, Expected, Origin, Outcome, Response, classify, origin
from loadgen.recorder import Tally

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from anyio.abc import TaskGroup

    from loadgen.pacing import Pacing

CONNECT_PAUSE_S = 0.05
"""A user whose connection was refused waits at least so long: a dead target must not make the hammer spin."""
DEADLINE_TICK_S = 0.01

clock = time.perf_counter
"""Not the loop's own time: uvloop's ticks in milliseconds and stands still within one round."""


@dataclass(frozen=True, slots=True)
class Shot:
    """What is sent, what is expected back, and how long that may take."""

    request: bytes
    expected: Expected
    timeout_s: float
    max_in_flight: int


class _Flight:
    """One request on its way."""

    __slots__ = ("connection", "deadline", "done", "due", "number")

    def __init__(self, number: int, due: float, deadline: float) -> None:
        self.number = number
        self.due = due
        self.deadline = deadline
        self.connection: Connection | None = None
        self.done = False


class ClientLoad:
    """The load of one client against one address."""

    def __init__(self, name: str, address: tuple[str, int], shot: Shot, pacing: Pacing, rng: Random, tasks: TaskGroup) -> None:
        self.name = name
        self.in_flight = 0
        self.sent = 0
        self.tallies: list[Tally] = [Tally()]
        self.next_answer: Callable[[Answer], None] | None = None
        """Called with the next answer, once: a sample for the log costs nothing while nobody asks."""
        self._address = address
        self._shot = shot
        self._pacing = pacing
        self._rng = rng
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._due: list[float] = []
        self._flights: deque[_Flight] = deque()
        self._idle: list[Connection] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._held = False
        self._held_at = 0.0
        self._stopped = False
        self._tick: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<ClientLoad {self.name} sent={self.sent} in_flight={self.in_flight}{' stopped' if self._stopped else ''}>"

    # What the owner asks for.

    def start(self) -> None:
        """Begin to send."""
        self._due = self._pacing.first(clock(), self._rng)
        heapq.heapify(self._due)
        self._check_deadlines()
        self._arm()

    def stop(self) -> None:
        """Send nothing more; what is in flight may still end."""
        self._stopped = True
        self._due.clear()
        self._disarm()

    def abort(self) -> None:
        """Stop, and drop what is in flight: it is counted nowhere."""
        self.stop()
        if self._tick is not None:
            self._tick.cancel()
        for flight in self._flights:
            flight.done = True  # one that is still connecting must not be sent any more
            if flight.connection is not None:
                flight.connection.abort()
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        self._flights.clear()
        self.in_flight = 0

    def hold(self) -> None:
        """Keep back what becomes due until ``release``."""
        if not self._held:
            self._held = True
            self._held_at = clock()
        self._disarm()

    def release(self) -> None:
        """Send what was kept back, and go on.

        For this client time stood still: everything is due later by as long as it was held, which is no lateness of the hammer's.
        """
        if not self._held:
            return
        self._held = False
        stood_still = clock() - self._held_at
        self._due = [due + stood_still for due in self._due]  # still a heap: all move by the same
        self._arm()

    def begin_tally(self) -> Tally:
        """Count every end from now on in a new tally."""
        self.tallies.append(Tally())
        return self.tallies[-1]

    def all_done_through(self, number: int) -> bool:
        """Tell whether the first ``number`` requests that were sent have all ended."""
        while self._flights and self._flights[0].done:
            self._flights.popleft()
        return not self._flights or self._flights[0].number >= number

    @property
    def sidecar_overflow(self) -> int:
        """The overflows by the own sidecar since the start, whatever tally they are in."""
        return sum(tally.sidecar_overflow for tally in self.tallies)

    # Pacing.

    def _arm(self) -> None:
        if self._held or self._stopped or not self._due:
            return
        due = self._due[0]
        if self._timer is not None:
            if due >= self._timer_due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_later(math.ceil(max(0.0, due - clock()) * 1000) / 1000, self._fire)  # uvloop rounds: down would spin

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        now = clock()
        while self._due and self._due[0] <= now:
            due = heapq.heappop(self._due)
            following = self._pacing.after_due(due, self._rng)
            if following is not None:
                heapq.heappush(self._due, following)
            self._begin(due, now)
        self._arm()

    def _begin(self, due: float, now: float) -> None:
        if self.in_flight >= self._shot.max_in_flight:
            self.tallies[-1].record(Outcome.UNSENT, 0.0)
            return
        self.tallies[-1].lag.record(now - due)
        flight = _Flight(self.sent, due, now + self._shot.timeout_s)
        self.sent += 1
        self.in_flight += 1
        self._flights.append(flight)
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                self._send(flight, connection)
                return
        self._tasks.start_soon(self._connect, flight)

    async def _connect(self, flight: _Flight) -> None:
        connection = None
        try:
            with anyio.move_on_after(self._shot.timeout_s):  # the kernel would go on trying for two minutes
                _, connection = await self._loop.create_connection(lambda: Connection(self), *self._address)
        except OSError:
            if not flight.done:
                self._end(flight, Outcome.CONNECT)
            return
        if connection is None:
            return  # its deadline has passed too, and is counted there
        if flight.done:
            connection.abort()
        else:
            self._send(flight, connection)

    def _send(self, flight: _Flight, connection: Connection) -> None:
        connection.request = flight
        flight.connection = connection
        connection.send(self._shot.request)

    # How a request ends.

    def answered(self, connection: Connection, response: Response) -> None:
        """Count a complete response (called by the connection)."""
        flight: _Flight = connection.request
        connection.request = None
        if connection.usable:
            self._idle.append(connection)
        outcome = classify(response, self._shot.expected)
        if outcome is Outcome.OVERFLOW and origin(response) is Origin.SERVER:
            self.tallies[-1].server_overflow += 1
        self._end(flight, outcome, response)

    def failed(self, connection: Connection, outcome: Outcome) -> None:
        """Count a request that got no complete response (called by the connection)."""
        self._end(connection.request, outcome)

    def closed(self, connection: Connection) -> None:
        """Forget an idle connection that the peer closed (called by the connection)."""
        if connection in self._idle:
            self._idle.remove(connection)

    def _end(self, flight: _Flight, outcome: Outcome, response: Response | None = None) -> None:
        done = clock()
        flight.done = True
        flight.connection = None
        self.in_flight -= 1
        self.tallies[-1].record(outcome, done - flight.due)
        try:
            if self.next_answer is not None:
                tell, self.next_answer = self.next_answer, None
                tell(Answer(self.name, outcome, done - flight.due, response))
        finally:  # a listener that fails must not cost the load a user
            if not self._stopped:
                self._follow(done, outcome)

    def _follow(self, done: float, outcome: Outcome) -> None:
        """Make due what follows from an answer."""
        following = self._pacing.after_done(done, self._rng)
        if following is None:
            return
        if outcome is Outcome.CONNECT:
            following = max(following, done + CONNECT_PAUSE_S)
        if following <= done and not self._held:
            self._begin(following, done)
        else:
            heapq.heappush(self._due, following)
            self._arm()

    def _check_deadlines(self) -> None:
        """End what took too long. All flights have the same time to live, so the oldest is always the first to be late."""
        now = clock()
        while self._flights and (self._flights[0].done or self._flights[0].deadline <= now):
            flight = self._flights.popleft()
            if not flight.done:
                if flight.connection is not None:
                    flight.connection.abort()
                self._end(flight, Outcome.TIMEOUT)
        self._tick = self._loop.call_later(DEADLINE_TICK_S, self._check_deadlines)
