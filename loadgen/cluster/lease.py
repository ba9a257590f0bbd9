"""Whose turn is it to change the rule of a host? One Lease for each host, in the clients' namespace: of runs from there one is at work.

Runs with clients in different namespaces have different leases. They know each other by the marks on the rules only.

The law: whether a holder is alive is judged by our own clock only, by watching whether it renews; its timestamps are for people. A holder
counts its own time from before the renewal was sent, on a clock that goes on while the machine sleeps, and stops before others may take
over. A lease does not fence: each write has preconditions besides.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

import anyio

from loadgen.cluster.api import TRY_S
from loadgen.cluster.failure import ApiError, ConflictError, LostError, NotFoundError
from loadgen.cluster.marks import EXPIRES_AT, Json, annotation, lease_name, micro_time, moment_of, restore_command, rfc3339, run_of
from loadgen.cluster.paths import leases
from loadgen.cluster.server import Tries
from loadgen.errors import PolicyLostError, RefusedError, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.cluster.api import KubeApi
    from loadgen.cluster.marks import Run

LEASE_S = 30.0
RENEWALS = 3
"""So often a lease is renewed while it lasts."""
MARGIN = 6
"""A holder gives up this part of the lease's time before others may take it."""
_LOOKS = 20
"""So often a lease is looked at while it lasts."""
_SHORTEST_LOOK_S, _LONGEST_LOOK_S = 0.05, 1.0
RACE_S = 10.0
"""For so long a lease is tried to be taken that seems free each time, and then was taken by somebody else."""
CLOCK_S = 2.0
"""So well do two machines agree on the server's clock, whose dates come in whole seconds, as the moments in marks do."""


class HeldError(RefusedError):
    """Somebody else has the lease, and is alive as far as one can see."""

    def __init__(self, hold: Hold, host: str, now: datetime) -> None:
        self.hold = hold
        at_once = f", or at once: {restore_command(hold.namespace, run_id=hold.run)}" if hold.run else ""
        super().__init__(
            f"another run changes the rule of {host}: {hold.describe(now)}",
            hint=f"wait for it to end; if it is dead, {restore_command(hold.namespace)} undoes what it left{at_once}",
        )


class LeaseLostError(PolicyLostError):
    """The lease is no longer ours: somebody else may change the rule now."""


@dataclass(frozen=True, slots=True)
class Hold:
    """What a lease says. ``version`` changes with each renewal."""

    holder: str
    run: str
    since: datetime | None
    renewed: datetime | None
    lasts_s: float
    expires_at: datetime | None
    namespace: str
    uid: str
    version: str

    @classmethod
    def of(cls, lease: Json) -> Self:
        """Read a Lease; what is missing or no value is as if it were not held."""
        spec, metadata = lease.get("spec") or {}, lease["metadata"]
        lasts = spec.get("leaseDurationSeconds")
        return cls(
            holder=str(spec.get("holderIdentity") or ""),
            run=run_of(lease),
            since=moment_of(spec.get("acquireTime")),
            renewed=moment_of(spec.get("renewTime")),
            lasts_s=float(lasts) if isinstance(lasts, int) and lasts > 0 else LEASE_S,
            expires_at=moment_of(annotation(lease, EXPIRES_AT)),
            namespace=metadata["namespace"],
            uid=metadata["uid"],
            version=metadata["resourceVersion"],
        )

    def seems_alive(self, now: datetime) -> bool:
        """Tell whether it was renewed lately as far as its timestamps say: good enough to refuse, never to take over."""
        return self.renewed is not None and now < self.renewed + timedelta(seconds=self.lasts_s)

    def describe(self, now: datetime) -> str:
        """Say who has it since when, which run it is, and when it ends."""
        parts = [f"{printable(self.holder)} has the lease" + (f" since {rfc3339(self.since)}" if self.since else "")]
        parts += [f"run {printable(self.run)}"] if self.run else []
        if self.renewed:
            ends = self.renewed + timedelta(seconds=self.lasts_s)
            parts.append(f"renewed {_ago(now, self.renewed)}, ends {rfc3339(ends)} if it is not renewed again")
        parts += [f"its change expires {rfc3339(self.expires_at)}"] if self.expires_at else []
        return ", ".join(parts)


