"""Does the server answer everything that can come over a connection with a defined status, and survive it?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen.errors import RefusedError
from loadgen.pod.log import Log
from loadgen.serving import connection
from loadgen.serving.connection import MAX_BODY_BYTES, MAX_HEAD_BYTES
from loadgen.serving.exchange import Reply, Request, as_json, as_text
from loadgen.serving.server import MAX_CONNECTIONS, Server, listen
from tests.pod.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio
GET = b"GET /healthz HTTP/1.1\r\nhost: pod\r\n\r\n"


@dataclass
class Answering:
    """A server in this process that tells what it was asked; what it is told to wait for, it waits for."""

    server: Server
    port: int
    log: Path
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[Request] = field(default_factory=list)
    answered: int = 0

    async def answer(self, request: Request) -> Reply:
        self.asked.append(request)
        if request.path == "/bug":
            raise ZeroDivisionError("a\nbug")
        if request.path == "/wait":
            await self.gate.wait()
        self.answered += 1
        if request.path == "/large":
            return as_text(200, "x" * (8 << 20))
        return as_json(200, {"method": request.method, "path": request.path, "body": len(request.body)})

    async def line(self) -> Line:
        return Line(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self, data: bytes = GET) -> tuple[int, bytes]:
        """Ask on a connection of its own."""
        line = await self.line()
        line.write(data)
        status, body = await line.read()
        await line.close()
        return status, body


class Line:
    """A connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = b""

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self, *, headless: bool = False) -> tuple[int, bytes]:
        with anyio.fail_after(PATIENCE_S):
            self.head = await self.reader.readuntil(b"\r\n\r\n")
            length = next((int(each.partition(b":")[2]) for each in self.head.split(b"\r\n") if each.startswith(b"content-length:")), 0)
            return int(self.head.split()[1]), b"" if headless else await self.reader.readexactly(length)

    async def end(self) -> bytes:
        """Wait until the server closes; give what it still said."""
        with anyio.fail_after(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def answering(tmp_path: Path) -> AsyncIterator[Answering]:
    """Run a server; whatever it leaves to the loop's exception handler fails the test."""
    problems: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: problems.append(context))
    with (tmp_path / "log").open("wb") as log:
        async with anyio.create_task_group() as tasks:
            served = Answering(None, 0, tmp_path / "log")  # type: ignore[arg-type]  # the two need each other
            served.server = Server(served.answer, tasks, Log(log.fileno(), loop.time))
            listening = listen("127.0.0.1", 0, hint="")
            served.port = listening.getsockname()[1]
            await served.server.open(listening)
            yield served
            served.gate.set()
            served.server.close()
            with anyio.fail_after(PATIENCE_S):
                await served.server.wait_answered()
            tasks.cancel_scope.cancel()
    loop.set_exception_handler(before)
    assert problems == []


