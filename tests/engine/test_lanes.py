"""Do lanes that remember responses say exactly what lanes would say that read every byte, and does any request of HTTP/1.1 fit on them?"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
from collections import Counter, deque
from random import Random
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
import pytest

from loadgen.engine.lanes import CONNECTING_AT_ONCE, KNOWN_BYTES, KNOWN_RESPONSES, Lane
from loadgen.engine.load import clock
from loadgen.outcome import Answer, Expected, Outcome, Response, classify
from loadgen.pacing import Closed, Interval

from .driven_load import LAST, OK, REQUEST, DrivenLoad, Schedule, driven, outcomes, silently_driven
from .scripted_server import PATIENCE_S, Step, Visit, close, forever, receive, receive_body, send, send_in_pieces, serving, wait
from .test_load import most_attempts
from .test_outcomes import CHUNKED_WITH_ALL, OVERFLOW, SERVER_OVERFLOW, response
from .test_wire import Line, play

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from loadgen.pacing import Pacing

pytestmark = pytest.mark.anyio

WRONG = OK.replace(b"Kevin", b"Kevim")
DATED = b"HTTP/1.1 200 OK\r\ndate: Mon, 05 Jan 2026 10:00:%02d GMT\r\nx-envoy-upstream-service-time: %d\r\ncontent-length: 5\r\n\r\nKevin"


def reading(message: bytes) -> Response:
    """Read a response without remembering anything."""
    _, heard = play([message], None)
    assert isinstance(heard[0], Response)
    return heard[0]


def pause(seconds: float) -> Step:
    """Let time pass."""

    async def step(_visit: Visit) -> None:
        await asyncio.sleep(seconds)

    return step


# A lane without a network: what arrives, and in which pieces, is up to the test.


class Wire:
    """A load of one user on a lane whose other end is the test."""

    def __init__(self, load: DrivenLoad, lane: Lane, line: Line) -> None:
        self.load = load
        self.lane = lane
        self.line = line

    @property
    def requests(self) -> int:
        """How many requests were sent on the lane."""
        return self.line.written.count(REQUEST)

    def arrive(self, *pieces: bytes) -> dict[Outcome, int]:
        """Let pieces arrive; give what was counted."""
        before = Counter(self.load.tally.outcomes)
        for piece in pieces:
            self.lane.data_received(piece)
        return dict(Counter(self.load.tally.outcomes) - before)


@contextlib.asynccontextmanager
async def wired(**options: Any) -> AsyncIterator[Wire]:
    """Put a lane without a network under a load and send the first request."""
    async with silently_driven(("127.0.0.1", 1), **options) as load:
        line = Line()
        lane = Lane(load.lanes, load, load.lanes._shot)
        wire = Wire(load, lane, line)
        lane.connection_made(line)
        load.lanes._lanes.add(lane)
        load.lanes._idle[lane] = None
        load.start()
        assert line.written
        try:
            yield wire
        finally:
            load.stop()


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Write down what goes through the parser."""
    seen: list[bytes] = []
    parse = Lane.parse

    def note(lane: Lane, data: bytes) -> None:
        seen.append(data)
        parse(lane, data)

    monkeypatch.setattr(Lane, "parse", note)
    return seen


async def test_a_response_that_was_read_once_is_not_read_again_and_counts_all_the_same(parses: list[bytes]) -> None:
    async with wired() as wire:
        for _ in range(5):
            assert wire.arrive(OK) == {Outcome.OK: 1}
        assert parses == [OK]
        assert wire.requests == 6
        assert wire.load.total.statuses == {200: 5}
        assert wire.load.sent == 6


