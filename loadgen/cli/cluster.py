"""Joins a plan, a cluster, a story and a screen to one run: ``--mesh cluster`` of ``run`` and ``plan``, and ``restore`` and ``guard``."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import re
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from loadgen.cli.signals import HeldBack, Interruption, attended
from loadgen.cli.story import shown, since_process_start
from loadgen.cluster.access import find_access
from loadgen.cluster.api import KubeApi
from loadgen.cluster.change import Mode
from loadgen.cluster.failure import ForbiddenError
from loadgen.cluster.finding import Fate
from loadgen.cluster.guard import guard_job
from loadgen.cluster.journal_file import JournalFile
from loadgen.cluster.lease import HeldError, Hold
from loadgen.cluster.marks import Run, lease_name, new_run_id, this_holder
from loadgen.cluster.mesh import CONVERGE_S, ClusterMesh, Counting
from loadgen.cluster.paths import VERSION, leases, secrets
from loadgen.cluster.pods import PodCrew, PodLoad
from loadgen.cluster.preflight import newcomers, service_pods
from loadgen.cluster.remote import RemotePod
from loadgen.cluster.restore import clear_left_overs
from loadgen.cluster.roll_call import roll_call
from loadgen.cluster.rules import read_rule
from loadgen.cluster.survey import SECRET, Survey, survey
from loadgen.cluster.turn import turn
from loadgen.errors import LoadgenError, RefusedError, UnverifiedError
from loadgen.render.screen import Screen
from loadgen.runner.environment import environment
from loadgen.runner.story import Story
from loadgen.runner.window import Measured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from loadgen.cli.metrics import MetricsPort
    from loadgen.cluster.undo import Undone
    from loadgen.inputs import Plan
    from loadgen.policy.state import SidecarState
    from loadgen.preview import Preview
    from loadgen.render.stream import Stream
    from loadgen.runner.live import Live
    from loadgen.runner.result import Result
    from loadgen.scenario import Scenario

HOLD_S = 20
"""A pod that hears nothing of its run for so long goes back to its own load."""
SLACK_S = 300.0
"""How much longer than its phases a run may take before its change expires, besides what each phase needs to begin."""
BEGIN_S = CONVERGE_S + 30.0
"""What each phase needs to begin: the write, the sidecars that follow, and the edges."""
REACH_S = 8.0
"""An API server that does not answer at all is sooner given up at the start than in the middle of a run."""
GONE_POLL_S = 0.1
TICK_S = 2.0
ENDING = (
    "ending in order: the rule is put back and the report is written; once more leaves at once, and the guard in the cluster puts it back"
)


def preview_cluster(plan: Plan, options: Mapping[str, Any]) -> Preview:
    """Look at a cluster and say what a run would find and change there."""

    async def look(_interruption: Interruption) -> Preview:
        async with _api(options) as api:
            await reach(api)
            seen = await _look(api, plan, options, "plan")
            in_order = seen.snapshots and not seen.survey.obstacles
            return seen.survey.preview(as_found(plan, plan.scenario.clients.count, seen.workers) if in_order else plan)

    preview, code = anyio.run(attended, look)
    if preview is None:
        raise SystemExit(code)
    return preview


def run_cluster(
    plan: Plan, options: Mapping[str, Any], held: HeldBack, *, quiet: bool, stream: Stream | None = None, metrics: MetricsPort | None = None
) -> tuple[Result | None, int]:
    """Run a plan in a cluster; give the result (None if it was interrupted before the first request) and the interruption's exit code.

    Signals that come afterwards are ``held`` back.
    """

    async def tell(interruption: Interruption) -> Result:
        with Screen(quiet=quiet, stream=stream) as screen:
            interruption.say = screen.say
            async with shown(metrics, plan) as live, _api(options) as api:
                await reach(api)
                return await _run(api, plan, options, screen, interruption, live)

    return anyio.run(attended, tell, held)


def _api(options: Mapping[str, Any]) -> KubeApi:
    return KubeApi(find_access(kubeconfig=options["kubeconfig"], context=options["context"]))


async def reach(api: KubeApi) -> None:
    """Make sure that there is an API server, before it is asked with more patience."""
    with contextlib.suppress(ForbiddenError):  # it answered
        await api.within(REACH_S).get(VERSION)


@dataclass(frozen=True)
class _Sight:
    """Everything that was seen before a run: what the API server knows, and what the pods say, by name."""

    survey: Survey
    controls: tuple[RemotePod, ...]
    snapshots: Mapping[str, Mapping[str, Any]]

    @property
    def workers(self) -> int:
        """The most workers that a client's sidecar has, once the pods are in order."""
        return max(int(snapshot["sidecar"]["workers"]) for snapshot in self.snapshots.values())


