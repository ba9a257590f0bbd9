"""May the accounts of the manifests do what a run and its undoing take, and nothing else? A real API server with RBAC answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import yaml

from loadgen.cli import exit_code_of
from loadgen.cluster.api import KubeApi
from loadgen.cluster.change import Mode
from loadgen.cluster.finding import Fate
from loadgen.cluster.guard import CannotUndoError, guard, guard_job
from loadgen.cluster.marks import guard_name, journal_name, lease_name, overlay_name
from loadgen.cluster.paths import config_maps, jobs, leases, rules
from loadgen.cluster.restore import find_left_overs, restore
from loadgen.cluster.rights import missing_rights, rights_to_restore
from loadgen.cluster.survey import survey
from loadgen.cluster.turn import turn
from tests.cluster.controlplane.api import Api
from tests.cluster.controlplane.plane import ROOT_NAMESPACE
from tests.cluster.rules import abandoned, access, host, new_run, owners_rule, planned, taking_turn
from tests.cluster.site import Site, make_site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cluster.controlplane.plane import ControlPlane

Object = dict[str, Any]
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
RUNNER = {
    "clients create list leases.coordination.k8s.io",
    "clients get update delete leases.coordination.k8s.io LEASE",
    "clients create list configmaps",
    "clients get update delete configmaps JOURNAL",
    "clients create list jobs.batch",
    "clients get delete jobs.batch GUARD",
    "clients get list pods",
    "clients get create pods/proxy",
    "clients get secrets loadgen-control",
    "clients get list create destinationrules.networking.istio.io",
    "clients patch delete destinationrules.networking.istio.io OVERLAY",
    "base get list destinationrules.networking.istio.io",
    "base get services pods",
    "base list endpointslices.discovery.k8s.io",
    "mesh get list destinationrules.networking.istio.io",
}
GUARD = {
    "clients create leases.coordination.k8s.io",
    "clients get update delete leases.coordination.k8s.io LEASE",
    "clients get update delete configmaps JOURNAL",
    "clients get list destinationrules.networking.istio.io",
    "clients patch delete destinationrules.networking.istio.io OVERLAY",
    "base get list destinationrules.networking.istio.io",
}
RUNNER_COUNTS = {"base get create pods/proxy"}
RUNNER_TOGGLES = {"base create destinationrules.networking.istio.io", "base patch delete destinationrules.networking.istio.io user"}
RUNNER_PATCHES = {"base create destinationrules.networking.istio.io", "base patch delete destinationrules.networking.istio.io owners"}
GUARD_TOGGLES = {"base patch delete destinationrules.networking.istio.io user"}
GUARD_PATCHES = {"base patch delete destinationrules.networking.istio.io owners"}
TOGGLE, PATCH = ["--toggle-in-base"], ["--toggle-in-base", "--rule", "owners"]
NOBODYS = {
    "clients get list secrets",
    "clients get secrets other",
    "base get list secrets",
    "clients create pods/exec pods/attach pods/portforward pods/ephemeralcontainers pods/eviction",
    "clients create patch delete pods",
    "base create delete pods",
    "clients patch update delete deployments.apps services",
    "clients get update delete leases.coordination.k8s.io other",
    "clients get update patch delete configmaps other",
    "clients get patch delete jobs.batch other",
    "clients update patch delete destinationrules.networking.istio.io other",
    "base update destinationrules.networking.istio.io",
    "mesh create update patch delete destinationrules.networking.istio.io",
    "clients create patch bind escalate roles.rbac.authorization.k8s.io rolebindings.rbac.authorization.k8s.io",
    "clients create impersonate serviceaccounts",
    "clients create serviceaccounts/token",
    "everywhere list pods secrets configmaps destinationrules.networking.istio.io",
    "everywhere get list namespaces nodes",
    "everywhere delete namespaces nodes",
}


@dataclass(frozen=True)
class Accounts:
    """The accounts of the manifests in a site of the test's own, as ``loadgen manifests`` made them."""

    site: Site
    objects: list[Object]

    def token(self, name: str) -> str:
        return self.site.plane.service_account_token(self.site.clients, name)

    def api(self, name: str) -> KubeApi:
        token = self.token(name)
        return KubeApi(lambda: access(self.site.plane.url, self.site.plane.authority, token))

    def spelt_out(self, lines: set[str]) -> set[tuple[str, str, str, str]]:
        """Give one tuple for each right: namespace, verb, resource, name."""
        found = set()
        places = {"clients": self.site.clients, "base": self.site.base, "mesh": ROOT_NAMESPACE, "everywhere": ""}
        namers = {"LEASE": lease_name, "JOURNAL": journal_name, "GUARD": guard_name, "OVERLAY": overlay_name}
        verbs = {"get", "list", "create", "update", "patch", "delete", "bind", "escalate", "impersonate"}
        for line in lines:
            place, *words = line.split()
            wanted = [word for word in words if word in verbs]
            *resources, last = [word for word in words if word not in verbs]
            name = (
                namers[last](self.site.host) if last in namers else last if last in {"loadgen-control", "other", "user", "owners"} else ""
            )
            found |= {(places[place], verb, resource, name) for verb in wanted for resource in (resources if name else [*resources, last])}
        return found

    def granted(self, account: str) -> set[tuple[str, str, str, str]]:
        """Give what the Roles say, spelt out in the same way."""
        roles = {(each["metadata"]["namespace"], each["metadata"]["name"]): each for each in self.objects if each["kind"] == "Role"}
        bindings = [each for each in self.objects if each["kind"] == "RoleBinding" and account in {who["name"] for who in each["subjects"]}]
        return {
            (binding["metadata"]["namespace"], verb, f"{resource}.{group}" if group else resource, name)
            for binding in bindings
            for rule in roles[binding["metadata"]["namespace"], binding["roleRef"]["name"]]["rules"]
            for verb in rule["verbs"]
            for resource in rule["resources"]
            for group in rule["apiGroups"]
            for name in rule.get("resourceNames", [""])
        }

    def allow_the_guard(self) -> None:
        """Give the guard what ``--toggle-in-base`` would have given it."""
        metadata = {"name": "later", "namespace": self.site.base}
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata}
        right = {"apiGroups": ["networking.istio.io"], "resources": ["destinationrules"], "verbs": ["patch", "delete"]}
        subject = {"kind": "ServiceAccount", "name": "loadgen-guard", "namespace": self.site.clients}
        reference = {"kind": "Role", "name": "later", "apiGroup": "rbac.authorization.k8s.io"}
        self.site.plane.api.create({**role, "rules": [right]})
        self.site.plane.api.create({**role, "kind": "RoleBinding", "roleRef": reference, "subjects": [subject]})

    def denied(self, account: str, rights: set[tuple[str, str, str, str]]) -> set[tuple[str, str, str, str]]:
        """Ask the server, as the account, and give those of the rights that it does not have."""
        found = set()
        with Api(self.site.plane.url, self.site.plane.authority, self.token(account)) as client:
            for namespace, verb, resource, name in rights:
                plain, _, group = resource.partition(".")
                plural, _, sub = plain.partition("/")
                attributes = {"namespace": namespace, "verb": verb, "resource": plural, "group": group, "subresource": sub, "name": name}
                review = {
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SelfSubjectAccessReview",
                    "spec": {"resourceAttributes": attributes},
                }
                if not client.post(REVIEWS, review)["status"]["allowed"]:
                    found.add((namespace, verb, resource, name))
        return found


