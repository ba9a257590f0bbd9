"""Is the change put in force and taken away, exactly, whatever others do to the same rules meanwhile? A real API server, real field managers."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen.cluster import journal, marks, server, toggle, undo
from loadgen.cluster.api import KubeApi
from loadgen.cluster.change import Mode
from loadgen.cluster.failure import ApiError, LostError
from loadgen.cluster.finding import Fate, users_part
from loadgen.cluster.guard import guard_job
from loadgen.cluster.lease import Lease, LeaseLostError
from loadgen.cluster.marks import guard_name, journal_name, overlay_name
from loadgen.cluster.paths import config_maps, jobs, leases, pods, rules
from loadgen.cluster.restore import restore
from loadgen.cluster.toggle import ForeignEditError, RuleChange
from loadgen.cluster.turn import turn
from loadgen.errors import ExitCode, MeshError, RefusedError, UnverifiedError
from tests.cluster.moody import Moody, hangs, late, resets, says, swallows
from tests.cluster.rules import LABELS, LIMITS, abandoned, access, host, new_run, owners_rule, planned, taking_turn

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.cluster.access import Access
    from tests.cluster.controlplane.plane import ControlPlane

pytestmark = pytest.mark.anyio
Object = dict[str, Any]
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class Site:
    """A service's namespace, the clients', and two ways to the API server: ours, and that of everybody else."""

    plane: ControlPlane
    api: KubeApi
    base: str
    home: str
    state: Path

    @property
    def owners(self) -> str:
        return rules("v1", self.base, "owners")

    @property
    def own(self) -> str:
        return rules("v1", self.base, "user")

    @property
    def overlay(self) -> str:
        return rules("v1", self.home, overlay_name(host(self.base)))

    def turn(self, mode: Mode, **options: Any) -> Any:
        return taking_turn(self.api, self.base, self.home, mode, self.state, **options)

    async def abandoned(self, mode: Mode, **options: Any) -> RuleChange:
        return await abandoned(self.api, self.base, self.home, mode, self.state, **options)

    def find(self, path: str) -> Any:
        return self.plane.api.find(path)

    def edit(self, path: str, change: Object, manager: str = "kubectl-edit") -> None:
        self.plane.api.patch(path, change, MERGE, fieldManager=manager)

    def assert_nothing_is_left(self) -> None:
        for path in (leases(self.home), config_maps(self.home), jobs(self.home), rules("v1", self.home)):
            assert self.plane.api.list(path, labelSelector=marks.RUN) == []
        assert list(self.state.glob("*.json")) == []


@pytest.fixture
async def site(control_plane: ControlPlane, make_namespace: Callable[..., str], tmp_path: Path) -> AsyncIterator[Site]:
    token = control_plane.users.token("admin")
    async with KubeApi(lambda: access(control_plane.url, control_plane.authority, token)) as api:
        yield Site(control_plane, api, make_namespace("base"), make_namespace("test"), tmp_path)


@pytest.fixture
def owners(site: Site) -> Object:
    """The rule of the service's owner, as the server has it."""
    return site.plane.api.create(owners_rule(site.base))


def pool(rule: Object) -> Any:
    return rule["spec"]["trafficPolicy"]["connectionPool"]


# In force, and gone.


async def test_a_rule_of_our_own_is_there_while_it_is_applied_with_marks_that_say_whose_it_is(site: Site) -> None:
    async with site.turn(Mode.OWN) as change:
        assert site.find(site.own) is None
        await change.apply()
        rule = site.find(site.own)
        assert pool(rule) == LIMITS
        run = change._run
        assert rule["metadata"]["labels"] == {marks.MANAGED_BY: "loadgen", marks.RUN: run.id}
        assert {marks.HOLDER, marks.HOST, marks.HOME, marks.EXPIRES_AT, marks.UNDO} == set(rule["metadata"]["annotations"])
        assert [each["manager"] for each in rule["metadata"]["managedFields"]] == ["loadgen"]
        assert "finalizers" not in rule["metadata"]
        await change.check()
        assert (await change.remove()).sentence == f"the rule {site.base}/user is gone"
        assert site.find(site.own) is None
        await change.apply()
        assert pool(site.find(site.own)) == LIMITS
    assert site.find(site.own) is None
    site.assert_nothing_is_left()


async def test_an_overlay_never_touches_the_rule_that_it_goes_over_and_belongs_to_the_guard(site: Site, owners: Object) -> None:
    async with site.turn(Mode.OVERLAY, guarded=True) as change:
        await change.apply()
        rule = site.find(site.overlay)
        assert pool(rule) == LIMITS
        assert rule["spec"]["workloadSelector"] == {"matchLabels": LABELS}
        assert rule["spec"]["trafficPolicy"]["tls"] == owners["spec"]["trafficPolicy"]["tls"]
        assert [(each["kind"], each["name"]) for each in rule["metadata"]["ownerReferences"]] == [("Job", guard_name(host(site.base)))]
        assert site.find(site.owners) == owners
        await change.check()
    assert site.find(site.overlay) is None
    assert site.find(site.owners) == owners
    site.assert_nothing_is_left()


