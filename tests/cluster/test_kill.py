"""Does everything come back, wherever the run is killed? One process for each place, each mode: SIGKILL there, restore here, compare."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen.cluster.api import KubeApi
from loadgen.cluster.finding import Fate, users_part
from loadgen.cluster.lease import Hold
from loadgen.cluster.marks import guard_name, journal_name, lease_name
from loadgen.cluster.paths import config_maps, jobs, leases, rules
from loadgen.cluster.restore import find_left_overs, restore
from tests.cluster.rules import access, host, owners_rule
from tests.story.command import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadgen.cluster.undo import Undone
    from tests.cluster.controlplane.plane import ControlPlane

PROCESS_S = 10.0
Nursery = Callable[[dict[str, Any]], dict[str, Any]]

CREATED = """
create leases
create configmaps INTENT of nothing
create jobs
update configmaps INTENT
create destinationrules
update configmaps APPLIED
update configmaps RESTORING
delete destinationrules
update configmaps INTENT of nothing
update configmaps INTENT
create destinationrules
update configmaps APPLIED
update configmaps RESTORING
delete destinationrules
delete configmaps
delete jobs
delete leases
"""
PATCHED = """
create leases
create configmaps INTENT of nothing
create jobs
update configmaps INTENT
patch destinationrules limits
update configmaps APPLIED
update configmaps RESTORING
patch destinationrules limits
patch destinationrules owners of fields
update configmaps INTENT of nothing
update configmaps INTENT
patch destinationrules limits
update configmaps APPLIED
update configmaps RESTORING
patch destinationrules limits
patch destinationrules owners of fields
delete configmaps
delete jobs
delete leases
"""
UNCREATED = """
update leases
update configmaps RESTORING
delete destinationrules
delete configmaps
delete jobs
delete leases
"""
UNPATCHED = """
update leases
update configmaps RESTORING
patch destinationrules limits
patch destinationrules owners of fields
delete configmaps
delete jobs
delete leases
"""
Places = dict[str, list[str]]


def _places(writes: dict[str, str]) -> Places:
    """Give two places for each write: before it is sent, and after it was answered."""
    return {mode: [f"{when} {write}" for write in text.split("\n")[1:-1] for when in ("before", "after")] for mode, text in writes.items()}


def _each(places: Places) -> list[Any]:
    return [pytest.param(mode, number, id=f"{mode}-{number}-{what}") for mode in places for number, what in enumerate(places[mode], 1)]


RUN = _places({"own": CREATED, "overlay": CREATED, "patch": PATCHED})
"""Every write to the API server on the way from the lease to its release."""
RESTORE = _places({"own": UNCREATED, "overlay": UNCREATED, "patch": UNPATCHED})
"""Every write of a restore after a run that was killed while its change was in force."""


class Scene:
    """One service with two namespaces, and a rule of its owner's if the mode needs one."""

    def __init__(self, plane: ControlPlane, nursery: Nursery, mode: str, base: str, home: str, state: Path) -> None:
        self.plane, self.nursery, self.mode, self.base, self.home, self.state = plane, nursery, mode, base, home, state
        self.run_id = f"run-{base}"
        self.path = rules("v1", base, "user" if mode == "own" else "owners")
        if mode != "own":
            rule = owners_rule(base)
            rule["spec"] |= {"fromTheFuture": {"numbers": [1, 2.5, 1e21], "text": "ü"}}
            rule["spec"]["trafficPolicy"]["connectionPool"]["quic"] = {"maxStreams": 7}
            plane.api.create(rule)
        self.before = self.rule()
        assert mode == "own" or (self.before or {})["spec"]["fromTheFuture"]["text"] == "ü"

    def rule(self) -> dict[str, Any] | None:
        return self.plane.api.find(self.path)

    def run(self, place: int, job: str = "run", run_id: str = "") -> list[str]:
        """Run, or restore, until the place; give the places that were passed."""
        plane = self.plane
        order = {
            "job": job,
            "place": place,
            "state": str(self.state),
            "mode": self.mode,
            "url": plane.url,
            "authority": str(plane.authority),
        }
        order |= {"token": plane.users.token("admin"), "base": self.base, "home": self.home, "run_id": run_id or self.run_id}
        ended = self.nursery(order)
        assert ended["code"] == (-signal.SIGKILL if place else 0), ended
        return [line for line in ended["lines"] if line[0].isdigit()]

    def restore(self, **options: Any) -> Undone:
        async def put_back() -> Undone:
            async with KubeApi(lambda: access(self.plane.url, self.plane.authority, self.plane.users.token("admin"))) as api:
                return await restore(api, host(self.base), self.home, folder=self.state / "loadgen", **options)

        return anyio.run(put_back)

    def left_overs(self) -> list[str]:
        async def look() -> list[str]:
            async with KubeApi(lambda: access(self.plane.url, self.plane.authority, self.plane.users.token("admin"))) as api:
                found = await find_left_overs(api, [self.home, self.base], folder=self.state / "loadgen")
                return [part for each in found for part in each.parts]

        return anyio.run(look)

    def assert_as_before(self) -> None:
        api = self.plane.api
        assert api.find(leases(self.home, lease_name(host(self.base)))) is None
        assert api.find(config_maps(self.home, journal_name(host(self.base)))) is None
        assert api.find(jobs(self.home, guard_name(host(self.base)))) is None
        assert api.list(rules("v1", self.home)) == []
        assert not list((self.state / "loadgen").glob("*.json"))
        now = self.rule()
        if self.before is None or now is None:
            assert now is self.before
            return
        if self.mode == "overlay":
            assert now == self.before
        assert json.dumps(users_part(now)) == json.dumps(users_part(self.before))  # also the order, as text
        for key in ("uid", "creationTimestamp", "managedFields", "finalizers", "ownerReferences"):
            assert now["metadata"].get(key) == self.before["metadata"].get(key), key


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """The process whose children are the runs; all that they need is loaded once."""
    command = [sys.executable, "-m", "tests.cluster.undo_process"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        orders, answers = process.stdin, process.stdout

        def live(order: dict[str, Any]) -> dict[str, Any]:
            print(json.dumps(order), file=orders, flush=True)
            ended: dict[str, Any] = json.loads(answers.readline())
            return ended

        yield live
        orders.close()
        process.wait(PROCESS_S)


@pytest.fixture
def scene(
    control_plane: ControlPlane, nursery: Nursery, make_namespace: Callable[..., str], tmp_path: Path, request: pytest.FixtureRequest
) -> Scene:
    mode = request.node.callspec.params["mode"]
    return Scene(control_plane, nursery, mode, make_namespace("base"), make_namespace("test"), tmp_path)


def _keeps_what_nobody_knows(plane: ControlPlane) -> bool:
    rule = owners_rule("default")
    rule["spec"] |= {"fromTheFuture": True}
    return "fromTheFuture" in plane.api.post(rules("v1", "default"), rule, dryRun="All")["spec"]


@pytest.fixture(scope="module", autouse=True)
def loose_schema(control_plane: ControlPlane) -> Iterator[None]:
    """Let rules hold fields that nobody knows, as a newer Istio's would."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/destinationrules.networking.istio.io"
    at = "/spec/versions/{}/schema/openAPIV3Schema/properties/spec/x-kubernetes-preserve-unknown-fields"
    versions = range(len(control_plane.api.get(path)["spec"]["versions"]))
    control_plane.api.patch(
        path, [{"op": "add", "path": at.format(each), "value": True} for each in versions], "application/json-patch+json"
    )
    until(lambda: _keeps_what_nobody_knows(control_plane), "the API server takes the schema")
    yield
    control_plane.api.patch(path, [{"op": "remove", "path": at.format(each)} for each in versions], "application/json-patch+json")


@pytest.mark.parametrize("mode", RUN)
def test_a_run_that_nobody_kills_leaves_nothing_and_its_places_are_those_of_the_table(mode: str, scene: Scene) -> None:
    assert [line.partition(" ")[2] for line in scene.run(0)] == RUN[mode]
    scene.assert_as_before()


@pytest.mark.parametrize(("mode", "place"), _each(RUN))
def test_after_sigkill_at_any_write_restore_puts_everything_back(mode: str, place: int, scene: Scene) -> None:
    assert len(scene.run(place)) == place
    undone = scene.restore(run_id=scene.run_id, settle_s=0.0)
    assert undone.fate is Fate.VERIFIED, undone.sentence
    scene.assert_as_before()
    assert scene.left_overs() == []


@pytest.mark.parametrize("mode", RESTORE)
def test_a_restore_that_nobody_kills_does_it_and_its_places_are_those_of_the_table(mode: str, scene: Scene) -> None:
    scene.run(RUN[mode].index("after update configmaps APPLIED") + 1)
    assert [line.partition(" ")[2] for line in scene.run(0, "restore")] == RESTORE[mode]
    scene.assert_as_before()


@pytest.mark.parametrize(("mode", "place"), _each(RESTORE))
def test_after_sigkill_of_a_restore_at_any_write_the_next_one_goes_on(mode: str, place: int, scene: Scene) -> None:
    scene.run(RUN[mode].index("after update configmaps APPLIED") + 1)
    assert len(scene.run(place, "restore")) == place
    lease = scene.plane.api.find(leases(scene.home, lease_name(host(scene.base))))
    undone = scene.restore(run_id=Hold.of(lease).run if lease else "", settle_s=0.0)
    assert undone.fate is Fate.VERIFIED, undone.sentence
    scene.assert_as_before()
