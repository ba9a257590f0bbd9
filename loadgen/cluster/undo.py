"""How is one change undone, and how do we know? What is left is found, taken out under preconditions, and looked for once more.

The law: whatever happens in between, the next look decides. A conflict means that somebody was quicker: look again. Done is what a look
finds nothing left of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from loadgen.cluster.failure import ApiError, ConflictError, NotFoundError
from loadgen.cluster.finding import Fate, Finding, find, ownership
from loadgen.cluster.marks import restore_command
from loadgen.cluster.paths import rules
from loadgen.errors import LoadgenError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loadgen.cluster.api import KubeApi
    from loadgen.cluster.journal import Entry
    from loadgen.cluster.marks import Json, Run

ROUNDS = 20
"""So often a rule may be changed under our hands before we give up."""
ROUND_S = 0.1
DELETION_S = 10.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Undone:
    """What became of an undo, in a sentence that names who and what."""

    fate: Fate
    sentence: str

    @classmethod
    def of(cls, all_of_them: Iterable[Undone], *, none: str) -> Undone:
        """Make one of several: the worst counts."""
        found = list(all_of_them)
        order = [Fate.FAILED, Fate.SUPERSEDED, Fate.VERIFIED]
        worst = min((each.fate for each in found), key=order.index, default=Fate.VERIFIED)
        return cls(worst, "; ".join(dict.fromkeys(each.sentence for each in found)) or none)


async def undo(api: KubeApi, version: str, run: Run, entry: Entry, begins: Callable[[], None] = lambda: None) -> Undone:
    """Undo one entry of a run and verify it; what goes wrong is told, not raised.

    ``version`` is that of DestinationRules; ``begins`` is called just before each write that changes what is in force.
    """
    try:
        return await _undo(api, version, run, entry, begins)
    except LoadgenError as error:
        return Undone(Fate.FAILED, f"{error.message}; {by_hand(run, entry)}")


async def _undo(api: KubeApi, version: str, run: Run, entry: Entry, begins: Callable[[], None]) -> Undone:
    path = rules(version, entry.namespace, entry.name)
    made: Finding | None = None
    patience = anyio.current_time() + DELETION_S
    rounds = 0
    while rounds < ROUNDS:
        now = await api.find(path)
        finding = find(entry, run, now)
        if finding.is_done or now is None:
            if now is not None and not entry.creates:
                await _give_back(api, path, entry, now)
            return _told(made, finding)
        if finding.waits:
            if anyio.current_time() > patience:
                return Undone(finding.fate, f"{finding.sentence}; {by_hand(run, entry)}")
        else:
            rounds += 1
            begins()
            made = await _take_out(api, path, run, entry, finding, now) or made
        await anyio.sleep(ROUND_S if finding.waits or made is None else 0)
    return Undone(Fate.FAILED, f"the rule {entry.key} changes faster than it can be put back; {by_hand(run, entry)}")


def _told(made: Finding | None, last: Finding) -> Undone:
    """Say what was done and what was seen in the end; what we left to somebody else is said even if nothing shows it any more."""
    told = made if made is not None and made.fate is Fate.SUPERSEDED else last
    return Undone(told.fate, told.sentence)


async def _take_out(api: KubeApi, path: str, run: Run, entry: Entry, finding: Finding, now: Json) -> Finding | None:
    """Do what was found to be done; None if somebody was quicker."""
    metadata = now["metadata"]
    try:
        if finding.deletes:
            await api.delete(path, uid=metadata["uid"], version=metadata["resourceVersion"])
        else:
            await api.patch(path, [*tests(now), *finding.patch], ours=lambda there: find(entry, run, there).is_done)
    except (ConflictError, NotFoundError):
        return None
    return finding


async def _give_back(api: KubeApi, path: str, entry: Entry, now: Json) -> None:
    """Give the fields back to those who managed them. That it cannot be done changes nothing for the rule."""
    change = ownership(entry, now)
    if change is not None:
        try:
            await api.patch(path, [*tests(now), change], ours=lambda there: ownership(entry, there) is None)
        except ApiError:
            return


def tests(now: Json) -> list[Json]:
    """Give the beginning of a JSON patch that only fits the object as it is now."""
    metadata = now["metadata"]
    keys = ("uid", "resourceVersion")
    return [{"op": "test", "path": f"/metadata/{key}", "value": metadata[key]} for key in keys]


def by_hand(run: Run, entry: Entry) -> str:
    """Say how a person undoes it without us."""
    if entry.creates:
        return f"by hand: kubectl delete destinationrules.networking.istio.io {entry.name} -n {entry.namespace}"
    return (
        f"{restore_command(run.namespace)} tries again; by hand: kubectl edit destinationrules.networking.istio.io {entry.name} -n {entry.namespace},"
        f" how it was stands in its annotation loadgen.dev/undo and in the journal of run {run.id}"
    )
