"""Joins a plan, a cluster, a story and a screen to one run: ``--mesh cluster`` of ``run`` and ``plan``, and ``restore`` and ``guard``."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio

from loadgen.cli.signals import Interruption, attended
from loadgen.cli.story import environment, since_process_start
from loadgen.cluster.access import find_access
from loadgen.cluster.api import KubeApi
from loadgen.cluster.change import Mode
from loadgen.cluster.finding import Fate
from loadgen.cluster.guard import guard_job
from loadgen.cluster.journal_file import JournalFile
from loadgen.cluster.marks import Run, new_run_id, this_holder
from loadgen.cluster.mesh import ClusterMesh, Counting
from loadgen.cluster.paths import secrets
from loadgen.cluster.pods import Control, PodCrew, PodLoad
from loadgen.cluster.roll_call import roll_call
from loadgen.cluster.rules import read_rule
from loadgen.cluster.survey import SECRET, Survey, survey
from loadgen.cluster.turn import turn
from loadgen.errors import LoadgenError, RefusedError
from loadgen.render.screen import Screen
from loadgen.runner.convergence import CONVERGE_S
from loadgen.runner.story import Story

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from loadgen.cluster.toggle import RuleChange
    from loadgen.inputs import Plan
    from loadgen.policy.state import SidecarState
    from loadgen.preview import Preview
    from loadgen.report import Report
    from loadgen.runner.window import Measured
    from loadgen.scenario import Scenario

HOLD_S = 20
"""A pod that hears nothing of its run for so long goes back to its own load."""
SLACK_S = 120.0
"""How much longer than its phases a run may take before its change expires, besides what each phase needs to begin."""
BEGIN_S = 30.0
GONE_POLL_S = 0.1


def preview_cluster(plan: Plan, options: Mapping[str, Any]) -> Preview:
    """Look at a cluster and say what a run would find and change there."""

    async def look(_interruption: Interruption) -> Preview:
        async with _api(options) as api:
            return (await _survey(api, plan, options)).preview(plan)

    preview, code = anyio.run(attended, look)
    if preview is None:
        raise SystemExit(code)
    return preview


def run_cluster(plan: Plan, options: Mapping[str, Any], *, quiet: bool) -> tuple[Report | None, int]:
    """Run a plan in a cluster; give the report (None if it was interrupted before the first request) and the interruption's exit code."""

    async def tell(interruption: Interruption) -> Report:
        with Screen(quiet=quiet) as screen:
            interruption.say = screen.say
            async with _api(options) as api:
                return await _run(api, plan, options, screen, interruption)

    return anyio.run(attended, tell)


def _api(options: Mapping[str, Any]) -> KubeApi:
    return KubeApi(find_access(kubeconfig=options["kubeconfig"], context=options["context"]))


async def _survey(api: KubeApi, plan: Plan, options: Mapping[str, Any]) -> Survey:
    mode = None if options["toggle"] == "auto" else Mode(options["toggle"])
    return await survey(api, plan, mode=mode, allow_managed=options["allow_managed"])


async def _run(api: KubeApi, plan: Plan, options: Mapping[str, Any], screen: Screen, interruption: Interruption) -> Report:
    started_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    found = await _survey(api, plan, options)
    found.check()
    namespace = plan.scenario.clients.namespace
    run = Run(
        new_run_id(api.server_time()),
        this_holder(),
        plan.service.host,
        namespace,
        api.server_time() + dt.timedelta(seconds=_lasts_s(plan.scenario)),
    )
    secret = await _secret(api, namespace)
    controls = [Control(api, namespace, name, run.id, secret) for name in found.pods]
    snapshots, troubles = await roll_call(controls, plan.scenario, leased=found.change is not None)
    replace(found, obstacles=tuple(troubles)).check()
    sidecars = [snapshot["sidecar"] for snapshot in snapshots.values()]
    plan = _as_found(plan, len(controls), max(sidecar["workers"] for sidecar in sidecars))
    take = {"load": plan.scenario.load.model_dump(mode="json"), "path": plan.scenario.target.path, "hold_s": HOLD_S}
    loads = [PodLoad(control, number, {**take, "seed": f"{plan.scenario.seed}-{number}"}) for number, control in enumerate(controls, 1)]
    crew = PodCrew(loads)
    async with _toggle(api, run, found, plan, screen) as toggle:
        mesh = ClusterMesh(plan.service, plan.client, crew, toggle, Counting(api, plan.service.namespace, found.found.count_ports))
        story: Story[PodLoad, PodLoad] = Story(plan, mesh, screen, crew)
        interruption.on_first = story.stop
        interruption.ending = "ending in order: the rule is put back and the report is written; once more leaves at once, and the guard in the cluster puts it back"
        interruption.on_second = screen.close
        ready_s = since_process_start()
        for load in loads:
            if dead := snapshots[load.name]["run"]:
                await load.evict(dead)
        screen.say(f"{len(loads)} load pods in {namespace} are ready, run {run.id}; first request after {ready_s:.2f} s")
        measured = await story.run()
        if found.change is not None:
            await _restore(toggle, mesh, mesh.wanted(plan.rules), measured)

    from loadgen.runner.result import make_report  # noqa: PLC0415  # not needed before, and the first request should not wait for it

    about = environment(sidecars[0]["version"], ready_s, len(loads))
    return make_report(plan, measured, mesh.wanted(plan.rules), about, started_at, "cluster")