@pytest.fixture
def accounts(
    control_plane: ControlPlane, make_namespace: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> Callable[..., Accounts]:
    """Make the objects of the manifests that say who may do what, with more options of the command."""

    def make(*options: str) -> Accounts:
        site = make_site(control_plane, make_namespace)
        target = f"http://user.{site.base}:7000/"
        assert exit_code_of(["manifests", "--namespace", site.clients, "--target", target, *options]) == 0
        objects = list(yaml.safe_load_all(capsys.readouterr().out))
        kinds = {"ServiceAccount", "Role", "RoleBinding", "Secret"}
        root = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ROOT_NAMESPACE}}
        control_plane.api.apply(root, *(each for each in objects if each["kind"] in kinds))
        return Accounts(site, objects)

    return make


@pytest.mark.parametrize(
    ("account", "options", "wanted"),
    [
        ("loadgen-runner", [], RUNNER),
        ("loadgen-runner", ["--service-counts"], RUNNER | RUNNER_COUNTS),
        ("loadgen-runner", TOGGLE, RUNNER | RUNNER_TOGGLES),
        ("loadgen-runner", PATCH, RUNNER | RUNNER_PATCHES),
        ("loadgen-guard", [], GUARD),
        ("loadgen-guard", TOGGLE, GUARD | GUARD_TOGGLES),
        ("loadgen-guard", PATCH, GUARD | GUARD_PATCHES),
        ("client", TOGGLE, set()),
    ],
)
def test_an_account_has_the_rights_that_it_needs_and_no_other(
    account: str, options: list[str], wanted: set[str], accounts: Callable[..., Accounts]
) -> None:
    made = accounts(*options)
    needed = made.spelt_out(wanted)
    assert made.granted(account) == needed
    assert made.denied(account, needed) == set()
    others = made.spelt_out(NOBODYS | RUNNER | RUNNER_COUNTS | GUARD | RUNNER_TOGGLES | GUARD_TOGGLES | RUNNER_PATCHES)
    others = {right for right in others - needed if (*right[:3], "") not in needed}
    assert made.denied(account, others) == others


