"""What happens when? One scenario in time: the load runs through all phases, the policy is toggled under it, and put back at the end.

A phase counts only when every client's sidecar shows the wanted state and everything sent before that has ended. Whatever happens, the
load is stopped, the policy is removed and verified, and what was measured until then becomes the report.
"""

from __future__ import annotations

import random
import resource
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import anyio

from loadgen.engine.load import ClientLoad, Shot, clock
from loadgen.errors import LoadgenError, MeshError
from loadgen.outcome import Answer, Expected, Outcome
from loadgen.progress import Progress
from loadgen.runner.convergence import CONVERGE_S, POLL_S, converge, for_each
from loadgen.runner.window import Edge, Measured, Window, find_edge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from anyio.abc import TaskGroup

    from loadgen.inputs import Plan
    from loadgen.ledger import Counters, ServiceCount
    from loadgen.policy.rule import Rule
    from loadgen.policy.state import SidecarState
    from loadgen.scenario import Phase

HURRY_S = 2.0
"""How long stopping, restoring and the last readings may take together when a run ends early; ^C must be answered within 3 s."""
SAMPLE_S = 0.7
PROGRESS_S = 0.2


class MeshClient(Protocol):
    """A client of the mesh: its name, and where its requests go."""

    @property
    def name(self) -> str:
        """The client's name."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to send to."""


C = TypeVar("C", bound=MeshClient)
T = TypeVar("T")


class Mesh(Protocol[C]):
    """What a run needs of a mesh, local or in a cluster."""

    @property
    def clients(self) -> Sequence[C]:
        """All clients."""

    async def put(self, rules: Sequence[Rule]) -> None:
        """Make these rules the policy; none removes it."""

    def wanted(self, rules: Sequence[Rule]) -> SidecarState:
        """Give the state that these rules must lead to in every sidecar."""

    async def state(self, client: C) -> SidecarState:
        """Give the state of one sidecar."""

    async def counters(self, client: C) -> Counters:
        """Read one sidecar's counters."""

    async def count(self, *, restart_peak: bool = False) -> tuple[ServiceCount, dict[str, ServiceCount]]:
        """Read the service's count, in all and per client."""

    async def watch(self) -> MeshError:
        """Wait until a part of the mesh dies."""


class Observer(Protocol):
    """Who watches a run. Nothing that it does may block."""

    def phase_began(self, name: str, policy: str, rule: str | None, convergence_s: Sequence[float]) -> None:
        """A phase begins to count. ``rule`` is what the sidecars say is in force; ``convergence_s`` is empty if nothing was toggled."""

    def answer(self, answer: Answer) -> None:
        """One of the answers, now and then."""

    def progress(self, progress: Progress) -> None:
        """Several times a second."""


