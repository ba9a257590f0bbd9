"""Is the edge of a window a moment at which client and sidecar agree, and is the load always let go afterwards?"""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from loadgen.engine import edge as edges
from loadgen.engine.edge import HOLD_AFTER, Reading, find_edge
from loadgen.engine.hammers import Load as RealLoad
from loadgen.engine.hammers import RemoteLoad
from loadgen.engine.load import ClientLoad, Sight, clock
from loadgen.errors import HammerError, MeshError
from loadgen.ledger import Counters
from loadgen.outcome import Outcome
from loadgen.recorder import Tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio


class Load:
    """The part of a load that an edge needs: what it has seen, and whether it is held.

    ``tallies`` are those that ended, and the present one. ``before_begin`` plays what the load sees on the way to ``begin_tally``, as it may
    where the load lives in another process.
    """

    def __init__(self) -> None:
        self.sidecar_overflow = 0
        self.in_flight = 5
        self.sent = 100
        self.held = False
        self.holds = 0
        self.tallies = [Tally()]
        self.before_begin: Callable[[], None] = lambda: None
        self.silent = False

    def hold(self) -> None:
        self.held = True
        self.holds += 1

    def release(self) -> None:
        self.held = False

    async def look(self) -> Sight:
        await anyio.lowlevel.checkpoint()
        if self.silent:
            raise HammerError("a hammer process says nothing")
        return Sight(dict.fromkeys(Outcome, 0), self.sidecar_overflow, self.sent, self.in_flight, 1, 0.0)

    async def begin_tally(self, *, if_overflow: int | None = None) -> Tally | None:
        await anyio.lowlevel.checkpoint()
        self.before_begin()
        if if_overflow is not None and if_overflow != self.sidecar_overflow:
            return None
        self.tallies.append(Tally())
        return self.tallies[-2]


class Sidecar:
    """Counters that are read; ``on_read`` plays what happens at each reading, by its number from 1 on."""

    def __init__(self, on_read: Callable[[int], None] = lambda _number: None) -> None:
        self.overflow = 0
        self.readings = 0
        self._on_read = on_read

    async def read(self) -> Reading:
        self.readings += 1
        counters = Counters(pending_overflow=self.overflow, total=self.overflow)
        await anyio.lowlevel.checkpoint()
        self._on_read(self.readings)
        return Reading(counters)


async def edge_of(load: Load, read: Callable[[], Awaitable[Reading]]) -> edges.Edge:
    with anyio.fail_after(20):
        return await find_edge(load, read)  # type: ignore[arg-type]  # the few members that find_edge uses


async def test_witnesses_that_agree_make_an_edge_at_the_first_reading() -> None:
    load, sidecar = Load(), Sidecar()
    load.sidecar_overflow = sidecar.overflow = 7
    started = clock()
    edge = await edge_of(load, sidecar.read)
    assert sidecar.readings == 1
    assert (edge.reading.counters.overflow, edge.held_s, load.holds) == (7, 0.0, 0)
    assert edge.tally is load.tallies[0], "the one that ended there"
    assert edge.overflow == 7
    assert edge.on_the_way == 5
    assert len(load.tallies) == 2
    assert started <= edge.at <= clock()


async def test_a_burst_that_is_sent_while_the_others_are_read_may_be_on_the_way() -> None:
    load = Load()

    def send_a_burst(_number: int) -> None:
        load.in_flight += 20
        load.sent += 20

    edge = await edge_of(load, Sidecar(send_a_burst).read)
    assert edge.on_the_way == 25


async def test_a_reject_that_the_client_has_not_seen_yet_is_waited_for() -> None:
    load = Load()

    def arrive(number: int) -> None:
        if number == 4:
            load.sidecar_overflow = 8

    sidecar = Sidecar(arrive)
    sidecar.overflow = 8
    edge = await edge_of(load, sidecar.read)
    assert sidecar.readings == 5, "what arrives during a reading leaves open on which side of it the reject was counted"
    assert (edge.reading.counters.overflow, load.sidecar_overflow, edge.held_s) == (8, 8, 0.0)


async def test_a_reject_that_comes_during_the_reading_makes_no_edge() -> None:
    load = Load()

    def reject(number: int) -> None:
        if number <= 3:
            load.sidecar_overflow += 1
            sidecar.overflow += 1

    sidecar = Sidecar(reject)
    edge = await edge_of(load, sidecar.read)
    assert sidecar.readings == 4
    assert edge.reading.counters.overflow == load.sidecar_overflow == 3


async def test_a_sender_that_rejects_come_too_thick_for_is_held_back_and_released() -> None:
    load = Load()

    def storm(_number: int) -> None:
        if not load.held:
            load.sidecar_overflow += 1
            sidecar.overflow += 1

    sidecar = Sidecar(storm)
    edge = await edge_of(load, sidecar.read)
    assert sidecar.readings == HOLD_AFTER + 1
    assert load.holds == 1
    assert not load.held
    assert 0 < edge.held_s < 20
    assert edge.reading.counters.overflow == load.sidecar_overflow == HOLD_AFTER


async def test_the_new_tally_begins_while_the_sender_is_still_held() -> None:
    load = Load()
    held: list[bool] = []
    begin = load.begin_tally

    async def note(*, if_overflow: int | None = None) -> Tally | None:
        held.append(load.held)
        return await begin(if_overflow=if_overflow)

    load.begin_tally = note  # type: ignore[method-assign]  # to see the moment

    def storm(_number: int) -> None:
        if not load.held:
            load.sidecar_overflow += 1

    sidecar = Sidecar(storm)
    sidecar.overflow = HOLD_AFTER
    await edge_of(load, sidecar.read)
    assert held == [True]


