"""Is it one run only that changes a rule, also when one dies, sleeps, or its clock is wrong?"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen.cluster.api import KubeApi
from loadgen.cluster.failure import ConflictError, LostError
from loadgen.cluster.lease import HeldError, Hold, Lease, LeaseLostError
from loadgen.cluster.marks import lease_name
from loadgen.cluster.paths import leases
from loadgen.errors import ExitCode
from tests.cluster.moody import Moody, hangs, says, swallows, well
from tests.cluster.rules import access, host, new_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cluster.controlplane.plane import ControlPlane

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[KubeApi]:
    token = control_plane.users.token("admin")
    async with KubeApi(lambda: access(control_plane.url, control_plane.authority, token)) as client:
        yield client


def path(namespace: str) -> str:
    return leases(namespace, lease_name(host(namespace)))


async def edit(api: KubeApi, namespace: str, **spec: Any) -> None:
    found = await api.get(path(namespace))
    await api.replace(path(namespace), {**found, "spec": {**found["spec"], **spec}}, ours=lambda _: False)


async def test_of_two_runs_that_start_at_once_exactly_one_runs_20_times(control_plane: ControlPlane, namespace: str) -> None:
    for _ in range(20):
        race = Race(control_plane, namespace)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(race.run)
            tasks.start_soon(race.run)
        assert len(race.ran) == 1
        assert [error.hold.run for error in race.refused] == race.ran
        assert {error.exit_code for error in race.refused} == {ExitCode.REFUSED}


class Race:
    """Two runs that start at the same moment, each with a connection of its own."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.ran: list[str] = []
        self.refused: list[HeldError] = []
        self._plane = plane
        self._namespace = namespace
        self._waiting = 2
        self._begin = anyio.Event()
        self._over = anyio.Event()

    async def run(self) -> None:
        plane = self._plane
        async with KubeApi(lambda: access(plane.url, plane.authority, plane.users.token("admin"))) as api:
            run = new_run(api, self._namespace, self._namespace)
            await api.find(path(self._namespace))  # the connection is there
            self._waiting -= 1
            if not self._waiting:
                self._begin.set()
            await self._begin.wait()
            await anyio.sleep(random.uniform(0, 0.004))
            try:
                lease = await Lease.acquire(api, run)
            except HeldError as error:
                self.refused.append(error)
                self._over.set()
                return
            self.ran.append(run.id)
            with anyio.move_on_after(5.0):
                await self._over.wait()
            await lease.release()


async def test_who_is_refused_hears_who_has_it_since_when_and_until_when(api: KubeApi, namespace: str) -> None:
    run = new_run(api, namespace, namespace)
    await Lease.acquire(api, run)
    with pytest.raises(HeldError) as caught:
        await Lease.acquire(api, new_run(api, namespace, namespace))
    message = caught.value.message
    assert f"another run changes the rule of {host(namespace)}" in message
    for part in (run.identity, run.id, " since 20", " ends 20", "its change expires 20", " s ago"):
        assert part in message
    assert f"--run-id {run.id}" in caught.value.hint


async def test_a_lease_that_is_released_is_gone_and_free(api: KubeApi, namespace: str) -> None:
    lease = await Lease.acquire(api, new_run(api, namespace, namespace))
    await lease.release()
    assert await api.find(path(namespace)) is None
    await lease.release()
    await Lease.acquire(api, new_run(api, namespace, namespace))
    await lease.release()
    assert await api.find(path(namespace)) is not None  # another's is not ours to release


async def test_one_that_is_not_renewed_is_taken_over_after_its_time_by_our_own_clock(api: KubeApi, namespace: str) -> None:
    dead = await Lease.acquire(api, new_run(api, namespace, namespace), lasts_s=1.0)
    await edit(api, namespace, renewTime="2999-01-01T00:00:00.000000Z")  # its clock says that it lives for ever
    told: list[str] = []
    mine = await Lease.acquire(api, new_run(api, namespace, namespace), lasts_s=1.0, watch=True, tell=told.append)
    assert 1.0 <= mine.still_s < 30.0
    assert len(told) == 1
    assert "to see whether it is alive" in told[0]
    with pytest.raises(ConflictError):
        await api.replace(path(namespace), dead._lease, ours=lambda _: False)


async def test_one_that_looks_long_dead_but_is_renewed_is_alive(api: KubeApi, namespace: str) -> None:
    lease = await Lease.acquire(api, new_run(api, namespace, namespace), lasts_s=1.0)
    await edit(api, namespace, renewTime="2001-01-01T00:00:00.000000Z")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_renew_in_the_past, api, namespace)
        with pytest.raises(HeldError):
            await Lease.acquire(api, new_run(api, namespace, namespace))
        tasks.cancel_scope.cancel()
    assert lease.run.id == Hold.of(await api.get(path(namespace))).run


async def _renew_in_the_past(api: KubeApi, namespace: str) -> None:
    for second in range(1, 60):
        await edit(api, namespace, renewTime=f"2001-01-01T00:00:{second:02}.000000Z")
        await anyio.sleep(0.2)


async def test_it_is_renewed_for_as_long_as_it_is_kept(api: KubeApi, namespace: str) -> None:
    lease = await Lease.acquire(api, new_run(api, namespace, namespace), lasts_s=2.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lease.keep)
        with pytest.raises(HeldError):
            await Lease.acquire(api, new_run(api, namespace, namespace), lasts_s=2.0, watch=True)
        await anyio.sleep(3.0)
        lease.check()
        tasks.cancel_scope.cancel()
    await lease.release()
    assert await api.find(path(namespace)) is None


