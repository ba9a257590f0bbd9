"""Which mesh does the desk serve in a cluster? The pods in which Locust's workers live, each with a load pod's process beside them.

The law: that process makes no load while a test runs; it is what reads the sidecar, and what notices if another run wants the pod. Nothing is
changed but in a turn, and a rule that is for anything but the service is refused.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from loadgen.cli.cluster import BEGIN_S, HOLD_S, TICK_S, as_found, control_secret, judge_restore, reach, refuse_if_held
from loadgen.cluster.access import find_access, in_pod
from loadgen.cluster.api import KubeApi
from loadgen.cluster.change import Mode
from loadgen.cluster.failure import ForbiddenError
from loadgen.cluster.finding import Fate
from loadgen.cluster.guard import guard_job
from loadgen.cluster.journal_file import JournalFile
from loadgen.cluster.lease import Hold
from loadgen.cluster.marks import Run, lease_name, new_run_id, restore_command, this_holder
from loadgen.cluster.mesh import ClusterMesh, Counting
from loadgen.cluster.paths import leases
from loadgen.cluster.pods import LEAVE_S, PodCrew, PodLoad
from loadgen.cluster.preflight import newcomers, service_pods
from loadgen.cluster.remote import RemotePod
from loadgen.cluster.restore import clear_left_overs, restore
from loadgen.cluster.roll_call import roll_call
from loadgen.cluster.rules import read_rule
from loadgen.cluster.survey import survey
from loadgen.cluster.turn import GUARD_S
from loadgen.desk.site import about_scenario
from loadgen.desk.turns import Turns
from loadgen.engine.edge import Reading, find_edge
from loadgen.errors import Problem, RefusedError, Severity, UnverifiedError, UsageError
from loadgen.inputs import Plan, load_plan
from loadgen.policy.lint import lint
from loadgen.policy.selection import host_of
from loadgen.quantity import positive_duration_s
from loadgen.runner.convergence import for_each
from loadgen.runner.environment import environment
from loadgen.scenario import ClosedLoad, Phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from loadgen.cluster.survey import Survey
    from loadgen.desk.users import UserLoad
    from loadgen.engine.edge import Edge
    from loadgen.errors import MeshError
    from loadgen.policy.rule import Rule
    from loadgen.policy.state import SidecarState
    from loadgen.report import Environment
    from loadgen.runner.window import Measured

MOST_HOLD_S = 24 * 3600.0
STATES_S = 2.0
"""How long the page waits for sidecars that are shown while no test runs."""
NO_LOAD = ClosedLoad.model_validate({"model": "closed", "users": 1, "think_time": "1s"})
"""What the load pods are taken with, and never start."""


class UserMesh(ClusterMesh):
    """The pods of Locust's workers. Their users' edges are found here, by the counters that the pods read at their sidecars."""

    def __init__(self, turns: Turns, crew: PodCrew, plan: Plan, counting: Counting, api: KubeApi) -> None:
        super().__init__(plan.service, plan.client, crew, turns, counting, partial(newcomers, api, plan.client, crew.loads))
        self.turns = turns

    async def edge(self, client: PodLoad, load: UserLoad, *, offset: int) -> Edge:  # type: ignore[override]  # the load is not the pod's
        """Find an edge of the window of one pod's users."""

        async def read() -> Reading:
            return Reading(await client.counters(), None)

        return await find_edge(load, read, offset=offset)  # type: ignore[arg-type]  # all that an edge asks for

    async def watch(self) -> MeshError:
        """Wait until a pod is lost, or the mesh is no longer ours alone."""
        deaths: list[MeshError] = []

        async def pods() -> None:
            await self._crew.watch()
            deaths.extend(self.deaths())
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pods)
            deaths.append(await super().watch())
            tasks.cancel_scope.cancel()
        return deaths[0]


