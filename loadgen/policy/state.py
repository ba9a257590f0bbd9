"""What is in force in one sidecar: the limits, and the rule that istiod names as their source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadgen.policy.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class SidecarState:
    """The limits in force, and the rule (``namespace/name``) that they come from, None without any."""

    limits: Limits
    rule: str | None

    @classmethod
    def of_cluster(cls, cluster: Mapping[str, Any]) -> SidecarState:
        """Read the state from a cluster, as istiod makes it or as Envoy's ``config_dump`` prints it."""
        source = cluster.get("metadata", {}).get("filter_metadata", {}).get("istio", {}).get("config")
        return cls(Limits.of_cluster(cluster), rule_of(source) if source else None)


def rule_of(source: str) -> str:
    """Read ``namespace/name`` from istiod's ``/apis/networking.istio.io/v1/namespaces/base/destination-rule/user``."""
    parts = source.split("/")
    return f"{parts[-3]}/{parts[-1]}"
