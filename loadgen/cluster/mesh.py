"""The mesh of a cluster, as a run needs it: load pods behind their sidecars, the rule behind the API server, the service if it counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from loadgen.cluster import answer
from loadgen.cluster.failure import ApiError, NotFoundError
from loadgen.cluster.marks import json_of
from loadgen.cluster.preflight import COUNT_PORT, unseen
from loadgen.cluster.remote import PodGoneError, UnreachableError, patiently
from loadgen.engine.load import clock
from loadgen.errors import LoadgenError, MeshError
from loadgen.ledger import ServiceCount, ServiceReading
from loadgen.preview import state_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.cluster.pods import PodCrew, PodLoad
    from loadgen.cluster.preflight import ServicePod
    from loadgen.cluster.remote import Proxy
    from loadgen.engine.edge import Edge
    from loadgen.ledger import Counters
    from loadgen.policy.rule import Rule
    from loadgen.policy.selection import Service, Workload
    from loadgen.policy.state import SidecarState

WATCH_S = 1.0
NEWCOMERS_S = 5.0
COUNT_S = 5.0
SHOWN = 3
CONVERGE_S = 60.0
"""istiod alone may let a change wait for 10 s while others come (PILOT_DEBOUNCE_MAX); in a busy mesh, that all sidecars get it takes longer."""
HURRY_S = 20.0
"""Even where nothing is amiss the sidecars follow after a second or two, and then the last answers come. Once more ^C leaves at once."""
Newcomers = Callable[[], Awaitable[Sequence[str]]]
"""Names the pods that make the clients' load and are not the run's."""


class Toggle(Protocol):
    """What puts the rule in and takes it out, and knows what the cluster's rules are then."""

    @property
    def before(self) -> Sequence[Rule]:
        """All rules while ours is not in force."""

    @property
    def after(self) -> Sequence[Rule]:
        """All rules while ours is in force."""

    @property
    def written_at(self) -> float | None:
        """The moment on ``clock`` at which the last change was sent, None without one."""

    async def apply(self) -> object: ...
    async def remove(self) -> object: ...

    async def check(self) -> None:
        """Look whether the rule is as we left it, and the lease is ours.

        Raises MeshError with who changed what.
        """


