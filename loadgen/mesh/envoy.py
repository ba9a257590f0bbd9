"""What does Envoy have to be told to be a client's sidecar? Values in, texts out; no process, no I/O.

A fact measured on Envoy 1.40: a cluster that comes by CDS needs ``validate_clusters: false`` in a static route.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CDS_FILE = "cds.json"
_TYPE = "type.googleapis.com/envoy."
_CLUSTER_TAG = r"^cluster(\.(.+);)"
"""Istio's own rule for the tag ``cluster_name``: without it the name would be split at its dots."""

_DOWNSTREAM_CONNECTIONS = {
    "name": "envoy.resource_monitors.global_downstream_max_connections",
    "typed_config": {
        "@type": f"{_TYPE}extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": 2**31 - 1,
    },
}
"""No limit of the sidecar's own on its clients' connections, as in Istio's bootstrap."""

RETRY_POLICY = {
    "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
    "num_retries": 2,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {"@type": f"{_TYPE}extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }
    ],
    "host_selection_retry_max_attempts": "5",
}
"""What istiod puts on every outbound route that has no policy of its own. An overflow by the own sidecar is never retried."""


def bootstrap(*, node_id: str, cluster: str, folder: Path) -> dict[str, Any]:
    """Make the configuration that a sidecar starts with: one outbound listener on a free loopback port, and clusters from ``folder``.

    ``cluster`` is the name that the route leads to; it comes by CDS from ``CDS_FILE``, renamed into place.
    """
    return {
        "node": {"id": node_id, "cluster": "loadgen"},
        "admin": {"address": _loopback()},
        "dynamic_resources": {
            "cds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": str(folder / CDS_FILE), "watched_directory": {"path": str(folder)}},
            },
        },
        "static_resources": {"listeners": [_listener(cluster)]},
        "stats_config": {"use_all_default_tags": False, "stats_tags": [{"tag_name": "cluster_name", "regex": _CLUSTER_TAG}]},
        "overload_manager": {"resource_monitors": [_DOWNSTREAM_CONNECTIONS]},
    }


def cds(clusters: Mapping[str, Mapping[str, Any]], service_port: int) -> str:
    """Make the text of ``cds.json``: istiod's clusters, with the service's loopback address in the place of endpoint discovery."""
    return json.dumps({"resources": [_static(name, cluster, service_port) for name, cluster in clusters.items()]})


def _static(name: str, cluster: Mapping[str, Any], port: int) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _loopback(port)}}]}]
    static = {
        "@type": f"{_TYPE}config.cluster.v3.Cluster",
        **cluster,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }
    if static.get("lb_policy") == "CLUSTER_PROVIDED":
        del static[
            "lb_policy"
        ]  # PASSTHROUGH wants the original address; with one endpoint it makes no difference, but Envoy refuses it here
    return static


def _loopback(port: int = 0) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(cluster: str) -> dict[str, Any]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s", "retry_policy": RETRY_POLICY}}
    manager = {
        "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "outbound",
        "route_config": {
            "name": "outbound",
            "validate_clusters": False,
            "virtual_hosts": [{"name": "user", "domains": ["*"], "routes": [route]}],
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPE}extensions.filters.http.router.v3.Router"}}
        ],
    }
    return {
        "name": "outbound",
        "address": _loopback(),
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    }
