"""A server that plays a script, step by step and byte by byte, to whoever connects.

A script is a list of steps; each connection plays one, the first connection the first script and so on, the last one for all further
ones. Where a script ends, the server stays silent until the client has gone, so a connection that the client leaks is seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

PATIENCE_S = 20.0
"""How long a test waits for what must happen; only a broken program makes it wait so long."""
ALL_OF_IT = 1 << 16


class Gone(Exception):  # noqa: N818  # no error: a client may leave at any time
    """The client has closed the connection."""


class Visit:
    """One connection, seen by the server, and all visits together in ``server``."""

    def __init__(self, server: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer
        self.waiting = False

    async def put(self, data: bytes) -> None:
        """Write bytes."""
        if self.writer.is_closing():
            raise Gone  # uvloop would call it a bug
        self.writer.write(data)
        await self.writer.drain()


Step = Callable[[Visit], Awaitable[None]]


async def receive(visit: Visit) -> None:
    """Wait for one request."""
    try:
        await visit.reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        raise Gone from error
    visit.server.received(visit)


def receive_body(data: bytes) -> Step:
    """Wait for the body of a request, as long as these bytes."""

    async def step(visit: Visit) -> None:
        try:
            visit.server.bodies.append(await visit.reader.readexactly(len(data)))
        except asyncio.IncompleteReadError as error:
            raise Gone from error

    return step


def send(data: bytes) -> Step:
    """Send bytes."""

    async def step(visit: Visit) -> None:
        visit.server.answered(visit)
        await visit.put(data)

    return step


def drip(data: bytes, every_s: float) -> Step:
    """Send bytes one by one."""

    async def step(visit: Visit) -> None:
        for value in data:
            await visit.put(bytes([value]))
            await asyncio.sleep(every_s)

    return step


def send_in_pieces(*pieces: bytes, every_s: float = 0.002) -> Step:
    """Send bytes in segments, with enough time in between that each is likely to arrive on its own."""

    async def step(visit: Visit) -> None:
        visit.server.answered(visit)
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(every_s)
            await visit.put(piece)

    return step


def wait(gate: asyncio.Event) -> Step:
    """Wait until the test opens a gate."""

    async def step(_visit: Visit) -> None:
        await gate.wait()

    return step


async def close(visit: Visit) -> None:
    """Close the connection in good order (FIN)."""
    visit.writer.close()


async def finish(visit: Visit) -> None:
    """Send nothing more (FIN) and wait for the client to close."""
    visit.writer.write_eof()


async def reset(visit: Visit) -> None:
    """Break the connection (RST)."""
    if visit.writer.is_closing():
        raise Gone
    visit.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    visit.writer.transport.abort()


async def silence(visit: Visit) -> None:
    """Say nothing until the client has gone."""
    while await visit.reader.read(ALL_OF_IT):
        pass
    raise Gone


def forever(*steps: Step) -> Step:
    """Play steps again and again."""

    async def step(visit: Visit) -> None:
        while True:
            for each in steps:
                await each(visit)

    return step


class ScriptedServer:
    """The server and what it has seen.

    Connections ever and now, requests and their bodies, and the most requests that waited for an answer at once.
    """

    def __init__(self, scripts: Sequence[Sequence[Step]]) -> None:
        self.address = ("127.0.0.1", 0)
        self.connections = 0
        self.open = 0
        self.requests = 0
        self.bodies: list[bytes] = []
        self.waiting = 0
        self.peak = 0
        self._scripts = scripts
        self._visits: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait for something that the server sees."""
        with anyio.fail_after(PATIENCE_S):
            while not reached():
                await self._news.wait()

    def received(self, visit: Visit) -> None:
        """A request came."""
        visit.waiting = True
        self.requests += 1
        self.waiting += 1
        self.peak = max(self.peak, self.waiting)
        self._tell()

    def answered(self, visit: Visit) -> None:
        """A request is being answered."""
        self.waiting -= visit.waiting
        visit.waiting = False
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._visits.add(task)
        task.add_done_callback(self._visits.discard)
        visit = Visit(self, reader, writer)
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        self.open += 1
        self._tell()
        try:
            for step in [*script, silence]:
                await step(visit)
        except (Gone, OSError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            self.answered(visit)
            self.open -= 1
            self._tell()
            writer.transport.abort()

    async def stop(self, server: asyncio.Server) -> None:
        """End all visits."""
        server.close()
        for task in list(self._visits):
            task.cancel()
        with anyio.fail_after(PATIENCE_S):
            while self._visits:
                await asyncio.wait(self._visits)
                await anyio.lowlevel.checkpoint()  # a task that is done leaves the set in a callback of the loop


@contextlib.asynccontextmanager
async def serving(*scripts: Sequence[Step]) -> AsyncIterator[ScriptedServer]:
    """Serve scripts on a free loopback port."""
    scripted = ScriptedServer(scripts)
    server = await asyncio.start_server(scripted._visit, "127.0.0.1", 0)
    scripted.address = server.sockets[0].getsockname()[:2]
    try:
        yield scripted
    finally:
        await scripted.stop(server)
