"""Does a pod's load keep every count, whoever reads it, and does the runner see whole tallies all the same?"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

import anyio
import pytest

from loadgen.engine.lanes import Lanes, Shot
from loadgen.outcome import Expected, Outcome
from loadgen.pacing import Burst, Closed, Interval
from loadgen.pod.book import OWN_LOAD, Book
from loadgen.pod.load import BookedLoad
from loadgen.recorder import Tally, merged
from tests.engine.driven_load import OK, REQUEST
from tests.engine.scripted_server import forever, receive, send, serving, wait

from .waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from loadgen.pacing import Pacing

pytestmark = pytest.mark.anyio
OVERFLOW_BODY = b"upstream connect error or disconnect/reset before headers. reset reason: overflow"
OVERFLOW = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: %d\r\n\r\n%s" % (len(OVERFLOW_BODY), OVERFLOW_BODY)
USERS = 3


@contextlib.asynccontextmanager
async def loaded(book: Book, *steps: object, think_s: float = 0.0, pacing: Pacing | None = None) -> AsyncIterator[BookedLoad]:
    """Run a load against a server that plays these steps for ever."""
    async with serving([forever(*steps)]) as server, anyio.create_task_group() as tasks:  # type: ignore[arg-type]
        shot = Shot(server.address, REQUEST, Expected(200, b"Kevin"), 5.0)
        pacing = pacing or Closed(USERS, Interval(think_s))
        load = BookedLoad("client-1", lambda each: Lanes(each, shot, tasks), pacing, random.Random(1), max_in_flight=USERS, book=book)
        await load.prepare()
        load.start()
        try:
            yield load
        finally:
            load.close()
            tasks.cancel_scope.cancel()


async def until_ended(load: BookedLoad, count: int) -> None:
    """Wait until so many requests have ended since the last edge."""
    await until(lambda: sum(load.sight.outcomes.values()) >= count)


async def test_however_often_the_book_is_read_a_tally_runs_from_edge_to_edge() -> None:
    book = Book()
    async with loaded(book, receive, send(OK), receive, send(OVERFLOW)) as load:
        seen: list[Tally] = []
        for edge in range(1, 4):
            for reading in range(1, 5):
                await until_ended(load, reading * 20)
                await load.settle()
                assert sum(load.sight.outcomes.values()) >= reading * 20, "what was entered is still seen"
                assert (await load.snapshot()).requests >= reading * 20
            tally = await load.begin_tally()
            assert tally is not None
            assert tally.requests >= 80
            assert load.sight.outcomes == dict.fromkeys(Outcome, 0), f"edge {edge}: the next one begins with nothing"
            seen.append(tally)
        load.close()
        rest = await load.snapshot()
        total = merged([*seen, rest])
        assert book.outcomes == total.outcomes, "in the book and in the tallies is the same"
        assert book.lag.count == total.lag.count
        assert load.sidecar_overflow == total.outcomes[Outcome.OVERFLOW]


async def test_an_edge_cuts_a_burst_and_a_look_into_the_book_does_not() -> None:
    gate = asyncio.Event()
    async with loaded(Book(), receive, wait(gate), send(OK), pacing=Burst(USERS, 10.0)) as load:
        await until(lambda: load.sight.in_flight == USERS)
        await load.settle()
        assert (await load.snapshot()).cut_bursts == 0
        cut = await load.begin_tally()
        await load.settle()
        gate.set()
        await until_ended(load, USERS)
        assert cut is not None
        assert (cut.cut_bursts, (await load.snapshot()).cut_bursts) == (1, 1)


async def test_an_edge_that_is_not_there_changes_nothing() -> None:
    book = Book()
    async with loaded(book, receive, send(OVERFLOW)) as load:
        await until_ended(load, 20)
        assert await load.begin_tally(if_overflow=-1) is None
        await load.settle()
        assert await load.begin_tally(if_overflow=-1) is None
        load.stop()
        overflow = load.sidecar_overflow
        tally = await load.begin_tally(if_overflow=overflow)
        assert tally is not None
        assert tally.outcomes[Outcome.OVERFLOW] == overflow


async def test_a_request_is_entered_under_the_phase_in_which_it_ended() -> None:
    book = Book()
    gate = asyncio.Event()
    async with loaded(book, receive, wait(gate), send(OK)) as load:
        await until(lambda: load.in_flight == USERS)
        await load.begin_phase("limited")
        gate.set()
        await until_ended(load, 10)
        await load.begin_phase("recovered")
        limited = book.phases["limited"][Outcome.OK].count
        await until_ended(load, limited + 15)
        load.close()
        assert limited >= 10
        assert book.phases["limited"][Outcome.OK].count == limited
        assert book.phases["recovered"][Outcome.OK].count >= 10
        assert book.phases[OWN_LOAD][Outcome.OK].count == 0


async def test_closing_enters_the_rest_and_drops_what_is_in_flight() -> None:
    book = Book()
    async with loaded(book, receive, send(OK), receive, wait(asyncio.Event())) as load:
        await until(lambda: load.tally.requests == load.in_flight == USERS)
        load.close()
        load.close()
        assert book.outcomes[Outcome.OK] == USERS
        assert load.in_flight == 0


async def test_a_second_start_does_not_double_the_users() -> None:
    async with loaded(Book(), receive, send(OK), think_s=0.005) as load:
        load.start()
        await until_ended(load, 20)
        assert load.in_flight + len(load._due) == USERS