@pytest.mark.anyio
@pytest.mark.parametrize(("mode", "options"), [(Mode.OVERLAY, []), (Mode.OWN, TOGGLE), (Mode.PATCH, PATCH)])
async def test_the_runner_can_do_all_that_a_run_asks_before_it_begins(
    mode: Mode, options: list[str], accounts: Callable[..., Accounts], tmp_path: Path
) -> None:
    made = accounts(*options)
    made.site.add_service()
    for name in ("client-a", "client-b"):
        made.site.add_pod(name)
    if mode is not Mode.OWN:
        made.site.plane.api.create(owners_rule(made.site.base))
    async with made.api("loadgen-runner") as api:
        found = await survey(api, made.site.plan(tmp_path), mode=mode, allow_managed=True)
    assert (found.obstacles, found.found.notes) == ((), ())


@pytest.mark.anyio
@pytest.mark.parametrize("undoer", ["loadgen-runner", "loadgen-guard"])
@pytest.mark.parametrize(("mode", "options"), [(Mode.OVERLAY, []), (Mode.OWN, TOGGLE), (Mode.PATCH, PATCH)])
async def test_the_runner_can_change_the_rule_and_either_account_can_undo_it(
    undoer: str, mode: Mode, options: list[str], accounts: Callable[..., Accounts], tmp_path: Path
) -> None:
    made = accounts(*options)
    home, base, plane = made.site.clients, made.site.base, made.site.plane
    if mode is not Mode.OWN:
        plane.api.create(owners_rule(base))
    before = plane.api.list(rules("v1", base))
    async with made.api("loadgen-runner") as api, made.api(undoer) as other, anyio.create_task_group() as tasks:
        change = await planned(api, base, home, mode)
        run = new_run(api, base, home)
        guard = guard_job(run, "loadgen:test", lasts_s=60.0)
        async with turn(api, run, change, tasks, version="v1", guard=guard, guard_s=0.0) as toggle:
            await toggle.apply()
            (left,) = await find_left_overs(api, [home, base], folder=tmp_path)
            undone = await restore(other, host(base), home, run_id=run.id, settle_s=0, folder=tmp_path)
        tasks.cancel_scope.cancel()
    assert undone.fate is Fate.VERIFIED, undone.sentence
    assert [each["spec"] for each in plane.api.list(rules("v1", base))] == [each["spec"] for each in before]
    assert {part.partition(" ")[0] for part in left.parts} == {"lease", "journal", "guard", "rule"}
    places = [rules("v1", home), leases(home), config_maps(home), jobs(home)]
    assert [each for path in places for each in plane.api.list(path) if "loadgen.dev/run" in each["metadata"].get("labels", {})] == []


