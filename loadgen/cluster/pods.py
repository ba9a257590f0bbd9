"""What is a load pod to a run? One of its loads: it is told what to do, and reports.

The law: a pod finds the edges of its windows by itself, next to its sidecar; what travels through the API server is only what was found.
A pod that is gone, that was restarted, that another run took, or that is silent for ``SILENT_S`` is lost, and the run with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import anyio

from loadgen.cluster import answer, remote
from loadgen.cluster.remote import NotOursError, PodGoneError
from loadgen.engine.load import Sight, clock
from loadgen.errors import HammerError, LoadgenError, MeshError, printable
from loadgen.ledger import Counters
from loadgen.outcome import Outcome
from loadgen.recorder import Tally

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from anyio.abc import TaskGroup

    from loadgen.cluster.remote import RemotePod
    from loadgen.engine.edge import Edge
    from loadgen.outcome import Answer
    from loadgen.policy.state import SidecarState

REACH_S = 5.0
"""How long a pod waits for its sidecar before it answers that the state was not reached; then it is asked again."""
POLL_S = 0.5
LEAVE_S = 2.0
AT_ONCE = 16
"""So many pods are asked at the same time: more is no faster through one API server, and costs memory."""


class PodLoad:
    """The load of one pod. What is said to it arrives in the order in which it was said."""

    def __init__(self, control: RemotePod, number: int, take: Mapping[str, object]) -> None:
        self.name = control.name
        self.control = control
        self.last_tally = Tally()
        self.death: HammerError | None = None
        self.is_gone = False
        """Whether there is no such pod any more; its sidecar went with it. One that was lost otherwise still has its sidecar."""
        self.base = Counters()
        """What the sidecar had counted when the run took the pod."""
        self._take = take
        self._number = number
        self._incarnation = ""
        self._seen_at = math.inf
        self._tell: Callable[[Answer], None] | None = None
        self._sight = Sight(dict.fromkeys(Outcome, 0), 0, 0, 0, -number, 0.0)
        self._orders: asyncio.Queue[str] = asyncio.Queue()
        """No stream: what is ordered when nobody passes it on any more is no error."""

    def __repr__(self) -> str:
        return f"<PodLoad {self.name}>"

    @property
    def sight(self) -> Sight:
        """What was seen when the pod last reported."""
        return self._sight

    async def prepare(self) -> None:
        """Take the pod: its own load ends, and that of the run is made."""
        taken = await self.control.tell("take", timeout_s=2 * remote.ASK_S, **self._take)
        self.base = await self._counted()
        with self.control.reading("take"):
            self._incarnation = answer.text(taken["incarnation"])
        self._note(taken)

    def start(self) -> None:
        self._orders.put_nowait("start")

    def stop(self) -> None:
        self._orders.put_nowait("stop")

    def abort(self) -> None:
        self._orders.put_nowait("abort")

    def ask(self, tell: Callable[[Answer], None]) -> None:
        self._tell = tell

    async def look(self) -> Sight:
        seen = await self._have("look")
        with self.control.reading("look"):
            self._sight = answer.sight(seen, -self._number)
        return self._sight

    async def snapshot(self) -> Tally:
        """Give the present tally; if the pod is gone, as it was when it last reported."""
        with contextlib.suppress(LoadgenError):
            await self.poll()
        return self.last_tally

    async def all_done_since(self, moment: float) -> bool:
        said = await self._have("done_since", age_s=max(0.0, clock() - moment))
        with self.control.reading("done_since"):
            return answer.flag(said["done"])

    async def edge(self) -> Edge:
        """Have the pod find an edge; it knows by itself how far it and its sidecar differ from before."""
        found = await self._have("edge", timeout_s=2 * remote.ASK_S)
        with self.control.reading("edge"):
            return answer.edge(found, self.base, clock())

    async def counters(self) -> Counters:
        """Read what the sidecar has counted since the run took the pod."""
        return (await self._counted()).since(self.base)

    async def _counted(self) -> Counters:
        said = await self._have("counters")
        with self.control.reading("counters"):
            return answer.counters(said["counters"])

    async def state(self) -> SidecarState:
        """Read what is in force in the pod's sidecar."""
        said = await self._have("state")
        if said.get("error"):
            raise MeshError(f"the sidecar of pod {self.name}: {printable(str(said['error']))}")
        with self.control.reading("state"):
            return answer.state(said)

    async def reach(self, wanted: SidecarState) -> None:
        """Wait until the pod's sidecar shows a state."""
        limits = dataclasses.asdict(wanted.limits)
        while True:
            said = await self._have("converge", limits=limits, rule=wanted.rule, wait_s=REACH_S, timeout_s=REACH_S + remote.ASK_S)
            with self.control.reading("converge"):
                if answer.flag(said["reached"]):
                    return

    async def poll(self) -> None:
        """Take in what the pod reports now, once it was taken."""
        if self._incarnation:
            self._note(await self.control.snapshot())

    async def obey(self) -> None:
        """Pass on what was ordered, one after the other, for as long as the task lives."""
        while True:
            verb = await self._orders.get()
            try:
                await self._have(verb)
            except LoadgenError as error:
                self.lose(error.message)

    def lose(self, why: str) -> None:
        """Give the pod up."""
        self.death = self.death or HammerError(why)

    def bury(self, error: PodGoneError) -> None:
        """Give the pod up, and its sidecar with it."""
        self.lose(error.message)
        self.is_gone = True

    async def _have(self, verb: str, *, timeout_s: float = remote.ASK_S, **arguments: object) -> dict[str, Any]:
        """Have the pod do something for the run. If it is no longer ours, say why: it knows only that it is not."""
        try:
            return await self.control.tell(verb, timeout_s=timeout_s, **arguments)
        except PodGoneError as error:
            self.bury(error)
            raise
        except NotOursError as error:
            with contextlib.suppress(LoadgenError):
                await self.poll()
            if self.death is None:
                raise
            raise MeshError(self.death.message) from error

    def _note(self, snapshot: Mapping[str, Any]) -> None:
        with self.control.reading("/snapshot"):
            if snapshot["incarnation"] != self._incarnation:
                self.lose(f"pod {self.name} was restarted during the run; what it had counted is lost")
                return
            if snapshot["run"] != self.control.run:
                self.lose(f"pod {self.name} works for {printable(str(snapshot['run'] or 'nobody'))} and no longer for this run")
                return
            sight, tally = answer.sight(snapshot["sight"], -self._number), answer.tally(snapshot["tally"])
            sample = answer.sample(self.name, snapshot["sample"]) if snapshot["sample"] else None
        self._sight, self.last_tally = sight, tally
        self._seen_at = clock()
        if self._tell is not None and sample is not None:
            tell, self._tell = self._tell, None
            tell(sample)

    def silent_s(self) -> float:
        """Give the seconds since the pod was last heard of; 0 before it was taken."""
        return max(0.0, clock() - self._seen_at)


