"""What happens to a mesh under load, phase by phase? Enters a phase, leaves it, toggles the policy between, and puts everything back at the end.

A phase counts only when every client's sidecar shows the wanted state and everything sent before that has ended. Whatever happens, the
load is stopped, the policy is removed and verified, and what was measured until then is given. Which phases there are, and how long each
lasts, says whoever stands on the stage: a story, or a session.
"""

from __future__ import annotations

import abc
import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import anyio
import anyio.lowlevel

from loadgen.engine.hammers import drain
from loadgen.engine.load import clock
from loadgen.engine.this_process import cpu_s
from loadgen.errors import LoadgenError, PolicyLostError
from loadgen.ledger import Counters
from loadgen.runner.convergence import converge, for_each
from loadgen.runner.live import Live
from loadgen.runner.needs import C, L
from loadgen.runner.window import Measured, Window
from loadgen.runner.witnesses import imbalance_outside, shortened
from loadgen.series import BETWEEN, SeriesRecorder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskGroup

    from loadgen.engine.edge import Edge
    from loadgen.policy.rule import Rule
    from loadgen.policy.state import SidecarState
    from loadgen.recorder import Tally
    from loadgen.runner.needs import Loads, Mesh
    from loadgen.scenario import Phase

FOLLOW_S = 0.005
SECOND_S = 1.0


T = TypeVar("T")


class LastEdge(NamedTuple):
    """What a sidecar had counted at a client's last edge, and how many requests were on their way there."""

    counters: Counters
    on_the_way: int = 0


