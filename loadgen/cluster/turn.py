"""Whose turn is it, from the lease to its release? Everything around one change of the rules, in the one order in which it is safe.

Lease; what earlier runs left is undone; journal; guard, until it is ready; then the change is the caller's. In the end, whatever happened:
restore, verify, journal gone, guard gone, lease gone.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import anyio

from loadgen.cluster.api import RESTORE_S
from loadgen.cluster.failure import ApiError
from loadgen.cluster.finding import Fate
from loadgen.cluster.journal import Journal, Record, State
from loadgen.cluster.lease import LEASE_S, Lease
from loadgen.cluster.marks import RUN, guard_name, restore_command, run_of
from loadgen.cluster.paths import jobs, pods
from loadgen.cluster.restore import let_go, remove_guard, undo_left_overs
from loadgen.cluster.rights import roles_for
from loadgen.cluster.toggle import RuleChange
from loadgen.errors import ExitCode, LoadgenError, RefusedError, UnverifiedError, printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from anyio.abc import TaskGroup

    from loadgen.cluster.api import KubeApi
    from loadgen.cluster.change import Change
    from loadgen.cluster.journal_file import JournalFile
    from loadgen.cluster.marks import Json, Run
    from loadgen.cluster.undo import Tell


GUARD_S = 60.0
GUARD_LOOK_S = 0.5
_OVER = ("Failed", "FailureTarget", "Complete")
_SAYS = "loadgen: "
"""So the command begins the line on which it says why it ends."""
_UNSEEING = "its pod runs, but has not seen the API server (does a NetworkPolicy keep it from it?)"


@contextlib.asynccontextmanager
async def turn(
    api: KubeApi,
    run: Run,
    change: Change,
    tasks: TaskGroup,
    *,
    version: str,
    guard: Json | None = None,
    guard_s: float = GUARD_S,
    file: JournalFile | None = None,
    lease_s: float = LEASE_S,
    tell: Tell = lambda _: None,
) -> AsyncIterator[RuleChange]:
    """Take the turn to change the rules of a run's host, and give the change; nothing is in force yet.

    ``version`` is that of DestinationRules; ``guard`` the Job that undoes the change if nobody else does; ``guard_s`` how long to wait
    until it is ready, 0 for not at all; ``file`` the journal on this machine. The lease is renewed in ``tasks``.

    Raises RefusedError before anything was touched; UnverifiedError in the end if not everything could be put back.
    """
    change.check()
    lease = await Lease.acquire(api, run, lasts_s=lease_s, tell=tell)
    renewing = anyio.CancelScope()
    tasks.start_soon(_keep, lease, renewing)
    rule_change: RuleChange | None = None
    try:
        left = await undo_left_overs(api.within(RESTORE_S), lease, tell=tell, folder=file.path.parent if file else None)
        if left.fate is Fate.FAILED:
            raise RefusedError(
                f"what an earlier run left could not be undone: {left.sentence}", hint=f"see what {restore_command(run.namespace)} says"
            )
        record = Record(run, change.mode.value, State.INTENT, api.url, version)
        journal = await Journal.begin(api, record, file)
        rule_change = RuleChange(api, lease, journal, change)
        if guard is not None:
            rule_change.owner = await _post(api, run, guard)
            if guard_s:
                await _see_it_ready(api, run, lease, change, guard_s)
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


async def _see_it_ready(api: KubeApi, run: Run, lease: Lease, change: Change, within_s: float) -> None:
    """Wait until the guard is ready: it may undo the change, and has seen the cluster.

    Raises RefusedError with the reason if it says that it will not be, or is not in time.
    """
    name = guard_name(run.host)
    until = anyio.current_time() + within_s
    while True:
        lease.check()
        job = await api.find(jobs(run.namespace, name)) or {}
        status = job.get("status") or {}
        if status.get("ready"):
            return
        over = [each for each in status.get("conditions") or () if each.get("type") in _OVER and each.get("status") == "True"]
        guards = await _pods(api, run)
        refused = [words for each in guards if (words := _last_words(each))]
        if not job or over or refused or anyio.current_time() >= until:
            break
        await anyio.sleep(GUARD_LOOK_S)
    why = "; ".join(refused or [*map(_said, over), *_troubles(guards)]) if job else "its Job was deleted"
    why = why or f"after {within_s:.0f} s its Job has no pod that runs"
    commands = f"kubectl describe job {name} -n {run.namespace}, kubectl logs job/{name} -n {run.namespace}"
    look = f"{commands} while a run waits for it; nothing was changed"
    hint = "; ".join([*roles_for(change.touched, run.host, run.namespace), look]) if refused else look
    raise RefusedError(f"the guard in the cluster does not start: {why}", hint=hint)


async def _pods(api: KubeApi, run: Run) -> list[Json]:
    """Give the statuses of the guard's pods; none if they cannot be seen. A pod of the guard before may still be there."""
    try:
        found = await api.list(pods(run.namespace), labelSelector=f"job-name={guard_name(run.host)},{RUN}={run.id}")
    except ApiError:
        return []
    return [pod.get("status") or {} for pod in found]


def _last_words(status: Json) -> str:
    """Give the sentence with which a guard refused to begin, for it would each time; empty if none did."""
    for container in status.get("containerStatuses") or ():
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            ended = state.get("terminated") or {}
            if ended.get("exitCode") == ExitCode.REFUSED:
                lines = (ended.get("message") or "it ended with exit code 3").strip().splitlines()
                said = [line.removeprefix(_SAYS) for line in lines if line.startswith(_SAYS)]
                return printable((said or lines)[-1])
    return ""


def _troubles(statuses: Sequence[Json]) -> list[str]:
    """Say why the guard's pods are not ready."""
    containers = [each for status in statuses for each in status.get("containerStatuses") or ()]
    states = [each.get("state") or {} for each in containers]
    ends = [state[key] for state in states for key in ("waiting", "terminated") if state.get(key)]
    ends += [each["lastState"]["terminated"] for each in containers if (each.get("lastState") or {}).get("terminated")]
    unmet = [
        each for status in statuses for each in status.get("conditions") or () if each.get("status") == "False" and each.get("message")
    ]
    runs = [_UNSEEING] if any("running" in state for state in states) else []
    return list(dict.fromkeys([*runs, *(_said(each) for each in (*ends, *unmet))]))


def _said(status: Json) -> str:
    return printable(": ".join(str(status[key]) for key in ("reason", "message") if status.get(key)))


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
                    await remove_guard(api, run, {run.id})  # if the lease was lost, it may be the next run's
        tasks.cancel_scope.cancel()
    await let_go(lease, tell)
    if failed:
        hint = f"{restore_command(run.namespace, run_id=run.id)} puts it back; the guard {run.namespace}/{guard_name(run.host)} tries, too"
        raise UnverifiedError(f"what the run changed could not be put back: {failed}", hint=hint)