async def test_a_rule_that_was_patched_is_afterwards_what_it_was_down_to_who_manages_which_field(site: Site, owners: Object) -> None:
    async with site.turn(Mode.PATCH) as change:
        await change.apply()
        rule = site.find(site.owners)
        assert pool(rule) == LIMITS
        assert {**rule["spec"], "trafficPolicy": {**rule["spec"]["trafficPolicy"], "connectionPool": pool(owners)}} == owners["spec"]
        assert rule["metadata"]["labels"] == owners["metadata"]["labels"]
        assert rule["metadata"]["annotations"].items() >= owners["metadata"]["annotations"].items()
        assert rule["metadata"]["annotations"][marks.RUN] == change._run.id
        await change.check()
        undone = await change.remove()
        assert undone.sentence == f"the rule {site.base}/owners is exactly as it was before"
        await change.apply()
        assert pool(site.find(site.owners)) == LIMITS
    now = site.find(site.owners)
    assert json.dumps(users_part(now)) == json.dumps(users_part(owners))
    assert now["metadata"]["managedFields"] == owners["metadata"]["managedFields"]
    site.assert_nothing_is_left()


async def test_after_a_patch_the_owners_next_apply_meets_no_conflict(site: Site) -> None:
    rule = owners_rule(site.base)
    site.plane.api.patch(site.owners, rule, APPLY, fieldManager="gitops")
    async with site.turn(Mode.PATCH) as change:
        await change.apply()
    rule["spec"]["trafficPolicy"]["connectionPool"] = {"tcp": {"maxConnections": 50}}
    site.plane.api.patch(site.owners, rule, APPLY, fieldManager="gitops")  # without force
    assert pool(site.find(site.owners)) == {"tcp": {"maxConnections": 50}}


@pytest.mark.parametrize("policy", [None, {"tls": {"mode": "ISTIO_MUTUAL"}}])
async def test_a_rule_without_a_pool_or_without_a_policy_has_none_afterwards(policy: Object | None, site: Site) -> None:
    rule = owners_rule(site.base)
    del rule["metadata"]["annotations"], rule["metadata"]["labels"]
    rule["spec"] = {"host": host(site.base), **({"trafficPolicy": policy} if policy else {})}
    before = site.plane.api.create(rule)
    async with site.turn(Mode.PATCH) as change:
        await change.apply()
        assert pool(site.find(site.owners)) == LIMITS
    now = site.find(site.owners)
    assert now["spec"] == before["spec"]
    assert now["metadata"]["managedFields"] == before["metadata"]["managedFields"]
    assert "annotations" not in now["metadata"]


# Others change the same rule meanwhile: it is never overwritten, and it is said who and what.

Edit = Callable[[Site, Object], None]


