"""What does istiod make of a rule? Envoy's clusters for every port and subset of a service, as a client's sidecar gets them.

Every cluster has breakers of its own: a subset does not share the budget of the service, nor one port that of another.
The ports are HTTP/1.1. So ``maxConcurrentStreams`` and ``http2KeepAlive`` do nothing, even with ``h2UpgradePolicy: UPGRADE``: istiod
puts them into a cluster that already speaks HTTP/2 and upgrades afterwards (Istio issue 57583). Not translated, because it
changes no limit: tls, tunnel, proxyProtocol, consistentHash and the locality settings of a load balancer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loadgen.policy.limits import HTTP_OPTIONS, UNSET, Limits
from loadgen.policy.manifest import ConnectionPool, HttpPool, TcpPool, TrafficPolicy
from loadgen.policy.selection import ROOT_NAMESPACE, select
from loadgen.policy.state import outbound_cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.policy.manifest import LoadBalancer, OutlierDetection, PortPolicy, RetryBudget, Subset, TcpKeepalive
    from loadgen.policy.rule import Rule
    from loadgen.policy.selection import Service, Workload

__all__ = ["UNSET", "Limits", "cluster_name", "clusters"]

CONNECT_TIMEOUT_MS = 10_000
RETRY_BUDGET_PERCENT = 20
RETRY_BUDGET_CONCURRENCY = 3
_CERTAIN = 100
_MS_PER_S = 1000
_PORT_BLOCKS = ("load_balancer", "connection_pool", "outlier_detection", "tls")
_LB_POLICIES = {"RANDOM": "RANDOM", "PASSTHROUGH": "CLUSTER_PROVIDED", "ROUND_ROBIN": None}
"""Everything else is LEAST_REQUEST. Round robin is the enum's zero, which istiod's JSON leaves out."""

Json = dict[str, Any]


def cluster_name(service: Service, port: int, subset: str = "") -> str:
    """Name a service's cluster as Istio does."""
    return outbound_cluster(service.host, port, subset)


def clusters(rules: Sequence[Rule], service: Service, client: Workload, *, root_namespace: str = ROOT_NAMESPACE) -> dict[str, Json]:
    """Give Envoy's clusters for a service by name, without ``type`` and endpoints: those are the caller's."""
    rule = select(rules, service, client, root_namespace=root_namespace)
    found = [_cluster(rule, service, port, subset) for port in service.ports for subset in (None, *(rule.subsets if rule else ()))]
    return {cluster["name"]: cluster for cluster in found}


def effective_policy(rule: Rule | None, port: int, subset: Subset | None = None) -> TrafficPolicy:
    """Give the policy that holds for a port (of a subset).

    A port's policy replaces the one above it as a whole. A subset's replaces block by block, never key by key; its policy for
    the port replaces the four blocks that a port can have, even where it leaves them out.
    """
    base = _for_port(rule.traffic_policy if rule else None, port) or TrafficPolicy()
    if subset is None or subset.traffic_policy is None:
        return base
    port_policy = _port_policy(subset.traffic_policy, port)
    if port_policy is not None:
        return base.model_copy(update={name: getattr(port_policy, name) for name in _PORT_BLOCKS})
    blocks = {name: getattr(subset.traffic_policy, name) for name in TrafficPolicy.model_fields}
    return base.model_copy(update={name: block for name, block in blocks.items() if block is not None})


def _for_port(policy: TrafficPolicy | None, port: int) -> TrafficPolicy | None:
    port_policy = _port_policy(policy, port) if policy else None
    if port_policy is None:
        return policy
    return TrafficPolicy().model_copy(update={name: getattr(port_policy, name) for name in _PORT_BLOCKS})


def _port_policy(policy: TrafficPolicy, port: int) -> PortPolicy | None:
    return next((each for each in policy.port_level_settings or () if each.port and each.port.number == port), None)


def _cluster(rule: Rule | None, service: Service, port: int, subset: Subset | None) -> Json:
    policy = effective_policy(rule, port, subset)
    pool = policy.connection_pool or ConnectionPool()
    tcp, http = pool.tcp or TcpPool(), pool.http or HttpPool()
    name = cluster_name(service, port, subset.name if subset else "")
    cluster: Json = {
        "name": name,
        "alt_stat_name": f"{name};",
        "connect_timeout": _duration(tcp.connect_timeout_ms or CONNECT_TIMEOUT_MS),
        "circuit_breakers": {"thresholds": [_thresholds(tcp, http, policy.retry_budget)]},
        "common_lb_config": {
            "healthy_panic_threshold": _percent(policy.outlier_detection.min_health_percent if policy.outlier_detection else None)
        },
        "lb_policy": _lb_policy(policy.load_balancer),
        "metadata": {"filter_metadata": {"istio": _metadata(rule, service, subset)}},
        "upstream_connection_options": _keepalive(tcp.tcp_keepalive),
        "outlier_detection": _outlier(policy.outlier_detection),
        "typed_extension_protocol_options": _http_options(tcp, http),
    }
    return _set(cluster)


