"""Whose turn is it, from the lease to its release? Everything around one change of the rules, in the one order in which it is safe.

Lease; what earlier runs left is undone; journal; guard; then the change is the caller's. In the end, whatever happened: restore, verify,
journal gone, guard gone, lease gone.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import anyio

from loadgen.cluster.api import RESTORE_S
from loadgen.cluster.finding import Fate
from loadgen.cluster.journal import Journal, Record, State
from loadgen.cluster.lease import LEASE_S, Lease
from loadgen.cluster.marks import guard_name, run_of
from loadgen.cluster.paths import jobs
from loadgen.cluster.restore import let_go, remove_guard, undo_left_overs
from loadgen.cluster.toggle import RuleChange
from loadgen.errors import LoadgenError, RefusedError, UnverifiedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskGroup

    from loadgen.cluster.api import KubeApi
    from loadgen.cluster.change import Change
    from loadgen.cluster.journal_file import JournalFile
    from loadgen.cluster.marks import Json, Run
    from loadgen.cluster.undo import Tell


@contextlib.asynccontextmanager
async def turn(
    api: KubeApi,
    run: Run,
    change: Change,
    tasks: TaskGroup,
    *,
    version: str,
    guard: Json | None = None,
    file: JournalFile | None = None,
    lease_s: float = LEASE_S,
    wait_s: float = 0.0,
    tell: Tell = lambda _: None,
) -> AsyncIterator[RuleChange]:
    """Take the turn to change the rules of a run's host, and give the change; nothing is in force yet.

    ``version`` is that of DestinationRules; ``guard`` the Job that undoes the change if nobody else does; ``file`` the journal on this
    machine; ``wait_s`` how long to wait for another run to end. The lease is renewed in ``tasks``.

    Raises RefusedError before anything was touched; UnverifiedError in the end if not everything could be put back.
    """
    change.check()
    lease = await Lease.acquire(api, run, lasts_s=lease_s, wait_s=wait_s, tell=tell)
    renewing = anyio.CancelScope()
    tasks.start_soon(_keep, lease, renewing)
    rule_change: RuleChange | None = None
    try:
        left = await undo_left_overs(api.within(RESTORE_S), lease, tell=tell, folder=file.path.parent if file else None)
        if left.fate is Fate.FAILED:
            raise RefusedError(f"what an earlier run left could not be undone: {left.sentence}", hint="see what loadgen restore says")
        record = Record(run, change.mode.value, State.INTENT, api.url, version)
        journal = await Journal.begin(api, record, file)
        rule_change = RuleChange(api, lease, journal, change)
        if guard is not None:
            rule_change.owner = await _post(api, run, guard)
        yield rule_change
    finally:
        renewing.cancel()
        with anyio.CancelScope(shield=True):
            await _end(api, run, lease, rule_change, tell)


async def _keep(lease: Lease, scope: anyio.CancelScope) -> None:
    with scope:
        await lease.keep()


async def _post(api: KubeApi, run: Run, guard: Json) -> Json:
    """Create the guard; give what makes a rule go with it."""
    made = await api.create(jobs(run.namespace), guard, ours=lambda found: run_of(found) == run.id)
    metadata = made["metadata"]
    return {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}


async def _end(api: KubeApi, run: Run, lease: Lease, change: RuleChange | None, tell: Tell) -> None:
    """Restore, and only then let go. What could not be restored is left to the guard, and to whoever restores later."""
    failed = ""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lease.keep)
        if change is not None:
            undone = change.undone if change.is_restored and change.undone else await change.restore()
            failed = undone.sentence if undone.fate is Fate.FAILED else ""
            if not failed:
                with contextlib.suppress(LoadgenError):
                    await remove_guard(api, run)
        tasks.cancel_scope.cancel()
    await let_go(lease, tell)
    if failed:
        hint = f"loadgen restore --run-id {run.id} puts it back; the guard {run.namespace}/{guard_name(run.host)} tries, too"
        raise UnverifiedError(f"what the run changed could not be put back: {failed}", hint=hint)
