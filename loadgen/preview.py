"""What will a rule do to the clients? For each of them the rule that wins and the limits in force, before and with it; no load, no I/O."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadgen.policy.fate import Fate, fate
from loadgen.policy.limits import UNSET, Limits
from loadgen.policy.selection import Workload, matches, merged_policy
from loadgen.policy.state import SidecarState
from loadgen.policy.translation import cluster_name, clusters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.errors import Problem
    from loadgen.outlook import Outlook
    from loadgen.policy.rule import Rule
    from loadgen.policy.selection import Service


@dataclass(frozen=True, slots=True)
class Preview:
    """What a run will find and make of it.

    ``names`` are the clients; all have the same namespace and labels, so what is said holds for each. ``mode`` and ``reason`` say how a cluster's
    rule is toggled, ``diff`` what changes there; ``obstacles`` what stands in the way. ``rules`` are all that there are with the change, ``fates`` say what becomes of
    those that concern the service; ``outlooks`` what the phases with a limit will show. ``workers`` are the threads of each client's Envoy; ``server`` is what sidecars of
    the service itself enforce on what comes in, None where it has none.
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
    rules: tuple[Rule, ...] = ()
    workers: int = 1
    server: SidecarState | None = None
    fates: tuple[Fate, ...] = ()
    outlooks: tuple[Outlook, ...] = ()

    def together(self) -> Limits:
        """Give the limits of all clients together: each sidecar counts for itself, and its workers look before they count, so all but one may pass a limit.

        Of requests on one connection there is no sum.
        """
        race = self.workers - 1
        sums = {
            name: value if value == UNSET or name == "max_requests_per_connection" else (value + race) * len(self.names)
            for name, value in dataclasses.asdict(self.after.limits).items()
        }
        return Limits(**sums)

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
            "service": {
                "clients": len(self.names),
                "workers": self.workers,
                "effective": dataclasses.asdict(self.together()),
                "own_sidecars": {"rule": self.server.rule, "effective": dataclasses.asdict(self.server.limits)} if self.server else None,
            },
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
                    "hint": finding.hint,
                    "file": finding.file,
                    "line": finding.line,
                    "column": finding.column,
                }
                for finding in self.findings
            ],
        }

    def _predicted(self) -> dict[str, Any] | None:
        """Give what one client will show, if that is the same in all phases; they then differ by the play of chance alone, which is that of all clients."""
        if len({(each.rate_per_s, each.prediction.law) for each in self.outlooks}) != 1:
            return None
        whole = self.outlooks[0].to_json()
        return {"law": whole["law"], "because": whole["because"], "offered": whole["offered"], **whole["client"]}


def state_of(rules: Sequence[Rule], service: Service, client: Workload) -> SidecarState:
    """Give what these rules lead to in the sidecar of a client, for the service's first port."""
    made = clusters(rules, service, client)[cluster_name(service, service.ports[0])]
    return SidecarState.of_cluster(made, policy=merged_policy(rules, service, client))


def fates(written: Sequence[Rule], rules: Sequence[Rule], service: Service, client: Workload) -> tuple[Fate, ...]:
    """Say what becomes of the rules of a file, and of all others for the service among ``rules``, which are those that there will be."""
    keys = {rule.key for rule in rules}
    named = {rule.key for rule in written}
    missing = (
        Fate(
            rule.key,
            counts=False,
            limits=False,
            code="not-written",
            reason="a run does not write it as it stands; the change says what it writes",
        )
        for rule in written
        if rule.key not in keys
    )
    there = (fate(rule, rules, service, client) for rule in rules if rule.key in named or matches(rule, service))
    return (*missing, *there)


def server_state(rules: Sequence[Rule], service: Service) -> SidecarState | None:
    """Give what a sidecar of the service itself enforces on what comes in; None if that limits nothing.

    The law: istiod looks for the rule as the service's namespace sees it, takes the connection pool of the service or the port, never a subset's, and no
    rule with a workloadSelector (``buildInboundCluster``).
    """
    state = state_of([rule for rule in rules if rule.selector is None], service, Workload(service.namespace))
    return state if state.limits.in_force() else None