def _writes_our_field(site: Site, _owners: Object) -> None:
    site.edit(site.owners, {"spec": {"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 77}}}}})


def _adds_a_field_to_our_pool(site: Site, _owners: Object) -> None:
    site.edit(site.owners, {"spec": {"trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 55}}}}})


def _writes_another_field(site: Site, _owners: Object) -> None:
    site.edit(
        site.owners, {"spec": {"trafficPolicy": {"outlierDetection": {"consecutive5xxErrors": 9}}}, "metadata": {"labels": {"new": "x"}}}
    )


def _puts_everything_back(site: Site, _owners: Object) -> None:
    site.plane.api.patch(site.owners, owners_rule(site.base), APPLY, fieldManager="gitops", force="true")
    unwanted = {"http2MaxRequests": None, "maxRequestsPerConnection": None}
    site.edit(site.owners, {"spec": {"trafficPolicy": {"connectionPool": {"http": unwanted}}}}, "gitops")


def _takes_our_marks_off(site: Site, _owners: Object) -> None:
    site.edit(site.owners, {"metadata": {"annotations": {marks.RUN: None, marks.UNDO: None}}})


def _takes_our_limits_over(site: Site, _owners: Object) -> None:
    _takes_our_marks_off(site, _owners)
    mine = {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "owners", "namespace": site.base}}
    site.plane.api.patch(
        site.owners, {**mine, "spec": {"trafficPolicy": {"connectionPool": LIMITS}}}, APPLY, fieldManager="gitops", force="true"
    )


def _deletes_it(site: Site, _owners: Object) -> None:
    site.plane.api.delete(site.owners)


def _makes_it_again(site: Site, _owners: Object) -> None:
    dump = site.find(site.owners)
    site.plane.api.delete(site.owners)
    kept = {key: dump["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
    site.plane.api.create({**dump, "metadata": kept})


OWNERS_POOL = {"tcp": {"maxConnections": 100, "connectTimeout": "1.5s"}, "http": {"http1MaxPendingRequests": 10}}
EDITS: list[tuple[Edit, Fate, Object | None, str]] = [
    (
        _writes_our_field,
        Fate.SUPERSEDED,
        {"tcp": OWNERS_POOL["tcp"], "http": {"http1MaxPendingRequests": 10, "http2MaxRequests": 77}},
        "kubectl-edit (Update at .*) changed the rule .*: spec.trafficPolicy.connectionPool.http.http2MaxRequests from 1 to 77",
    ),
    (
        _adds_a_field_to_our_pool,
        Fate.SUPERSEDED,
        {"tcp": {"maxConnections": 55, "connectTimeout": "1.5s"}, "http": {"http1MaxPendingRequests": 10}},
        "kubectl-edit .*: spec.trafficPolicy.connectionPool.tcp.maxConnections from nothing to 55",
    ),
    (_writes_another_field, Fate.VERIFIED, OWNERS_POOL, "has nothing of the run in it; what kubectl-edit .* changed meanwhile was left"),
    (_puts_everything_back, Fate.VERIFIED, OWNERS_POOL, "is exactly as it was before"),
    (_takes_our_marks_off, Fate.VERIFIED, OWNERS_POOL, "is exactly as it was before"),
    (_takes_our_limits_over, Fate.VERIFIED, LIMITS, "what gitops .* changed meanwhile was left"),
    (_deletes_it, Fate.SUPERSEDED, None, "was deleted by somebody else; it is not made again"),
    (_makes_it_again, Fate.SUPERSEDED, LIMITS, "was deleted and made again by .* with the limits of the run in it; it was left as it is"),
]


@pytest.mark.parametrize(("edit", "fate", "then", "says"), EDITS, ids=[each[0].__name__.strip("_") for each in EDITS])
async def test_what_somebody_else_wrote_into_a_patched_rule_stays_and_the_rest_is_put_back(
    edit: Edit, fate: Fate, then: Object | None, says: str, site: Site, owners: Object
) -> None:
    change = await site.abandoned(Mode.PATCH)
    edit(site, owners)
    undone = await change.restore()
    assert undone.fate is fate, undone.sentence
    assert _matches(says, undone.sentence), undone.sentence
    now = site.find(site.owners)
    assert (pool(now) if now else None) == then
    if now:
        assert not [key for key in now["metadata"].get("annotations", {}) if key.startswith(marks.DOMAIN)]
        assert not any(each["manager"] == "loadgen" for each in now["metadata"]["managedFields"]) or edit is _makes_it_again
    assert (await change.restore()).fate is not Fate.FAILED
    assert site.find(site.owners) == now


def _matches(pattern: str, text: str) -> bool:
    """Match in order all the parts between ``.*``, which are no patterns themselves."""
    place = 0
    for part in pattern.split(".*"):
        place = text.find(part, place)
        if place < 0:
            return False
    return True


def _edits_the_spec(site: Site) -> None:
    site.edit(site.own, {"spec": {"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 50}}}}})


def _adds_a_label(site: Site) -> None:
    site.edit(site.own, {"metadata": {"labels": {"mine": "too"}}})


def _takes_the_label_off(site: Site) -> None:
    site.edit(site.own, {"metadata": {"labels": {marks.RUN: None}, "annotations": {marks.RUN: None}}})


def _deletes_ours(site: Site) -> None:
    site.plane.api.delete(site.own)


def _replaces_ours(site: Site) -> None:
    site.plane.api.delete(site.own)
    site.plane.api.create({**owners_rule(site.base), "metadata": {"name": "user", "namespace": site.base}})


def _makes_ours_again(site: Site) -> None:
    dump = site.find(site.own)
    site.plane.api.delete(site.own)
    site.plane.api.create({**dump, "metadata": {key: dump["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}})


EDITS_OF_OURS: list[tuple[Callable[[Site], None], Fate, bool, str]] = [
    (_edits_the_spec, Fate.SUPERSEDED, True, "kubectl-edit .*.http2MaxRequests from 1 to 50; it was left as it is"),
    (_adds_a_label, Fate.VERIFIED, False, "is gone"),
    (
        _takes_the_label_off,
        Fate.SUPERSEDED,
        True,
        "somebody who left no name took the marks of the run off the rule .*; it was left as it is",
    ),
    (_deletes_ours, Fate.VERIFIED, False, "is gone"),
    (_replaces_ours, Fate.VERIFIED, True, "is gone; there is another one of that name now, made by test"),
    (_makes_ours_again, Fate.SUPERSEDED, True, "was deleted and made again by test .*; it was left as it is"),
]


@pytest.mark.parametrize(("edit", "fate", "stays", "says"), EDITS_OF_OURS, ids=[each[0].__name__.strip("_") for each in EDITS_OF_OURS])
async def test_a_rule_that_we_made_goes_only_if_it_still_is_what_we_made(
    edit: Callable[[Site], None], fate: Fate, stays: bool, says: str, site: Site
) -> None:
    change = await site.abandoned(Mode.OWN)
    edit(site)
    edited = site.find(site.own)
    undone = await change.restore()
    assert undone.fate is fate, undone.sentence
    assert _matches(says, undone.sentence), undone.sentence
    now = site.find(site.own)
    assert (now is not None) is stays
    if now:
        assert now["spec"] == edited["spec"]
        assert marks.RUN not in now["metadata"].get("labels", {})  # nothing of ours will delete it later


async def test_an_overlay_that_somebody_took_over_no_longer_goes_with_the_guard(site: Site, owners: Object) -> None:
    async with site.turn(Mode.OVERLAY, guarded=True) as change:
        await change.apply()
        site.edit(site.overlay, {"spec": {"trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 1}}}}})
    now = site.find(site.overlay)
    assert now["metadata"].get("ownerReferences", []) == []
    assert now["spec"]["trafficPolicy"]["connectionPool"]["tcp"] == {"maxConnections": 1}


async def test_a_rule_that_something_else_holds_back_from_deletion_is_said_to_be_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undo, "DELETION_S", 0.5)
    by_hand = f"kubectl delete destinationrules.networking.istio.io user -n {site.base}"
    with pytest.RaisesGroup(
        pytest.RaisesExc(UnverifiedError, match=rf"is being deleted, but example\.com/audit holds it; by hand: {by_hand}")
    ):
        async with site.turn(Mode.OWN) as change:
            await change.apply()
            site.edit(site.own, {"metadata": {"finalizers": ["example.com/audit"]}})
    assert site.plane.api.list(config_maps(site.home), labelSelector=marks.RUN)  # for whoever restores later
    site.edit(site.own, {"metadata": {"finalizers": None}})


# What is noticed during the run.


async def test_the_run_is_told_who_changed_the_rule_and_what(site: Site, owners: Object) -> None:
    async with site.turn(Mode.PATCH) as change:
        await change.apply()
        site.edit(site.owners, {"spec": {"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 9}}}}}, "argocd-controller")
        with pytest.raises(ForeignEditError) as caught:
            await change.check()
    assert _matches(
        f"argocd-controller (Update at .*) changed the rule {site.base}/owners: spec.trafficPolicy.connectionPool.http.http2MaxRequests from 1 to 9",
        caught.value.message,
    )
    assert caught.value.exit_code is ExitCode.INVALID


async def test_the_run_is_told_that_its_rule_is_gone_or_another(site: Site) -> None:
    async with site.turn(Mode.OWN) as change:
        await change.apply()
        site.plane.api.delete(site.own)
        with pytest.raises(ForeignEditError, match="was deleted by somebody else"):
            await change.check()
        _replaces_ours(site)
        with pytest.raises(ForeignEditError, match="was deleted and made again by test"):
            await change.check()


async def test_of_a_rule_that_is_gone_the_run_is_told_first_who_took_its_lease(site: Site) -> None:
    change = await site.abandoned(Mode.OWN, lease_s=30.0)
    taker = new_run(site.api, site.base, site.home)
    await Lease.acquire(site.api, taker, force=change._run.id)
    site.plane.api.delete(site.own)
    with pytest.raises(LeaseLostError, match=f"was taken over: {re.escape(taker.identity)} has the lease"):
        await change.check()


@pytest.mark.parametrize("mode", list(Mode))
async def test_what_the_run_changes_itself_is_nobody_s_edit_whenever_it_is_looked_at(
    mode: Mode, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode is not Mode.OWN:
        site.plane.api.create(owners_rule(site.base))
    write = journal.Journal.write

    async def slowly(self: journal.Journal, *arguments: Any) -> None:
        await anyio.sleep(0.1)
        await write(self, *arguments)
        await anyio.sleep(0.1)

    monkeypatch.setattr(journal.Journal, "write", slowly)
    async with site.turn(mode) as change, anyio.create_task_group() as tasks:

        async def look() -> None:
            while True:
                await change.check()
                await anyio.sleep(0.005)

        tasks.start_soon(look)
        for _ in range(3):
            await change.apply()
            await change.remove()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("again", [False, True])
async def test_a_guard_that_is_deleted_is_noticed_and_without_one_nothing_is_put_in_force(again: bool, site: Site) -> None:
    async with site.turn(Mode.OWN, guarded=True) as change:
        await change.check()
        if again:
            await change.apply()
        [guard] = site.plane.api.list(jobs(site.home))
        site.plane.api.delete(jobs(site.home, guard["metadata"]["name"]), propagationPolicy="Background")
        with pytest.raises(ForeignEditError, match=rf"the guard {site.home}/loadgen-guard-\w+ was deleted by somebody else"):
            await change.check()
        if not again:
            with pytest.raises(ForeignEditError, match="was deleted by somebody else"):
                await change.apply()
            assert site.find(site.own) is None
    assert site.find(site.own) is None
    site.assert_nothing_is_left()


async def test_a_journal_that_is_deleted_is_named_and_not_the_guard_that_ended_with_it(site: Site) -> None:
    async with site.turn(Mode.OWN, guarded=True) as change:
        site.plane.api.delete(config_maps(site.home, journal_name(host(site.base))))
        [guard] = site.plane.api.list(jobs(site.home))
        site.plane.api.delete(jobs(site.home, guard["metadata"]["name"]), propagationPolicy="Background")
        with pytest.raises(ForeignEditError, match=rf"the journal {site.home}/loadgen-journal-\w+ was deleted by somebody else"):
            await change.check()


async def test_of_a_rule_that_is_left_to_its_editor_it_is_said_who_that_is_and_how_to_remove_it(site: Site) -> None:
    async with site.turn(Mode.OWN) as change:
        await change.apply()
        site.edit(site.own, {"spec": {"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 3}}}}})
        with pytest.raises(
            ForeignEditError, match="http2MaxRequests from 1 to 3; it was left as it is, and is in force; to remove it: kubectl delete"
        ):
            await change.remove()
    assert change.undone is not None
    assert change.undone.fate is Fate.SUPERSEDED
    assert change.undone.sentence.endswith(f"to remove it: kubectl delete destinationrules.networking.istio.io user -n {site.base}")
    assert "kubectl-edit" in change.undone.sentence
    assert "took the marks" not in change.undone.sentence
    site.plane.api.delete(site.own)


@pytest.mark.parametrize("mode", [Mode.OVERLAY, Mode.PATCH])
async def test_the_run_is_told_that_what_it_copied_or_will_change_is_no_longer_so(mode: Mode, site: Site, owners: Object) -> None:
    async with site.turn(mode) as change:
        await change.check()
        site.edit(site.owners, {"spec": {"trafficPolicy": {"tls": {"mode": "DISABLE"}}}})
        with pytest.raises(ForeignEditError, match=r"owners was changed by kubectl-edit \(Update at"):
            await change.check()


async def test_a_rule_that_changed_since_the_plan_is_not_touched(site: Site, owners: Object) -> None:
    async with site.turn(Mode.PATCH) as change:
        site.edit(site.owners, {"spec": {"exportTo": ["."]}})
        edited = site.find(site.owners)
        with pytest.raises(ForeignEditError, match=r"was changed by kubectl-edit .* after it was looked at"):
            await change.apply()
    assert site.find(site.owners) == edited
    site.assert_nothing_is_left()


async def test_a_rule_that_changed_while_ours_was_away_is_not_touched_again(site: Site, owners: Object) -> None:
    async with site.turn(Mode.PATCH) as change:
        await change.apply()
        await change.remove()
        site.edit(site.owners, {"spec": {"trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 5}}}}})
        edited = site.find(site.owners)
        with pytest.raises(ForeignEditError):
            await change.apply()
    assert site.find(site.owners) == edited


async def test_a_rule_that_appeared_since_the_plan_is_not_touched(site: Site) -> None:
    async with site.turn(Mode.OWN) as change:
        theirs = site.plane.api.create({**owners_rule(site.base), "metadata": {"name": "user", "namespace": site.base}})
        with pytest.raises(ForeignEditError, match=f"there is a rule {site.base}/user now, made by test"):
            await change.apply()
    assert site.find(site.own) == theirs


# The server's moods at the moments that count.


@pytest.fixture
async def moody(control_plane: ControlPlane) -> AsyncIterator[Moody]:
    async with Moody.serving(control_plane.url, control_plane.authority) as proxy:
        yield proxy


@pytest.fixture
async def shaky(site: Site, moody: Moody) -> AsyncIterator[Site]:
    """The same place, seen through a proxy with moods."""
    token = site.plane.users.token("admin")
    async with KubeApi(lambda: access(moody.url, "", token), try_s=0.5) as api:
        yield Site(site.plane, api, site.base, site.home, site.state)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    "mood", [swallows, resets, hangs, says(429, "later", retry_after="0"), says(500, "etcd"), says(401, "Unauthorized")]
)
async def test_the_whole_story_survives_a_mood_at_every_write(mode: Mode, mood: Any, shaky: Site, moody: Moody) -> None:
    before = None
    if mode is not Mode.OWN:
        before = shaky.plane.api.create(owners_rule(shaky.base))
    for method, times in (("POST", 4), ("PUT", 3), ("PATCH", 3), ("DELETE", 2)):
        for _ in range(times):
            moody.play(method, "", mood)
            moody.play(method, "", _well)
    async with shaky.turn(mode) as change:
        await change.apply()
        await change.remove()
        await change.apply()
        await change.check()
    now = shaky.find(shaky.owners)
    assert (users_part(now) if now else None) == (users_part(before) if before else None)
    assert shaky.find(shaky.own) is None
    shaky.assert_nothing_is_left()


async def _well(exchange: Any) -> None:
    response = await exchange.forward()
    await exchange.answer(response.status_code, dict(response.headers), response.content)


@pytest.mark.parametrize(("mode", "method"), [(Mode.OWN, "DELETE"), (Mode.OVERLAY, "DELETE"), (Mode.PATCH, "PATCH")])
async def test_an_edit_that_comes_between_our_look_and_our_write_is_not_lost(mode: Mode, method: str, shaky: Site, moody: Moody) -> None:
    if mode is not Mode.OWN:
        shaky.plane.api.create(owners_rule(shaky.base))
    path = {Mode.OWN: shaky.own, Mode.OVERLAY: shaky.overlay, Mode.PATCH: shaky.owners}[mode]

    async def overtaken(exchange: Any) -> None:
        shaky.edit(path, {"spec": {"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 42}}}}})
        await _well(exchange)

    async with shaky.turn(mode) as change:
        await change.apply()
        moody.play(method, "destinationrules", overtaken)
        undone = await change.restore()
    assert undone.fate is Fate.SUPERSEDED
    assert "http2MaxRequests from 1 to 42" in undone.sentence
    assert pool(shaky.find(path))["http"]["http2MaxRequests"] == 42


@pytest.mark.parametrize("mode", [Mode.OWN, Mode.PATCH])
async def test_an_edit_that_comes_between_our_look_and_the_change_stops_it(mode: Mode, shaky: Site, moody: Moody) -> None:
    if mode is Mode.PATCH:
        shaky.plane.api.create(owners_rule(shaky.base))

    async def overtaken(exchange: Any) -> None:
        if mode is Mode.PATCH:
            shaky.edit(shaky.owners, {"spec": {"exportTo": ["."]}})
        else:
            shaky.plane.api.create({**owners_rule(shaky.base), "metadata": {"name": "user", "namespace": shaky.base}})
        await _well(exchange)

    async with shaky.turn(mode) as change:
        moody.play("PATCH" if mode is Mode.PATCH else "POST", "destinationrules", overtaken)
        with pytest.raises(ForeignEditError, match="was changed by somebody else at the same moment"):
            await change.apply()
    now = shaky.find(shaky.owners if mode is Mode.PATCH else shaky.own)
    assert pool(now) == OWNERS_POOL
    assert not [key for key in now["metadata"].get("annotations", {}) if key.startswith(marks.DOMAIN)]


async def test_a_rule_that_is_made_late_though_the_run_had_given_up_is_found_and_removed(
    shaky: Site, moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toggle, "APPLY_S", 1.0)
    monkeypatch.setattr(toggle, "SETTLE_S", 3.0)
    async with shaky.turn(Mode.OWN) as change:
        moody.play("POST", "destinationrules", late(2.0))
        moody.play("GET", "destinationrules/user", _well)
        silent = moody.play("GET", "destinationrules/user", resets, times=math.inf)
        with pytest.raises(LostError) as caught:
            await change.apply()
        silent.times = 0
        assert caught.value.exit_code is ExitCode.INVALID
        assert shaky.find(shaky.own) is None
        undone = await change.restore()
        assert undone.fate is Fate.VERIFIED
        assert moody.count("DELETE", "destinationrules/user") == 1
    assert shaky.find(shaky.own) is None
    shaky.assert_nothing_is_left()


@pytest.mark.parametrize(("mode", "method"), [(Mode.OWN, "POST"), (Mode.PATCH, "PATCH")])
async def test_a_write_that_was_under_way_when_the_run_was_cancelled_is_waited_for_and_undone(
    mode: Mode, method: str, shaky: Site, moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toggle, "SETTLE_S", 3.0)
    before = shaky.plane.api.create(owners_rule(shaky.base)) if mode is Mode.PATCH else None
    sent, arrived = anyio.Event(), anyio.Event()

    async def arrives_late(exchange: Any) -> None:
        sent.set()
        await anyio.sleep(1.0)
        await exchange.forward()
        arrived.set()
        await hangs(exchange)

    moody.play(method, "destinationrules", arrives_late)

    async def run() -> None:
        token = shaky.plane.users.token("admin")
        async with (
            KubeApi(lambda: access(moody.url, "", token)) as patient,  # it is the run that gives up
            taking_turn(patient, shaky.base, shaky.home, mode, shaky.state) as change,
        ):
            await change.apply()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await sent.wait()
        tasks.cancel_scope.cancel()
    assert arrived.is_set()
    now = shaky.find(shaky.owners)
    assert (users_part(now) if now else None) == (users_part(before) if before else None)
    assert shaky.find(shaky.own) is None
    shaky.assert_nothing_is_left()


async def test_the_server_is_told_to_give_a_write_up_before_the_lease_is_over(site: Site, moody: Moody) -> None:
    async with (
        KubeApi(lambda: access(moody.url, "", site.plane.users.token("admin")), try_s=60.0) as api,
        taking_turn(api, site.base, site.home, Mode.OWN, site.state, lease_s=6.0) as change,
    ):
        await change.apply()
    (write,) = [each for each in moody.seen if each.startswith("POST") and "destinationrules" in each]
    (timeout_ms,) = [float(part.removeprefix("timeout=").removesuffix("ms")) for part in re.split("[?&]", write) if "timeout=" in part]
    assert timeout_ms <= 5000  # the holder's part of the lease's time


@pytest.mark.parametrize(("mode", "method"), [(Mode.OWN, "DELETE"), (Mode.PATCH, "PATCH")])
async def test_the_moment_just_before_the_first_write_is_told_without_our_own_bookkeeping(
    mode: Mode, method: str, shaky: Site, moody: Moody
) -> None:
    if mode is Mode.PATCH:
        shaky.plane.api.create(owners_rule(shaky.base))
    moments: dict[str, float] = {}

    def notes(what: str) -> Any:
        async def mood(exchange: Any) -> None:
            await _well(exchange)
            moments[what] = time.perf_counter()

        return mood

    async with shaky.turn(mode) as change:
        assert change.written_at is None
        moody.play("PUT", "configmaps", notes("intent"))
        moody.play("POST" if mode is Mode.OWN else "PATCH", "destinationrules", notes("applied"))
        await change.apply()
        assert change.written_at is not None
        assert moments["intent"] < change.written_at < moments["applied"]
        moody.play("PUT", "configmaps", notes("restoring"))
        moody.play("GET", "destinationrules", notes("looked"))
        moody.play(method, "destinationrules", notes("removed"))
        await change.remove()
        assert moments["restoring"] < moments["looked"] < change.written_at < moments["removed"]


@pytest.mark.parametrize("fails", ["login", "hangs"])
async def test_a_login_that_fails_in_between_is_tried_again_and_the_change_is_undone(
    fails: str, site: Site, moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(server, "LOGIN_S", 0.2)
    asked: list[str] = []

    def log_in() -> Access:
        asked.append(fails)
        if 2 <= len(asked) <= 5:
            if fails == "hangs":
                time.sleep(0.5)
            raise RefusedError("the plugin failed", hint="log in")
        return access(moody.url, "", site.plane.users.token("admin"))

    async with KubeApi(log_in, try_s=0.5) as api, taking_turn(api, site.base, site.home, Mode.OWN, site.state) as change:
        await change.apply()
        moody.play("PUT", "configmaps", says(401, "Unauthorized"))
        moody.play("DELETE", "destinationrules", says(401, "Unauthorized"))
        moody.play("GET", "destinationrules/user", _well)
        moody.play("GET", "destinationrules/user", says(401, "Unauthorized"), times=2)
        undone = await change.restore()
        assert undone.fate is Fate.VERIFIED, undone.sentence
    assert len(asked) == 5
    assert site.find(site.own) is None
    site.assert_nothing_is_left()


async def test_a_rule_that_another_run_has_changed_meanwhile_is_not_changed_a_second_time(
    site: Site, owners: Object, make_namespace: Callable[..., str]
) -> None:
    change = await planned(site.api, site.base, site.home, Mode.PATCH)
    notes = {marks.RUN: "theirs", marks.HOLDER: "ann@desk/7", marks.HOST: host(site.base), marks.HOME: make_namespace()}
    site.edit(site.owners, {"metadata": {"annotations": notes}})
    marked = site.find(site.owners)
    run = new_run(site.api, site.base, site.home)
    with pytest.RaisesGroup(pytest.RaisesExc(ForeignEditError, match=f"{site.base}/owners is changed by run theirs of ann@desk/7")):
        async with anyio.create_task_group() as tasks, turn(site.api, run, change, tasks, version="v1") as late_one:
            await late_one.apply()
    assert site.find(site.owners) == marked


async def test_a_run_that_lost_its_lease_leaves_the_next_runs_change_of_the_same_rule_alone(site: Site, owners: Object) -> None:
    asleep = await site.abandoned(Mode.PATCH)
    await restore(site.api, host(site.base), site.home, run_id=asleep._run.id, settle_s=0.0, folder=site.state)  # as its guard does
    async with site.turn(Mode.PATCH) as change:
        await change.apply()
        patched = site.find(site.owners)
        undone = await asleep.restore()
        assert site.find(site.owners) == patched
        assert undone.fate is Fate.VERIFIED
        assert f"what run {change._run.id} of {change._run.holder} until" in undone.sentence
        await change.check()
    assert users_part(site.find(site.owners)) == users_part(owners)
    assert site.find(site.owners)["metadata"]["managedFields"] == owners["metadata"]["managedFields"]
    site.assert_nothing_is_left()


@pytest.mark.parametrize("mode", [Mode.OWN, Mode.PATCH])
async def test_of_two_runs_with_clients_in_different_namespaces_the_later_one_changes_nothing_and_names_the_other(
    mode: Mode, site: Site, make_namespace: Callable[..., str]
) -> None:
    if mode is Mode.PATCH:
        site.plane.api.create(owners_rule(site.base))
    path = site.owners if mode is Mode.PATCH else site.own
    elsewhere = Site(site.plane, site.api, site.base, make_namespace("test"), site.state)
    async with elsewhere.turn(mode) as later, site.turn(mode) as change:  # neither lease keeps the other away
        await change.apply()
        applied = site.find(path)
        with pytest.raises(ForeignEditError, match=f"by run {change._run.id} of {change._run.holder} until") as caught:
            await later.apply()
        assert caught.value.hint == marks.wait_or_restore(applied)
        assert site.find(path) == applied
        await change.check()
    site.assert_nothing_is_left()
    elsewhere.assert_nothing_is_left()


async def test_a_run_that_lost_its_lease_leaves_the_next_runs_guard_alone(site: Site, owners: Object) -> None:
    async with site.turn(Mode.OVERLAY, guarded=True) as change:
        path = jobs(site.home, guard_name(host(site.base)))
        job = guard_job(new_run(site.api, site.base, site.home, run_id="next"), "loadgen:1", lasts_s=60.0)
        await change.apply()
        site.plane.api.delete(path, propagationPolicy="Background")
        site.plane.api.create(job)
    assert marks.run_of(site.find(path)) == "next"


# What begins the turn.


@pytest.mark.parametrize("mood", [says(403, "not you"), swallows])
async def test_of_a_journal_that_could_not_be_begun_nothing_stays(
    mood: Any, shaky: Site, moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadgen.cluster.api.SETTLE_S", 0.1)
    moody.play("POST", "configmaps", mood)
    moody.play("GET", "configmaps/loadgen-journal", _well)  # what was left before
    moody.play("GET", "configmaps/loadgen-journal", says(403, "not you"))  # so that it is not known whether it was made
    with pytest.RaisesGroup(ApiError):
        async with shaky.turn(Mode.OWN):
            pass
    shaky.assert_nothing_is_left()


async def test_of_a_journal_whose_beginning_was_cancelled_nothing_stays(shaky: Site, moody: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.cluster.api.SETTLE_S", 2.0)
    sent, arrived = anyio.Event(), anyio.Event()

    async def arrives_late(exchange: Any) -> None:
        sent.set()
        await anyio.sleep(0.5)
        await exchange.forward()
        arrived.set()
        await hangs(exchange)

    async def run() -> None:
        async with shaky.turn(Mode.OWN):
            pass

    moody.play("POST", "configmaps", arrives_late)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await sent.wait()
        tasks.cancel_scope.cancel()
    with anyio.fail_after(20.0):
        await arrived.wait()
    shaky.assert_nothing_is_left()


async def test_nothing_is_given_to_the_caller_until_the_guard_is_ready(shaky: Site, moody: Moody) -> None:
    path = jobs(shaky.home, guard_name(host(shaky.base)))

    async def runs(exchange: Any) -> None:
        response = await exchange.forward()
        job = response.json()
        job["status"]["ready"] = 1
        await exchange.answer(200, dict(response.headers), json.dumps(job).encode())

    moody.play("GET", path, _well)  # what was left before
    moody.play("GET", path, _well, times=2)
    moody.play("GET", path, runs)
    async with shaky.turn(Mode.OWN, guarded=True, guard_s=60.0):
        assert moody.count("GET", path) == 4
    assert shaky.find(path) is None


def play_guard(site: Site, run_id: str, **status: Object) -> None:
    """Make the pod of a run's guard, as if its node said this of its container."""
    labels = {"job-name": guard_name(host(site.base)), marks.RUN: run_id}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": run_id, "namespace": site.home, "labels": labels}}
    site.plane.api.create({**pod, "spec": {"containers": [{"name": "guard", "image": "loadgen:1"}]}})
    whole = {"name": "guard", "ready": False, "restartCount": 0, "image": "loadgen:1", "imageID": "", **status}
    site.plane.api.patch(pods(site.home, run_id) + "/status", {"status": {"containerStatuses": [whole]}})


async def refused_turn(site: Site, mode: Mode, *, guard_s: float) -> RefusedError:
    """Take a turn as run-2 that is refused for its guard's sake; give the error. Nothing may be left."""
    with pytest.RaisesGroup(RefusedError) as caught:
        async with site.turn(mode, guarded=True, run_id="run-2", guard_s=guard_s):
            raise AssertionError("without a guard nothing is given")
    site.plane.api.delete(pods(site.home, "run-2"), gracePeriodSeconds=0)
    site.assert_nothing_is_left()
    (error,) = caught.value.exceptions
    assert isinstance(error, RefusedError)
    return error


async def test_a_guard_that_does_not_start_is_refused_with_the_reason_and_nothing_is_left(site: Site, owners: Object) -> None:
    play_guard(site, "run-2", state={"waiting": {"reason": "ErrImagePull", "message": "there is no loadgen:1"}})
    error = await refused_turn(site, Mode.OVERLAY, guard_s=0.2)
    assert error.message == "the guard in the cluster does not start: ErrImagePull: there is no loadgen:1"
    assert error.hint.startswith(f"kubectl describe job {guard_name(host(site.base))} -n {site.home}")


async def test_a_guard_that_runs_and_is_not_ready_is_said_not_to_see_the_api_server(site: Site) -> None:
    play_guard(site, "run-2", state={"running": {"startedAt": None}})
    error = await refused_turn(site, Mode.OWN, guard_s=0.2)
    assert "does not start: its pod runs, but has not seen the API server (does a NetworkPolicy keep it from it?)" in error.message
    assert f"kubectl logs job/{guard_name(host(site.base))} -n {site.home}" in error.hint


@pytest.mark.parametrize("life", ["state", "lastState"])
async def test_a_guard_that_may_not_undo_the_change_is_refused_at_once_with_the_right_and_where_it_is_from(life: str, site: Site) -> None:
    play_guard(site, "run-1", state={"terminated": {"exitCode": 3, "message": "loadgen: what the run before was told"}})
    said = f"cannot get the journal (tried 3 times)\nloadgen: the guard's account {site.home}/loadgen-guard may not \x1b[2Jdelete it\n   hint: none\n"
    play_guard(site, "run-2", **{life: {"terminated": {"exitCode": 3, "message": said}}})
    with anyio.fail_after(30.0):
        error = await refused_turn(site, Mode.OWN, guard_s=60.0)
    right = f"the guard's account {site.home}/loadgen-guard may not \\x1b[2Jdelete it"
    assert error.message == f"the guard in the cluster does not start: {right}"
    assert f"loadgen manifests with --toggle-in-base --rule user has the Roles for {site.base}/user" in error.hint


async def test_a_server_that_refuses_the_rule_is_quoted_and_nothing_is_left(site: Site) -> None:
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": f"no-rules-{site.base}"},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": ["networking.istio.io"],
                        "apiVersions": ["*"],
                        "operations": ["CREATE"],
                        "resources": ["destinationrules"],
                    }
                ]
            },
            "validations": [{"expression": "false", "message": "the platform team says no"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": f"no-rules-{site.base}"},
        "spec": {
            "policyName": f"no-rules-{site.base}",
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": site.base}}},
        },
    }
    group = "/apis/admissionregistration.k8s.io/v1"
    site.plane.api.post(f"{group}/validatingadmissionpolicies", policy)
    site.plane.api.post(f"{group}/validatingadmissionpolicybindings", binding)
    try:
        with pytest.RaisesGroup(pytest.RaisesExc(ApiError, match="422: .*the platform team says no")):
            async with site.turn(Mode.OWN) as change:
                for _ in range(100):  # until the policy is in force
                    await change.apply()
                    await change.remove()
    finally:
        site.plane.api.delete(f"{group}/validatingadmissionpolicybindings/no-rules-{site.base}")
        site.plane.api.delete(f"{group}/validatingadmissionpolicies/no-rules-{site.base}")
    site.assert_nothing_is_left()


async def test_a_run_whose_journal_was_taken_away_puts_nothing_in_force(site: Site) -> None:
    async with site.turn(Mode.OWN) as change:
        for each in site.plane.api.list(config_maps(site.home), labelSelector=marks.RUN):
            site.plane.api.delete(config_maps(site.home, each["metadata"]["name"]))
        with pytest.raises(MeshError, match=r"the journal of .* was changed or removed by somebody else"):
            await change.apply()
        assert site.find(site.own) is None
    site.plane.api.delete(leases(site.home))


async def test_a_journal_that_somebody_changes_again_and_again_is_left_in_the_end_and_the_rule_is_put_back(
    shaky: Site, moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FINISH_PAUSE_S", 0.01)
    async with shaky.turn(Mode.OWN) as change:
        await change.apply()
        moody.play("DELETE", "configmaps/loadgen-journal", says(409, "it was changed"), times=journal.FINISH_TRIES)
        undone = await change.restore()
        assert "it was changed" in undone.sentence
        assert shaky.find(shaky.own) is None
    assert moody.count("DELETE", "configmaps/loadgen-journal") == journal.FINISH_TRIES


async def test_an_exception_in_the_run_does_not_hide_that_everything_was_put_back(site: Site, owners: Object) -> None:
    class BugError(Exception):
        pass

    async def tell() -> None:
        async with site.turn(Mode.PATCH) as change:
            await change.apply()
            raise BugError

    with pytest.RaisesGroup(BugError):
        await tell()
    assert users_part(site.find(site.owners)) == users_part(owners)
    site.assert_nothing_is_left()
