"""The mesh on this machine: the user service and one real Envoy per client, on free loopback ports, toggled by file CDS."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from loadgen.engine.edge import find_edge
from loadgen.engine.load import clock
from loadgen.engine.wire import fetch
from loadgen.errors import MeshError
from loadgen.ledger import Counters, ServiceCount, ServiceReading
from loadgen.mesh.boot import ADMIN_FILE, LOG_FILE, SERVICE_NAME, marked_clusters, put_rules
from loadgen.mesh.children import tail
from loadgen.mesh.envoy import CDS_FILE
from loadgen.policy.selection import merged_policy
from loadgen.policy.state import SidecarState
from loadgen.policy.translation import cluster_name
from loadgen.sidecar import LISTENERS_PATH, Admin, read_address, sidecar_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from loadgen.engine.edge import Edge, Reading
    from loadgen.engine.hammers import Load
    from loadgen.mesh.boot import Booting, LocalSpec
    from loadgen.mesh.children import Children
    from loadgen.policy.rule import Rule

T = TypeVar("T")
BOOT_S = 15.0
"""Ten sidecars are ready in well under a second; a machine that needs longer than this is not fit for a measurement."""
POLL_S = 0.004
REACH_POLL_S = 0.005
WATCH_S = 0.05
CONVERGE_S = 10.0
"""A sidecar shows within milliseconds what was put into its folder; a machine that needs longer than this is not fit for a measurement."""
REFUSALS_S = 0.5
"""How long ``put`` asks what was refused before: a sidecar that hangs must not keep the others from their configuration until time is up."""
HURRY_S = 2.0
"""^C must be answered within 3 s."""


@dataclass(frozen=True, slots=True)
class Sidecar:
    """One client's Envoy, running: where the client sends to, its admin interface, and the folder of its configuration."""

    name: str
    address: tuple[str, int]
    admin: Admin
    folder: Path


