"""Which connections have an answer, and what if it is the one that came last? The hot path: as little as can be for each request.

The event loop's own streams cost some 2 µs of CPU for each answer, a tenth of all that a request costs. A load in which every answer makes
the next request due reads its lanes here instead: an epoll of its own, which the event loop waits for like for a socket, says which lanes
have an answer; all of them are read, and then all requests are written. What is not the same answer as the last one is looked at more
closely; what is not known at all goes to the lane as if the event loop had read it, and so does the end of a connection.

The laws: an answer had come when epoll said so, at the latest, so that is when the request ended and the next one was due; the time that it
takes to read the other lanes is lag, and in the latency of what is sent next. (An answer that has to be parsed ends when that is done.) And
between two system calls as little memory is touched as can be: the kernel leaves none of it in the caches, and what has to be fetched again
is most of what Python costs here.

A lane is in one of these states:

================  =============  ==============  ====================================================================
read by           ``_dues``      ``lane.known``  what it means
================  =============  ==============  ====================================================================
the poller        the due time   the answers     fast: its request was written here, whole; the answer that came last
                                                 is counted and the next request written
the poller        0              the answers     its request was written by the event loop, perhaps not all of it yet
the poller        0              none            idle, or an answer is coming in pieces
the event loop    (not there)    any             given back: it could not be written to, or has ended
================  =============  ==============  ====================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from typing import TYPE_CHECKING, TypeVar

from loadgen.engine.load import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from loadgen.engine.lanes import Lane
    from loadgen.engine.load import ClientLoad

T = TypeVar("T")

READ_BYTES = 4096
WRITTEN_AT_ONCE = 32
"""Requests that are counted as late as the last of them: 0.2 to 0.3 ms."""
READ_MORE_BYTES = 1 << 17
"""So much at once where no known answer is expected: the rest of a long one."""


class Poller:
    """Reads lanes in the place of the event loop, and writes the ``request`` of each again. ``close`` it at the end.

    While requests are ``waiting`` for a lane, no lane is written to here: the one that becomes free is theirs.
    """

    def __init__(self, load: ClientLoad, request: bytes, waiting: Collection[object]) -> None:
        self._load = load
        self._request = request
        self._waiting = waiting
        self._epoll = select.epoll()
        self._lanes: dict[int, Lane] = {}
        self._dues: list[float] = []
        """By descriptor; see above."""
        self._answer: bytes | None = None
        self._runs: list[tuple[float, int]] = []
        """Where the latencies of requests go that are answered by ``_answer``."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._read_all)

    def __repr__(self) -> str:
        return f"<Poller lanes={len(self._lanes)}>"

    def adopt(self, lane: Lane) -> None:
        """Read a lane from now on, until it is ``forget``-ten."""
        descriptor = lane.descriptor = lane.pause()
        self._lanes[descriptor] = lane
        self._dues += [0.0] * (descriptor + 1 - len(self._dues))
        self._epoll.register(descriptor, select.EPOLLIN)

    def forget(self, lane: Lane) -> None:
        """Read a lane no more. This must be said before the lane is closed: its descriptor may be another's after that."""
        if lane.descriptor >= 0:
            self._note_time(lane)
            self._dues[lane.descriptor] = 0.0
            del self._lanes[lane.descriptor]
            with contextlib.suppress(OSError):  # closed already, which takes it out, too
                self._epoll.unregister(lane.descriptor)
            lane.descriptor = -1

    def recount(self) -> None:
        """Look at the next answer more closely."""
        self._answer = None

    def note_times(self) -> None:
        """Tell the lanes when their requests were due and sent."""
        for lane in self._lanes.values():
            self._note_time(lane)

    def close(self) -> None:
        """Give the epoll back."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _note_time(self, lane: Lane) -> None:
        due = self._dues[lane.descriptor]
        if due:
            lane.due = lane.sent_at = due

    def _read_all(self) -> None:
        read, dues = os.read, self._dues
        answer = self._answer if self._may_write() else None
        again = self._epoll.poll(0, max(1, len(self._lanes)))
        now = clock()
        others: dict[int, bytes | OSError] = {}
        run_due, run = 0.0, 0
        for descriptor, _ in again:
            due = dues[descriptor]
            try:
                data = read(descriptor, READ_BYTES if due else READ_MORE_BYTES)
            except OSError as error:
                others[descriptor] = error
                continue
            if data != answer or not due:
                others[descriptor] = data
            elif due is run_due:  # requests that were written together share this very object, and were due at that moment
                run += 1
            else:
                if run:
                    self._runs.append((now - run_due, run))
                run_due, run = due, 1
        if run:
            self._runs.append((now - run_due, run))
        if others:
            again = [event for event in again if event[0] not in others]
        for start in range(0, len(again), WRITTEN_AT_ONCE):
            self._write_all(again[start : start + WRITTEN_AT_ONCE], now)
        for descriptor, data_or_error in others.items():
            self._guarded(self._look_closer, descriptor, data_or_error, now)

    def _may_write(self) -> bool:
        return self._load.immediate and not self._waiting

    def _write_all(self, again: list[tuple[int, int]], due: float) -> None:
        """Send the next request on these lanes; on each of them everything was written before."""
        write, dues, request, size = os.write, self._dues, self._request, len(self._request)
        for descriptor, _ in again:
            try:
                written = write(descriptor, request)
            except OSError:
                written = 0  # full, or broken: the loop waits, or finds out
            if written == size:
                dues[descriptor] = due
            else:
                self._guarded(self._write_rest, descriptor, written, due)
        self._load.sent_late(clock() - due, len(again))

    def _write_rest(self, descriptor: int, written: int, due: float) -> None:
        lane = self._lanes[descriptor]
        self._give_back(lane)
        lane.due = lane.sent_at = due
        lane.send(self._request[written:])

    def _guarded(self, job: Callable[[int, T, float], None], descriptor: int, what: T, now: float) -> None:
        """Do something with one lane. A bug there must not cost the other lanes what was read from them; the loop reports it."""
        try:
            job(descriptor, what, now)
        except Exception as error:  # noqa: BLE001  # see above
            self._loop.call_exception_handler({"message": f"a bug on the lane with descriptor {descriptor}", "exception": error})

    def _look_closer(self, descriptor: int, data: bytes | OSError, now: float) -> None:
        """Take what came on a lane that is not the answer that came last."""
        lane = self._lanes.get(descriptor)
        if lane is None:
            return  # what came before in this round was its end
        self._note_time(lane)
        self._dues[descriptor] = 0.0
        if isinstance(data, OSError):
            self._broken(lane, data)
        elif not data:
            lane.eof_received()  # nothing may be sent on it in this round
            self._give_back(lane)  # the loop finds the same end, and does what is to be done
        elif (waiting := lane.known.get(data)) is None or not self._may_write() or lane.unwritten():
            lane.data_received(data)
        else:
            waiting.singles.append(now - lane.due)
            self._answer, self._runs = data, waiting.runs
            self._write_all([(descriptor, 0)], now)

    def _give_back(self, lane: Lane) -> None:
        """Let the event loop read a lane again."""
        self.forget(lane)
        lane.resume()

    def _broken(self, lane: Lane, error: OSError) -> None:
        if not isinstance(error, BlockingIOError):
            self.forget(lane)
            lane.connection_lost(error)  # the error is told only once, and it was told here
            lane.abort()
