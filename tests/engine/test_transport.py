"""Is the wire engine a transport as httpx wants it, and does nothing of a request outlive it?"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest

from loadgen.engine.http2 import Http2Transport
from loadgen.engine.transport import WireTransport

from .scripted_server import PATIENCE_S, Gone, Step, close, drip, finish, forever, receive, reset, send, serving, silence, wait
from .test_outcomes import mute, refusing, response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .scripted_server import ScriptedServer, Visit

pytestmark = pytest.mark.anyio

OK = response(b"200 OK", b"Kevin")
CAP = 4096


class Seen:
    """What a server received."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    def take(self, ending: bytes) -> Step:
        """Receive one request up to an ending."""

        async def step(visit: Visit) -> None:
            try:
                self.requests.append(await visit.reader.readuntil(ending))
            except asyncio.IncompleteReadError as error:
                raise Gone from error
            visit.server.received(visit)

        return step


def url_of(server: ScriptedServer, path: str = "/") -> str:
    return "http://{}:{}{}".format(*server.address, path)


@contextlib.asynccontextmanager
async def client_of(transport: httpx.AsyncBaseTransport) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=transport, timeout=PATIENCE_S) as client:
        yield client


def wire(timeout_s: float = PATIENCE_S) -> WireTransport:
    return WireTransport(timeout_s=timeout_s, max_bytes=CAP)


# What is sent.


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
async def test_any_method_and_header_is_sent_as_httpx_made_it(method: str) -> None:
    seen = Seen()
    async with serving([seen.take(b"\r\n\r\n"), send(OK)]) as server, client_of(wire()) as client:
        got = await client.request(method, url_of(server, "/a%20b?q=1&r=ä"), headers=[("X-One", "1"), ("X-One", "2")])
        head = seen.requests[0].split(b"\r\n")
        assert head[0] == method.encode() + b" /a%20b?q=1&r=%C3%A4 HTTP/1.1"
        assert [line for line in head if line.startswith(b"X-One")] == [b"X-One: 1", b"X-One: 2"]
        assert b"Host: 127.0.0.1:%d" % server.address[1] in head
        assert (got.status_code, got.text, got.request.method) == (200, "Kevin", method)


async def test_a_body_is_sent_with_its_length() -> None:
    seen = Seen()
    async with serving([seen.take(b'{"a":1}'), send(OK)]) as server, client_of(wire()) as client:
        await client.post(url_of(server), json={"a": 1})
        assert b"\r\nContent-Length: 7\r\n" in seen.requests[0]


async def test_a_body_that_is_made_on_the_way_is_sent_in_chunks() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"Kev"
        yield b"in"

    seen = Seen()
    async with serving([seen.take(b"\r\n0\r\n\r\n"), send(OK)]) as server, client_of(wire()) as client:
        await client.put(url_of(server), content=parts())
        head, _, body = seen.requests[0].partition(b"\r\n\r\n")
        assert b"Transfer-Encoding: chunked" in head
        assert body == b"5\r\nKevin\r\n0\r\n\r\n"


async def test_a_body_that_is_never_made_ends_with_the_deadline() -> None:
    async def never() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with serving([silence]) as server, client_of(wire(timeout_s=0.05)) as client:
        with pytest.raises(httpx.WriteTimeout):
            await client.put(url_of(server), content=never())
        assert server.connections == 0


@pytest.mark.parametrize(("name", "value"), [("x", "1\r\ny: 2"), ("x", "1\ny: 2"), ("x\r\ny", "1"), ("x", "1\r2")])
async def test_a_header_cannot_smuggle_in_another(name: str, value: str) -> None:
    async with serving([silence]) as server, client_of(wire()) as client:
        with pytest.raises(httpx.LocalProtocolError):
            await client.get(url_of(server), headers={name: value})
        assert server.connections == 0


@pytest.mark.parametrize("url", ["https://127.0.0.1/", "ftp://127.0.0.1/", "/relative"])
async def test_what_is_no_plain_http_is_an_unsupported_protocol(url: str) -> None:
    async with client_of(wire()) as client:
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get(url)


# What comes back.


async def test_the_answer_has_status_headers_and_body_as_they_came() -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Kind: odd\r\ncontent-length: 5\r\n\r\nKevin"
    async with serving([receive, send(answer)]) as server, client_of(wire()) as client:
        got = await client.get(url_of(server))
        assert (got.status_code, got.reason_phrase, got.http_version, got.content) == (404, "Not Found", "HTTP/1.1", b"Kevin")
        assert got.headers.get_list("set-cookie") == ["a=1", "b=2"]
        assert got.headers["x-kind"] == "odd"
        assert dict(client.cookies) == {"a": "1", "b": "2"}
        assert got.elapsed.total_seconds() > 0