HUGE = b"x" * (MAX_HEAD_BYTES + 1)
HOSTILE = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\xfc\x03\x03" + bytes(64), 400),
    "another version": (b"GET / HTTP/9\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a header without a colon": (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
    "a NUL in a header": (b"GET / HTTP/1.1\r\nx: a\0b\r\n\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
    "a length and chunks": (b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a length below zero": (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
    "a length beyond all": (b"POST / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n", 400),
    "chunks that are none": (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
    "a huge header": (b"GET / HTTP/1.1\r\nx: " + HUGE + b"\r\n\r\n", 431),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 10_000 + b"\r\n", 431),
    "a header that does not end": (b"GET / HTTP/1.1\r\nx: " + HUGE, 431),
    "a name that does not end": (b"GET / HTTP/1.1\r\n" + HUGE, 431),
    "a path that does not end": (b"GET /" + HUGE, 431),
    "a huge body": (b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), 413),
    "a huge body that is sent": (b"POST / HTTP/1.1\r\ncontent-length: 10000000\r\n\r\n" + b"x" * 1_000_000, 413),
    "chunks that do not end": (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + b"1000\r\n%s\r\n" % (b"x" * 4096) * 20, 413),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_what_is_no_request_is_refused_with_a_status_and_ends_the_connection(case: str, tmp_path: Path) -> None:
    data, status = HOSTILE[case]
    async with answering(tmp_path) as served:
        line = await served.line()
        line.write(data)
        got, body = await line.read()
        assert got == status, body
        assert json.loads(body)["error"]
        assert await line.end() == b""
        await line.close()
        assert served.asked == [], "nobody was asked"
        assert (await served.ask())[0] == 200, "and the others are served"


async def test_one_connection_carries_one_request_after_the_other(tmp_path: Path) -> None:
    async with answering(tmp_path) as served:
        line = await served.line()
        for number in range(3):
            line.write(b"POST /p%d?query HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (number, number, b"x" * number))
            assert await line.read() == (200, b'{"method": "POST", "path": "/p%d", "body": %d}' % (number, number))
        await line.close()


async def test_a_request_may_come_byte_by_byte_and_its_body_in_chunks(tmp_path: Path) -> None:
    async with answering(tmp_path) as served:
        line = await served.line()
        for byte in b"POST /slow HTTP/1.1\r\nA: b\r\na: c\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n":
            line.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await line.read())[0] == 200
        assert (served.asked[0].body, served.asked[0].headers["a"]) == (b"abcde", "b, c")
        await line.close()


@pytest.mark.parametrize(
    "last",
    [
        b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nconnection: upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n",
        GET + GET,
        GET + b"garbage\0\r\n\r\n",
    ],
    ids=["close", "HTTP/1.0", "upgrade", "two at once", "garbage behind it"],
)
async def test_a_request_that_is_the_last_one_is_answered_once_and_then_the_connection_ends(last: bytes, tmp_path: Path) -> None:
    async with answering(tmp_path) as served:
        line = await served.line()
        line.write(last)
        assert (await line.read())[0] == 200
        assert b"connection: close" in line.head
        assert await line.end() == b""
        assert len(served.asked) == 1
        await line.close()


async def test_what_comes_while_a_request_is_answered_is_not_served(tmp_path: Path) -> None:
    async with answering(tmp_path) as served:
        line = await served.line()
        line.write(b"GET /wait HTTP/1.1\r\n\r\n")
        await until(lambda: served.asked)
        line.write(GET)
        await asyncio.sleep(0.01)
        served.gate.set()
        assert json.loads((await line.read())[1])["path"] == "/wait"
        await line.close()


async def test_head_has_the_headers_of_get_and_no_body(tmp_path: Path) -> None:
    async with answering(tmp_path) as served:
        line = await served.line()
        line.write(b"HEAD /healthz HTTP/1.1\r\n\r\n")
        assert await line.read(headless=True) == (200, b"")
        assert b"content-length: 0" not in line.head
        line.write(GET)
        assert json.loads((await line.read())[1])["method"] == "GET"
        await line.close()


async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(tmp_path: Path) -> None:
    async with answering(tmp_path) as served:
        line = await served.line()
        line.write(b"POST /p HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert (await line.read(headless=True))[0] == 100
        line.write(b"ab")
        assert json.loads((await line.read())[1])["body"] == 2
        await line.close()


async def test_a_request_that_is_not_there_in_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RECEIVE_S", 0.1)
    async with answering(tmp_path) as served:
        line = await served.line()
        line.write(b"GET /healthz HTTP/1.1\r\nx:")
        for _ in range(30):
            line.write(b"y")
            await asyncio.sleep(0.005)
        assert (await line.read())[0] == 408
        assert await line.end() == b""
        await line.close()


@pytest.mark.parametrize(("after", "limit"), [(b"", "FIRST_BYTE_S"), (GET, "KEEP_S")])
async def test_a_connection_that_says_nothing_is_closed_without_a_word(
    after: bytes, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, limit, 0.1)
    async with answering(tmp_path) as served:
        line = await served.line()
        if after:
            line.write(after)
            await line.read()
        assert await line.end() == b""
        await line.close()


async def test_a_client_that_does_not_take_its_answer_loses_it_and_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SEND_S", 0.1)
    async with answering(tmp_path) as served:
        line = await served.line()
        line.write(b"GET /large HTTP/1.1\r\n\r\n")
        await until(lambda: served.answered and not served.server._connections)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await line.read()
        await line.close()


async def test_a_client_that_takes_its_large_answer_slowly_gets_all_of_it_and_may_ask_again(tmp_path: Path) -> None:
    async with answering(tmp_path) as served:
        line = await served.line()
        line.write(b"GET /large HTTP/1.1\r\n\r\n")
        await asyncio.sleep(0.05)
        assert len((await line.read())[1]) == (8 << 20) + 1
        line.write(GET)
        assert (await line.read())[0] == 200
        await line.close()


async def test_who_only_holds_a_place_gives_it_up_for_the_next_one(tmp_path: Path) -> None:
    async with answering(tmp_path) as served:
        lines = [await served.line() for _ in range(2 * MAX_CONNECTIONS)]
        for number, line in enumerate(lines):
            if number % 2:
                line.write(b"GET / HTTP/1.1\r\nx: ")
        assert (await served.ask())[0] == 200
        assert len(served.server._connections) <= MAX_CONNECTIONS
        for line in lines:
            await line.close()


async def test_when_every_place_is_being_answered_the_next_one_is_told_so(tmp_path: Path) -> None:
    async with answering(tmp_path) as served:
        lines = [await served.line() for _ in range(MAX_CONNECTIONS)]
        for line in lines:
            line.write(b"GET /wait HTTP/1.1\r\n\r\n")
        await until(lambda: len(served.asked) == MAX_CONNECTIONS)
        late = await served.line()
        assert (await late.read())[0] == 503
        assert await late.end() == b""
        served.gate.set()
        assert [(await line.read())[0] for line in lines] == [200] * MAX_CONNECTIONS
        assert (await served.ask())[0] == 200
        for line in [late, *lines]:
            await line.close()


async def test_what_was_begun_is_done_to_its_end_whether_or_not_the_client_waits(tmp_path: Path) -> None:
    async with answering(tmp_path) as served:
        line = await served.line()
        line.write(b"GET /wait HTTP/1.1\r\n\r\n")
        await until(lambda: served.asked)
        line.writer.transport.abort()
        await asyncio.sleep(0.02)
        served.gate.set()
        with anyio.fail_after(PATIENCE_S):
            await served.server.wait_answered()
        assert served.answered == 1
        assert (await served.ask())[0] == 200


async def test_a_bug_in_an_answer_is_a_500_and_a_line_in_the_log_and_nothing_more(tmp_path: Path) -> None:
    async with answering(tmp_path) as served:
        status, body = await served.ask(b"GET /bug HTTP/1.1\r\n\r\n")
        assert status == 500
        assert b"ZeroDivisionError" not in body
        assert (await served.ask())[0] == 200
        assert "ZeroDivisionError('a\\nbug')" in served.log.read_text()


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_bytes_come_the_server_goes_on(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 0.02)
    rng = random.Random(seed)
    seeds = [data[:2000] for data, _ in HOSTILE.values()] + [GET, b"POST /p HTTP/1.1\r\ncontent-length: 4\r\n\r\nabcd"]
    async with answering(tmp_path) as served:
        for _ in range(60):
            data = bytearray(rng.choice(seeds))
            for _ in range(rng.randint(0, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            line = await served.line()
            cut = rng.randint(0, len(data))
            for piece in (data[:cut], data[cut:]):
                line.write(bytes(piece))
                await asyncio.sleep(0)
            if rng.random() < 0.5:
                line.writer.transport.abort()
            else:
                await line.close()
        assert (await served.ask())[0] == 200


def test_a_port_that_is_taken_is_said_and_all_addresses_are_those_of_both_families() -> None:
    with listen("127.0.0.1", 0, hint="") as taken, listen("", 0, hint="") as everywhere, listen("::1", 0, hint=""):
        port = taken.getsockname()[1]
        with pytest.raises(RefusedError, match=f"^port {port} of 127.0.0.1 cannot be listened at: Address already in use$"):
            listen("127.0.0.1", port, hint="0 takes any")
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as client:
                client.connect((address, everywhere.getsockname()[1]))
