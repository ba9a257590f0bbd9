"""What will a run find in the cluster, what will it change there, and may it? Everything that is known before anything is touched."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loadgen.cluster.change import Change, Mode, plan_change
from loadgen.cluster.marks import guard_name, journal_name, lease_name
from loadgen.cluster.paths import ISTIO
from loadgen.cluster.preflight import Found, look
from loadgen.cluster.rights import Right, missing_rights, rights_to_put_back, roles_for
from loadgen.errors import RefusedError
from loadgen.policy.selection import ROOT_NAMESPACE
from loadgen.preview import Preview, server_state, state_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loadgen.cluster.api import KubeApi
    from loadgen.inputs import Plan

SECRET = "loadgen-control"  # noqa: S105  # a name
"""The name of the Secret that runner and load pods share."""


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
            raise RefusedError(_listing(self.obstacles), hint="nothing was changed")

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
            plan.findings,
            mode=self.change.mode.value if self.change else "",
            reason="; ".join(self.change.reasons) if self.change else "",
            diff=self.change.diff() if self.change else "",
            obstacles=self.obstacles,
            notes=self.found.notes,
            rules=after,
            workers=plan.scenario.clients.workers,
            server=server_state(after, plan.service),
        )


async def survey(api: KubeApi, plan: Plan, *, mode: Mode | None, allow_managed: bool) -> Survey:
    """Look at everything that a run needs, as far as the API server knows it.

    Raises RefusedError if we may not even look; it names all rights that are missing.
    """
    service, client = plan.service, plan.client
    wanted = plan.scenario.clients.count
    changes = any(phase.policy == "applied" for phase in plan.scenario.phases)
    missing = await missing_rights(api, _rights_of_a_run(plan, changes=changes))
    if missing:
        known = (client.namespace, service.namespace, ROOT_NAMESPACE)
        others = dict.fromkeys(rule.namespace for rule in plan.rules if rule.namespace not in known)
        but = f", but none for {', '.join(others)}" if others else ""
        hint = f"loadgen manifests has the Roles that a run needs{but}"
        raise RefusedError(_listing(f"the account may not {right}" for right in missing), hint=hint)
    found = await look(api, service, client, wanted, [rule.namespace for rule in plan.rules])
    if not changes:
        return Survey(found, None, found.pods.usable[:wanted], found.problems)
    change, missing = await _change(api, found, plan, mode, allow_managed=allow_managed)
    obstacles = [*found.problems, *change.refusals, *(f"the account may not {right}" for right in missing)]
    if missing:
        obstacles += roles_for(change.touched, service.host, client.namespace)
    return Survey(found, change, found.pods.usable[:wanted], tuple(obstacles))


async def _change(api: KubeApi, found: Found, plan: Plan, mode: Mode | None, *, allow_managed: bool) -> tuple[Change, list[str]]:
    """Decide what is changed, and ask for the rights. Where we may not create the scenario's rule, one over the clients' will do."""

    async def plan_with(mode: Mode | None) -> tuple[Change, list[str]]:
        change = plan_change(
            found.rules, plan.rules, plan.service, plan.client, version=found.version, mode=mode, allow_managed=allow_managed
        )
        return change, await missing_rights(api, _rights_of_a_change(change))

    change, missing = await plan_with(mode)
    if mode is None and change.mode is Mode.OWN and missing and not change.refusals:
        over, missing_there = await plan_with(Mode.OVERLAY)
        if not over.refusals and not missing_there:
            passed = f"not {Mode.OWN}: the account may not {missing[0]}"
            return replace(over, reasons=(*over.reasons, passed)), []
    return change, missing


def _listing(obstacles: Iterable[str]) -> str:
    return "the cluster is not ready for this run:" + "".join(f"\n   - {obstacle}" for obstacle in obstacles)


def _rights_of_a_run(plan: Plan, *, changes: bool) -> list[Right]:
    """Say what a run does, whatever it changes; RBAC can bind everything but ``create`` and ``list`` to names."""
    home, away, host = plan.scenario.clients.namespace, plan.service.namespace, plan.service.host
    rights = [Right("list", "pods", home), Right("get", "pods/proxy", home), Right("create", "pods/proxy", home)]
    rights += [Right("get", "secrets", home, name=SECRET), Right("get", "services", away, name=plan.service.name)]
    rights += [Right("list", "endpointslices", away, "discovery.k8s.io")]
    homes = (home, away, *(rule.namespace for rule in plan.rules))
    rights += [Right("list", "destinationrules", namespace, ISTIO) for namespace in homes]
    for resource, group, name, verbs in (
        ("leases", "coordination.k8s.io", lease_name(host), "get update delete"),
        ("configmaps", "", journal_name(host), "get update delete"),
        ("jobs", "batch", guard_name(host), "get delete"),
    ):
        if changes:
            rights += [Right("create", resource, home, group), *(Right(verb, resource, home, group, name) for verb in verbs.split())]
    return list(dict.fromkeys(rights))


def _rights_of_a_change(change: Change) -> list[Right]:
    created = [Right("create", "destinationrules", each.namespace, ISTIO) for each in change.touched if each.creates]
    return [*created, *rights_to_put_back(change.touched)]
