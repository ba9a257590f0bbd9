"""Is each load pod asked what it is, and is every trouble one sentence that names the pods? Real pods, and some that only a script can play."""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen import __version__
from loadgen.cluster import remote
from loadgen.cluster.access import find_access
from loadgen.cluster.api import PAGE, KubeApi
from loadgen.cluster.pods import AT_ONCE
from loadgen.cluster.remote import RemotePod
from loadgen.cluster.roll_call import roll_call
from loadgen.cluster.survey import survey
from loadgen.inputs import load_plan
from tests.cluster.direct import NAMESPACE, Direct
from tests.cluster.site import make_site
from tests.engine.scripted_server import close, drip, forever, receive, send, serving, silence
from tests.pod import conftest as beside
from tests.pod.pods import LOAD, RUN, SECRET, environment_of
from tests.story.command import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from loadgen.mesh.local import LocalMesh
    from loadgen.scenario import Scenario
    from tests.cluster.controlplane.plane import ControlPlane
    from tests.cluster.site import Site
    from tests.engine.scripted_server import Step
    from tests.pod.pods import Pod

pytestmark = [pytest.mark.anyio, pytest.mark.envoy]
ASK_S = 0.3
mesh, unlimited, pods = beside.mesh, beside.unlimited, beside.pods


def scenario(target: str = "http://user.base.svc.cluster.local:7000/", **load: Any) -> Scenario:
    """Give the tutorial's scenario for another target: on this machine, too, which a file cannot name."""
    found = load_plan(SCENARIOS / "connection-pool.yaml").scenario
    changes = {"target": found.target.model_copy(update={"url": target}), "load": found.load.model_copy(update=load)}
    return found.model_copy(update=changes)


SNAPSHOT: dict[str, Any] = {
    "schema": "loadgen.pod/v1",
    "version": __version__,
    "target": "http://user.base:7000/",
    "expect": {"status": 200, "body": "Kevin"},
    "limits": {"users": 50, "rate": 500},
    "run": None,
    "sidecar": {"version": "1.40.0", "workers": 1, "state": "live", "counts": True},
}
"""What matters here of the snapshot of a pod that is as it should be."""
STATE: dict[str, Any] = {"limits": {}, "rule": None, "error": None}


def http(body: bytes, status: int = 200, *, length: int | None = None) -> bytes:
    return f"HTTP/1.1 {status} -\r\ncontent-length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def says(body: bytes, status: int = 200) -> list[Step]:
    return [forever(receive, send(http(body, status)))]


def shows(**changes: Any) -> list[Step]:
    """Be a pod with this in its snapshot, which then tells the state of its sidecar."""
    return [receive, send(http(json.dumps({**SNAPSHOT, **changes}).encode())), receive, send(http(json.dumps(STATE).encode()))]


@contextlib.asynccontextmanager
async def crowd(*scripts: Sequence[Step], secret: str = SECRET) -> AsyncIterator[list[RemotePod]]:
    """Play pods called a, b, c and so on."""
    async with Direct({}) as direct, contextlib.AsyncExitStack() as stack:
        for number, script in enumerate(scripts):
            server = await stack.enter_async_context(serving(script))
            direct.addresses[chr(ord("a") + number)] = server.address
        yield [RemotePod(direct, NAMESPACE, name, RUN, secret) for name in direct.addresses]