def _lasts_s(scenario: Scenario) -> float:
    """Say how long a run may take at most, in seconds."""
    return sum(phase.duration + BEGIN_S for phase in scenario.phases) + SLACK_S


def _as_found(plan: Plan, clients: int, workers: int) -> Plan:
    """Give the plan with what the cluster decides: how many clients there are, and how many workers their sidecars have."""
    scenario = plan.scenario
    return replace(
        plan, scenario=scenario.model_copy(update={"clients": scenario.clients.model_copy(update={"count": clients, "workers": workers})})
    )


async def _secret(api: KubeApi, namespace: str) -> str:
    """Read the secret that the load pods demand.

    Raises RefusedError if there is none.
    """
    found = await api.find(secrets(namespace, SECRET))
    value = (found or {}).get("data", {}).get("secret", "")
    if not value:
        hint = f"loadgen manifests makes one; or: kubectl -n {namespace} create secret generic {SECRET} --from-literal=secret=$(openssl rand -hex 16)"
        raise RefusedError(f"there is no Secret {SECRET} with the key 'secret' in namespace {namespace}", hint=hint)
    return base64.b64decode(value).decode("utf-8", "replace").strip()


@dataclass(frozen=True)
class _Unchanged:
    """The toggle of a run that changes nothing."""

    before: Any
    after: Any

    async def apply(self) -> None:
        raise AssertionError("a run without a change applies none")

    async def remove(self) -> None: ...
    async def check(self) -> None: ...


@contextlib.asynccontextmanager
async def _toggle(api: KubeApi, run: Run, found: Survey, plan: Plan, screen: Screen) -> AsyncIterator[Any]:
    """Give what toggles the rule, with lease, journal and guard around it; a run that changes nothing needs none of them."""
    if found.change is None:
        rules = tuple(read_rule(rule)[0] for rule in found.found.rules)
        yield _Unchanged(rules, rules)
        return
    file = JournalFile(run.id)
    file.prepare()
    guard = guard_job(run, found.found.pods.image, lasts_s=_lasts_s(plan.scenario))
    async with (
        anyio.create_task_group() as tasks,
        turn(api, run, found.change, tasks, version=found.found.istio_version, guard=guard, file=file, tell=screen.say) as change,
    ):
        screen.say(f"mode {found.change.mode.value}: {found.change.reasons[0]}")
        yield change


async def _restore(change: RuleChange, mesh: ClusterMesh, ours: SidecarState, measured: Measured) -> None:
    """Put back what is left to be put back, and let the report say how that went."""
    undone = await change.restore()
    if undone.fate is Fate.SUPERSEDED:
        measured.reasons.append(undone.sentence)
    seen = measured.restored is not False
    gone = seen or await _is_gone(mesh, ours)
    measured.restored = gone and undone.fate is not Fate.FAILED
    measured.restore_detail = undone.sentence if gone and not seen else f"{measured.restore_detail}; {undone.sentence}"


async def _is_gone(mesh: ClusterMesh, ours: SidecarState) -> bool:
    """Wait until no sidecar shows our rule any more: what somebody else has made of it is theirs."""
    left = [client for client in mesh.clients if client.name not in mesh.gone()]
    with anyio.move_on_after(CONVERGE_S, shield=True):
        while left:
            with contextlib.suppress(LoadgenError):
                if await left[-1].state() != ours:
                    left.pop()
                    continue
            await anyio.sleep(GONE_POLL_S)
    return not left
