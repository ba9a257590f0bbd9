"""Does the runner's side get along with its load pods, whatever becomes of them? Real pods with real sidecars, and no cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from loadgen.cluster import pods as code
from loadgen.cluster import remote
from loadgen.cluster.mesh import ClusterMesh, Counting
from loadgen.cluster.pods import PodCrew, PodLoad
from loadgen.cluster.preflight import ServicePod
from loadgen.cluster.remote import RemotePod
from loadgen.engine.hammers import drain
from loadgen.errors import MeshError
from loadgen.inputs import load_plan
from loadgen.mesh.boot import LocalSpec, boot
from loadgen.mesh.local import ready
from loadgen.outcome import Outcome
from loadgen.pacing import Interval
from loadgen.policy.limits import FIELDS
from loadgen.policy.selection import Service, Workload
from loadgen.recorder import Tally, merged
from loadgen.report import Environment
from loadgen.runner.result import make_report
from loadgen.runner.story import Story
from tests.cluster.conftest import _or_skip as or_skip
from tests.cluster.controlplane.network import pod_network, run
from tests.cluster.crowd import Cost, Member
from tests.cluster.direct import NAMESPACE, Direct
from tests.pod import conftest as beside
from tests.pod.pods import LOAD, PATIENCE_S, RUN, SECRET, environment_of
from tests.story.command import AGAIN_IF_STARVED, REPOSITORY, SCENARIOS, variant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from loadgen.errors import HammerError
    from loadgen.inputs import Plan
    from loadgen.mesh.local import LocalMesh
    from loadgen.outcome import Answer
    from loadgen.policy.rule import Rule
    from loadgen.progress import Progress
    from loadgen.report import Report
    from tests.cluster.controlplane.plane import ControlPlane
    from tests.pod.pods import Pod

pytestmark = [pytest.mark.anyio, pytest.mark.envoy]
SPEC = LocalSpec(Service("user", "base", (7000,)), 7000, Workload("test", {"app": "client"}), 3, 1, 200, "Kevin", Interval(0.005))
TAKE = {"load": LOAD, "seed": "1", "path": "/", "hold_s": 60}
RUBBISH = [
    b"",
    b"rubbish \x1b[31m",
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"incarnation": {}}',
    b'{"incarnation": "SAME", "run": "run-1"}',
    b'{"incarnation": "SAME", "run": "run-1", "sight": [], "tally": {}, "sample": null}',
    b'{"incarnation": "SAME", "run": "run-1", "sight": {"outcomes": {}}, "tally": {"latency": {"nonsense": 1}}, "sample": null}',
    b'{"incarnation": "SAME", "run": "\\u001b[31m"}',
    json.dumps(
        {  # of the right shape, with a text wherever a number belongs
            "incarnation": "SAME",
            "run": "run-1",
            "sight": {"outcomes": {"ok": "x"}, **dict.fromkeys(("sidecar_overflow", "sent", "in_flight", "pid", "cpu_s"), "x")},
            "tally": {**Tally().snapshot(), "server_overflow": "x"},
            "sample": None,
            "outcomes": {"ok": "x"},
            **dict.fromkeys(("sidecar_overflow", "sent", "in_flight", "pid", "cpu_s"), "x"),
            "counters": dict.fromkeys(("pending_overflow", "active_overflow", "cx_overflow", "total"), "x"),
            **dict.fromkeys(("overflow", "held_s", "on_the_way", "settled", "done"), "x"),
            "limits": dict.fromkeys(FIELDS, "x"),
            "rule": None,
            "updated": "",
        }
    ).encode(),
    b'{"incarnation": "SAME", "run": "run-1", "counters": {"total": "x"}}',
]
ENVIRONMENT = Environment(loadgen="0", python="3", platform="p", cpus=2, envoy="1", hammer_cpu_share=0, ready_s=0)
pods = beside.pods


@pytest.fixture(scope="module")
def mesh() -> Iterator[LocalMesh]:
    """Run the user service and three real sidecars."""
    with boot(SPEC) as booting:
        yield anyio.run(ready, booting, backend_options={"use_uvloop": True})


@pytest.fixture
async def unlimited(mesh: LocalMesh) -> AsyncIterator[LocalMesh]:
    """Give the mesh without a rule, and take away afterwards what the test put there."""
    yield mesh
    await mesh.put(())
    with anyio.fail_after(PATIENCE_S):
        for sidecar in mesh.clients:
            await mesh.reach(sidecar, mesh.wanted(()))


@dataclass
class Field:
    """Pods that a run could take: each with the load that the runner has of it."""

    direct: Direct
    pods: list[Pod]
    loads: list[PodLoad]
    start: Callable[[int], Pod]
    newcomers: list[str] = dataclasses.field(default_factory=list)
    """Pods that the run does not know, and that an API server would show."""
    behind: list[ServicePod] = dataclasses.field(default_factory=list)
    """What stands behind the service, as an API server would show it."""

    def restart(self, index: int) -> None:
        """Kill a pod, and start another one in its place."""
        self.pods[index].process.kill()
        self.pods[index].process.wait(PATIENCE_S)
        self.pods[index] = self.start(index)
        self.direct.addresses[self.loads[index].name] = self.pods[index].address


@pytest.fixture
async def enlist(unlimited: LocalMesh, pods: Callable[..., Pod], tmp_path: Path) -> AsyncIterator[Callable[..., Field]]:
    """Start so many pods, each beside its sidecar."""
    async with Direct({}) as direct:

        def start(index: int) -> Pod:
            sidecar = unlimited.clients[index]
            return pods(environment_of(sidecar, tmp_path, POD_NAME=sidecar.name))

        def enlist(count: int = 1, run: str = RUN) -> Field:
            names = [sidecar.name for sidecar in unlimited.clients[:count]]
            started = [start(index) for index in range(count)]
            direct.addresses.update({name: pod.address for name, pod in zip(names, started, strict=True)})
            loads = [PodLoad(RemotePod(direct, NAMESPACE, name, run, SECRET), number, TAKE) for number, name in enumerate(names, 1)]
            return Field(direct, started, loads, start)

        yield enlist


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask more often than a run does."""
    monkeypatch.setattr(code, "POLL_S", 0.05)
    monkeypatch.setattr(remote, "AGAIN_S", 0.02)


