"""Who owns this pod's load? The pod itself, as the tutorial's client does, or a run that took it over for as long as it is heard of.

The laws: there is one load at a time; it ends only through ``BookedLoad.close``, so what it counted stays in the book; and a run that says
nothing for as long as it said it might loses the pod, which then goes back to its own load. A run's counters begin where nothing is in flight.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import anyio

from loadgen.engine.hammers import drain
from loadgen.engine.lanes import Lanes, Shot
from loadgen.engine.load import ClientLoad, Sight, clock
from loadgen.engine.spec import mesh_request
from loadgen.engine.this_process import cpu_s
from loadgen.errors import LoadgenError, RefusedError
from loadgen.outcome import Outcome
from loadgen.pacing import Closed
from loadgen.pod.book import OWN_LOAD
from loadgen.pod.load import BookedLoad
from loadgen.recorder import Tally
from loadgen.totals import BETWEEN_PHASES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyio.abc import TaskGroup

    from loadgen.pacing import Pacing
    from loadgen.pod.book import Book
    from loadgen.pod.log import Log
    from loadgen.pod.orders import Take
    from loadgen.pod.own_sidecar import OwnSidecar
    from loadgen.pod.settings import Settings

OWN_TIMEOUT_S = 5.0
TICK_S = 0.1
RETRY_S = 1.0
RELOOK_S = 5.0
"""An own load that reached nobody for so long looks its target's name up again."""
HANDOVER_S = 1.0
"""How long the own load's last answers may take before a run's load begins."""
DRAIN_S = 5.0
"""How long the last answers may take before the process ends."""
_REACHED_NOBODY = frozenset({Outcome.CONNECT, Outcome.TIMEOUT})


class Prompt(Closed):
    """A closed load whose first user does not wait for its turn: the pod is ready when the first request was answered."""

    __slots__ = ()

    def first(self, rng: random.Random) -> list[float]:
        """Give one due time a user, the first one at once."""
        return [0.0, *super().first(rng)[1:]]


class HeldError(LoadgenError):
    """The pod belongs to another run, or to none; ``holder`` says to which."""

    def __init__(self, holder: str | None) -> None:
        super().__init__(f"this pod is held by run {holder}" if holder else "this run does not hold the pod: take it first")
        self.holder = holder


class Hold:
    """A run's hold of the pod: it lapses ``hold_s`` seconds after the run was last heard of, but not while something is done for it."""

    def __init__(self, run: str, hold_s: float) -> None:
        self.run = run
        self.hold_s = hold_s
        self.phase: str | None = None
        self.offset = 0
        """By how much the run's load and the sidecar are known to differ in what they counted (load less sidecar)."""
        self.edges = anyio.Lock()
        self._heard_at = clock()
        self._busy = 0

    @property
    def lapsed(self) -> bool:
        """Whether the run was silent for too long."""
        return not self._busy and clock() - self._heard_at > self.hold_s

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Note that the run is heard of, from now until the context ends."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._heard_at = clock()


