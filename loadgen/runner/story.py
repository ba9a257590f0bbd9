"""What happens when? One scenario in time: the load runs through all phases, the policy is toggled under it, and put back at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from loadgen.engine.load import clock
from loadgen.outcome import Outcome
from loadgen.progress import Progress
from loadgen.recorder import Histogram
from loadgen.runner.needs import C, L
from loadgen.runner.stage import SECOND_S, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskGroup

    from loadgen.inputs import Plan
    from loadgen.runner.live import Live
    from loadgen.runner.needs import Loads, Mesh, Observer
    from loadgen.runner.window import Window

SAMPLE_S = 0.1
PROGRESS_S = 0.2


class Story(Stage[C, L]):
    """One run of a scenario, which ``observer`` watches; the rest is as for a stage."""

    def __init__(
        self,
        plan: Plan,
        mesh: Mesh[C, L],
        observer: Observer,
        crew: Callable[[TaskGroup], AbstractAsyncContextManager[Loads[L]]],
        live: Live | None = None,
    ) -> None:
        super().__init__(mesh, crew, live, timeout_s=plan.scenario.load.timeout)
        self._plan = plan
        self._observer = observer
        self._phase_index = 0
        self._confirmed = 0
        """How many sidecars show the policy that is being put or removed."""
        self._ok_p99: tuple[float, float | None] = (0.0, None)
        """The p99 of ``ok`` in the present tallies, and when it was looked at; it is some work."""

    async def _tell(self) -> None:
        await self._begin()
        for index, phase in enumerate(self._plan.scenario.phases):
            self._phase_index, self._confirmed = index, 0
            await self._enter(phase, self._plan.rules if phase.policy == "applied" else ())
            await anyio.sleep(phase.duration)
            await self._leave()

    def _jobs(self) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        return self._sample, self._report_progress

    def _entered(self, window: Window) -> None:
        rule = next(iter(window.states.values())).rule
        self._observer.phase_began(window.phase.name, window.phase.policy, rule, list(window.convergence_s.values()))

    def _confirm(self, confirmed: int) -> None:
        self._confirmed = confirmed

    async def _sample(self) -> None:
        loads = list(self._hammers.loads.values())
        while True:
            for load in loads:
                load.ask(self._observer.answer)
                await anyio.sleep(SAMPLE_S)

    async def _report_progress(self) -> None:
        while True:
            await anyio.sleep(PROGRESS_S)
            if self._open is None or not self._open.ended:  # while a phase is left, the clients begin new tallies one after the other
                self._observer.progress(self._progress())

    def _progress(self) -> Progress:
        phases = self._plan.scenario.phases
        phase = phases[self._phase_index]
        elapsed = clock() - self._open.began if self._open else 0.0
        left = sum(each.duration for each in phases[self._phase_index :]) - elapsed
        outcomes = dict.fromkeys(Outcome, 0)
        sights = [load.sight for load in self._hammers.loads.values()]
        for sight in sights:
            for outcome, count in sight.outcomes.items():
                outcomes[outcome] += count
        return Progress(
            phase.name,
            phase.policy,
            self._phase_index,
            len(phases),
            self._open is not None,
            elapsed,
            phase.duration,
            max(0.0, left),
            outcomes,
            in_flight=sum(sight.in_flight for sight in sights),
            limit=self._limit(),
            ok_p99_s=self._ok_p99_s(),
            clients=len(sights),
            confirmed=self._confirmed,
        )

    def _limit(self) -> int | None:
        """Give how many requests the sidecars let through at a time, all together."""
        limits = [state.limits for state in self._open.states.values()] if self._open else []
        return (
            sum(each.max_requests for each in limits) if limits and all("http2MaxRequests" in each.in_force() for each in limits) else None
        )

    def _ok_p99_s(self) -> float | None:
        if self._open is None:
            self._ok_p99 = (0.0, None)
        elif clock() - self._ok_p99[0] >= SECOND_S:
            total = Histogram()
            for load in self._hammers.loads.values():
                total.add(load.last_tally.latency[Outcome.OK])
            self._ok_p99 = (clock(), total.quantile(0.99) if total.count else None)
        return self._ok_p99[1]
