"""Does lint see what Istio silently ignores, point at it, and say what to do?"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from loadgen.policy.fate import fate
from loadgen.policy.lint import lint
from loadgen.policy.rule import Rule, parse_rules

from .examples import CLIENT, USER, limit, manifest, read, rules_of, together

if TYPE_CHECKING:
    from loadgen.errors import Problem
    from loadgen.policy.selection import Workload

FQDN = USER.host
OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


def findings(*manifests: str, client: Workload = CLIENT) -> list[Problem]:
    """Lint the rules of one file."""
    return lint(rules_of(together(*manifests)), USER, client)


PORT = "portLevelSettings: [{port: {number: 7000}, tls: {}}]"
# spec, code, line, column, a part of the message, a part of the hint
SINGLE = [
    (limit("user.base"), "host-not-fqdn", 7, 9, "'user.base' has a dot", f"write {FQDN}"),
    (limit("user.base.svc"), "host-not-fqdn", 7, 9, "has a dot", f"write {FQDN}"),
    (limit("usr.base"), "host-not-fqdn", 7, 9, "has a dot", f"write {FQDN}"),
    (limit("other.base"), "host-not-fqdn", 7, 9, "has a dot", "write other.base.svc.cluster.local"),
    (limit("other.place.svc"), "host-not-fqdn", 7, 9, "has a dot", "write other.place.svc.cluster.local"),
    (limit("usr"), "host-misspelt", 7, 9, "no known service is called usr.base.svc.cluster.local", f"did you mean {FQDN}?"),
    (limit("user.base.svc.cluster.locl"), "host-misspelt", 7, 9, "no known service", f"did you mean {FQDN}?"),
    (limit("reviews"), "host-other-service", 7, 9, "is for reviews.base.svc.cluster.local, not for the target", f"write {FQDN}"),
    (limit("api.example.com"), "host-other-service", 7, 9, "is for api.example.com", f"write {FQDN}"),
    (limit(extra="exportTo: [a]"), "export-to-hides", 9, 3, "namespace test", "add test to exportTo"),
    (
        limit(extra="workloadSelector: {matchLabels: {app: client}}"),
        "selector-other-namespace",
        9,
        3,
        "the client is in test",
        "put the rule into",
    ),
    (limit(requests=0), "zero-is-unset", 8, 61, "http2MaxRequests: 0 does not mean none", "the smallest limit is 1"),
    (
        "host: user\ntrafficPolicy: {connectionPool: {tcp: {maxConnections: 3}}}",
        "endless-queue",
        8,
        58,
        "rejects nothing",
        "http2MaxRequests",
    ),
    (
        "host: user\ntrafficPolicy: {connectionPool: {tcp: {maxConnections: 3}, http: {http2MaxRequests: 3}}}",
        "endless-queue",
        8,
        58,
        "maxConnections 3 comes before http2MaxRequests 3",
        "make maxConnections larger",
    ),
    (
        "host: user\ntrafficPolicy: {connectionPool: {tcp: {maxConnections: 3}, http: {h2UpgradePolicy: UPGRADE}}}",
        "http2-one-connection",
        8,
        58,
        "maxConnections limits no requests over HTTP/2",
        "add http.http2MaxRequests",
    ),
    ("host: user\ntrafficPolicy: {}", "empty-block", 8, 3, "the traffic policy is empty", "leave the block out"),
    (limit(extra="subsets: [{name: v1, trafficPolicy: {tls: {}}}]"), "subset-not-routed", 9, 24, "subset v1 has no effect", "add a route"),
    (
        "host: user\ntrafficPolicy: {connectionPool: {http: {maxConcurrentStreams: 3}}}",
        "http2-only",
        8,
        43,
        "no effect",
        "http2MaxRequests",
    ),
    (
        "host: user\ntrafficPolicy: {portLevelSettings: [{port: {number: 8080}, tls: {}}]}",
        "port-unknown",
        8,
        55,
        "the clients do not call that port",
        "they call 7000, 7001",
    ),
    (
        f"host: user\ntrafficPolicy:\n  connectionPool: {{http: {{http2MaxRequests: 5}}}}\n  {PORT}",
        "port-hides-pool",
        10,
        41,
        "policy of port 7000 replaces the one above it as a whole, so http2MaxRequests 5 of that has no effect",
        "repeat the limits",
    ),
    (
        "host: user\ntrafficPolicy:\n  connectionPool: {http: {maxRetries: 1}}\n  portLevelSettings: [{port: {number: 7001}, connectionPool: {http: {http2MaxRequests: 3}}}]",
        "port-hides-pool",
        10,
        41,
        "so maxRetries 1 of that has no effect",
        "repeat the limits",
    ),
    ("host: user\ntrafficPolicy: {connectionPool: {http: {}}}", "empty-block", 8, 36, "http is empty", "set a limit in it"),
    ("host: user\ntrafficPolicy: {connectionPool: {tcp: {}}}", "empty-block", 8, 36, "tcp is empty", "leave the block out"),
    (
        "host: user\ntrafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 0}}}",
        "no-limit",
        8,
        19,
        "counts for the client, but sets none of",
        "http.http2MaxRequests",
    ),
    ("host: user\nsubsets: [{name: v1}]", "no-limit", 6, 1, "counts for the client, but sets none of", "trafficPolicy.connectionPool"),
]


@pytest.mark.parametrize(
    ("spec", "code", "line", "column", "message", "hint"), SINGLE, ids=[f"{case[1]}-{index}" for index, case in enumerate(SINGLE)]
)
def test_what_istio_ignores_is_found(  # the columns of the table
    spec: str, code: str, line: int, column: int, message: str, hint: str
) -> None:
    (found,) = findings(manifest(spec))
    assert (found.code, found.line, found.column, found.severity) == (code, line, column, "warning")
    assert message in found.message
    assert hint in found.hint


# rules, the losing rule's code, a part of the message
RIVALS = [
    ((manifest(limit(), name="s"), manifest(limit(FQDN), name="c", namespace="test")), "nearer-namespace", "test/c counts instead"),
    ((manifest(limit(), name="s"), manifest(limit(FQDN), name="r", namespace="istio-system")), "nearer-namespace", "base/s counts instead"),
    (
        (manifest(limit(), name="e"), manifest(limit("*.local"), name="w")),
        "more-specific-host",
        "its host user is more specific than *.local",
    ),
    (
        (manifest(limit(), name="a", created=OLD), manifest(limit(), name="b", created=NEW)),
        "older-rule",
        "base/a is for the same host and is older",
    ),
    ((manifest(limit(), name="a"), manifest(limit(), name="b")), "older-rule", "base/a is for the same host and comes first by name"),
    ((manifest(limit(), name="b", created=NEW), manifest(limit(), name="a")), "older-rule", "base/b is for the same host and is older"),
    (
        (manifest(limit(FQDN), name="o", namespace="other"), manifest(limit(), name="s")),
        "namespace-not-searched",
        "in test, base, istio-system only",
    ),
    ((manifest(limit(extra="exportTo: [x]"), name="e"), manifest(limit("*.local"), name="w")), "more-specific-host", "not for this client"),
    (
        (manifest(limit(extra="exportTo: ['*']"), name="a", created=OLD), manifest(limit(), name="b", created=NEW)),
        "export-to-differs",
        "different exportTo (* and none)",
    ),
    (
        (
            manifest(limit(FQDN), name="a", namespace="test"),
            manifest(limit(FQDN, extra="workloadSelector: {matchLabels: {app: client}}"), name="b", namespace="test"),
        ),
        "selector-wins",
        "test/b counts instead",
    ),
    (
        (
            manifest("host: user\nsubsets: [{name: v1}]", name="a", created=OLD),
            manifest("host: user\nsubsets: [{name: v1}, {name: v2}]", name="b", created=NEW),
        ),
        "older-subset",
        "the subset v1 has no effect: base/a",
    ),
]


@pytest.mark.parametrize(("rules", "code", "message"), RIVALS, ids=[f"{case[1]}-{index}" for index, case in enumerate(RIVALS)])
def test_a_rule_that_loses_is_told_to_which_one_and_why(rules: tuple[str, ...], code: str, message: str) -> None:
    found = [problem for problem in findings(*rules) if problem.code == code]
    assert len(found) == 1
    assert message in found[0].message


def test_a_workload_selector_that_does_not_fit_names_the_missing_label() -> None:
    spec = limit(FQDN, extra="workloadSelector: {matchLabels: {app: client, tier: front}}")
    (found,) = findings(manifest(spec, namespace="test"))
    assert (found.code, found.line, found.column) == ("selector-other-workload", 9, 3)
    assert found.message.endswith("it has no label 'tier=front'")


def test_a_rule_that_does_what_it_says_gets_no_warning() -> None:
    assert findings(manifest(limit())) == []


def test_a_rule_for_another_service_is_nobodys_business_beside_one_that_counts() -> None:
    assert findings(manifest(limit()), manifest(limit("reviews", requests=0), name="reviews")) == []


def test_a_host_that_is_known_to_exist_is_not_called_misspelt() -> None:
    rules = rules_of(together(manifest(limit()), manifest(limit("users"), name="users")))
    assert [problem.code for problem in lint(rules, USER, CLIENT)] == ["host-misspelt"]
    assert lint(rules, USER, CLIENT, hosts={"users.base.svc.cluster.local"}) == []


def test_a_subset_that_a_route_selects_is_in_order() -> None:
    rules = rules_of(manifest(limit(extra="subsets: [{name: v1, trafficPolicy: {loadBalancer: {simple: RANDOM}}}]")))
    assert [problem.code for problem in lint(rules, USER, CLIENT)] == ["subset-not-routed"]
    assert lint(rules, USER, CLIENT, routed_subsets={"v1"}) == []


def test_a_subset_in_use_that_replaces_the_pool_above_it_is_told_what_it_loses() -> None:
    spec = limit(extra="subsets:\n- {name: v1, trafficPolicy: {connectionPool: {http: {maxRetries: 2}}}}\n- {name: v2}")
    (found,) = lint(rules_of(manifest(spec)), USER, CLIENT, routed_subsets={"v1", "v2"})
    assert (found.code, found.line, found.column) == ("subset-hides-pool", 10, 32)
    assert "so http2MaxRequests 5 of that has no effect on the subset" in found.message


def test_a_policy_of_another_port_or_one_with_the_same_limits_hides_nothing() -> None:
    other = f"host: user\ntrafficPolicy: {{connectionPool: {{http: {{http2MaxRequests: 5}}}}, {PORT}}}".replace("7000", "8080")
    assert [found.code for found in findings(manifest(other))] == ["port-unknown"]
    pool = "connectionPool: {http: {http2MaxRequests: 3}}"
    assert findings(manifest(f"host: user\ntrafficPolicy: {{{pool}, {PORT.replace('tls: {}', pool)}}}")) == []


def by_port(above: str, *entries: str) -> str:
    """Write a spec with a pool for the service, and pools for the ports."""
    ports = ", ".join(f"{{port: {{number: {entry.split(' ', 1)[0]}}}, connectionPool: {entry.split(' ', 1)[1]}}}" for entry in entries)
    return manifest(f"host: user\ntrafficPolicy:\n  connectionPool: {above}\n  portLevelSettings: [{ports}]")


REQUESTS = "{http: {http2MaxRequests: 2}}"


@pytest.mark.parametrize(
    ("above", "entries", "codes"),
    [
        ("{tcp: {maxConnections: 1}}", (f"7000 {REQUESTS}", f"7001 {REQUESTS}"), ["port-hides-pool", "port-hides-pool"]),
        ("{tcp: {maxConnections: 1}}", (f"7000 {REQUESTS}",), ["endless-queue", "port-hides-pool"]),
        ("{http: {http2MaxRequests: 0}}", (f"7000 {REQUESTS}", f"7001 {REQUESTS}"), []),
        (REQUESTS, ("8080 {tcp: {maxConnections: 1}}",), ["port-unknown"]),
        (REQUESTS, (f"7000 {REQUESTS}", "7000 {tcp: {maxConnections: 1}}"), ["port-twice"]),
        (REQUESTS, (f"7001 {REQUESTS}", f"7001 {REQUESTS}"), ["port-twice"]),
        (REQUESTS, ("7000 {http: {http2MaxRequests: 5}}",), ["port-changes-limit"]),
        (REQUESTS, ("8080 {http: {http2MaxRequests: 5}}",), ["port-unknown"]),
    ],
)
def test_a_pool_in_whose_place_another_one_stands_is_told_that_and_nothing_else(
    above: str, entries: tuple[str, ...], codes: list[str]
) -> None:
    assert [found.code for found in findings(by_port(above, *entries))] == codes


def test_a_second_entry_of_a_port_and_a_changed_limit_are_shown_where_they_stand() -> None:
    (second,) = findings(by_port(REQUESTS, f"7000 {REQUESTS}", f"7000 {REQUESTS}"))
    assert (second.line, second.column - 1) == (10, second.excerpt.rindex("7000"))
    assert second.message == "this policy of port 7000 has no effect: an entry above is for the same port, and Istio takes the first one"
    (changed,) = findings(by_port(REQUESTS, "7000 {http: {http2MaxRequests: 5}}"))
    assert changed.message == "on port 7000 http2MaxRequests 5 holds, and 2 of the policy above it has no effect"


def test_connections_and_requests_race_in_a_sidecar_with_several_workers() -> None:
    rules = rules_of(manifest("host: user\ntrafficPolicy: {connectionPool: {tcp: {maxConnections: 2}, http: {http2MaxRequests: 4}}}"))
    assert [found.code for found in lint(rules, USER, CLIENT)] == ["endless-queue"]
    assert [found.code for found in lint(rules, USER, CLIENT, workers=3)] == ["endless-queue"]
    assert lint(rules, USER, CLIENT, workers=4) == []


@pytest.mark.parametrize(("connections", "found"), [(4, 1), (5, 0)])
def test_of_a_cluster_s_workers_and_endpoints_nothing_is_taken_for_known(connections: int, found: int) -> None:
    pool = f"{{tcp: {{maxConnections: {connections}}}, http: {{http2MaxRequests: 4}}}}"
    warnings = lint(rules_of(manifest(f"host: user\ntrafficPolicy: {{connectionPool: {pool}}}")), USER, CLIENT, workers=None)
    first = (
        "maxConnections 4 comes before http2MaxRequests 4 in a sidecar with one worker and a service with one endpoint, and may with more"
    )
    assert [each.message.partition(":")[0] for each in warnings] == [first] * found


def test_a_queue_with_an_end_is_in_order() -> None:
    for connections, bound in ((1, "http1MaxPendingRequests"), (2, "http2MaxRequests")):
        spec = f"host: user\ntrafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {connections}}}, http: {{{bound}: 1}}}}}}"
        assert findings(manifest(spec)) == []


def test_an_empty_block_is_the_same_problem_for_the_reader_and_for_lint() -> None:
    rules, problems = read(manifest("host: user\ntrafficPolicy: {connectionPool: {}}"))
    assert lint(rules, USER, CLIENT) == problems != []


def test_findings_of_a_list_point_into_the_list() -> None:
    item = textwrap.indent(manifest(limit("user.base")), "  ")
    rules, problems = read("kind: List\nitems:\n-" + item[1:])
    assert problems == []
    assert [(problem.line, problem.column, problem.excerpt.strip()) for problem in lint(rules, USER, CLIENT)] == [
        (9, 11, "host: 'user.base'")
    ]


def test_a_rule_that_comes_from_no_file_can_be_linted_too() -> None:
    (found,) = lint([Rule("user", "base", "user.base")], USER, CLIENT)
    assert (found.file, found.line, found.code) == ("base/user", 0, "host-not-fqdn")
    assert parse_rules([], "none.yaml")[1][0].file == "none.yaml"


@pytest.mark.parametrize(
    ("manifests", "codes"),
    [
        ((manifest(limit()),), [None]),
        ((manifest(limit(), name="a"), manifest(limit(), name="b")), [None, "older-rule"]),
        ((manifest(limit()), manifest(limit(FQDN), namespace="test")), ["nearer-namespace", None]),
        ((manifest(limit()), manifest(limit("*.base.svc.cluster.local"), name="wide")), [None, "more-specific-host"]),
        ((manifest(limit()), manifest(limit("usr"), name="misspelt")), [None, "host-misspelt"]),
        ((manifest(limit()), manifest(limit("reviews"), name="other")), [None, "host-other-service"]),
        ((manifest(limit(extra="exportTo: [a]")),), ["export-to-hides"]),
    ],
)
def test_of_each_rule_it_is_known_whether_it_counts_and_why_not(manifests: tuple[str, ...], codes: list[str | None]) -> None:
    rules = rules_of(together(*manifests))
    found = [fate(rule, rules, USER, CLIENT) for rule in rules]
    assert [each.code for each in found] == codes
    assert [each.counts and each.limits for each in found] == [code is None for code in codes]


@pytest.mark.parametrize(
    ("manifests", "codes"),
    [
        ((manifest(limit(requests=0)),), ["zero-is-unset"]),
        ((manifest(f"host: user\ntrafficPolicy: {{connectionPool: {{http: {{http2MaxRequests: 5}}}}, {PORT}}}"),), ["port-hides-pool"]),
        ((manifest("host: user\ntrafficPolicy: {connectionPool: {http: {}}}"),), ["empty-block"]),
        ((manifest("host: user\ntrafficPolicy: {connectionPool: {}}"),), ["empty-block"]),
        ((manifest("host: user\ntrafficPolicy: {connectionPool: {http: {idleTimeout: 5s}}}"),), ["no-limit"]),
        ((manifest("host: user\ntrafficPolicy: {portLevelSettings: [{port: {number: 8080}, tls: {}}]}"),), ["port-unknown"]),
        ((manifest("host: user\nsubsets: [{name: v1, trafficPolicy: {tls: {}}}]"),), ["subset-not-routed"]),
        ((manifest("host: user\nsubsets: [{name: v1}]", name="a"), manifest(limit(), name="b")), ["no-limit", None]),
    ],
)
def test_a_rule_that_counts_and_sets_no_limit_is_told_from_one_that_limits(manifests: tuple[str, ...], codes: list[str | None]) -> None:
    rules = rules_of(together(*manifests))
    found = [fate(rule, rules, USER, CLIENT) for rule in rules]
    assert [each.code for each in found] == codes
    assert all(each.counts for each in found)
    assert [each.limits for each in found] == [code is None for code in codes]


@pytest.mark.parametrize(
    "pool",
    [
        "{tcp: {maxConnections: 4}, http: {http2MaxRequests: 3}}",
        "{tcp: {maxConnections: 3}, http: {http2MaxRequests: 3, http1MaxPendingRequests: 1}}",
        "{tcp: {maxConnections: 1}, http: {http2MaxRequests: 3, h2UpgradePolicy: UPGRADE}}",
    ],
)
def test_requests_that_do_not_wait_without_an_end_are_not_warned_of(pool: str) -> None:
    assert findings(manifest(f"host: user\ntrafficPolicy: {{connectionPool: {pool}}}")) == []