class Hammer:
    """The present load, ``load``, and who holds the pod, ``hold``. ``trouble`` says why there is no load, if there should be one."""

    def __init__(self, settings: Settings, sidecar: OwnSidecar, book: Book, tasks: TaskGroup, log: Log) -> None:
        self.load: BookedLoad | None = None
        self.hold: Hold | None = None
        self.trouble = "the load was not begun yet"
        self.stopping = False
        self._settings = settings
        self._sidecar = sidecar
        self._book = book
        self._tasks = tasks
        self._log = log
        self._lock = anyio.Lock()
        self._address: tuple[str, int] | None = None
        self._retry_at = 0.0
        self._relook_at = 0.0
        self._seen: dict[Outcome, int] = {}

    # What was counted.

    def outcomes(self) -> dict[Outcome, int]:
        """Say how many requests ended how since the start of the process."""
        entered = self._book.outcomes
        present = self.load.tally.outcomes if self.load is not None else {}
        return {outcome: count + present.get(outcome, 0) for outcome, count in entered.items()}

    async def settle(self) -> None:
        """Enter in the book what ended until now."""
        if self.load is not None:
            await self.load.settle()

    def sight(self) -> Sight:
        """Say what the present load has seen."""
        return self.load.sight if self.load is not None else Sight(dict.fromkeys(Outcome, 0), 0, 0, 0, 0, cpu_s())

    async def tally(self) -> Tally:
        """Give the present load's tally since its last edge."""
        return await self.load.snapshot() if self.load is not None else Tally()

    # Its own load.

    async def keep(self) -> None:
        """Keep the own load going while no run holds the pod, and let a run go that says nothing; for as long as the task lives."""
        while True:
            hold = self.hold
            if hold is not None and hold.lapsed:
                self._log.say(f"run {hold.run} was not heard of for {hold.hold_s:g} s: this pod goes back to its own load")
                await self.leave(hold)
            elif hold is None and not self.stopping:
                await self._keep_own()
            await anyio.sleep(TICK_S)

    async def _keep_own(self) -> None:
        now = clock()
        if self.load is None:
            if now >= self._retry_at:
                self._retry_at = now + RETRY_S
                await self._begin_own()
        elif now >= self._relook_at:
            await self._look_again()

    async def _begin_own(self) -> None:
        try:
            address = await self._settings.aim.look_up()
        except RefusedError as error:
            self.trouble = error.message
            self._log.say(f"nothing is sent: {error.message}", kind="trouble")
            return
        async with self._lock:
            if self.hold is None and self.load is None and not self.stopping:
                self._address, self.trouble = address, ""
                pacing = Prompt(self._settings.users, self._settings.think)
                self.load = self._make(self._settings.aim.path, pacing, "own", OWN_TIMEOUT_S, self._settings.users, OWN_LOAD)
                self.load.start()
                self._note_outcomes()

    async def _look_again(self) -> None:
        """Look the name up again if nobody was reached since the last time; if it stands for another address now, go there."""
        ended = {outcome: count - self._seen[outcome] for outcome, count in self.outcomes().items()}
        self._note_outcomes()
        if not any(ended.values()) or any(count for outcome, count in ended.items() if outcome not in _REACHED_NOBODY):
            return
        with contextlib.suppress(RefusedError):
            if await self._settings.aim.look_up() != self._address and self.hold is None:
                self._log.say(f"{self._settings.aim.names[0]} has another address now: the load goes there")
                self._end_load()
                self._retry_at = 0.0

    def _note_outcomes(self) -> None:
        self._seen = self.outcomes()
        self._relook_at = clock() + RELOOK_S

    # A run's load.

    async def take(self, run: str, order: Take) -> None:
        """Give the pod to a run, with the load that it wants, ready to start. A run that takes again gets a new load.

        Raises HeldError if another run holds the pod, and RefusedError or MeshError if the load cannot be made; the pod then keeps its own load.
        """
        async with self._lock:
            if self.hold is not None and self.hold.run != run:
                raise HeldError(self.hold.run)
            if self.stopping:
                raise RefusedError("this pod is ending")
            hold = self.hold = Hold(run, order.hold_s)
            with hold.heard():
                try:
                    await self._hand_over()
                    self._address = await self._settings.aim.look_up()
                    hold.offset = -(await self._sidecar.counters()).overflow
                    shape = order.load
                    path = order.path or self._settings.aim.path
                    self.load = self._make(path, shape.pacing, order.seed, shape.timeout, shape.max_in_flight, BETWEEN_PHASES)
                    await self.load.prepare()
                except BaseException:
                    self._give_back()
                    raise

    async def _hand_over(self) -> None:
        """End the load that there is, with its last answers: a reject that came after the counters were read would be nobody's."""
        if self.load is not None:
            self.load.stop()
            with anyio.move_on_after(HANDOVER_S):
                await drain(self.load)
            self._end_load()

    def held_by(self, run: str) -> tuple[Hold, BookedLoad]:
        """Give the run's hold and its load.

        Raises HeldError if it has none.
        """
        if self.hold is None or self.hold.run != run or self.load is None:
            raise HeldError(self.hold.run if self.hold is not None and self.hold.run != run else None)
        return self.hold, self.load

    async def leave(self, hold: Hold) -> None:
        """Take the pod back from a run, unless somebody has already; the own load begins soon."""
        async with self._lock:
            if self.hold is hold:
                self._give_back()

    def _give_back(self) -> None:
        self._end_load()
        self.hold = None
        self._retry_at = 0.0

    # The end.

    async def finish(self) -> None:
        """Send nothing more, and wait for the last answers."""
        self.stopping = True
        if self.load is not None:
            self.load.stop()
            with anyio.move_on_after(DRAIN_S):
                await drain(self.load)

    def close(self) -> int:
        """End the load for good; give how many requests were still under way, which are counted nowhere."""
        under_way = self.load.in_flight if self.load is not None else 0
        self._end_load()
        return under_way

    def _end_load(self) -> None:
        if self.load is not None:
            load, self.load = self.load, None
            load.close()

    def _make(self, path: str, pacing: Pacing, seed: str, timeout_s: float, max_in_flight: int, phase: str) -> BookedLoad:
        assert self._address is not None, "looked up before"
        name = self._settings.name
        request = mesh_request(name, self._settings.aim.authority, path)
        shot = Shot(self._address, request, self._settings.expected, timeout_s)

        def carrier(load: ClientLoad) -> Lanes:
            return Lanes(load, shot, self._tasks)

        return BookedLoad(name, carrier, pacing, random.Random(seed), max_in_flight=max_in_flight, book=self._book, phase=phase)
