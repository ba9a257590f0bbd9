"""Which connections have an answer, and what if it is one that is known? The hot path: as little as can be for each request.

The event loop's own streams cost some 2 µs of CPU for each answer, a tenth of all that a request costs. A load in which every answer makes
the next request due reads its lanes here instead: an epoll of its own, which the event loop waits for like for a socket, says which lanes
have an answer; all of them are read and counted, and then all requests are written. Whatever is not a known answer goes to the lane as if
the event loop had read it, and so does the end of a connection.
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

READ_BYTES = 8192
READ_MORE_BYTES = 1 << 17
"""So much at once where no known answer is expected: the rest of a long one."""


class Poller:
    """Reads lanes in the place of the event loop. ``close`` it at the end."""

    def __init__(self, load: ClientLoad) -> None:
        self._load = load
        self._epoll = select.epoll()
        self._lanes: dict[int, Lane] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._read_all)

    def __repr__(self) -> str:
        return f"<Poller lanes={len(self._lanes)}>"

    def adopt(self, lane: Lane) -> None:
        """Read a lane from now on, until it is ``forget``-ten."""
        lane.descriptor = lane.pause()
        self._lanes[lane.descriptor] = lane
        self._epoll.register(lane.descriptor, select.EPOLLIN)

    def forget(self, lane: Lane) -> None:
        """Read a lane no more. This must be said before the lane is closed: its descriptor may be another's after that."""
        if lane.descriptor >= 0:
            del self._lanes[lane.descriptor]
            with contextlib.suppress(OSError):  # closed already, which takes it out, too
                self._epoll.unregister(lane.descriptor)
            lane.descriptor = -1

    def close(self) -> None:
        """Give the epoll back."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _read_all(self) -> None:
        load, lanes, read = self._load, self._lanes, os.read
        again: list[Lane] = []
        try:
            for descriptor, _ in self._epoll.poll(0):
                lane = lanes.get(descriptor)
                if lane is None:
                    continue  # what came before in this round was its end
                known = lane.known
                try:
                    data = read(descriptor, READ_BYTES if known else READ_MORE_BYTES)
                except OSError as error:
                    self._broken(lane, error)
                    continue
                record = known.get(data)
                if record is not None and load.immediate:
                    now = clock()
                    record(now - lane.due)
                    lane.due = now
                    again.append(lane)
                elif data:
                    lane.data_received(data)
                else:
                    self._give_back(lane)  # the loop finds the same end, and does what is to be done
        finally:  # a bug in one lane must not cost the others their requests
            self._write_all(again)

    def _write_all(self, lanes: list[Lane]) -> None:
        """Send the next request on these lanes. The law: nothing is written past what the event loop still has to write."""
        write = os.write
        now = clock()
        self._load.sent_late([now - lane.due for lane in lanes if lane.usable])
        for lane in lanes:
            if not lane.usable:
                continue  # it was dropped by what came after it in this round
            lane.sent_at = now
            request = lane.request
            try:
                written = 0 if lane.unwritten() else write(lane.descriptor, request)
            except OSError:
                written = 0  # full, or broken: the loop waits, or finds out
            if written != len(request):
                self._give_back(lane)
                lane.send(request[written:])

    def _give_back(self, lane: Lane) -> None:
        """Let the event loop read a lane again."""
        self.forget(lane)
        lane.resume()

    def _broken(self, lane: Lane, error: OSError) -> None:
        if not isinstance(error, BlockingIOError):
            self.forget(lane)
            lane.connection_lost(error)  # the error is told only once, and it was told here
            lane.abort()
