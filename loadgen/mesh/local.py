"""The mesh on this machine: the user service and one real Envoy per client, on free loopback ports, toggled by file CDS."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio

from loadgen.engine.wire import fetch
from loadgen.errors import MeshError
from loadgen.ledger import Counters, ServiceCount
from loadgen.mesh import envoy
from loadgen.mesh.boot import ADMIN_FILE, LOG_FILE, put_rules
from loadgen.mesh.children import tail
from loadgen.policy.state import SidecarState
from loadgen.policy.translation import cluster_name, clusters

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loadgen.mesh.boot import Booting, LocalSpec
    from loadgen.mesh.children import Children
    from loadgen.policy.rule import Rule

BOOT_S = 15.0
"""Ten sidecars are ready in well under a second; a machine that needs longer than this is not fit for a measurement."""
POLL_S = 0.004
WATCH_S = 0.05


@dataclass(frozen=True, slots=True)
class Sidecar:
    """One client's Envoy, running: where the client sends to, and where its admin interface listens."""

    name: str
    address: tuple[str, int]
    admin: tuple[str, int]
    folder: Path

    async def page(self, path: str) -> bytes:
        """Fetch an admin page."""
        return await fetch(*self.admin, path)


class LocalMesh:
    """The running mesh. ``clients`` are its sidecars in order."""

    name = "local"

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

    async def put(self, rules: Sequence[Rule]) -> None:
        """Give every sidecar what istiod would make of these rules; none means that no policy is there."""
        for sidecar in self.clients:
            self._refusals[sidecar.name] = await _refusals(sidecar)
            put_rules(sidecar.folder, self.spec, rules, self.ports[0])

    def wanted(self, rules: Sequence[Rule]) -> SidecarState:
        """Give the state that these rules must lead to in every sidecar."""
        return SidecarState.of_cluster(clusters(rules, self.spec.service, self.spec.client)[self._cluster])

    async def state(self, client: Sidecar) -> SidecarState:
        """Give the state that one sidecar says is in force.

        Raises MeshError if the sidecar has refused what was put last.
        """
        if await _refusals(client) > self._refusals.get(client.name, 0):
            said = tail(client.folder / LOG_FILE)
            hint = "the rule asks for something that this Envoy does not accept; its log says what"
            raise MeshError(f"{client.name}'s sidecar rejected the configuration; the last lines of its log:\n{said}", hint=hint)
        return await _sidecar_state(client, self._cluster)

    async def counters(self, client: Sidecar) -> Counters:
        """Read one sidecar's counters of the target's cluster."""
        return envoy.read_counters(await client.page(envoy.counters_path(self._cluster)))

    async def count(self, *, restart_peak: bool = False) -> tuple[ServiceCount, dict[str, ServiceCount]]:
        """Read what the service has counted: in all, and per client. With ``restart_peak`` the peaks begin anew."""
        page: dict[str, Any] = json.loads(await fetch("127.0.0.1", self.ports[1], "/count", method="POST" if restart_peak else "GET"))
        each = page.pop("clients")
        return ServiceCount(**page), {name: ServiceCount(**count) for name, count in each.items()}

    async def watch(self) -> MeshError:
        """Wait until a part of the mesh dies, and say which."""
        while True:
            if deaths := self._children.deaths():
                return deaths[0]
            await anyio.sleep(WATCH_S)

    def kill(self) -> None:
        """End everything at once, without ceremony."""
        self._children.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


async def _refusals(sidecar: Sidecar) -> int:
    return envoy.read_rejected(await sidecar.page(envoy.REJECTED_PATH))


async def _sidecar_state(sidecar: Sidecar, cluster: str) -> SidecarState:
    """Read the state in force: the cluster's configuration, and the live thresholds from ``/clusters``."""
    config = envoy.read_config(await sidecar.page(envoy.config_path(cluster)))
    if config is None:
        raise MeshError(f"{sidecar.name}'s sidecar has no cluster {cluster}: somebody else wrote its configuration")
    state = SidecarState.of_cluster(config)
    live = envoy.read_thresholds(await sidecar.page(envoy.THRESHOLDS_PATH), cluster)
    return replace(state, limits=replace(state.limits, **live))


async def ready(booting: Booting) -> LocalMesh:
    """Wait until every part of a booting mesh answers.

    Raises MeshError if one does not come up.
    """
    sidecars = [await _ready_sidecar(booting, name) for name in booting.clients]
    version = envoy.read_version(await sidecars[0].page(envoy.VERSION_PATH))
    mesh = LocalMesh(booting.spec, booting.folder, sidecars, booting.ports, booting.children, version)
    await mesh.count()
    return mesh


async def _ready_sidecar(booting: Booting, name: str) -> Sidecar:
    try:
        with anyio.fail_after(BOOT_S):
            while True:
                if deaths := booting.children.deaths():
                    raise deaths[0]
                with contextlib.suppress(OSError, LookupError, ValueError, MeshError):
                    return await _look_at(name, booting.folder_of(name))
                await anyio.sleep(POLL_S)
    except TimeoutError as error:
        raise MeshError(
            f"{name}'s sidecar was not ready within {BOOT_S:.0f} s", hint="the machine may be overloaded; try fewer clients"
        ) from error


async def _look_at(name: str, own: Path) -> Sidecar:
    """Give the sidecar if it is live; raises one of several errors if it is not yet."""
    host, _, port = (own / ADMIN_FILE).read_text(encoding="ascii").rpartition(":")
    sidecar = Sidecar(name, envoy.read_address(await fetch(host, int(port), envoy.LISTENERS_PATH)), (host, int(port)), own)
    if await sidecar.page(envoy.READY_PATH) != envoy.LIVE:
        raise LookupError("not live yet")
    return sidecar
