"""Does a client's load send what is due, when it is due, on as few connections as it needs, and count it where it ends?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen.engine.lanes import CONNECT_PAUSE_S, DEADLINE_TICK_S
from loadgen.engine.load import clock
from loadgen.engine.loop_lag import BEAT_S
from loadgen.outcome import Answer, Outcome
from loadgen.pacing import Burst, Closed, Interval, Open, Pacing, RateCourse
from loadgen.recorder import Tally, merged

from .driven_load import LAST, OK, DrivenLoad, Schedule, driven, outcomes, silently_driven
from .scripted_server import PATIENCE_S, Step, Visit, forever, receive, send, serving, wait
from .test_outcomes import OVERFLOW, refusing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.anyio

ALWAYS_OK = [forever(receive, send(OK))]


# Connections.


@pytest.mark.parametrize("users", [1, 3])
async def test_every_user_of_a_closed_load_keeps_one_connection(users: int) -> None:
    async with serving(ALWAYS_OK) as server, driven(server.address, Closed(users)) as (load, answers):
        load.start()
        await answers.reach(60)
        assert server.connections == users
        assert outcomes(load.tally).keys() == {Outcome.OK}


async def test_after_connection_close_the_next_request_opens_a_new_one() -> None:
    async with serving([receive, send(OK), receive, send(LAST)]) as server, driven(server.address) as (load, answers):
        answers.stop_after = 6
        load.start()
        await answers.reach(6)
        assert outcomes(load.tally) == {Outcome.OK: 6}
        assert server.connections == 3


async def test_a_timeout_costs_the_connection_and_nothing_else() -> None:
    async with serving([receive], ALWAYS_OK) as server:
        async with driven(server.address, timeout_s=1.0) as (load, answers):
            answers.stop_after = 2
            load.start()
            await answers.reach(2)
            assert outcomes(load.tally) == {Outcome.TIMEOUT: 1, Outcome.OK: 1}
            await server.until(lambda: server.open == 1)
        await server.until(lambda: server.open == 0)


async def test_a_connection_that_has_just_been_closed_by_the_server_is_not_used_again() -> None:
    async with serving(ALWAYS_OK) as server, driven(server.address) as (load, answers):
        answers.on_answer = load.hold
        answers.stop_after = 2
        load.start()
        await answers.reach(1)
        load.idle[0].eof_received()  # the end has arrived, and its consequences wait for the loop's next round
        load.release()
        await answers.reach(2)
        assert server.connections == 2
        load.idle[0].abort()


# Who sends when.


async def test_a_closed_load_never_has_more_requests_in_flight_than_users() -> None:
    gate = asyncio.Event()
    async with serving([receive, wait(gate), forever(send(OK), receive)]) as server, driven(server.address, Closed(4)) as (load, answers):
        load.start()
        await server.until(lambda: server.requests == 4)
        assert load.in_flight == load.sent == 4
        gate.set()
        await answers.reach(200)
        assert server.peak == 4
        assert load.in_flight <= 4


async def test_a_user_thinks_before_it_sends_again() -> None:
    think_s = 0.03
    received: list[float] = []
    answered: list[float] = []

    def note(times: list[float]) -> Step:
        async def step(_visit: Visit) -> None:
            times.append(clock())

        return step

    script = [forever(receive, note(received), note(answered), send(OK))]
    async with serving(script) as server, driven(server.address, Closed(1, Interval(think_s))) as (load, answers):
        load.start()
        await answers.reach(6)
        pauses = [later - earlier for earlier, later in zip(answered, received[1:], strict=False)]
        assert min(pauses[:5]) >= think_s


async def test_arrivals_of_an_open_load_go_on_while_answers_hang_and_what_is_too_much_counts_as_unsent() -> None:
    schedule = Schedule([0.002 * number for number in range(10)])
    gate = asyncio.Event()
    async with serving([receive, wait(gate), send(OK)]) as server, driven(server.address, schedule, max_in_flight=3) as (load, answers):
        load.start()
        await schedule.all_due.wait()
        await server.until(lambda: server.requests == 3)
        assert load.in_flight == load.sent == 3
        assert outcomes(load.tally) == {Outcome.UNSENT: 7}
        gate.set()
        await answers.reach(3)
        assert outcomes(load.tally) == {Outcome.UNSENT: 7, Outcome.OK: 3}
        assert server.peak == 3


async def test_a_late_sender_does_not_slow_an_open_load_down() -> None:
    async with serving(ALWAYS_OK) as server, driven(server.address, Open(RateCourse(100))) as (load, answers):
        load.start()
        time.sleep(0.2)  # noqa: ASYNC251  # nobody else gets a turn meanwhile: this is what makes a sender late
        await answers.reach(1)
        assert load.sent >= 19
        assert load.tally.lag.max_s >= 0.15


async def test_latency_is_counted_from_the_moment_a_request_was_due() -> None:
    async with serving([receive, send(OK)]) as server, driven(server.address, Schedule([-30.0])) as (load, answers):
        load.start()
        (answer,) = await answers.reach(1)
        assert answer.outcome is Outcome.OK
        assert answer.latency_s >= 30.0
        assert load.tally.latency[Outcome.OK].max_s == answer.latency_s
        assert 30.0 <= load.tally.lag.max_s <= answer.latency_s


async def test_the_time_to_live_runs_from_the_moment_a_request_was_sent() -> None:
    gate = asyncio.Event()
    async with (
        serving([receive, wait(gate), send(OK)]) as server,
        driven(server.address, Schedule([-30.0]), timeout_s=15.0) as (load, answers),
    ):
        load.start()
        await server.until(lambda: server.requests == 1)
        await asyncio.sleep(5 * DEADLINE_TICK_S)
        gate.set()
        (answer,) = await answers.reach(1)
        assert answer.outcome is Outcome.OK


# Hold and release.


async def test_nothing_is_sent_while_held_and_what_was_due_is_sent_afterwards() -> None:
    schedule = Schedule([0.01, 0.011, 0.012])
    async with (
        serving(ALWAYS_OK) as held_server,
        serving(ALWAYS_OK) as server,
        driven(held_server.address, schedule) as (held, held_answers),
        driven(server.address, Schedule([0.05])) as (load, answers),
    ):
        held.start()
        held.hold()
        load.start()
        await answers.reach(1)
        assert (held.sent, held_server.connections) == (0, 0)
        released = clock()
        held.release()
        seen = await held_answers.reach(3)
        assert outcomes(held.tally) == {Outcome.OK: 3}
        since = clock() - released
        assert held.tally.lag.max_s <= since, "the time that it was held back is no lateness of its own"
        assert max(answer.latency_s for answer in seen) <= since


async def test_a_load_that_is_held_before_it_starts_sends_nothing_until_it_is_released() -> None:
    async with serving(ALWAYS_OK) as server, driven(server.address, Schedule([0.0, 0.01])) as (load, answers):
        load.hold()
        load.start()
        await asyncio.sleep(0.03)
        assert (load.sent, server.connections) == (0, 0)
        released = clock()
        load.release()
        seen = await answers.reach(2)
        assert max(answer.latency_s for answer in seen) <= clock() - released


async def test_answers_that_come_while_held_count_and_lead_to_no_new_request() -> None:
    gate = asyncio.Event()
    async with serving([receive, wait(gate), send(OK), *ALWAYS_OK]) as server, driven(server.address, Closed(3)) as (load, answers):
        load.start()
        await server.until(lambda: server.requests == 3)
        load.hold()
        gate.set()
        await answers.reach(3)
        assert (load.sent, load.in_flight) == (3, 0)
        load.release()
        await answers.reach(30)
        assert server.peak == 3


async def test_all_are_done_since_a_moment_once_what_was_sent_until_then_has_ended() -> None:
    first, second = asyncio.Event(), asyncio.Event()
    scripts = ([receive, wait(first), send(OK)], [receive, wait(second), send(OK)])
    async with serving(*scripts) as server, driven(server.address, Schedule([0.0, 0.02])) as (load, answers):
        before = clock()
        load.start()
        await server.until(lambda: server.requests == 1)
        between = load._start + 0.02 - 1e-6  # the second request cannot have been sent before it was due
        await server.until(lambda: server.requests == 2)
        after = clock()
        assert [await load.all_done_since(moment) for moment in (before, between, after)] == [True, False, False]
        first.set()
        await answers.reach(1)
        assert [await load.all_done_since(moment) for moment in (before, between, after)] == [True, True, False]
        second.set()
        await answers.reach(2)
        assert await load.all_done_since(clock())


async def test_a_request_that_ends_before_an_earlier_one_does_not_make_all_done() -> None:
    first, second = asyncio.Event(), asyncio.Event()
    scripts = ([receive, wait(first), send(OK)], [receive, wait(second), send(OK)])
    async with serving(*scripts) as server, driven(server.address, Schedule([0.0, 0.0])) as (load, answers):
        load.start()
        await server.until(lambda: server.requests == 2)
        second.set()
        await answers.reach(1)
        assert not await load.all_done_since(clock())
        first.set()
        await answers.reach(2)
        assert await load.all_done_since(clock())


async def test_what_was_sent_later_does_not_matter_to_all_done_since() -> None:
    async with serving([receive, send(OK), receive]) as server, driven(server.address) as (load, answers):
        started = clock()
        answers.on_answer = lambda: answered.append(clock())
        answered: list[float] = []
        load.start()
        await answers.reach(1)
        await server.until(lambda: server.requests == 2)
        assert await load.all_done_since(started)
        assert not await load.all_done_since(clock())


# A load that ends by itself.


@pytest.mark.parametrize(
    "pacing",
    [Closed(3), Closed(3, Interval(0.001)), Open(RateCourse(2000)), Open(RateCourse(2000), poisson=True), Burst(4, 0.001), Burst(40, 0.0)],
    ids=["closed", "thinking", "open", "poisson", "burst", "a burst larger than the limit"],
)
async def test_a_limited_load_sends_exactly_so_many_requests_and_then_is_finished(pacing: Pacing) -> None:
    async with serving(ALWAYS_OK) as server:
        async with silently_driven(server.address, pacing, limit=30) as load:
            load.start()
            await load.wait_finished()
            assert (load.sent, load.in_flight) == (30, 0)
            assert outcomes(load.tally) == {Outcome.OK: 30}
            assert server.requests == 30
            await asyncio.sleep(0.02)
            assert (load.sent, server.requests) == (30, 30)
        await server.until(lambda: server.open == 0)


async def test_a_limited_load_is_not_finished_before_its_last_answer() -> None:
    gate = asyncio.Event()
    async with serving([receive, wait(gate), send(OK)]) as server, silently_driven(server.address, Closed(5), limit=3) as load:
        load.start()
        await server.until(lambda: server.requests == 3)
        with anyio.move_on_after(0.03) as impatience:
            await load.wait_finished()
        assert impatience.cancelled_caught
        assert (load.sent, load.in_flight) == (3, 3)
        gate.set()
        await load.wait_finished()
        assert outcomes(load.tally) == {Outcome.OK: 3}


async def test_failures_count_towards_the_limit_too() -> None:
    with refusing() as address:
        async with silently_driven(address, Closed(2), limit=4) as load:
            load.start()
            await load.wait_finished()
            assert outcomes(load.tally) == {Outcome.CONNECT: 4}


# Bursts.


async def test_a_burst_finds_its_connections_open_and_all_its_requests_arrive_together() -> None:
    gate = asyncio.Event()
    async with serving([forever(receive, wait(gate), send(OK))]) as server, driven(server.address, Burst(50, 0.01)) as (load, answers):
        await load.prepare()
        await server.until(lambda: server.connections == 50)
        assert (load.sent, server.requests) == (0, 0)
        load.start()
        assert (load.sent, load.in_flight) == (50, 50), "at once, not one after the other"
        await server.until(lambda: server.requests == 50)
        assert server.peak == 50
        gate.set()
        await answers.reach(50)
        assert load.total.lag.max_s < load.total.latency[Outcome.OK].max_s
        await answers.reach(200)
        assert server.connections == 50
        assert server.peak == 50


async def test_the_next_burst_waits_for_the_last_answer_of_the_one_before() -> None:
    last = asyncio.Event()
    scripts = [receive, wait(last), forever(send(OK), receive)], [forever(receive, send(OK))]
    async with serving(*scripts) as server, driven(server.address, Burst(5, 0.0)) as (load, answers):
        load.start()
        await answers.reach(4)
        await asyncio.sleep(0.02)
        assert (load.sent, load.in_flight) == (5, 1)
        last.set()
        await answers.reach(20)
        assert server.peak <= 5


async def test_preparing_again_opens_only_what_is_missing() -> None:
    async with serving(ALWAYS_OK) as server, driven(server.address, Burst(5, 0.0)) as (load, _):
        await load.prepare()
        await load.prepare()
        await server.until(lambda: server.connections == 5)
        assert len(load.idle) == 5


async def test_connections_that_could_not_be_opened_beforehand_are_tried_again_by_their_requests() -> None:
    with refusing() as address:
        async with silently_driven(address, Burst(3, 10.0)) as load:
            await load.prepare()
            assert (load.idle, outcomes(load.tally)) == ([], {}), "nothing was sent, so nothing failed"
            load.start()
            await drained(load)
            assert outcomes(load.tally) == {Outcome.CONNECT: 3}


@pytest.mark.parametrize(("answer", "let_through"), [(OK, 5), (OVERFLOW, 0)])
async def test_of_each_burst_it_is_counted_how_many_were_let_through(answer: bytes, let_through: int) -> None:
    async with serving([forever(receive, send(answer))]) as server, silently_driven(server.address, Burst(5, 0.001)) as load:
        load.start()
        await server.until(lambda: server.requests >= 22)
        assert load.tally.bursts.keys() == {let_through}
        assert load.tally.bursts[let_through] >= 3
        assert Tally.from_snapshot(load.tally.snapshot()).bursts == load.tally.bursts


async def test_a_burst_that_began_in_an_earlier_tally_is_in_none() -> None:
    gate = asyncio.Event()
    async with (
        serving([receive, wait(gate), send(OK), *ALWAYS_OK]) as server,
        silently_driven(server.address, Burst(3, 0.001)) as load,
    ):
        load.start()
        await server.until(lambda: server.requests >= 3)
        first = await load.begin_tally()
        gate.set()
        await server.until(lambda: server.requests >= 10)
        assert first is not None
        assert not first.bursts
        assert load.tally.bursts.keys() == {3}
        assert load.tally.requests >= 3 * (load.tally.bursts.total() + 1), "the one that was cut is in none"
        assert (first.cut_bursts, load.tally.cut_bursts) == (1, 1)
        assert merged([first, Tally.from_snapshot(load.tally.snapshot())]).cut_bursts == 2


async def test_more_than_may_be_in_flight_counts_as_unsent_and_the_next_burst_comes_all_the_same() -> None:
    async with serving(ALWAYS_OK) as server, silently_driven(server.address, Burst(10, 0.001), max_in_flight=4, limit=30) as load:
        load.start()
        await load.wait_finished()
        assert outcomes(load.tally) == {Outcome.OK: 12, Outcome.UNSENT: 18}
        assert (load.sent, server.requests) == (12, 12)
        assert server.peak <= 4


async def test_an_abort_while_connections_are_being_opened_leaves_none() -> None:
    async with serving(ALWAYS_OK) as server, silently_driven(server.address, Burst(20, 0.0)) as load:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load.prepare)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            load.abort()
        assert load.idle == []
        await server.until(lambda: server.connections == 20 and server.open == 0)


# What the owner sees.


async def test_one_who_asks_is_told_exactly_one_answer() -> None:
    seen: list[Answer] = []
    async with serving(ALWAYS_OK) as server, silently_driven(server.address, Closed(3), limit=200) as load:
        load.ask(seen.append)
        load.start()
        await load.wait_finished()
        ((client, outcome, body),) = [(answer.client, answer.outcome, answer.response and answer.response.body) for answer in seen]
        assert (client, outcome, body) == ("client-1", Outcome.OK, b"Kevin")


async def test_a_listener_that_fails_costs_the_load_nothing_and_is_reported() -> None:
    def fail(_answer: Answer) -> None:
        raise LookupError("a bug of the listener's")

    reported: list[dict[str, Any]] = []
    async with serving(ALWAYS_OK) as server, silently_driven(server.address, limit=20) as load:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
        load.ask(fail)
        load.start()
        await load.wait_finished()
        assert outcomes(load.tally) == {Outcome.OK: 20}
    assert [str(context["exception"]) for context in reported] == ["a bug of the listener's"]


async def test_a_new_tally_begins_only_if_no_overflow_was_seen_since_the_owner_looked() -> None:
    gate = asyncio.Event()
    script = [receive, send(OVERFLOW), receive, wait(gate), send(OVERFLOW)]
    async with serving(script) as server, driven(server.address) as (load, answers):
        answers.stop_after = 2
        load.start()
        await answers.reach(1)
        before = (await load.look()).sidecar_overflow
        assert before == 1
        gate.set()
        await answers.reach(2)
        assert await load.begin_tally(if_overflow=before) is None
        assert outcomes(load.tally) == {Outcome.OVERFLOW: 2}, "nothing has changed"
        ended = await load.begin_tally(if_overflow=2)
        assert ended is not None
        assert (outcomes(ended), outcomes(load.tally)) == ({Outcome.OVERFLOW: 2}, {})
        assert load.sidecar_overflow == 2, "since the start, whatever tally they are in"
        assert await load.begin_tally(if_overflow=2) is not None


async def test_what_a_load_has_seen_is_what_it_has_counted() -> None:
    gate = asyncio.Event()
    async with serving([receive, send(OK), receive, send(OVERFLOW), receive, wait(gate)]) as server, driven(server.address) as (load, _):
        load.start()
        await server.until(lambda: server.requests == 3)
        sight = await load.look()
        assert {outcome: count for outcome, count in sight.outcomes.items() if count} == {Outcome.OK: 1, Outcome.OVERFLOW: 1}
        assert (sight.sidecar_overflow, sight.in_flight, sight.pid) == (1, 1, os.getpid())
        assert 0 < sight.cpu_s <= time.process_time() + 0.1
        assert outcomes(await load.snapshot()) == {Outcome.OK: 1, Outcome.OVERFLOW: 1}


async def test_what_waits_to_be_put_into_buckets_is_put_there_now_and_then_though_nobody_reads_it() -> None:
    async with serving(ALWAYS_OK) as server, silently_driven(server.address, Closed(2), limit=100) as load:
        waiting = load.tally.waiting(Outcome.OK, 200).singles
        load.start()
        await load.wait_finished()
        finished = clock()
        while load._beat.due - BEAT_S <= finished:  # noqa: ASYNC110  # the fold after the last answer
            await asyncio.sleep(0.005)
        assert waiting == []
        assert load.tally.lag.waiting.singles == []
        assert load.tally.latency[Outcome.OK].count == load.tally.lag.count == 100


async def test_a_load_that_is_to_last_so_long_sends_what_is_due_in_that_time_and_not_one_more() -> None:
    async with serving(ALWAYS_OK) as server, silently_driven(server.address, Open(RateCourse(1000))) as load:
        await load.prepare()
        started = clock()
        load.start(for_s=0.25)
        while not load._stopped:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.001)
        assert clock() - started >= 0.25
        await drained(load)
        assert load.sent == server.requests == 250


async def test_requests_that_an_answer_makes_due_count_as_not_late_if_they_are_sent_at_once() -> None:
    async with serving(ALWAYS_OK) as server, silently_driven(server.address, Closed(1), limit=50) as load:
        load.start()
        await server.until(lambda: server.requests >= 50)
        load.stop()
        await drained(load)
        lag = load.total.lag
        assert lag.count == load.sent
        assert lag.quantile(0.9) == 0.0


async def test_between_an_answer_and_the_request_that_follows_lies_a_lag_that_is_measured() -> None:
    async with serving(ALWAYS_OK) as server, silently_driven(server.address, Closed(4)) as load:
        load.start()
        await server.until(lambda: server.requests >= 200)
        load.stop()
        await drained(load)
        lag = load.total.lag
        assert lag.count == load.sent
        assert lag.quantile(0.9) > 0.0


async def test_each_request_of_a_schedule_counts_once_as_late_or_not_across_tallies() -> None:
    async with serving(ALWAYS_OK) as server, silently_driven(server.address, Closed(2), limit=300) as load:
        load.start()
        while load.sent < 300:
            await asyncio.sleep(0.001)
            await load.begin_tally()
            load.fold()
        await load.wait_finished()
        assert load.total.lag.count == load.total.requests == 300
        assert min(tally.lag.count for tally in load.ended_tallies) >= 0


async def test_an_abort_does_not_make_what_was_sent_unsent() -> None:
    gate = asyncio.Event()
    async with serving([receive, wait(gate)]) as server, silently_driven(server.address, Closed(3)) as load:
        load.start()
        await server.until(lambda: server.requests == 3)
        load.abort()
        assert load.sent == 3
        assert (await load.snapshot()).lag.count == 3
        load.abort()
        assert load.sent == 3


# The end.


async def test_after_stop_what_is_in_flight_ends_and_nothing_new_begins() -> None:
    gate = asyncio.Event()
    async with serving([receive, wait(gate), send(OK)]) as server:
        async with driven(server.address, Closed(3)) as (load, answers):
            load.start()
            await server.until(lambda: server.requests == 3)
            load.stop()
            gate.set()
            await answers.reach(3)
            assert outcomes(load.tally) == {Outcome.OK: 3}
            assert (load.sent, load.in_flight, server.requests) == (3, 0, 3)
        await server.until(lambda: server.open == 0)


async def test_after_stop_what_is_not_answered_still_ends_at_its_deadline() -> None:
    async with serving([receive]) as server, driven(server.address, Closed(2), timeout_s=0.2) as (load, answers):
        load.start()
        await server.until(lambda: server.requests == 2)
        load.stop()
        await answers.reach(2)
        assert outcomes(load.tally) == {Outcome.TIMEOUT: 2}
        assert await load.all_done_since(clock())


async def test_abort_drops_what_is_in_flight_and_counts_it_nowhere() -> None:
    gate = asyncio.Event()
    async with serving([receive, wait(gate), send(OK)]) as server:
        async with driven(server.address, Closed(3)) as (load, answers):
            load.start()
            await server.until(lambda: server.requests == 3)
        gate.set()
        await server.until(lambda: server.open == 0)
        assert (load.sent, load.in_flight) == (3, 0)
        assert outcomes(load.tally) == {}
        assert answers.seen == []


async def test_a_load_that_is_aborted_before_it_starts_sends_nothing() -> None:
    async with serving(ALWAYS_OK) as server, driven(server.address) as (load, _):
        load.abort()
        load.start()
        await asyncio.sleep(0.02)
        assert (load.sent, server.connections) == (0, 0)


async def drained(load: DrivenLoad) -> None:
    """Wait until nothing is in flight."""
    with anyio.fail_after(PATIENCE_S):
        while not await load.all_done_since(clock()):  # noqa: ASYNC110  # the hot path signals nothing
            await asyncio.sleep(0.002)


async def test_a_stopped_load_cannot_be_released_into_sending() -> None:
    async with serving(ALWAYS_OK) as server, driven(server.address) as (load, answers):
        answers.on_answer = load.hold
        load.start()
        await answers.reach(1)
        load.stop()
        load.release()
        await asyncio.sleep(0.02)
        assert load.sent == 1


async def test_a_request_counts_in_the_tally_that_is_open_when_it_ends() -> None:
    gate = asyncio.Event()
    async with serving([receive, send(OK), receive, wait(gate), send(OK), receive]) as server, driven(server.address) as (load, answers):
        load.start()
        await server.until(lambda: server.requests == 2)
        earlier = await load.begin_tally()
        assert earlier is not None
        gate.set()
        await answers.reach(2)
        assert load.tally is not earlier
        assert outcomes(earlier) == outcomes(load.tally) == {Outcome.OK: 1}


# Users that come and go.


@pytest.mark.parametrize("think", [Interval(), Interval(0.001)], ids=["without a pause", "thinking"])
async def test_users_join_and_leave_and_each_that_is_there_has_a_request_on_its_way_or_thinks(think: Interval) -> None:
    async with serving(ALWAYS_OK) as server, driven(server.address, Closed(0, think)) as (load, answers):
        load.start()
        await asyncio.sleep(0.02)
        assert load.sent == 0, "nobody is there"
        load.join(3)
        await answers.reach(30)
        load.leave(2)
        await until(lambda: load.in_flight <= 1)
        seen = load.sent
        await answers.reach(seen + 10)
        assert load.in_flight <= 1
        load.leave(1)
        await until(lambda: load.in_flight == 0)
        last = load.sent
        await asyncio.sleep(0.02)
        assert load.sent == last
        load.join(1)
        await answers.reach(last + 5)


async def test_a_user_that_joins_while_another_is_about_to_leave_takes_its_place() -> None:
    gate = asyncio.Event()
    script = [receive, wait(gate), send(OK), *ALWAYS_OK]
    async with serving(script) as server, driven(server.address, Closed(0)) as (load, answers):
        load.start()
        load.join(1)
        await server.until(lambda: server.requests == 1)
        load.leave(1)
        load.join(1)
        gate.set()
        await answers.reach(3)
        assert load.in_flight <= 1


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not true():  # noqa: ASYNC110  # a load tells nobody
            await asyncio.sleep(0.001)


# A target that is not there, and a machine that has no more to give.


def most_attempts(users: int, elapsed_s: float) -> float:
    """Say how often so many users may try to connect in a time, if each pauses after a failure."""
    return users * (elapsed_s / CONNECT_PAUSE_S + 1)


async def test_a_target_that_refuses_does_not_make_a_closed_load_spin() -> None:
    with refusing() as address:
        async with driven(address, Closed(3)) as (load, answers):
            started = clock()
            load.start()
            await answers.reach(12)
            assert outcomes(load.tally).keys() == {Outcome.CONNECT}
            assert load.sent <= most_attempts(3, clock() - started)


@contextlib.contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let every attempt to open a file or a socket fail with EMFILE."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        lowest_free = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, before[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        yield


async def test_a_machine_without_free_descriptors_ends_requests_as_connect_and_does_not_spin() -> None:
    async with serving(ALWAYS_OK) as server, driven(server.address, Closed(3)) as (load, answers):
        started = clock()
        with no_more_descriptors():
            load.start()
            await answers.reach(12)
            assert outcomes(load.tally).keys() == {Outcome.CONNECT}
            assert load.tally.connect_errors == {"EMFILE": load.tally.requests}
            assert load.sent <= most_attempts(3, clock() - started)
        await load.begin_tally()
        await answers.reach(len(answers.seen) + 10)
        assert load.tally.outcomes[Outcome.OK] > 0


# Local ports. IP_LOCAL_PORT_RANGE (Linux 6.3) narrows them for one socket; a network namespace, which needs rights, for everybody in it.

IP_LOCAL_PORT_RANGE = 51
FEW_PORTS = """
import ctypes, fcntl, json, os, pathlib, socket, struct, sys
import anyio
from loadgen.outcome import Answer, Outcome
from loadgen.pacing import Closed
from tests.engine.driven_load import OK, driven
from tests.engine.scripted_server import forever, receive, send, serving

