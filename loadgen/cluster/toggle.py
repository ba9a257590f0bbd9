"""How is a change put in force, taken away, and put in force again, so that it can be undone at every moment?

The law: lease, journal, then the write, each only if the one before it is still ours; every write has preconditions. What the journal does
not say was not done.
"""

from __future__ import annotations

import contextlib
import copy
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from loadgen.cluster import marks
from loadgen.cluster.api import APPLY_S, RESTORE_S, SETTLE_S
from loadgen.cluster.failure import ApiError, ConflictError, LostError
from loadgen.cluster.finding import Fate, drift, undo_annotation
from loadgen.cluster.journal import Entry, JournalLostError, State
from loadgen.cluster.managers import who_changed
from loadgen.cluster.marks import key_of
from loadgen.cluster.merge import operations, same
from loadgen.cluster.paths import config_maps, jobs, rules
from loadgen.cluster.undo import Undone, tests, undo
from loadgen.errors import MeshError, PolicyLostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadgen.cluster.api import KubeApi
    from loadgen.cluster.change import Change, Write
    from loadgen.cluster.journal import Journal
    from loadgen.cluster.lease import Lease
    from loadgen.cluster.marks import Json, Run
    from loadgen.policy.rule import Rule

_STRICTLY = {"fieldValidation": "Strict"}
"""A field that the server does not know is refused, not dropped."""


class ForeignEditError(PolicyLostError):
    """Somebody else changed a rule that the run works with."""


