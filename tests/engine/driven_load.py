"""A load under test: started by the test, and at the end checked to have lost no request, no connection and no task."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from loadgen.engine.load import ClientLoad, Shot
from loadgen.outcome import Answer, Expected, Outcome
from loadgen.pacing import Closed, Pacing
from loadgen.recorder import Tally, merged

from .scripted_server import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from random import Random

REQUEST = b"GET / HTTP/1.1\r\nhost: user\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nKevin"
LAST = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nKevin"
ONE_USER = Closed(1)


@dataclass(slots=True)
class Schedule:
    """Requests at fixed times after the start, whatever the answers do; ``all_due`` is set when the last of them was due."""

    offsets_s: list[float]
    all_due: asyncio.Event = field(default_factory=asyncio.Event)
    _left: int = 0

    def first(self, start: float, rng: Random) -> list[float]:
        self._left = len(self.offsets_s)
        return [start + offset for offset in self.offsets_s]

    def after_due(self, due: float, rng: Random) -> None:
        self._left -= 1
        if not self._left:
            self.all_due.set()

    def after_done(self, done: float, rng: Random) -> None:
        return None


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
        load.next_answer = self._take

    def _take(self, answer: Answer) -> None:
        self._load.next_answer = self._take
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
async def driven(
    address: tuple[str, int], pacing: Pacing = ONE_USER, *, timeout_s: float = PATIENCE_S, max_in_flight: int = 1000
) -> AsyncIterator[tuple[ClientLoad, Answers]]:
    """Make a load that the test starts. At the end it is aborted, and nothing may be left of it."""
    problems: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: problems.append(context))
    try:
        with anyio.fail_after(2 * PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                load = ClientLoad(
                    "client-1", address, Shot(REQUEST, Expected(200, b"Kevin"), timeout_s, max_in_flight), pacing, random.Random(7), tasks
                )
                try:
                    yield load, Answers(load)
                finally:
                    dropped = load.in_flight
                    load.abort()
        total = merged(load.tallies)
        assert total.requests == load.sent - dropped + total.outcomes[Outcome.UNSENT]
        assert total.lag.count == load.sent
        assert load.in_flight == 0
    finally:
        loop.set_exception_handler(before)
    assert problems == [], problems
