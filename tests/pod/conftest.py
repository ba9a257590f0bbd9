"""Fixtures of the load pod's tests: a real sidecar and service once for each module, and pods beside it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest

from loadgen.mesh.boot import LocalSpec, boot
from loadgen.mesh.local import ready
from loadgen.pacing import Interval
from loadgen.policy.selection import Service, Workload

from .pods import PATIENCE_S, Pod, environment_of, port_of, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from loadgen.mesh.local import LocalMesh

SPEC = LocalSpec(Service("user", "base", (7000,)), 7000, Workload("test", {"app": "client"}), 1, 1, 200, "Kevin", Interval(0.005))


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    """Run the user service and one real sidecar."""
    with boot(SPEC) as booting:
        yield anyio.run(ready, booting, backend_options={"use_uvloop": True})


@pytest.fixture
async def unlimited(mesh: LocalMesh) -> AsyncIterator[LocalMesh]:
    """Give the mesh without a rule, and take away afterwards what the test put there."""
    yield mesh
    await mesh.put(())
    with anyio.fail_after(PATIENCE_S):
        await mesh.reach(mesh.clients[0], mesh.wanted(()))


@pytest.fixture
async def pods(tmp_path: Path) -> AsyncIterator[Callable[..., Pod]]:
    """Start pods; they are ended with the test."""
    async with contextlib.AsyncExitStack() as stack:
        started: list[Pod] = []

        def run(environment: dict[str, str]) -> Pod:
            log = tmp_path / f"pod-{len(started)}.log"
            began = time.monotonic()
            process = start(environment, log)
            stack.callback(process.wait, PATIENCE_S)
            stack.callback(process.kill)
            port = port_of(process, log)
            client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE_S)
            stack.push_async_callback(client.aclose)
            started.append(Pod(process, log, port, began, client))
            return started[-1]

        yield run


@pytest.fixture
def pod(pods: Callable[..., Pod], unlimited: LocalMesh, tmp_path: Path) -> Pod:
    """Run a pod beside the sidecar."""
    return pods(environment_of(unlimited.clients[0], tmp_path))
