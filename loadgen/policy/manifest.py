"""Which keys may a DestinationRule hold, and values of which kind? The shape of the file; no key means more here than its value.

Source: Istio's ``destination_rule.proto``, API versions v1, v1beta1 and v1alpha3, which share one schema.
"""

from __future__ import annotations

from datetime import datetime  # pydantic reads the annotations at run time
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from loadgen.policy import scalar
from loadgen.schema import Model

MAX_PORT_POLICIES = 4096

_T = TypeVar("_T")
Maybe = Annotated[_T | None, BeforeValidator(scalar.given)]
"""A key that can be left out; if it is there, it must have a value."""
Int32 = Annotated[int, BeforeValidator(scalar.int32)]
UInt32 = Annotated[int, BeforeValidator(scalar.uint32)]
Percent = Annotated[int, BeforeValidator(scalar.percent)]
Share = Annotated[float, BeforeValidator(scalar.share)]
PositiveMs = Annotated[int, BeforeValidator(scalar.positive_ms)]
ZeroOrPositiveMs = Annotated[int, BeforeValidator(scalar.zero_or_positive_ms)]
Labels = Annotated[dict[str, str], AfterValidator(scalar.labels)]
Loose = dict[str, Any]
"""A block that is accepted as it stands: it changes no limit."""


class Block(Model):
    """Base of every mapping of the rule: Python's names here, Kubernetes' camelCase in the file."""

    model_config = ConfigDict(alias_generator=to_camel)


class TcpKeepalive(Block):
    """Keep-alive probes of the kernel; what is left out is the operating system's choice."""

    probes: Maybe[UInt32] = None
    time_ms: Maybe[PositiveMs] = Field(default=None, alias="time")
    interval_ms: Maybe[PositiveMs] = Field(default=None, alias="interval")


class TcpPool(Block):
    """Settings of connections, for HTTP and TCP upstreams."""

    max_connections: Maybe[Int32] = None
    connect_timeout_ms: Maybe[PositiveMs] = Field(default=None, alias="connectTimeout")
    tcp_keepalive: Maybe[TcpKeepalive] = None
    max_connection_duration_ms: Maybe[PositiveMs] = Field(default=None, alias="maxConnectionDuration")
    idle_timeout_ms: Maybe[ZeroOrPositiveMs] = Field(default=None, alias="idleTimeout")


class Http2KeepAlive(Block):
    """Pings on HTTP/2 connections."""

    interval_ms: Maybe[PositiveMs] = Field(default=None, alias="interval")
    timeout_ms: Maybe[PositiveMs] = Field(default=None, alias="timeout")


class HttpPool(Block):
    """Settings of requests; in spite of their names the limits hold for HTTP/1.1 and HTTP/2."""

    http1_max_pending_requests: Maybe[Int32] = None
    http2_max_requests: Maybe[Int32] = None
    max_requests_per_connection: Maybe[Int32] = None
    max_retries: Maybe[Int32] = None
    idle_timeout_ms: Maybe[PositiveMs] = Field(default=None, alias="idleTimeout")
    h2_upgrade_policy: Maybe[Literal["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"]] = None
    use_client_protocol: Maybe[bool] = None
    max_concurrent_streams: Maybe[Int32] = None
    http2_keep_alive: Maybe[Http2KeepAlive] = None


class ConnectionPool(Block):
    """The limits."""

    tcp: Maybe[TcpPool] = None
    http: Maybe[HttpPool] = None


class OutlierDetection(Block):
    """When a host is ejected from the pool, and for how long."""

    consecutive_errors: Maybe[Int32] = None
    split_external_local_origin_errors: Maybe[bool] = None
    consecutive_local_origin_failures: Maybe[UInt32] = None
    consecutive_gateway_errors: Maybe[UInt32] = None
    consecutive_5xx_errors: Maybe[UInt32] = Field(default=None, alias="consecutive5xxErrors")
    interval_ms: Maybe[PositiveMs] = Field(default=None, alias="interval")
    base_ejection_time_ms: Maybe[PositiveMs] = Field(default=None, alias="baseEjectionTime")
    max_ejection_percent: Maybe[Percent] = None
    min_health_percent: Maybe[Percent] = None
    outlier_detection_http_error_codes: Any = None


class LoadBalancer(Block):
    """How a host is picked; only the simple algorithms are read further."""

    simple: Maybe[Literal["UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"]] = None
    consistent_hash: Maybe[Loose] = None
    locality_lb_setting: Maybe[Loose] = None
    zone_aware_lb_setting: Maybe[Loose] = None
    warmup: Maybe[Loose] = None
    warmup_duration_secs: Any = None


class RetryBudget(Block):
    """How many retries may be under way, as a percentage of the requests under way."""

    percent: Maybe[Share] = None
    min_retry_concurrency: Maybe[UInt32] = None
    budget_interval_ms: Maybe[ZeroOrPositiveMs] = Field(default=None, alias="budgetInterval")


class Port(Block):
    """The number of a service's port, not of its target port."""

    number: Maybe[UInt32] = None


class PortPolicy(Block):
    """A policy for one port; it replaces the one above it as a whole."""

    port: Maybe[Port] = None
    load_balancer: Maybe[LoadBalancer] = None
    connection_pool: Maybe[ConnectionPool] = None
    outlier_detection: Maybe[OutlierDetection] = None
    tls: Maybe[Loose] = None


class TrafficPolicy(Block):
    """A policy for all ports, or for those of a subset."""

    load_balancer: Maybe[LoadBalancer] = None
    connection_pool: Maybe[ConnectionPool] = None
    outlier_detection: Maybe[OutlierDetection] = None
    tls: Maybe[Loose] = None
    port_level_settings: Annotated[Maybe[list[PortPolicy]], Field(max_length=MAX_PORT_POLICIES)] = None
    tunnel: Maybe[Loose] = None
    proxy_protocol: Maybe[Loose] = None
    retry_budget: Maybe[RetryBudget] = None


class Subset(Block):
    """A part of the service's pods, named so that a route can send traffic to it."""

    name: Annotated[str, AfterValidator(scalar.subset_name)]
    labels: Maybe[Labels] = None
    traffic_policy: Maybe[TrafficPolicy] = None


class WorkloadSelector(Block):
    """The clients that a rule is for."""

    match_labels: Maybe[dict[str, str]] = None


class Spec(Block):
    """What the rule says."""

    host: Annotated[str, AfterValidator(scalar.host)]
    traffic_policy: Maybe[TrafficPolicy] = None
    subsets: Maybe[list[Subset]] = None
    export_to: Maybe[list[str]] = None
    workload_selector: Maybe[WorkloadSelector] = None


class Metadata(Block):
    """Kubernetes' ObjectMeta; what the server fills in is accepted, so that the output of ``kubectl get -o yaml`` can be read."""

    name: Annotated[str, AfterValidator(scalar.object_name)]
    namespace: Maybe[Annotated[str, AfterValidator(scalar.namespace_name)]] = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    creation_timestamp: Annotated[datetime | None, BeforeValidator(scalar.timestamp)] = None
    generate_name: Any = None
    self_link: Any = None
    uid: Any = None
    resource_version: Any = None
    generation: Any = None
    deletion_timestamp: Any = None
    deletion_grace_period_seconds: Any = None
    owner_references: Any = None
    finalizers: Any = None
    managed_fields: Any = None


class Manifest(Block):
    """The whole document."""

    api_version: Literal["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"]
    kind: Literal["DestinationRule"]
    metadata: Metadata
    spec: Spec
    status: Any = None