NEW_USER, NEW_NET, SET_FLAGS, UP = 0x10000000, 0x40000000, 0x8914, 1

def isolate():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NET) and libc.unshare(NEW_USER | NEW_NET):
        sys.exit("no network namespace: " + os.strerror(ctypes.get_errno()))
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh14x", b"lo", UP))
    pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("50000 50003")

async def starve():
    async with serving([forever(receive, send(OK))]) as server, driven(server.address, Closed(5)) as (load, answers):
        load.start()
        await answers.reach(500)
        load.fold()
        print(json.dumps([load.tally.outcomes, load.tally.connect_errors, server.connections]))

try:
    isolate()
except OSError as error:
    sys.exit(f"no network namespace: {error}")
anyio.run(starve, backend_options={"use_uvloop": sys.argv[1] == "uvloop"})
"""


@contextlib.contextmanager
def one_local_port() -> Iterator[None]:
    """Let all sockets that are made in Python have the same local port, if they do not ask for one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    class Narrow(socket.socket):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("HH", port, port))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", Narrow)
        yield


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": False})])  # uvloop makes its sockets in C
async def test_requests_that_find_no_free_port_end_as_connect_and_those_that_have_one_go_on() -> None:
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, 0)
        except OSError as error:
            pytest.skip(f"this kernel has no IP_LOCAL_PORT_RANGE: {error}")
    async with serving(ALWAYS_OK) as server, driven(server.address, Closed(3)) as (load, answers):
        started = clock()
        with one_local_port():
            load.start()
            await answers.reach(100)
        counted = outcomes(load.tally)
        assert counted.keys() == {Outcome.OK, Outcome.CONNECT}
        assert load.total.connect_errors == {"EADDRNOTAVAIL": counted[Outcome.CONNECT]}
        assert counted[Outcome.CONNECT] <= most_attempts(3, clock() - started)
        assert server.connections == 1


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])
async def test_a_machine_without_free_ports_ends_requests_as_connect_and_keeps_the_connections_that_it_has(
    anyio_backend: tuple[str, dict[str, bool]],
) -> None:
    done = await anyio.run_process([sys.executable, "-c", FEW_PORTS, "uvloop"], check=False)
    if done.stderr.startswith(b"no network namespace"):
        pytest.skip(done.stderr.decode().strip())
    assert done.returncode == 0, done.stderr.decode()
    counted, errors, connections = json.loads(done.stdout)
    assert counted["ok"] > 0
    assert 0 < counted["connect"] == errors["EADDRNOTAVAIL"]
    assert errors.keys() == {"EADDRNOTAVAIL"}
    assert sum(counted.values()) == counted["ok"] + counted["connect"]
    assert connections == 3, "of four ports one is the server's"
