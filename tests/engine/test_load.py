"""Does a client's load send what is due, when it is due, on as few connections as it needs, and count it where it ends?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import time
from typing import TYPE_CHECKING

import pytest

from loadgen.engine.lanes import CONNECT_PAUSE_S, DEADLINE_TICK_S
from loadgen.engine.load import clock
from loadgen.outcome import Outcome
from loadgen.pacing import Closed, Interval, Open, RateCourse

from .driven_load import LAST, OK, Schedule, driven, outcomes
from .scripted_server import Step, Visit, forever, receive, send, serving, wait
from .test_outcomes import refusing

if TYPE_CHECKING:
    from collections.abc import Iterator

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
            assert load.sent <= most_attempts(3, clock() - started)
        await load.begin_tally()
        await answers.reach(len(answers.seen) + 10)
        assert load.tally.outcomes[Outcome.OK] > 0
