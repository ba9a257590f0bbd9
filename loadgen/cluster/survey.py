"""What will a run find in the cluster, what will it change there, and may it? Everything that is known before anything is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadgen.cluster.change import Change, Mode, plan_change
from loadgen.cluster.marks import guard_name, journal_name, lease_name
from loadgen.cluster.paths import ISTIO
from loadgen.cluster.preflight import Found, Right, look, missing_rights
from loadgen.errors import RefusedError
from loadgen.preview import Preview, state_of

if TYPE_CHECKING:
    from loadgen.cluster.api import KubeApi
    from loadgen.inputs import Plan

SECRET = "loadgen-control"  # noqa: S105  # a name
"""The name of the Secret that runner and load pods share."""
_CHANGES = {Mode.OWN: "delete", Mode.OVERLAY: "delete", Mode.PATCH: "patch"}
"""What it takes to put a rule back, beside to read it."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found, what is to be changed, and what stands in the way of it. ``change`` is None of a scenario without a policy."""

    found: Found
    change: Change | None
    pods: tuple[str, ...]
    obstacles: tuple[str, ...]

    def check(self) -> None:
        """Make sure that a run may begin.

        Raises RefusedError with everything that stands in the way.
        """
        if self.obstacles:
            listing = "".join(f"\n   - {obstacle}" for obstacle in self.obstacles)
            raise RefusedError(f"the cluster is not ready for this run:{listing}", hint="nothing was changed")

    def preview(self, plan: Plan) -> Preview:
        """Give what a person may see of it."""
        before = self.change.before if self.change else ()
        after = self.change.after if self.change else ()
        return Preview(
            plan.service,
            plan.client,
            self.pods,
            state_of(before, plan.service, plan.client),
            state_of(after, plan.service, plan.client),
            tuple(rule.key for rule in before),
            plan.findings,
            mode=self.change.mode.value if self.change else "",
            reason="; ".join(self.change.reasons) if self.change else "",
            diff=self.change.diff() if self.change else "",
            obstacles=self.obstacles,
            notes=self.found.notes,
        )


async def survey(api: KubeApi, plan: Plan, *, mode: Mode | None, allow_managed: bool) -> Survey:
    """Look at everything that a run needs.

    Raises RefusedError if it cannot even be looked.
    """
    service, client = plan.service, plan.client
    wanted = plan.scenario.clients.count
    homes = [rule.namespace for rule in plan.rules]
    found = await look(api, service, client, wanted, homes)
    change = None
    if any(phase.policy == "applied" for phase in plan.scenario.phases):
        change = plan_change(found.rules, plan.rules, service, client, version=found.istio_version, mode=mode, allow_managed=allow_managed)
    missing = await missing_rights(api, _rights(plan, change))
    obstacles = [*found.problems, *(change.refusals if change else ())]
    obstacles += [f"the account may not {right}" for right in missing]
    return Survey(found, change, found.pods.usable[:wanted], tuple(obstacles))


def _rights(plan: Plan, change: Change | None) -> list[Right]:
    """Say what a run does; RBAC can bind everything but ``create`` and ``list`` to names."""
    home, away, host = plan.scenario.clients.namespace, plan.service.namespace, plan.service.host
    rights = [Right("list", "pods", home), Right("get", "pods/proxy", home), Right("create", "pods/proxy", home)]
    rights += [Right("get", "secrets", home, name=SECRET), Right("get", "services", away, name=plan.service.name)]
    rights += [Right("list", "endpointslices", away, "discovery.k8s.io")]
    rights += [Right("list", "destinationrules", namespace, ISTIO) for namespace in (home, away)]
    if change is None:
        return rights
    for resource, group, name, verbs in (
        ("leases", "coordination.k8s.io", lease_name(host), "get update delete"),
        ("configmaps", "", journal_name(host), "get update delete"),
        ("jobs", "batch", guard_name(host), "get delete"),
    ):
        rights += [Right("create", resource, home, group), *(Right(verb, resource, home, group, name) for verb in verbs.split())]
    for write in change.writes:
        where, name = write.rule["metadata"]["namespace"], write.rule["metadata"]["name"]
        if write.before is None:
            rights.append(Right("create", "destinationrules", where, ISTIO))
        rights += [Right(verb, "destinationrules", where, ISTIO, name) for verb in ("get", _CHANGES[change.mode])]
    return list(dict.fromkeys(rights))
