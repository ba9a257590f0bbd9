"""Which connections have an answer, and what if it is the one that came last? The hot path: as little as can be for each request.

The event loop's own streams cost some 2 µs of CPU for each answer, a tenth of all that a request costs. A load in which every answer makes
the next request due reads its lanes here instead: an epoll of its own, which the event loop waits for like for a socket, says which lanes
have an answer; all of them are read, and then all requests are written. What is not the same answer as the last one is looked at more
closely; what is not known at all goes to the lane as if the event loop had read it, and so does the end of a connection.

The laws: an answer had come when epoll said so, so that is when the request ended and the next one was due; the time that it takes to read
the other lanes is lag, and in the latency of what is sent next. And between two system calls as little memory is touched as can be: the
kernel leaves none of it in the caches, and what has to be fetched again is most of what Python costs here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from typing import TYPE_CHECKING

from loadgen.engine.load import clock

if TYPE_CHECKING:
    from loadgen.engine.lanes import Lane
    from loadgen.engine.load import ClientLoad

READ_BYTES = 4096
READ_MORE_BYTES = 1 << 17
"""So much at once where no known answer is expected: the rest of a long one."""


class Poller:
    """Reads lanes in the place of the event loop, and writes the ``request`` of each again. ``close`` it at the end."""

    def __init__(self, load: ClientLoad, request: bytes) -> None:
        self._load = load
        self._request = request
        self._epoll = select.epoll()
        self._lanes: dict[int, Lane] = {}
        self._dues: list[float] = []
        """By descriptor: when the request was due that was written here and whole; 0 for a lane that must be looked at more closely."""
        self._answer: bytes | None = None
        self._runs: list[float] = []
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
        answer = self._answer if self._load.immediate else None
        again = self._epoll.poll(0)
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
            elif due is run_due:
                run += 1
            else:
                if run:
                    self._runs += (now - run_due, run)
                run_due, run = due, 1
        if run:
            self._runs += (now - run_due, run)
        if others:
            again = [event for event in again if event[0] not in others]
        self._write_all(again, now)
        for descriptor, data_or_error in others.items():
            try:
                self._look_closer(descriptor, data_or_error, now)
            except Exception as error:  # noqa: BLE001  # a bug in one lane must not cost the others their answers; the loop reports it
                self._loop.call_exception_handler({"message": "a lane could not take its answer", "exception": error})

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
                self._write_rest(self._lanes[descriptor], written, due)
        if again:
            self._load.sent_late(clock() - due, len(again))

    def _write_rest(self, lane: Lane, written: int, due: float) -> None:
        self._give_back(lane)
        lane.due = lane.sent_at = due
        lane.send(self._request[written:])

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
            self._give_back(lane)  # the loop finds the same end, and does what is to be done
        elif (waiting := lane.known.get(data)) is None or not self._load.immediate:
            lane.data_received(data)
        else:
            waiting.singles.append(now - lane.due)
            self._answer, self._runs = data, waiting.runs
            if lane.unwritten():  # nothing may be written past what the event loop still has to write
                self._write_rest(lane, 0, now)
                self._load.sent_late(clock() - now, 1)
            else:
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