async def _look(api: KubeApi, plan: Plan, options: Mapping[str, Any], run_id: str) -> _Sight:
    """Look at the cluster and ask its pods; what stands in the way is in the survey's obstacles, all of it."""
    mode = None if options["toggle"] == "auto" else Mode(options["toggle"])
    found = await survey(api, plan, mode=mode, allow_managed=options["allow_managed"])
    namespace = plan.scenario.clients.namespace
    try:
        secret = await control_secret(api, namespace)
    except RefusedError as error:
        return _Sight(replace(found, obstacles=(*found.obstacles, f"{error.message}: {error.hint}")), (), {})
    controls = tuple(RemotePod(api, namespace, name, run_id, secret) for name in found.pods)
    snapshots, troubles = await roll_call(controls, plan.scenario)
    return _Sight(replace(found, obstacles=(*found.obstacles, *troubles)), controls, snapshots)


async def refuse_if_held(api: KubeApi, plan: Plan) -> None:
    """Say at once that another run is at work, before its pods and its rule are taken for obstacles.

    Raises HeldError, which names the holder.
    """
    host = plan.service.host
    try:
        lease = await api.find(leases(plan.scenario.clients.namespace, lease_name(host)))
    except ForbiddenError:
        return  # the survey names all rights that are missing
    hold = Hold.of(lease) if lease else None
    if hold and hold.holder and hold.seems_alive(api.server_time()):
        raise HeldError(hold, host, api.server_time())


async def _look_until_free(api: KubeApi, plan: Plan, options: Mapping[str, Any], run_id: str, screen: Screen) -> _Sight:
    """Look, and if only a run that may be dead still has the pods, wait until they have let it go."""
    seen = await _look(api, plan, options, run_id)
    holders = {str(each["run"]) for each in seen.snapshots.values() if each.get("run")}
    if holders and len(seen.survey.obstacles) == 1:
        await refuse_if_held(api, plan)  # one that began at the same moment as we did
        screen.say(
            f"the load pods are held by run {', '.join(sorted(holders))}; waiting up to {HOLD_S + TICK_S:.0f} s for them to let go of it, if it is dead"
        )
        with anyio.move_on_after(HOLD_S + TICK_S):
            while seen.survey.obstacles:
                await anyio.sleep(TICK_S)
                await refuse_if_held(api, plan)
                snapshots, troubles = await roll_call(seen.controls, plan.scenario)  # the pods were all that was in the way
                seen = replace(seen, survey=replace(seen.survey, obstacles=tuple(troubles)), snapshots=snapshots)
    return seen


async def _run(
    api: KubeApi, plan: Plan, options: Mapping[str, Any], screen: Screen, interruption: Interruption, live: Live | None
) -> Result:
    started_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    run_id = new_run_id(api.server_time())
    await refuse_if_held(api, plan)
    with contextlib.suppress(ForbiddenError):  # the survey names all rights that are missing
        await clear_left_overs(api, plan.service.host, plan.scenario.clients.namespace, tell=screen.say)
    seen = await _look_until_free(api, plan, options, run_id, screen)
    seen.survey.check()
    plan = as_found(plan, len(seen.controls), seen.workers)
    loads = _loads(plan, seen)
    mesh: ClusterMesh | None = None
    toggle: Any = None
    measured, ready_s, failure = Measured(), 0.0, ""
    try:
        async with _toggle(api, run_id, seen.survey, plan, screen) as toggle:
            crew = PodCrew(loads)
            mesh = _mesh(api, plan, seen, crew, toggle)
            story: Story[PodLoad, PodLoad] = Story(plan, mesh, screen, crew, live)
            interruption.on_first = story.stop
            interruption.ending = ENDING
            interruption.on_second = screen.close
            ready_s = since_process_start()
            screen.say(f"{len(loads)} load pods in {plan.client.namespace} are ready, run {run_id}; first request after {ready_s:.2f} s")
            measured = await story.run()
    except BaseExceptionGroup as group:
        unverified, others = group.split(UnverifiedError)
        if unverified is None or others is not None or mesh is None:
            raise
        failure = "; ".join(str(error) for error in unverified.exceptions)  # the report is made all the same, and says so
    assert mesh is not None, "set before anything can fail as it may"
    if seen.survey.change is not None:
        await judge_restore(toggle.undone, mesh, mesh.wanted(plan.rules), measured, failure)

    from loadgen.runner.foresight import with_predictions  # noqa: PLC0415  # as the next
    from loadgen.runner.result import Result, make_report  # noqa: PLC0415  # not needed before, and the first request should not wait for it

    about = environment(next(iter(seen.snapshots.values()))["sidecar"]["version"], ready_s, len(loads))
    report = make_report(plan, measured, mesh.wanted(plan.rules), about, started_at, "cluster")
    return Result(with_predictions(report, plan, measured), measured.series)


def _loads(plan: Plan, seen: _Sight) -> list[PodLoad]:
    take = {"load": plan.scenario.load.model_dump(mode="json"), "path": plan.scenario.target.path, "hold_s": HOLD_S}
    return [PodLoad(control, number, {**take, "seed": f"{plan.scenario.seed}-{number}"}) for number, control in enumerate(seen.controls, 1)]


