"""Is the rule that counts for a client the one that Istio takes?"""

from __future__ import annotations

from itertools import permutations

import pytest

from loadgen.policy.selection import Workload, select, winner

from .examples import CLIENT, USER, limit, manifest, rules_of, together

OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
FQDN = USER.host


def rule(name: str, spec: str, *, namespace: str = "base", created: str = OLD) -> str:
    """Write a rule that a cluster has."""
    return manifest(spec, name=name, namespace=namespace, created=created)


# what is tested, rules, the client's namespace, the winner
CASES = [
    ("no rule", (), "test", None),
    ("the client's namespace goes first", (rule("s", limit()), rule("c", limit(FQDN), namespace="test")), "test", "test/c"),
    ("even a wildcard there ends the search", (rule("s", limit()), rule("c", limit("*.local"), namespace="test")), "test", "test/c"),
    ("even a private one there", (rule("s", limit()), rule("c", limit(FQDN, extra="exportTo: ['.']"), namespace="test")), "test", "test/c"),
    (
        "one there that is only for others does not",
        (rule("s", limit()), rule("c", limit(FQDN, extra="exportTo: [x]"), namespace="test")),
        "test",
        "base/s",
    ),
    (
        "the service's namespace goes before the root's",
        (rule("s", limit()), rule("r", limit(FQDN), namespace="istio-system")),
        "test",
        "base/s",
    ),
    ("the root namespace is the last", (rule("r", limit("*"), namespace="istio-system"),), "test", "istio-system/r"),
    (
        "a private rule of the root namespace is not for others",
        (rule("r", limit("*", extra="exportTo: ['.']"), namespace="istio-system"),),
        "test",
        None,
    ),
    ("no other namespace is looked at", (rule("o", limit(FQDN), namespace="other"),), "test", None),
    ("a client beside the service sees private rules", (rule("s", limit(extra="exportTo: ['.']")),), "base", "base/s"),
    ("a rule can be exported to a namespace", (rule("s", limit(extra="exportTo: [a, test]")),), "test", "base/s"),
    ("and only to that", (rule("s", limit(extra="exportTo: [a]")),), "test", None),
    ("its own name means private", (rule("s", limit(extra="exportTo: [base]")),), "test", None),
    (
        "an exact host goes before a wildcard",
        (rule("w", limit("*.base.svc.cluster.local")), rule("e", limit(), created=NEW)),
        "test",
        "base/e",
    ),
    (
        "a longer wildcard before a shorter",
        (rule("a", limit("*.local")), rule("b", limit("*.base.svc.cluster.local"), created=NEW)),
        "test",
        "base/b",
    ),
    (
        "the most specific one for others hides the rest",
        (rule("e", limit(extra="exportTo: [x]")), rule("w", limit("*.local"))),
        "test",
        None,
    ),
    (
        "a private one that is more specific does not",
        (rule("e", limit(extra="exportTo: ['.']")), rule("w", limit("*.local"))),
        "test",
        "base/w",
    ),
    ("the older rule goes first", (rule("a", limit(), created=NEW), rule("b", limit(), created=OLD)), "test", "base/b"),
    ("at the same age the name decides", (rule("b", limit()), rule("a", limit())), "test", "base/a"),
    ("one not yet applied is the youngest", (manifest(limit(), name="a"), rule("b", limit(), created=NEW)), "test", "base/b"),
    (
        "with another exportTo they stay apart, the last one counts",
        (rule("a", limit(extra="exportTo: ['*']")), rule("b", limit(), created=NEW)),
        "test",
        "base/b",
    ),
    (
        "also with a wider exportTo",
        (rule("a", limit(extra="exportTo: [test]")), rule("b", limit(extra="exportTo: [test, x]"), created=NEW)),
        "test",
        "base/b",
    ),
    (
        "a client in the root namespace looks at the service's first",
        (rule("r", limit("*.local"), namespace="istio-system"), rule("s", limit())),
        "istio-system",
        "base/s",
    ),
    (
        "unless the root's rule is private",
        (rule("r", limit("*.local", extra="exportTo: ['.']"), namespace="istio-system"), rule("s", limit())),
        "istio-system",
        "istio-system/r",
    ),
]
SELECTED = "workloadSelector: {matchLabels: {app: client}}"
SELECTOR_CASES = [
    (
        "a selector that fits goes before an older rule",
        (rule("a", limit(FQDN), namespace="test"), rule("b", limit(FQDN, extra=SELECTED), namespace="test", created=NEW)),
        "test/b",
    ),
    (
        "one that does not is passed over",
        (rule("a", limit(FQDN), namespace="test"), rule("b", limit(FQDN, extra=SELECTED.replace("client", "x")), namespace="test")),
        "test/a",
    ),
    (
        "alone it ends the search with nothing",
        (rule("b", limit(FQDN, extra=SELECTED.replace("client", "x")), namespace="test"), rule("s", limit())),
        None,
    ),
    ("a selector without labels fits everyone", (rule("b", limit(FQDN, extra="workloadSelector: {}"), namespace="test"),), "test/b"),
    ("it is not for other namespaces", (rule("s", limit(extra=SELECTED)),), None),
]


@pytest.mark.parametrize(("rules", "namespace", "key"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_rule_that_istio_takes_wins(rules: tuple[str, ...], namespace: str, key: str | None) -> None:
    for order in permutations(rules):
        chosen = select(rules_of(together(*order)), USER, Workload(namespace))
        assert (chosen.key if chosen else None) == key


@pytest.mark.parametrize(("rules", "key"), [case[1:] for case in SELECTOR_CASES], ids=[case[0] for case in SELECTOR_CASES])
def test_a_workload_selector_is_honoured(rules: tuple[str, ...], key: str | None) -> None:
    for order in permutations(rules):
        chosen = select(rules_of(together(*order)), USER, CLIENT)
        assert (chosen.key if chosen else None) == key


def test_subsets_of_rules_for_one_host_are_added_up_and_the_older_one_of_a_name_stays() -> None:
    text = together(
        rule("old", "host: user\nsubsets: [{name: v1, labels: {from: old}}]"),
        rule("new", "host: user\nsubsets: [{name: v1, labels: {from: new}}, {name: v2}]", created=NEW),
    )
    merged = winner(rules_of(text), USER, CLIENT)
    assert merged is not None
    assert [(subset.name, subset.labels) for subset in merged.rule.subsets] == [("v1", {"from": "old"}), ("v2", None)]
    assert [source.name for source in merged.sources] == ["old", "new"]


def test_the_first_traffic_policy_is_taken_as_a_whole_even_an_empty_one() -> None:
    text = together(rule("old", "host: user\ntrafficPolicy: {}"), rule("new", limit(), created=NEW))
    chosen = select(rules_of(text), USER, CLIENT)
    assert chosen is not None
    assert chosen.key == "base/old"
    assert chosen.traffic_policy is not None
    assert chosen.traffic_policy.connection_pool is None


def test_the_root_namespace_can_have_another_name() -> None:
    rules = rules_of(rule("r", limit(FQDN), namespace="mesh"))
    assert select(rules, USER, CLIENT) is None
    assert select(rules, USER, CLIENT, root_namespace="mesh") is rules[0]
