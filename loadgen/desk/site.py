"""What does the desk have to know and to do where the mesh is? The same on a laptop and in a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from loadgen.errors import Problem
    from loadgen.inputs import Plan
    from loadgen.policy.rule import Rule
    from loadgen.policy.state import SidecarState
    from loadgen.report import Environment
    from loadgen.runner.needs import Mesh
    from loadgen.runner.window import Measured


class Site(Protocol):
    """Where the mesh is. ``plan`` says what the service is and what its clients are; ``hold_s`` how long a rule may be in force, None for as long as it likes."""

    plan: Plan
    kind: str
    hold_s: float | None

    async def look(self) -> None:
        """Look who the clients are now; between two tests they may change."""

    @property
    def clients(self) -> Sequence[dict[str, Any]]:
        """The clients with the addresses that their users send to, for Locust."""

    def about(self) -> dict[str, Any]:
        """What of the mesh is shown, beside its kind."""

    def findings(self, rules: Sequence[Rule]) -> list[Problem]:
        """What is noteworthy of rules here."""

    def prepared(self, rules: Sequence[Rule]) -> AbstractAsyncContextManager[list[Problem]]:
        """Make ready that rules are put in force in the block; give what is noteworthy of how.

        Raises LoadgenError if they may not be; nothing was changed then, and the test goes on.
        """

    def session(self) -> AbstractAsyncContextManager[Mesh[Any, Any]]:
        """Give the mesh for the time of a session, for whose policy nobody else may care meanwhile."""

    async def check(self, mesh: Any) -> None:
        """Check that a session can begin in the mesh that ``session`` gave.

        Raises RefusedError if not.
        """

    async def judge(self, mesh: Any, measured: Measured, ours: SidecarState) -> None:
        """Add to what a session has measured how the policy was put back, as far as more is known of it here; ``ours`` is the last one's state."""

    async def restore(self) -> None:
        """Remove what a desk that died may have left in force, and verify it.

        Raises LoadgenError if that cannot be.
        """

    async def states(self) -> dict[str, SidecarState]:
        """Say what is in force at every client's sidecar."""

    def gone(self) -> str:
        """Say why the mesh is no more; nothing while it is there."""

    def environment(self) -> Environment:
        """Say where a run is made, for its report."""


def about_scenario(plan: Plan, scenario: Path) -> dict[str, Any]:
    """Give what Locust and the page show, and check answers with, of a mesh's scenario."""
    policy = scenario.parent / plan.scenario.policy if plan.scenario.policy else None
    expected = plan.scenario.target.expect
    return {
        "scenario": str(scenario),
        "policy": str(policy) if policy is not None else "",
        "rule": policy.read_text(encoding="utf-8") if policy is not None else "",
        "expect": {"status": expected.status, "body": expected.body},
    }
