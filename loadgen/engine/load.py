"""Who sends when? One client's share of the load: pacing says what is due, a carrier takes it to the target, a tally counts how it ended.

It knows nothing of meshes and phases. A phase is whatever tally the owner puts in: ``begin_tally`` makes the results from now on count
in a new one, so a request counts where it ends, and its latency runs from the moment it was due.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from loadgen.engine import loop_lag
from loadgen.engine.alarm import Alarm
from loadgen.engine.bursts import Bursts
from loadgen.engine.this_process import cpu_s
from loadgen.outcome import Answer, Outcome, Response
from loadgen.pacing import Burst
from loadgen.recorder import Tally

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from loadgen.cause import Found
    from loadgen.pacing import Pacing

clock = time.perf_counter
"""Not the loop's own time: uvloop's ticks in milliseconds and stands still within one round. On Linux it is the same in all processes."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What a load has seen until a moment: the outcomes in its present tally; the overflows by the own sidecar and what was sent since the start.

    ``cpu_s`` is the CPU time in seconds of the process that the load lives in, ``pid``.
    """

    outcomes: dict[Outcome, int]
    sidecar_overflow: int
    sent: int
    in_flight: int
    pid: int
    cpu_s: float


class Carrier(Protocol):
    """What takes requests to the target. Each ``carry`` ends with one ``load.ended``."""

    async def open(self, count: int) -> None:
        """Get ready to carry so many at the same moment."""

    def carry(self, due: float, now: float) -> None:
        """Send one request that was due at a moment on ``clock``."""

    def recount(self) -> None:
        """The load's tally is another one from now on, or the load wants to see the next answer."""

    def drop(self) -> None:
        """Drop everything in flight without a word."""

    def all_done_since(self, moment: float) -> bool:
        """Tell whether everything that was sent until a moment on ``clock`` has ended."""


