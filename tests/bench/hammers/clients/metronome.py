"""The yardstick of the lateness table: spins until each moment of the schedule and sends, on the connections in turn; reads in between.

It does all that a load tool must not: it has a core for itself and reads no answer properly. What the server sees of it late is
what the machine and the server's stamps add to any tool.
"""

from __future__ import annotations

import gc
import socket
import sys
import time
from urllib.parse import urlsplit

REQUEST = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n"


def beat(sockets: list[socket.socket], seconds: float, rate_per_s: float) -> None:
    """Send request k at start + k / rate. Before each send, the answers to what that connection sent before are taken and thrown away."""
    count, clock = len(sockets), time.monotonic_ns
    start_ns = clock() + 10_000_000
    for k in range(round(seconds * rate_per_s)):
        connection = sockets[k % count]
        if k >= count:
            connection.recv(4096)
        due_ns = start_ns + round(k * 1_000_000_000 / rate_per_s)
        while clock() < due_ns:
            pass
        connection.send(REQUEST)


def main(url: str, connections: int, seconds: float, rate_per_s: float) -> None:
    parts = urlsplit(url)
    address = parts.hostname or "", parts.port or 80
    sockets = [socket.create_connection(address, 10) for _ in range(connections)]
    for each in sockets:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    gc.disable()
    beat(sockets, seconds, rate_per_s)
    for each in sockets:
        each.recv(4096)
        each.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
