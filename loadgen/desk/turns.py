"""How can rules come and go in a cluster while the test goes on? Each in a turn of its own, taken before it is put and ended after it is gone.

The law: a turn that was taken is ended, whatever happens, and the one before has ended when the next is taken. Everything that may be refused
is refused while the turn is taken: nothing is in force yet, and the phase that counts goes on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

from loadgen.cluster.turn import turn
from loadgen.errors import LoadgenError, MeshError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from anyio.abc import TaskGroup

    from loadgen.cluster.api import KubeApi
    from loadgen.cluster.change import Change
    from loadgen.cluster.journal_file import JournalFile
    from loadgen.cluster.marks import Json, Run
    from loadgen.cluster.toggle import RuleChange
    from loadgen.cluster.undo import Undone
    from loadgen.policy.rule import Rule


class _Held:
    """A turn that is being taken, is held, or is being ended."""

    def __init__(self) -> None:
        self.taken: asyncio.Future[RuleChange] = asyncio.get_running_loop().create_future()
        self.scope = anyio.CancelScope()
        self.over = anyio.Event()
        self.ended = anyio.Event()

    @property
    def change(self) -> RuleChange | None:
        """The change, for as long as the turn is held."""
        there = self.taken.done() and not self.taken.cancelled() and self.taken.exception() is None and not self.over.is_set()
        return self.taken.result() if there else None


class Turns:
    """What puts rules in and takes them out, as ``Toggle`` says. ``rules`` are those of the cluster; ``tasks`` own the turn that is held."""

    def __init__(self, api: KubeApi, rules: Sequence[Rule], tasks: TaskGroup, tell: Callable[[str], None]) -> None:
        self.before: Sequence[Rule] = rules
        self.after: Sequence[Rule] = rules
        self.written_at: float | None = None
        self.failure = ""
        """What could not be put back; empty while everything could."""
        self._api = api
        self._tasks = tasks
        self._tell = tell
        self._closed = False
        self._held: _Held | None = None
        self._change: RuleChange | None = None
        """The last one."""

    @property
    def undone(self) -> Undone | None:
        """How the last change was undone; None if there was none, or it is still in force."""
        return self._change.undone if self._change is not None else None

    @property
    def touched(self) -> bool:
        """Whether a turn was taken."""
        return self._change is not None

    async def take(self, run: Run, change: Change, *, version: str, guard: Json, file: JournalFile | None) -> None:
        """Take a turn: lease, journal and guard are ours then, and nothing is in force.

        Raises RefusedError if it cannot be had, or one is held.
        """
        if self._held is not None and not self._held.over.is_set():
            raise RefusedError("a rule is in force, or being put", hint="remove it first: each rule has a turn of its own")
        await self._ended()
        if self._closed:
            raise RefusedError("the test has ended", hint="start users first: the policy is toggled under load")
        held = self._held = _Held()
        self._tasks.start_soon(self._hold, held, run, change, version, guard, file)
        self._change = await held.taken
        self.before, self.after = change.before, change.after

    async def apply(self) -> None:
        """Put the rule in force, in the turn that was taken.

        Raises MeshError or an ApiError as ``RuleChange`` does.
        """
        change = self._held.change if self._held is not None else None
        assert change is not None, "a turn was taken before"
        await self._do(change.apply, change)

    async def remove(self) -> None:
        """Take the rule out, if one is in force, and begin to end its turn; ``end`` waits for that.

        Raises MeshError if it could not be undone, or somebody else has changed it.
        """
        change = self._held.change if self._held is not None else None
        self.written_at = None
        if self._held is not None and change is not None:
            await self._do(change.remove, change)
            self._held.over.set()

    async def check(self) -> None:
        """Look whether the rule in force is as we left it, and all else ours.

        Raises MeshError with who changed what, or what could not be put back.
        """
        if self.failure:
            raise MeshError(self.failure)
        change = self._held.change if self._held is not None else None
        if change is not None:
            await change.check()

    async def end(self) -> None:
        """Put back what is in force, and return when lease, journal and guard are gone, or it is known why not."""
        if self._held is not None and not self._held.taken.done():
            self._held.scope.cancel()
        await self._ended()

    async def close(self) -> None:
        """As ``end``, and let no further turn be taken."""
        self._closed = True
        await self.end()

    async def _ended(self) -> None:
        if self._held is not None:
            self._held.over.set()
            with anyio.CancelScope(shield=True):
                await self._held.ended.wait()

    async def _do(self, step: Callable[[], Awaitable[object]], change: RuleChange) -> None:
        try:
            await step()
        finally:
            self.written_at = change.written_at

    async def _hold(self, held: _Held, run: Run, change: Change, version: str, guard: Json, file: JournalFile | None) -> None:
        """Be the turn, from the lease to its release."""
        try:
            with held.scope:
                async with turn(self._api, run, change, self._tasks, version=version, guard=guard, file=file, tell=self._tell) as made:
                    held.taken.set_result(made)
                    await held.over.wait()
        except LoadgenError as error:
            if held.taken.done():
                self.failure = error.in_a_line
                self._tell(self.failure)
            else:
                held.taken.set_exception(error)
        finally:
            if not held.taken.done():
                held.taken.set_exception(RefusedError("the test ended before the turn was taken"))
                held.taken.exception()  # nobody may wait for it any more
            held.over.set()
            held.ended.set()
