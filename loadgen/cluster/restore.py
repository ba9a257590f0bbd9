"""What did runs leave behind, and how is all of it put back? From the journal in the cluster, the one on this machine, or the marks on the rules.

The law: whoever restores has the lease first, so that neither a run nor another restorer is at work, and writes nothing when it is lost. It
can be repeated: what is undone stays undone, and the journal goes last.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio

from loadgen.cluster import marks
from loadgen.cluster.api import RESTORE_S, SETTLE_S
from loadgen.cluster.failure import ConflictError, ForbiddenError, NotFoundError
from loadgen.cluster.finding import Fate, entry_of
from loadgen.cluster.journal import Journal, JournalError, State
from loadgen.cluster.journal_file import left_behind
from loadgen.cluster.lease import LEASE_S, RENEWALS, Hold, Lease, LeaseLostError
from loadgen.cluster.marks import (
    Run,
    annotation,
    guard_name,
    journal_name,
    key_of,
    moment_of,
    namespaces_of,
    new_run_id,
    restore_command,
    run_of,
    this_holder,
)
from loadgen.cluster.paths import config_maps, jobs, leases, rules
from loadgen.cluster.undo import Undone, undo
from loadgen.errors import LoadgenError, RefusedError, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from loadgen.cluster.api import KubeApi
    from loadgen.cluster.journal import Record
    from loadgen.cluster.journal_file import JournalFile
    from loadgen.cluster.marks import Json
    from loadgen.cluster.undo import Tell

RELEASE_S = 10.0
_OURS = {"labelSelector": marks.RUN}


@dataclass(frozen=True, slots=True)
class LeftOver:
    """What a run left for one host, or has there now. ``holder`` is whoever has the lease; ``seems_alive`` says whether it was renewed lately."""

    host: str
    namespace: str
    runs: tuple[str, ...]
    parts: tuple[str, ...]
    holder: str = ""
    seems_alive: bool = False


async def find_left_overs(api: KubeApi, namespaces: Iterable[str], *, folder: Path | None = None) -> list[LeftOver]:
    """Find everything that has the marks of a run, in these namespaces and on this machine; changes nothing."""
    version = await api.rule_version()
    parts: dict[tuple[str, str], list[tuple[str, str]]] = {}
    holds: dict[tuple[str, str], Hold] = {}
    for namespace in dict.fromkeys(namespaces):
        for kind, path in (("lease", leases(namespace)), ("journal", config_maps(namespace)), ("guard", jobs(namespace))):
            for thing in await _readable(api, path):
                where = annotation(thing, marks.HOST), annotation(thing, marks.HOME) or namespace
                parts.setdefault(where, []).append((run_of(thing), f"{kind} {key_of(thing)}"))
                if kind == "lease":
                    holds[where] = Hold.of(thing)
        for rule in await api.list(rules(version, namespace)):
            if run_of(rule) and annotation(rule, marks.HOST):
                where = annotation(rule, marks.HOST), annotation(rule, marks.HOME)
                parts.setdefault(where, []).append((run_of(rule), f"rule {key_of(rule)}"))
    for file, record in left_behind(folder):
        if not isinstance(record, JournalError) and record.server == api.url:
            parts.setdefault((record.run.host, record.run.namespace), []).append((record.run.id, f"file {file.path}"))
    return [_left_over(api, where, found, holds.get(where)) for where, found in sorted(parts.items())]


def _left_over(api: KubeApi, where: tuple[str, str], found: Sequence[tuple[str, str]], hold: Hold | None) -> LeftOver:
    runs = tuple(dict.fromkeys(run for run, _ in found if run))
    alive = hold is not None and hold.seems_alive(api.server_time())
    return LeftOver(*where, runs, tuple(part for _, part in found), hold.holder if hold else "", alive)


async def _readable(api: KubeApi, path: str) -> list[Json]:
    """List what has our marks; an account that may not list them has none to find."""
    try:
        return await api.list(path, **_OURS)
    except ForbiddenError:
        return []


async def restore(
    api: KubeApi,
    host: str,
    namespace: str,
    *,
    run_id: str = "",
    tell: Tell = lambda _: None,
    within_s: float = RESTORE_S,
    lease_s: float = LEASE_S,
    settle_s: float = SETTLE_S,
    folder: Path | None = None,
) -> Undone:
    """Put back what runs left of the rules of a host, and verify it; ``tell`` gets a sentence for each step.

    Nothing left is verified, too. A lease that is not renewed is taken over when it has run out; ``run_id``, of the run that has it, takes it
    over at once. One that is lost meanwhile is taken again, if nobody else has it. ``folder`` is where journals of this machine are.

    Raises HeldError if somebody else has the lease and renews it; an ApiError if not even that can be found out.
    """
    api = api.within(within_s + 2 * lease_s)
    moment = api.server_time()
    me = Run(new_run_id(moment), this_holder(), host, namespace, moment + timedelta(seconds=within_s))
    while True:
        lease = await Lease.acquire(api, me, lasts_s=lease_s, watch=True, force=run_id, tell=tell)
        undone: Undone | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lease.keep)
                try:
                    undone = await undo_left_overs(api.within(within_s), lease, tell=tell, settle_s=settle_s, folder=folder)
                except LeaseLostError as error:
                    tell(f"{error.message}; it has to be taken again")
                except LoadgenError as error:
                    undone = Undone(Fate.FAILED, error.in_a_line)
                tasks.cancel_scope.cancel()
        finally:
            await let_go(lease, tell)
        if undone is not None:
            return undone
        run_id = me.id  # it may be ours still, and only have been late


async def clear_left_overs(
    api: KubeApi, host: str, namespace: str, tell: Tell = lambda _: None, *, lease_s: float = LEASE_S, folder: Path | None = None
) -> None:
    """Undo what dead runs left of the rules of a host, before anybody plans with it; do nothing if nothing was left, or a run is alive.

    Raises RefusedError if it cannot be undone.
    """
    places = (namespace, *namespaces_of(host))
    left = [each for each in await find_left_overs(api, places, folder=folder) if (each.host, each.namespace) == (host, namespace)]
    if not left or any(each.seems_alive for each in left):
        return
    tell(
        f"an earlier run left something of the rules of {host}; it is undone first: {', '.join(part for each in left for part in each.parts)}"
    )
    undone = await restore(api, host, namespace, tell=tell, lease_s=lease_s, folder=folder)
    if undone.fate is Fate.FAILED:
        raise RefusedError(
            f"what an earlier run left could not be undone: {undone.sentence}", hint=f"see what {restore_command(namespace)} says"
        )


async def let_go(lease: Lease, tell: Tell) -> None:
    """Release a lease, even if the task is being cancelled; where that cannot be done, it runs out."""
    with anyio.move_on_after(RELEASE_S, shield=True):
        try:
            await lease.release()
        except LoadgenError as error:
            tell(f"the lease could not be released, and runs out by itself: {error.message}")


async def undo_left_overs(
    api: KubeApi, lease: Lease, *, tell: Tell = lambda _: None, settle_s: float = SETTLE_S, folder: Path | None = None
) -> Undone:
    """Undo what runs before left for the host of a lease that we have, verify it, and clear their journals and guard away.

    Raises a JournalError if a journal cannot be read, a LeaseLostError if somebody else may be at work by now, an ApiError if the server does
    not let us.
    """
    host, namespace = lease.run.host, lease.run.namespace
    version = await api.rule_version()
    dead = await _run_of_guard(api, lease.run)  # while we have the lease, there is none of a living one
    journal = await Journal.find(api, host, namespace)
    files = _journals_here(folder, api.url, lease.run, journal, tell)
    records = [journal.record] if journal else [record for _, record in files]
    found: list[Undone] = []
    for record in records:
        tell(printable(f"run {record.run.id} of {record.run.holder} got as far as {record.state.value}"))
        await _settle(record, lease, settle_s)
        lease.check()
        if journal:
            await journal.write(State.RESTORING, record.entries)
        for entry in reversed(record.entries):
            lease.check()
            found.append(await undo(api, record.rules, record.run, entry))
            tell(found[-1].sentence)
        dead.add(record.run.id)
    for undone in await _undo_by_marks(api, version, records, lease):
        found.append(undone)
        tell(undone.sentence)
    undone = Undone.of(found, none=f"nothing was left of the rules of {host}")
    if undone.fate is not Fate.FAILED:
        lease.check()
        await _clear(api, lease, journal, [file for file, _ in files], dead, tell)
    return undone


def _journals_here(folder: Path | None, server: str, me: Run, journal: Journal | None, tell: Tell) -> list[tuple[JournalFile, Record]]:
    """Give the journals on this machine that are about this host, in this cluster; the copy of the cluster's journal is, by any address."""
    run_id = journal.record.run.id if journal else ""
    found = []
    for file, record in left_behind(folder):
        if isinstance(record, JournalError):
            tell(f"{record.message}; it is left alone" + (f" ({record.hint})" if record.hint else ""))
        elif (record.run.host, record.run.namespace) == (me.host, me.namespace) and (record.server == server or record.run.id == run_id):
            found.append((file, record))
    return found


