"""Does a load that reads its lanes itself count exactly what a load would that reads every byte through the event loop?"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import anyio
import pytest

from loadgen.engine.lanes import KNOWN_BYTES, Lane
from loadgen.engine.load import clock
from loadgen.engine.poller import READ_BYTES
from loadgen.outcome import Expected, Outcome, classify
from loadgen.pacing import Closed

from .driven_load import LAST, OK, DrivenLoad, outcomes, silently_driven
from .scripted_server import PATIENCE_S, Step, Visit, close, forever, receive, receive_body, reset, send, send_in_pieces, serving, wait
from .test_lanes import WRONG, parses, pause, reading
from .test_outcomes import CHUNKED_WITH_ALL, OVERFLOW, SERVER_OVERFLOW, response

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

pytestmark = pytest.mark.anyio
__all__ = ["parses"]

LONG = response(b"200 OK", b"Kevin" * 40_000)
JUST_TOO_LONG = response(b"200 OK", b"K" * READ_BYTES)
KINDS = [OK, OK, OK, WRONG, CHUNKED_WITH_ALL, OVERFLOW, OVERFLOW, SERVER_OVERFLOW, response(b"500 No", b"no"), LONG, JUST_TOO_LONG]


async def until(reached: Callable[[], bool]) -> None:
    """Wait for something that the load counts."""
    with anyio.fail_after(PATIENCE_S):
        while not reached():  # noqa: ASYNC110  # the hot path tells nobody
            await asyncio.sleep(0.001)


def ended(load: DrivenLoad, count: int) -> Callable[[], bool]:
    """Tell whether so many requests have ended."""
    return lambda: load.total.requests >= count


async def silence(visit: Visit) -> None:
    """Say nothing more, and leave the connection open."""
    await asyncio.Event().wait()


@contextlib.contextmanager
def one_connection() -> Iterator[tuple[tuple[str, int], Callable[[], Coroutine[None, None, None]]]]:
    """Listen, and accept one connection and no more; give the address, and what answers on that connection."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        listener.setblocking(False)

        async def answer() -> None:
            loop = asyncio.get_running_loop()
            taken, _ = await loop.sock_accept(listener)
            for _ in range(3):  # now nobody else gets into the queue
                waits = stack.enter_context(socket.socket())
                waits.setblocking(False)
                waits.connect_ex(listener.getsockname())
            with taken:
                while await loop.sock_recv(taken, 1 << 16):
                    await loop.sock_sendall(taken, OK)

        yield listener.getsockname(), answer


