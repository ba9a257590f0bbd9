"""What if nobody knows beforehand when the policy is toggled? A run without a script: each toggle ends a phase and begins the next one.

The law: a toggle is done when the next phase counts, so whoever asked for it knows that every sidecar has confirmed. One that fails is taken
back before anything else happens.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from loadgen.engine.load import clock
from loadgen.errors import LoadgenError, MeshError, RefusedError
from loadgen.runner.needs import C, L
from loadgen.runner.stage import LastEdge, Stage
from loadgen.scenario import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskGroup

    from loadgen.engine.edge import Edge
    from loadgen.engine.load import Sight
    from loadgen.policy.rule import Rule
    from loadgen.policy.state import SidecarState
    from loadgen.recorder import Tally
    from loadgen.runner.live import Live
    from loadgen.runner.needs import Load, Loads, Mesh
    from loadgen.runner.window import Measured, Window

BASELINE, LIMITED, RECOVERED = PHASES = ("baseline", "limited", "recovered")
MAX_TOGGLES = 100
"""What was measured of each phase is kept, so there is an end to them."""
ENDLESS_S = 24 * 3600.0


class Session(Stage[C, L]):
    """An open-ended run; ``told`` hears whenever there is something new to show. The rest is as for a stage."""

    def __init__(
        self,
        mesh: Mesh[C, L],
        crew: Callable[[TaskGroup], AbstractAsyncContextManager[Loads[L]]],
        live: Live | None = None,
        *,
        timeout_s: float,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(mesh, crew, live, timeout_s=timeout_s)
        self._orders: asyncio.Queue[tuple[Sequence[Rule], asyncio.Future[None], Callable[[], None]] | None] = asyncio.Queue()
        self._told = told
        self._toggles = 0
        self._toggling = False
        self._over = False
        self.ruled = False
        """Whether a rule may be in force, or a request be on its way that met one."""
        self.confirmed: int | None = None
        """How many sidecars show what is being put or removed; None while nothing is."""

    @property
    def measured(self) -> Measured:
        """What was measured until now; the phase that counts is ``window``."""
        return self._measured

    @property
    def window(self) -> Window | None:
        """The phase that counts now."""
        return self._open

    @property
    def rules(self) -> Sequence[Rule]:
        """What was put last; none if the policy was removed last."""
        return self._rules

    @property
    def began(self) -> float:
        """When the load began, on ``clock``; 0 before."""
        return self._began

    async def toggle(self, rules: Sequence[Rule], taken: Callable[[], None] = lambda: None) -> None:
        """Make these rules the policy, none to remove it, and return when the phase with it counts; ``taken`` hears that it begins.

        Raises RefusedError if that cannot be now, MeshError if the sidecars do not take it: then it was removed again.
        """
        if self._over:
            raise RefusedError("no test is running", hint="start users first")
        if self._toggling:
            raise RefusedError("the policy is being toggled", hint="wait until every sidecar has confirmed")
        if self._toggles >= MAX_TOGGLES:
            raise RefusedError(f"the policy was toggled {MAX_TOGGLES} times in this test", hint="stop the test and start the next one")
        self._toggles += 1
        self._toggling = True
        done = asyncio.get_running_loop().create_future()
        self._orders.put_nowait((rules, done, taken))
        try:
            await done
        finally:
            self._toggling = False

    def wanted(self, rules: Sequence[Rule]) -> SidecarState:
        """Give the state that rules lead to in every sidecar."""
        return self._mesh.wanted(rules)

    async def interim(self) -> Measured:
        """Give what was measured until now, the phase that counts included as far as it has come; it goes on counting.

        If that phase is left meanwhile, it is not included: a client whose edge was found counts in its next tally already, which is not what
        its sidecar's counters since the start of the phase are to be held against. Raises LoadgenError if a witness cannot be read.
        """
        window, further = self._open, []
        if window is not None and not window.ended:
            service = await self._mesh.count()
            ends = await self._each(self._peek)
            tallies = {name: edge.tally for name, edge in ends.items()}
            if self._open is window and not window.ended:
                further = [replace(window, ends=ends, tallies=tallies, service=service, cpu_end_s=self._cpu_s(), ended=clock())]
        return replace(self._measured, windows=[*self._measured.windows, *further])

    async def _peek(self, client: C) -> Edge:
        load = Peeked(self._hammers.loads[client.name])
        return await self._mesh.edge(client, load, offset=self._offsets.get(client.name, 0))  # type: ignore[arg-type]  # all that an edge asks for

    def end(self) -> None:
        """Leave the phase that counts, and go; ``run`` then puts everything back."""
        self._orders.put_nowait(None)

    async def _tell(self) -> None:
        try:
            for name, counters in (await self._each(self._mesh.counters)).items():
                self._last[name] = LastEdge(counters)
                self._offsets[name] = -counters.overflow
            await self._begin()
            await self._enter(_phase(BASELINE, "absent"), ())
            while (order := await self._orders.get()) is not None:
                await self._obey(*order)
            if self._open is not None:
                await self._leave()
        finally:
            self._over = True
            self._refuse_the_rest()

    async def _obey(self, rules: Sequence[Rule], done: asyncio.Future[None], taken: Callable[[], None]) -> None:
        taken()
        self.confirmed, self.ruled = 0, self.ruled or bool(rules)
        self._told()  # whoever asks the users afterwards comes later than the news
        try:
            await self._leave()
            try:
                await self._enter(self._next(rules), rules)
            except (MeshError, RefusedError) as error:  # the API server's refusals, too
                await self._enter(self._next(()), ())
                _settle(done, error)
        except BaseException as error:
            _settle(done, error if isinstance(error, LoadgenError) else MeshError("the test ended before every sidecar had confirmed"))
            raise
        finally:
            self.confirmed, self.ruled = None, bool(self._rules)
            self._told()
        _settle(done)

    def _next(self, rules: Sequence[Rule]) -> Phase:
        """Name the next phase; one that comes again has a number."""
        kind, policy = (LIMITED, "applied") if rules else (RECOVERED, "removed")
        before = sum(window.phase.policy == policy for window in self._measured.windows)
        return _phase(f"{kind}-{before + 1}" if before else kind, policy)

    def _refuse_the_rest(self) -> None:
        with contextlib.suppress(asyncio.QueueEmpty):
            while True:
                order = self._orders.get_nowait()
                if order is not None:
                    _settle(order[1], RefusedError("the test has ended", hint="start users first"))

    def _confirm(self, confirmed: int) -> None:
        if self.confirmed is not None:
            self.confirmed = confirmed
            self._told()


class Peeked:
    """A load whose edge is looked for while its tally goes on: it is not held, and what ends at the edge is a copy."""

    def __init__(self, load: Load) -> None:
        self._load = load

    async def look(self) -> Sight:
        return await self._load.look()

    async def begin_tally(self, *, if_overflow: int | None = None) -> Tally | None:
        tally = await self._load.snapshot()
        if if_overflow is not None and (await self._load.look()).sidecar_overflow != if_overflow:
            return None
        return tally

    def hold(self) -> None: ...
    def release(self) -> None: ...


def _phase(name: str, policy: str) -> Phase:
    return Phase.model_validate({"name": name, "policy": policy, "duration": f"{ENDLESS_S:.0f}s"})


def _settle(done: asyncio.Future[None], error: LoadgenError | None = None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
