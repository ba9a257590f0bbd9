"""One load, no mesh, no phases: send until the time is over or enough were sent, wait for the last answers, and sum up."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import anyio

from loadgen.engine.hammers import Hammers, drain, hammers
from loadgen.engine.load import clock
from loadgen.engine.this_process import cpu_s
from loadgen.errors import HammerError
from loadgen.outcome import Outcome
from loadgen.progress import Progress
from loadgen.recorder import merged
from loadgen.summary import Summary
from loadgen.validity import SENT_NOTHING, Health, busiest_share, doubts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from loadgen.engine.hammers import Load
    from loadgen.engine.spec import LoadSpec
    from loadgen.recorder import Tally

PROGRESS_S = 0.2
LATE_END_S = 5.0
"""The loads end by themselves; one that has not said so by then is stopped."""
TOO_MANY_HIT = "too many were in flight; raise -c or lower the rate"
JUDGED_AFTER_S = 1.0
"""A shorter load is mostly start and end: how busy the hammer was in it says nothing."""


@dataclass(frozen=True, slots=True)
class HitPlan:
    """What is to be sent: one specification for each process, until ``duration_s`` are over or ``limit`` requests have ended."""

    url: str
    load: Mapping[str, object]
    specs: Sequence[LoadSpec]
    duration_s: float | None
    limit: int | None
    timeout_s: float


class Watcher(Protocol):
    """Who watches. Nothing that it does may block."""

    def progress(self, progress: Progress) -> None:
        """Several times a second."""


class Hit:
    """One load. ``run`` may be stopped from outside with ``stop``."""

    def __init__(self, plan: HitPlan, watcher: Watcher) -> None:
        self._plan = plan
        self._watcher = watcher
        self._reasons: list[str] = []
        self._sending = anyio.CancelScope()
        self._draining = anyio.CancelScope()
        self._began = 0.0

    def stop(self, reason: str) -> None:
        """Send no more and do not wait for the last answers; what was measured until now is summed up, and INVALID for this reason."""
        if reason not in self._reasons:
            self._reasons.append(reason)
        self._sending.cancel()
        self._draining.cancel()

    async def run(self) -> Summary:
        """Send, wait, and sum up."""
        plan = self._plan
        async with anyio.create_task_group() as tasks, hammers(plan.specs, tasks, len(plan.specs)) as crew:
            tasks.start_soon(self._watch, crew)
            cpu_before: dict[int, float] = {}
            with self._sending:
                await self._each(crew, lambda load: load.prepare())
                cpu_before = await self._cpu_s(crew)
                await self._send(crew)
            for load in crew.loads.values():
                load.stop()
            stopped = clock()
            cpu_after = await self._cpu_s(crew)
            share = busiest_share([(cpu_before, cpu_after)], clock() - self._began) if self._began else 0.0
            ended_by_then = sum(sum(load.sight.outcomes.values()) - load.sight.outcomes[Outcome.UNSENT] for load in crew.loads.values())
            await self._drain(crew)
            tally = merged([await load.snapshot() for load in crew.loads.values()])
            if self._reasons:
                await self._note_under_way(crew)
            tasks.cancel_scope.cancel()
        duration = stopped - self._began if self._began else 0.0
        return self._summary(tally, duration, ended_by_then, share, crew.processes)

    async def _drain(self, crew: Hammers) -> None:
        """Wait for the last answers; those that do not come in time are counted nowhere, and said."""
        with self._draining:
            self._draining.deadline = min(self._draining.deadline, anyio.current_time() + self._plan.timeout_s + 1.0)
            await self._each(crew, drain)
        if self._draining.cancelled_caught and not self._reasons:
            self._reasons.append(f"the last answers had not come {self._plan.timeout_s + 1:g} s after the last request was sent")

    async def _note_under_way(self, crew: Hammers) -> None:
        await self._cpu_s(crew)  # which looks once more
        under_way = sum(load.sight.in_flight for load in crew.loads.values())
        if under_way:
            self._reasons.append(f"{under_way:,} requests or iterations were under way and are counted nowhere")

    async def _send(self, crew: Hammers) -> None:
        self._began = clock()
        for load in crew.loads.values():
            load.start(for_s=self._plan.duration_s)
        with anyio.move_on_after(None if self._plan.duration_s is None else self._plan.duration_s + LATE_END_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._report, crew)
                await self._each(crew, lambda load: load.wait_finished())
                tasks.cancel_scope.cancel()

    async def _each(self, crew: Hammers, job: Callable[[Load], Awaitable[None]]) -> None:
        """Do something with all loads at the same time. A process that died or is silent ends the load."""

        async def attempt(load: Load) -> None:
            try:
                await job(load)
            except HammerError as error:
                self.stop(error.message)

        async with anyio.create_task_group() as tasks:
            for load in crew.loads.values():
                tasks.start_soon(attempt, load)

    async def _watch(self, crew: Hammers) -> None:
        self.stop((await crew.watch()).message)

    async def _report(self, crew: Hammers) -> None:
        while True:
            await anyio.sleep(PROGRESS_S)
            self._watcher.progress(self._progress(crew))

    def _progress(self, crew: Hammers) -> Progress:
        outcomes = dict.fromkeys(Outcome, 0)
        sights = [load.sight for load in crew.loads.values()]
        for sight in sights:
            for outcome, count in sight.outcomes.items():
                outcomes[outcome] += count
        elapsed = clock() - self._began
        left = self._left_s(elapsed, sum(outcomes.values()))
        return Progress("", "", 0, 1, True, elapsed, elapsed + left, left, outcomes, sum(sight.in_flight for sight in sights))

    def _left_s(self, elapsed: float, done: int) -> float:
        by_time = [self._plan.duration_s - elapsed] if self._plan.duration_s is not None else []
        by_count = [(self._plan.limit - done) * elapsed / done] if self._plan.limit is not None and done else []
        return max(0.0, min([*by_time, *by_count], default=0.0))

    async def _cpu_s(self, crew: Hammers) -> dict[int, float]:
        """Give the CPU time of every process that makes load, and of this one."""
        spent = {os.getpid(): cpu_s()}

        async def look(load: Load) -> None:
            sight = await load.look()
            spent[sight.pid] = sight.cpu_s

        await self._each(crew, look)
        return spent

    def _summary(self, tally: Tally, duration_s: float, ended: int, share: float, processes: int) -> Summary:
        health = Health(
            requests=tally.requests,
            unsent=tally.outcomes[Outcome.UNSENT],
            cpu_share=share if duration_s >= JUDGED_AFTER_S else 0.0,
            lag_p99_s=tally.lag.quantile(0.99),
            loop_lag_p99_s=tally.loop_lag.quantile(0.99) if duration_s >= JUDGED_AFTER_S else 0.0,
            connect_errors=tally.connect_errors,
            unsent_because=SENT_NOTHING if tally.flow_failures else TOO_MANY_HIT,
        )
        reasons = [*self._reasons, *doubts(health, more="offer less load, or use more --processes")]
        if not tally.requests:
            reasons.append("no request ended")
        return Summary(self._plan.url, self._plan.load, processes, duration_s, ended, tally, share, tuple(reasons))