async def test_an_answer_is_read_like_any_of_httpx() -> None:
    async with serving([receive, send(response(b"200 OK", b"one\ntwo"))]) as server:
        async with client_of(wire()) as client:
            got = await client.get(url_of(server))
            assert [line async for line in got.aiter_lines()] == list(got.iter_lines()) == ["one", "two"]
            assert await got.aread() == got.read() == b"one\ntwo"
            assert b"".join([part async for part in got.aiter_bytes(2)]) == b"one\ntwo"
        async with client_of(wire()) as client, client.stream("GET", url_of(server)) as streamed:
            assert b"".join([part async for part in streamed.aiter_raw()]) == b"one\ntwo"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nKev\r\n2\r\nin\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK,
        response(b"200 OK", gzip.compress(b"Kevin"), b"Content-Encoding: gzip"),
    ],
    ids=["chunked", "103 first", "gzip"],
)
async def test_an_answer_may_come_in_any_form(answer: bytes) -> None:
    async with serving([receive, drip(answer, 0)]) as server, client_of(wire()) as client:
        got = await client.get(url_of(server))
        assert got.text == "Kevin"
        assert "link" not in got.headers


async def test_the_answer_to_head_has_a_length_and_no_body_and_leaves_the_connection_usable() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    async with serving([receive, send(head), receive, send(OK), receive, send(head)]) as server, client_of(wire()) as client:
        for method, body in (("HEAD", b""), ("GET", b"Kevin"), ("HEAD", b"")):
            got = await client.request(method, url_of(server))
            assert (got.headers["content-length"], got.content) == ("5", body)
        assert server.connections == 1


