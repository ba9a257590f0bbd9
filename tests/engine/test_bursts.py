"""Is every burst counted that lies within a tally, with what the own sidecar let through of it, wherever the edges fall?"""

from __future__ import annotations

from collections import Counter

import pytest

from loadgen.engine.bursts import Bursts
from loadgen.engine.hammers import drain
from loadgen.outcome import Outcome
from loadgen.pacing import Burst
from loadgen.recorder import Tally

from .driven_load import OK, silently_driven
from .scripted_server import Step, forever, receive, send, serving
from .test_outcomes import OVERFLOW, SERVER_OVERFLOW, refusing, response

pytestmark = pytest.mark.anyio

SERVED = b"x-envoy-upstream-service-time: 3"
NO_UPSTREAM = response(b"503 Service Unavailable", b"no healthy upstream")
RESET_BEHIND = response(
    b"503 Service Unavailable", b"upstream connect error or disconnect/reset before headers. reset reason: connection termination"
)


async def test_an_edge_in_the_pause_between_two_bursts_costs_neither() -> None:
    async with serving([forever(receive, send(OK))]) as server, silently_driven(server.address, Burst(3, 0.2)) as load:
        load.start()
        for bursts in range(1, 4):
            await server.until(lambda wanted=3 * bursts: server.requests == wanted)  # type: ignore[misc]
            await drain(load)
            await load.begin_tally()
    assert [tally.bursts for tally in load.ended_tallies] == [{3: 1}] * 3


@pytest.mark.parametrize(
    ("answers", "let_through"),
    [
        ([OK, SERVER_OVERFLOW, response(b"503 No", b"busy", SERVED), response(b"200 OK", b"Jane", SERVED)], 4),
        ([OK, OVERFLOW, NO_UPSTREAM, OVERFLOW], 1),
    ],
    ids=["answers from beyond the sidecar", "what the sidecar answered by itself"],
)
async def test_let_through_is_what_somebody_beyond_the_own_sidecar_answered(answers: list[bytes], let_through: int) -> None:
    scripts: list[list[Step]] = [[forever(receive, send(answer))] for answer in answers]
    async with serving(*scripts) as server, silently_driven(server.address, Burst(4, 0.001)) as load:
        await load.prepare()
        load.start()
        await server.until(lambda: server.requests >= 20)
        assert load.tally.bursts.keys() == {let_through}


async def test_what_reached_no_sidecar_was_not_let_through() -> None:
    with refusing() as address:
        async with silently_driven(address, Burst(3, 10.0)) as load:
            load.start()
            await drain(load)
            assert load.tally.bursts == {0: 1}


@pytest.mark.parametrize("answer", [RESET_BEHIND, response(b"500 No", b"by nobody known"), b"no HTTP\r\n\r\n"])
async def test_a_burst_with_a_request_of_which_it_is_not_known_is_in_no_count(answer: bytes) -> None:
    async with serving([forever(receive, send(answer))]) as server, silently_driven(server.address, Burst(2, 0.001)) as load:
        load.start()
        await server.until(lambda: server.requests >= 7)
        assert load.tally.requests >= 4
        assert not load.tally.bursts
        assert load.tally.untold_bursts >= 2


async def test_a_request_that_timed_out_leaves_open_what_became_of_its_burst() -> None:
    async with (
        serving([forever(receive, send(OK))], [receive]) as server,
        silently_driven(server.address, Burst(2, 10.0), timeout_s=0.05) as load,
    ):
        await load.prepare()
        load.start()
        await drain(load)
        assert load.tally.outcomes[Outcome.TIMEOUT] == 1
        assert not load.tally.bursts
        assert load.tally.untold_bursts == 1


def test_a_burst_is_counted_though_a_pod_enters_what_has_ended_into_its_book_meanwhile() -> None:
    bursts, first, second = Bursts(), Tally(7), Tally(7)
    bursts.sends(first)
    first.record(Outcome.OK, 0.01)
    bursts.leave(first, second)
    second.record(Outcome.OVERFLOW, 0.01)
    second.record(Outcome.OK, 0.01)
    bursts.all_ended(second)
    assert (first.bursts, second.bursts) == (Counter(), {2: 1})
    assert (first.cut_bursts, second.cut_bursts, second.untold_bursts) == (0, 0, 0)


def test_each_tally_that_has_a_part_of_a_burst_counts_it_once_as_cut() -> None:
    bursts, tallies = Bursts(), [Tally(number) for number in range(5)]
    bursts.leave(tallies[0], tallies[1])
    bursts.sends(tallies[1])
    bursts.leave(tallies[1], tallies[2])
    bursts.leave(tallies[2], tallies[3])
    tallies[3].record(Outcome.OK, 0.01)
    bursts.all_ended(tallies[3])
    bursts.leave(tallies[3], tallies[4])
    assert [tally.cut_bursts for tally in tallies] == [0, 1, 1, 1, 0]
    assert not any(tally.bursts for tally in tallies)
