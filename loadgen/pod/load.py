"""How does a pod's load keep every count, whoever reads it and whenever it ends? An engine's load whose tallies also go into the book.

What has ended is entered in the book whenever somebody reads the book, a phase begins, or the load ends. The runner must not notice: for it a
tally runs from edge to edge, so the parts that were entered meanwhile are put together again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loadgen.engine.load import ClientLoad, Sight
from loadgen.pod.book import OWN_LOAD
from loadgen.recorder import Tally, merged

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from loadgen.engine.load import Carrier
    from loadgen.outcome import Outcome
    from loadgen.pacing import Pacing
    from loadgen.pod.book import Book


class BookedLoad(ClientLoad):
    """One load of this pod. ``phase`` is the name under which its requests are entered in the book."""

    def __init__(
        self,
        name: str,
        make_carrier: Callable[[ClientLoad], Carrier],
        pacing: Pacing,
        rng: Random,
        *,
        max_in_flight: int,
        book: Book,
        phase: str = OWN_LOAD,
    ) -> None:
        self.phase = phase
        self.started = False
        self.stopped = False
        self._book = book
        self._entered = Tally()
        """What was counted since the last edge and is in the book already."""
        super().__init__(name, make_carrier, pacing, rng, max_in_flight=max_in_flight)

    def start(self, *, for_s: float | None = None) -> None:
        """Begin to send, once: a second start would double the users."""
        if not self.started:
            self.started = True
            super().start(for_s=for_s)

    def stop(self) -> None:
        """Send nothing more; what is in flight may still end."""
        self.stopped = True
        super().stop()

    def close(self) -> None:
        """End the load for good: drop what is in flight, and enter the rest in the book."""
        self.abort()
        ended, self.tally = self.tally, Tally()
        self._book.enter(self.phase, ended)
        self._entered.add(ended)

    async def begin_phase(self, phase: str) -> None:
        """Enter what ended until now under the phase before."""
        await self.settle()
        self.phase = self._book.open(phase)

    async def settle(self) -> None:
        """Enter what ended until now."""
        self.fold()
        ended = self._next_tally(self.tally.number)  # for whoever reads it, it is still the same
        self._book.enter(self.phase, ended)
        self._entered.add(ended)

    async def begin_tally(self, *, if_overflow: int | None = None) -> Tally | None:
        """Enter what ended until now, and give the whole tally since the last edge."""
        ended = await super().begin_tally(if_overflow=if_overflow)
        if ended is None:
            return None
        self._book.enter(self.phase, ended)
        whole, self._entered = self._entered, Tally()
        whole.number = ended.number
        whole.add(ended)
        return whole

    async def snapshot(self) -> Tally:
        """Give the tally since the last edge; a copy, which does not go on counting."""
        whole = merged([self._entered, await super().snapshot()])
        whole.number = self.tally.number
        return whole

    @property
    def sight(self) -> Sight:
        """What was seen until now; its outcomes are those since the last edge."""
        sight = super().sight
        earlier: dict[Outcome, int] = self._entered.outcomes
        return replace(sight, outcomes={outcome: count + earlier[outcome] for outcome, count in sight.outcomes.items()})