async def troubles_of(*scripts: Sequence[Step], **load: Any) -> list[str]:
    async with crowd(*scripts) as controls:
        _, troubles = await roll_call(controls, scenario(**load))
    assert all(trouble.isprintable() for trouble in troubles)
    return troubles


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon what a run gives up after some seconds."""
    monkeypatch.setattr(remote, "ASK_S", ASK_S)
    monkeypatch.setattr(remote, "SILENT_S", ASK_S)


# Real pods.


async def test_pods_that_are_as_they_should_be_are_no_trouble(pods: Callable[..., Pod], unlimited: LocalMesh, tmp_path: Path) -> None:
    sidecar = unlimited.clients[0]
    started = {name: pods(environment_of(sidecar, tmp_path, POD_NAME=name)) for name in ("one", "two")}
    for pod in started.values():
        await pod.until_ready()
    async with Direct({name: pod.address for name, pod in started.items()}) as direct:
        controls = [RemotePod(direct, NAMESPACE, name, RUN, SECRET) for name in started]
        asked = scenario("http://{}:{}/".format(*sidecar.address), users=5)
        snapshots, troubles = await roll_call(controls, asked)
        assert troubles == []
        assert {name: snapshot["name"] for name, snapshot in snapshots.items()} == {"one": "one", "two": "two"}

        await started["two"].do("take", load=LOAD, hold_s=60)
        _, troubles = await roll_call(controls, asked)
        assert troubles == [f"pod two: is held by run {RUN}: wait until that one has ended"]
        await started["two"].do("leave")
        _, troubles = await roll_call(controls, asked)
        assert troubles == []

        strangers = [RemotePod(direct, NAMESPACE, name, RUN, "another secret") for name in started]
        _, troubles = await roll_call(strangers, asked)
        assert len(troubles) == 1
        assert troubles[0].startswith("pods one, two: answered 403 to /control/state: ")
        assert "see the Secret loadgen-control" in troubles[0]


async def test_pods_that_are_set_up_for_something_else_say_for_what(pods: Callable[..., Pod], unlimited: LocalMesh, tmp_path: Path) -> None:
    sidecar = unlimited.clients[0]
    other = {"LOADGEN_EXPECT_BODY": "Bob", "LOADGEN_MAX_USERS": "2", "LOADGEN_MAX_RATE": "10", "LOADGEN_ADMIN": "127.0.0.1:1"}
    settings = {
        "other": {**other, "LOADGEN_TARGET": "http://user.shop:7000/"},
        "strange": {"LOADGEN_CLUSTER": "outbound|1||nobody", "LOADGEN_TARGET": "http://user.base:7000/"},
    }
    started = {name: pods(environment_of(sidecar, tmp_path, POD_NAME=name, **each)) for name, each in settings.items()}
    await started["strange"].until_logged("nothing is sent")

    async def is_live() -> bool:
        return bool((await started["strange"].snapshot())["sidecar"]["state"] == "live")

    await started["strange"].until(is_live, "it has seen its sidecar")
    async with Direct({name: pod.address for name, pod in started.items()}) as direct:
        controls = [RemotePod(direct, NAMESPACE, name, RUN, SECRET) for name in started]
        _, troubles = await roll_call(controls, scenario())
    assert len(troubles) == 6, troubles
    allows_rate, allows_users, calls, strange, no_sidecar, takes = sorted(troubles, key=lambda trouble: trouble.partition(": ")[2])
    assert allows_rate.startswith("pod other: allows 10 requests per second, the scenario may reach ")
    assert allows_users == "pod other: allows 2 users, the scenario wants 5: set LOADGEN_MAX_USERS"
    assert calls.startswith("pod other: calls http://user.shop:7000/, the scenario's target is http://user.base.svc.cluster.local:7000/")
    assert no_sidecar.startswith("pod other: has no sidecar that answers: ")
    assert takes.startswith("pod other: takes {'status': 200, 'body': 'Bob'} for ok, the scenario {'status': 200, 'body': 'Kevin'}")
    assert strange.startswith("pod strange: ")
    assert "set proxyStatsMatcher" in strange


# Pods that are played.


async def test_a_target_may_be_written_in_any_way_that_means_the_same() -> None:
    targets = ["http://user.base:7000/", "http://user.base.svc:7000", "http://user.base.svc.cluster.local:7000/other?x=1"]
    assert await troubles_of(*(shows(target=target) for target in targets)) == []
    [trouble] = await troubles_of(shows(target="http://user.base:7001/"))
    assert trouble.startswith("pod a: calls http://user.base:7001/, ")


async def test_pods_of_another_version_are_named_together_and_of_many_the_first_three() -> None:
    old = [shows(version="0.0.1") for _ in range(5)]
    hint = "use the image of this version"
    [trouble] = await troubles_of(*old[:2], shows())
    assert trouble == f"pods a, b: runs loadgen 0.0.1 (loadgen.pod/v1), and this is {__version__}: {hint}"
    [trouble] = await troubles_of(*old)
    assert trouble.startswith("pods a, b, c and 2 more: runs loadgen 0.0.1")
    [trouble] = await troubles_of(shows(schema="loadgen.pod/v2", target=7, limits={}))
    assert trouble.startswith(f"pod a: runs loadgen {__version__} (loadgen.pod/v2)"), "what else it says means something else"


async def test_pods_that_say_nothing_are_named_together_after_a_while(impatient: None) -> None:
    started = time.monotonic()
    [trouble] = await troubles_of([receive, silence], [receive, send(http(b"{}", length=1000)), silence], [silence])
    assert trouble.startswith("pods a, b, c: cannot be reached: cannot get pods test/a:7000: the API server did not answer: ")
    assert "nothing came within 0.3 s" in trouble
    assert time.monotonic() - started < 5 * ASK_S


async def test_a_pod_that_answers_slowly_but_in_time_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    head, _, body = http(json.dumps(SNAPSHOT).encode()).partition(b"\r\n\r\n")
    slow = [receive, drip(head + b"\r\n\r\n", 0.002), send(body), receive, send(http(json.dumps(STATE).encode()))]
    assert await troubles_of(slow) == []


async def test_a_pod_that_answers_slower_than_it_may_is_one_that_cannot_be_reached(impatient: None) -> None:
    [trouble] = await troubles_of([receive, drip(http(json.dumps(SNAPSHOT).encode()), 0.01)])
    assert trouble.startswith("pod a: cannot be reached: ")


async def test_half_an_answer_is_none() -> None:
    [trouble] = await troubles_of([receive, send(http(b'{"schema": "load', length=100)), close], [receive, close])
    assert trouble.startswith("pods a, b: cannot be reached: ")


async def test_rubbish_is_said_in_one_printable_sentence_with_what_to_look_at() -> None:
    deep = await troubles_of(says(b"[" * 100_000))
    assert deep[0].startswith("pod a: answered 200 to /snapshot: [[[[[")
    assert len(deep[0]) < 300
    troubles = await troubles_of(
        says(b"\x1b[31mred\n\xff"), says(b"[]"), says(b"{}"), says(b"{}"), says(b"<html>", 404), [receive, send(b"no HTTP\r\n\r\n")]
    )
    named = {trouble.partition(":")[0]: trouble for trouble in troubles}
    assert named.keys() == {"pod a", "pod b", "pods c, d", "pod e", "pod f"}
    assert named["pod a"] == "pod a: answered 200 to /snapshot: \\x1b[31mred\\n\ufffd"
    assert named["pods c, d"] == "pods c, d: answers what is no snapshot: is it the load pod of this version?"
    assert named["pod e"] == "pod e: answered 404 to /snapshot: <html>; is this pod the load pod of this version of loadgen?"
    assert named["pod f"].startswith("pod f: cannot be reached: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"target": 7},
        {"sidecar": None},
        {"sidecar": {**SNAPSHOT["sidecar"], "workers": "2"}},
        {"sidecar": {**SNAPSHOT["sidecar"], "version": None}},
        {"limits": {"users": "x", "rate": 1}},
        {"target": "user"},
        {"expect": []},
    ],
)
async def test_a_snapshot_of_another_make_is_a_trouble_and_no_bug(changes: dict[str, Any]) -> None:
    troubles = await troubles_of(shows(**changes))
    assert len(troubles) == 1
    assert troubles[0].startswith("pod a: ")


async def test_what_a_pod_refuses_or_fails_at_is_said_with_its_own_words() -> None:
    wrong = b'{"error": "this is a bug of loadgen; the pod\'s log says more"}'
    troubles = await troubles_of(says(wrong, 500), says(wrong, 500), says(b'{"error": "too many connections"}', 503))
    assert troubles == [
        "pods a, b: answered 500 to /snapshot: this is a bug of loadgen; the pod's log says more",
        "pod c: answered 503 to /snapshot: too many connections; the pod does not listen yet, or has just ended",
    ]


async def test_an_enormous_answer_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.cluster.way.MAX_POD_BYTES", 1 << 20)
    [trouble] = await troubles_of([receive, forever(send(http(b"[" * (1 << 16), length=1 << 40)))])
    assert trouble.startswith("pod a: cannot be reached: ")
    assert "the answer is larger than 1,048,576 bytes" in trouble


async def test_a_pod_whose_sidecar_does_not_tell_its_state_is_in_the_way() -> None:
    answer = json.dumps({**STATE, "error": "the sidecar has no cluster x"}).encode()
    shown = http(json.dumps(SNAPSHOT).encode())
    [trouble] = await troubles_of([receive, send(shown), receive, send(http(answer))])
    assert trouble == "pod a: its sidecar: the sidecar has no cluster x"
    [trouble] = await troubles_of([receive, send(shown), receive, send(http(b"{}"))])
    assert trouble.startswith("pod a: answers what is no snapshot")


async def test_a_load_beyond_what_the_pods_allow_is_said_once_for_all_of_them() -> None:
    troubles = await troubles_of(shows(), shows(limits={"users": 50, "rate": 500}), users=60)
    assert len(troubles) == 2
    assert troubles[0] == "pods a, b: allows 50 users, the scenario wants 60: set LOADGEN_MAX_USERS"
    assert troubles[1].startswith("pods a, b: allows 500 requests per second, the scenario may reach 1,967: set LOADGEN_MAX_RATE")


async def test_many_pods_that_say_nothing_are_not_waited_for_one_after_the_other(impatient: None) -> None:
    async with crowd([silence]) as [control]:
        many = [RemotePod(control.api, NAMESPACE, "a", RUN, SECRET) for _ in range(2 * AT_ONCE)]
        with anyio.fail_after(10 * ASK_S):
            await roll_call(many, scenario())


# What the API server says of pods.


@pytest.fixture
def site(control_plane: ControlPlane, make_namespace: Callable[..., str]) -> Site:
    made = make_site(control_plane, make_namespace)
    made.add_service()
    return made


async def obstacles_of(site: Site, folder: Path, count: int) -> tuple[str, ...]:
    async with KubeApi(find_access(kubeconfig=site.plane.kubeconfig("admin"))) as api:
        return (await survey(api, site.plan(folder, ("count: 2", f"count: {count}")), mode=None, allow_managed=False)).obstacles


async def test_pods_that_were_evicted_or_are_going_are_named_with_the_reason(site: Site, tmp_path: Path) -> None:
    for name in ("client-a", "client-b", "client-c"):
        site.add_pod(name)
    path = f"/api/v1/namespaces/{site.clients}/pods"
    evicted = {"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory"}
    site.plane.api.patch(f"{path}/client-b/status", {"status": evicted})
    site.plane.api.patch(f"{path}/client-c", {"metadata": {"finalizers": ["loadgen.dev/test"]}})
    site.plane.api.delete(f"{path}/client-c", gracePeriodSeconds=0)
    try:
        [said] = await obstacles_of(site, tmp_path, 3)
    finally:
        site.plane.api.patch(f"{path}/client-c", {"metadata": {"finalizers": None}})
    assert said.startswith(f"1 load pods are usable in {site.clients}, the scenario wants 3: ")
    assert "client-b is Failed (Evicted)" in said
    assert "client-c is being deleted" in said


async def test_of_very_many_pods_the_usable_ones_are_found_and_not_all_others_are_named(site: Site, tmp_path: Path) -> None:
    spec = {"containers": [{"name": "client", "image": "loadgen:test"}]}

    def add(number: int) -> None:
        metadata = {"name": f"client-{number:03}", "namespace": site.clients, "labels": {"app": "client"}}
        site.plane.api.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(PAGE + 100)))
    site.add_pod("the-last")  # on the second page
    assert await obstacles_of(site, tmp_path, 1) == ()
    [said] = await obstacles_of(site, tmp_path, 3)
    assert said.startswith(
        f"1 load pods are usable in {site.clients}, the scenario wants 3: client-000 is Pending; client-001 is Pending; "
    )
    assert len(said) < 1000