class Watch:
    """Watches one lease by our own clock. ``still_s`` is for how long it has been seen unchanged."""

    def __init__(self) -> None:
        self._seen: tuple[str, str] | None = None
        self._since = 0.0
        self.still_s = 0.0
        self.renewals = 0

    def see(self, hold: Hold | None) -> None:
        """Take in what the lease says now; None if there is none."""
        seen = (hold.uid, hold.version) if hold else ("", "")
        now = time.monotonic()
        if seen != self._seen:
            self.renewals += self._seen is not None
            self._seen, self._since = seen, now
        self.still_s = now - self._since

    def is_stale(self, hold: Hold) -> bool:
        """Tell whether its holder has had its time and did not renew."""
        return self.still_s >= hold.lasts_s


class Lease:
    """The lease of a host while it is ours. Made by ``acquire``; ``keep`` must run meanwhile.

    ``still_s`` says for how long the one before was seen without a sign of life.
    """

    def __init__(self, api: KubeApi, run: Run, lasts_s: float, lease: Json, sent_at: float, still_s: float) -> None:
        self.run = run
        self.still_s = still_s
        self._api = api
        self._path = leases(run.namespace, lease_name(run.host))
        self._lasts_s = lasts_s
        self._lease = lease
        self._sent_at = sent_at
        self._lost = ""

    @classmethod
    async def acquire(
        cls,
        api: KubeApi,
        run: Run,
        *,
        lasts_s: float = LEASE_S,
        watch: bool = False,
        force: str = "",
        tell: Callable[[str], None] = lambda _: None,
    ) -> Lease:
        """Take the lease of the run's host.

        Who seems alive keeps it; with ``watch`` he must also be seen to renew it. One that is not renewed for its whole time is taken over;
        with ``force``, the id of the run that has it, at once.

        Raises HeldError, which names the holder; ConflictError if others are quicker again and again.
        """
        path, watched = leases(run.namespace, lease_name(run.host)), Watch()
        told, race = False, Tries()
        while True:
            found = await api.find(path)
            hold = Hold.of(found) if found else None
            watched.see(hold)
            free = hold is None or not hold.holder or hold.run == force or watched.is_stale(hold)
            if free:
                sent_at = awake_s()
                try:
                    taken = await _take(api, path, run, lasts_s, found)
                except ConflictError as error:  # somebody else was quicker; see who
                    race.count += 1
                    await race.rest(error, race.began + RACE_S)
                    continue
                return cls(api, run, lasts_s, taken, sent_at, watched.still_s if hold and hold.run != force else 0.0)
            assert hold is not None, "a lease that nobody holds is free"
            alive = watched.renewals > 0 or (not watch and hold.seems_alive(api.server_time()))
            if alive:
                raise HeldError(hold, run.host, api.server_time())
            if not told:
                tell(f"{hold.describe(api.server_time())}; waiting up to {hold.lasts_s:.0f} s to see whether it is alive")
                told = True
            await anyio.sleep(_look_s(hold.lasts_s))
            race = Tries()

    @property
    def left_s(self) -> float:
        """Say for how long it is surely ours if it is not renewed again."""
        return max(0.0, self._sent_at + self._lasts_s * (1 - 1 / MARGIN) - awake_s())

    def check(self) -> None:
        """Make sure that the lease is ours at this moment.

        Raises LeaseLostError if it is not, or could not be renewed in time.
        """
        if not self._lost and self.left_s == 0.0:
            self._lost = f"the lease of {self.run.host} could not be renewed for {awake_s() - self._sent_at:.0f} s"
        if self._lost:
            raise LeaseLostError(self._lost, hint="was this machine asleep, or the API server away? another run may change the rule now")

    async def look(self) -> None:
        """Look whether the lease still is ours, for whoever must not wait until it is renewed.

        Raises LeaseLostError if it is not, or could not be renewed in time; nothing if it cannot be seen.
        """
        await self._look_again(self._api.within(TRY_S))
        self.check()

    async def keep(self) -> LeaseLostError:
        """Renew the lease for as long as it is ours; give how it was lost."""
        while True:
            try:
                self.check()
                await anyio.sleep(max(0.0, self._sent_at + self._lasts_s / RENEWALS - awake_s()))
                await self._renew()
            except LeaseLostError as error:
                return error

    async def _renew(self) -> None:
        sent_at = awake_s()
        api = self._api.within(self.left_s)
        spec = {**self._lease["spec"], "renewTime": micro_time(api.server_time())}
        try:
            self._lease = await api.replace(self._path, {**self._lease, "spec": spec}, ours=lambda found: found["spec"] == spec)
            self._sent_at = sent_at
        except NotFoundError:
            self._lose()
        except ConflictError:
            await self._look_again(api)
        except ApiError:
            await anyio.sleep(_look_s(self._lasts_s))  # its time is over soon, and then that is what is said

    async def _look_again(self, api: KubeApi) -> None:
        """See who changed the lease: if we still hold it, go on from there."""
        try:
            found = await api.find(self._path)
        except ApiError:
            return
        if found is not None and Hold.of(found).holder == self.run.identity:
            self._lease = found
        elif found is None:
            self._lose()
        else:
            self._lose(Hold.of(found).describe(api.server_time()))

    def _lose(self, to: str = "") -> None:
        """Note that the lease is gone, or who has it; past the time of the run's change that is no wonder."""
        is_over = self._api.server_time() >= self.run.expires_at - timedelta(seconds=CLOCK_S)
        how = f"was taken over: {to}" if to else "is gone" if is_over else "was deleted by somebody else"
        why = f"; the time of the run's change was over at {rfc3339(self.run.expires_at)}, and then its guard undoes it" if is_over else ""
        self._lost = f"the lease of {self.run.host} {how}{why}"

    async def release(self) -> None:
        """Delete the lease if it is still ours. ``keep`` must have ended."""
        while True:
            metadata = self._lease["metadata"]
            try:
                await self._api.delete(self._path, uid=metadata["uid"], version=metadata["resourceVersion"])
            except ConflictError:
                found = await self._api.find(self._path)
                if found is None or Hold.of(found).holder != self.run.identity:
                    return
                self._lease = found
            else:
                return


