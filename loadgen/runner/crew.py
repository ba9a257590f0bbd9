"""Who makes the load on this machine? One load for each client of a local mesh, in this process or in further ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from loadgen.engine.hammers import default_processes, hammers
from loadgen.engine.lanes import Shot
from loadgen.engine.spec import LoadSpec, mesh_request
from loadgen.outcome import Expected

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskGroup

    from loadgen.engine.hammers import Hammers
    from loadgen.scenario import Scenario


class Addressed(Protocol):
    """A client with its name, and where its requests go: host and port."""

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> tuple[str, int]: ...


class LocalCrew:
    """Makes the loads of a scenario. ``processes`` is in how many."""

    def __init__(self, scenario: Scenario, clients: Sequence[Addressed], processes: int | None = None) -> None:
        self._scenario = scenario
        self._clients = clients
        self.processes = min(processes or default_processes(scenario.load.highest_rate_per_s * len(clients)), len(clients))

    def __call__(self, tasks: TaskGroup) -> AbstractAsyncContextManager[Hammers]:
        """Give the loads for as long as the context lasts; ``tasks`` own what they do in the background."""
        specs = [self._spec(client, number) for number, client in enumerate(self._clients)]
        return hammers(specs, tasks, self.processes)

    def _spec(self, client: Addressed, number: int) -> LoadSpec:
        target, load = self._scenario.target, self._scenario.load
        name, namespace = target.service
        request = mesh_request(client.name, f"{name}.{namespace}:{target.port}", target.path)
        expected = Expected(target.expect.status, target.expect.body.encode())
        shot = Shot(client.address, request, expected, load.timeout)
        return LoadSpec(client.name, shot, load.pacing, f"{self._scenario.seed}-{number}", load.max_in_flight)