async def test_who_knows_the_runs_id_takes_it_over_at_once_and_the_holder_learns_of_it(api: KubeApi, namespace: str) -> None:
    run = new_run(api, namespace, namespace)
    lease = await Lease.acquire(api, run, lasts_s=6.0)
    with pytest.raises(HeldError):
        await Lease.acquire(api, new_run(api, namespace, namespace), force="another")
    lost: list[LeaseLostError] = []

    async def keep() -> None:
        lost.append(await lease.keep())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep)
        taken = await Lease.acquire(api, new_run(api, namespace, namespace), force=run.id)
    assert taken.run.identity in lost[0].message
    assert lost[0].exit_code is ExitCode.INVALID
    with pytest.raises(LeaseLostError):
        lease.check()


async def test_one_that_was_deleted_is_lost_and_one_that_was_annotated_is_not(api: KubeApi, namespace: str) -> None:
    lease = await Lease.acquire(api, new_run(api, namespace, namespace), lasts_s=2.0)
    lost: list[LeaseLostError] = []

    async def keep() -> None:
        lost.append(await lease.keep())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep)
        found = await api.get(path(namespace))
        found["metadata"]["annotations"]["note"] = "hello"
        await api.replace(path(namespace), found, ours=lambda _: False)
        await anyio.sleep(2.5)
        assert not lost
        found = await api.get(path(namespace))
        assert found["metadata"]["annotations"]["note"] == "hello"
        await api.delete(path(namespace), uid=found["metadata"]["uid"])
    assert "was deleted by somebody else" in lost[0].message


async def test_one_that_could_not_be_renewed_is_lost_before_others_may_take_it(control_plane: ControlPlane, namespace: str) -> None:
    token = control_plane.users.token("admin")
    async with KubeApi(lambda: access(control_plane.url, control_plane.authority, token)) as api:
        lease = await Lease.acquire(api, new_run(api, namespace, namespace), lasts_s=3.0)
        lease.check()
        lease._sent_at -= 2.6  # asleep, or without a network: nobody renewed
        with pytest.raises(LeaseLostError, match="could not be renewed for 3 s"):
            lease.check()
        assert "could not be renewed" in (await lease.keep()).message
        with pytest.raises(HeldError):
            await Lease.acquire(api, new_run(api, namespace, namespace))  # and it is nobody else's yet
        assert Hold.of(await api.get(path(namespace))).run == lease.run.id


async def test_one_that_others_take_again_and_again_is_given_up_after_pauses(
    control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadgen.cluster.lease.RACE_S", 1.0)
    token = control_plane.users.token("admin")
    async with (
        Moody.serving(control_plane.url, control_plane.authority) as moody,
        KubeApi(lambda: access(moody.url, "", token)) as api,
    ):
        moody.play("POST", "leases", says(409, "somebody was quicker", reason="AlreadyExists"), times=1_000_000)
        with anyio.fail_after(30.0), pytest.raises(ConflictError):
            await Lease.acquire(api, new_run(api, namespace, namespace))
        assert 1 < moody.count("POST", "leases") < 20


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_one_whose_taking_was_cancelled_is_free_again_though_it_arrives_late(
    method: str, api: KubeApi, control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadgen.cluster.api.SETTLE_S", 2.0)
    sent, arrived = anyio.Event(), anyio.Event()

    async def arrives_late(exchange: Any) -> None:
        sent.set()
        await anyio.sleep(0.5)
        await exchange.forward()
        arrived.set()
        await hangs(exchange)

    dead = (await Lease.acquire(api, new_run(api, namespace, namespace))).run.id if method == "PUT" else ""
    token = control_plane.users.token("admin")
    async with (
        Moody.serving(control_plane.url, control_plane.authority) as moody,
        KubeApi(lambda: access(moody.url, "", token)) as shaky,
        anyio.create_task_group() as tasks,
    ):
        moody.play(method, "leases", arrives_late)
        tasks.start_soon(partial(Lease.acquire, shaky, new_run(api, namespace, namespace), force=dead))
        await sent.wait()
        tasks.cancel_scope.cancel()
    assert arrived.is_set()
    assert await api.find(path(namespace)) is None


async def test_one_that_may_have_been_taken_though_nobody_can_tell_is_free_again(
    control_plane: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadgen.cluster.api.SETTLE_S", 0.1)
    token = control_plane.users.token("admin")
    async with (
        Moody.serving(control_plane.url, control_plane.authority) as moody,
        KubeApi(lambda: access(moody.url, "", token)) as api,
    ):
        moody.play("GET", "leases", well)
        moody.play("GET", "leases", says(403, "not you"))  # so that it is not known whether it was taken
        moody.play("POST", "leases", swallows)
        with pytest.raises(LostError):
            await Lease.acquire(api, new_run(api, namespace, namespace))
        assert await api.find(path(namespace)) is None


async def test_different_hosts_do_not_wait_for_each_other(api: KubeApi, namespace: str) -> None:
    await Lease.acquire(api, new_run(api, namespace, namespace))
    await Lease.acquire(api, new_run(api, "elsewhere", namespace))
