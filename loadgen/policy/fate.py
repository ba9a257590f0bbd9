"""Does a rule count for a client, and does it limit anything? Where not, the first reason why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadgen.policy.limits import Limits
from loadgen.policy.lint import HOST_CHECKS, PASSED_OVER_CHECKS, REACH_CHECKS, Check, Scene, empty_block, first, no_limit, older_policy
from loadgen.policy.selection import ROOT_NAMESPACE, host_of, matches, winner
from loadgen.policy.translation import cluster_name, clusters

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadgen.errors import Problem
    from loadgen.policy.rule import Rule
    from loadgen.policy.selection import Service, Workload


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a rule: it ``counts`` if Istio uses it for the client, and ``limits`` if it sets a limit then. ``code`` and ``reason`` say why not."""

    rule: str
    counts: bool
    limits: bool
    code: str | None = None
    reason: str | None = None

    def __str__(self) -> str:
        if self.limits:
            return f"{self.rule} counts"
        return f"{self.rule} {'counts, but limits nothing' if self.counts else 'does not'}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Give the fate as ``plan --json`` prints it."""
        return {"rule": self.rule, "counts": self.counts, "limits": self.limits, "code": self.code, "reason": self.reason}


def fate(rule: Rule, rules: Sequence[Rule], service: Service, client: Workload, *, root_namespace: str = ROOT_NAMESPACE) -> Fate:
    """Say what becomes of one of these rules, seen from one client on the service's first port."""
    merged = winner(rules, service, client, root_namespace=root_namespace)
    scene = Scene(service, client, merged, root_namespace, (), ())
    if not matches(rule, service):
        return _without(rule, (*HOST_CHECKS, _not_the_target), scene, counts=False)
    if merged is None or rule not in merged.sources:
        return _without(rule, REACH_CHECKS, scene, counts=False)
    if rule is not merged.policy_source and rule.traffic_policy is not None:
        return _without(rule, (older_policy,), scene, counts=False)
    made = clusters(rules, service, client, root_namespace=root_namespace)[cluster_name(service, service.ports[0])]
    if rule is merged.policy_source and Limits.of_cluster(made).in_force():
        return Fate(rule.key, counts=True, limits=True)
    return _without(rule, (empty_block, *PASSED_OVER_CHECKS, no_limit, _only_subsets), scene, counts=True)


def _without(rule: Rule, checks: Sequence[Check], scene: Scene, *, counts: bool) -> Fate:
    why = next(first(checks, rule, scene))
    return Fate(rule.key, counts=counts, limits=False, code=why.code, reason=why.message)


def _not_the_target(rule: Rule, scene: Scene) -> Iterator[Problem]:
    """Say so also where another rule is for the target: of a rule that is meant for another service nobody is warned then."""
    message = f"the rule is for {host_of(rule, scene.service)}, not for the target {scene.service.host}"
    yield rule.warning(("host",), message, hint=f"write {scene.service.host} if that is what you mean to limit", code="host-other-service")


def _only_subsets(rule: Rule, _scene: Scene) -> Iterator[Problem]:
    message = "it adds to another rule, but sets no limit for the whole service itself"
    yield rule.warning(("host",), message, hint="set one in trafficPolicy.connectionPool of the rule whose policy counts", code="no-limit")
