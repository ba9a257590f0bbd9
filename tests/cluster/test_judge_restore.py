"""What does the report say of a rule that could not be put back, was edited, or is gone from the API server but not yet from the sidecars?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen.cli import cluster
from loadgen.cluster.finding import Fate
from loadgen.cluster.undo import Undone
from loadgen.errors import MeshError
from loadgen.policy.limits import Limits
from loadgen.policy.state import SidecarState
from loadgen.runner.window import Measured

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.anyio
OURS, THEIRS = SidecarState(Limits(max_requests=1), "base/user"), SidecarState(Limits(), None)


@dataclass
class Client:
    """A client whose sidecar shows these states one after the other, the last one for good, each after ``takes_s``; None is no answer."""

    name: str
    states: list[SidecarState | None]
    takes_s: float = 0.0
    is_gone: bool = False

    async def state(self) -> SidecarState:
        await anyio.sleep(self.takes_s)
        shown = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if shown is None:
            raise MeshError("its sidecar does not answer")
        return shown


@dataclass
class Mesh:
    clients: list[Client] = field(default_factory=list)
    converge_s: float = 10.0

    def gone(self) -> frozenset[str]:
        return frozenset(client.name for client in self.clients if client.is_gone)


@dataclass
class Change:
    undone: Undone | None


async def judged(
    change: Change,
    measured: Measured,
    *states: SidecarState | None,
    failure: str = "",
    others: Sequence[Client] = (),
    converge_s: float = 10.0,
) -> Measured:
    mesh: Any = Mesh([Client("client-1", list(states)), *others], converge_s)
    toggle: Any = change
    await cluster.judge_restore(toggle.undone, mesh, OURS, measured, failure)
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
    measured = await judged(Change(VERIFIED), Measured(restored=False, restore_detail="cut short"), OURS, converge_s=0.3)
    assert (measured.restored, measured.restore_detail) == (False, "cut short; the rule base/user is gone; not confirmed by client-1")


async def test_a_sidecar_that_does_not_answer_is_named_and_keeps_no_other_from_being_asked() -> None:
    others = [Client("client-2", [None]), Client("client-3", [THEIRS], takes_s=1000), Client("client-4", [THEIRS])]
    cut = Measured(restored=False, restore_detail="cut short")
    measured = await judged(Change(VERIFIED), cut, OURS, THEIRS, others=others, converge_s=1)
    assert measured.restored is False
    assert measured.restore_detail == "cut short; the rule base/user is gone; not confirmed by client-2, client-3"


async def test_a_pod_that_is_gone_is_not_waited_for_and_said_to_have_taken_the_rule_along() -> None:
    others = [Client("client-gone", [None], is_gone=True)]
    measured = await judged(Change(VERIFIED), Measured(restored=False, restore_detail="cut short"), THEIRS, others=others)
    assert (measured.restored, measured.restore_detail) == (True, "the rule base/user is gone; client-gone died and took it along")


async def test_what_somebody_else_edited_makes_the_run_invalid_and_is_no_failure() -> None:
    edited = Undone(Fate.SUPERSEDED, "somebody changed the rule base/user; it was left as it is")
    measured = await judged(Change(edited), Measured(restored=False, restore_detail="not confirmed"), THEIRS)
    assert measured.restored is True
    assert measured.reasons == [edited.sentence]
    said = ["somebody changed the rule base/user; what they wrote is left as it is", "the hammer was late"]
    measured = await judged(Change(edited), Measured(restored=False, restore_detail="not confirmed", reasons=said), THEIRS)
    assert measured.reasons == ["the hammer was late", edited.sentence]
