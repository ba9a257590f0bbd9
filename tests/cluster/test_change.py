"""Which way is chosen to put a rule in force, why, and what does a person see of it before? Pure: rules in, a change out."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from loadgen.cluster.change import Change, Mode, plan_change
from loadgen.cluster.rules import read_rule
from loadgen.errors import RefusedError
from loadgen.policy.limits import Limits
from loadgen.policy.translation import cluster_name, clusters
from tests.cluster.rules import LABELS, LIMITS, Object, client, owners_rule, service, wanted

BASE, HOME = "base", "test"
MEANT = Limits(max_pending_requests=1, max_requests=1, max_requests_per_connection=1)
OVERLAY = "test/loadgen-76e0200e79"


def stored(rule: Object, **metadata: Any) -> Object:
    """Give a rule as the API server has it."""
    given = {"uid": f"uid-{rule['metadata']['name']}", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {**rule, "metadata": {**given, **rule["metadata"], **metadata}}


def rule(name: str, namespace: str, spec: Object, **metadata: Any) -> Object:
    body = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
    return stored(body, **metadata)


def pool(**limits: Any) -> Object:
    return {"trafficPolicy": {"connectionPool": limits}}


FOR_USER: Object = {"host": "user.base.svc.cluster.local"}
THEIRS = rule("theirs", HOME, {**FOR_USER, "workloadSelector": {"matchLabels": LABELS}, **pool(tcp={"maxConnections": 5})})


def plan(*found: Object, text: str | None = None, **options: Any) -> Change:
    rules = wanted(BASE) if text is None else wanted(BASE, text)
    return plan_change(found, rules, service(BASE), client(HOME), **options)


def limits(change: Change) -> Limits:
    made = clusters(change.after, service(BASE), client(HOME))
    return Limits.of_cluster(made[cluster_name(service(BASE), 7000)])


def test_where_no_rule_is_in_force_the_scenarios_own_is_created_as_it_stands_in_its_file() -> None:
    change = plan()
    change.check()
    assert change.mode is Mode.OWN
    assert [write.key for write in change.writes] == ["base/user"]
    made = change.writes[0].rule
    assert made["apiVersion"] == "networking.istio.io/v1"
    assert made["spec"] == {**FOR_USER, "trafficPolicy": {"connectionPool": LIMITS}, "exportTo": ["*"]}
    assert limits(change) == MEANT
    assert "no rule for user.base.svc.cluster.local is in force for the clients in test" in change.reasons[0]


def test_over_somebody_elses_rule_goes_a_copy_for_the_clients_only_with_our_pool_in_it() -> None:
    theirs = stored(owners_rule(BASE))
    before = copy.deepcopy(theirs)
    change = plan(theirs)
    change.check()
    assert change.mode is Mode.OVERLAY
    assert theirs == before
    made = change.writes[0].rule
    assert change.writes[0].key == OVERLAY
    assert made["spec"]["exportTo"] == ["."]
    assert made["spec"]["workloadSelector"] == {"matchLabels": LABELS}
    assert made["spec"]["subsets"] == theirs["spec"]["subsets"]
    assert made["spec"]["trafficPolicy"] == {**theirs["spec"]["trafficPolicy"], "connectionPool": LIMITS}
    assert limits(change) == MEANT
    assert "base/owners stays as it is" in change.reasons[0]
    assert any(reason.startswith("not own: ") and "base/owners" in reason for reason in change.reasons)


def test_a_policy_of_the_port_that_would_hide_our_pool_gets_it_too() -> None:
    theirs = stored(owners_rule(BASE))
    theirs["spec"]["trafficPolicy"]["portLevelSettings"] = [
        {"port": {"number": 7000}, "connectionPool": {"tcp": {"maxConnections": 3}}},
        {"port": {"number": 9}, "connectionPool": {"tcp": {"maxConnections": 4}}},
    ]
    change = plan(theirs)
    assert change.mode is Mode.OVERLAY
    assert limits(change) == MEANT
    ports = change.writes[0].rule["spec"]["trafficPolicy"]["portLevelSettings"]
    assert [each["connectionPool"] for each in ports] == [LIMITS, {"tcp": {"maxConnections": 4}}]
    refused = plan(theirs, mode=Mode.PATCH)
    with pytest.raises(RefusedError, match="the clients would get"):
        refused.check()


def test_the_oldest_policy_is_copied_and_the_subsets_of_all() -> None:
    older = rule("older", BASE, {**FOR_USER, "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}, "subsets": [{"name": "v1"}]})
    younger = rule(
        "younger",
        BASE,
        {**FOR_USER, "trafficPolicy": {"tls": {"mode": "DISABLE"}}, "subsets": [{"name": "v1", "labels": {"a": "b"}}, {"name": "v2"}]},
        creationTimestamp="2026-02-01T00:00:00Z",
    )
    spec = plan(younger, older).writes[0].rule["spec"]
    assert spec["trafficPolicy"] == {"tls": {"mode": "ISTIO_MUTUAL"}, "connectionPool": LIMITS}
    assert spec["subsets"] == [{"name": "v1"}, {"name": "v2"}]


def test_a_rule_for_the_whole_mesh_counts_as_one_in_force() -> None:
    change = plan(rule("mesh", "istio-system", {"host": "*.local", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}))
    assert change.mode is Mode.OVERLAY
    assert change.writes[0].rule["spec"]["trafficPolicy"]["tls"] == {"mode": "ISTIO_MUTUAL"}


def test_where_a_rule_of_the_clients_own_wins_over_ours_its_pool_is_replaced() -> None:
    change = plan(THEIRS)
    change.check()
    assert change.mode is Mode.PATCH
    assert change.writes[0].before == THEIRS
    assert change.writes[0].rule["spec"]["trafficPolicy"]["connectionPool"] == LIMITS
    assert limits(change) == MEANT
    assert any(reason.startswith("not overlay: ") and "test/theirs" in reason for reason in change.reasons)


@pytest.mark.parametrize(
    ("metadata", "tool"),
    [
        ({"annotations": {"argocd.argoproj.io/tracking-id": "x"}}, "Argo CD"),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "x"}}, "Flux"),
        ({"annotations": {"meta.helm.sh/release-name": "x"}}, "Helm"),
        ({"managedFields": [{"manager": "argocd-controller"}]}, "Argo CD"),
    ],
)
def test_a_rule_that_a_tool_keeps_is_not_touched_unless_that_is_allowed(metadata: Object, tool: str) -> None:
    kept = {**THEIRS, "metadata": {**THEIRS["metadata"], **metadata}}
    with pytest.raises(RefusedError, match=f"kept by {tool}"):
        plan(kept).check()
    change = plan(kept, allow_managed=True)
    change.check()
    assert change.mode is Mode.PATCH
    plan(stored(owners_rule(BASE), **metadata)).check()  # an overlay does not touch it


def test_a_mode_that_is_asked_for_is_refused_with_the_reason_where_it_does_not_fit() -> None:
    theirs = stored(owners_rule(BASE))
    refusals = {
        Mode.OWN: (theirs, "the rule base/owners is for the same host in the same namespace and older"),
        Mode.PATCH: (rule("wild", BASE, {"host": "*.base.svc.cluster.local", **pool(tcp={})}), "other services would get the limits"),
    }
    for mode, (found, reason) in refusals.items():
        with pytest.raises(RefusedError, match=reason):
            plan(found, mode=mode).check()
    with pytest.raises(RefusedError, match="no rule is in force"):
        plan(mode=Mode.PATCH).check()
    assert plan(theirs, mode=Mode.PATCH).refusals == ()


def test_a_rule_that_the_clients_cannot_see_is_still_in_the_way_of_our_own() -> None:
    hidden = rule("hidden", BASE, {**FOR_USER, "exportTo": ["elsewhere"], **pool(tcp={"maxConnections": 1})})
    change = plan(hidden)
    assert change.mode is Mode.OVERLAY
    assert "there is none for them now" in change.reasons[0]


def test_what_an_earlier_run_left_is_in_the_way_and_says_how_it_is_removed() -> None:
    left = rule("loadgen-76e0200e79", HOME, {**FOR_USER, "workloadSelector": {"matchLabels": {"other": "x"}}})
    with pytest.raises(
        RefusedError, match=r"to remove it: kubectl delete destinationrules\.networking\.istio\.io loadgen-76e0200e79 -n test"
    ):
        plan(stored(owners_rule(BASE)), left, mode=Mode.OVERLAY).check()


MARKS = {"loadgen.dev/holder": "ann@desk/7", "loadgen.dev/home": "theirs", "loadgen.dev/expires-at": "2026-01-01T10:00:00Z"}


@pytest.mark.parametrize("mode", [None, *Mode])
@pytest.mark.parametrize(
    "left",
    [
        stored(owners_rule(BASE), annotations={**MARKS, "loadgen.dev/run": "run-7"}),
        rule("user", BASE, FOR_USER, labels={"loadgen.dev/run": "run-7"}, annotations=MARKS),
        rule(
            "user", BASE, {"host": "usr"}, labels={"loadgen.dev/run": "run-7"}, annotations={**MARKS, "loadgen.dev/host": FOR_USER["host"]}
        ),
        rule("loadgen-76e0200e79", HOME, FOR_USER, labels={"loadgen.dev/run": "run-7"}, annotations=MARKS),
    ],
    ids=["patched", "own", "own for no host", "overlay"],
)
def test_a_rule_that_another_run_has_changed_or_left_is_planned_with_in_no_mode(left: Object, mode: Mode | None) -> None:
    change = plan(left, mode=mode)
    assert change.writes == ()
    with pytest.raises(RefusedError, match=r"is changed by run run-7 of ann@desk/7 until 2026-01-01T10:00:00Z \(wait .* loadgen restore"):
        change.check()


def test_a_rule_of_another_service_may_have_the_marks_of_a_run() -> None:
    plan(rule("other", BASE, {"host": "other.base.svc.cluster.local"}, labels={"loadgen.dev/run": "run-7"}, annotations=MARKS)).check()


def test_a_rule_for_a_host_that_does_not_exist_is_created_all_the_same() -> None:
    text = (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: user, namespace: {namespace}}}\nspec: {{host: usr}}\n"
    )
    change = plan(stored(owners_rule(BASE)), text=text)
    assert change.mode is Mode.OWN
    assert change.writes[0].rule["spec"] == {"host": "usr"}


def test_a_scenario_whose_rule_sets_no_pool_cannot_go_over_another() -> None:
    text = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: user, namespace: {namespace}}}\nspec: {{host: '{host}'}}\n"
    with pytest.raises(RefusedError, match="sets no connection pool"):
        plan(stored(owners_rule(BASE)), text=text).check()


def test_fields_that_are_not_known_here_are_copied_and_the_limits_are_still_judged() -> None:
    theirs = stored(owners_rule(BASE))
    theirs["spec"]["trafficPolicy"]["quic"] = {"new": True}
    theirs["spec"]["trafficPolicy"]["connectionPool"]["tcp"]["flowLabel"] = 1
    change = plan(theirs)
    change.check()
    assert change.mode is Mode.OVERLAY
    assert change.writes[0].rule["spec"]["trafficPolicy"]["quic"] == {"new": True}
    assert limits(change) == MEANT
    assert read_rule(theirs)[0].traffic_policy is not None


def test_a_rule_that_makes_no_sense_here_still_takes_its_place() -> None:
    odd = stored(owners_rule(BASE))
    odd["spec"]["trafficPolicy"]["connectionPool"]["tcp"]["maxConnections"] = {"from": "the future"}
    read, problems = read_rule(odd)
    assert read.host == FOR_USER["host"]
    assert read.traffic_policy is not None
    assert problems
    change = plan(odd)
    assert change.mode is Mode.OVERLAY
    assert limits(change) == MEANT


def test_the_diff_shows_a_person_what_will_be_written_and_nothing_of_the_servers() -> None:
    diff = plan(THEIRS).diff()
    assert diff.startswith("--- test/theirs (in the cluster)\n+++ test/theirs (during the run)\n")
    assert "-      tcp:\n-        maxConnections: 5\n+      http:\n+        http1MaxPendingRequests: 1\n" in diff
    assert "resourceVersion" not in diff
    created = plan().diff()
    assert created.startswith("--- /dev/null\n+++ base/user (during the run)\n")
    assert "+        http2MaxRequests: 1\n" in created
