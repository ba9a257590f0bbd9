"""Which limits does a cluster's configuration hold? Read from what we make of a rule, and from what a running Envoy prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

UNSET = 2**32 - 1
"""What istiod writes for a limit that no rule sets; in practice no limit."""
UNLIMITED = 0
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_ENVOY_DEFAULTS = {"max_connections": 1024, "max_pending_requests": 1024, "max_requests": 1024, "max_retries": 3}
"""What holds in Envoy if a cluster says nothing; istiod always says something."""
FIELDS = {
    "max_connections": "maxConnections",
    "max_pending_requests": "http1MaxPendingRequests",
    "max_requests": "http2MaxRequests",
    "max_retries": "maxRetries",
    "max_requests_per_connection": "maxRequestsPerConnection",
}
"""Envoy's name of each limit, and the DestinationRule's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one cluster in one sidecar. 4294967295 means unset; 0 requests per connection mean unlimited."""

    max_connections: int = UNSET
    max_pending_requests: int = UNSET
    max_requests: int = UNSET
    max_retries: int = UNSET
    max_requests_per_connection: int = UNLIMITED

    @classmethod
    def of_cluster(cls, cluster: Mapping[str, Any]) -> Limits:
        """Read a cluster's JSON, also as ``/config_dump`` prints it. Only the default priority counts: Istio uses no other."""
        thresholds = cluster.get("circuit_breakers", {}).get("thresholds", [])
        default: Mapping[str, Any] = next((each for each in thresholds if each.get("priority", "DEFAULT") == "DEFAULT"), {})
        common = cluster.get("typed_extension_protocol_options", {}).get(HTTP_OPTIONS, {}).get("common_http_protocol_options", {})
        return cls(
            **{name: int(default.get(name, fallback)) for name, fallback in _ENVOY_DEFAULTS.items()},
            max_requests_per_connection=int(common.get("max_requests_per_connection", UNLIMITED)),
        )

    def in_force(self) -> dict[str, int]:
        """Give the limits that are set, by the names of the DestinationRule's fields."""
        return {FIELDS[name]: value for name, value in asdict(self).items() if value != getattr(_NO_LIMITS, name)}


_NO_LIMITS = Limits()


def connections_come_first(limits: Mapping[str, int], workers: int) -> bool:
    """Tell whether these limits in force, by the rule's names, let connections run out before ``http2MaxRequests`` is reached; then it rejects nothing.

    With HTTP/1.1 a connection carries one request, and to one endpoint there are at most ``maxConnections`` + workers - 1 of them: Envoy's
    workers look before they count, and each may always have one. Over HTTP/2 one connection carries everything: do not ask then.
    """
    connections, requests = limits.get("maxConnections"), limits.get("http2MaxRequests")
    return connections is not None and requests is not None and connections + workers - 1 <= requests
