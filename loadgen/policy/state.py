"""What is in force in one sidecar: the limits, and the rule that istiod names as their source."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loadgen.policy.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class SidecarState:
    """The limits in force, and the rule (``namespace/name``) that they come from, None without any.

    ``digest`` is a fingerprint of the whole cluster where its maker puts one in (see ``with_digest``): two rules may set the same limits.
    ``updated`` is when Envoy last took another configuration of the cluster, in its own words; it makes no state another one, but tells of one that
    was changed and put back. ``policy`` names the rule whose policy counts, where istiod merged it into another one and names that.
    """

    limits: Limits
    rule: str | None
    digest: str = ""
    updated: str = field(default="", compare=False)
    policy: str = field(default="", compare=False)

    def __str__(self) -> str:
        limits = ", ".join(f"{name} {value}" for name, value in self.limits.in_force().items())
        return f"{f'rule {self.named}' if self.rule else 'no rule'} ({limits or 'no limit'})"

    @property
    def named(self) -> str | None:
        """Name the rule for a person: the one that must be changed to change the limits."""
        return f"{self.policy} (merged into {self.rule})" if self.policy else self.rule

    @classmethod
    def of_cluster(cls, cluster: Mapping[str, Any], *, policy: str = "") -> SidecarState:
        """Read the state from a cluster, as istiod makes it or as Envoy's ``config_dump`` prints it; ``policy`` no cluster says."""
        metadata = cluster.get("metadata", {}).get("filter_metadata", {})
        source = metadata.get("istio", {}).get("config")
        rule = rule_of(source) if source else None
        return cls(Limits.of_cluster(cluster), rule, metadata.get(_OURS, {}).get("digest", ""), policy=policy)


_OURS = "loadgen"


def with_digest(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Put a fingerprint of a cluster's JSON into its metadata, where Envoy shows it again and acts on nothing."""
    digest = hashlib.sha256(json.dumps(cluster, sort_keys=True).encode()).hexdigest()[:16]
    metadata = cluster.get("metadata", {})
    filters = {**metadata.get("filter_metadata", {}), _OURS: {"digest": digest}}
    return {**cluster, "metadata": {**metadata, "filter_metadata": filters}}


def outbound_cluster(host: str, port: int, subset: str = "") -> str:
    """Name a client's cluster of a service as Istio does: ``outbound|7000||user.base.svc.cluster.local``."""
    return f"outbound|{port}|{subset}|{host}"


def rule_of(source: str) -> str:
    """Read ``namespace/name`` from istiod's ``/apis/networking.istio.io/v1/namespaces/base/destination-rule/user``."""
    parts = source.split("/")
    return f"{parts[-3]}/{parts[-1]}"