def _mesh(api: KubeApi, plan: Plan, seen: _Sight, crew: PodCrew, toggle: Any) -> ClusterMesh:
    pods = partial(service_pods, api, plan.service) if seen.survey.found.count_ports else None
    counting = Counting(api, plan.service.namespace, pods)
    return ClusterMesh(plan.service, plan.client, crew, toggle, counting, partial(newcomers, api, plan.client, crew.loads))


def _lasts_s(scenario: Scenario) -> float:
    """Say how long a run may take at most, in seconds."""
    return sum(phase.duration + BEGIN_S + scenario.load.timeout for phase in scenario.phases) + SLACK_S


def as_found(plan: Plan, clients: int, workers: int) -> Plan:
    """Give the plan with what the cluster decides: how many clients there are, and how many workers their sidecars have."""
    scenario = plan.scenario
    return replace(
        plan, scenario=scenario.model_copy(update={"clients": scenario.clients.model_copy(update={"count": clients, "workers": workers})})
    )


async def control_secret(api: KubeApi, namespace: str) -> str:
    """Read the secret that the load pods demand.

    Raises RefusedError if there is none.
    """
    found = await api.find(secrets(namespace, SECRET))
    value = base64.b64decode((found or {}).get("data", {}).get("secret", "")).strip()
    if not re.fullmatch(rb"[!-~]{8,1024}", value):
        hint = f"loadgen manifests makes one; or: kubectl -n {namespace} create secret generic {SECRET} --from-literal=secret=$(openssl rand -hex 16)"
        raise RefusedError(
            f"there is no Secret {SECRET} in namespace {namespace} whose key 'secret' holds 8 or more printable characters", hint=hint
        )
    return value.decode("ascii")


@dataclass(frozen=True)
class _Unchanged:
    """The toggle of a run that changes nothing."""

    before: Any
    after: Any
    written_at: float | None = None

    async def apply(self) -> None:
        raise AssertionError("a run without a change applies none")

    async def remove(self) -> None: ...
    async def check(self) -> None: ...


@contextlib.asynccontextmanager
async def _toggle(api: KubeApi, run_id: str, found: Survey, plan: Plan, screen: Screen) -> AsyncIterator[Any]:
    """Give what toggles the rule, with lease, journal and guard around it; a run that changes nothing needs none of them."""
    if found.change is None:
        rules = tuple(read_rule(rule)[0] for rule in found.found.rules)
        yield _Unchanged(rules, rules)
        return
    now = api.server_time()
    run = Run(
        run_id, this_holder(), plan.service.host, plan.scenario.clients.namespace, now + dt.timedelta(seconds=_lasts_s(plan.scenario))
    )
    file = JournalFile(run.id, tell=screen.say)
    file.prepare()
    pods = found.found.pods
    lasts_s = _lasts_s(plan.scenario)
    guard = guard_job(run, pods.image, lasts_s=lasts_s, touched=found.change.touched, pull_secrets=pods.pull_secrets)
    async with (
        anyio.create_task_group() as tasks,
        turn(api, run, found.change, tasks, version=found.found.version, guard=guard, file=file, tell=screen.say) as change,
    ):
        screen.say(f"mode {found.change.mode.value}: {found.change.reasons[0]}")
        yield change


async def judge_restore(undone: Undone | None, mesh: ClusterMesh, ours: SidecarState, measured: Measured, failure: str) -> None:
    """Let the report say how the rule was put back: in the API server, and in the sidecars."""
    if failure or undone is None or undone.fate is Fate.FAILED:
        measured.restored, measured.restore_detail = False, failure or "the rule could not be put back"
        return
    if undone.fate is Fate.SUPERSEDED:
        said_before = [reason for reason in measured.reasons if undone.sentence.startswith(reason.partition(";")[0])]
        measured.reasons = [*(reason for reason in measured.reasons if reason not in said_before), undone.sentence]
    if measured.restored is not False:
        measured.restored, measured.restore_detail = True, f"{measured.restore_detail}; {undone.sentence}"
        return
    left = await _not_free_of(ours, mesh)
    died = [f"{', '.join(sorted(mesh.gone()))} died and took it along"] if mesh.gone() else []
    said = [measured.restore_detail, undone.sentence, f"not confirmed by {', '.join(left)}"] if left else [undone.sentence, *died]
    measured.restored, measured.restore_detail = not left, "; ".join(said)


async def _not_free_of(ours: SidecarState, mesh: ClusterMesh) -> list[str]:
    """Wait until no sidecar shows our rule any more: what somebody else has made of it is theirs. Give those that have not confirmed it in time."""
    left = [client.name for client in mesh.clients]

    async def ask(client: PodLoad) -> None:
        while client.name not in mesh.gone():
            with contextlib.suppress(LoadgenError):
                if await client.state() != ours:
                    break
            await anyio.sleep(GONE_POLL_S)
        left.remove(client.name)

    with anyio.move_on_after(mesh.converge_s, shield=True):
        async with anyio.create_task_group() as tasks:
            for client in mesh.clients:
                tasks.start_soon(ask, client)
    return left
