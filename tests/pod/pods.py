"""Runs the real program as a container would: a process of its own, set up by its environment, beside a real sidecar."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loadgen.document import parse_documents
from loadgen.policy.rule import parse_rules
from tests.story.command import SCENARIOS

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from loadgen.mesh.local import Sidecar
    from loadgen.policy.rule import Rule

PATIENCE_S = 30.0
PROGRAM = ("-m", "loadgen", "pod")
SECRET = "a secret of the tests"
RUN = "run-1"
LOAD = {"model": "closed", "users": 4, "think_time": "exponential 10ms"}
LIMITED = {
    "max_connections": 2**32 - 1,
    "max_pending_requests": 1,
    "max_requests": 1,
    "max_retries": 2**32 - 1,
    "max_requests_per_connection": 1,
}
UNLIMITED = {**dict.fromkeys(LIMITED, 2**32 - 1), "max_requests_per_connection": 0}


def tutorial_rules() -> list[Rule]:
    rules, problems = parse_rules(parse_documents((SCENARIOS / "policies" / "user.yaml").read_text(), "user.yaml"), "user.yaml")
    assert not problems
    return rules


@dataclass
class Pod:
    """A running load pod: its process, its log, its port, and a client that knows the secret."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int
    started: float
    client: httpx.AsyncClient = field(repr=False)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers=headers)

    async def snapshot(self, **headers: str) -> dict[str, Any]:
        values: dict[str, Any] = (await self.get("/snapshot", **headers)).json()
        return values

    async def control(self, verb: str, *, run: str = RUN, secret: str = SECRET, call: str = "", **order: Any) -> httpx.Response:
        headers = {"x-loadgen-secret": secret, "x-loadgen-run": run, **({"x-loadgen-call": call} if call else {})}
        return await self.client.post(f"/control/{verb}", json=order, headers=headers)

    async def do(self, verb: str, **order: Any) -> dict[str, Any]:
        """Have something done that must succeed."""
        response = await self.control(verb, **order)
        assert response.status_code == 200, (verb, response.text)
        values: dict[str, Any] = response.json()
        return values

    async def metrics(self) -> dict[str, float]:
        """Give the samples by name and labels, as they stand in the page."""
        page = (await self.get("/metrics")).text
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))}

    async def requests(self) -> int:
        return sum(int(count) for count in (await self.snapshot())["totals"].values())

    async def until(self, condition: Any, what: str, patience_s: float = PATIENCE_S) -> None:
        """Ask until something is so: ``condition`` is called, and what it gives is awaited if it can be."""
        deadline = time.monotonic() + patience_s
        while True:
            said = condition()
            if await said if asyncio.iscoroutine(said) else said:
                return
            assert self.process.poll() is None, f"the pod ended with {self.process.returncode}: {self.lines[-3:]}"
            assert time.monotonic() < deadline, f"waited in vain until {what}; the log ends with {self.lines[-3:]}"
            await asyncio.sleep(0.02)

    async def until_logged(self, text: str) -> str:
        await self.until(lambda: any(text in line for line in self.lines), f"the log says '{text}'")
        return next(line for line in self.lines if text in line)

    async def until_ready(self) -> None:
        async def is_ready() -> bool:
            return (await self.get("/readyz")).status_code == 200

        await self.until(is_ready, "it is ready")

    async def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; give the exit code and how long the end took in seconds."""
        started = time.monotonic()
        self.process.send_signal(number)
        code = await asyncio.to_thread(self.process.wait, PATIENCE_S)
        return code, time.monotonic() - started


def environment_of(sidecar: Sidecar, folder: Path, **settings: str) -> dict[str, str]:
    """Give the environment of a pod beside this sidecar."""
    secret = folder / "secret"
    secret.write_text(f"{SECRET}\n")
    return {
        "POD_NAME": "client-1",
        "POD_NAMESPACE": "test",
        "REGION": "eu-1",
        "LOADGEN_TARGET": "http://{}:{}/".format(*sidecar.address),
        "LOADGEN_ADMIN": "{}:{}".format(*sidecar.admin.address),
        "LOADGEN_CLUSTER": sidecar.admin.cluster,
        "LOADGEN_SECRET_FILE": str(secret),
        "LOADGEN_THINK_TIME": "20ms",
        "LOADGEN_PORT": "0",
        "LOADGEN_BIND": "127.0.0.1",
        **settings,
    }


def start(environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a pod with this environment and nothing else of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOADGEN_", "POD_", "REGION", "KUBERNETES_"))}
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, *PROGRAM], env={**kept, **environment}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


def port_of(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait until the pod says where it serves."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := re.search(r"serves on port (\d+)", log.read_text())) is None:
        assert process.poll() is None, f"the pod ended with {process.returncode}:\n{log.read_text()}"
        assert time.monotonic() < deadline, "the pod did not say where it serves"
        time.sleep(0.01)
    return int(found[1])
