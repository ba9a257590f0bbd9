"""What is loaded? An Envoy that answers ``Kevin`` itself, with its own counters; or the server that stamps arrivals. Each on one core."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadgen.errors import MeshError
from loadgen.mesh.boot import envoy_binary
from loadgen.sidecar import LISTENERS_PATH, read_address
from tests.bench.hammers import arrivals
from tests.bench.hammers.cost import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from loadgen.mesh.children import Child, Children

    T = TypeVar("T")

START_S = 20.0
DRAIN_S = 2.0
WARM_UP_S = 0.3
_POLL_S = 0.01
_TYPE = "type.googleapis.com/envoy.extensions.filters"
_PREFIX = "bench"
_COUNTERS_PATH = f"/stats?filter=^http\\.{_PREFIX}\\.downstream_"
REQUEST = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n"


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Let whatever is started within run on this core only: a process starts with its parent's cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def bootstrap() -> dict[str, Any]:
    """Make the configuration of an Envoy that answers every request itself with 200 ``Kevin`` on a free loopback port."""
    host = {
        "name": "kevin",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "Kevin"}}}],
    }
    manager = {
        "@type": f"{_TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "HTTP1",
        "stat_prefix": _PREFIX,
        "route_config": {"name": "kevin", "virtual_hosts": [host]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPE}.http.router.v3.Router"}}],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {
        "admin": {"address": _loopback()},
        "static_resources": {"listeners": [{"name": "kevin", "address": _loopback(), "filter_chains": [chain]}]},
    }


def _loopback() -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": 0}}


def read_counts(page: bytes) -> tuple[Counts, int]:
    """Read the counters that the connection manager keeps, and how many connections are open now."""
    lines = (line.rpartition(": ") for line in page.decode().splitlines())
    stats = {name.rpartition(".downstream_")[2]: int(value) for name, _, value in lines if value.isdigit()}
    failures = sum(stats[f"rq_{kind}xx"] for kind in (1, 3, 4, 5))
    return Counts(stats["rq_total"], failures, stats["cx_total"]), stats["cx_active"]


@dataclass(frozen=True, slots=True)
class Target:
    """The Envoy under load: where it listens, where its admin interface does."""

    child: Child
    address: tuple[str, int]
    admin: tuple[str, int]

    @property
    def url(self) -> str:
        return "http://{}:{}/".format(*self.address)

    def counts(self, *, wait: bool = True) -> Counts:
        """Ask what was counted since the start; with ``wait`` once the connections of a tool that has ended are gone."""
        deadline = time.monotonic() + (DRAIN_S if wait else 0.0)
        while True:
            counts, active = read_counts(_get(self.admin, _COUNTERS_PATH))
            if not active or time.monotonic() > deadline:
                return counts
            time.sleep(_POLL_S)


@contextlib.contextmanager
def envoy(children: Children, core: int, folder: Path) -> Iterator[Target]:
    """Start the target on one core, and end it afterwards.

    Raises RefusedError if there is no Envoy for this platform, MeshError if it does not come up.
    """
    config, admin_file = folder / "bootstrap.json", folder / "admin"
    config.write_text(json.dumps(bootstrap()), encoding="utf-8")
    command = [str(envoy_binary()), "--config-path", str(config), "--concurrency", "1", "--disable-hot-restart"]
    command += ["--admin-address-path", str(admin_file), "--log-level", "error"]
    with pinned(core):
        child = children.start("the Envoy under load", command, folder / "envoy.log")
    try:
        host, _, port = _await(child, admin_file.read_text, OSError, str).rpartition(":")
        admin = host, int(port)
        address = _await(child, lambda: read_address(_get(admin, LISTENERS_PATH)), LookupError, bool)
        yield Target(child, address, admin)
    finally:
        _end(child)


def warm_up(address: tuple[str, int], connections: int, seconds: float) -> None:
    """Ask on all connections in turn until the time is over, so that the target has allocated and cached what it will need."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(address, START_S)) for _ in range(connections)]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for each in sockets:
                each.sendall(REQUEST)
            for each in sockets:
                each.recv(4096)


@dataclass(slots=True)
class Stamps:
    """What the stamping server saw of a tool; filled when it has ended. ``stamps_ns`` are on CLOCK_MONOTONIC."""

    child: Child
    address: tuple[str, int]
    stamps_ns: list[int] = field(default_factory=list)
    unstamped: int = 0
    connections: int = 0
    clock_moved_ns: int = 0

    @property
    def url(self) -> str:
        return "http://{}:{}/".format(*self.address)


@contextlib.contextmanager
def stamping(children: Children, core: int, folder: Path) -> Iterator[Stamps]:
    """Start the stamping server on one core; end it afterwards and take what it saw.

    Raises MeshError if it does not tell.
    """
    report = folder / "stamps.json"
    report.unlink(missing_ok=True)
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener, pinned(core):
        command = [sys.executable, "-P", str(Path(arrivals.__file__)), "--fd", str(listener.fileno()), "--out", str(report)]
        child = children.start("the stamping server", command, folder / "arrivals.log", inherited=[listener.fileno()])
        stamps = Stamps(child, listener.getsockname())
    try:
        warm_up(stamps.address, 1, WARM_UP_S)
        began_ns = time.monotonic_ns()
        yield stamps
    finally:
        _end(child)
    try:
        found = json.loads(report.read_bytes())
    except OSError as error:
        raise MeshError("the stamping server did not tell what it saw", hint="see whether it was killed, by memory perhaps") from error
    stamps.stamps_ns = [stamp for stamp in found["stamps_ns"] if stamp >= began_ns]
    stamps.unstamped = sum(stamp >= began_ns for stamp in found["unstamped_ns"])
    stamps.connections, stamps.clock_moved_ns = found["connections"] - 1, found["clock_moved_ns"]


def _get(address: tuple[str, int], path: str) -> bytes:
    connection = http.client.HTTPConnection(*address, timeout=START_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def _await(child: Child, look: Callable[[], T], not_yet: type[Exception], good: Callable[[T], object]) -> T:
    """Look until there is something."""
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(not_yet):
            if good(found := look()):
                return found
        if (death := child.death()) is not None:
            raise death
        if time.monotonic() > deadline:
            raise MeshError(f"{child.name} does not come up", hint="see whether the machine is overloaded")
        time.sleep(_POLL_S)


def _end(child: Child) -> None:
    child.process.send_signal(signal.SIGTERM)
    try:
        child.process.wait(START_S)
    except subprocess.TimeoutExpired:
        child.process.kill()
        child.process.wait()
