"""Runs Locust headless against a mesh of ``loadgen up``, and reads what both counted."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.mesh.published import published

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadgen.mesh.local import LocalMesh

REPOSITORY = Path(__file__).parents[2]
SCENARIO = REPOSITORY / "scenarios" / "connection-pool.yaml"
USERS = REPOSITORY / "locustfiles" / "user_service.py"
WIRE_USERS = REPOSITORY / "locustfiles" / "user_service_wire.py"
STORY = REPOSITORY / "locustfiles" / "tutorial_story.py"
READY_S = 30.0
END_S = 60.0


@dataclass(frozen=True)
class Up:
    """A mesh of ``loadgen up``."""

    pid: int
    mesh: LocalMesh

    @property
    def options(self) -> tuple[str, str]:
        """Give Locust's options that name it: others may run."""
        return "--mesh-pid", str(self.pid)

    def overflows(self) -> int:
        """Say how many overflows the sidecars have counted, all together."""

        async def ask() -> int:
            return sum([(await client.admin.counters()).overflow for client in self.mesh.clients])

        return asyncio.run(ask())

    def rules(self) -> set[str | None]:
        """Say which rules are in force at the sidecars."""

        async def ask() -> set[str | None]:
            return {(await self.mesh.state(client)).rule for client in self.mesh.clients}

        return asyncio.run(ask())


@contextlib.contextmanager
def up(scenario: Path = SCENARIO) -> Iterator[Up]:
    """Start a mesh, and end it."""
    process = subprocess.Popen([sys.executable, "-m", "loadgen", "up", str(scenario)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    try:
        assert process.stdout is not None, "it is a pipe"
        for line in process.stdout:
            if line.startswith("No policy is there"):
                break
        mesh = next(each.mesh for each in published() if each.pid == process.pid)
        yield Up(process.pid, mesh)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=READY_S)


@dataclass(frozen=True)
class Ended:
    """What a headless Locust left behind: its exit code, its log, and the requests and failures of each entry in its statistics."""

    code: int
    log: str
    requests: dict[str, int]
    failures: dict[str, int]

    @property
    def overflows(self) -> int:
        return sum(count for name, count in self.requests.items() if name.endswith("(overflow)"))

    def sentences(self) -> list[str]:
        """Give what loadgen says in the log."""
        return re.findall(r"/loadgen: (.*)", self.log)


def command(*arguments: str, files: tuple[Path, ...] = (USERS, STORY)) -> list[str]:
    return [sys.executable, "-m", "locust", "-f", ",".join(map(str, files)), *arguments]


def headless(folder: Path, *arguments: str, files: tuple[Path, ...] = (USERS, STORY), path: Path | None = None) -> Ended:
    """Run Locust to its end; what is in ``path`` comes before what is installed.

    The statistics are those that it prints in the end: its CSV is written once a second, and the last second may be missing.
    """
    line = command("--headless", "--only-summary", "--csv", str(folder / "stats"), *arguments, files=files)
    ended = subprocess.run(line, capture_output=True, text=True, timeout=END_S, cwd=REPOSITORY, env=environment(path), check=False)
    log = ended.stdout + ended.stderr
    rows = re.findall(r"^GET +(.+?) +([0-9]+) +([0-9]+)\(", log, flags=re.MULTILINE)
    requests = {name: int(count) for name, count, _ in rows}
    return Ended(ended.returncode, log, requests, {name: int(count) for name, _, count in rows})


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@functools.cache
def _masters_port() -> str:
    """Give the port at which a master and its workers meet in this process's tests: another Locust may have the usual one.

    It is none of those that the system gives to connections, where it leaves any: one of some thousand that tests open would have it sooner or later, and a master
    that cannot bind leaves its workers behind.
    """
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split())
    ports = range(10_000, 65_536)
    outside = [port for port in ports if not first <= port <= last] or ports
    for port in random.sample(outside, min(len(outside), 100)):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("", port))
            return str(port)
    raise AssertionError("no port is free")


def environment(path: Path | None = None) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOCUST_", "LOADGEN_"))}
    clean |= dict.fromkeys(("LOCUST_MASTER_NODE_PORT", "LOCUST_MASTER_BIND_PORT"), _masters_port())
    return clean if path is None else {**clean, "PYTHONPATH": str(path)}
