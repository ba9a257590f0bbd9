"""Which mesh does the desk serve on this machine? The one that ``loadgen up`` started in another terminal, as long as that lives."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from loadgen.desk.site import about_scenario
from loadgen.errors import MeshError, RefusedError, UsageError
from loadgen.inputs import load_plan
from loadgen.mesh.boot import shortfalls
from loadgen.mesh.published import POLICY_LOCK, BorrowedMesh, Published, published
from loadgen.mesh.run_folder import locked
from loadgen.policy.lint import lint
from loadgen.runner.convergence import for_each, removed
from loadgen.runner.environment import environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from loadgen.errors import Problem
    from loadgen.policy.rule import Rule
    from loadgen.policy.state import SidecarState
    from loadgen.report import Environment
    from loadgen.runner.window import Measured

READY_S = 15.0
POLL_S = 0.1


class LocalSite:
    """A local mesh, and the scenario that it was made for."""

    kind = "local"
    hold_s: float | None = None

    def __init__(self, found: Published, dead: int = 0) -> None:
        self._scenario = Path(found.scenario)
        self.plan = load_plan(self._scenario)
        self._mesh = found.mesh
        self._pid = found.pid
        self._ours = {os.getpid(), dead}
        self._known = False
        """Whether it is known what the sidecars have refused before."""

    @classmethod
    def found(cls, pid: int | None, *, dead: int = 0) -> LocalSite:
        """Find the mesh of a process, or the only one that runs; ``dead`` is the desk whose place this one takes, 0 if it is none's.

        Raises RefusedError if there is none, UsageError if it is not clear which is meant, or its scenario is not what it was.
        """
        chosen = _published(pid)
        if not chosen:
            running = ", ".join(f"--mesh-pid {each.pid} ({each.scenario})" for each in published())
            if pid is not None and running:
                raise RefusedError(f"no local mesh has the process id {pid}", hint=f"running: {running}")
            raise RefusedError("no local mesh is running", hint="start one in another terminal: loadgen up scenarios/connection-pool.yaml")
        if len(chosen) > 1:
            listing = "; ".join(f"--mesh-pid {each.pid} ({each.scenario})" for each in chosen)
            raise UsageError("several local meshes are running", hint=f"choose one: {listing}")
        return cls(chosen[0], dead)

    async def look(self) -> None:
        """Nothing to look for: the clients are those that the mesh was started with."""

    @property
    def clients(self) -> Sequence[dict[str, Any]]:
        return [{"name": client.name, "host": client.address[0], "port": client.address[1]} for client in self._mesh.clients]

    def about(self) -> dict[str, Any]:
        return {"pid": self._pid, "envoy": self._mesh.envoy_version, **about_scenario(self.plan, self._scenario)}

    def findings(self, rules: Sequence[Rule]) -> list[Problem]:
        return [*lint(rules, self._mesh.spec.service, self._mesh.spec.client, workers=self._mesh.spec.workers), *shortfalls(rules)]

    @contextlib.asynccontextmanager
    async def prepared(self, _rules: Sequence[Rule]) -> AsyncIterator[list[Problem]]:
        """Nothing to prepare: the mesh is the session's own."""
        yield []

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[BorrowedMesh]:
        """Give the mesh. Meanwhile ``loadgen policy`` waits; whoever waits here for that one keeps nobody else in the desk waiting."""
        with contextlib.ExitStack() as stack:
            try:
                await anyio.to_thread.run_sync(stack.enter_context, locked(self._mesh.folder / POLICY_LOCK))
            except FileNotFoundError as error:
                raise MeshError("the local mesh is gone", hint="start it again: loadgen up") from error
            await self._mesh.remember_refusals()
            self._known = True
            yield self._mesh

    async def check(self, mesh: BorrowedMesh) -> None:
        """Check that nobody else's rule is in force: the first phase is one without.

        Raises RefusedError if one is.
        """
        states = await for_each(mesh.clients, mesh.state)
        found = sorted({state.rule or "without a name" for state in states.values() if state != mesh.wanted(())})
        if found:
            message = f"a rule is in force already, and a test begins without: {', '.join(found)}"
            raise RefusedError(message, hint="take it out first: loadgen policy remove")

    async def judge(self, mesh: BorrowedMesh, measured: Measured, ours: SidecarState) -> None:
        """Nothing more is known than what the sidecars have said."""

    async def restore(self) -> None:
        async with self.session() as mesh:
            if mesh.toggled_by() in self._ours:  # otherwise somebody has toggled since, and what is in force is his
                await removed(mesh)

    async def states(self) -> dict[str, SidecarState]:
        if not self._known:
            await self._mesh.remember_refusals()
            self._known = True
        return await for_each(self._mesh.clients, self._mesh.state)

    def gone(self) -> str:
        return "; ".join(death.in_a_line for death in self._mesh.deaths())

    def environment(self) -> Environment:
        return environment(self._mesh.envoy_version, 0.0, 1)


def _published(pid: int | None) -> list[Published]:
    """Find the meshes that run; one that is named may be about to be ready."""
    deadline = time.monotonic() + READY_S
    while True:
        found = [each for each in published() if pid in {None, each.pid}]
        if found or pid is None or not _lives(pid) or time.monotonic() > deadline:
            return found
        time.sleep(POLL_S)


def _lives(pid: int) -> bool:
    """Tell whether a process is there that may be a mesh; a number that is somebody else's is a mistake."""
    try:
        return b"loadgen" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
