"""Does a connection keep its law whatever bytes come, in whatever pieces?"""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.engine.wire import Connection, fetch
from loadgen.errors import MeshError
from loadgen.outcome import Outcome, Response

from .driven_load import LAST, OK
from .scripted_server import Step, close, receive, send, serving
from .test_outcomes import OVERFLOW, OVERFLOW_BODY, mute, refusing

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nKev\r\n2\r\nin\r\n0\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\ncontent-length: 9\r\nx-envoy-upstream-service-time: 1\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nKevin"


class Line(asyncio.Transport):
    """A transport that goes nowhere; whoever polls its descriptor waits in vain."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = False
        self._descriptor = -1

    def fileno(self) -> int:
        return self._descriptor

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        assert name == "socket"
        self._descriptor = os.eventfd(0)
        return self

    def pause_reading(self) -> None:
        """Nothing is read."""

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended, "written to after its end"
        self.written += data

    def close(self) -> None:
        self.ended = True
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def abort(self) -> None:
        self.close()


class Listener:
    """An owner that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[Response | Outcome | str] = []

    def answered(self, _connection: Connection, response: Response) -> None:
        self.heard.append(response)

    def failed(self, _connection: Connection, outcome: Outcome) -> None:
        self.heard.append(outcome)

    def closed(self, _connection: Connection) -> None:
        self.heard.append("closed")


def busy_connection(max_bytes: int = 1 << 16) -> tuple[Connection, Listener, Line]:
    """Make a connection with a request on it."""
    listener, line = Listener(), Line()
    connection = Connection(listener, max_bytes=max_bytes)
    connection.connection_made(line)
    connection.send(b"GET /")
    return connection, listener, line


def play(pieces: Sequence[bytes], error: Exception | None) -> tuple[Connection, list[Response | Outcome | str]]:
    """Let pieces arrive until the connection ends itself, then let it be lost."""
    connection, listener, line = busy_connection()
    for piece in pieces:
        if line.ended:
            break
        connection.data_received(piece)
    connection.connection_lost(None if line.ended else error)
    return connection, listener.heard


def pieces_of(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if end > start]


ERRORS = st.sampled_from([None, ConnectionResetError(), OSError(110, "timed out")])
MESSAGES = [OK, LAST, CHUNKED, INTERIM + OK, OVERFLOW, UNTIL_CLOSE]


@given(pieces=st.lists(st.binary(min_size=1)), error=ERRORS)
def test_whatever_bytes_come_the_owner_hears_of_its_request_exactly_once(pieces: list[bytes], error: Exception | None) -> None:
    _, heard = play(pieces, error)
    assert len([each for each in heard if each != "closed"]) == 1


@given(data=st.data(), message=st.sampled_from(MESSAGES), error=ERRORS)
def test_whatever_is_broken_in_an_answer_the_owner_hears_of_its_request_exactly_once(
    data: st.DataObject, message: bytes, error: Exception | None
) -> None:
    at = data.draw(st.integers(0, len(message) - 1))
    broken = message[:at] + data.draw(st.binary(max_size=3)) + message[at + data.draw(st.integers(0, 3)) :]
    _, heard = play(pieces_of(broken, data.draw(st.lists(st.integers(0), max_size=4))), error)
    assert len([each for each in heard if each != "closed"]) == 1


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        (OK, Response(200, b"Kevin")),
        (LAST, Response(200, b"Kevin")),
        (CHUNKED, Response(200, b"Kevin")),
        (INTERIM.replace(b"content-length: 9\r\n", b"") + OK, Response(200, b"Kevin")),
        (OK.replace(b"\r\n", b"\r\nX-Envoy-Upstream-Service-Time: 3\r\n", 1), Response(200, b"Kevin", from_upstream=True)),
        (OVERFLOW, Response(503, OVERFLOW_BODY, headers=((b"x-envoy-overloaded", b"true"),))),
        (UNTIL_CLOSE, Response(200, b"Kevin")),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_an_answer_is_read_alike_in_whatever_pieces_it_comes(message: bytes, wanted: Response, size: int) -> None:
    _, heard = play([message[at : at + size] for at in range(0, len(message), size)], None)
    assert heard[0] == wanted


