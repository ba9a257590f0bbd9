"""Does reading a rule accept what Istio accepts, and say every mistake with its place and its remedy?"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.document import Document, parse_documents
from loadgen.plain import kubectl_value
from loadgen.policy.manifest import HttpPool, OutlierDetection, TcpPool
from loadgen.policy.rule import parse_rules

from .examples import FILE, limit, manifest, read, rules_of, together

HTTP = "host: user\ntrafficPolicy:\n  connectionPool:\n    http:\n      "
TCP = "host: user\ntrafficPolicy:\n  connectionPool:\n    tcp:\n      "
OUTLIER = "host: user\ntrafficPolicy:\n  outlierDetection:\n    "
POLICY = "host: user\ntrafficPolicy:\n  "

# spec, message, line, column, hint: an ellipsis stands for any
MISTAKES = [
    (HTTP + "http2MaxRequests: -1", "http2MaxRequests: must be non-negative, not -1", 11, 27, ...),
    (TCP + "maxConnections: -5", "maxConnections: must be non-negative, not -5", 11, 25, ...),
    (
        HTTP + "maxRetries: 2147483648",
        "maxRetries: must be at most 2147483647, not 2147483648; leave the key out for no limit",
        11,
        21,
        ...,
    ),
    (HTTP + "http2MaxRequests: '1'", "http2MaxRequests: must be a number without quotes: write 1", 11, 27, ...),
    (HTTP + "http2MaxRequests: one", "http2MaxRequests: must be a number, not the text 'one'", 11, 27, ...),
    (HTTP + "http2MaxRequests: 1.5", "http2MaxRequests: must be a whole number, not 1.5", 11, 27, ...),
    (HTTP + "http2MaxRequests: true", "http2MaxRequests: must be a number, not true", 11, 27, ...),
    (HTTP + "http2MaxRequests: [1]", "http2MaxRequests: must be a number, not a list", 11, 27, ...),
    (HTTP + "http2MaxRequests:", "http2MaxRequests: has no value; write one or leave the key out", 11, ..., ...),
    (
        HTTP + f"http2MaxRequests: {'9' * 40}",
        f"http2MaxRequests: must be at most 2147483647, not {'9' * 40}; leave the key out for no limit",
        11,
        27,
        ...,
    ),
    (HTTP + "http2MaxRequest: 1", "unknown key 'http2MaxRequest'", 11, 9, "did you mean 'http2MaxRequests'?"),
    (HTTP + "http1_max_pending_requests: 1", "unknown key 'http1_max_pending_requests'", 11, 9, "did you mean 'http1MaxPendingRequests'?"),
    (HTTP + "maxConnections: 1", "unknown key 'maxConnections'", 11, 9, "maxConnections belongs under connectionPool.tcp"),
    (
        "host: user\nconnectionPool: {tcp: {maxConnections: 1}}",
        "unknown key 'connectionPool'",
        8,
        3,
        "connectionPool belongs under trafficPolicy",
    ),
    (HTTP + "h2UpgradePolicy: upgrade", "h2UpgradePolicy cannot be the text 'upgrade'", 11, 26, "did you mean 'UPGRADE'?"),
    (HTTP + "useClientProtocol: 'true'", "useClientProtocol must be true or false, not the text 'true'", 11, 28, ...),
    (HTTP + "idleTimeout: 0s", "idleTimeout: must be at least 1ms, not 0s", 11, 22, ...),
    (HTTP + "idleTimeout: 30", "idleTimeout: the duration 30 has no unit; write 30s or 30ms", 11, 22, ...),
    (TCP + "connectTimeout: 1.5ms", "connectTimeout: must be whole milliseconds, not 1.5ms; Istio takes no finer durations", 11, 25, ...),
    (TCP + "connectTimeout: soon", "connectTimeout: the text 'soon' is no duration; write for example 250ms, 10s or 1m30s", 11, 25, ...),
    (TCP + "maxConnectionDuration: -1s", "maxConnectionDuration: must be at least 1ms, not -1s", 11, 32, ...),
    (TCP + "idleTimeout: 1us", "idleTimeout: must be at least 1ms, not 1us", 11, 22, ...),
    (TCP + "tcpKeepalive: {time: 0s}", "time: must be at least 1ms, not 0s", 11, 30, ...),
    (HTTP + "http2KeepAlive: {interval: 5s}", "http2KeepAlive needs interval and timeout; timeout is missing", 11, 9, ...),
    (
        HTTP + "h2UpgradePolicy: UPGRADE\n      useClientProtocol: true",
        "useClientProtocol must not be true when h2UpgradePolicy is UPGRADE",
        12,
        9,
        "choose one of them",
    ),
    (OUTLIER + "maxEjectionPercent: 101", "maxEjectionPercent: must be a whole percentage from 0 to 100, not 101", 10, 27, ...),
    (OUTLIER + "minHealthPercent: -1", "minHealthPercent: must be a whole percentage from 0 to 100, not -1", 10, 25, ...),
    (
        OUTLIER + "consecutiveLocalOriginFailures: 2",
        "consecutiveLocalOriginFailures counts only with splitExternalLocalOriginErrors: true",
        10,
        7,
        "add splitExternalLocalOriginErrors: true",
    ),
    (
        POLICY + "portLevelSettings: [{connectionPool: {http: {}}}]",
        "an entry of portLevelSettings must say for which port",
        ...,
        ...,
        "add port",
    ),
    (
        POLICY + "portLevelSettings: [{port: {number: 7000}}]",
        "a port's policy must have at least one field beside the port",
        ...,
        ...,
        "add one of",
    ),
    (POLICY + "portLevelSettings: {port: 7000}", "portLevelSettings must be a list, not a mapping", 9, 24, ...),
    (POLICY + "tunnel: {protocol: CONNECT}\n  proxyProtocol: {version: V1}", "tunnel and proxyProtocol cannot be set together", 10, 5, ...),
    (POLICY + "loadBalancer: {simple: FASTEST}", "simple cannot be the text 'FASTEST'", 9, 28, "did you mean 'LEAST_REQUEST'?"),
    (POLICY + "loadBalancer: {simple: RANDOM, consistentHash: {}}", "a loadBalancer takes simple or consistentHash, not both", 9, ..., ...),
    (POLICY + "retryBudget: {percent: 120}", "percent: must be a percentage from 0 to 100, not 120", 9, 28, ...),
    ("host: user\ntrafficPolicy:", "trafficPolicy: has no value; write one or leave the key out", 8, ..., ...),
    ("host: user\ntrafficPolicy: []", "trafficPolicy must be a mapping, not a list", 8, 18, ...),
    ("host: user\nsubsets: {name: v1}", "subsets must be a list, not a mapping", 8, 12, ...),
    ("host: user\nsubsets: [null]", "subsets must be a mapping, not nothing", 8, 13, ...),
    ("host: user\nsubsets:\n- name: v1\n- name: v1", "the subset name 'v1' stands twice", 10, 5, "give each subset a name of its own"),
    ("host: user\nsubsets:\n- name: v_1", "name: 'v_1' is no valid subset name", 9, 11, ...),
    ("host: user\nsubsets:\n- name: ''", "name: the name of a subset cannot be empty", 9, 11, ...),
    ("host: user\nsubsets:\n- labels: {a: b}", "the key 'name' is missing", 9, ..., "add it under spec.subsets"),
    ("host: user\nsubsets:\n- name: v1\n  labels: {version: 1}", "version must be text, not 1", 10, 23, ...),
    ("host: user\nsubsets:\n- name: v1\n  labels: {'-a': b}", "labels: '-a' is no valid label key", 10, ..., ...),
    ("host: ''", "host: the host is empty", 7, 9, ...),
    ("host: 7000", "host must be text, not 7000", 7, 9, ...),
    ("host:", "host must be text, not nothing", 7, ..., ...),
    ("host: user_base", "host: 'user_base' is no valid domain: 'user_base' is no valid label", 7, 9, ...),
    ("host: user.*.local", "host: 'user.*.local' is no valid domain: '*' is no valid label", 7, 9, ...),
    ("host: 10.0.0.1", "host: '10.0.0.1' is no valid domain: the last label cannot be a number", 7, 9, ...),
    ("trafficPolicy: {connectionPool: {http: {}}}", "the key 'host' is missing", 6, 1, "add it under spec"),
    ("host: user\nexportTo: ['*', base]", "exportTo has '*' beside others", 8, 14, "'*' alone means every namespace"),
    ("host: user\nexportTo: [test, test]", "exportTo names 'test' twice", 8, 20, "leave one of them out"),
    ("host: user\nexportTo: ['.', base]", "exportTo names 'base' twice ('.' is the rule's own namespace)", 8, 19, "leave one of them out"),
    ("host: user\nexportTo: ['~']", "exportTo cannot be '~'", 8, 14, "allowed are"),
    ("host: user\nexportTo: [1, test, test]", "exportTo names 'test' twice", 8, 23, ...),
    ("host: user\nexportTo: '*'", "exportTo must be a list, not the text '*'", 8, 13, ...),
    (
        "host: user\nworkloadSelector: {matchLabels: {app: a}}\nexportTo: [test]",
        "a rule with a workloadSelector can only be exported to its own namespace",
        9,
        3,
        "write exportTo: ['.']",
    ),
    ("host: user\nworkloadSelector: {matchLabels: {app: '*'}}", "a workloadSelector takes no wildcard and no empty key", 8, 36, ...),
]


@pytest.mark.parametrize(
    ("spec", "message", "line", "column", "hint"), MISTAKES, ids=lambda value: value if isinstance(value, str) else None
)
def test_a_mistake_in_the_spec_has_a_reason_a_place_and_a_remedy(spec: str, message: str, line: Any, column: Any, hint: Any) -> None:
    rules, problems = read(manifest(spec))
    found = [problem for problem in problems if problem.message.startswith(message)]
    assert len(found) == 1, [str(problem) for problem in problems]
    assert found[0].severity == "error"
    assert line in {found[0].line, ...}
    assert column in {found[0].column, ...}
    assert hint is ... or found[0].hint.startswith(hint)
    assert rules == []


WHOLE_FILES = [
    ("apiVersion: v1\nkind: VirtualService\n", "kind is 'VirtualService', expected 'DestinationRule'", 2),
    ("apiVersion: v1\nkind: Destinationrule\n", "kind is 'Destinationrule', expected 'DestinationRule'", 2),
    ("kind: [DestinationRule]\n", "kind is a list, expected 'DestinationRule'", 1),
    ("host: user\n", "the key 'kind' is missing", 1),
    ("- 1\n- 2\n", "this is a list, expected a DestinationRule", 1),
    ("just words\n", "this is the text 'just words', expected a DestinationRule", 1),
    ("42\n", "this is 42, expected a DestinationRule", 1),
    ("{}\n", "the key 'kind' is missing", 1),
    ("kind: List\napiVersion: v1\n", "a List needs items, a list of DestinationRules", 1),
    ("kind: List\nitems: {}\n", "a List needs items, a list of DestinationRules", 2),
    ("kind: List\nitems: []\n", "the file holds no DestinationRule", 0),
    ("kind: List\nitems: [null]\n", "this is nothing, expected a DestinationRule", 2),
    ("kind: List\nitems:\n- kind: Gateway\n", "kind is 'Gateway', expected 'DestinationRule'", 3),
    ("", "the file holds no DestinationRule", 0),
    ("---\n---\n# nothing\n", "the file holds no DestinationRule", 0),
    (manifest(limit()).replace("io/v1", "io/v2"), "apiVersion cannot be the text 'networking.istio.io/v2'", 1),
    (manifest(limit()).replace("apiVersion", "apiversion"), "unknown key 'apiversion'", 1),
    (manifest(limit()).replace("  name: user\n", ""), "the key 'name' is missing", 3),
    (manifest(limit(), name="User"), "name: 'User' is no valid name", 4),
    (manifest(limit(), name="7"), "name must be text, not 7", 4),
    (manifest(limit(), namespace="a.b"), "namespace: 'a.b' is no valid namespace", 5),
    (manifest(limit(), namespace="[]"), "namespace must be text, not a list", 5),
    (manifest(limit(), created="yesterday"), "creationTimestamp: the text 'yesterday' is no time", 6),
    (manifest(limit(), created="2026-13-01T00:00:00Z"), "creationTimestamp: the text '2026-13-01T00:00:00Z' is no time", 6),
    ("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nspec: {host: a}\n", "the key 'metadata' is missing", 1),
    ("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\n", "the key 'spec' is missing", 1),
    ("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n", "spec must be a mapping, not nothing", 4),
    (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: []\nspec: {host: a}\n",
        "metadata must be a mapping, not a list",
        3,
    ),
    (manifest("host: user\nhost: other"), "the key 'host' stands twice in the same mapping", 8),
    (together(manifest(limit()), manifest(limit("other"))), "the rule base/user stands twice in the file", 13),
]


@pytest.mark.parametrize(("text", "message", "line"), WHOLE_FILES, ids=lambda value: value[:60] if isinstance(value, str) else None)
def test_a_file_that_is_no_rule_is_refused_with_the_reason(text: str, message: str, line: int) -> None:
    _, problems = read(text)
    found = [problem for problem in problems if problem.message.startswith(message)]
    assert [(problem.line, problem.severity, problem.file) for problem in found] == [(line, "error", FILE)], [
        str(each) for each in problems
    ]


def test_every_mistake_of_every_document_is_found_at_once() -> None:
    text = together(
        manifest("host: ''\nexportTo: ['*', a]\ntrafficPolicy: {connectionPool: {http: {http2MaxRequests: -1, maxRetry: 2}}}"),
        "kind: Gateway\n",
        manifest("host: user\nsubsets: [{name: a}, {name: a}]", name="second"),
        manifest(limit(), name="good"),
    )
    rules, problems = read(text)
    assert [rule.key for rule in rules] == ["base/good"]
    assert [(problem.line, problem.message.split(" ")[0]) for problem in problems] == [
        (7, "host:"),
        (8, "exportTo"),
        (9, "http2MaxRequests:"),
        (9, "unknown"),
        (11, "kind"),
        (20, "the"),
    ]


def test_the_seed_of_the_tutorial_is_read_letter_for_letter() -> None:
    text = """\
        apiVersion: networking.istio.io/v1alpha3
        kind: DestinationRule
        metadata:
          name: user
          namespace: base
        spec:
          host: user
          trafficPolicy:
            connectionPool:
              http:
                http1MaxPendingRequests: 1
                http2MaxRequests: 1
                maxRequestsPerConnection: 1
          exportTo:
          - '*'
        """
    (rule,), problems = read(text)
    assert problems == []
    assert (rule.key, rule.host, rule.export_to, rule.created) == (
        "base/user",
        "user",
        ("*",),
        None,
    )
    assert rule.traffic_policy is not None
    assert rule.traffic_policy.connection_pool is not None
    assert rule.traffic_policy.connection_pool.http == HttpPool.model_validate(
        {"http1MaxPendingRequests": 1, "http2MaxRequests": 1, "maxRequestsPerConnection": 1}
    )


def test_what_kubectl_get_prints_can_be_read_back() -> None:
    text = """\
        apiVersion: v1
        kind: List
        metadata: {resourceVersion: ""}
        items:
        - apiVersion: networking.istio.io/v1
          kind: DestinationRule
          metadata:
            name: user
            namespace: base
            creationTimestamp: "2026-01-10T02:00:00+02:00"
            generation: 3
            resourceVersion: "17"
            uid: 0e3f
            labels: {team: a}
            annotations: {note: "x"}
            managedFields: [{manager: kubectl}]
            ownerReferences: []
            finalizers: []
          spec: {host: user}
          status: {conditions: []}
        - apiVersion: networking.istio.io/v1beta1
          kind: DestinationRule
          metadata: {name: second, creationTimestamp: null}
          spec: {host: reviews}
        """
    first, second = rules_of(text)
    assert (first.key, first.created) == ("base/user", datetime(2026, 1, 10, tzinfo=UTC))
    assert (second.key, second.created) == ("default/second", None)


def test_a_rule_without_a_namespace_takes_the_given_one() -> None:
    text = manifest(limit()).replace("  namespace: base\n", "")
    (rule,), _ = parse_rules(parse_documents(text, FILE, plain=kubectl_value), FILE, default_namespace="shop")
    assert rule.key == "shop/user"


@pytest.mark.parametrize(
    ("spec", "line", "column"),
    [
        ("host: user\ntrafficPolicy: {}", 8, 3),
        ("host: user\ntrafficPolicy:\n  connectionPool: {}", 9, 5),
        ("host: user\nsubsets:\n- name: v1\n  trafficPolicy: {}", 10, 5),
        ("host: user\ntrafficPolicy:\n  portLevelSettings:\n  - port: {number: 7000}\n    connectionPool: {}", 11, 7),
    ],
)
def test_an_empty_block_is_a_warning_and_the_rule_is_kept(spec: str, line: int, column: int) -> None:
    rules, problems = read(manifest(spec))
    assert [(each.code, each.severity, each.line, each.column) for each in problems] == [("empty-block", "warning", line, column)]
    assert len(rules) == 1


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (OUTLIER + "consecutiveErrors: 5", "deprecated"),
        ("host: user\nworkloadSelector: {}", "selector-empty"),
    ],
)
def test_what_istio_warns_of_is_a_warning(spec: str, code: str) -> None:
    rules, problems = read(manifest(spec))
    assert [(each.code, each.severity) for each in problems] == [(code, "warning")]
    assert len(rules) == 1


ACCEPTED = [
    HTTP + "idleTimeout: 1m30s",
    HTTP + "idleTimeout: 1.5h",
    HTTP + "idleTimeout: .5s",
    HTTP + "http2MaxRequests: 2147483647",
    HTTP + "http2KeepAlive: {interval: 5s, timeout: 1s}",
    "host: user\ntrafficPolicy:\n  connectionPool:\n    http: {}",
    TCP + "idleTimeout: 0s",
    TCP + "tcpKeepalive: {probes: 4294967295, time: 7200s, interval: 75s}",
    OUTLIER + "splitExternalLocalOriginErrors: true\n    consecutiveLocalOriginFailures: 2",
    POLICY + "retryBudget: {percent: 12.5, minRetryConcurrency: 1, budgetInterval: 0s}",
    POLICY + "tls: {mode: ISTIO_MUTUAL}\n  loadBalancer: {consistentHash: {useSourceIp: true}}",
    "host: '*'",
    "host: '*.local'",
    "host: user.base.svc.cluster.local.",
    "host: user\nsubsets: [{name: v1, labels: {app.kubernetes.io/version: v1, empty: ''}}]",
    "host: user\nexportTo: ['.']",
    "host: user\nexportTo: []",
    "host: user\nworkloadSelector: {matchLabels: {app: a}}\nexportTo: [base]",
]


@pytest.mark.parametrize("spec", ACCEPTED)
def test_what_istio_accepts_is_accepted(spec: str) -> None:
    rules, problems = read(manifest(spec))
    assert problems == []
    assert len(rules) == 1


def test_the_blocks_of_limits_are_complete() -> None:
    def keys(model: type[HttpPool | TcpPool | OutlierDetection]) -> set[str | None]:
        return {each.alias for each in model.model_fields.values()}

    http = "http1MaxPendingRequests http2MaxRequests maxRequestsPerConnection maxRetries idleTimeout h2UpgradePolicy useClientProtocol"
    outlier = (
        "consecutiveErrors splitExternalLocalOriginErrors consecutiveLocalOriginFailures consecutiveGatewayErrors consecutive5xxErrors"
    )
    assert keys(HttpPool) == {*http.split(), "maxConcurrentStreams", "http2KeepAlive"}
    assert keys(TcpPool) == {"maxConnections", "connectTimeout", "tcpKeepalive", "maxConnectionDuration", "idleTimeout"}
    assert keys(OutlierDetection) == {
        *outlier.split(),
        *("interval", "baseEjectionTime", "maxEjectionPercent", "minHealthPercent", "outlierDetectionHttpErrorCodes"),
    }


def test_a_python_name_is_no_key() -> None:
    _, problems = read(manifest("host: user\ntraffic_policy: {}"))
    assert [(each.message, each.hint.split("?")[0]) for each in problems] == [
        ("unknown key 'traffic_policy'", "did you mean 'trafficPolicy'")
    ]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**39), 10**39) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["port", "number", "name", "http", "tcp", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
PATHS = [
    (),
    ("apiVersion",),
    ("kind",),
    ("metadata",),
    ("metadata", "name"),
    ("metadata", "namespace"),
    ("metadata", "labels"),
    ("metadata", "creationTimestamp"),
    ("spec",),
    ("spec", "host"),
    ("spec", "exportTo"),
    ("spec", "workloadSelector"),
    ("spec", "workloadSelector", "matchLabels"),
    ("spec", "subsets"),
    ("spec", "trafficPolicy"),
    ("spec", "trafficPolicy", "portLevelSettings"),
    ("spec", "trafficPolicy", "loadBalancer"),
    ("spec", "trafficPolicy", "outlierDetection"),
    ("spec", "trafficPolicy", "outlierDetection", "consecutiveLocalOriginFailures"),
    ("spec", "trafficPolicy", "retryBudget", "percent"),
    ("spec", "trafficPolicy", "connectionPool"),
    ("spec", "trafficPolicy", "connectionPool", "http"),
    ("spec", "trafficPolicy", "connectionPool", "http", "http2KeepAlive"),
    ("spec", "trafficPolicy", "connectionPool", "http", "http2MaxRequests"),
    ("spec", "trafficPolicy", "connectionPool", "http", "idleTimeout"),
]


@given(junk=JUNK, path=st.sampled_from(PATHS))
def test_junk_anywhere_gives_problems_and_never_an_exception(junk: object, path: tuple[str, ...]) -> None:
    text = manifest(limit())
    (document,) = parse_documents(text, FILE, plain=kubectl_value)
    document.data = planted(document, path, junk)
    rules, problems = parse_rules([document], FILE)
    assert rules or problems


def planted(document: Document, path: tuple[str, ...], junk: object) -> object:
    """Put a value into a document's data, making mappings on the way."""
    if not path:
        return junk
    place = document.data
    for step in path[:-1]:
        place = place.setdefault(step, {})
    place[path[-1]] = junk
    return document.data