class RuleChange:
    """One change of the cluster's rules during a run: applied, removed, applied again, and in the end restored.

    ``undone`` says how the last removal or restore ended; ``is_restored`` that nothing needs to be done any more. ``owner`` is the owner of
    rules in the run's own namespace: they go when it goes. ``written_at`` is the moment on ``time.perf_counter`` just before the first write
    to a rule of the last ``apply`` or ``remove``; None if it came to none.
    """

    def __init__(self, api: KubeApi, lease: Lease, journal: Journal, change: Change) -> None:
        self.change = change
        self.owner: Json | None = None
        self.undone: Undone | None = None
        self.is_restored = False
        self.written_at: float | None = None
        self._api = api
        self._lease = lease
        self._journal = journal
        self._entries: tuple[Entry, ...] = ()
        """What is, or may be, in force."""
        self._left: Undone | None = None
        """What somebody else had made of a rule when it was undone: it is said in the end, too."""
        self._moves = 0
        """Odd while we change rules ourselves; whoever looked meanwhile saw nothing that counts."""
        self._touched = False
        self._settled_at = 0.0

    @property
    def before(self) -> Sequence[Rule]:
        """All rules while the change is not in force."""
        return self.change.before

    @property
    def after(self) -> Sequence[Rule]:
        """All rules while the change is in force."""
        return self.change.after

    @property
    def _run(self) -> Run:
        return self._journal.record.run

    @property
    def _version(self) -> str:
        return self._journal.record.rules

    async def apply(self) -> None:
        """Put the change in force.

        Raises MeshError if the rules are no longer as they were planned with, or lease or journal are lost; an ApiError if the server
        refuses. What was done until then is undone by ``remove`` or ``restore``.
        """
        with self._moving():
            await self._apply(self._api.within(APPLY_S))

    async def _apply(self, api: KubeApi) -> None:
        self.written_at = None
        self._lease.check()
        await self._check_guard(api)
        entries = [await self._entry(api, write) for write in self.change.writes]
        await self._journal.write(State.INTENT, tuple(entries))
        self._entries = tuple(entries)
        for index, (entry, write) in enumerate(zip(entries, self.change.writes, strict=True)):
            self._lease.check()
            entries[index] = entry.applied(await self._put(api.within(self._lease.left_s), entry, write))  # it must not outlive the lease
            self._entries = tuple(entries)
        await self._journal.write(State.APPLIED, self._entries)

    async def remove(self) -> Undone:
        """Take the change away and verify it.

        Raises MeshError if lease or journal are lost, or if it could not be undone completely.
        """
        with self._moving():
            self.undone = await self._remove()
        if self.undone.fate is not Fate.VERIFIED:
            kind = ForeignEditError if self.undone.fate is Fate.SUPERSEDED else MeshError
            raise kind(self.undone.sentence)
        return self.undone

    async def _remove(self) -> Undone:
        self.written_at = None
        self._lease.check()
        await self._journal.write(State.RESTORING, self._entries)
        undone = await self._undo(self._api.within(RESTORE_S))
        if undone.fate is Fate.SUPERSEDED:
            self._left = undone
        if undone.fate is not Fate.FAILED:
            await self._journal.write(State.INTENT, ())
            self._entries = ()
        return undone

    async def restore(self, within_s: float = RESTORE_S) -> Undone:
        """Undo whatever is left, verify it, and remove the journal. It may be called again; it raises nothing that can be foreseen."""
        with self._moving():
            self.undone = await self._restore(self._api.within(within_s))
        return self.undone

    async def _restore(self, api: KubeApi) -> Undone:
        lost = ""
        try:
            if self._entries:
                await self._journal.write(State.RESTORING, self._entries)
        except (JournalLostError, ApiError) as error:
            lost = error.message  # what is in force is undone all the same: only what has the marks of this run is touched
        undone = await self._undo(api)
        if undone.fate is not Fate.FAILED:
            undone = self._left or undone
            self._entries = ()
            self.is_restored = True
            try:
                await self._journal.finish()
                lost = ""
            except (JournalLostError, ApiError) as error:
                lost = error.message
        return replace(undone, sentence=f"{undone.sentence}; but {lost}") if lost else undone

    @contextlib.contextmanager
    def _moving(self) -> Iterator[None]:
        self._moves += 1
        try:
            yield
        finally:
            self._moves += 1

    async def check(self) -> None:
        """Look whether everything is as we left it, the lease is ours, and the guard is there. What we change ourselves meanwhile is nobody's edit.

        Raises MeshError with who changed what; LeaseLostError if it was whoever took the lease from us, as the guard does past our time.
        """
        self._lease.check()
        moves = self._moves
        try:
            if moves % 2 == 0:
                await self._check_guard(self._api)
                await self._check_rules()
        except ForeignEditError:
            if moves == self._moves:
                await self._lease.look()
                raise

    async def _check_guard(self, api: KubeApi) -> None:
        """Make sure that the guard is still there: without it nobody undoes the change of a run that dies."""
        if self.owner is None:
            return
        namespace, name = self._run.namespace, self.owner["name"]
        job = await api.find(jobs(namespace, name))
        if job is None or job["metadata"]["uid"] != self.owner["uid"] or job["metadata"].get("deletionTimestamp"):
            journal = marks.journal_name(self._run.host)
            gone = await api.find(config_maps(namespace, journal)) is None  # then the guard has ended by itself: its work seemed done
            what = f"the journal {namespace}/{journal}" if gone else f"the guard {namespace}/{name}"
            raise ForeignEditError(
                f"{what} was deleted by somebody else", hint="without it nobody undoes what a run leaves that dies; run again"
            )

    async def _check_rules(self) -> None:
        for entry in self._entries:
            edited = drift(entry, self._run, await self._api.find(rules(self._version, entry.namespace, entry.name)))
            if edited:
                raise ForeignEditError(edited)
        for source in (*self.change.sources, *(write.before for write in self.change.writes if write.before and not self._entries)):
            await self._check_unchanged(source)

    async def _check_unchanged(self, rule: Json) -> None:
        now = await self._api.find(self._path(rule))
        if now is None or not same(now.get("spec"), rule.get("spec")):
            raise _edited(rule, now)

    async def _entry(self, api: KubeApi, write: Write) -> Entry:
        """Make sure that a rule is as it was planned with, and write down how it is."""
        metadata = write.rule["metadata"]
        path = self._path(write.rule)
        if write.before is None:
            found = await api.find(path)
            if found is not None:
                message = f"there is a rule {write.key} now, made by {who_changed(found, None)}"
                raise ForeignEditError(message, hint=marks.wait_or_restore(found) if marks.run_of(found) else "it is left as it is")
            return Entry(metadata["namespace"], metadata["name"], creates=True, written=write.rule["spec"])
        image = await api.text(path)
        now = json.loads(image)
        if marks.run_of(now):
            raise ForeignEditError(f"the rule {write.key} is changed by {marks.whose(now)}", hint=marks.wait_or_restore(now))
        if now["metadata"]["uid"] != write.before["metadata"]["uid"] or not same(now.get("spec"), write.before.get("spec")):
            raise _edited(write.before, now)
        before = {"trafficPolicy": part} if (part := _pool_part(now)) is not None else {}
        written = {"trafficPolicy": _pool_part(write.rule)}
        return Entry(metadata["namespace"], metadata["name"], creates=False, written=written, before=before, image=image)

    async def _put(self, api: KubeApi, entry: Entry, write: Write) -> Json:
        """Write one rule; give it as the server stored it."""
        run = self._run

        def ours(found: Json) -> bool:
            return marks.run_of(found) == run.id

        notes = {**run.annotations, marks.UNDO: undo_annotation(entry)}
        is_answered = False
        self._write_begins()
        try:
            if entry.creates:
                thing = copy.deepcopy(write.rule)
                metadata = thing["metadata"]
                metadata["labels"] = {**metadata.get("labels", {}), **run.labels}
                metadata["annotations"] = {**metadata.get("annotations", {}), **notes}
                if self.owner and entry.namespace == run.namespace:
                    metadata["ownerReferences"] = [self.owner]
                made = await api.create(rules(self._version, entry.namespace), thing, ours=ours, **_STRICTLY)
            else:
                now = json.loads(entry.image)
                annotations = now["metadata"].get("annotations")
                steps = operations(now.get("spec") or {}, write.rule["spec"], ("spec",))
                noted = operations(annotations or {}, {**(annotations or {}), **notes, marks.RUN: run.id}, ("metadata", "annotations"))
                first = [] if annotations else [{"op": "add", "path": "/metadata/annotations", "value": {}}]
                made = await api.patch(self._path(now), [*tests(now), *steps, *first, *noted], ours=ours, **_STRICTLY)
            is_answered = self._touched = True
        except ConflictError as error:
            is_answered = True
            raise ForeignEditError(f"the rule {entry.key} was changed by somebody else at the same moment", hint="run again") from error
        except ApiError as error:
            is_answered = not isinstance(error, LostError)
            raise error.late() if self._touched or not is_answered else error from None
        finally:
            if not is_answered:  # it may still happen, also if it was cancelled
                self._touched = True
                self._settled_at = anyio.current_time() + SETTLE_S
        return made

    def _write_begins(self) -> None:
        if self.written_at is None:
            self.written_at = time.perf_counter()

    async def _undo(self, api: KubeApi) -> Undone:
        """Undo all that may be in force, the last first."""
        await anyio.sleep(max(0.0, self._settled_at - anyio.current_time()))
        found = [await undo(api, self._version, self._run, entry, self._write_begins) for entry in reversed(self._entries)]
        return Undone.of(found, none="nothing was changed")

    def _path(self, rule: Json) -> str:
        return rules(self._version, rule["metadata"]["namespace"], rule["metadata"]["name"])


def _pool_part(rule: Json) -> Json | None:
    """Give the traffic policy with nothing but its connection pool; None without a policy."""
    policy = (rule.get("spec") or {}).get("trafficPolicy")
    return None if policy is None else {key: value for key, value in policy.items() if key == "connectionPool"}


def _edited(before: Json, now: Json | None) -> ForeignEditError:
    what = f"was changed by {who_changed(now, before, ('spec',))}" if now else "was deleted by somebody else"
    return ForeignEditError(f"the rule {key_of(before)} {what} after it was looked at", hint="it is left as it is; run again")