def _thresholds(tcp: TcpPool, http: HttpPool, budget: RetryBudget | None) -> Json:
    """Give the breakers. 0 is taken for unset; ``track_remaining`` is off, as since Istio 1.29."""
    thresholds = {
        "max_connections": tcp.max_connections or UNSET,
        "max_pending_requests": http.http1_max_pending_requests or UNSET,
        "max_requests": http.http2_max_requests or UNSET,
        "max_retries": http.max_retries or UNSET,
        "retry_budget": _retry_budget(budget),
    }
    return _set(thresholds)


def _retry_budget(budget: RetryBudget | None) -> Json | None:
    if budget is None:
        return None
    return _set(
        {
            "budget_percent": _percent(RETRY_BUDGET_PERCENT if budget.percent is None else budget.percent),
            "min_retry_concurrency": budget.min_retry_concurrency or RETRY_BUDGET_CONCURRENCY,
            "budget_interval": _duration(budget.budget_interval_ms),
        }
    )


def _http_options(tcp: TcpPool, http: HttpPool) -> Json | None:
    """Give the options of HTTP connections if a rule asks for any; Envoy then wants the protocol said too."""
    common = _common_http_options(tcp, http)
    upgrade = http.h2_upgrade_policy == "UPGRADE"
    if common is None and not upgrade and not http.use_client_protocol:
        return None
    if upgrade:
        protocol: Json = {"explicit_http_config": {"http2_protocol_options": {}}}
    elif http.use_client_protocol:
        protocol = {"use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}}
    else:
        protocol = {"explicit_http_config": {"http_protocol_options": {}}}
    options = {"@type": f"type.googleapis.com/{HTTP_OPTIONS}", "common_http_protocol_options": common, **protocol}
    return {HTTP_OPTIONS: _set(options)}


def _common_http_options(tcp: TcpPool, http: HttpPool) -> Json | None:
    """Give the options for every HTTP version. TCP's idle timeout holds for HTTP too unless HTTP has its own."""
    idle_ms = tcp.idle_timeout_ms if http.idle_timeout_ms is None else http.idle_timeout_ms
    options = {
        "idle_timeout": _duration(idle_ms),
        "max_requests_per_connection": http.max_requests_per_connection or None,
        "max_connection_duration": _duration(tcp.max_connection_duration_ms),
    }
    return _set(options) or ({} if http.max_concurrent_streams else None)


def _keepalive(keepalive: TcpKeepalive | None) -> Json | None:
    """Give the kernel's probes; Envoy wants whole seconds, and istiod cuts off the rest."""
    if keepalive is None:
        return None
    settings = {
        "keepalive_probes": keepalive.probes or None,
        "keepalive_time": None if keepalive.time_ms is None else keepalive.time_ms // _MS_PER_S,
        "keepalive_interval": None if keepalive.interval_ms is None else keepalive.interval_ms // _MS_PER_S,
    }
    return {"tcp_keepalive": _set(settings)}


def _outlier(outlier: OutlierDetection | None) -> Json | None:
    """Give the ejection of hosts. Success rates are off; an error count that is set is enforced, and 0 switches it off."""
    if outlier is None:
        return None
    split = bool(outlier.split_external_local_origin_errors)
    local = (split and outlier.consecutive_local_origin_failures) or None
    settings = {
        "enforcing_success_rate": 0,
        "consecutive_5xx": outlier.consecutive_5xx_errors,
        "enforcing_consecutive_5xx": _enforcing(outlier.consecutive_5xx_errors),
        "consecutive_gateway_failure": outlier.consecutive_gateway_errors,
        "enforcing_consecutive_gateway_failure": _enforcing(outlier.consecutive_gateway_errors),
        "interval": _duration(outlier.interval_ms),
        "base_ejection_time": _duration(outlier.base_ejection_time_ms),
        "max_ejection_percent": outlier.max_ejection_percent or None,
        "split_external_local_origin_errors": split or None,
        "consecutive_local_origin_failure": local,
        "enforcing_consecutive_local_origin_failure": _enforcing(local),
        "enforcing_local_origin_success_rate": 0 if split else None,
    }
    return _set(settings)


def _enforcing(errors: int | None) -> int | None:
    return errors and _CERTAIN


def _lb_policy(balancer: LoadBalancer | None) -> str | None:
    return _LB_POLICIES.get((balancer.simple if balancer else None) or "", "LEAST_REQUEST")


def _metadata(rule: Rule | None, service: Service, subset: Subset | None) -> Json:
    """Say which rule is in force. Istio writes v1 here, whatever version the rule has."""
    metadata = {
        "config": f"/apis/networking.istio.io/v1/namespaces/{rule.namespace}/destination-rule/{rule.name}" if rule else None,
        "services": [{"host": service.host, "name": service.host, "namespace": service.namespace}],
        "subset": subset.name if subset else None,
    }
    return _set(metadata)


def _percent(value: float | None) -> Json:
    return {"value": value} if value else {}


def _duration(value_ms: int | None) -> str | None:
    """Write a duration as protobuf's JSON does: no digits after the point, or three."""
    if value_ms is None:
        return None
    seconds, rest_ms = divmod(value_ms, _MS_PER_S)
    return f"{seconds}.{rest_ms:03}s" if rest_ms else f"{seconds}s"


def _set(values: Json) -> Json:
    return {key: value for key, value in values.items() if value is not None}