@pytest.mark.parametrize("message", [OK, CHUNKED_WITH_ALL, OVERFLOW, WRONG, response(b"500 No", b"no")])
async def test_a_response_means_the_same_wherever_it_is_split_and_whether_or_not_it_is_remembered(message: bytes) -> None:
    outcome = classify(reading(message), Expected(200, b"Kevin"))
    async with wired() as wire:
        for cut in range(1, len(message)):
            assert wire.arrive(message[:cut], message[cut:]) == {outcome: 1}, f"not remembered, split at {cut}"
        for cut in range(1, len(message)):
            assert wire.arrive(message) == {outcome: 1}
            assert wire.arrive(message[:cut], message[cut:]) == {outcome: 1}, f"remembered, split at {cut}"
        assert wire.requests == 1 + 3 * (len(message) - 1)
        assert not wire.line.ended


async def test_another_body_under_the_same_header_is_noticed_every_time() -> None:
    async with wired() as wire:
        for _ in range(3):
            assert wire.arrive(OK) == {Outcome.OK: 1}
            assert wire.arrive(WRONG) == {Outcome.WRONG_BODY: 1}


async def test_another_status_with_the_same_body_is_noticed_every_time() -> None:
    async with wired() as wire:
        for _ in range(3):
            assert wire.arrive(OK) == {Outcome.OK: 1}
            assert wire.arrive(OK.replace(b"200 OK", b"201 OK")) == {Outcome.HTTP_ERROR: 1}
        assert wire.load.total.statuses == {200: 3, 201: 3}


async def test_a_response_that_was_remembered_earlier_counts_in_the_tally_of_now(parses: list[bytes]) -> None:
    async with wired() as wire:
        wire.arrive(OK)
        wire.arrive(OK)
        for _ in range(3):
            ended = await wire.load.begin_tally()
            assert ended is not None
            assert outcomes(ended) == {Outcome.OK: 2}
            wire.arrive(OK)
            wire.arrive(OK)
            assert outcomes(wire.load.tally) == {Outcome.OK: 2}
        assert len(parses) == 4


async def test_overflows_of_the_own_and_of_the_server_s_sidecar_are_told_apart_every_time(parses: list[bytes]) -> None:
    async with wired() as wire:
        for number in range(1, 5):
            assert wire.arrive(OVERFLOW) == {Outcome.OVERFLOW: 1}
            assert wire.arrive(SERVER_OVERFLOW) == {Outcome.OVERFLOW: 1}
            assert (wire.load.sidecar_overflow, wire.load.tally.server_overflow) == (number, number)
        assert parses == [OVERFLOW, *[SERVER_OVERFLOW] * 4]


async def test_more_different_responses_than_are_remembered_all_count_in_bounded_memory() -> None:
    messages = [DATED % (number % 60, number) for number in range(3 * KNOWN_RESPONSES)]
    async with wired() as wire:
        for _ in range(2):
            for message in messages:
                assert wire.arrive(message) == {Outcome.OK: 1}
                assert wire.arrive(message) == {Outcome.OK: 1}
                assert len(wire.load.lanes._known) <= KNOWN_RESPONSES
        assert wire.load.total.outcomes[Outcome.OK] == 4 * len(messages)


async def test_a_long_response_is_read_every_time_and_not_kept(parses: list[bytes]) -> None:
    long = response(b"200 OK", b"Kevin" + b" " * KNOWN_BYTES)
    async with wired() as wire:
        for _ in range(3):
            assert wire.arrive(long) == {Outcome.OK: 1}
        assert len(parses) == 3
        assert not wire.load.lanes._known


