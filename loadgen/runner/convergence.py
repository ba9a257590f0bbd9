"""Is the policy in force everywhere? Asks every client's sidecar until all of them show the wanted state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio

from loadgen.engine.load import clock
from loadgen.errors import LoadgenError, MeshError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from loadgen.policy.rule import Rule
    from loadgen.policy.state import SidecarState

LOOK_S = 2.0


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """The name."""


C = TypeVar("C", bound=Named)
T = TypeVar("T")


class Sidecars(Protocol[C]):
    """The part of a mesh that convergence needs."""

    @property
    def clients(self) -> Sequence[C]:
        """All clients."""

    @property
    def converge_s(self) -> float:
        """How long the sidecars may take to show a change, in seconds."""

    def wanted(self, rules: Sequence[Rule]) -> SidecarState:
        """Give the state that these rules must lead to in every sidecar."""

    async def state(self, client: C) -> SidecarState:
        """Give the state of one sidecar."""

    async def reach(self, client: C, wanted: SidecarState) -> None:
        """Wait until one sidecar shows a state."""


class Puts(Sidecars[C], Protocol[C]):
    """The part of a mesh that puts a policy."""

    async def put(self, rules: Sequence[Rule]) -> object:
        """Make these rules the policy; none removes it."""


async def converge(
    mesh: Sidecars[C], rules: Sequence[Rule], *, without: Collection[str] = (), tell: Callable[[int], None] = lambda _confirmed: None
) -> dict[str, float]:
    """Wait until every sidecar shows what the rules lead to; give the moment (on ``clock``) at which each of them did.

    ``without`` names clients that are not asked; ``tell`` hears how many have confirmed. Raises MeshError if one does not within the mesh's ``converge_s``, or refuses the configuration.
    """
    wanted = mesh.wanted(rules)
    clients = [client for client in mesh.clients if client.name not in without]
    reached: dict[str, float] = {}

    async def wait(client: C) -> None:
        await mesh.reach(client, wanted)
        reached[client.name] = clock()
        tell(len(reached))

    try:
        with anyio.fail_after(mesh.converge_s):
            await for_each(clients, wait)
    except TimeoutError as error:
        missing = [client for client in clients if client.name not in reached]
        if not missing:  # the last one got there as time was up
            return reached
        state = "the policy was not in force" if rules else "the policy was not gone"
        message = f"after {mesh.converge_s:.0f} s {state} at {len(missing)} of {len(clients)} sidecars: {', '.join(client.name for client in missing)}"
        raise MeshError(
            f"{message}; the rules lead to {wanted}, and {missing[0].name}'s sidecar shows {await _shown(mesh, missing[0])}",
            hint="somebody else may have changed the policy meanwhile, the sidecars may not take the configuration (TLS without certificates, a control plane that is away), or the machine is overloaded",
        ) from error
    return reached


async def removed(mesh: Puts[C]) -> None:
    """Remove the policy, and return when every sidecar shows that it is gone.

    Raises LoadgenError as ``put`` and ``converge`` do.
    """
    await mesh.put(())
    await converge(mesh, ())


async def _shown(mesh: Sidecars[C], client: C) -> str:
    """Say what a sidecar shows, for a person."""
    try:
        with anyio.fail_after(LOOK_S):
            return str(await mesh.state(client))
    except (LoadgenError, TimeoutError):
        return "nothing: it does not answer"


async def for_each(clients: Sequence[C], job: Callable[[C], Awaitable[T]]) -> dict[str, T]:
    """Do a job for all clients at the same time; give the results in the clients' order.

    The first error of ours ends the others and is raised as itself, not in a group.
    """
    results: dict[str, T] = {}
    failures: list[LoadgenError] = []

    async def one(client: C) -> None:
        try:
            results[client.name] = await job(client)
        except LoadgenError as error:
            failures.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for client in clients:
            tasks.start_soon(one, client)
    if failures:
        raise failures[0]
    return {client.name: results[client.name] for client in clients}