class LocalMesh:
    """The running mesh. ``clients`` are its sidecars in order."""

    converge_s = CONVERGE_S
    hurry_s = HURRY_S

    def __init__(
        self, spec: LocalSpec, folder: Path, sidecars: Sequence[Sidecar], ports: tuple[int, int], children: Children, envoy_version: str
    ) -> None:
        self.spec = spec
        self.folder = folder
        self.clients = tuple(sidecars)
        self.envoy_version = envoy_version
        self.ports = ports
        self._children = children
        self._cluster = cluster_name(spec.service, spec.port)
        self._refusals: dict[str, int] = {}
        self._written: dict[str, bytes] = {}
        """By client: what was put into its sidecar's folder last; nothing yet of a mesh that another process booted."""
        self._wanted: SidecarState | None = None
        """The state that this must lead to."""

    async def put(self, rules: Sequence[Rule]) -> dict[str, float]:
        """Give every sidecar what istiod would make of these rules; none means that no policy is there.

        Returns the moment (on ``clock``) at which each client's configuration was renamed into place. No wait lies between the renames, and
        one sidecar that does not answer keeps none of the others from getting its configuration.
        """
        await self.remember_refusals()
        moments, self._wanted = {}, self.wanted(rules)
        for sidecar in self.clients:
            self._written[sidecar.name] = put_rules(sidecar.folder, self.spec, rules, self.ports[0]).encode()
            moments[sidecar.name] = clock()
        return moments

    async def remember_refusals(self) -> None:
        """Take what the sidecars have refused until now for known: it was somebody else's, or an earlier one."""
        with anyio.move_on_after(REFUSALS_S):
            async with anyio.create_task_group() as tasks:
                for sidecar in self.clients:
                    tasks.start_soon(self._remember_refusals, sidecar)

    async def _remember_refusals(self, sidecar: Sidecar) -> None:
        with contextlib.suppress(MeshError):  # whoever asks for its state will hear of it
            self._refusals[sidecar.name] = await sidecar.admin.rejected()

    def wanted(self, rules: Sequence[Rule]) -> SidecarState:
        """Give the state that these rules must lead to in every sidecar."""
        policy = merged_policy(rules, self.spec.service, self.spec.client)
        return SidecarState.of_cluster(marked_clusters(self.spec, rules)[self._cluster], policy=policy)

    async def state(self, client: Sidecar) -> SidecarState:
        """Give the state that one sidecar says is in force: the cluster's configuration, and the live thresholds from ``/clusters``.

        Raises MeshError if the sidecar has refused something since the last ``put``.
        """
        refused = await client.admin.rejected() > self._refusals.get(client.name, 0)
        state = await client.admin.state()
        if refused:
            raise self._refusal(client, state)
        if state is None:
            raise MeshError(f"{client.name}'s sidecar has no cluster {self._cluster}: somebody else wrote its configuration")
        return state

    def _refusal(self, client: Sidecar, in_force: SidecarState | None) -> MeshError:
        """Say whose configuration a sidecar has refused: what was put is not in force then, and still lies in its folder."""
        said = f"the last lines of its log:\n{tail(client.folder / LOG_FILE)}"
        file = client.folder / CDS_FILE
        if _bytes_of(file) != self._written.get(client.name) or in_force == self._wanted:
            hint = f"{file} must be left alone while the mesh is in use; loadgen policy apply puts another rule in force"
            return MeshError(
                f"{client.name}'s sidecar rejected a configuration that somebody else wrote into its folder; {said}", hint=hint
            )
        hint = "the rule asks for something that this Envoy does not accept; its log says what"
        return MeshError(f"{client.name}'s sidecar rejected the configuration; {said}", hint=hint)

    async def reach(self, client: Sidecar, wanted: SidecarState) -> None:
        """Wait until one sidecar shows a state."""
        while await self.state(client) != wanted:  # noqa: ASYNC110  # a sidecar tells nobody: it has to be asked
            await anyio.sleep(REACH_POLL_S)

    async def edge(self, client: Sidecar, load: Load, *, offset: int) -> Edge:
        """Find an edge of one client's window."""

        async def read() -> Reading:
            clients = (await self.count()).clients
            arrived = clients[client.name].requests if client.name in clients else 0
            return replace(await client.admin.reading(), arrived=arrived)

        return await find_edge(load, read, offset=offset)

    async def counters(self, client: Sidecar) -> Counters:
        """Read one sidecar's counters of the target's cluster."""
        return await client.admin.counters()

    async def count(self, *, restart_peak: bool = False) -> ServiceReading:
        """Read what the service has counted. With ``restart_peak`` the peaks begin anew."""
        page: dict[str, Any] = json.loads(await fetch("127.0.0.1", self.ports[1], "/count", method="POST" if restart_peak else "GET"))
        each = page.pop("clients")
        return ServiceReading(_count(page), {name: _count(count) for name, count in each.items()})

    async def phase(self, name: str | None) -> None:
        """Nobody here has to be told."""

    def deaths(self) -> list[MeshError]:
        """Say which parts of the mesh died, and how."""
        return self._children.deaths()

    def gone(self) -> frozenset[str]:
        """Name the clients whose sidecar died."""
        dead = {child.name for child in self._children.dead()}
        return frozenset(client.name for client in self.clients if sidecar_name(client.name) in dead)

    async def watch(self) -> MeshError:
        """Wait until a part of the mesh dies, and say which."""
        while True:
            if deaths := self.deaths():
                return deaths[0]
            await anyio.sleep(WATCH_S)

    def kill(self) -> None:
        """End everything at once, without ceremony."""
        self._children.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _bytes_of(file: Path) -> bytes | None:
    """Read a file; None if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError:
        return None


def _count(values: dict[str, Any]) -> ServiceCount:
    periods = {int(top): count for top, count in values.pop("periods").items()}
    return ServiceCount(**values, periods=periods)


async def ready(booting: Booting) -> LocalMesh:
    """Wait until every part of a booting mesh answers.

    Raises MeshError if one does not come up.
    """
    sidecars = [await _until_up(booting, sidecar_name(name), partial(_look_at, booting, name)) for name in booting.clients]
    version = await sidecars[0].admin.version()
    mesh = LocalMesh(booting.spec, booting.folder, sidecars, booting.ports, booting.children, version)
    await _until_up(booting, SERVICE_NAME, mesh.count)
    return mesh


async def _until_up(booting: Booting, what: str, look: Callable[[], Awaitable[T]]) -> T:
    """Look again and again until a part is up; every error means that it is not yet."""
    try:
        with anyio.fail_after(BOOT_S):
            while True:
                if deaths := booting.children.deaths():
                    raise deaths[0]
                with contextlib.suppress(OSError, LookupError, ValueError, MeshError):
                    return await look()
                await anyio.sleep(POLL_S)
    except TimeoutError as error:
        raise MeshError(f"{what} was not ready within {BOOT_S:.0f} s", hint="the machine may be overloaded; try fewer clients") from error


async def _look_at(booting: Booting, name: str) -> Sidecar:
    """Give the sidecar if it is live; raises one of several errors if it is not yet."""
    own = booting.folder_of(name)
    host, _, port = (own / ADMIN_FILE).read_text(encoding="ascii").rpartition(":")
    admin = Admin(name, (host, int(port)), cluster_name(booting.spec.service, booting.spec.port))
    sidecar = Sidecar(name, await admin.ask(LISTENERS_PATH, read_address), admin, own)
    if not await admin.is_live():
        raise LookupError("not live yet")
    return sidecar
