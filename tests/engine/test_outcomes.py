"""Does everything that a server can do become exactly one outcome, and leave nothing behind?"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from typing import TYPE_CHECKING

import pytest

from loadgen.engine.wire import MAX_RESPONSE_BYTES
from loadgen.outcome import Outcome
from loadgen.pacing import Closed

from .driven_load import LAST, OK, driven, outcomes
from .scripted_server import Step, close, drip, finish, forever, receive, reset, send, send_in_pieces, serving, silence, wait

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

OVERFLOW_BODY = b"upstream connect error or disconnect/reset before headers. reset reason: overflow"
OVERFLOW = (
    b"HTTP/1.1 503 Service Unavailable\r\nx-envoy-overloaded: true\r\ncontent-length: 81\r\ncontent-type: text/plain\r\n"
    b"date: Mon, 05 Jan 2026 10:00:00 GMT\r\nserver: envoy\r\n\r\n" + OVERFLOW_BODY
)
AFTER_A_RETRY = b"upstream connect error or disconnect/reset before headers. retried and the latest reset reason: overflow"


CHUNKED_WITH_ALL = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n\r\n3;ext=1\r\nKev\r\n02\r\nin\r\n0\r\nx: y\r\n\r\n"


def response(status: bytes, body: bytes = b"", *headers: bytes) -> bytes:
    """Write a response with a length."""
    return b"\r\n".join([b"HTTP/1.1 " + status, *headers, b"content-length: %d" % len(body), b"", body])


SERVER_OVERFLOW = response(b"503 Service Unavailable", OVERFLOW_BODY, b"x-envoy-overloaded: true", b"x-envoy-upstream-service-time: 3")

# name, what the server does with the first connection, what becomes of the only request
ANSWERS: list[tuple[str, list[Step], Outcome]] = [
    ("the right body", [receive, send(OK)], Outcome.OK),
    ("the right body and white space", [receive, send(response(b"200 OK", b"Kevin\r\n"))], Outcome.OK),
    (
        "a chunked body",
        [receive, send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nKev\r\n2\r\nin\r\n0\r\n\r\n")],
        Outcome.OK,
    ),
    ("byte by byte", [receive, drip(OK, 0)], Outcome.OK),
    ("no length, ended by close", [receive, send(b"HTTP/1.1 200 OK\r\n\r\nKevin"), close], Outcome.OK),
    ("HTTP/1.0", [receive, send(b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nKevin")], Outcome.OK),
    ("connection: close", [receive, send(LAST), close], Outcome.OK),
    ("connection: close, but it stays open", [receive, send(LAST)], Outcome.OK),
    ("100 and 103 first", [receive, send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK)], Outcome.OK),
    (
        "1xx in pieces",
        [receive, send_in_pieces(b"HTTP/1.1 100 Con", b"tinue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink", b": </a>\r\n\r\n", OK)],
        Outcome.OK,
    ),
    ("1xx and half the answer", [receive, send_in_pieces(b"HTTP/1.1 100 Continue\r\n\r\n" + OK[:30], OK[30:])], Outcome.OK),
    ("many 1xx", [receive, send(b"HTTP/1.1 102 Processing\r\n\r\n" * 50 + OK)], Outcome.OK),
    ("a chunked body with extensions and trailers", [receive, send(CHUNKED_WITH_ALL)], Outcome.OK),
    ("a chunked body in pieces", [receive, drip(CHUNKED_WITH_ALL, 0)], Outcome.OK),
    ("connection: close before the length", [receive, send(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nKevin"), close], Outcome.OK),
    ("closed after the whole answer", [receive, send(OK), close], Outcome.OK),
    ("100 first, on its own", [receive, send(b"HTTP/1.1 100 Continue\r\n\r\n"), drip(OK, 0)], Outcome.OK),
    ("the largest body", [receive, send(response(b"500 No", b"a" * (MAX_RESPONSE_BYTES - 200)))], Outcome.HTTP_ERROR),
    ("another body", [receive, send(response(b"200 OK", b"Bob"))], Outcome.WRONG_BODY),
    ("an empty body", [receive, send(response(b"200 OK"))], Outcome.WRONG_BODY),
    ("no body at all", [receive, send(b"HTTP/1.1 204 No Content\r\n\r\n")], Outcome.HTTP_ERROR),
    (
        "304 with the length of what it does not send",
        [receive, send(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n")],
        Outcome.HTTP_ERROR,
    ),
    (
        "the longest header",
        [receive, send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx: %s\r\n\r\nKevin" % (b"a" * (MAX_RESPONSE_BYTES - 100)))],
        Outcome.OK,
    ),
    ("500", [receive, send(response(b"500 Internal Server Error", b"Kevin"))], Outcome.HTTP_ERROR),
    ("302", [receive, send(response(b"302 Found", b"", b"location: /"))], Outcome.HTTP_ERROR),
    ("429", [receive, send(response(b"429 Too Many Requests", b"local_rate_limited"))], Outcome.HTTP_ERROR),
    ("the app's own 503", [receive, send(response(b"503 Service Unavailable", b"busy"))], Outcome.UNAVAILABLE),
    (
        "maintenance",
        [receive, send(response(b"503 Service Unavailable", b"maintenance mode", b"x-envoy-overloaded: true"))],
        Outcome.UNAVAILABLE,
    ),
    ("no healthy upstream", [receive, send(response(b"503 Service Unavailable", b"no healthy upstream"))], Outcome.UNAVAILABLE),
    ("an overflow", [receive, send(OVERFLOW)], Outcome.OVERFLOW),
    ("an overflow after a retry", [receive, send(response(b"503 Service Unavailable", AFTER_A_RETRY))], Outcome.OVERFLOW),
    ("an overflow of the server's sidecar", [receive, send(SERVER_OVERFLOW)], Outcome.OVERFLOW),
]
BREAKS: list[tuple[str, list[Step], Outcome]] = [
    ("closed at once", [close], Outcome.RESET),
    ("closed before any byte", [receive, close], Outcome.RESET),
    ("closed after half a status line", [receive, send(b"HTTP/1.1 20"), close], Outcome.RESET),
    ("closed after half a header", [receive, send(b"HTTP/1.1 200 OK\r\ncontent-le"), close], Outcome.RESET),
    ("closed after a whole header line", [receive, send(b"HTTP/1.1 200 OK\r\n"), close], Outcome.RESET),
    ("broken in a header", [receive, send(b"HTTP/1.1 200 OK\r\ncontent-le"), reset], Outcome.RESET),
    ("broken in a chunk", [receive, send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nKe"), reset], Outcome.RESET),
    ("closed after an interim answer", [receive, send(b"HTTP/1.1 100 Continue\r\n\r\n"), close], Outcome.RESET),
    ("broken at once", [reset], Outcome.RESET),
    ("broken before any byte", [receive, reset], Outcome.RESET),
    ("broken in a body with a length", [receive, send(OK[:-2]), reset], Outcome.RESET),
    ("broken in a body without one", [receive, send(b"HTTP/1.1 200 OK\r\n\r\nKevin"), reset], Outcome.RESET),
    ("a body cut off", [receive, send(OK[:-2]), close], Outcome.PROTOCOL),
    ("no body where one is due", [receive, send(OK[:-5]), close], Outcome.PROTOCOL),
    ("chunks cut off", [receive, send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nKevin\r\n"), close], Outcome.PROTOCOL),
    ("a chunk of no size", [receive, send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n")], Outcome.PROTOCOL),
    ("garbage", [receive, send(b"\x16\x03\x01\x02\x00\x01\x00\xfc\x03\x03")], Outcome.PROTOCOL),
    ("garbage for a status", [receive, send(b"HTTP/1.1 OK 200\r\n\r\n")], Outcome.PROTOCOL),
    ("another protocol", [receive, send(b"SSH-2.0-OpenSSH_9.6\r\n")], Outcome.PROTOCOL),
    ("two status lines", [receive, send(b"HTTP/1.1 200 OK\r\n" + OK)], Outcome.PROTOCOL),
    ("two lengths", [receive, send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 3\r\n\r\nKevin")], Outcome.PROTOCOL),
    (
        "a length and chunks",
        [receive, send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n")],
        Outcome.PROTOCOL,
    ),
    ("a negative length", [receive, send(b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nKevin")], Outcome.PROTOCOL),
    ("101", [receive, send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")], Outcome.PROTOCOL),
    ("a body over the cap", [receive, send(response(b"200 OK", b"a" * MAX_RESPONSE_BYTES))], Outcome.PROTOCOL),
    ("a body that never ends", [receive, send(b"HTTP/1.1 200 OK\r\n\r\n"), forever(send(b"a" * 4096))], Outcome.PROTOCOL),
    (
        "a chunked body that never ends",
        [receive, send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"), forever(send(b"400\r\n" + b"a" * 1024 + b"\r\n"))],
        Outcome.PROTOCOL,
    ),
    (
        "a body over the cap in one chunk",
        [receive, send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n20000\r\n"), forever(send(b"a" * 4096))],
        Outcome.PROTOCOL,
    ),
    (
        "a header that never ends",
        [receive, send(b"HTTP/1.1 200 OK\r\n"), forever(send(b"x-more: " + b"a" * 1000 + b"\r\n"))],
        Outcome.PROTOCOL,
    ),
    ("an empty header without end", [receive, send(b"HTTP/1.1 200 OK\r\n"), forever(send(b"a" * 4096))], Outcome.PROTOCOL),
    ("garbage after an interim answer", [receive, send(b"HTTP/1.1 100 Continue\r\n\r\n" + b"Kevin\r\n\r\n")], Outcome.PROTOCOL),
    ("a status of HTTP/2", [receive, send(b"HTTP/2.0 200 OK\r\ncontent-length: 5\r\n\r\nKevin")], Outcome.PROTOCOL),
    ("an answer in the middle of another", [receive, send(OK[:-2] + OK)], Outcome.PROTOCOL),
    ("a header over the cap", [receive, send(b"HTTP/1.1 200 OK\r\nx: " + b"a" * MAX_RESPONSE_BYTES)], Outcome.PROTOCOL),
    ("more than one answer", [receive, send(OK + OK)], Outcome.PROTOCOL),
    ("bytes after the answer", [receive, send(OK + b"Kevin")], Outcome.PROTOCOL),
    ("bytes after connection: close", [receive, send(LAST + b"Kevin")], Outcome.PROTOCOL),
]
LATE: list[tuple[str, list[Step], Outcome]] = [
    ("no answer at all", [receive], Outcome.TIMEOUT),
    ("nothing is even read", [silence], Outcome.TIMEOUT),
    ("a header, then nothing", [receive, send(OK[:20])], Outcome.TIMEOUT),
    ("a header that drips", [receive, drip(OK, 0.05)], Outcome.TIMEOUT),
    ("a header that drips without end", [receive, send(b"HTTP/1.1 200 OK\r\n"), forever(drip(b"x: y\r\n", 0.005))], Outcome.TIMEOUT),
    (
        "chunks that drip",
        [receive, send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"), forever(drip(b"1\r\na\r\n", 0.005))],
        Outcome.TIMEOUT,
    ),
    ("a body that drips", [receive, send(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n"), drip(b"a" * 5000, 0.01)], Outcome.TIMEOUT),
    ("interim answers without end", [receive, forever(drip(b"HTTP/1.1 100 Continue\r\n\r\n", 0.002))], Outcome.TIMEOUT),
    ("no length, and it stays open", [receive, send(b"HTTP/1.1 200 OK\r\n\r\nKevin")], Outcome.TIMEOUT),
]


def table(rows: list[tuple[str, list[Step], Outcome]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("script", "wanted"), [row[1:] for row in rows], ids=[row[0] for row in rows])


async def becomes(script: list[Step], wanted: Outcome, timeout_s: float = 20.0) -> None:
    """Send one request to a server that plays the script, and see what becomes of it."""
    async with serving(script) as server:
        async with driven(server.address, timeout_s=timeout_s) as (load, answers):
            answers.stop_after = 1
            load.start()
            (answer,) = await answers.reach(1)
            assert answer.outcome is wanted
            assert outcomes(load.tally) == {wanted: 1}
            assert load.in_flight == 0
        await server.until(lambda: server.open == 0)
        assert server.connections == 1


@table(ANSWERS)
async def test_a_complete_answer_becomes_the_outcome_that_it_means(script: list[Step], wanted: Outcome) -> None:
    await becomes(script, wanted)


@table(BREAKS)
async def test_an_answer_that_breaks_off_or_is_no_http_becomes_an_outcome(script: list[Step], wanted: Outcome) -> None:
    await becomes(script, wanted)


@table(LATE)
async def test_an_answer_that_does_not_come_in_time_becomes_a_timeout(script: list[Step], wanted: Outcome) -> None:
    await becomes(script, wanted, timeout_s=0.2)


async def test_an_answer_over_the_cap_is_a_breach_of_protocol_after_an_interim_answer_too() -> None:
    await becomes([receive, send(b"HTTP/1.1 100 Continue\r\n\r\n" + response(b"200 OK", b"a" * MAX_RESPONSE_BYTES))], Outcome.PROTOCOL)


@pytest.mark.parametrize(("answer", "by_server"), [(OVERFLOW, 0), (SERVER_OVERFLOW, 1)])
async def test_only_an_overflow_without_a_service_time_was_made_by_the_own_sidecar(answer: bytes, by_server: int) -> None:
    async with serving([receive, send(answer)]) as server, driven(server.address) as (load, answers):
        answers.stop_after = 1
        load.start()
        await answers.reach(1)
        assert load.tally.server_overflow == by_server
        assert load.sidecar_overflow == 1 - by_server


@contextlib.contextmanager
def refusing() -> Iterator[tuple[str, int]]:
    """Give an address at which nobody listens, and at which nobody else can begin to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()