ERRORS: list[tuple[str, list[Step], type[httpx.TransportError]]] = [
    ("closed at once", [close], httpx.ReadError),
    ("closed before any byte", [receive, close], httpx.ReadError),
    ("reset", [receive, reset], httpx.ReadError),
    ("closed in the body", [receive, send(OK[:-2]), close], httpx.RemoteProtocolError),
    ("garbage", [receive, send(b"SSH-2.0-OpenSSH_9.6\r\n")], httpx.RemoteProtocolError),
    ("a body over the cap", [receive, send(response(b"200 OK", b"a" * CAP))], httpx.RemoteProtocolError),
    ("a body that never ends", [receive, send(b"HTTP/1.1 200 OK\r\n\r\n"), forever(send(b"a" * 512))], httpx.RemoteProtocolError),
    (
        "a gzip bomb",
        [receive, send(response(b"200 OK", gzip.compress(b"0" * 1_000_000), b"content-encoding: gzip"))],
        httpx.RemoteProtocolError,
    ),
]
BROKEN_GZIP = [receive, send(response(b"200 OK", b"Kevin", b"content-encoding: gzip"))]
LATE: list[tuple[str, list[Step], type[httpx.TransportError]]] = [
    ("no answer", [receive], httpx.ReadTimeout),
    ("a header that drips", [receive, drip(OK, 0.02)], httpx.ReadTimeout),
    ("a body that drips", [receive, send(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n"), drip(b"a" * 999, 0.01)], httpx.ReadTimeout),
]


@pytest.mark.parametrize(("script", "wanted"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
async def test_what_fails_is_the_exception_that_users_of_httpx_know(script: list[Step], wanted: type[httpx.TransportError]) -> None:
    async with serving(script) as server:
        async with client_of(wire()) as client:
            with pytest.raises(wanted) as caught:
                await client.get(url_of(server))
            assert caught.value.request.url == url_of(server)
        await server.until(lambda: server.open == 0)
        assert server.connections == 1


@pytest.mark.parametrize(("script", "wanted"), [row[1:] for row in LATE], ids=[row[0] for row in LATE])
async def test_the_deadline_is_that_of_the_whole_request(script: list[Step], wanted: type[httpx.TransportError]) -> None:
    async with serving(script) as server, client_of(wire(timeout_s=0.15)) as client:
        with pytest.raises(wanted):
            await client.get(url_of(server))
        await server.until(lambda: server.open == 0)


async def test_a_shorter_read_timeout_of_the_request_is_its_deadline() -> None:
    async with serving([receive, drip(OK, 0.02)]) as server, client_of(wire()) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get(url_of(server), timeout=0.1)


async def test_a_body_that_cannot_be_unpacked_is_a_decoding_error() -> None:
    async with serving(BROKEN_GZIP) as server, client_of(wire()) as client:
        with pytest.raises(httpx.DecodingError):
            await client.get(url_of(server))


async def test_a_refused_connection_is_a_connect_error() -> None:
    with refusing() as (host, port):
        async with client_of(wire()) as client:
            with pytest.raises(httpx.ConnectError, match="111"):
                await client.get(f"http://{host}:{port}/")


async def test_a_connection_that_is_never_made_is_a_connect_timeout() -> None:
    with mute() as (host, port):
        async with client_of(wire(timeout_s=0.1)) as client:
            with pytest.raises(httpx.ConnectTimeout):
                await client.get(f"http://{host}:{port}/")


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/", "http://name.invalid/", f"http://{'a' * 64}.invalid/"])
async def test_a_port_or_name_that_cannot_be_is_a_connect_error(url: str) -> None:
    async with client_of(wire()) as client:
        with pytest.raises((httpx.ConnectError, httpx.InvalidURL)):
            await client.get(url)


# Connections.


async def test_requests_one_after_the_other_share_a_connection_and_those_at_once_do_not() -> None:
    gate = asyncio.Event()
    async with serving([receive, wait(gate), send(OK), forever(receive, send(OK))]) as server, client_of(wire()) as client:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(client.get, url_of(server))
            await server.until(lambda: server.waiting == 3)
            gate.set()
        for _ in range(3):
            await client.get(url_of(server))
        assert (server.connections, server.requests) == (3, 6)


async def test_every_origin_has_connections_of_its_own() -> None:
    always = [forever(receive, send(OK))]
    async with serving(always) as one, serving(always) as two, client_of(wire()) as client:
        for server in (one, two, one, two):
            await client.get(url_of(server))
        assert (one.connections, two.connections) == (1, 1)


@pytest.mark.parametrize(
    "first",
    [[receive, send(OK.replace(b"\r\n", b"\r\nconnection: close\r\n", 1))], [receive, send(OK), finish], [receive, send(OK), reset]],
    ids=["said close", "closed while idle", "reset while idle"],
)
async def test_a_connection_that_is_of_no_more_use_is_replaced(first: list[Step]) -> None:
    async with serving(first, [receive, send(OK)]) as server:
        transport = wire()
        async with client_of(transport) as client:
            await client.get(url_of(server))
            await server.until(lambda: server.open == 0)
            with anyio.fail_after(PATIENCE_S):
                while transport._lines:  # noqa: ASYNC110  # the loop's next rounds, up to the one in which this end notices
                    await asyncio.sleep(0)
            assert (await client.get(url_of(server))).text == "Kevin"
            assert server.connections == 2


async def test_a_connection_can_be_opened_before_it_is_needed() -> None:
    async with serving([receive, send(OK)]) as server:
        transport = wire()
        async with client_of(transport) as client:
            await transport.connect(httpx.URL(url_of(server)))
            await server.until(lambda: server.connections == 1)
            await client.get(url_of(server))
            assert server.connections == 1


@pytest.mark.parametrize("script", [[receive], [receive, send(OK[:-2])]], ids=["before the answer", "in the body"])
async def test_a_cancelled_request_takes_its_connection_with_it(script: list[Step]) -> None:
    async with serving(script) as server, client_of(wire()) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.get, url_of(server))
            await server.until(lambda: server.requests == 1)
            tasks.cancel_scope.cancel()
        await server.until(lambda: server.open == 0)


@pytest.mark.parametrize("rounds", range(8))
async def test_a_request_cancelled_at_any_await_leaves_no_connection(rounds: int) -> None:
    async with serving([forever(receive, send(OK))]) as server:
        transport = wire()
        async with client_of(transport) as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.get, url_of(server))
                for _ in range(rounds):
                    await asyncio.sleep(0)
                tasks.cancel_scope.cancel()
            assert len(transport._lines) == sum(map(len, transport._idle.values()))
            assert (await client.get(url_of(server))).text == "Kevin"  # so that the server has come to the first connection, too
        await server.until(lambda: server.open == 0)


async def test_closing_the_client_closes_what_is_idle_and_fails_what_is_not() -> None:
    async with serving([receive, send(OK), receive], [receive]) as server:
        transport = wire()
        client = httpx.AsyncClient(transport=transport, timeout=PATIENCE_S)
        await client.get(url_of(server))
        await transport.connect(httpx.URL(url_of(server)))

        async def get() -> None:
            with pytest.raises(httpx.ReadError):
                await client.get(url_of(server))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(get)
            await server.until(lambda: server.requests == 2)
            await client.aclose()
        await server.until(lambda: server.open == 0)
        assert server.connections == 2


# HTTP/2, byte by byte: a frame is a length, a type, flags and a stream.


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


SETTINGS = frame(4, 0, 0)
HEADERS_200 = frame(1, 4, 1, b"\x88")
KEVIN = HEADERS_200 + frame(0, 1, 1, b"Kevin")
RST_STREAM = frame(3, 0, 1, (2).to_bytes(4, "big"))
GOAWAY_AFTER_1 = frame(7, 0, 0, (1).to_bytes(4, "big") + bytes(4))
HEADERS_GZIP = frame(1, 4, 1, b"\x88" + b"\x00\x10content-encoding\x04gzip")
FRAMES: list[tuple[str, list[Step], type[httpx.TransportError]]] = [
    ("closed at once", [close], httpx.ReadError),
    ("closed before any byte", [receive, close], httpx.ReadError),
    ("closed before the answer", [receive, send(SETTINGS), close], httpx.ReadError),
    ("closed in the body", [receive, send(SETTINGS + HEADERS_200 + frame(0, 0, 1, b"Kev")), close], httpx.ReadError),
    ("reset", [receive, send(SETTINGS), reset], httpx.ReadError),
    ("the stream reset", [receive, send(SETTINGS + RST_STREAM)], httpx.ReadError),
    ("the stream reset in the body", [receive, send(SETTINGS + HEADERS_200 + RST_STREAM)], httpx.ReadError),
    ("garbage", [receive, send(frame(0, 0, 0, b"Kevin"))], httpx.RemoteProtocolError),
    ("garbage in the body", [receive, send(SETTINGS + HEADERS_200 + frame(0, 8, 1, b"\xff"))], httpx.RemoteProtocolError),
    ("HTTP/1.1", [receive, send(OK), close], httpx.ReadError),
    ("a body over the cap", [receive, send(SETTINGS + HEADERS_200 + frame(0, 1, 1, b"a" * (CAP + 1)))], httpx.RemoteProtocolError),
    (
        "a gzip bomb",
        [receive, send(SETTINGS + HEADERS_GZIP + frame(0, 1, 1, gzip.compress(b"0" * 1_000_000)))],
        httpx.RemoteProtocolError,
    ),
]


def http2(timeout_s: float = PATIENCE_S) -> Http2Transport:
    return Http2Transport(timeout_s=timeout_s, max_bytes=CAP)


async def test_http2_is_spoken_to_who_knows_that_it_comes() -> None:
    async with serving([receive, send(SETTINGS + KEVIN)]) as server:
        async with client_of(http2()) as client:
            got = await client.get(url_of(server))
            assert (got.status_code, got.text, got.http_version) == (200, "Kevin", "HTTP/2")
        await server.until(lambda: server.open == 0)


@pytest.mark.parametrize(("script", "wanted"), [row[1:] for row in FRAMES], ids=[row[0] for row in FRAMES])
async def test_what_fails_over_http2_is_the_same_exception(script: list[Step], wanted: type[httpx.TransportError]) -> None:
    async with serving(script) as server:
        async with client_of(http2()) as client:
            with pytest.raises(wanted):
                await client.get(url_of(server))
        await server.until(lambda: server.open == 0)
        assert server.connections == 1


@pytest.mark.parametrize(
    "script",
    [[receive], [receive, send(SETTINGS + HEADERS_200), forever(drip(frame(0, 0, 1, b"a"), 0.01))]],
    ids=["no answer", "a body that drips"],
)
async def test_the_deadline_is_that_of_the_whole_request_over_http2(script: list[Step]) -> None:
    async with serving(script) as server, client_of(http2(timeout_s=0.15)) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get(url_of(server))
        await server.until(lambda: server.open == 0)


@pytest.mark.parametrize("port", [1, 99999])
async def test_no_connection_over_http2_is_a_connect_error(port: int) -> None:
    async with client_of(http2()) as client:
        with pytest.raises((httpx.ConnectError, httpx.InvalidURL)):
            await client.get(f"http://127.0.0.1:{port}/")


async def test_a_request_that_the_peer_will_not_serve_any_more_goes_to_a_new_connection() -> None:
    farewell = [receive, send(SETTINGS + KEVIN + GOAWAY_AFTER_1)]
    async with serving(farewell, [receive, send(SETTINGS + KEVIN)]) as server, client_of(http2()) as client:
        for _ in range(2):
            assert (await client.get(url_of(server))).text == "Kevin"
        assert server.connections == 2


async def test_a_cancelled_request_over_http2_takes_its_connection_with_it() -> None:
    async with serving([receive]) as server, client_of(http2()) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.get, url_of(server))
            await server.until(lambda: server.requests == 1)
            tasks.cancel_scope.cancel()
        await server.until(lambda: server.open == 0)