@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.parametrize("more", [OK, b"K", b"\x00", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_whatever_follows_a_response_in_its_segment_makes_it_a_breach_of_protocol(more: bytes, *, remembered: bool) -> None:
    async with wired() as wire:
        if remembered:
            wire.arrive(OK)
        wire.load.stop()
        assert wire.arrive(OK + more) == {Outcome.PROTOCOL: 1}
        assert wire.line.ended
        assert not wire.load.lanes._lanes


@pytest.mark.parametrize("remembered", [False, True])
async def test_a_response_that_nobody_asked_for_ends_the_idle_lane_and_counts_nowhere(*, remembered: bool) -> None:
    async with wired() as wire:
        if remembered:
            wire.arrive(OK)
        wire.load.hold()
        wire.arrive(OK)
        assert wire.load.idle == [wire.lane]
        assert wire.arrive(OK) == {}
        assert wire.line.ended
        wire.lane.connection_lost(None)
        assert wire.load.idle == []


async def test_half_an_answer_that_came_with_an_interim_one_is_not_remembered_as_a_whole() -> None:
    async with wired() as wire:
        assert wire.arrive(b"HTTP/1.1 100 Continue\r\n\r\n" + OK[:30], OK[30:]) == {Outcome.OK: 1}
        assert wire.arrive(b"HTTP/1.1 100 Continue\r\n\r\n", OK) == {Outcome.OK: 1}
        wire.load.stop()
        assert wire.arrive(OK[30:]) == {Outcome.PROTOCOL: 1}


async def test_an_interim_answer_and_the_answer_in_one_segment_are_remembered_together(parses: list[bytes]) -> None:
    both = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK
    async with wired() as wire:
        for _ in range(3):
            assert wire.arrive(both) == {Outcome.OK: 1}
        assert parses == [both]


class EagerServer:
    """A loop on whose connections something has happened before anybody could send a request."""

    def __init__(self, load: DrivenLoad, happen: Callable[[Lane], None]) -> None:
        self.call_later = load._loop.call_later
        self.lines: list[Line] = []
        self._happen = happen
        load.lanes._loop = self  # type: ignore[assignment]  # the two methods that lanes use

    async def create_connection(self, factory: Callable[[], Lane], _host: str, _port: int) -> None:
        self.lines.append(Line())
        lane = factory()
        lane.connection_made(self.lines[-1])
        self._happen(lane)
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("happen", [lambda lane: lane.data_received(OK), lambda lane: lane.connection_lost(None)], ids=["speaks", "closes"])
async def test_a_connection_that_is_spent_before_the_request_was_sent_ends_the_request_at_once(happen: Callable[[Lane], None]) -> None:
    async with driven(("127.0.0.1", 1), Schedule([0.0]), timeout_s=0.2) as (load, answers):
        server = EagerServer(load, happen)
        load.start()
        (answer,) = await answers.reach(1)
        assert answer.outcome in {Outcome.RESET, Outcome.PROTOCOL}, "neither an answer nor a timeout"
        assert [line.written for line in server.lines] == [b""]


async def test_a_server_that_closes_every_connection_at_once_does_not_make_a_closed_load_spin() -> None:
    async with driven(("127.0.0.1", 1), Closed(3), timeout_s=0.2) as (load, answers):
        server = EagerServer(load, lambda lane: lane.connection_lost(None))
        started = clock()
        load.start()
        await answers.reach(6)
        assert len(server.lines) <= most_attempts(3, clock() - started)


@pytest.mark.parametrize("seed", range(4))
async def test_a_lane_that_remembers_counts_what_one_that_reads_everything_would_count(seed: int) -> None:
    rng = Random(seed)
    pool = [OK, WRONG, CHUNKED_WITH_ALL, OVERFLOW, SERVER_OVERFLOW, response(b"500 No", b"no"), response(b"503 No", b"busy")]
    pool += [DATED % (number, number) for number in range(KNOWN_RESPONSES)]
    expected = Expected(200, b"Kevin")
    wanted: Counter[Outcome] = Counter()
    statuses: Counter[int] = Counter()
    by_server = 0
    asked: list[Answer] = []
    async with wired() as wire:
        for _ in range(1500):
            message = rng.choice(pool[: rng.choice([3, 7, len(pool)])])
            cuts = sorted(rng.randrange(len(message)) for _ in range(rng.choice([0, 0, 0, 1, 3])))
            read = reading(message)
            outcome = classify(read, expected)
            if (ask := rng.random() < 0.05) is True:
                asked.clear()
                wire.load.ask(asked.append)
            if rng.random() < 0.02:
                await wire.load.begin_tally()
            if rng.random() < 0.05:
                wire.load.fold()
            wire.arrive(*(message[start:end] for start, end in itertools.pairwise([0, *cuts, len(message)]) if end > start))
            wanted[outcome] += 1
            statuses[read.status] += 1
            by_server += message == SERVER_OVERFLOW
            if ask:
                assert [(answer.outcome, answer.response) for answer in asked] == [(outcome, read)]
        total = wire.load.total
        assert (outcomes(total), total.statuses, total.server_overflow) == (wanted, statuses, by_server)
        assert wire.load.sidecar_overflow == total.sidecar_overflow
        assert wire.requests == wire.load.sent == 1501
        assert wire.load.in_flight == 1


async def test_who_asks_sees_one_answer_in_full_even_if_it_is_remembered() -> None:
    seen: list[Answer] = []
    async with wired() as wire:
        wire.arrive(OK)
        wire.arrive(OK)
        wire.load.ask(seen.append)
        for _ in range(3):
            wire.arrive(OK)
        ((client, outcome, read),) = [(answer.client, answer.outcome, answer.response) for answer in seen]
        assert (client, outcome, read) == ("client-1", Outcome.OK, Response(200, b"Kevin"))
        assert outcomes(wire.load.tally) == {Outcome.OK: 5}


async def test_a_remembered_response_ends_the_last_request_of_a_load_that_was_stopped() -> None:
    async with wired() as wire:
        wire.arrive(OK)
        wire.arrive(OK)
        wire.load.stop()
        assert not await wire.load.all_done_since(clock())
        assert wire.arrive(OK) == {Outcome.OK: 1}
        assert (wire.load.in_flight, wire.load.sent, wire.requests) == (0, 3, 3)
        assert await wire.load.all_done_since(clock())


async def test_all_is_done_since_a_moment_before_the_request_that_followed_a_remembered_response() -> None:
    async with wired() as wire:
        wire.arrive(OK)
        before = clock()
        assert not await wire.load.all_done_since(before)
        wire.arrive(OK)
        assert await wire.load.all_done_since(before)
        assert not await wire.load.all_done_since(clock())


async def test_the_latency_of_a_remembered_response_runs_from_its_own_request() -> None:
    async with wired() as wire:
        wire.arrive(OK)
        for _ in range(20):
            started = wire.lane.due
            wire.arrive(OK)
            assert started < wire.lane.due <= clock()
        latency = wire.load.tally.latency[Outcome.OK]
        assert latency.sum_s <= wire.lane.due - wire.load._start + 1e-8, "one after the other, never from the first on"


# How lanes are opened, on a network whose connections are made when the test says so.


class SlowNetwork:
    """A loop whose connections wait for ``make``, or end as ``refuse`` says, in the order in which they were asked for."""

    def __init__(self, load: DrivenLoad) -> None:
        self.call_later = load._loop.call_later
        self.asked: deque[tuple[Lane, asyncio.Future[None]]] = deque()
        self.lanes: list[tuple[Lane, Line]] = []
        load.lanes._loop = self  # type: ignore[assignment]  # the two methods that lanes use

    async def create_connection(self, factory: Callable[[], Lane], _host: str, _port: int) -> None:
        made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.asked.append((factory(), made))
        try:
            await made
        except asyncio.CancelledError:
            self.asked = deque(each for each in self.asked if each[1] is not made)
            raise

    async def make(self) -> Lane:
        """Make the connection that was asked for first."""
        lane, made = self.asked.popleft()
        line = Line()
        lane.connection_made(line)
        self.lanes.append((lane, line))
        made.set_result(None)
        await settled()
        return lane

    async def refuse(self) -> None:
        """Refuse the connection that was asked for first."""
        self.asked.popleft()[1].set_exception(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
        await settled()

    @property
    def requests(self) -> list[int]:
        """How many requests were sent on each connection."""
        return [line.written.count(REQUEST) for _, line in self.lanes]


@contextlib.asynccontextmanager
async def slowly_connected(pacing: Pacing, **options: Any) -> AsyncIterator[tuple[DrivenLoad, SlowNetwork]]:
    """Make a load on a slow network. At the end all attempts to connect end."""
    async with silently_driven(("127.0.0.1", 1), pacing, **options) as load:
        network = SlowNetwork(load)
        yield load, network
        load.abort()
        while network.asked:
            await network.refuse()


async def settled() -> None:
    """Let everything happen that waits for nothing but its turn."""
    for _ in range(10):
        await anyio.lowlevel.checkpoint()


async def test_a_request_that_waits_for_a_connection_is_sent_on_one_that_becomes_free_before() -> None:
    async with slowly_connected(Schedule([0.0, 0.0])) as (load, network):
        load.start()
        await settled()
        assert (len(network.asked), load.sent, load.in_flight) == (2, 2, 2)
        first = await network.make()
        assert network.requests == [1]
        first.data_received(OK)
        assert network.requests == [2]
        assert not await load.all_done_since(clock())
        first.data_received(OK)
        assert outcomes(load.tally) == {Outcome.OK: 2}
        assert await load.all_done_since(clock())
        assert load.in_flight == 0


async def test_a_request_that_waits_for_a_connection_is_in_flight() -> None:
    async with slowly_connected(Schedule([0.0])) as (load, network):
        before = clock()
        load.start()
        await settled()
        assert len(network.asked) == 1
        assert await load.all_done_since(before)
        assert not await load.all_done_since(clock())


async def test_a_refused_connection_ends_the_request_that_has_waited_longest_and_only_it() -> None:
    async with slowly_connected(Schedule([-2.0, -1.0, 0.0])) as (load, network):
        load.start()
        await settled()
        assert len(network.asked) == 3
        await network.refuse()
        assert outcomes(load.tally) == {Outcome.CONNECT: 1}
        assert load.tally.latency[Outcome.CONNECT].max_s >= 2.0
        (await network.make()).data_received(OK)
        assert network.requests == [2]
        assert load.tally.latency[Outcome.OK].max_s >= 1.0
        assert load.tally.connect_errors == {"ECONNREFUSED": 1}


async def test_so_many_connections_and_no_more_are_asked_for_at_once_and_all_requests_get_one() -> None:
    count = CONNECTING_AT_ONCE + 50
    async with slowly_connected(Schedule([0.0] * count)) as (load, network):
        load.start()
        for _ in range(count):
            await settled()
            assert len(network.asked) <= CONNECTING_AT_ONCE
            await network.make()
        assert network.requests == [1] * count
        assert not network.asked


async def test_no_more_connections_are_opened_than_there_are_users_however_slowly_they_come() -> None:
    async with slowly_connected(Closed(4)) as (load, network):
        load.start()
        await settled()
        for _ in range(4):
            await network.make()
            for lane, _line in network.lanes * 5:  # those who have a connection go on
                lane.data_received(OK)
                await settled()
        assert (len(network.lanes), len(network.asked)) == (4, 0)
        assert load.in_flight == 4


async def test_connections_that_were_opened_beforehand_are_all_that_a_closed_load_needs() -> None:
    async with slowly_connected(Closed(4)) as (load, network), anyio.create_task_group() as tasks:
        tasks.start_soon(load.prepare)
        await settled()
        for _ in range(4):
            await network.make()
        load.start()
        assert network.requests == [1, 1, 1, 1]
        assert not network.asked


async def test_requests_that_find_no_connection_in_time_time_out_one_by_one() -> None:
    async with driven(("127.0.0.1", 1), Schedule([0.0, 0.0, 0.06]), timeout_s=0.1) as (load, answers):
        network = SlowNetwork(load)
        load.start()
        for answer in await answers.reach(3):
            assert answer.outcome is Outcome.TIMEOUT
            assert answer.latency_s >= 0.1
        assert network.lanes == []


async def test_a_connection_that_is_made_when_nobody_waits_for_it_any_more_is_kept() -> None:
    async with slowly_connected(Schedule([0.0, 0.0])) as (load, network):
        load.start()
        await settled()
        first = await network.make()
        first.data_received(OK)
        first.data_received(OK)
        assert network.requests == [2]
        await network.make()
        assert len(load.idle) == 2


async def test_a_connection_that_is_made_at_the_moment_at_which_it_is_given_up_is_not_used() -> None:
    line = Line()

    async def create_connection(factory: Callable[[], Lane], _host: str, _port: int) -> None:
        factory().connection_made(line)
        try:
            await asyncio.sleep(PATIENCE_S)
        finally:
            line.close()  # as the loops do; uvloop does not even tell the protocol

    async with driven(("127.0.0.1", 1), Schedule([0.0, 0.09]), timeout_s=0.1) as (load, answers):
        network = SlowNetwork(load)
        network.create_connection = create_connection  # type: ignore[method-assign]
        load.start()
        assert [answer.outcome for answer in await answers.reach(2)] == [Outcome.TIMEOUT] * 2
        assert line.written == b""
        assert load.idle == []


async def test_an_abort_drops_a_connection_that_is_made_afterwards() -> None:
    async with slowly_connected(Schedule([0.0])) as (load, network):
        load.start()
        await settled()
        load.abort()
        await network.make()
        ((_, line),) = network.lanes
        assert (line.ended, line.written) == (True, b"")
        assert load.idle == []


# On a network.


async def test_the_time_to_live_of_a_request_that_follows_a_remembered_response_is_its_own() -> None:
    timeout_s = 0.4
    async with serving([*[receive, pause(0.02), send(OK)] * 25, receive]) as server:
        async with silently_driven(server.address, limit=26, timeout_s=timeout_s) as load:
            load.start()
            await load.wait_finished()
            assert outcomes(load.tally) == {Outcome.OK: 25, Outcome.TIMEOUT: 1}
            assert load.tally.latency[Outcome.TIMEOUT].max_s >= timeout_s
        await server.until(lambda: server.open == 0)


async def test_every_split_of_a_response_on_the_network_gives_the_same_outcome() -> None:
    steps: list[Step] = []
    for cut in range(1, len(OK)):
        steps += [receive, send_in_pieces(OK[:cut], OK[cut:])]
    async with serving(steps) as server, silently_driven(server.address, limit=len(OK) - 1) as load:
        load.start()
        await load.wait_finished()
        assert outcomes(load.tally) == {Outcome.OK: len(OK) - 1}
        assert server.connections == 1


async def test_a_response_that_ends_its_connection_is_not_remembered_and_each_request_gets_a_new_one() -> None:
    async with serving([receive, send(LAST), close]) as server, silently_driven(server.address, limit=5) as load:
        load.start()
        await load.wait_finished()
        assert outcomes(load.tally) == {Outcome.OK: 5}
        assert (server.connections, server.requests) == (5, 5)
        assert not load.lanes._known


async def test_another_body_on_another_connection_is_noticed_though_the_first_one_s_answer_is_remembered() -> None:
    scripts = [forever(receive, send(OK))], [forever(receive, send(WRONG))]
    async with serving(*scripts) as server, silently_driven(server.address, Closed(2), limit=200) as load:
        load.start()
        await load.wait_finished()
        counted = load.total.outcomes
        assert counted[Outcome.OK] + counted[Outcome.WRONG_BODY] == 200
        assert min(counted[Outcome.OK], counted[Outcome.WRONG_BODY]) > 0


async def test_an_answer_cut_off_by_the_end_of_its_connection_is_no_answer_though_it_was_remembered() -> None:
    async with serving([receive, send(OK), receive, send(OK), receive, send(OK[:-1]), close]) as server:
        async with silently_driven(server.address, limit=3) as load:
            load.start()
            await load.wait_finished()
            assert outcomes(load.tally) == {Outcome.OK: 2, Outcome.PROTOCOL: 1}
        assert server.connections == 1


# Requests of all kinds.


async def test_a_request_with_a_body_is_sent_to_the_last_byte_and_again_on_the_same_connection() -> None:
    body = bytes(range(256)) * 200
    request = b"POST /orders HTTP/1.1\r\nhost: user\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    script = [forever(receive, receive_body(body), send(OK))]
    async with serving(script) as server, silently_driven(server.address, limit=3, request=request) as load:
        load.start()
        await load.wait_finished()
        assert outcomes(load.tally) == {Outcome.OK: 3}
        assert server.bodies == [body] * 3
        assert server.connections == 1


async def test_an_answer_that_comes_before_the_body_was_taken_is_the_answer() -> None:
    body = b"a" * (8 << 20)
    request = b"POST / HTTP/1.1\r\nhost: user\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    too_large = b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    async with serving([receive, send(too_large)]) as server, silently_driven(server.address, limit=1, request=request) as load:
        load.start()
        await load.wait_finished()
        assert (outcomes(load.tally), load.total.statuses) == ({Outcome.HTTP_ERROR: 1}, {413: 1})


@pytest.mark.parametrize(
    ("expected", "answer", "wanted"),
    [
        (Expected(204, None), b"HTTP/1.1 204 No Content\r\n\r\n", Outcome.OK),
        (Expected(204, b""), b"HTTP/1.1 204 No Content\r\n\r\n", Outcome.OK),
        (Expected(304, None), b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", Outcome.OK),
        (Expected(404, b"no"), response(b"404 Not Found", b"no"), Outcome.OK),
        (Expected(404, b"no"), response(b"404 Not Found", b"yes"), Outcome.WRONG_BODY),
        (Expected(200, None), response(b"200 OK", b"whatever"), Outcome.OK),
        (Expected(503, b"down"), response(b"503 Service Unavailable", b"down"), Outcome.OK),
        (Expected(503, None), OVERFLOW, Outcome.OVERFLOW),
    ],
)
async def test_every_answer_is_compared_with_the_expected_status_and_body(expected: Expected, answer: bytes, wanted: Outcome) -> None:
    async with serving([forever(receive, send(answer))]) as server, silently_driven(server.address, limit=4, expected=expected) as load:
        load.start()
        await load.wait_finished()
        assert outcomes(load.tally) == {wanted: 4}
        assert server.connections == 1


# HEAD: an answer's header may speak of a body that does not come.

HEAD = b"HEAD / HTTP/1.1\r\nhost: user\r\n\r\n"
HEADLESS: dict[str, Any] = {"request": HEAD, "headless": True, "expected": Expected(200, None)}
BARE = b"HTTP/1.1 200 OK\r\nserver: envoy\r\n\r\n"
WITH_LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
WITH_CHUNKS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

HEADS: list[tuple[str, list[Step], dict[Outcome, int], int]] = [
    ("a length", [forever(receive, send(WITH_LENGTH))], {Outcome.OK: 3}, 1),
    ("no length", [forever(receive, send(BARE))], {Outcome.OK: 3}, 1),
    ("a length of 0", [forever(receive, send(response(b"200 OK")))], {Outcome.OK: 3}, 1),
    ("chunks", [forever(receive, send(WITH_CHUNKS))], {Outcome.OK: 3}, 1),
    ("each kind in turn", [receive, send(BARE), receive, send(WITH_LENGTH), receive, send(WITH_CHUNKS)], {Outcome.OK: 3}, 1),
    ("in two segments", [forever(receive, send_in_pieces(WITH_LENGTH[:30], WITH_LENGTH[30:]))], {Outcome.OK: 3}, 1),
    ("100 first", [forever(receive, send(b"HTTP/1.1 100 Continue\r\n\r\n" + WITH_LENGTH))], {Outcome.OK: 3}, 1),
    ("304", [forever(receive, send(b"HTTP/1.1 304 Not Modified\r\n\r\n"))], {Outcome.HTTP_ERROR: 3}, 1),
    ("503", [forever(receive, send(b"HTTP/1.1 503 No\r\ncontent-length: 81\r\n\r\n"))], {Outcome.UNAVAILABLE: 3}, 1),
    ("connection: close", [receive, send(WITH_LENGTH[:-2] + b"Connection: Close\r\n\r\n")], {Outcome.OK: 3}, 3),
    ("connection: keep-alive", [forever(receive, send(WITH_LENGTH[:-2] + b"connection: keep-alive\r\n\r\n"))], {Outcome.OK: 3}, 1),
    ("HTTP/1.0", [receive, send(WITH_LENGTH.replace(b"1.1", b"1.0"))], {Outcome.OK: 3}, 3),
    ("close after it", [receive, send(BARE), close], {Outcome.OK: 3}, 3),
    ("close in the header", [receive, send(WITH_LENGTH[:-2]), close], {Outcome.RESET: 3}, 3),
    ("a body all the same", [receive, send(OK)], {Outcome.PROTOCOL: 3}, 3),
    ("an empty answer twice", [receive, send(response(b"200 OK") * 2)], {Outcome.PROTOCOL: 3}, 3),
    ("101", [receive, send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")], {Outcome.PROTOCOL: 3}, 3),
]


@pytest.mark.parametrize(("script", "wanted", "connections"), [row[1:] for row in HEADS], ids=[row[0] for row in HEADS])
async def test_an_answer_to_head_ends_with_its_header(script: list[Step], wanted: dict[Outcome, int], connections: int) -> None:
    pacing = Closed(1, Interval(0.005))  # so that a connection that the server closes is not used once more before that is seen
    async with serving(script) as server:
        async with silently_driven(server.address, pacing, limit=3, **HEADLESS) as load:
            load.start()
            await load.wait_finished()
            assert outcomes(load.tally) == wanted
            assert (server.connections, server.requests) == (connections, 3)
        await server.until(lambda: server.open == 0)


async def test_an_answer_to_head_with_two_connection_headers_ends_its_connection_if_either_says_so() -> None:
    twice = WITH_LENGTH[:-2] + b"connection: close\r\nconnection: x-hop\r\n\r\n"
    async with serving([forever(receive, send(twice))]) as server, silently_driven(server.address, limit=3, **HEADLESS) as load:
        load.start()
        await load.wait_finished()
        assert outcomes(load.tally) == {Outcome.OK: 3}
        assert server.connections == 3


async def test_the_body_of_an_answer_to_head_that_comes_later_ends_the_idle_connection_and_no_request() -> None:
    gate = asyncio.Event()
    scripts = [receive, send(WITH_LENGTH), wait(gate), send(b"Kevin")], [receive, send(WITH_LENGTH)]
    async with serving(*scripts) as server, driven(server.address, **HEADLESS) as (load, answers):
        answers.on_answer = load.hold
        answers.stop_after = 2
        load.start()
        await answers.reach(1)
        gate.set()
        await server.until(lambda: server.open == 0)
        load.release()
        await answers.reach(2)
        assert outcomes(load.tally) == {Outcome.OK: 2}
        assert server.connections == 2


async def test_a_remembered_answer_to_head_is_remembered_as_one(parses: list[bytes]) -> None:
    async with wired(**HEADLESS) as wire:
        for _ in range(3):
            assert wire.arrive(WITH_LENGTH) == {Outcome.OK: 1}
        assert wire.arrive(BARE) == {Outcome.OK: 1}
        assert parses == [WITH_LENGTH, BARE]
        wire.load.stop()
        assert wire.arrive(WITH_LENGTH + b"Kevin") == {Outcome.PROTOCOL: 1}