@contextlib.contextmanager
def mute() -> Iterator[tuple[str, int]]:
    """Give an address that neither accepts nor refuses: its queue is full, so the kernel drops what else wants to connect."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()


async def test_a_refused_connection_becomes_connect_and_the_system_s_error_is_counted_by_its_name() -> None:
    with refusing() as address:
        async with driven(address) as (load, answers):
            answers.stop_after = 3
            load.start()
            await answers.reach(3)
            assert outcomes(load.tally) == {Outcome.CONNECT: 3}
            assert load.total.connect_errors == {"ECONNREFUSED": 3}


async def test_a_name_that_nobody_has_becomes_connect_and_another_error() -> None:
    async with driven(("no-such-host.invalid", 80)) as (load, answers):
        answers.stop_after = 1
        load.start()
        await answers.reach(1)
        assert outcomes(load.tally) == {Outcome.CONNECT: 1}
        assert load.total.connect_errors == {"OTHER": 1}


async def test_a_connection_that_is_never_made_becomes_one_timeout_and_its_attempt_ends_too() -> None:
    with mute() as address:
        async with driven(address, timeout_s=0.2) as (load, answers):
            answers.stop_after = 3
            load.start()
            for answer in await answers.reach(3):
                assert answer.latency_s >= 0.2
            assert outcomes(load.tally) == {Outcome.TIMEOUT: 3}
            assert load.total.connect_errors == {}


async def test_an_abort_while_connecting_counts_nothing_and_sends_nothing() -> None:
    async with serving([silence]) as server:
        async with driven(server.address, Closed(3)) as (load, _):
            load.start()
            await asyncio.sleep(0)
            while not load.in_flight:  # noqa: ASYNC110  # the loop's next rounds, up to the one that fires the timer
                await asyncio.sleep(0)
        assert load.sent == 3
        await server.until(lambda: server.connections == 3 and server.open == 0)
        assert server.requests == 0


async def test_bytes_that_nobody_asked_for_end_the_idle_connection_and_no_request() -> None:
    nudge = asyncio.Event()
    scripts = ([receive, send(OK), wait(nudge), send(b"Kevin")], [receive, send(OK)])
    async with serving(*scripts) as server, driven(server.address) as (load, answers):
        answers.on_answer = load.hold
        answers.stop_after = 2
        load.start()
        await answers.reach(1)
        nudge.set()
        await server.until(lambda: server.open == 0)
        load.release()
        await answers.reach(2)
        assert outcomes(load.tally) == {Outcome.OK: 2}
        assert server.connections == 2


async def test_an_idle_connection_that_the_server_closes_is_replaced_without_a_failure() -> None:
    async with serving([receive, send(OK), finish], [receive, send(OK)]) as server, driven(server.address) as (load, answers):
        answers.on_answer = load.hold
        answers.stop_after = 2
        load.start()
        await answers.reach(1)
        await server.until(lambda: server.open == 0)
        assert load.idle == []
        load.release()
        await answers.reach(2)
        assert outcomes(load.tally) == {Outcome.OK: 2}
        assert server.connections == 2


@pytest.mark.parametrize("seed", range(6))
async def test_among_all_faults_at_once_every_request_ends_exactly_once(seed: int) -> None:
    rng = random.Random(seed)
    scripts = [[receive, send(OK), *rng.choice(ANSWERS + BREAKS + LATE)[1]] for _ in range(60)]
    async with serving(*scripts) as server:
        async with driven(server.address, Closed(5), timeout_s=0.05) as (load, answers):
            answers.on_answer = lambda: check(load.in_flight <= 5)
            load.start()
            await answers.reach(100)
        await server.until(lambda: server.open == 0)


def check(condition: bool) -> None:
    assert condition
