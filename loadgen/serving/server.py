"""Who is connected, and who answers? An HTTP server of our own: a bounded number of connections, each request answered in a task of its own.

The laws: an answer that was begun is made to its end, whether or not the client still waits; a bug in it is a 500 and a line in the log; and
whoever only holds a place (says nothing, or says it slowly) must give it up for the next one, so that the probes get through.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Protocol

import anyio

from loadgen.errors import RefusedError
from loadgen.serving.connection import Connection, State
from loadgen.serving.exchange import refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from loadgen.serving.exchange import Reply, Request

MAX_CONNECTIONS = 64
BACKLOG = 256
ANSWERED_POLL_S = 0.01


class Log(Protocol):
    """Where bugs are said."""

    def say(self, line: str, *, kind: str) -> object:
        """Write a line; of a kind at most one now and then."""


class Server:
    """Answers requests with ``answer``; ``tasks`` own the answers that are being made."""

    def __init__(self, answer: Callable[[Request], Awaitable[Reply]], tasks: TaskGroup, log: Log) -> None:
        self._answer = answer
        self._tasks = tasks
        self._log = log
        self._connections: dict[Connection, None] = {}
        """The one that has waited longest for a request comes first."""
        self._answering = 0
        self._listener: asyncio.Server | None = None

    def __repr__(self) -> str:
        return f"<Server {len(self._connections)} connections, {self._answering} being answered>"

    async def open(self, listening: socket.socket) -> None:
        """Take connections from a listening socket."""
        self._listener = await asyncio.get_running_loop().create_server(lambda: Connection(self), sock=listening, backlog=BACKLOG)

    async def wait_answered(self) -> None:
        """Wait until nothing is being answered."""
        while self._answering:  # noqa: ASYNC110  # some milliseconds, once
            await anyio.sleep(ANSWERED_POLL_S)

    async def wait_sent(self) -> None:
        """Wait until everything is answered, and the answers are on their way."""
        while self._answering or any(each.state is State.SENDING for each in self._connections):  # noqa: ASYNC110  # as above
            await anyio.sleep(ANSWERED_POLL_S)

    def close(self) -> None:
        """Listen no more, and drop all connections."""
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.abort()

    # What a connection tells.

    def made(self, connection: Connection) -> bool:
        """Make room, if need be, at the cost of the one that has held its place longest without asking anything."""
        if len(self._connections) >= MAX_CONNECTIONS:
            waiting = next((each for each in self._connections if each.state is not State.ANSWERING), None)
            if waiting is None:
                return False
            del self._connections[waiting]
            waiting.abort()
        self._connections[connection] = None
        return True

    def asked(self, connection: Connection, request: Request) -> None:
        """Have a request answered."""
        self._answering += 1
        self._tasks.start_soon(self._answer_one, connection, request)

    def lost(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.pop(connection, None)

    async def _answer_one(self, connection: Connection, request: Request) -> None:
        try:
            reply = await self._answer(request)
        except Exception as error:  # noqa: BLE001  # one request that we cannot answer must not end the load; it is said in the log
            self._log.say(f"bug: {request.method} {request.path} failed: {error!r}", kind="bug")
            reply = refusal(500, "this is a bug of loadgen; its log says more")
        finally:
            self._answering -= 1
        connection.reply(reply)
        if connection in self._connections:
            self._connections[connection] = self._connections.pop(connection)


def listen(bind: str, port: int, *, hint: str) -> socket.socket:
    """Make the listening socket; an empty address means all of them, of both families where there are both.

    Raises RefusedError, with the ``hint``, if that cannot be.
    """
    try:
        if bind:
            return socket.create_server((bind, port), family=socket.AF_INET6 if ":" in bind else socket.AF_INET, backlog=BACKLOG)
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
        return socket.create_server(("", port), backlog=BACKLOG)
    except OSError as error:
        where = f"port {port}" + (f" of {bind}" if bind else "")
        number = None if isinstance(error, socket.gaierror) else error.errno  # a resolver counts for itself
        reason = error.strerror if number is None else os.strerror(number)  # to its own text Python adds the address
        raise RefusedError(f"{where} cannot be listened at: {reason}", hint=hint) from error
