"""When did each request arrive? A keep-alive HTTP/1.1 server on one thread that answers ``Kevin`` at once and stamps every request.

The stamp is the kernel's (``SO_TIMESTAMPNS``): taken when the packet enters the loopback device, inside the sender's own ``send``, so it
does not matter how late this process gets to run. It is on CLOCK_REALTIME; what is written is CLOCK_MONOTONIC, and how much the two moved
against each other meanwhile. A request ends with an empty line and has no body. Requests that one receive brings together share
the stamp of the last of them; a tool that waits for each answer never does that. Run as a file of its own: it imports nothing of the bench.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import signal
import socket
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nKevin"
_END = b"\r\n\r\n"
_RECEIVE_BYTES = 4096
_SO_TIMESTAMPNS = 35
"""On x86-64 and arm64; Python's socket has no name for it."""
_TIMESPEC = struct.Struct("@qq")
_ANCILLARY_BYTES = 64


def clock_offset_ns() -> int:
    """Give CLOCK_REALTIME - CLOCK_MONOTONIC; of some looks the one that was least interrupted."""
    looks = []
    for _ in range(20):
        before = time.monotonic_ns()
        real = time.time_ns()
        after = time.monotonic_ns()
        looks.append((after - before, real - (before + after) // 2))
    return min(looks)[1]


@dataclass(slots=True)
class Server:
    """Stamps what arrives at ``listener`` until ``stop`` becomes readable.

    ``stamps_ns`` are on CLOCK_MONOTONIC, in order of receipt; ``unstamped_ns`` are those of them that the kernel gave no stamp for, so that
    the clock after the receive had to do: the first ones, until the kernel has switched its stamping on.
    """

    listener: socket.socket
    stop: socket.socket
    stamps_ns: list[int] = field(default_factory=list)
    unstamped_ns: list[int] = field(default_factory=list)
    connections: int = 0
    _sockets: dict[int, socket.socket] = field(default_factory=dict)
    _rests: dict[int, bytes] = field(default_factory=dict)
    _poll: select.epoll = field(default_factory=select.epoll)
    _offset_ns: int = field(default_factory=clock_offset_ns)

    def serve(self) -> None:
        """Serve; return when told to stop. Connections that are still open are closed."""
        self.listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)  # accepted connections inherit it
        self.listener.setblocking(False)
        listener, stop = self.listener.fileno(), self.stop.fileno()
        self._poll.register(listener, select.EPOLLIN)
        self._poll.register(stop, select.EPOLLIN)
        try:
            while True:
                for number, _ in self._poll.poll():
                    if number == listener:
                        self._accept()
                    elif number == stop:
                        return
                    else:
                        self._receive(number)
        finally:
            self._poll.close()
            for connection in self._sockets.values():
                connection.close()

    def _accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:  # it was taken back before we came
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets[connection.fileno()] = connection
        self._poll.register(connection.fileno(), select.EPOLLIN)
        self.connections += 1

    def _receive(self, number: int) -> None:
        connection = self._sockets[number]
        try:
            data, ancillary, _, _ = connection.recvmsg(_RECEIVE_BYTES, _ANCILLARY_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        if not data:
            self._close(number)
            return
        requests = self._requests(number, data)
        if not requests:
            return
        if ancillary:
            seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
            stamp_ns = seconds * 1_000_000_000 + nanoseconds - self._offset_ns
        else:
            stamp_ns = time.monotonic_ns()
            self.unstamped_ns.extend([stamp_ns] * requests)
        self.stamps_ns.extend([stamp_ns] * requests)
        self._answer(number, connection, requests)

    def _requests(self, number: int, data: bytes) -> int:
        """Count the requests that end in ``data``, and keep what is left for the next receive on this connection."""
        if data.endswith(_END) and number not in self._rests:
            return data.count(_END)
        *complete, rest = (self._rests.pop(number, b"") + data).split(_END)
        if rest:
            self._rests[number] = rest
        return len(complete)

    def _answer(self, number: int, connection: socket.socket, requests: int) -> None:
        answer = ANSWER * requests
        try:
            sent = connection.send(answer)
        except OSError:
            sent = 0
        if sent < len(answer):  # gone, or it does not read what it asked for: both end the connection
            self._close(number)

    def _close(self, number: int) -> None:
        self._rests.pop(number, None)
        self._sockets.pop(number).close()

    def report(self) -> dict[str, object]:
        """Give what is written at the end. ``clock_moved_ns`` is how much the clocks of the stamps moved against each other."""
        return {
            "stamps_ns": self.stamps_ns,
            "unstamped_ns": self.unstamped_ns,
            "connections": self.connections,
            "clock_moved_ns": clock_offset_ns() - self._offset_ns,
        }


def main() -> None:
    """Serve on an inherited listening socket until SIGTERM, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the listening socket")
    parser.add_argument("--out", type=Path, required=True, help="where the report goes")
    options = parser.parse_args()
    stop, signalled = socket.socketpair()
    signalled.setblocking(False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(signalled.fileno())
    gc.disable()  # nothing here is cyclic, and a collection would hold up the answers
    server = Server(socket.socket(fileno=options.fd), stop)
    server.serve()
    options.out.write_text(json.dumps(server.report()), encoding="utf-8")


if __name__ == "__main__":
    main()
