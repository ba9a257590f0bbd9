"""What will a rule do to the clients? For each of them the rule that wins and the limits in force, before and with it; no load, no I/O."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadgen.policy.state import SidecarState
from loadgen.policy.translation import cluster_name, clusters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.errors import Problem
    from loadgen.outlook import Outlook
    from loadgen.policy.fate import Fate
    from loadgen.policy.rule import Rule
    from loadgen.policy.selection import Service, Workload


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run will find and make of it.

    ``names`` are the clients; all have the same namespace and labels, so what is said holds for each. ``mode`` and ``reason`` say how a cluster's
    rule is toggled, ``diff`` what changes there; ``obstacles`` what stands in the way. ``fates`` say of each rule of the file why it has no effect, nothing if it has;
    ``outlooks`` what the phases with a limit will show.
    """

    service: Service
    client: Workload
    names: tuple[str, ...]
    before: SidecarState
    after: SidecarState
    findings: tuple[Problem, ...]
    mode: str = ""
    reason: str = ""
    diff: str = ""
    obstacles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fates: tuple[Fate, ...] = ()
    outlooks: tuple[Outlook, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give the preview as ``plan --json`` prints it."""
        return {
            "schema": "loadgen.plan/v1",
            "target": self.service.host,
            "clients": [
                {
                    "name": name,
                    "namespace": self.client.namespace,
                    "rule": self.after.rule,
                    "effective": dataclasses.asdict(self.after.limits),
                    "now": {"rule": self.before.rule, "effective": dataclasses.asdict(self.before.limits)},
                    "predicted": self._predicted(),
                }
                for name in self.names
            ],
            "rules": [fate.to_json() for fate in self.fates],
            "phases": [each.to_json() for each in self.outlooks],
            "change": {"mode": self.mode, "reason": self.reason, "diff": self.diff} if self.mode else None,
            "obstacles": list(self.obstacles),
            "notes": list(self.notes),
            "findings": [
                {
                    "severity": finding.severity.value,
                    "code": finding.code,
                    "message": finding.message,
                    "line": finding.line,
                    "column": finding.column,
                }
                for finding in self.findings
            ],
        }

    def _predicted(self) -> dict[str, Any] | None:
        """Give what one client will show, if that is the same in all phases; they then differ by the play of chance alone, which is that of all clients."""
        if not self.outlooks or self.outlooks[0].rate_per_s is not None:
            return None
        whole = self.outlooks[0].to_json()
        return {"law": whole["law"], "because": whole["because"], "offered": whole["offered"], **whole["client"]}


def state_of(rules: Sequence[Rule], service: Service, client: Workload) -> SidecarState:
    """Give what these rules lead to in the sidecar of a client, for the service's first port."""
    return SidecarState.of_cluster(clusters(rules, service, client)[cluster_name(service, service.ports[0])])
