"""The API server's moods, played by a proxy in front of the real one: it refuses, forgets to answer, answers late, slowly, or nonsense."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Self

import anyio
import h11
import httpx
from anyio.abc import SocketAttribute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyio.abc import SocketStream

DRIP_BYTES = 16


@dataclass(slots=True)
class Exchange:
    """One request on its way, and what the proxy can do with it."""

    stream: SocketStream
    request: h11.Request
    body: bytes
    upstream: httpx.AsyncClient

    @property
    def method(self) -> str:
        return self.request.method.decode()

    @property
    def target(self) -> str:
        return self.request.target.decode()

    async def forward(self) -> httpx.Response:
        """Have the real server do it."""
        headers = [(name, value) for name, value in self.request.headers if name not in {b"host", b"connection", b"content-length"}]
        return await self.upstream.request(self.method, self.target, headers=headers, content=self.body)

    async def answer(self, status: int, headers: dict[str, str], body: bytes, *, pause_s: float = 0.0) -> None:
        """Answer; with ``pause_s`` in small pieces, with that much between them."""
        kept = {name: value for name, value in headers.items() if name not in {"content-length", "transfer-encoding", "connection"}}
        head = f"HTTP/1.1 {status} -\r\n" + "".join(f"{name}: {value}\r\n" for name, value in kept.items())
        await self.stream.send(f"{head}content-length: {len(body)}\r\n\r\n".encode())
        size = DRIP_BYTES if pause_s else len(body) or 1
        for start in range(0, len(body), size):
            await self.stream.send(body[start : start + size])
            await anyio.sleep(pause_s)


Mood = Callable[[Exchange], Awaitable[None]]


async def well(exchange: Exchange) -> None:
    """Pass it on, and its answer back."""
    response = await exchange.forward()
    await exchange.answer(response.status_code, dict(response.headers), response.content)


def says(status: int, message: str = "", *, reason: str = "", **headers: str) -> Mood:
    """Refuse; nothing is done."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": status}
    return raw(status, json.dumps(body).encode(), **headers)


def raw(status: int, body: bytes, **headers: str) -> Mood:
    """Answer this, and do nothing."""

    async def mood(exchange: Exchange) -> None:
        await exchange.answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)

    return mood


async def resets(exchange: Exchange) -> None:
    """Hang up; nothing is done."""
    await exchange.stream.aclose()


async def swallows(exchange: Exchange) -> None:
    """Do it, and hang up."""
    await exchange.forward()
    await exchange.stream.aclose()


async def hangs(exchange: Exchange) -> None:
    """Say nothing, and do nothing."""
    await anyio.sleep_forever()


def done_but(status: int, body: bytes = b"") -> Mood:
    """Do it, and answer something else."""

    async def mood(exchange: Exchange) -> None:
        await exchange.forward()
        await exchange.answer(status, {}, body)

    return mood


def drips(pause_s: float) -> Mood:
    """Answer slowly."""

    async def mood(exchange: Exchange) -> None:
        response = await exchange.forward()
        await exchange.answer(response.status_code, dict(response.headers), response.content, pause_s=pause_s)

    return mood


def late(seconds: float) -> Mood:
    """Do it only after a while, whether or not anybody still waits."""

    async def mood(exchange: Exchange) -> None:
        await anyio.sleep(seconds)
        response = await exchange.forward()
        await exchange.answer(response.status_code, dict(response.headers), response.content)

    return mood


@dataclass(slots=True)
class Expected:
    method: str
    part: str
    mood: Mood
    times: float


@dataclass(slots=True)
class Moody:
    """The proxy. ``url`` is where it listens; ``seen`` is every request that came, as ``METHOD /path``; ``open`` how many connections there are."""

    upstream: httpx.AsyncClient
    url: str = ""
    seen: list[str] = field(default_factory=list)
    open: int = 0
    _expected: list[Expected] = field(default_factory=list)

    def play(self, method: str, part: str, mood: Mood, times: float = 1) -> Expected:
        """Be in a mood for so many of the requests with this method whose path has this part; whoever calls may change how many."""
        self._expected.append(Expected(method, part, mood, times))
        return self._expected[-1]

    def count(self, method: str, part: str = "") -> int:
        """Give how many requests came with this method and this part of the path."""
        return sum(each.startswith(f"{method} ") and part in each for each in self.seen)

    @classmethod
    @contextlib.asynccontextmanager
    async def serving(cls, url: str, authority: Path) -> AsyncIterator[Self]:
        """Listen on a port of this machine while the block runs."""
        tls = ssl.create_default_context(cafile=str(authority))
        async with (
            httpx.AsyncClient(base_url=url, verify=tls, timeout=30, trust_env=False) as upstream,
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            proxy = cls(upstream)
            proxy.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
            tasks.start_soon(partial(listener.serve, proxy._serve))
            yield proxy
            tasks.cancel_scope.cancel()

    async def _serve(self, stream: SocketStream) -> None:
        self.open += 1
        try:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
                async with stream:
                    connection = h11.Connection(h11.SERVER)
                    while True:
                        exchange = await self._read(connection, stream)
                        self.seen.append(f"{exchange.method} {exchange.target}")
                        await self._mood(exchange)(exchange)
                        connection = h11.Connection(h11.SERVER)
        finally:
            self.open -= 1

    async def _read(self, connection: h11.Connection, stream: SocketStream) -> Exchange:
        request: h11.Request | None = None
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive())
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                return Exchange(stream, request, body, self.upstream)

    def _mood(self, exchange: Exchange) -> Mood:
        for each in self._expected:
            if each.times and each.method == exchange.method and each.part in exchange.target:
                each.times -= 1
                return each.mood
        return well