class ClientLoad:
    """The load of one client, which ends by itself after ``limit`` requests, if there is a limit.

    ``max_in_flight`` bounds the requests in flight; what is due beyond that counts as unsent.
    """

    def __init__(
        self,
        name: str,
        make_carrier: Callable[[ClientLoad], Carrier],
        pacing: Pacing,
        rng: Random,
        *,
        max_in_flight: int,
        limit: int | None = None,
    ) -> None:
        self.name = name
        self.tally = Tally()
        self.immediate = False
        """Whether the carrier may send the next request by itself when an answer came; nothing else is to be done then."""
        self._finished = asyncio.Event()
        self.in_flight = 0
        self.often_immediate = pacing.immediate and limit is None
        """Whether ``immediate`` is true while nobody holds the load."""
        self._pacing = pacing
        self._bursts = Bursts() if isinstance(pacing, Burst) else None
        self._rng = rng
        self._max_in_flight = max_in_flight
        self._left = limit
        self._earlier = 0
        self._earlier_overflow = 0
        self._lagged = 0
        self._unsent = 0
        self._due: list[float] = []
        self._start = 0.0
        self._stop_at = math.inf
        self._alarm = Alarm(self._fire)
        self._alarm_due = math.inf
        self._held = False
        self._held_at = 0.0
        self._stopped = False
        self._leaving = 0
        """So many users of a closed load go when their request ends."""
        self._next_answer: Callable[[Answer], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._beat = loop_lag.Beat(self._now_and_then)
        self._stop_timer: asyncio.TimerHandle | None = None
        self._carrier = make_carrier(self)

    def __repr__(self) -> str:
        return f"<ClientLoad {self.name} sent={self.sent} in_flight={self.in_flight}{' stopped' if self._stopped else ''}>"

    # What the owner asks for.

    async def prepare(self) -> None:
        """Open the connections that are needed at the same moment, or soon."""
        await self._carrier.open(min(self._pacing.at_once, self._max_in_flight))
        await self._alarm.calibrate()

    def start(self, *, for_s: float | None = None) -> None:
        """Begin to send, and stop after ``for_s`` seconds, if they are given: nobody else has to be awake then.

        What is due until then is sent, and nothing that is due later; time in which the load is held counts, too.
        """
        if self._stopped:
            return
        self._start = self._held_at = clock()
        self._due = self._pacing.first(self._rng)
        heapq.heapify(self._due)
        self._set_immediate()
        self._beat.start()
        if not self._held:
            self._fire()
        if for_s is not None:
            self._stop_at = self._start + for_s
            self._stop_in_time()

    def stop(self) -> None:
        """Send nothing more; what is in flight may still end."""
        self._stopped = True
        self._set_immediate()
        self._due.clear()
        self._disarm()

    def abort(self) -> None:
        """Stop, and drop what is in flight: it is counted nowhere."""
        self.stop()
        self._alarm.close()
        self._beat.cancel()
        if self._stop_timer is not None:
            self._stop_timer.cancel()
        self._carrier.drop()
        self._earlier += self.in_flight  # they were sent all the same
        self.in_flight = 0

    def hold(self) -> None:
        """Keep back what becomes due until ``release``."""
        if not self._held:
            self._held = True
            self._held_at = clock()
            self._set_immediate()
        self._disarm()

    def release(self) -> None:
        """Send what was kept back, and go on.

        For this client time stood still: everything is due later by as long as it was held, which is no lateness of the hammer's.
        """
        if not self._held:
            return
        self._held = False
        self._start += clock() - self._held_at
        self._set_immediate()
        self._arm()

    def join(self, users: int) -> None:
        """Have so many more users of a closed load, due now."""
        staying = min(self._leaving, users)
        self._leaving -= staying
        elapsed = clock() - self._start
        for _ in range(users - staying):
            heapq.heappush(self._due, elapsed)
        self._set_immediate()
        self._arm()

    def leave(self, users: int) -> None:
        """Have so many users less: those who think now go at once, the others when their request ends."""
        thinking = min(len(self._due), users)
        del self._due[len(self._due) - thinking :]  # the last ones of a heap: what is left of it is one
        self._leaving += users - thinking
        self._set_immediate()

    def ask(self, tell: Callable[[Answer], None]) -> None:
        """Have the next answer told, once: a sample for the log costs nothing while nobody asks."""
        self._next_answer = tell
        self._carrier.recount()

    async def begin_tally(self, *, if_overflow: int | None = None) -> Tally | None:
        """Count every end from now on in a new tally, and give the one that ended.

        With ``if_overflow``, only if the load has seen exactly so many overflows by the own sidecar; else nothing changes, and None.
        """
        self.fold()
        if if_overflow is not None and if_overflow != self.sidecar_overflow:
            return None
        return self._next_tally(self.tally.number + 1)

    def _next_tally(self, number: int) -> Tally:
        """Go on counting in a new tally, and give the one until now; with the same number the two are parts of one."""
        ended, self.tally = self.tally, Tally(number)
        self._earlier += ended.requests
        self._earlier_overflow += ended.sidecar_overflow
        if self._bursts is not None:
            self._bursts.leave(ended, self.tally)
        self._carrier.recount()
        return ended

    async def look(self) -> Sight:
        """Say what was seen until now, exactly."""
        return self.sight

    async def snapshot(self) -> Tally:
        """Give the present tally, which goes on counting."""
        self.fold()
        return self.tally

    async def wait_finished(self) -> None:
        """Wait until ``limit`` requests have ended, or the time is over that the load was to last; forever if there is neither."""
        await self._finished.wait()

    async def all_done_since(self, moment: float) -> bool:
        """Tell whether everything that was sent until a moment on ``clock`` has ended."""
        return self._carrier.all_done_since(moment)

    @property
    def sight(self) -> Sight:
        """What was seen until now."""
        return Sight(self.tally.outcomes, self.sidecar_overflow, self.sent, self.in_flight, os.getpid(), cpu_s())

    @property
    def last_tally(self) -> Tally:
        """The present tally, which goes on counting."""
        return self.tally

    @property
    def sent(self) -> int:
        """How many requests were sent since the start, those included that got no connection."""
        return self._earlier + self.tally.requests + self.in_flight - self._unsent

    @property
    def sidecar_overflow(self) -> int:
        """The overflows by the own sidecar since the start, whatever tally they are in."""
        return self._earlier_overflow + self.tally.sidecar_overflow

    # What the carrier reports.

    def ended(self, due: float, now: float, outcome: Outcome, response: Response | None = None, cause: Found | None = None) -> None:
        """Count a request that ended. The carrier then gives its place back with ``follow``."""
        latency_s = now - due
        self.tally.waiting(outcome, response.status if response else 0, cause).singles.append(latency_s)
        if self._next_answer is not None:
            tell, self._next_answer = self._next_answer, None
            try:
                tell(Answer(self.name, outcome, latency_s, response))
            except Exception as error:  # noqa: BLE001  # a listener that fails must not cost the load a user; the loop reports it as a bug
                self._loop.call_exception_handler({"message": "a listener to answers failed", "exception": error})

    def sent_late(self, lag_s: float, count: int) -> None:
        """Count how late requests were sent that a carrier sent by itself: so many, none of them later than that."""
        self.tally.lag.waiting.runs.append((lag_s, count))
        self._lagged += count

    def follow(self, now: float, *, pause_s: float = 0.0) -> None:
        """Make due what follows from the end of a request, at the earliest after ``pause_s``."""
        self.in_flight -= 1
        if self._stopped or now >= self._stop_at:
            return
        if self._leaving:
            self._leaving -= 1
            self._set_immediate()
            return
        elapsed = now - self._start
        left = self.in_flight + len(self._due)
        if self._bursts is not None and not left:
            self._bursts.all_ended(self.tally)
        for following in self._pacing.after_done(elapsed, left, self._rng):
            if following <= elapsed and not pause_s and not self._held:
                self._begin(now, now)
            else:
                heapq.heappush(self._due, max(following, elapsed + pause_s))
        self._arm()
        if self._left == 0 and not self.in_flight:
            self._finished.set()

    # Pacing.

    def _set_immediate(self) -> None:
        self.immediate = self.often_immediate and not self._held and not self._stopped and not self._leaving

    def _arm(self) -> None:
        if self._held or self._stopped or not self._due or self._start + self._due[0] > self._stop_at:
            return
        if self._due[0] < self._alarm_due:
            self._alarm_due = self._due[0]
            self._alarm.set(self._start + self._alarm_due)

    def _disarm(self) -> None:
        self._alarm_due = math.inf
        self._alarm.cancel()

    def _fire(self) -> None:
        self._alarm_due = math.inf
        now = clock()
        elapsed = min(now, self._stop_at) - self._start
        while self._due and self._due[0] <= elapsed:
            due = heapq.heappop(self._due)
            following = self._pacing.after_due(due, self._rng)
            if following is not None:
                heapq.heappush(self._due, following)
            self._begin(self._start + due, now)
        self._arm()

    def _begin(self, due: float, now: float) -> None:
        if self._left is not None:
            if not self._left:
                self._due.clear()
                return
            self._left -= 1
        if self._bursts is not None:
            self._bursts.sends(self.tally)
        if self.in_flight >= self._max_in_flight:
            self._unsent += 1
            self.tally.record(Outcome.UNSENT, 0.0)
            return
        self.tally.lag.waiting.singles.append(max(0.0, now - due))
        self._lagged += 1
        self.in_flight += 1
        self._carrier.carry(due, now)

    # Now and then.

    def _stop_in_time(self) -> None:
        left = self._stop_at - clock()
        if left > 0:
            self._stop_timer = self._loop.call_later(left, self._stop_in_time)  # uvloop rings up to a millisecond too early
            return
        if not self._held:
            self._fire()  # what was due before the end is sent, however late
        self.stop()
        self._finished.set()

    def _now_and_then(self, late_s: float) -> None:
        loop_lag.record(self.tally.loop_lag, late_s)
        self.fold()

    def fold(self) -> None:
        """Bound the memory of the tally, and count the requests that were sent at the very moment they were due: they have no lag."""
        self.tally.fold()
        undelayed = max(0, self.sent - self._lagged)
        self.tally.lag.record_zeros(undelayed)
        self._lagged += undelayed