def awake_s() -> float:
    """Give the time on a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


async def _take(api: KubeApi, path: str, run: Run, lasts_s: float, found: Json | None) -> Json:
    """Create the lease, or take it over as it was found."""
    now = micro_time(api.server_time())
    transitions = (found.get("spec") or {}).get("leaseTransitions", 0) + 1 if found else 0
    lease: Json = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": run.metadata(lease_name(run.host)),
        "spec": {
            "holderIdentity": run.identity,
            "leaseDurationSeconds": max(1, math.ceil(lasts_s)),
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        },
    }

    def ours(there: Json) -> bool:
        return Hold.of(there).holder == run.identity

    try:
        if found is None:
            return await api.create(leases(run.namespace), lease, ours=ours)
        lease["metadata"] |= {key: found["metadata"][key] for key in ("uid", "resourceVersion")}
        return await api.replace(path, lease, ours=ours)
    except BaseException as error:  # also if it is cancelled: a lease that nobody knows he has keeps others away until it runs out
        if not isinstance(error, ApiError) or isinstance(error, LostError):
            await api.withdraw(path, ours=ours)
        raise


def _look_s(lasts_s: float) -> float:
    return min(max(lasts_s / _LOOKS, _SHORTEST_LOOK_S), _LONGEST_LOOK_S)


def _ago(now: datetime, moment: datetime) -> str:
    return f"{max(0, round((now - moment).total_seconds()))} s ago"
