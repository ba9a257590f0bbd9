"""What does Envoy have to be told to be a client's sidecar, and what do its admin pages say? Texts in, values out; no process, no I/O.

Facts measured on Envoy 1.40: a cluster that comes by CDS needs ``validate_clusters: false`` in a static route; ``/stats`` names a cluster
by its ``alt_stat_name``, with Istio's trailing semicolon; ``config_dump`` shows the limits that are in force on the main thread, the
workers follow in well under a millisecond; ``/clusters`` shows the live thresholds.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from loadgen.ledger import Counters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

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

    ``cluster`` is the name that the route leads to; it comes by CDS from ``folder / "cds.json"``, renamed into place.
    """
    return {
        "node": {"id": node_id, "cluster": "loadgen"},
        "admin": {"address": _loopback()},
        "dynamic_resources": {
            "cds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": str(folder / "cds.json"), "watched_directory": {"path": str(folder)}},
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


_COUNTER_NAMES = {
    "upstream_rq_pending_overflow": "pending_overflow",
    "upstream_rq_active_overflow": "active_overflow",
    "upstream_cx_overflow": "cx_overflow",
    "upstream_rq_total": "total",
}


def counters_path(cluster: str) -> str:
    """Give the admin path of the counters of one cluster."""
    pattern = r"^cluster\.{cluster};?\.({names})$".format(cluster=re.escape(cluster), names="|".join(_COUNTER_NAMES))
    return f"/stats?filter={quote(pattern)}"


def read_counters(page: bytes) -> Counters:
    """Read the page that ``counters_path`` names."""
    values: dict[str, int] = {}
    for line in page.decode("utf-8", "replace").splitlines():
        name, _, value = line.rpartition(": ")
        field = _COUNTER_NAMES.get(name.rpartition(".")[2])
        if field and value.isdigit():
            values[field] = int(value)
    return Counters(**values)


def config_path(cluster: str) -> str:
    """Give the admin path of the configuration of one cluster that is in force."""
    return f"/config_dump?resource=dynamic_active_clusters&name_regex={quote(f'^{re.escape(cluster)}$')}"


def read_config(page: bytes) -> dict[str, Any] | None:
    """Read the page that ``config_path`` names: the cluster, or None if the sidecar has none of that name."""
    configs: Sequence[Any] = json.loads(page).get("configs", [])
    return configs[0]["cluster"] if configs else None


THRESHOLDS_PATH = "/clusters"


def read_thresholds(page: bytes, cluster: str) -> dict[str, int]:
    """Read the live thresholds of one cluster from the admin page ``/clusters``.

    Raises LookupError if the page does not show all four.
    """
    prefix = f"{cluster}::default_priority::"
    lines = [line.removeprefix(prefix) for line in page.decode("utf-8", "replace").splitlines() if line.startswith(prefix)]
    found = {name: value for name, _, value in (line.partition("::") for line in lines)}
    return {name: int(found[name]) for name in ("max_connections", "max_pending_requests", "max_requests", "max_retries")}


REJECTED_PATH = "/stats?filter=" + quote(r"^cluster_manager\.cds\.update_(rejected|failure)$")


def read_rejected(page: bytes) -> int:
    """Read how many configurations the sidecar has refused since its start."""
    return sum(int(line.rpartition(": ")[2]) for line in page.decode().splitlines() if ": " in line)


LISTENERS_PATH = "/listeners?format=json"
READY_PATH = "/ready"
LIVE = b"LIVE\n"


def read_address(page: bytes) -> tuple[str, int]:
    """Read the listener's address from the admin page ``/listeners?format=json``.

    Raises LookupError while the listener is not up yet.
    """
    for listener in json.loads(page).get("listener_statuses", []):
        address = listener["local_address"]["socket_address"]
        return address["address"], address["port_value"]
    raise LookupError("the listener is not up yet")


VERSION_PATH = "/server_info"


def read_version(page: bytes) -> str:
    """Read Envoy's version, such as ``1.40.0``, from the admin page ``/server_info``; it stands between two slashes after the commit."""
    parts = str(json.loads(page).get("version", "")).split("/")
    return parts[1] if len(parts) > 1 else "unknown"
