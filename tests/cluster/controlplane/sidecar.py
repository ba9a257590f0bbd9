"""What makes a stock Envoy a sidecar of istiod? Its bootstrap and the interception of a pod's traffic: values in, texts out.

As in Istio's own bootstrap: configuration by ADS, admin on 127.0.0.1:15000, readiness on 15021, statistics on 15090, and only the statistics
that Istio's ``stats_matcher`` lets through; a pod that wants its clusters' counters has to ask for them by annotation, here as there.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

from tests.cluster.controlplane.plane import SERVICE_RANGE

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "istio-proxy"
"""The container's name, which makes it a sidecar."""
ISTIO_VERSION = "1.31.1"
ADMIN_PORT, OUTBOUND_PORT, INBOUND_PORT, READY_PORT, STATS_PORT = 15000, 15001, 15006, 15021, 15090
READY_PATH = "/healthz/ready"
_WORKERS = 2
_NEVER_INBOUND = (15020, READY_PORT, STATS_PORT)
_TYPE = "type.googleapis.com/envoy."
_PREFIXES = ["reporter=", "cluster_manager", "listener_manager", "server", "cluster.xds-grpc", "wasm"]
_SUFFIXES = ["rbac.allowed", "rbac.denied", "shadow_allowed", "shadow_denied", "component", "istio"]
_REGEXPS = [r"vhost\..*\.route\..*"]


def interception(annotations: Mapping[str, str]) -> str:
    """Make the input of ``iptables-restore`` for a pod: mode REDIRECT, outbound for the services' range only.

    Envoy's own connections go to pods, never to services, so none of them comes back to it; no user of its own is needed.
    """
    excluded = annotations.get("traffic.sidecar.istio.io/excludeInboundPorts", "")
    ports = sorted({*_NEVER_INBOUND, *(int(port) for port in excluded.split(",") if port.strip())})
    return "\n".join(
        [
            "*nat",
            f"-A OUTPUT -p tcp -d {SERVICE_RANGE} -j REDIRECT --to-ports {OUTBOUND_PORT}",
            *(f"-A PREROUTING -i eth0 -p tcp --dport {port} -j RETURN" for port in ports),
            f"-A PREROUTING -i eth0 -p tcp -j REDIRECT --to-ports {INBOUND_PORT}",
            "COMMIT\n",
        ]
    )


def workers(annotations: Mapping[str, str]) -> int:
    """Give the number of Envoy's workers: two, if the pod does not ask for another."""
    return int(_proxy_config(annotations).get("concurrency", _WORKERS))


def bootstrap(metadata: Mapping[str, Any], address: str, istiod: tuple[str, int]) -> str:
    """Make Envoy's configuration for the pod with this metadata and address."""
    name, namespace = metadata["name"], metadata["namespace"]
    labels, annotations = metadata.get("labels", {}), metadata.get("annotations", {})
    node = {
        "id": f"sidecar~{address}~{name}.{namespace}~{namespace}.svc.cluster.local",
        "cluster": f"{labels.get('app', 'istio-proxy')}.{namespace}",
        "metadata": {
            "ANNOTATIONS": annotations,
            "CLUSTER_ID": "Kubernetes",
            "INSTANCE_IPS": address,
            "INTERCEPTION_MODE": "REDIRECT",
            "ISTIO_VERSION": ISTIO_VERSION,
            "LABELS": labels,
            "NAME": name,
            "NAMESPACE": namespace,
        },
    }
    ads = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
    service = {"envoy_grpc": {"cluster_name": "xds-grpc"}}
    config = {
        "node": node,
        "admin": {"address": _socket("127.0.0.1", ADMIN_PORT)},
        "dynamic_resources": {
            "lds_config": ads,
            "cds_config": ads,
            "ads_config": {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [service]},
        },
        "static_resources": {
            "clusters": [_cluster("xds-grpc", *istiod, http2=True), _cluster("agent", "127.0.0.1", ADMIN_PORT)],
            "listeners": [_page(READY_PORT, READY_PATH, "/ready"), _page(STATS_PORT, "/stats/prometheus", "/stats/prometheus")],
        },
        "stats_config": {
            "use_all_default_tags": False,
            "stats_tags": [{"tag_name": "cluster_name", "regex": r"^cluster(\.(.+);)"}],
            "stats_matcher": {"inclusion_list": {"patterns": _statistics(annotations)}},
        },
        "overload_manager": {"resource_monitors": [_NO_LIMIT_ON_CLIENTS]},
    }
    return json.dumps(config, indent=1)


_NO_LIMIT_ON_CLIENTS = {
    "name": "envoy.resource_monitors.global_downstream_max_connections",
    "typed_config": {
        "@type": f"{_TYPE}extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections": 2**31 - 1,
    },
}


def _statistics(annotations: Mapping[str, str]) -> list[dict[str, Any]]:
    """Give the patterns of the statistics that are kept: an annotation of its own wins over the proxy's configuration, as in Istio."""
    wanted = _proxy_config(annotations).get("proxyStatsMatcher", {})

    def asked(kind: str) -> list[str]:
        own = annotations.get(f"sidecar.istio.io/statsInclusion{kind}")
        found: list[str] = own.split(",") if own else wanted.get(f"inclusion{kind}", [])
        return found

    return [
        *({"prefix": each} for each in (*asked("Prefixes"), *_PREFIXES)),
        *({"suffix": each} for each in (*asked("Suffixes"), *_SUFFIXES)),
        *({"safe_regex": {"regex": each}} for each in (*asked("Regexps"), *_REGEXPS)),
    ]


def _proxy_config(annotations: Mapping[str, str]) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(annotations.get("proxy.istio.io/config", "")) or {}
    return config


def _socket(address: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": port}}


def _cluster(name: str, address: str, port: int, *, http2: bool = False) -> dict[str, Any]:
    endpoint = {"lb_endpoints": [{"endpoint": {"address": _socket(address, port)}}]}
    cluster = {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": {"cluster_name": name, "endpoints": [endpoint]}}
    if http2:
        options = {
            "@type": f"{_TYPE}extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
        cluster["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
    return cluster


def _page(port: int, path: str, admin_path: str) -> dict[str, Any]:
    """Show one page of the admin interface to everybody, as Istio's agent does."""
    route = {"match": {"path": path}, "route": {"cluster": "agent", "prefix_rewrite": admin_path}}
    manager = {
        "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "agent",
        "route_config": {"virtual_hosts": [{"name": "agent", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPE}extensions.filters.http.router.v3.Router"}}
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": f"agent-{port}", "address": _socket("0.0.0.0", port), "filter_chains": [chain]}