async def test_witnesses_that_never_agree_are_given_up_with_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "GIVE_UP_S", 0.1)
    load, sidecar = Load(), Sidecar()
    sidecar.overflow = 3
    edge = await edge_of(load, sidecar.read)
    assert not edge.settled
    assert edge.reading.counters.overflow == 3
    assert load.sidecar_overflow == 0
    assert sidecar.readings > 1
    assert len(load.tallies) == 2
    assert not load.held


@pytest.mark.parametrize("reading", [1, HOLD_AFTER + 1])
async def test_a_machine_that_stands_still_during_a_reading_is_no_reason_to_give_up(reading: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "GIVE_UP_S", 0.05)
    load = Load()

    def stand_still(number: int) -> None:
        if number == reading:
            time.sleep(0.1)
        if number == reading + 2:
            load.sidecar_overflow = 1

    sidecar = Sidecar(stand_still)
    sidecar.overflow = 1
    edge = await edge_of(load, sidecar.read)
    assert edge.settled
    assert edge.overflow == 1


async def test_a_search_has_an_end_where_readings_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "GIVE_UP_S", 0.05)
    monkeypatch.setattr(edges, "PATIENCE_S", 0.2)
    load, sidecar = Load(), Sidecar(lambda _number: time.sleep(0.15))
    sidecar.overflow = 1
    edge = await edge_of(load, sidecar.read)
    assert not edge.settled
    assert sidecar.readings == 2


@pytest.mark.parametrize("offset", [-3, 3])
async def test_a_difference_that_is_known_from_before_is_no_reason_to_wait(offset: int) -> None:
    load, sidecar = Load(), Sidecar()
    load.sidecar_overflow, sidecar.overflow = 10 + offset, 10
    with anyio.fail_after(20):
        edge = await find_edge(load, sidecar.read, offset=offset)  # type: ignore[arg-type]  # as above
    assert sidecar.readings == 1
    assert edge.settled


@pytest.mark.parametrize("at", [1, HOLD_AFTER, HOLD_AFTER + 1])
async def test_a_reader_that_raises_leaves_no_load_held_and_no_tally_begun(at: int) -> None:
    load = Load()

    def die(number: int) -> None:
        if number == at:
            raise MeshError("the sidecar died")

    sidecar = Sidecar(die)
    sidecar.overflow = 1
    with pytest.raises(MeshError, match="the sidecar died"):
        await edge_of(load, sidecar.read)
    assert not load.held
    assert load.holds == (at > HOLD_AFTER)
    assert len(load.tallies) == 1


async def test_a_cancelled_search_leaves_no_load_held() -> None:
    load = Load()
    scope = anyio.CancelScope()

    def cancel(number: int) -> None:
        if number == HOLD_AFTER + 2:
            assert load.held
            scope.cancel()

    sidecar = Sidecar(cancel)
    sidecar.overflow = 1
    with scope:
        await edge_of(load, sidecar.read)
    assert scope.cancelled_caught
    assert not load.held
    assert len(load.tallies) == 1


async def test_a_search_that_is_cancelled_when_the_tally_has_ended_still_gives_its_edge() -> None:
    load, sidecar = Load(), Sidecar()
    with anyio.CancelScope() as scope:
        load.before_begin = scope.cancel
        edge = await edge_of(load, sidecar.read)
    assert edge.tally is load.tallies[0], "its requests are in no other tally"


async def test_a_load_that_says_no_more_when_its_tally_has_ended_still_gives_its_edge() -> None:
    load, sidecar = Load(), Sidecar()

    def fall_silent() -> None:
        load.silent = True

    load.before_begin = fall_silent
    edge = await edge_of(load, sidecar.read)
    assert edge.tally is load.tallies[0]
    assert edge.on_the_way == 5 + edge.tally.requests


async def test_a_reject_that_comes_between_the_reading_and_the_new_tally_makes_no_edge() -> None:
    load, sidecar = Load(), Sidecar()
    asked = 0

    def reject() -> None:
        nonlocal asked
        asked += 1
        if asked <= 3:
            load.sidecar_overflow += 1
            sidecar.overflow += 1

    load.before_begin = reject
    edge = await edge_of(load, sidecar.read)
    assert asked == 4
    assert len(load.tallies) == 2, "the attempts that failed began no tally"
    assert edge.overflow == edge.reading.counters.overflow == load.sidecar_overflow == 3
    assert edge.settled


async def test_an_edge_that_is_given_up_says_what_the_client_had_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "GIVE_UP_S", 0.05)
    load, sidecar = Load(), Sidecar()
    load.sidecar_overflow, sidecar.overflow = 9, 3
    edge = await edge_of(load, sidecar.read)
    assert (edge.settled, edge.overflow, edge.reading.counters.overflow) == (False, 9, 3)
    assert edge.tally is load.tallies[0]


@pytest.mark.parametrize("real", [RealLoad, ClientLoad, RemoteLoad])
def test_the_fake_load_has_nothing_that_a_real_one_lacks(real: type) -> None:
    for name, method in inspect.getmembers(Load, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.iscoroutinefunction(method) == inspect.iscoroutinefunction(getattr(real, name)), name
            assert inspect.signature(method).parameters.keys() == inspect.signature(getattr(real, name)).parameters.keys(), name