def cpu_s() -> float:
    """Give the CPU time of this process so far, user and system, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Story(Generic[C]):
    """One run. ``run`` may be stopped from outside with ``stop``."""

    def __init__(self, plan: Plan, mesh: Mesh[C], observer: Observer) -> None:
        self._plan = plan
        self._scenario = plan.scenario
        self._mesh = mesh
        self._observer = observer
        self._scope = anyio.CancelScope()
        self._ending = anyio.CancelScope()
        self._measured = Measured()
        self._loads: dict[str, ClientLoad] = {}
        self._open: Window | None = None
        self._applied = False
        self._phase_index = 0

    def stop(self, reason: str) -> None:
        """End the run early; what was measured is INVALID for this reason."""
        self._measured.reasons.append(reason)
        self._scope.cancel()
        self._ending.deadline = min(self._ending.deadline, anyio.current_time() + HURRY_S)

    async def run(self) -> Measured:
        """Run all phases, restore, and give what was measured. Raises nothing that a run can foresee."""
        started = clock()
        async with anyio.create_task_group() as tasks:
            self._loads = {client.name: self._load(client, number, tasks) for number, client in enumerate(self._mesh.clients)}
            for job in (self._watch, self._sample, self._report_progress):
                tasks.start_soon(job)
            try:
                with self._scope:
                    await self._tell()
            except LoadgenError as error:
                self._measured.reasons.append(_one_line(error))
            finally:
                with anyio.CancelScope(shield=True):
                    await self._finish()
                for load in self._loads.values():
                    load.abort()
                tasks.cancel_scope.cancel()
        self._measured.ended_s = clock() - started
        return self._measured

    def _load(self, client: C, number: int, tasks: TaskGroup) -> ClientLoad:
        target, load = self._scenario.target, self._scenario.load
        name, namespace = target.service
        head = f"GET {target.path} HTTP/1.1\r\nhost: {name}.{namespace}:{target.port}\r\nuser-agent: loadgen\r\nx-loadgen-client: {client.name}\r\n\r\n"
        expected = Expected(target.expect.status, target.expect.body.encode())
        shot = Shot(head.encode("ascii"), expected, load.timeout, load.max_in_flight)
        return ClientLoad(client.name, client.address, shot, load.pacing, random.Random(f"{self._scenario.seed}-{number}"), tasks)

    # The story.

    async def _tell(self) -> None:
        for load in self._loads.values():
            load.start()
        for index, phase in enumerate(self._scenario.phases):
            self._phase_index = index
            await self._enter(phase)
            await anyio.sleep(phase.duration)
            await self._leave()

    async def _enter(self, phase: Phase) -> None:
        """Bring the mesh into the phase's state and find the edges at which it begins to count."""
        rules = self._plan.rules if phase.policy == "applied" else ()
        convergence: dict[str, float] = {}
        if (phase.policy == "applied") is not self._applied:
            toggled = clock()
            self._applied = phase.policy == "applied"
            await self._mesh.put(rules)
            convergence = {name: at - toggled for name, at in (await converge(self._mesh, rules)).items()}
        drain = await self._each(self._drain)
        states = await self._each(self._mesh.state)
        starts = await self._each(self._edge)
        await self._mesh.count(restart_peak=True)
        self._open = Window(phase, starts, convergence, drain, states, cpu_s(), clock())
        rule = next(iter(states.values())).rule
        self._observer.phase_began(phase.name, phase.policy, rule, list(convergence.values()))

    async def _leave(self) -> None:
        """Find the edges at which the open phase ends to count."""
        window = self._open
        assert window is not None, "leave without enter"
        window.ended, window.cpu_end_s = clock(), cpu_s()
        window.service = await self._mesh.count()
        window.ends = await self._each(self._edge)
        self._close(window)
        changed = [name for name, state in (await self._each(self._mesh.state)).items() if state != window.states[name]]
        if changed:
            self._measured.reasons.append(
                f"the policy was changed by somebody else during phase {window.phase.name}, at {', '.join(changed)}"
            )

    def _close(self, window: Window) -> None:
        self._open = None
        self._measured.windows.append(window)

    async def _drain(self, client: C) -> float:
        """Wait until everything that this client had sent has ended; give the seconds that it took."""
        load = self._loads[client.name]
        started, sent = clock(), load.sent
        while not load.all_done_through(sent):  # noqa: ASYNC110  # the hot path signals nothing: it would cost every request
            await anyio.sleep(POLL_S)
        return clock() - started

    async def _edge(self, client: C) -> Edge:
        edge = await find_edge(self._loads[client.name], lambda: self._mesh.counters(client))
        _, clients = await self._mesh.count()
        return replace(edge, arrived=clients[client.name].requests if client.name in clients else 0)

    async def _each(self, job: Callable[[C], Awaitable[T]]) -> dict[str, T]:
        return await for_each(self._mesh.clients, job)

    # The end, whatever came before.

    async def _finish(self) -> None:
        """Close an open phase, stop the load, remove the policy and verify; each step tries even if the one before failed."""
        budget_s = HURRY_S if self._measured.reasons else self._scenario.load.timeout + CONVERGE_S
        self._ending.deadline = anyio.current_time() + budget_s
        with self._ending:
            if self._open is not None:
                await self._attempt(self._leave)
            for load in self._loads.values():
                load.stop()
            await self._attempt(self._restore)
            await self._attempt(self._settle)
        if self._open is not None:
            self._open.ended, self._open.cpu_end_s = self._open.ended or clock(), self._open.cpu_end_s or cpu_s()
            self._close(self._open)

    async def _attempt(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except LoadgenError as error:
            if not self._measured.reasons:
                self._measured.reasons.append(_one_line(error))

    async def _restore(self) -> None:
        if not any(phase.policy == "applied" for phase in self._scenario.phases[: self._phase_index + 1]):
            return
        self._measured.restored = False
        self._measured.restore_detail = "the sidecars did not confirm that the policy is gone"
        if self._applied:
            await self._mesh.put(())
        await converge(self._mesh, ())
        self._measured.restored = True
        self._measured.restore_detail = f"all {len(self._loads)} sidecars show that the policy is gone"

    async def _settle(self) -> None:
        """Wait for the last answers and compare the witnesses once more, over the whole run."""
        await self._each(self._drain)
        for name, counters in (await self._each(self._mesh.counters)).items():
            seen = self._loads[name].sidecar_overflow
            if seen != counters.overflow:
                self._measured.reasons.append(
                    f"over the whole run {name} saw {seen:,} overflows, but its sidecar counted {counters.overflow:,}: somebody else used the sidecar, or it was bypassed"
                )

    # Beside the story.

    async def _watch(self) -> None:
        death = await self._mesh.watch()
        self.stop(_one_line(death))

    async def _sample(self) -> None:
        loads = list(self._loads.values())
        while True:
            for load in loads:
                load.next_answer = self._observer.answer
                await anyio.sleep(SAMPLE_S)

    async def _report_progress(self) -> None:
        while True:
            await anyio.sleep(PROGRESS_S)
            self._observer.progress(self._progress())

    def _progress(self) -> Progress:
        phases = self._scenario.phases
        phase = phases[self._phase_index]
        elapsed = clock() - self._open.began if self._open else 0.0
        left = sum(each.duration for each in phases[self._phase_index :]) - elapsed
        outcomes = dict.fromkeys(Outcome, 0)
        for load in self._loads.values():
            for outcome, count in load.tallies[-1].outcomes.items():
                outcomes[outcome] += count
        in_flight = sum(load.in_flight for load in self._loads.values())
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
            in_flight,
        )


def _one_line(error: LoadgenError) -> str:
    return error.message