def head_of(*lines: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 503 No", b"content-length: 0", b"server: envoy", *lines, b"", b""])


def test_only_the_lines_that_tell_why_a_request_failed_are_kept_and_of_a_hostile_answer_a_few_only() -> None:
    _, heard = play([head_of(b"Grpc-Status: 14", b"x-else: 1", *[b"grpc-message: %b" % (b"a" * 9000)] * 5)], None)
    assert heard[0] == Response(503, b"", headers=((b"grpc-status", b"14"), *[(b"grpc-message", b"a" * 256)] * 3))


def test_of_an_answer_to_head_the_length_tells_too() -> None:
    connection, listener, _ = busy_connection()
    connection.headless = True
    connection.data_received(head_of().replace(b"length: 0", b"length: 81"))
    assert listener.heard == [Response(503, b"", headers=((b"content-length", b"81"),))]


def test_a_connection_carries_one_request_after_the_other() -> None:
    connection, listener, line = busy_connection()
    for message in (OK, CHUNKED, INTERIM.replace(b"content-length: 9\r\n", b"") + OVERFLOW, LAST):
        assert connection.usable
        connection.data_received(message)
        if not line.ended:
            connection.send(b"GET /")
    assert [each.status for each in listener.heard if isinstance(each, Response)] == [200, 200, 503, 200]
    assert not connection.usable


def test_nothing_of_an_answer_is_left_over_for_the_next_one() -> None:
    connection, listener, _ = busy_connection()
    connection.data_received(OK.replace(b"\r\n", b"\r\nx-envoy-upstream-service-time: 3\r\n", 1))
    connection.send(b"GET /")
    connection.data_received(UNTIL_CLOSE)
    connection.connection_lost(None)
    assert listener.heard == [Response(200, b"Kevin", from_upstream=True), Response(200, b"Kevin")]


def test_an_aborted_connection_tells_its_owner_nothing_of_the_request() -> None:
    connection, listener, line = busy_connection()
    connection.abort()
    connection.connection_lost(None)
    assert listener.heard == ["closed"]
    assert line.ended


def test_the_cap_counts_each_answer_on_its_own() -> None:
    connection, listener, _ = busy_connection(max_bytes=len(OK))
    for _ in range(3):
        connection.data_received(OK)
        connection.send(b"GET /")
    connection.data_received(OK[:-5].replace(b"5", b"6") + b"Kevin!")
    assert listener.heard == [Response(200, b"Kevin")] * 3 + [Outcome.PROTOCOL]


@pytest.mark.anyio
async def test_fetch_gives_the_body_of_a_page() -> None:
    async with serving([receive, send(OK)]) as server:
        assert await fetch(*server.address, "/stats") == b"Kevin"
        await server.until(lambda: server.open == 0)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ([receive], r"^no answer from {where} within 0\.2 s$"),
        ([receive, send(OK[:20])], r"^no answer from {where} within 0\.2 s$"),
        ([receive, close], r"^no answer from {where}: the connection was closed or reset$"),
        ([receive, send(b"garbage\r\n\r\n")], r"^no answer from {where}: what came is no HTTP, cut off or more than 4,096 bytes$"),
        ([receive, send(OK[:-1]), close], r"^no answer from {where}: what came is no HTTP, cut off or more than 4,096 bytes$"),
        (
            [receive, send(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 5000), close],
            r"^no answer from {where}: what came is no HTTP, cut off or more than 4,096 bytes$",
        ),
        ([receive, send(b"HTTP/1.1 404 No\r\ncontent-length: 5\r\n\r\n\x1b[31m")], r"^{where} answered 404: b'\\x1b\[31m'$"),
    ],
    ids=["silence", "half a header", "closed", "garbage", "cut off", "too large", "404"],
)
async def test_a_page_that_does_not_come_is_an_error_that_says_why(script: list[Step], said: str) -> None:
    async with serving(script) as server:
        where = f"127.0.0.1:{server.address[1]}/stats"
        with pytest.raises(MeshError, match=said.format(where=where)):
            await fetch(*server.address, "/stats?filter=%5Ea", timeout_s=0.2 if "within" in said else 20.0, max_bytes=4096)
        await server.until(lambda: server.open == 0)


@pytest.mark.anyio
async def test_a_page_at_a_port_where_nobody_listens_is_an_error_that_says_so() -> None:
    with refusing() as address, pytest.raises(MeshError, match=rf"^cannot reach 127\.0\.0\.1:{address[1]}/stats: "):
        await fetch(*address, "/stats")


@pytest.mark.anyio
async def test_a_page_at_a_port_that_never_accepts_is_an_error_in_time() -> None:
    with mute() as address, pytest.raises(MeshError, match=r"within 0\.2 s$"):
        await fetch(*address, "/stats", timeout_s=0.2)
