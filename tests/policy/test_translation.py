"""Does every field of a rule land where istiod puts it? The golden files show the common ones, this the rest."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.policy.limits import HTTP_OPTIONS
from loadgen.policy.selection import Service
from loadgen.policy.translation import UNSET, Limits, cluster_name, clusters

from .examples import CLIENT, USER, limit, manifest, rules_of

FIELDS = [
    ("tcp", "maxConnections", "max_connections"),
    ("http", "http1MaxPendingRequests", "max_pending_requests"),
    ("http", "http2MaxRequests", "max_requests"),
    ("http", "maxRetries", "max_retries"),
    ("http", "maxRequestsPerConnection", "max_requests_per_connection"),
]


def cluster(spec: str, port: int = 7000, subset: str = "") -> dict[str, Any]:
    """Translate one rule and give one of its clusters."""
    return clusters(rules_of(manifest(spec)), USER, CLIENT)[cluster_name(USER, port, subset)]


def pool(text: str) -> dict[str, Any]:
    """Translate one connection pool."""
    return cluster(f"host: user\ntrafficPolicy: {{connectionPool: {{{text}}}}}")


def options(text: str) -> Any:
    """Give the HTTP options of one connection pool, without their type."""
    found = pool(text).get("typed_extension_protocol_options")
    return found and {key: value for key, value in found[HTTP_OPTIONS].items() if key != "@type"}


@given(field=st.sampled_from(FIELDS), value=st.integers(1, 2**31 - 1))
def test_every_limit_lands_in_its_own_place_and_nowhere_else(field: tuple[str, str, str], value: int) -> None:
    block, key, name = field
    limits = Limits.of_cluster(pool(f"{block}: {{{key}: {value}}}"))
    assert limits == Limits(**{name: value})
    assert limits.in_force() == {key: value}


@pytest.mark.parametrize(("block", "key", "_name"), FIELDS)
def test_zero_is_unset(block: str, key: str, _name: str) -> None:
    found = pool(f"{block}: {{{key}: 0}}")
    assert Limits.of_cluster(found) == Limits()
    assert Limits.of_cluster(found).in_force() == {}
    assert "typed_extension_protocol_options" not in found


HTTP1: dict[str, Any] = {"explicit_http_config": {"http_protocol_options": {}}}
HTTP2: dict[str, Any] = {"explicit_http_config": {"http2_protocol_options": {}}}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("tcp: {}, http: {}", None),
        ("http: {h2UpgradePolicy: DEFAULT}", None),
        ("http: {h2UpgradePolicy: DO_NOT_UPGRADE}", None),
        ("http: {useClientProtocol: false}", None),
        ("http: {http2KeepAlive: {interval: 5s, timeout: 1s}}", None),
        ("tcp: {idleTimeout: 90s}", {"common_http_protocol_options": {"idle_timeout": "90s"}, **HTTP1}),
        ("tcp: {idleTimeout: 0s}", {"common_http_protocol_options": {"idle_timeout": "0s"}, **HTTP1}),
        ("tcp: {idleTimeout: 90s}, http: {idleTimeout: 1.5s}", {"common_http_protocol_options": {"idle_timeout": "1.500s"}, **HTTP1}),
        ("tcp: {maxConnectionDuration: 1h}", {"common_http_protocol_options": {"max_connection_duration": "3600s"}, **HTTP1}),
        ("http: {maxConcurrentStreams: 9}", {"common_http_protocol_options": {}, **HTTP1}),
        ("http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 9}", {"common_http_protocol_options": {}, **HTTP2}),
        ("http: {h2UpgradePolicy: UPGRADE, idleTimeout: 1ms}", {"common_http_protocol_options": {"idle_timeout": "0.001s"}, **HTTP2}),
        (
            "http: {useClientProtocol: true}",
            {"use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}},
        ),
    ],
)
def test_options_of_http_connections(text: str, wanted: object) -> None:
    assert options(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{}", {}),
        ("{probes: 3, time: 7200s, interval: 75s}", {"keepalive_probes": 3, "keepalive_time": 7200, "keepalive_interval": 75}),
        ("{time: 1.5s}", {"keepalive_time": 1}),
        ("{probes: 0}", {}),
    ],
)
def test_tcp_keepalive_is_in_whole_seconds(text: str, wanted: object) -> None:
    assert pool(f"tcp: {{tcpKeepalive: {text}}}")["upstream_connection_options"] == {"tcp_keepalive": wanted}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{}", {}),
        ("{consecutive5xxErrors: 0}", {"consecutive_5xx": 0, "enforcing_consecutive_5xx": 0}),
        ("{consecutiveGatewayErrors: 4}", {"consecutive_gateway_failure": 4, "enforcing_consecutive_gateway_failure": 100}),
        ("{splitExternalLocalOriginErrors: true}", {"split_external_local_origin_errors": True, "enforcing_local_origin_success_rate": 0}),
        (
            "{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2}",
            {
                "split_external_local_origin_errors": True,
                "enforcing_local_origin_success_rate": 0,
                "consecutive_local_origin_failure": 2,
                "enforcing_consecutive_local_origin_failure": 100,
            },
        ),
        ("{maxEjectionPercent: 0}", {}),
    ],
)
def test_outlier_detection(text: str, wanted: dict[str, Any]) -> None:
    found = cluster(f"host: user\ntrafficPolicy: {{outlierDetection: {text}}}")
    assert found["outlier_detection"] == {"enforcing_success_rate": 0, **wanted}
    assert found["common_lb_config"] == {"healthy_panic_threshold": {}}


def test_the_panic_threshold_is_the_smallest_healthy_share() -> None:
    found = cluster("host: user\ntrafficPolicy: {outlierDetection: {minHealthPercent: 30}}")
    assert found["common_lb_config"] == {"healthy_panic_threshold": {"value": 30}}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{}", {"budget_percent": {"value": 20}, "min_retry_concurrency": 3}),
        (
            "{percent: 12.5, minRetryConcurrency: 7, budgetInterval: 10s}",
            {"budget_percent": {"value": 12.5}, "min_retry_concurrency": 7, "budget_interval": "10s"},
        ),
        ("{percent: 0}", {"budget_percent": {}, "min_retry_concurrency": 3}),
    ],
)
def test_the_retry_budget_stands_beside_the_limits(text: str, wanted: object) -> None:
    found = cluster(f"host: user\ntrafficPolicy: {{retryBudget: {text}}}")
    assert found["circuit_breakers"]["thresholds"][0]["retry_budget"] == wanted


@pytest.mark.parametrize(
    ("simple", "wanted"),
    [
        ("UNSPECIFIED", "LEAST_REQUEST"),
        ("LEAST_CONN", "LEAST_REQUEST"),
        ("LEAST_REQUEST", "LEAST_REQUEST"),
        ("RANDOM", "RANDOM"),
        ("PASSTHROUGH", "CLUSTER_PROVIDED"),
        ("ROUND_ROBIN", None),
    ],
)
def test_simple_load_balancers(simple: str, wanted: str | None) -> None:
    assert cluster(f"host: user\ntrafficPolicy: {{loadBalancer: {{simple: {simple}}}}}").get("lb_policy") == wanted


LAYERS = """\
host: user
trafficPolicy:
  connectionPool: {tcp: {maxConnections: 1}, http: {http2MaxRequests: 10}}
  outlierDetection: {interval: 7s}
  retryBudget: {}
  portLevelSettings:
  - port: {number: 7001}
    connectionPool: {http: {maxRetries: 2}}