async def _settle(record: Record, lease: Lease, settle_s: float) -> None:
    """Wait until nothing that was sent for a change can still happen, if it may have been sent just now."""
    unsure = any(not entry.uid for entry in record.entries)
    if unsure and lease.still_s < settle_s + LEASE_S / RENEWALS:
        await anyio.sleep(settle_s)


async def _undo_by_marks(api: KubeApi, version: str, records: Sequence[Record], lease: Lease) -> list[Undone]:
    """Undo what has the marks of a run, and stands in no journal."""
    host, home = lease.run.host, lease.run.namespace
    namespaces = {home, *namespaces_of(host), *(entry.namespace for record in records for entry in record.entries)}
    found: list[Undone] = []
    for namespace in sorted(namespaces):
        for rule in await api.list(rules(version, namespace)):
            if (annotation(rule, marks.HOST), annotation(rule, marks.HOME)) != (host, home) or run_of(rule) in {"", lease.run.id}:
                continue
            entry = entry_of(rule)
            run = replace(lease.run, id=run_of(rule), expires_at=moment_of(annotation(rule, marks.EXPIRES_AT)) or lease.run.expires_at)
            lease.check()
            if entry is None:
                found.append(Undone(Fate.FAILED, f"the marks of run {printable(run.id)} on the rule {key_of(rule)} cannot be read"))
            else:
                found.append(await undo(api, version, run, entry))
    return found


async def _clear(
    api: KubeApi, lease: Lease, journal: Journal | None, files: Sequence[JournalFile], dead: Collection[str], tell: Tell
) -> None:
    """Remove the journal, then the guard of these runs that watched over it."""
    if journal:
        await journal.finish()
        tell(f"the journal {lease.run.namespace}/{journal_name(lease.run.host)} is removed")
    for file in files:
        file.remove()
    await remove_guard(api, lease.run, dead)


async def _run_of_guard(api: KubeApi, run: Run) -> set[str]:
    """Say which run's guard there is for a host; nothing for none, or one that we may not see."""
    try:
        found = await api.find(jobs(run.namespace, guard_name(run.host)))
    except ForbiddenError:
        return set()
    return {run_of(found)} - {""} if found else set()


async def remove_guard(api: KubeApi, run: Run, runs: Collection[str]) -> None:
    """Delete the guard of a host if it is that of one of these runs. It ends by itself, too, when the journal is gone."""
    path = jobs(run.namespace, guard_name(run.host))
    try:
        found = await api.find(path)
        if found is not None and run_of(found) in runs:
            await api.delete(path, uid=found["metadata"]["uid"])
    except (ForbiddenError, ConflictError, NotFoundError):
        return