@pytest.mark.anyio
@pytest.mark.parametrize(("mode", "options"), [(Mode.OVERLAY, []), (Mode.OWN, TOGGLE), (Mode.PATCH, PATCH)])
async def test_the_guard_finds_that_it_may_undo_what_the_manifests_were_made_for(
    mode: Mode, options: list[str], accounts: Callable[..., Accounts]
) -> None:
    made = accounts(*options)
    home, base = made.site.clients, made.site.base
    if mode is not Mode.OWN:
        made.site.plane.api.create(owners_rule(base))
    async with made.api("loadgen-guard") as api:
        change = await planned(api, base, home, mode)
        assert await missing_rights(api, rights_to_restore(change.touched, host(base), home)) == []


@pytest.mark.anyio
@pytest.mark.parametrize(("mode", "options", "verbs"), [(Mode.OWN, PATCH, "patch delete"), (Mode.PATCH, TOGGLE, "patch")])
async def test_a_guard_that_may_not_undo_the_change_ends_before_it_is_made_and_names_just_the_rights_that_it_takes(
    mode: Mode, options: list[str], verbs: str, accounts: Callable[..., Accounts], tmp_path: Path
) -> None:
    made = accounts(*options)
    home, base, plane = made.site.clients, made.site.base, made.site.plane
    if mode is not Mode.OWN:
        plane.api.create(owners_rule(base))
    async with (
        KubeApi(lambda: access(plane.url, plane.authority, plane.users.token("admin"))) as admin,
        made.api("loadgen-guard") as api,
        taking_turn(admin, base, home, mode, tmp_path) as change,
    ):
        (touched,) = change.change.touched
        with anyio.fail_after(20.0), pytest.raises(CannotUndoError) as refused:
            await guard(api, host(base), home, touched=[touched], ready=lambda: pytest.fail("it could not undo it"))
    rights = ", ".join(f"{verb} destinationrules.networking.istio.io {touched.name} in {base}" for verb in verbs.split())
    assert refused.value.message == f"the guard's account {home}/loadgen-guard may not {rights}"


@pytest.mark.anyio
async def test_a_guard_that_starts_again_while_a_change_is_in_force_tries_until_it_may_undo_it(
    accounts: Callable[..., Accounts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadgen.cluster.guard.LEASE_S", 0.5)  # without a lease, it is waited for so long
    made = accounts()
    home, base, plane = made.site.clients, made.site.base, made.site.plane
    told: list[str] = []

    def tell(sentence: str) -> None:
        told.append(sentence)
        if "cannot delete destinationrules" in sentence and len(told) < 10:
            made.allow_the_guard()
            told.extend(10 * [""])

    async with (
        KubeApi(lambda: access(plane.url, plane.authority, plane.users.token("admin"))) as admin,
        made.api("loadgen-guard") as api,
    ):
        change = await abandoned(admin, base, home, Mode.OWN, tmp_path)
        with anyio.fail_after(30.0):
            undone = await guard(
                api,
                host(base),
                home,
                touched=change.change.touched,
                tell=tell,
                look_s=0.1,
                lease_s=1.0,
                settle_s=0.0,
                folder=tmp_path / "g",
            )
    assert undone.fate is Fate.VERIFIED
    assert "may not patch destinationrules" in told[0]
    assert plane.api.list(rules("v1", base)) == []