class ClusterSite:
    """The clients that a scenario names in a cluster. ``hold_s`` is how long a rule may be in force at most."""

    kind = "cluster"

    def __init__(
        self, api: KubeApi, scenario: Path, toggle: str, *, allow_managed: bool, hold_s: float, tell: Callable[[str], None]
    ) -> None:
        self.plan = load_plan(scenario, in_cluster=True)
        self.hold_s: float | None = hold_s
        self._api = api
        self._scenario = scenario
        self._mode = None if toggle == "auto" else Mode(toggle)
        self._allow_managed = allow_managed
        self._tell = tell
        self._pods: tuple[str, ...] = ()
        self._turns: Turns | None = None
        self._envoy = "unknown"

    @classmethod
    @contextlib.asynccontextmanager
    async def found(cls, options: dict[str, Any], tell: Callable[[str], None]) -> AsyncIterator[ClusterSite]:
        """Find the cluster that Locust's options name.

        Raises RefusedError if it cannot be reached, UsageError or InputError if an option or the scenario is wrong.
        """
        if not options["scenario"]:
            raise UsageError(
                "--mesh cluster needs a scenario", hint="name its file with --scenario: it says which service, clients and rule"
            )
        try:
            hold_s = positive_duration_s(options["mesh_hold"])
        except ValueError as error:
            raise UsageError(f"--mesh-hold: {error}") from error
        if hold_s > MOST_HOLD_S:
            raise UsageError("--mesh-hold: a rule may be in force for 24h at most")
        kubeconfig = Path(options["kubeconfig"]) if options["kubeconfig"] else None
        async with KubeApi(find_access(kubeconfig=kubeconfig, context=options["context"] or None)) as api:
            await reach(api)
            yield cls(api, Path(options["scenario"]), options["toggle"], allow_managed=options["allow_managed"], hold_s=hold_s, tell=tell)

    async def look(self) -> None:
        """Look which pods there are now."""
        self._pods = tuple(sorted(await newcomers(self._api, self.plan.client, ())))

    @property
    def clients(self) -> Sequence[dict[str, Any]]:
        """The pods. All users send to the service itself: their sidecar takes care of it."""
        target = self.plan.scenario.target
        return [{"name": name, "host": self.plan.service.host, "port": target.port} for name in self._pods]

    def about(self) -> dict[str, Any]:
        about = about_scenario(self.plan, self._scenario)
        return {"namespace": self.plan.client.namespace, "envoy": self._envoy, "hold_s": self.hold_s, **about}

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[UserMesh]:
        """Take the pods, and give the mesh of them; in the end everything is put back, and the pods are let go."""
        plan, api = self.plan, self._api
        run_id = new_run_id(api.server_time())
        with contextlib.suppress(ForbiddenError):  # the survey names all rights that are missing
            await clear_left_overs(api, plan.service.host, plan.client.namespace, tell=self._tell)
        found, crew = await self._taken(run_id)
        counts = partial(service_pods, api, plan.service) if found.found.count_ports else None
        rules = tuple(read_rule(rule)[0] for rule in found.found.rules)
        async with anyio.create_task_group() as tasks, crew(tasks):
            self._turns = Turns(api, rules, tasks, self._tell)
            try:
                yield UserMesh(self._turns, crew, plan, Counting(api, plan.service.namespace, counts), api)
            finally:
                turns, self._turns = self._turns, None
                with anyio.CancelScope(shield=True):
                    await turns.close()
                tasks.cancel_scope.cancel()

    async def _taken(self, run_id: str) -> tuple[Survey, PodCrew]:
        """Look at the cluster and at its pods, and take them: their own load ends, and that of the run is never started.

        Raises RefusedError with everything that stands in the way.
        """
        api, namespace = self._api, self.plan.client.namespace
        found = await survey(api, self._planned((), max(1, len(self._pods))), mode=None, allow_managed=False)
        secret = await control_secret(api, namespace)
        controls = [RemotePod(api, namespace, name, run_id, secret) for name in found.pods]
        snapshots, troubles = await self._called(controls)
        if found.pods != self._pods and not found.obstacles:
            troubles.append("the pods have just changed: start again when they are all ready")
        replace(found, obstacles=(*found.obstacles, *troubles)).check()
        sidecars = [snapshot["sidecar"] for snapshot in snapshots.values()]
        self.plan = as_found(self.plan, len(controls), max(sidecar["workers"] for sidecar in sidecars))
        self._envoy = str(sidecars[0]["version"])
        take = {"load": NO_LOAD.model_dump(mode="json"), "hold_s": HOLD_S}
        crew = PodCrew([PodLoad(control, number, take) for number, control in enumerate(controls, 1)])
        try:
            await for_each(tuple(crew.loads.values()), PodLoad.prepare)
        except BaseException:
            with anyio.move_on_after(LEAVE_S, shield=True):
                await crew.leave()
            raise
        return found, crew

    async def _called(self, controls: Sequence[RemotePod]) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """Call the roll; if a run that may be dead still has some of the pods, wait until they have let it go.

        Raises HeldError if that run changes a rule.
        """
        until, told = anyio.current_time() + HOLD_S + TICK_S, False
        while True:
            snapshots, troubles = await roll_call(controls, self._planned((), len(controls)).scenario)
            holders = sorted({str(each["run"]) for each in snapshots.values() if each.get("run")})
            if not holders or anyio.current_time() > until:
                return snapshots, troubles
            await refuse_if_held(self._api, self.plan)
            if not told:
                self._tell(f"the pods are held by run {', '.join(holders)}; they let go of it within {HOLD_S} s if it is dead")
            told = True
            await anyio.sleep(TICK_S)

    def _planned(self, rules: Sequence[Rule], clients: int) -> Plan:
        """Give the plan of a run with these rules and so many pods."""
        phase = Phase.model_validate({"name": "limited", "policy": "applied" if rules else "absent", "duration": "1s"})
        scenario = self.plan.scenario
        update = {"phases": [phase], "load": NO_LOAD, "clients": scenario.clients.model_copy(update={"count": clients})}
        return Plan(scenario.model_copy(update=update), tuple(rules), in_cluster=True)

    def findings(self, rules: Sequence[Rule]) -> list[Problem]:
        return lint(rules, self.plan.service, self.plan.client, workers=None)

    @contextlib.asynccontextmanager
    async def prepared(self, rules: Sequence[Rule]) -> AsyncIterator[list[Problem]]:
        """Take the turn for these rules, and give what is noteworthy of how they are put in force; the block puts them.

        Raises RefusedError with the reason if they may not be, or cannot be now; nothing was changed then.
        """
        turns, api, service = self._turns, self._api, self.plan.service
        if turns is None:
            raise RefusedError("no test is running", hint="start users first: the policy is toggled under load")
        others = [rule for rule in rules if host_of(rule, service) != service.host]
        if others:
            message = f"the rule {others[0].key} is for {others[0].host}, and the test is about {service.host} alone"
            raise RefusedError(message, hint="write the service's own host")
        found = await survey(api, self._planned(rules, len(self._pods)), mode=self._mode, allow_managed=self._allow_managed)
        found.check()
        assert found.change is not None, "a plan with a phase that applies a rule has one"
        found.change.check()
        lasts_s = GUARD_S + 2 * BEGIN_S + (self.hold_s or 0.0)
        now = api.server_time()
        run = Run(new_run_id(now), this_holder(), service.host, self.plan.client.namespace, now + dt.timedelta(seconds=lasts_s))
        pods = found.found.pods
        guard = guard_job(run, pods.image, lasts_s=lasts_s, touched=found.change.touched, pull_secrets=pods.pull_secrets)
        file = None if in_pod() else JournalFile(run.id, tell=self._tell)  # a container's files go with it
        if file is not None:
            file.prepare()
        await turns.take(run, found.change, version=found.found.version, guard=guard, file=file)
        mode = f"{found.change.mode.value}: {found.change.reasons[0]}"
        try:
            yield [_note(said) for said in (mode, *found.found.notes)]
        except BaseException:
            await turns.end()
            raise

    async def check(self, mesh: UserMesh) -> None:
        """Nothing to check: a rule that is there is a part of the cluster, and is put back after each turn."""

    async def judge(self, mesh: UserMesh, measured: Measured, ours: SidecarState) -> None:
        """End the last turn, and let what was measured say how its rule was put back."""
        turns = mesh.turns
        await turns.end()
        if turns.touched:
            await judge_restore(turns.undone, mesh, ours, measured, turns.failure)

    async def restore(self) -> None:
        """Undo what a desk of this machine that died has left; whatever is of anybody else is left to his guard.

        Raises UnverifiedError if that cannot be.
        """
        host, namespace = self.plan.service.host, self.plan.client.namespace
        lease = await self._api.find(leases(namespace, lease_name(host)))
        hold = Hold.of(lease) if lease else None
        if hold is not None and not _is_dead(hold.holder.removesuffix(f"/{hold.run}")):
            raise UnverifiedError(f"what is in force is not a dead desk's: {hold.describe(self._api.server_time())}")
        undone = await restore(self._api, host, namespace, run_id=hold.run if hold else "", tell=self._tell)
        if undone.fate is Fate.FAILED:
            raise UnverifiedError(undone.sentence, hint=f"{restore_command(namespace)} tries again; the guard does, too")

    async def states(self) -> dict[str, SidecarState]:
        with anyio.move_on_after(STATES_S):
            if self._turns is None:
                await self.look()
            secret = await control_secret(self._api, self.plan.client.namespace)
            controls = [RemotePod(self._api, self.plan.client.namespace, name, "nobody", secret) for name in self._pods]
            return await for_each([PodLoad(control, 0, {}) for control in controls], PodLoad.state)
        return {}

    def gone(self) -> str:
        """Nothing: a cluster that does not answer now may do so later."""
        return ""

    def environment(self) -> Environment:
        return environment(self._envoy, 0.0, len(self._pods))


def _note(said: str) -> Problem:
    return Problem("rule", 0, 0, said, code="cluster", severity=Severity.WARNING)


def _is_dead(holder: str) -> bool:
    """Tell whether whoever was a run's holder was a process of this machine, and is no more."""
    place, _, pid = holder.rpartition("/")
    mine, _, _ = this_holder().rpartition("/")
    if place != mine or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