class Counting:
    """The service's own count, where its pods have one: those with the annotation ``loadgen.dev/count-port``.

    ``look`` tells who stands behind the service now; None of a service that does not count, or whose count may not be read. The law: a count
    is that of a phase only if the same pods, without a restart, stand behind the service at its start and at its end.
    """

    def __init__(self, api: Proxy, namespace: str, look: Callable[[], Awaitable[Sequence[ServicePod]]] | None) -> None:
        self._api = api
        self._namespace = namespace
        self._look = look
        self._pods: Sequence[ServicePod] = ()

    async def read(self, *, restart_peak: bool) -> ServiceReading:
        """Add up what the service's pods have counted. With ``restart_peak`` the peaks begin anew, and it is the pods of now that count.

        Raises MeshError if one that is there cannot be asked, or does not count, or if it cannot be seen which are there.
        """
        if self._look is None:
            return ServiceReading(None, {}, "this service does not count")
        pods = await patiently(partial(self._behind, self._look))
        if restart_peak:
            self._pods = pods
        elif pods != self._pods:
            return ServiceReading(None, {}, f"the service's pods changed during the phase ({_difference(self._pods, pods)})")
        total, clients = ServiceCount(), dict[str, ServiceCount]()
        for pod in pods:
            if pod.count_port:
                try:
                    own, each = await patiently(partial(self._page, pod, restart_peak=restart_peak))
                except PodGoneError as error:
                    return ServiceReading(None, {}, error.message)
                total = total.plus(own)
                clients |= {name: clients.get(name, ServiceCount()).plus(count) for name, count in each.items()}
        return ServiceReading(total, clients, unseen(pods))

    async def _behind(self, look: Callable[[], Awaitable[Sequence[ServicePod]]]) -> Sequence[ServicePod]:
        try:
            return await look()
        except ApiError as error:  # one that has just come back may even say that we may not
            raise UnreachableError(f"it cannot be seen which pods the service has: {error.message}", hint=error.hint) from error

    async def _page(self, pod: ServicePod, *, restart_peak: bool) -> tuple[ServiceCount, dict[str, ServiceCount]]:
        body = b"" if restart_peak else None
        try:
            status, said = await self._api.proxy(
                self._namespace, pod.name, pod.count_port, "/count", body=body, headers={}, timeout_s=COUNT_S
            )
        except NotFoundError as error:
            raise PodGoneError(f"pod {pod.name} of the service is gone") from error
        except ApiError as error:
            raise UnreachableError(f"pod {pod.name} of the service cannot be reached: {error.message}", hint=error.hint) from error
        try:
            page: dict[str, Any] = json_of(said)
            return _count(page), {str(name): _count(count) for name, count in page["clients"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            message = f"pod {pod.name} of the service answered {status} to /count at port {pod.count_port}, and no count"
            raise MeshError(message, hint=f"take its annotation {COUNT_PORT} away if it does not count") from error


def _count(values: Mapping[str, Any]) -> ServiceCount:
    periods = {
        int(top): answer.count(count) for top, count in values.get("periods", {}).items()
    }  # a service of one's own may not tell them
    figures = {name: answer.count(values[name]) for name in ("requests", "in_flight", "peak_in_flight")}
    return ServiceCount(**figures, periods=periods)


def _difference(then: Sequence[ServicePod], now: Sequence[ServicePod]) -> str:
    before, after = ({pod.name: pod for pod in pods} for pods in (then, now))
    parts = {
        "came": [name for name in after if name not in before],
        "went": [name for name in before if name not in after],
        "began anew": [name for name, pod in after.items() if before.get(name, pod) != pod],
    }
    return ", ".join(f"{_shown(names)} {what}" for what, names in parts.items() if names)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


class ClusterMesh:
    """A run's part of a cluster. ``clients`` are its load pods in order."""

    converge_s = CONVERGE_S
    hurry_s = HURRY_S

    def __init__(self, service: Service, client: Workload, crew: PodCrew, toggle: Toggle, counting: Counting, newcomers: Newcomers) -> None:
        self.clients = tuple(crew.loads.values())
        self._crew = crew
        self._service = service
        self._client = client
        self._toggle = toggle
        self._counting = counting
        self._newcomers = newcomers
        self._lost: list[MeshError] = []

    async def put(self, rules: Sequence[Rule]) -> dict[str, float]:
        """Put our rule in, or take it out; gives the moment (on ``clock``) at which the API server was told, for all clients alike."""
        moment = clock()
        await (self._toggle.apply() if rules else self._toggle.remove())
        return dict.fromkeys(self._crew.loads, self._toggle.written_at or moment)

    def wanted(self, rules: Sequence[Rule]) -> SidecarState:
        """Give the state that the cluster's rules must lead to in every sidecar, with ours or without."""
        return state_of(self._toggle.after if rules else self._toggle.before, self._service, self._client)

    async def state(self, client: PodLoad) -> SidecarState:
        """Give the state that one sidecar says is in force."""
        return await client.state()

    async def reach(self, client: PodLoad, wanted: SidecarState) -> None:
        """Wait until one sidecar shows a state."""
        await client.reach(wanted)

    async def counters(self, client: PodLoad) -> Counters:
        """Read one sidecar's counters since the run began."""
        return await client.counters()

    async def edge(self, client: PodLoad, load: PodLoad, *, offset: int) -> Edge:
        """Have a pod find an edge of its window."""
        del client, offset  # a pod is its load, and keeps its own account
        return await load.edge()

    async def count(self, *, restart_peak: bool = False) -> ServiceReading:
        """Read what the service has counted, if it does."""
        return await self._counting.read(restart_peak=restart_peak)

    async def phase(self, name: str | None) -> None:
        """Label what the pods count from now on, for their metrics; when a phase is over, look who else has made load in it."""
        await self._crew.label(name)
        if name is None and not self._lost:
            await self._look_for_newcomers()

    def deaths(self) -> list[MeshError]:
        """Say what of the policy and of the pods was lost."""
        return [*self._lost, *(MeshError(load.death.message) for load in self.clients if load.death is not None)]

    def gone(self) -> frozenset[str]:
        """Name the pods that do not exist any more. The sidecars of those that were lost otherwise live on, and have to be asked."""
        return frozenset(load.name for load in self.clients if load.is_gone)

    async def watch(self) -> MeshError:
        """Wait until the mesh is no longer ours alone: somebody changed the rule, has the lease, or brought more clients."""
        rounds = 0
        while not self._lost:
            await anyio.sleep(WATCH_S)
            rounds += 1
            try:
                await self._toggle.check()
            except MeshError as error:
                self._lost.append(error)
            except LoadgenError:
                continue  # the API server does not answer now; what matters is asked again, and has deadlines of its own
            if not self._lost and rounds % (NEWCOMERS_S // WATCH_S) == 0:
                await self._look_for_newcomers()
        return self._lost[0]

    async def _look_for_newcomers(self) -> None:
        """Note clients that the run does not count: their requests are none of the scenario's, and the limits are theirs, too."""
        try:
            names = await self._newcomers()
        except LoadgenError:
            return  # as above
        if names:
            who = f"{len(names)} more client{'s' if len(names) > 1 else ''} than the run began with ({_shown(names)})"
            self._lost.append(MeshError(f"{who} called the service: do not scale the clients during a run"))