@pytest.mark.parametrize("seed", range(3))
async def test_it_counts_every_kind_of_answer_in_any_mixture_on_many_lanes(seed: int) -> None:
    rng = Random(seed)
    lanes, each = 8, 60
    scripts: list[list[Step]] = []
    wanted: Counter[Outcome] = Counter()
    statuses: Counter[int] = Counter()
    by_server = 0
    for _ in range(lanes):
        script: list[Step] = []
        for _ in range(each):
            message = rng.choice(KINDS)
            cut = rng.randrange(1, len(message))
            script += [receive, send(message) if rng.random() < 0.8 else send_in_pieces(message[:cut], message[cut:])]
            read = reading(message) if len(message) < KNOWN_BYTES else None
            wanted[classify(read, Expected(200, b"Kevin")) if read else Outcome.WRONG_BODY] += 1
            statuses[read.status if read else 200] += 1
            by_server += message == SERVER_OVERFLOW
        scripts.append([*script, receive, silence])
    async with serving(*scripts) as server, silently_driven(server.address, Closed(lanes), max_bytes=1 << 20) as load:
        await load.prepare()
        load.start()
        for moment in range(10):
            await until(ended(load, moment * lanes * each // 10))
            await load.begin_tally()
        await until(ended(load, lanes * each))
        await server.until(lambda: server.requests == lanes * (each + 1))
        total = load.total
        assert (outcomes(total), total.statuses, total.server_overflow) == (wanted, statuses, by_server)
        assert total.lag.count == load.sent == server.requests
        assert server.connections == lanes


async def test_answers_that_are_all_the_same_are_parsed_once(parses: list[bytes]) -> None:
    async with serving([forever(receive, send(OK))]) as server, silently_driven(server.address, Closed(4)) as load:
        await load.prepare()
        load.start()
        await until(ended(load, 500))
        assert len(parses) <= 4, "at most one for each lane that answered before the first was read"
        assert outcomes(load.total).keys() == {Outcome.OK}


async def test_a_request_that_is_never_answered_has_its_own_time_to_live_and_costs_no_other_lane_anything() -> None:
    timeout_s = 0.4
    steady = [forever(receive, send(OK), pause(0.01))]
    stuck = [*[receive, pause(0.02), send(OK)] * 25, receive, silence]
    async with serving(stuck, steady) as server, silently_driven(server.address, Closed(2), timeout_s=timeout_s) as load:
        await load.prepare()
        load.start()
        await until(lambda: load.total.outcomes[Outcome.TIMEOUT] > 0)
        assert load.total.latency[Outcome.TIMEOUT].max_s >= timeout_s
        assert load.total.outcomes[Outcome.OK] >= 25, "each of them had the whole time to live"


async def test_the_latency_of_each_request_runs_from_the_end_of_the_one_before() -> None:
    async with serving([forever(receive, pause(0.02), send(OK))]) as server, silently_driven(server.address, Closed(3)) as load:
        await load.prepare()
        started = clock()
        load.start()
        await until(ended(load, 30))
        load.stop()
        await until(lambda: not load.in_flight)
        latency = load.total.latency[Outcome.OK]
        assert latency.quantile(0.01) >= 0.018, "what the server takes, but for a tick of its timers and a bucket's width"
        assert latency.sum_s <= 3 * (clock() - started)


async def test_a_load_that_is_held_sends_nothing_more_and_goes_on_when_it_is_released() -> None:
    async with serving([forever(receive, send(OK))]) as server, silently_driven(server.address, Closed(4)) as load:
        await load.prepare()
        load.start()
        await until(ended(load, 100))
        load.hold()
        await until(lambda: not load.in_flight)
        held = load.sent
        assert held == server.requests == load.total.requests
        await asyncio.sleep(0.03)
        assert load.sent == held
        load.release()
        await until(ended(load, held + 100))
        assert outcomes(load.total).keys() == {Outcome.OK}


async def test_all_is_done_since_a_moment_only_when_what_was_sent_before_it_has_ended() -> None:
    gate = asyncio.Event()
    script = [*[receive, send(OK)] * 20, receive, wait(gate), send(OK), forever(receive, send(OK))]
    async with serving(script) as server, silently_driven(server.address) as load:
        await load.prepare()
        load.start()
        await server.until(lambda: server.requests == 21)
        await until(ended(load, 20))
        moment = clock()
        assert not await load.all_done_since(moment)
        gate.set()
        await until(ended(load, 21))
        assert await load.all_done_since(moment)


@pytest.mark.parametrize(
    ("last", "wanted"),
    [
        ([send(LAST), close], Outcome.OK),
        ([send(OK[:-1]), close], Outcome.PROTOCOL),
        ([close], Outcome.RESET),
        ([reset], Outcome.RESET),
        ([send(OK + OK)], Outcome.PROTOCOL),
        ([send(b"SSH-2.0-OpenSSH_9.6\r\n")], Outcome.PROTOCOL),
        ([send(response(b"200 OK", b"K" * 70_000))], Outcome.PROTOCOL),
    ],
    ids=["closed after it", "cut short", "closed", "reset", "two at once", "garbage", "beyond the cap"],
)
async def test_a_lane_that_ends_after_known_answers_ends_one_request_and_is_replaced(last: list[Step], wanted: Outcome) -> None:
    scripts = [*[receive, send(OK)] * 5, receive, *last], [forever(receive, send(OK), pause(0.001))]
    async with serving(*scripts) as server, silently_driven(server.address) as load:
        await load.prepare()
        load.start()
        await until(ended(load, 20))
        load.stop()
        await until(lambda: not load.in_flight)
        total = load.total
        assert outcomes(total) == {Outcome.OK: total.requests} | (
            {} if wanted is Outcome.OK else {Outcome.OK: total.requests - 1, wanted: 1}
        )
        assert (server.connections, server.requests) == (2, load.sent)


async def test_a_request_that_does_not_fit_into_the_socket_is_sent_to_the_last_byte_every_time() -> None:
    body = bytes(range(256)) * (1 << 14)
    request = b"POST /orders HTTP/1.1\r\nhost: user\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    script = [forever(receive, pause(0.01), receive_body(body), send(OK))]
    async with serving(script) as server, silently_driven(server.address, request=request) as load:
        await load.prepare()
        load.start()
        await until(ended(load, 6))
        assert outcomes(load.total) == {Outcome.OK: load.total.requests}
        assert all(received == body for received in server.bodies)
        assert server.connections == 1


@pytest.mark.parametrize("limit", [None, 12], ids=["poller", "event loop"])
async def test_a_connection_whose_request_was_answered_before_it_was_read_is_not_used_again(limit: int | None) -> None:
    body = b"x" * (8 << 20)  # more than the system's buffers hold
    request = b"POST / HTTP/1.1\r\nhost: user\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    async with serving([receive, send(OK), silence]) as server:
        with anyio.fail_after(PATIENCE_S):
            async with silently_driven(server.address, Closed(2), request=request, timeout_s=5.0, limit=limit) as load:
                await load.prepare()
                load.start()
                await until(ended(load, 12))
                load.stop()
                await until(lambda: not load.in_flight)
                assert outcomes(load.total) == {Outcome.OK: load.total.requests}
                assert server.requests == server.connections == load.sent


@pytest.mark.parametrize("limit", [None, 40], ids=["poller", "event loop"])
async def test_users_that_wait_for_a_connection_get_the_one_that_becomes_free(limit: int | None) -> None:
    with one_connection() as (address, answer):
        async with silently_driven(address, Closed(3), timeout_s=0.5, limit=limit) as load, anyio.create_task_group() as tasks:
            await load.lanes.open(1)
            tasks.start_soon(answer)
            load.start()
            await until(ended(load, 40))
            await asyncio.sleep(0.6)
            assert outcomes(load.total) == {Outcome.OK: load.total.requests}
            load.stop()
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("limit", [None, 1_000_000], ids=["poller", "event loop"])
async def test_a_connection_that_has_ended_gets_no_request_in_the_round_in_which_another_fails(limit: int | None) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with silently_driven(listener.getsockname(), limit=limit) as load:
            await load.lanes.open(2)
            both = [(await loop.sock_accept(listener))[0] for _ in range(2)]
            load.start()
            reading = {asyncio.create_task(loop.sock_recv(taken, 1 << 16)): taken for taken in both}
            (asked,), (silent,) = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
            silent.cancel()
            await asyncio.wait([silent])
            for _ in range(3):
                await loop.sock_sendall(reading[asked], OK)
                await loop.sock_recv(reading[asked], 1 << 16)
            reading[silent].close()  # from here on the loop does not run before both have ended
            reading[asked].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            reading[asked].close()
            taken, _ = await loop.sock_accept(listener)
            with taken:
                await loop.sock_recv(taken, 1 << 16)
                assert outcomes(load.total) == {Outcome.OK: 3, Outcome.RESET: 1}, "the request that was on the connection that was reset"


async def test_a_bug_in_one_lane_is_reported_and_costs_the_others_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving([forever(receive, send(OK))]) as server, silently_driven(server.address, Closed(4)) as load:
        await load.prepare()
        load.start()
        await until(ended(load, 20))
        reported: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context["message"]))
        take = Lane.data_received

        def fail_once(lane: Lane, data: bytes) -> None:
            monkeypatch.setattr(Lane, "data_received", take)
            raise RuntimeError("a bug")

        monkeypatch.setattr(Lane, "data_received", fail_once)
        await load.begin_tally()
        await until(ended(load, load.total.requests + 200))
        assert len(reported) == 1
        assert load.in_flight == 4
