"""The ``user`` service: answers the name after a service time, and counts what it really saw in flight.

Runs as its own process on two listening sockets: the service, and a control port with ``GET /count`` and ``POST /count`` (which also
starts the peak anew). On a laptop it inherits them, in a container it is told the ports. One more witness, so it shares no code with the
load's side of the story.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import httptools

if TYPE_CHECKING:
    from loadgen.mesh.user_http2 import Http2Connection

MAX_CLIENTS = 1000
"""The client's name comes in a header, so it is not to be trusted: further names are counted together as 'other'."""
MAX_NAME_CHARACTERS = 63
MAX_PEAKS = 64
"""So many different peaks of busy periods are told apart."""
CLIENT_HEADER = b"x-loadgen-client"
BACKLOG = 4096
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n"
"""How a client begins that knows that the server speaks HTTP/2 (RFC 9113, section 3.4)."""


class Count:
    """Requests since the start, in flight now, and the most in flight since ``restart_peak``.

    A period is busy from a request that finds none in flight until none is: of a burst, one. ``periods`` counts those since ``restart_peak`` by
    the most that were in flight in them.
    """

    __slots__ = ("_cut", "_top", "in_flight", "peak_in_flight", "periods", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.in_flight = 0
        self.peak_in_flight = 0
        self.periods: dict[int, int] = {}
        self._top = 0
        self._cut = False
        """Whether the present period began before the peak was restarted."""

    def enter(self) -> None:
        """A request arrived."""
        self.requests += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        self._top = max(self._top, self.in_flight)

    def leave(self) -> None:
        """A request was answered, or its connection is gone."""
        self.in_flight -= 1
        if not self.in_flight:
            if not self._cut and (self._top in self.periods or len(self.periods) < MAX_PEAKS):
                self.periods[self._top] = self.periods.get(self._top, 0) + 1
            self._top, self._cut = 0, False

    def restart_peak(self) -> None:
        """Measure the peak from now on."""
        self.peak_in_flight = self._top = self.in_flight
        self._cut = self.in_flight > 0
        self.periods.clear()

    def as_dict(self) -> dict[str, Any]:
        """Give the figures, as JSON holds them."""
        figures = {"requests": self.requests, "in_flight": self.in_flight, "peak_in_flight": self.peak_in_flight}
        return {**figures, "periods": {str(top): count for top, count in self.periods.items()}}


class Service:
    """What all connections share."""

    def __init__(self, body: bytes, mean_s: float, *, exponential: bool, seed: int, status: int = 200) -> None:
        self.total = Count()
        self.clients: dict[str, Count] = {}
        self._rng = random.Random(seed)
        self._mean_s = mean_s
        self._exponential = exponential
        self.body = body
        self.status = status
        self.response = b"HTTP/1.1 %d \r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)

    def draw(self) -> float:
        """Give the next service time in seconds."""
        return self._rng.expovariate(1 / self._mean_s) if self._exponential and self._mean_s else self._mean_s

    def enter(self, name: str) -> Count:
        """Count a request of the client of that name; give the client's count, for ``leave``."""
        if name not in self.clients and len(self.clients) >= MAX_CLIENTS:
            name = "other"
        count = self.clients.setdefault(name, Count())
        self.total.enter()
        count.enter()
        return count

    def leave(self, count: Count) -> None:
        """Count that a request was answered, or that its connection is gone."""
        self.total.leave()
        count.leave()

    def snapshot(self, *, restart_peak: bool) -> bytes:
        """Give all counts as JSON; with ``restart_peak`` begin a new peak afterwards."""
        counts = {**self.total.as_dict(), "clients": {name: count.as_dict() for name, count in self.clients.items()}}
        if restart_peak:
            for count in (self.total, *self.clients.values()):
                count.restart_peak()
        return json.dumps(counts).encode()


class _Connection(asyncio.Protocol):
    """One connection; requests on it are answered one after the other, as HTTP/1.1 demands."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._path = url


class _ServiceConnection(_Connection):
    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service
        self._name = ""
        self._serving: tuple[Count, asyncio.TimerHandle] | None = None
        self._http2: Http2Connection | None = None

    def data_received(self, data: bytes) -> None:
        if self._http2 is None and data.startswith(HTTP2_PREFACE):
            from loadgen.mesh.user_http2 import Http2Connection  # noqa: PLC0415  # only a rule that upgrades needs it

            self._http2 = Http2Connection(self._service, self._transport)
        if self._http2 is not None:
            self._http2.feed(data)
        else:
            super().data_received(data)

    def on_message_begin(self) -> None:
        self._name = ""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == CLIENT_HEADER:
            self._name = value[:MAX_NAME_CHARACTERS].decode("latin-1")

    def on_message_complete(self) -> None:
        if self._serving is not None:  # pipelining: nobody in this mesh does it
            self._transport.abort()
            return
        count = self._service.enter(self._name)
        keep = self._parser.should_keep_alive()
        self._serving = (count, asyncio.get_running_loop().call_later(self._service.draw(), self._answer, keep))

    def _answer(self, keep: bool) -> None:
        self._leave()
        self._transport.write(self._service.response)
        if not keep:
            self._transport.close()

    def _leave(self) -> None:
        if self._serving is not None:
            count, timer = self._serving
            self._serving = None
            timer.cancel()
            self._service.leave(count)

    def eof_received(self) -> None:
        self._leave()  # at once: the loop tells of a lost connection a round later, when another request may have come in

    def connection_lost(self, _exc: Exception | None) -> None:
        self._leave()
        if self._http2 is not None:
            self._http2.close()


class _ControlConnection(_Connection):
    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    def on_message_complete(self) -> None:
        restart = self._parser.get_method() == b"POST"
        found = self._path == b"/count"
        body = self._service.snapshot(restart_peak=restart) if found else b"{}"
        self._transport.write(
            b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (b"200 OK" if found else b"404 Not Found", len(body), body)
        )
        if not self._parser.should_keep_alive():
            self._transport.close()


async def serve(service: Service, listening: socket.socket, control: socket.socket) -> None:
    """Serve until cancelled."""
    loop = asyncio.get_running_loop()
    asked = await loop.create_server(lambda: _ControlConnection(service), sock=control)
    try:
        server = await loop.create_server(lambda: _ServiceConnection(service), sock=listening, backlog=BACKLOG)
        await server.serve_forever()
    finally:
        asked.close()


async def _serve_until_told(service: Service, listening: socket.socket, control: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then end at once: what is being served is dropped."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    serving = asyncio.create_task(serve(service, listening, control))
    waiting = asyncio.create_task(told.wait())
    await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        await serving  # raises what ended it


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="the user service")
    parser.add_argument("--service-fd", type=int, help="inherited listening socket of the service, in the place of --port")
    parser.add_argument("--control-fd", type=int, help="inherited listening socket of the control port, in the place of --control-port")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at, such as 0.0.0.0")
    parser.add_argument("--port", type=int)
    parser.add_argument("--control-port", type=int)
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--body", required=True)
    parser.add_argument("--service-time-s", type=float, required=True)
    parser.add_argument("--exponential", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if (options.service_fd is None) == (options.port is None) or (options.control_fd is None) == (options.control_port is None):
        parser.error("give either --port and --control-port, or --service-fd and --control-fd")
    return options


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        sys.exit(f"port {port} of {host} cannot be listened at: {error}")


def main() -> None:
    """Run the service on the sockets that it inherits or makes; SIGTERM ends it at once, with exit code 0."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # also as process 1, which the system ends by no signal that it does not handle
    options = _options()
    import uvloop  # noqa: PLC0415  # only the process that serves pays for it

    service = Service(
        options.body.encode(), options.service_time_s, exponential=options.exponential, seed=options.seed, status=options.status
    )
    listening = _listen(options.host, options.port) if options.service_fd is None else socket.socket(fileno=options.service_fd)
    control = _listen(options.host, options.control_port) if options.control_fd is None else socket.socket(fileno=options.control_fd)
    uvloop.run(_serve_until_told(service, listening, control))


if __name__ == "__main__":
    main()
