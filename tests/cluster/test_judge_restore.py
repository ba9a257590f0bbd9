"""What does the report say of a rule that could not be put back, was edited, or is gone from the API server but not yet from the sidecars?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from loadgen.cli import cluster
from loadgen.cluster.finding import Fate
from loadgen.cluster.undo import Undone
from loadgen.errors import MeshError
from loadgen.policy.limits import Limits
from loadgen.policy.state import SidecarState
from loadgen.runner.window import Measured

pytestmark = pytest.mark.anyio
OURS, THEIRS = SidecarState(Limits(max_requests=1), "base/user"), SidecarState(Limits(), None)


@dataclass
class Client:
    """A client whose sidecar shows these states one after the other, the last one for good; None is no answer."""

    name: str
    states: list[SidecarState | None]

    async def state(self) -> SidecarState:
        shown = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if shown is None:
            raise MeshError("its sidecar does not answer")
        return shown


@dataclass
class Mesh:
    clients: list[Client] = field(default_factory=list)
    converge_s: float = 10.0

    def gone(self) -> frozenset[str]:
        return frozenset({"client-lost"})


@dataclass
class Change:
    undone: Undone | None


async def judged(change: Change, measured: Measured, *states: SidecarState | None, failure: str = "", converge_s: float = 10.0) -> Measured:
    mesh: Any = Mesh([Client("client-1", list(states)), Client("client-lost", [OURS])], converge_s)
    toggle: Any = change
    await cluster._judge_restore(toggle, mesh, OURS, measured, failure)
    return measured


VERIFIED = Undone(Fate.VERIFIED, "the rule base/user is gone")


async def test_what_could_not_be_put_back_fails_and_says_why() -> None:
    for change, failure in ((Change(VERIFIED), "the API server is away"), (Change(Undone(Fate.FAILED, "403")), ""), (Change(None), "")):
        measured = await judged(change, Measured(restored=True), OURS, failure=failure)
        assert measured.restored is False
        assert measured.restore_detail == (failure or "the rule could not be put back")


async def test_what_the_run_had_confirmed_is_verified() -> None:
    measured = await judged(Change(VERIFIED), Measured(restored=True, restore_detail="all 3 sidecars show it"), OURS)
    assert (measured.restored, measured.restore_detail) == (True, "all 3 sidecars show it; the rule base/user is gone")


async def test_what_the_run_had_not_confirmed_is_waited_for_at_the_sidecars_that_are_left() -> None:
    measured = await judged(Change(VERIFIED), Measured(restored=False, restore_detail="not confirmed"), OURS, None, THEIRS)
    assert (measured.restored, measured.restore_detail) == (True, "the rule base/user is gone")


async def test_a_rule_that_the_sidecars_go_on_to_show_is_not_verified() -> None:
    measured = await judged(Change(VERIFIED), Measured(restored=False, restore_detail="not confirmed"), OURS, converge_s=0.3)
    assert (measured.restored, measured.restore_detail) == (False, "not confirmed; the rule base/user is gone")


async def test_what_somebody_else_edited_makes_the_run_invalid_and_is_no_failure() -> None:
    edited = Undone(Fate.SUPERSEDED, "somebody changed the rule base/user; it was left as it is")
    measured = await judged(Change(edited), Measured(restored=False, restore_detail="not confirmed"), THEIRS)
    assert measured.restored is True
    assert measured.reasons == [edited.sentence]
    said = ["somebody changed the rule base/user; what they wrote is left as it is", "the hammer was late"]
    measured = await judged(Change(edited), Measured(restored=False, restore_detail="not confirmed", reasons=said), THEIRS)
    assert measured.reasons == ["the hammer was late", edited.sentence]