class PodCrew:
    """The loads of a run's pods, by name; polled in the background from when they were taken until the run lets go of them."""

    def __init__(self, loads: Sequence[PodLoad]) -> None:
        self.loads = {load.name: load for load in loads}
        self._at_once = anyio.CapacityLimiter(AT_ONCE)

    @contextlib.asynccontextmanager
    async def __call__(self, tasks: TaskGroup) -> AsyncIterator[Self]:
        """Give the loads; at the end every pod goes back to its own load."""
        for load in self.loads.values():
            tasks.start_soon(load.obey)
        tasks.start_soon(self._poll)
        try:
            yield self
        finally:
            with anyio.move_on_after(LEAVE_S, shield=True):
                await self.leave()

    async def label(self, phase: str | None) -> None:
        """Tell all pods under which phase their metrics count from now on. One that does not hear it counts under the one before."""
        async with anyio.create_task_group() as tasks:
            for load in self.loads.values():
                tasks.start_soon(self._say, partial(load.control.tell, "phase", name=phase))

    async def leave(self) -> None:
        """Let all pods go. One that does not hear it goes back to its own load when the run is silent."""
        async with anyio.create_task_group() as tasks:
            for load in self.loads.values():
                tasks.start_soon(self._say, partial(load.control.tell, "leave"))

    async def _say(self, order: Callable[[], Awaitable[object]]) -> None:
        async with self._at_once:
            with contextlib.suppress(LoadgenError):
                await order()

    async def watch(self) -> HammerError:
        """Wait until a pod is lost; say which."""
        while True:
            for load in self.loads.values():
                if load.death is not None:
                    return load.death
            await anyio.sleep(POLL_S / 5)

    async def _poll(self) -> None:
        rest_s = POLL_S
        while True:
            await anyio.sleep(rest_s)
            began = clock()
            await self.poll_all()
            rest_s = max(POLL_S, clock() - began)  # so many pods that it takes long must not keep the runner busy all the time

    async def poll_all(self) -> None:
        """Take in what all pods report now."""
        async with anyio.create_task_group() as tasks:
            for load in self.loads.values():
                tasks.start_soon(self._poll_one, load)

    async def _poll_one(self, load: PodLoad) -> None:
        async with self._at_once:
            try:
                await load.poll()
            except PodGoneError as error:
                load.bury(error)
            except LoadgenError as error:
                if load.silent_s() > remote.SILENT_S:
                    load.lose(
                        f"pod {load.name} has reported nothing for {remote.SILENT_S:g} s: {error.message.removeprefix(f'pod {load.name} ')}"
                    )
