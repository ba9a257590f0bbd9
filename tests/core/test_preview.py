"""Does a plan tell the rules that limit from those that do not, among all that there will be, and what their limits come to in all clients?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from loadgen.estimate import NOTHING, Estimate, Law, Prediction
from loadgen.outlook import Outlook
from loadgen.policy.limits import UNSET
from loadgen.policy.lint import lint
from loadgen.preview import Preview, fates, server_state, state_of
from loadgen.render.preview import preview_text
from tests.policy.examples import CLIENT, USER, limit, manifest, rules_of, together

if TYPE_CHECKING:
    from loadgen.policy.rule import Rule

FQDN = USER.host


def ours() -> list[Rule]:
    return rules_of(manifest(limit()))


def preview(rules: list[Rule], *, clients: int = 10, workers: int = 1) -> Preview:
    names = tuple(f"client-{number}" for number in range(1, clients + 1))
    made = Preview(USER, CLIENT, names, state_of((), USER, CLIENT), state_of(rules, USER, CLIENT), (), rules=tuple(rules), workers=workers)
    return replace(made, fates=fates(rules, rules, USER, CLIENT))


def test_a_rule_of_the_cluster_that_is_nearer_wins_over_ours_and_both_are_listed() -> None:
    nearer = rules_of(manifest(limit(FQDN, requests=7), name="nearer", namespace="test"))
    other = rules_of(manifest(limit("reviews"), name="reviews"))
    found = fates(ours(), [*nearer, *other, *ours()], USER, CLIENT)
    assert [(each.rule, each.limits, each.code) for each in found] == [
        ("test/nearer", True, None),
        ("base/user", False, "nearer-namespace"),
    ]


def test_a_rule_of_the_cluster_that_loses_to_ours_is_listed() -> None:
    root = rules_of(manifest(limit(FQDN), name="wide", namespace="istio-system"))
    found = fates(ours(), [*root, *ours()], USER, CLIENT)
    assert [(each.rule, each.limits, each.code) for each in found] == [
        ("istio-system/wide", False, "nearer-namespace"),
        ("base/user", True, None),
    ]


def test_a_rule_whose_pool_goes_into_another_one_is_not_said_to_count() -> None:
    over = rules_of(manifest(limit(FQDN), name="loadgen-user", namespace="test"))
    found = fates(ours(), over, USER, CLIENT)
    assert [str(each) for each in found] == [
        "base/user does not: a run does not write it as it stands; the change says what it writes",
        "test/loadgen-user counts",
    ]


def test_one_rule_that_limits_nothing_is_told_with_its_reason() -> None:
    text = preview_text(preview(rules_of(manifest(limit(requests=0)))))
    assert "rules:     base/user counts, but limits nothing: http2MaxRequests: 0 does not mean none" in text
    assert "rules:" not in preview_text(preview(ours()))


@pytest.mark.parametrize(
    ("clients", "workers", "said", "together"),
    [
        (10, 1, "each client's sidecar counts for itself, so the service may see up to 10 times that: http2MaxRequests 50", 50),
        (
            10,
            4,
            "each client's sidecar counts for itself, and its 4 workers may let 3 more pass, so the service may see up to: http2MaxRequests 80",
            80,
        ),
        (1, 4, "the sidecar counts, and its 4 workers may let 3 more pass, so the service may see up to: http2MaxRequests 8", 8),
        (1, 1, None, 5),
        (0, 4, None, 0),
    ],
)
def test_what_the_service_may_see_has_the_race_of_the_workers_in_it(clients: int, workers: int, said: str | None, together: int) -> None:
    shown = preview(ours(), clients=clients, workers=workers)
    assert said in preview_text(shown) if said else "the service may see" not in preview_text(shown)
    service = shown.to_json()["service"]
    assert (service["clients"], service["workers"], service["own_sidecars"]) == (clients, workers, None)
    assert (service["effective"]["max_requests"], service["effective"]["max_connections"]) == (together, UNSET)


def test_what_does_not_add_up_over_clients_is_left_as_it_is() -> None:
    rules = rules_of(manifest("host: user\ntrafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 2}}}"))
    shown = preview(rules, workers=2)
    assert shown.together().max_requests_per_connection == 2
    assert "the service may see" not in preview_text(shown)


@pytest.mark.parametrize(
    ("rules", "limits"),
    [
        (manifest(limit()), {"http2MaxRequests": 5}),
        (manifest(limit(FQDN), namespace="test"), None),
        (manifest(limit(extra="exportTo: [test]")), None),
        (manifest(limit(FQDN, extra="workloadSelector: {matchLabels: {app: client}}")), None),
        (manifest("host: user\nsubsets: [{name: v1, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 5}}}}]"), None),
    ],
    ids=["of the service's namespace", "of the clients'", "exported to the clients only", "selector", "subset"],
)
def test_a_sidecar_of_the_service_enforces_what_its_own_namespace_sees(rules: str, limits: dict[str, int] | None) -> None:
    state = server_state(rules_of(rules), USER)
    assert (state and state.limits.in_force()) == limits


def test_the_limit_of_the_service_s_own_sidecars_is_told_beside_the_sum() -> None:
    shown = replace(preview(ours()), server=server_state(ours(), USER))
    said = "pods of the service that have sidecars enforce rule base/user, too, each on what comes in from all clients: http2MaxRequests 5"
    assert said in preview_text(shown)
    assert shown.to_json()["service"]["own_sidecars"]["effective"]["max_requests"] == 5


def test_a_finding_in_json_has_its_file_and_its_hint() -> None:
    rules = rules_of(manifest(limit(requests=0)))
    found = replace(preview(rules), findings=tuple(lint(rules, USER, CLIENT))).to_json()["findings"]
    assert [(each["file"], each["code"], each["hint"]) for each in found] == [
        ("user.yaml", "zero-is-unset", "the smallest limit is 1; leave the key out for no limit")
    ]


def test_a_limit_is_said_to_be_of_the_rule_that_sets_it_not_of_the_one_that_it_is_merged_into() -> None:
    old = manifest("host: user\nsubsets: [{name: v1}]", name="old", created="2020-01-01T00:00:00Z")
    new = manifest(limit(), name="new", created="2021-01-01T00:00:00Z")
    rules = rules_of(together(old, new))
    assert "with it:   rule base/new (merged into base/old): http2MaxRequests 5" in preview_text(preview(rules))
    state = state_of(rules, USER, CLIENT)
    assert (state.rule, str(state)) == ("base/old", "rule base/new (merged into base/old) (http2MaxRequests 5)")
    assert state == replace(state, policy="")  # a sidecar names the older one only, and is right
    assert [state_of(rules_of(text), USER, CLIENT).named for text in (old, new, "")] == ["base/old", "base/new", None]


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (Estimate(0.289, 0.262, 0.316), "28.9%; measured in 12s: 26.2% to 31.6% in 99 of 100 runs"),
        (Estimate(0.289, 0.262), "at least 28.9%; measured in 12s: at least 26.2% in 99 of 100 runs"),
        (Estimate(0.289, None, 0.316), "at most 28.9%; measured in 12s: at most 31.6% in 99 of 100 runs"),
        (Estimate(0.289, None, 0.289), "at most 28.9%"),
        (Estimate(None, None, 0.316), "at most 31.6%"),
        (Estimate(0.0, 0.0, 0.0), "0.0%"),
        (Estimate(0.289), "28.9%"),
        (NOTHING, "not predicted"),
    ],
)
def test_the_bound_that_a_run_is_judged_by_is_shown_beside_what_theory_gives(lost: Estimate, said: str) -> None:
    outlook = Outlook("limited", 12.0, 10, Prediction(Law.ERLANG, "that is the law", NOTHING, lost), "constant 100ms")
    assert f"   lost:      {said}\n" in preview_text(replace(preview(ours()), outlooks=(outlook,)))


def test_a_bound_of_one_client_is_that_of_the_long_run() -> None:
    seen = Prediction(Law.SATURATED, "that is the law", NOTHING, through_per_s=Estimate(50.0, None, 52.5))
    outlook = Outlook("limited", 12.0, 10, seen, "constant 100ms")
    said = "goodput:   at most 500.0/s; measured in 12s: at most 525.0/s in 99 of 100 runs (at most 50.0/s in each client)"
    assert said in preview_text(replace(preview(ours()), outlooks=(outlook,)))