class Stage(abc.ABC, Generic[C, L]):
    """A mesh and its loads. ``crew`` gives the loads of the mesh's clients, wherever they live; ``live`` shows how it goes on, if somebody asks.

    A request takes at most ``timeout_s`` seconds. ``run`` may be stopped from outside with ``stop``.
    """

    def __init__(
        self,
        mesh: Mesh[C, L],
        crew: Callable[[TaskGroup], AbstractAsyncContextManager[Loads[L]]],
        live: Live | None = None,
        *,
        timeout_s: float,
    ) -> None:
        self._mesh = mesh
        self._timeout_s = timeout_s
        self._scope = anyio.CancelScope()
        self._ending = anyio.CancelScope()
        self._measured = Measured()
        self._live = live or Live(())
        self._series = SeriesRecorder(live.totals if live is not None else None)
        self._began = 0.0
        """When the load began, on ``clock``."""
        self._crew = crew
        self._hammers: Loads[L]
        self._open: Window | None = None
        self._rules: Sequence[Rule] = ()
        """What was put last."""
        self._touched = False
        """Whether a policy may be in force: true from before it is put until all sidecars have confirmed that it is gone."""
        self._last: dict[str, LastEdge] = {}
        """By client: its last edge, or what its sidecar had counted before the load began (nothing of a new one)."""
        self._apart: dict[str, str] = {}
        """By client: where it and its sidecar first differed while no phase counted, and why."""
        self._offsets: dict[str, int] = {}

    def stop(self, reason: str) -> None:
        """End the run early; what was measured is INVALID for this reason."""
        self._measured.reasons.append(reason)
        self._scope.cancel()
        self._ending.deadline = min(self._ending.deadline, anyio.current_time() + self._mesh.hurry_s)

    async def run(self) -> Measured:
        """Run all phases, restore, and give what was measured. Raises nothing that a run can foresee."""
        started = clock()
        async with anyio.create_task_group() as tasks, self._crew(tasks) as self._hammers:
            self._live.begins(self._hammers.loads)
            for job in (self._watch_mesh, self._watch_hammers, self._record_series, *self._jobs()):
                tasks.start_soon(job)
            try:
                with self._scope:
                    await self._tell()
            except LoadgenError as error:
                cause = next(iter(self._mesh.deaths()), error)
                self._measured.policy_lost |= isinstance(cause, PolicyLostError)
                self._measured.reasons.append(cause.in_a_line)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._finish()
                for load in self._hammers.loads.values():
                    load.abort()
                tasks.cancel_scope.cancel()
        self._live.ends(policy_gone=self._measured.restored is not False)
        self._measured.ended_s = clock() - started
        self._measured.series = self._series.series()
        return self._measured

    # What whoever stands here brings along.

    @abc.abstractmethod
    async def _tell(self) -> None:
        """Begin, enter and leave phases, and return when no further one comes."""

    def _jobs(self) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        """Give what goes on beside, for as long as the run does."""
        return ()

    def _entered(self, window: Window) -> None:
        """Hear that a phase begins to count."""

    def _confirm(self, confirmed: int) -> None:
        """Hear how many sidecars show the policy that is being put or removed."""

    # What they do.

    async def _begin(self) -> None:
        """Start the load; nothing counts yet."""
        await self._each(lambda client: self._hammers.loads[client.name].prepare())
        self._began = self._measured.began = clock()
        for name, load in self._hammers.loads.items():
            self._series.opens(name, load.last_tally.number, BETWEEN)
            load.start()

    async def _enter(self, phase: Phase, rules: Sequence[Rule]) -> None:
        """Bring the mesh into the phase's state, with these rules as the policy, and find the edges at which it begins to count."""
        convergence: dict[str, float] = {}
        toggled = clock()
        if rules == self._rules:
            await converge(self._mesh, rules, tell=self._confirm)  # nothing to toggle; it must be so all the same
        else:
            convergence = await self._toggle(rules)
        drain = await self._each(self._drain)
        states = await self._each(self._mesh.state)
        starts = await self._each(partial(self._edge, opens=phase.name))
        await self._mesh.phase(phase.name)
        service = await self._mesh.count(restart_peak=True)
        at = toggled if convergence else None
        self._open = Window(phase, starts, convergence, drain, states, service, self._cpu_s(), clock(), at, rules)
        self._live.enters(phase.name, states.values())
        self._entered(self._open)

    async def _toggle(self, rules: Sequence[Rule]) -> dict[str, float]:
        """Put or remove the policy; give the seconds that it took at each client."""
        if rules:
            self._touched = True
            self._restored(done=False, detail="the sidecars did not confirm that the policy is gone")
        self._live.toggles()
        self._rules = rules
        moments = await self._mesh.put(rules)
        reached = await converge(self._mesh, rules, tell=self._confirm)
        took_s = {name: at - moments[name] for name, at in reached.items()}
        self._live.converged(took_s.values())
        if not rules:
            self._touched = False
            self._restored(done=True, detail=f"all {len(reached)} sidecars show that the policy is gone")
        return took_s

    def _restored(self, *, done: bool, detail: str) -> None:
        self._measured.restored, self._measured.restore_detail = done, detail

    async def _leave(self) -> None:
        """Find the edges at which the open phase ends to count. If that is cut short, ``_close_early`` finds those that are still missing."""
        window = self._open
        assert window is not None, "leave without enter"
        window.ended, window.cpu_end_s = clock(), self._cpu_s()
        window.service = await self._mesh.count()
        await self._each(self._end)
        await self._mesh.phase(None)
        self._close(window)
        if change := _changed(window, await self._each(self._mesh.state)):
            window.changed = self._measured.policy_lost = True
            self._measured.reasons.append(change)

    async def _end(self, client: C) -> None:
        window = self._open
        if window is not None and client.name not in window.ends:
            edge = window.ends[client.name] = await self._edge(client)
            window.tallies[client.name] = edge.tally

    async def _end_if_possible(self, client: C) -> None:
        with contextlib.suppress(LoadgenError):  # its sidecar may be what broke; the ledgers of the others are kept
            await self._end(client)

    def _close(self, window: Window) -> None:
        self._open = None
        self._measured.windows.append(window)
        self._live.leaves(window)

    async def _drain(self, client: C) -> float:
        """Wait until everything that this client had sent has ended; give the seconds that it took."""
        started = clock()
        await anyio.sleep(FOLLOW_S)  # Envoy's workers follow what its admin interface shows by well under a millisecond
        await drain(self._hammers.loads[client.name])
        return clock() - started

    async def _edge(self, client: C, *, opens: str = BETWEEN) -> Edge:
        """Find an edge of one client's window; from it on its requests belong to the phase that it ``opens``."""
        edge = await self._mesh.edge(client, self._hammers.loads[client.name], offset=self._offsets.get(client.name, 0))
        self._offsets[client.name] = edge.overflow - edge.reading.counters.overflow
        if opens != BETWEEN:
            self._compare(client.name, edge.tally, edge.reading.counters, edge.on_the_way)
        self._last[client.name] = LastEdge(edge.reading.counters, edge.on_the_way)
        self._series.complete(self._second(), client.name, edge.tally)
        self._series.opens(client.name, edge.tally.number + 1, opens)
        return edge

    async def _each(self, job: Callable[[C], Awaitable[T]]) -> dict[str, T]:
        return await for_each(self._mesh.clients, job)

    # The end, whatever came before.

    async def _finish(self) -> None:
        """Stop the load, close an open phase, remove the policy and verify; each step tries even if the one before failed."""
        for load in self._hammers.loads.values():
            load.stop()
        budget_s = self._mesh.hurry_s if self._measured.reasons else self._timeout_s + self._mesh.converge_s
        self._ending.deadline = anyio.current_time() + budget_s
        with self._ending:
            with anyio.move_on_after(self._mesh.hurry_s / 3):
                await self._close_early()
            await self._attempt(self._restore, always=True)
            await self._attempt(self._settle)
        if self._ending.cancelled_caught:
            self._measured.reasons.append("the end was cut short: not everything could be read and verified in time")
        if self._open is not None:
            await self._take_tallies(self._open)
            self._close(self._open)

    async def _close_early(self) -> None:
        """Read what can still be read of a phase that was cut short."""
        if self._open is None:
            return
        self._open.ended, self._open.cpu_end_s = self._open.ended or clock(), self._open.cpu_end_s or self._cpu_s()
        with contextlib.suppress(LoadgenError):
            self._open.service = self._open.service or await self._mesh.count()
        await self._each(self._end_if_possible)

    async def _take_tallies(self, window: Window) -> None:
        """Take what was counted until now where no edge was found."""
        for name, load in self._hammers.loads.items():
            if name not in window.tallies:
                tally = window.tallies[name] = await load.snapshot()
                self._series.complete(self._second(), name, tally)

    async def _attempt(self, step: Callable[[], Awaitable[None]], *, always: bool = False) -> None:
        """Try a step. That it failed is a reason if there is no other, of which it may be a mere consequence, or if it is one ``always``."""
        try:
            await step()
        except LoadgenError as error:
            sentence = error.in_a_line
            if not self._measured.reasons or (always and sentence not in self._measured.reasons):
                self._measured.reasons.append(sentence)

    async def _restore(self) -> None:
        """Remove the policy if one may be in force. A sidecar that died took it along."""
        if not self._touched:
            return
        self._live.toggles()
        try:
            await self._mesh.put(())
            gone = self._mesh.gone()
            reached = await converge(self._mesh, (), without=gone)
        except LoadgenError as error:
            self._restored(done=False, detail=f"the sidecars did not confirm that the policy is gone: {error.in_a_line}")
            raise
        self._touched = False
        died = f"; {', '.join(sorted(gone))} died and took it along" if gone else ""
        self._restored(
            done=True,
            detail=f"{len(reached)} sidecars show that the policy is gone{died}"
            if gone
            else f"all {len(reached)} sidecars show that the policy is gone",
        )

    async def _settle(self) -> None:
        """Wait for the last answers, and say which clients and sidecars differ in what no phase's ledger holds."""
        await self._each(self._drain)
        for name, counters in (await self._each(self._mesh.counters)).items() if self._began else ():
            self._compare(name, await self._hammers.loads[name].snapshot(), counters)
        self._measured.reasons += shortened(list(self._apart.values()))

    def _compare(self, name: str, tally: Tally, counters: Counters, on_the_way: int = 0) -> None:
        """Hold a client against its sidecar over the stretch since its last edge, in which no phase counted."""
        last = self._last.get(name, LastEdge(Counters()))
        if apart := imbalance_outside(name, tally, counters.since(last.counters), last.on_the_way + on_the_way):
            self._apart.setdefault(name, apart)

    # Beside the story.

    async def _watch_mesh(self) -> None:
        death = await self._mesh.watch()
        self._measured.policy_lost |= isinstance(death, PolicyLostError)
        self._stop_for(death.in_a_line)

    async def _watch_hammers(self) -> None:
        self._stop_for((await self._hammers.watch()).in_a_line)

    def _stop_for(self, death: str) -> None:
        if death not in self._measured.reasons:
            self.stop(death)

    def _cpu_s(self) -> dict[int, float]:
        """Give the CPU time of every process that makes load, and of this one."""
        sights = [load.sight for load in self._hammers.loads.values()]
        return {os.getpid(): cpu_s(), **{sight.pid: sight.cpu_s for sight in sights}}

    async def _record_series(self) -> None:
        """At the end of each second, note what it brought."""
        while not self._began:  # noqa: ASYNC110  # once
            await anyio.sleep(FOLLOW_S)
        while True:
            second = self._second()
            await anyio.sleep(max(0.0, self._began + (second + 1) * SECOND_S - clock()))  # which may just have begun
            for name, load in self._hammers.loads.items():
                self._series.notice(second, name, load.last_tally)
                await anyio.lowlevel.checkpoint()  # with 200 clients this takes tens of milliseconds, and others send here
            self._series.in_flight(second, sum(load.sight.in_flight for load in self._hammers.loads.values()))

    def _second(self) -> int:
        return int((clock() - self._began) / SECOND_S) if self._began else 0


def _changed(window: Window, after: Mapping[str, SidecarState]) -> str:
    """Say at which clients the policy is not the one with which a phase began, or was not for a while; nothing if it was at none."""
    others = [name for name, state in after.items() if state != window.states[name]]
    if others:
        return f"the policy was changed by somebody else during phase {window.phase.name}, at {', '.join(others)}"
    renewed = [name for name, state in after.items() if state.updated != window.states[name].updated]
    if renewed:
        return (
            f"what is in force was changed by somebody else during phase {window.phase.name} and put back, or the sidecar was restarted, at"
            f" {', '.join(renewed)}: what a sidecar admitted meanwhile is another configuration's doing"
        )
    return ""