subsets:
- name: plain
- name: pool
  trafficPolicy: {connectionPool: {http: {http1MaxPendingRequests: 3}}}
- name: port
  trafficPolicy:
    connectionPool: {http: {http1MaxPendingRequests: 4}}
    portLevelSettings:
    - port: {number: 7000}
      outlierDetection: {interval: 9s}
"""


@pytest.mark.parametrize(
    ("port", "subset", "in_force", "interval", "budget"),
    [
        (7000, "", {"maxConnections": 1, "http2MaxRequests": 10}, "7s", True),
        (7001, "", {"maxRetries": 2}, None, False),
        (7000, "plain", {"maxConnections": 1, "http2MaxRequests": 10}, "7s", True),
        (7001, "plain", {"maxRetries": 2}, None, False),
        (7000, "pool", {"http1MaxPendingRequests": 3}, "7s", True),
        (7001, "pool", {"http1MaxPendingRequests": 3}, None, False),
        (7000, "port", {}, "9s", True),
        (7001, "port", {"http1MaxPendingRequests": 4}, None, False),
    ],
)
def test_a_port_replaces_everything_and_a_subset_block_by_block(
    port: int,
    subset: str,
    in_force: dict[str, int],
    interval: str | None,
    budget: bool,  # a column of the table
) -> None:
    found = cluster(LAYERS, port, subset)
    assert Limits.of_cluster(found).in_force() == in_force
    assert found.get("outlier_detection", {}).get("interval") == interval
    assert ("retry_budget" in found["circuit_breakers"]["thresholds"][0]) is budget


def test_the_load_balancer_of_a_port_replaces_too() -> None:
    spec = "host: user\ntrafficPolicy: {loadBalancer: {simple: RANDOM}, portLevelSettings: [{port: {number: 7000}, tls: {}}]}"
    assert [cluster(spec, port)["lb_policy"] for port in USER.ports] == ["LEAST_REQUEST", "RANDOM"]
    spec = "host: user\ntrafficPolicy: {portLevelSettings: [{port: {number: 7000}, loadBalancer: {simple: RANDOM}}]}"
    assert [cluster(spec, port)["lb_policy"] for port in USER.ports] == ["RANDOM", "LEAST_REQUEST"]


def test_a_service_without_a_rule_has_clusters_without_limits() -> None:
    found = clusters([], Service("a", "b", (80,), domain="example.org"), CLIENT)
    assert list(found) == ["outbound|80||a.b.svc.example.org"]
    assert Limits.of_cluster(found["outbound|80||a.b.svc.example.org"]) == Limits()
    assert Limits() == Limits(UNSET, UNSET, UNSET, UNSET, 0)


def test_a_short_host_is_completed_with_the_domain_of_the_cluster() -> None:
    service = Service("user", "base", (80,), domain="example.org")
    (found,) = clusters(rules_of(manifest(limit())), service, CLIENT).values()
    assert Limits.of_cluster(found).in_force() == {"http2MaxRequests": 5}


def test_limits_are_read_from_a_config_dump() -> None:
    thresholds = [
        {"priority": "HIGH", "max_requests": 1},
        {
            "priority": "DEFAULT",
            "max_connections": 4,
            "max_pending_requests": 4294967295,
            "max_requests": 9,
            "max_retries": 4294967295,
            "track_remaining": True,
        },
    ]
    http = {"@type": f"type.googleapis.com/{HTTP_OPTIONS}", "common_http_protocol_options": {"max_requests_per_connection": 5}}
    dumped = {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "x", "circuit_breakers": {"thresholds": thresholds}}
    found = Limits.of_cluster({**dumped, "typed_extension_protocol_options": {HTTP_OPTIONS: http}})
    assert found.in_force() == {"maxConnections": 4, "http2MaxRequests": 9, "maxRequestsPerConnection": 5}


def test_a_cluster_that_says_nothing_has_the_defaults_of_envoy_and_not_those_of_istio() -> None:
    assert Limits.of_cluster({"name": "x"}) == Limits(1024, 1024, 1024, 3, 0)
