"""Is what the service's pods counted added up to what is sure, and is a pod that comes, goes or begins anew seen? Real services, no cluster."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio
import pytest

from loadgen.cluster import remote
from loadgen.cluster.failure import ApiError, ForbiddenError, LostError
from loadgen.cluster.mesh import Counting
from loadgen.cluster.paths import Call, endpoint_slices
from loadgen.cluster.preflight import ServicePod
from loadgen.errors import MeshError
from loadgen.ledger import ServiceCount, ServiceReading
from tests.cluster.direct import NAMESPACE, Direct
from tests.mesh.test_user_service import LONG_S, Running, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


@dataclass
class Behind:
    """The pods behind a service, and what reads their counts."""

    direct: Direct
    services: dict[str, Running]
    pods: list[ServicePod] = field(default_factory=list)
    refusals: list[ApiError] = field(default_factory=list)
    """What is said in the place of the pods, one after the other."""

    def __post_init__(self) -> None:
        self.counting = Counting(self.direct, NAMESPACE, self.look)

    async def look(self) -> list[ServicePod]:
        if self.refusals:
            raise self.refusals.pop(0)
        return [*self.pods]

    async def send(self, pod: str, client: str, count: int) -> None:
        """Have a pod take so many requests, which it does not answer."""
        service = self.services[pod]
        before = await service.count()
        for _ in range(count):
            (await service.line()).request(client)
        await service.until(in_flight=before["in_flight"] + count, requests=before["requests"] + count)

    async def give_up(self, pod: str) -> None:
        """Close all connections to a pod."""
        service = self.services[pod]
        await service.lines.aclose()
        await service.until(in_flight=0, requests=(await service.count())["requests"])

    async def read(self, *, restart_peak: bool = False) -> ServiceReading:
        return await self.counting.read(restart_peak=restart_peak)


@pytest.fixture
async def behind() -> AsyncIterator[Behind]:
    """Two pods."""
    async with contextlib.AsyncExitStack() as stack:
        names = ("user-1", "user-2")
        services = {name: await stack.enter_async_context(running(LONG_S)) for name in names}
        direct = await stack.enter_async_context(Direct({name: service.control for name, service in services.items()}))
        yield Behind(direct, services, [ServicePod(name, services[name].control[1], "life-1") for name in names])


async def test_the_count_of_one_pod_is_the_service_s(behind: Behind) -> None:
    behind.pods.pop()
    await behind.send("user-1", "client-1", 2)
    await behind.send("user-1", "", 1)
    reading = await behind.read(restart_peak=True)
    assert reading == ServiceReading(ServiceCount(3, 3, 3), {"client-1": ServiceCount(2, 2, 2), "": ServiceCount(1, 1, 1)})


async def test_requests_of_several_pods_are_added_up_but_of_the_peaks_only_the_highest_is_sure(behind: Behind) -> None:
    await behind.read(restart_peak=True)
    await behind.send("user-1", "client-1", 2)
    await behind.send("user-2", "client-1", 3)
    await behind.send("user-2", "client-2", 1)
    reading = await behind.read()
    assert reading.total == ServiceCount(6, 6, 4)
    assert reading.clients == {"client-1": ServiceCount(5, 5, 3), "client-2": ServiceCount(1, 1, 1)}
    assert reading.unseen == "this service has 2 pods, and each knows its own peak only"


async def test_the_peaks_begin_anew_in_every_pod(behind: Behind) -> None:
    for pod in behind.services:
        await behind.send(pod, "client-1", 2)
        await behind.give_up(pod)
    assert (await behind.read(restart_peak=True)).clients["client-1"] == ServiceCount(4, 0, 2)
    assert (await behind.read()).clients["client-1"] == ServiceCount(4, 0, 0)


async def test_where_not_every_pod_counts_the_count_is_a_part_of_the_service_s(behind: Behind) -> None:
    behind.pods[0] = replace(behind.pods[0], count_port=0)
    await behind.read(restart_peak=True)
    await behind.send("user-2", "client-1", 3)
    reading = await behind.read()
    assert reading.total == ServiceCount(3, 3, 3)
    assert reading.unseen == "only 1 of this service's 2 pods counts requests"


@pytest.mark.parametrize(
    ("pods", "said"),
    [
        (["user-1 life-1"], "user-2 went"),
        (["user-1 life-1", "user-2 life-2"], "user-2 began anew"),
        (["user-1 life-1", "user-2 life-1", "user-3 life-1"], "user-3 came"),
        (["user-2 life-2", "user-3 life-1"], "user-3 came, user-1 went, user-2 began anew"),
        ([f"user-{number} life-1" for number in range(1, 8)], "user-3, user-4, user-5 and 2 more came"),
        ([], "user-1, user-2 went"),
    ],
)
async def test_pods_that_are_not_the_same_at_both_edges_of_a_phase_are_no_witness_of_it_but_of_the_next_one(
    behind: Behind, pods: list[str], said: str
) -> None:
    await behind.read(restart_peak=True)
    before, ports = behind.pods, {pod.name: pod.count_port for pod in behind.pods}
    behind.pods = [ServicePod(name, ports.get(name, 0), life) for name, life in map(str.split, pods)]
    assert await behind.read() == ServiceReading(None, {}, f"the service's pods changed during the phase ({said})")
    behind.pods = before
    await behind.read(restart_peak=True)
    assert (await behind.read()).total == ServiceCount()


async def test_a_pod_that_is_gone_is_said_at_once_and_not_waited_for(behind: Behind) -> None:
    for restart_peak in (True, False):
        behind.direct.deleted = set()
        await behind.read(restart_peak=True)
        behind.direct.deleted = {"user-2"}
        with anyio.fail_after(remote.SILENT_S / 2):
            assert await behind.read(restart_peak=restart_peak) == ServiceReading(None, {}, "pod user-2 of the service is gone")


async def test_an_api_server_that_does_not_tell_the_pods_is_asked_again_for_a_while(
    behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SILENT_S", 0.5)
    monkeypatch.setattr(remote, "AGAIN_S", 0.02)
    call = Call("GET", endpoint_slices("base"))
    behind.refusals = [ForbiddenError(call, 403, "not yet"), LostError(call, 0, "it was lost")]
    assert (await behind.read(restart_peak=True)).total == ServiceCount()
    behind.refusals = [LostError(call, 0, "it was lost")] * 1000
    with pytest.raises(MeshError, match="it cannot be seen which pods the service has: cannot list endpointslices"):
        await behind.read()


async def test_a_pod_that_cannot_be_reached_is_asked_again_for_a_while(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SILENT_S", 0.5)
    monkeypatch.setattr(remote, "AGAIN_S", 0.02)
    behind.direct.lose["/count"] = 3
    assert (await behind.read(restart_peak=True)).total == ServiceCount()
    behind.direct.away.add("user-2")
    with pytest.raises(MeshError, match=r"pod user-2 of the service cannot be reached: .* it was taken away"):
        await behind.read()


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"[]",
        b"{}",
        b'{"requests": 1, "in_flight": 0, "peak_in_flight": 1}',
        b'{"requests": "1", "in_flight": 0, "peak_in_flight": 1, "clients": {}}',
        b'{"requests": 1, "in_flight": 0, "peak_in_flight": 1, "clients": {"client-1": {"requests": null, "in_flight": 0, "peak_in_flight": 1}}}',
    ],
)
async def test_what_is_no_count_is_an_error_that_names_the_pod_and_its_port(behind: Behind, page: bytes) -> None:
    behind.direct.say["/count"] = page
    with pytest.raises(
        MeshError, match=f"pod user-1 of the service answered 200 to /count at port {behind.pods[0].count_port}, and no count"
    ):
        await behind.read(restart_peak=True)


async def test_a_service_that_does_not_count_is_not_asked(behind: Behind) -> None:
    assert await Counting(behind.direct, NAMESPACE, None).read(restart_peak=True) == ServiceReading(None, {}, "this service does not count")
    assert behind.direct.asked == []