@pytest.fixture
def impatient(brisk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon what a run gives up after some seconds."""
    monkeypatch.setattr(remote, "SILENT_S", 1.0)


async def until_sent(load: PodLoad, count: int) -> None:
    with anyio.fail_after(PATIENCE_S):
        while (await load.look()).sent < count:  # noqa: ASYNC110  # a pod is asked
            await anyio.sleep(0.02)


@contextlib.asynccontextmanager
async def crew_of(loads: Sequence[PodLoad]) -> AsyncIterator[PodCrew]:
    async with anyio.create_task_group() as tasks, PodCrew(loads)(tasks) as crew:
        yield crew
        tasks.cancel_scope.cancel()


async def until_own_load(pod: Pod) -> None:
    """Wait until a pod sends by itself."""
    before = await pod.requests()

    async def sends() -> bool:
        return await pod.requests() > before

    await pod.until(sends, "its own load goes on")
    assert (await pod.snapshot())["run"] is None


def taken(plan: Plan) -> dict[str, object]:
    return {"load": plan.scenario.load.model_dump(mode="json"), "path": plan.scenario.target.path}


async def until_lost(crew: PodCrew) -> HammerError:
    with anyio.fail_after(PATIENCE_S):
        return await crew.watch()


# What is said arrives, once and in order.


async def test_orders_arrive_one_after_the_other_in_the_order_in_which_they_were_given(enlist: Callable[..., Field]) -> None:
    field = enlist()
    [load] = field.loads
    async with anyio.create_task_group() as tasks:
        await load.prepare()
        field.direct.asked.clear()
        field.direct.most_waiting = 0
        tasks.start_soon(load.obey)
        field.direct.lose["/control/start"] = 2  # it comes late
        load.start()
        load.stop()
        load.abort()
        await field.pods[0].until(lambda: field.direct.calls("/control/abort"), "all was said")
        await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
    said = [asked.path.removeprefix("/control/") for asked in field.direct.asked]
    assert said == ["start", "start", "start", "stop", "abort"]
    assert field.direct.most_waiting == 1
    assert load.death is None
    load.stop()  # nobody passes it on any more, which is no error: the run is over


async def test_an_answer_that_was_lost_is_asked_for_again_and_what_was_ordered_is_done_once(
    enlist: Callable[..., Field], impatient: None
) -> None:
    field = enlist()
    [load] = field.loads
    await load.prepare()
    await load.control.tell("start")
    await until_sent(load, 50)
    await load.control.tell("stop")
    await drain(load)
    sent = (await load.look()).sent
    field.direct.lose["/control/edge"] = 2
    edge = await load.edge()
    assert edge.tally.requests == sent, "the second edge would have had nothing left"
    assert edge.settled
    first, *others = field.direct.calls("/control/edge")
    assert first
    assert others == [first, first]
    assert (await load.edge()).tally.requests == 0
    assert field.direct.calls("/control/edge")[-1] != first


async def test_an_answer_that_stays_away_is_an_error_that_names_the_pod(enlist: Callable[..., Field], impatient: None) -> None:
    field = enlist()
    [load] = field.loads
    await load.prepare()
    field.direct.away.add(load.name)
    with anyio.fail_after(PATIENCE_S), pytest.raises(MeshError, match=f"pod {load.name} cannot be reached: .* it was taken away"):
        await load.edge()


# A pod that is lost.


async def test_a_pod_that_was_restarted_is_lost_and_its_last_tally_is_kept(enlist: Callable[..., Field], brisk: None) -> None:
    field = enlist(2)
    first, second = field.loads
    async with crew_of(field.loads) as crew:
        for load in field.loads:
            await load.prepare()
            load.start()
        await until_sent(first, 30)
        counted = (await first.snapshot()).requests
        assert counted > 0
        field.pods[0].process.kill()
        assert (await first.snapshot()).requests >= counted
        field.restart(0)
        death = await until_lost(crew)
        assert death.message == f"pod {first.name} was restarted during the run; what it had counted is lost"
        assert (await first.snapshot()).requests >= counted
        assert second.death is None


async def test_a_pod_that_another_run_took_is_lost(enlist: Callable[..., Field], brisk: None) -> None:
    field = enlist()
    [load] = field.loads
    await load.prepare()
    await field.pods[0].do("leave")
    assert (await field.pods[0].control("take", run="run-2", load=LOAD)).status_code == 200
    async with crew_of(field.loads) as crew:
        assert (await until_lost(crew)).message == f"pod {load.name} works for run-2 and no longer for this run"
    assert (await field.pods[0].snapshot())["run"] == "run-2", "who leaves takes nothing from the other run"
    with pytest.raises(MeshError, match=f"pod {load.name} works for run-2"):
        await load.edge()


async def test_a_pod_that_is_silent_is_lost_and_its_last_tally_is_kept(enlist: Callable[..., Field], impatient: None) -> None:
    field = enlist(2)
    first, second = field.loads
    async with crew_of(field.loads) as crew:
        for load in field.loads:
            await load.prepare()
            load.start()
        await until_sent(second, 30)
        counted = (await second.snapshot()).requests
        field.pods[1].process.kill()
        death = await until_lost(crew)
        assert death.message.startswith(f"pod {second.name} has reported nothing for 1 s: cannot be reached: ")
        assert (await second.snapshot()).requests >= counted > 0
        assert first.death is None


async def test_a_pod_that_is_silent_for_a_moment_only_is_kept(enlist: Callable[..., Field], brisk: None) -> None:
    field = enlist()
    [load] = field.loads
    async with crew_of(field.loads):
        await load.prepare()
        field.direct.away.add(load.name)
        load.start()
        await anyio.sleep(0.5)
        field.direct.away.clear()
        await until_sent(load, 1)
        assert load.death is None


async def test_a_pod_that_answers_rubbish_is_lost_and_nothing_breaks(
    enlist: Callable[..., Field], brisk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SILENT_S", 0.3)
    field = enlist()
    for answer in RUBBISH:
        load = PodLoad(field.loads[0].control, 1, TAKE)
        async with crew_of([load]) as crew:
            await load.prepare()
            incarnation = (await field.pods[0].snapshot())["incarnation"]
            rubbish = answer.replace(b"SAME", incarnation.encode())
            field.direct.say["/snapshot"] = rubbish
            death = await until_lost(crew)
            assert f"pod {load.name} " in death.message
            assert death.message.isprintable()
            asks: dict[str, Callable[[], Awaitable[object]]] = {
                "look": load.look,
                "edge": load.edge,
                "counters": load.counters,
                "state": load.state,
                "done_since": partial(load.all_done_since, 0.0),
                "take": load.prepare,
            }
            for verb, ask in asks.items():
                field.direct.say[f"/control/{verb}"] = rubbish
                with pytest.raises(MeshError, match=f"pod {load.name} answered"):
                    await ask()
            field.direct.say.clear()


async def test_a_pod_that_is_deleted_is_lost_at_once_whatever_it_was_just_asked(enlist: Callable[..., Field], brisk: None) -> None:
    field = enlist(3)
    seen, told, kept = field.loads
    async with crew_of(field.loads) as crew:
        for load in field.loads:
            await load.prepare()
        field.direct.deleted.add(seen.name)
        with anyio.fail_after(remote.SILENT_S / 2):
            assert (await crew.watch()).message == f"pod {seen.name} is gone: it was deleted or evicted"
    field.direct.deleted.add(told.name)
    with anyio.fail_after(remote.SILENT_S / 2), pytest.raises(MeshError, match=f"pod {told.name} is gone: it was deleted or evicted"):
        await told.edge()
    assert [load.is_gone for load in field.loads] == [True, True, False]
    assert told.death is not None
    assert kept.death is None


# The end of a run, and what a dead one left.


async def test_at_the_end_every_pod_goes_back_to_its_own_load(enlist: Callable[..., Field]) -> None:
    field = enlist(2)
    async with crew_of(field.loads):
        for load in field.loads:
            await load.prepare()
        assert [(await pod.snapshot())["run"] for pod in field.pods] == [RUN, RUN]
    assert [(await pod.snapshot())["run"] for pod in field.pods] == [None, None]
    for pod in field.pods:
        await until_own_load(pod)


async def test_one_pod_that_does_not_answer_keeps_no_other_from_being_let_go(
    enlist: Callable[..., Field], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "LEAVE_S", 0.5)
    field = enlist(2)
    async with crew_of(field.loads):
        for load in field.loads:
            await load.prepare()
        field.direct.away.add(field.loads[0].name)
    assert (await field.pods[1].snapshot())["run"] is None
    assert (await field.pods[0].snapshot())["run"] == RUN, "until it has heard nothing for as long as it was told to wait"


async def test_a_pod_that_a_dead_run_holds_lets_go_of_it_and_can_be_taken_then(enlist: Callable[..., Field]) -> None:
    field = enlist()
    [load] = field.loads
    dead = PodLoad(replace(load.control, run="dead"), 1, {**TAKE, "hold_s": 1})
    await dead.prepare()
    with pytest.raises(MeshError, match=f"pod {load.name} answered 409 to /control/take: this pod is held by run dead"):
        await load.prepare()
    await until_own_load(field.pods[0])
    await load.prepare()
    assert (await field.pods[0].snapshot())["run"] == RUN
    with pytest.raises(MeshError, match=f"pod {load.name} works for {RUN} and no longer for this run"):
        await dead.edge()


# A whole run.


@dataclass
class LocalToggle:
    """Does with a local mesh what the toggle does with a cluster's rules; to take ours out takes ``slow_s``."""

    mesh: LocalMesh
    after: Sequence[Rule]
    slow_s: float = 0.0
    before: Sequence[Rule] = ()
    written_at: float | None = None

    async def apply(self) -> None:
        await self.mesh.put(self.after)

    async def remove(self) -> None:
        await anyio.sleep(self.slow_s)
        await self.mesh.put(self.before)

    async def check(self) -> None: ...


@dataclass
class Watcher:
    """Sees what a person would see of a run."""

    phases: list[str]
    answers: list[Answer]
    in_flight: int = 0

    def phase_began(self, name: str, policy: str, rule: str | None, convergence_s: Sequence[float]) -> None:
        self.phases.append(f"{name}: {rule}, {len(convergence_s)} sidecars")

    def answer(self, answer: Answer) -> None:
        self.answers.append(answer)

    def progress(self, progress: Progress) -> None:
        self.in_flight = max(self.in_flight, progress.in_flight)


def short_plan(folder: Path) -> Plan:
    durations = (("duration: 8s", "duration: 1s"), ("duration: 10s", "duration: 1s"), ("count: 10", "count: 3"))
    return load_plan(variant(folder / "scenario.yaml", SCENARIOS / "connection-pool.yaml", *durations))


def story_of(
    plan: Plan, field: Field, mesh: LocalMesh, watcher: Watcher, slow_s: float = 0.0
) -> tuple[Story[PodLoad, PodLoad], ClusterMesh]:
    crew = PodCrew(field.loads)
    field.behind += [ServicePod("user-1", mesh.ports[1], "life-1")]

    async def look() -> list[ServicePod]:
        return [*field.behind]

    async def newcomers() -> list[str]:
        return field.newcomers

    counting = Counting(field.direct, plan.service.namespace, look)
    cluster = ClusterMesh(plan.service, plan.client, crew, LocalToggle(mesh, plan.rules, slow_s), counting, newcomers)
    field.direct.addresses["user-1"] = ("127.0.0.1", mesh.ports[1])
    return Story(plan, cluster, watcher, crew), cluster


@pytest.mark.parametrize("page", [b"", b"[]", b"[" * 100_000, b'{"clients": {}}', b'{"clients": {}, "requests": Infinity}'])
async def test_a_service_that_answers_no_count_is_named_with_what_to_do(page: bytes, mesh: LocalMesh) -> None:
    async def look() -> list[ServicePod]:
        return [ServicePod("user-1", 7000, "life-1")]

    async with Direct({"user-1": ("127.0.0.1", mesh.ports[1])}, say={"/count": page}) as direct:
        with pytest.raises(MeshError, match="pod user-1 of the service answered 200 to /count at port 7000, and no count") as caught:
            await Counting(direct, "base", look).read(restart_peak=True)
    assert "loadgen.dev/count-port" in caught.value.hint


@AGAIN_IF_STARVED
async def test_a_whole_run_ends_enforced_and_valid_with_a_ledger_of_0(
    enlist: Callable[..., Field], unlimited: LocalMesh, tmp_path: Path
) -> None:
    plan, field, watcher = short_plan(tmp_path), enlist(3), Watcher([], [])
    field.loads = [PodLoad(load.control, number, {**TAKE, **taken(plan)}) for number, load in enumerate(field.loads, 1)]
    story, cluster = story_of(plan, field, unlimited, watcher)
    measured = await story.run()
    report = make_report(plan, measured, cluster.wanted(plan.rules), ENVIRONMENT, "2026-01-01T00:00:00+00:00", "cluster")
    assert report.validity.state == "VALID", report.validity.reasons
    assert report.verdict.state == "enforced"
    assert [phase.ledger.difference for phase in report.phases] == [0, 0, 0]
    assert [phase.outcomes[Outcome.OVERFLOW] > 0 for phase in report.phases] == [False, True, False]
    assert report.restore.state == "verified"
    assert {client.name: client.service.peak_in_flight for client in report.phases[1].clients} == dict.fromkeys(
        field.direct.addresses.keys() - {"user-1"}, 1
    )
    assert watcher.phases == ["baseline: None, 0 sidecars", "limited: base/user, 3 sidecars", "recovered: None, 3 sidecars"]
    assert {answer.client for answer in watcher.answers} == {load.name for load in field.loads}
    assert watcher.in_flight > 0
    assert [(await pod.snapshot())["run"] for pod in field.pods] == [None] * 3
    page = (await field.pods[0].client.get("/metrics")).text
    counted = {
        phase: float(re.findall(rf'loadgen_requests_total{{outcome="overflow",phase="{phase}"}} (\S+)', page)[0])
        for phase in ("baseline", "limited", "recovered")
    }
    assert [count > 0 for count in counted.values()] == [False, True, False], counted
    assert await unlimited.state(unlimited.clients[0]) == unlimited.wanted(())


@dataclass
class Spoilt:
    """A run to which something happens while the rule is in force."""

    plan: Plan
    field: Field
    mesh: LocalMesh
    slow_s: float = 0.0
    """How long it takes to take the rule out."""

    async def run(self, spoil: Callable[[Story[PodLoad, PodLoad]], Awaitable[object]]) -> Report:
        watcher = Watcher([], [])
        story, cluster = story_of(self.plan, self.field, self.mesh, watcher, self.slow_s)
        async with anyio.create_task_group() as tasks:

            async def wait_and_spoil() -> None:
                await self.field.pods[0].until(lambda: len(watcher.phases) == 2, "the rule is in force")
                await spoil(story)

            tasks.start_soon(wait_and_spoil)
            with anyio.fail_after(PATIENCE_S):
                measured = await story.run()
        assert await self.mesh.state(self.mesh.clients[0]) == self.mesh.wanted(())
        return make_report(self.plan, measured, cluster.wanted(self.plan.rules), ENVIRONMENT, "2026-01-01T00:00:00+00:00", "cluster")


@pytest.fixture
def spoilt(enlist: Callable[..., Field], unlimited: LocalMesh, tmp_path: Path) -> Spoilt:
    return Spoilt(short_plan(tmp_path), enlist(3), unlimited)


async def test_a_run_whose_pod_is_restarted_is_invalid_names_it_and_asks_its_sidecar_whether_the_rule_is_gone(spoilt: Spoilt) -> None:
    async def restart(_story: object) -> None:
        await anyio.to_thread.run_sync(spoilt.field.restart, 1)

    report = await spoilt.run(restart)
    assert report.validity.state == "INVALID"
    lost = f"pod {spoilt.field.loads[1].name} was restarted during the run; what it had counted is lost"
    assert report.validity.reasons[0] == lost, report.validity.reasons
    assert (report.restore.state, report.restore.detail) == ("verified", "all 3 sidecars show that the policy is gone")


async def test_a_run_whose_pod_is_deleted_is_invalid_and_says_that_its_sidecar_died_with_it(spoilt: Spoilt) -> None:
    name = spoilt.field.loads[1].name

    async def delete(_story: object) -> None:
        spoilt.field.direct.deleted.add(name)

    report = await spoilt.run(delete)
    assert report.validity.reasons[0] == f"pod {name} is gone: it was deleted or evicted", report.validity.reasons
    assert report.restore.state == "verified"
    assert report.restore.detail == f"2 sidecars show that the policy is gone; {name} died and took it along"


async def test_of_a_pod_that_is_silent_nobody_says_that_its_sidecar_has_let_go_of_the_rule(spoilt: Spoilt, impatient: None) -> None:
    name = spoilt.field.loads[1].name

    async def silence(_story: object) -> None:
        spoilt.field.direct.away.add(name)

    report = await spoilt.run(silence)
    assert report.validity.reasons[0].startswith(f"pod {name} "), report.validity.reasons
    assert report.restore.state == "failed"
    assert f"did not confirm that the policy is gone: pod {name} cannot be reached" in report.restore.detail


async def test_a_run_that_ends_early_is_not_cut_short_because_a_cluster_takes_its_time(spoilt: Spoilt) -> None:
    spoilt.slow_s = 2.5

    async def interrupt(story: Story[PodLoad, PodLoad]) -> None:
        story.stop("interrupted by SIGINT")

    report = await spoilt.run(interrupt)
    assert report.validity.reasons[0] == "interrupted by SIGINT"
    assert "cut short" not in "".join(report.validity.reasons)
    assert report.restore.state == "verified"
    assert report.phases[1].ledger.difference == 0


async def test_a_run_during_which_more_clients_come_is_invalid_and_names_them(spoilt: Spoilt) -> None:
    async def scale_up(_story: object) -> None:
        spoilt.field.newcomers += ["client-d", "client-e", "client-f", "client-g"]

    report = await spoilt.run(scale_up)
    assert report.validity.state == "INVALID"
    who = "4 more clients than the run began with (client-d, client-e, client-f and 1 more) called the service"
    assert report.validity.reasons[0] == f"{who}: do not scale the clients during a run", report.validity.reasons
    assert report.restore.state == "verified", report.restore


@AGAIN_IF_STARVED
async def test_a_run_whose_service_gets_one_more_pod_has_two_witnesses_for_that_phase_and_says_so(spoilt: Spoilt) -> None:
    async def scale_up(_story: object) -> None:
        spoilt.field.behind.append(ServicePod("user-2", 0, "life-2"))

    report = await spoilt.run(scale_up)
    assert report.validity.state == "VALID", report.validity.reasons
    assert report.verdict.state == "enforced"
    said = "the service's pods changed during the phase (user-2 came)"
    assert f"but {said}, so nothing shows how many were admitted at a time" in report.verdict.sentence
    assert [phase.service.peak_in_flight is None for phase in report.phases] == [False, True, True]
    part = "only 1 of this service's 2 pods counts requests"
    assert report.findings == [
        f"the service's peak in phase limited is not known: {said}",
        f"the service's peak in phase recovered is not known: {part}",
    ]


# Many pods.


async def test_a_hundred_pods_are_polled_at_once_with_little_memory(
    control_plane: ControlPlane, namespace: str, record_property: Callable[[str, object], None]
) -> None:
    with contextlib.ExitStack() as stack:
        with or_skip():
            network = stack.enter_context(pod_network())
        members = {network.address(number): Member(f"client-{number:03}", number) for number in range(2, 102)}
        run("ip -batch -", "".join(f"address add {address}/24 dev {network.bridge}\n" for address in members))
        async with anyio.create_task_group() as tasks:
            servers = [await member.open(address, tasks) for address, member in members.items()]
            await anyio.to_thread.run_sync(add_pods, control_plane, namespace, members)
            program = [sys.executable, "-m", "tests.cluster.crowd", str(control_plane.kubeconfig("admin")), namespace, "10"]
            ended = await anyio.run_process(program, cwd=REPOSITORY, check=False)
            for server in servers:
                server.close()
            tasks.cancel_scope.cancel()
    assert ended.returncode == 0, ended.stderr.decode()[-3000:]
    cost = Cost(**json.loads(ended.stdout))
    print(f"100 pods: {cost.poll_s:.3f} s per poll, {cost.cpu_s:.3f} s of them computed, {cost.peak_mb:.0f} MB at most")
    record_property("poll_s", cost.poll_s)
    assert cost.pods == 100
    counted = merged(member.tally for member in members.values()).outcomes
    assert cost.outcomes == {str(outcome): count for outcome, count in counted.items() if count}
    assert cost.peak_mb < 150


def add_pods(plane: ControlPlane, namespace: str, members: Mapping[str, Member]) -> None:
    """Tell the API server of pods at these addresses."""
    for address, member in members.items():
        metadata = {"name": member.name, "namespace": namespace, "labels": {"app": "client"}}
        spec = {"containers": [{"name": "client", "image": "loadgen:test"}]}
        plane.api.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        plane.api.patch(f"/api/v1/namespaces/{namespace}/pods/{member.name}/status", {"status": status})
