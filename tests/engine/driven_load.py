"""A load under test: started by the test, and at the end checked to have lost no request, no connection and no task."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from loadgen.engine.lanes import Lanes, Shot
from loadgen.engine.load import ClientLoad
from loadgen.outcome import Answer, Expected, Outcome
from loadgen.pacing import Closed, Pacing
from loadgen.recorder import Tally, merged

from .scripted_server import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from random import Random

    from anyio.abc import TaskGroup

    from loadgen.engine.lanes import Lane

REQUEST = b"GET / HTTP/1.1\r\nhost: user\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nKevin"
LAST = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nKevin"
ONE_USER = Closed(1)


@dataclass(slots=True)
class Schedule:
    """Requests at fixed times after the start, whatever the answers do; ``all_due`` is set when the last of them was due."""

    offsets_s: list[float]
    all_due: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: int = 0
    immediate: bool = False
    _left: int = 0

    def first(self, rng: Random) -> list[float]:
        self._left = len(self.offsets_s)
        return list(self.offsets_s)

    def after_due(self, due: float, rng: Random) -> None:
        self._left -= 1
        if not self._left:
            self.all_due.set()

    def after_done(self, done: float, left: int, rng: Random) -> tuple[()]:
        return ()


class DrivenLoad(ClientLoad):
    """A load that keeps the tallies that ended, and lets a test look at its lanes."""

    def __init__(self, shot: Shot, pacing: Pacing, tasks: TaskGroup, *, max_in_flight: int, limit: int | None) -> None:
        self.ended_tallies: list[Tally] = []
        self.dropped = 0
        super().__init__(
            "client-1",
            lambda load: Lanes(load, shot, tasks),
            pacing,
            random.Random(7),
            max_in_flight=max_in_flight,
            limit=limit,
        )

    async def begin_tally(self, *, if_overflow: int | None = None) -> Tally | None:
        ended = await super().begin_tally(if_overflow=if_overflow)
        if ended is not None:
            self.ended_tallies.append(ended)
        return ended

    def abort(self) -> None:
        self.dropped += self.in_flight
        super().abort()

    @property
    def total(self) -> Tally:
        """Everything that was counted since the start."""
        self.fold()
        return merged([*self.ended_tallies, self.tally])

    @property
    def lanes(self) -> Lanes:
        assert isinstance(self._carrier, Lanes)
        return self._carrier

    @property
    def idle(self) -> list[Lane]:
        return list(self.lanes._idle)


def outcomes(tally: Tally) -> dict[Outcome, int]:
    """Give the outcomes that came up."""
    return {outcome: count for outcome, count in tally.outcomes.items() if count}


class Answers:
    """The answers of a load as they come; ``stop_after`` stops the load at the moment of that answer."""

    def __init__(self, load: ClientLoad) -> None:
        self.seen: list[Answer] = []
        self.stop_after = 0
        self.on_answer: Callable[[], None] | None = None
        self._load = load
        self._news = asyncio.Event()
        load.ask(self._take)

    def _take(self, answer: Answer) -> None:
        self._load.ask(self._take)
        self.seen.append(answer)
        if len(self.seen) == self.stop_after:
            self._load.stop()
        if self.on_answer is not None:
            self.on_answer()
        self._news.set()
        self._news = asyncio.Event()

    async def reach(self, count: int) -> list[Answer]:
        """Wait until so many have come."""
        with anyio.fail_after(PATIENCE_S):
            while len(self.seen) < count:
                await self._news.wait()
        return self.seen


@contextlib.asynccontextmanager
async def silently_driven(
    address: tuple[str, int],
    pacing: Pacing = ONE_USER,
    *,
    timeout_s: float = PATIENCE_S,
    max_in_flight: int = 1000,
    limit: int | None = None,
    **shot: Any,
) -> AsyncIterator[DrivenLoad]:
    """Make a load that the test starts, and whose answers nobody asks for. At the end it is aborted, and nothing may be left of it."""
    problems: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: problems.append(context))
    aimed = Shot(address, **{"request": REQUEST, "expected": Expected(200, b"Kevin"), "timeout_s": timeout_s, **shot})
    try:
        with anyio.fail_after(2 * PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                load = DrivenLoad(aimed, pacing, tasks, max_in_flight=max_in_flight, limit=limit)
                try:
                    yield load
                finally:
                    load.abort()
        _check_that_nothing_is_left(load)
    finally:
        loop.set_exception_handler(before)
    assert problems == [], problems


@contextlib.asynccontextmanager
async def driven(address: tuple[str, int], pacing: Pacing = ONE_USER, **options: Any) -> AsyncIterator[tuple[DrivenLoad, Answers]]:
    """Make a load that the test starts, and watch each of its answers."""
    async with silently_driven(address, pacing, **options) as load:
        yield load, Answers(load)


def _check_that_nothing_is_left(load: DrivenLoad) -> None:
    """See that every request ended once, and that neither a connection nor a timer is left."""
    total = load.total
    assert total.requests == load.sent - load.dropped + total.outcomes[Outcome.UNSENT]
    assert total.lag.count == load.sent
    assert load.in_flight == 0
    assert not load.lanes._lanes
    assert not load.idle
    assert load.lanes._deadline_timer.cancelled()
    assert load._beat._timer is None or load._beat._timer.cancelled()
    assert load._alarm._descriptor < 0
