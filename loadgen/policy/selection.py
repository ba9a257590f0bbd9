"""Which rule does Istio use when this client calls this service?

The law: one namespace wins, and rules of different namespaces are never mixed. Istio looks into the client's namespace, then
the service's, then the root namespace, and the first one with a rule for the service's host ends the search. Within it the
most specific host counts. Rules of one namespace for one host are merged, the oldest first: the first traffic policy is
taken as a whole, the subsets are added up. A rule whose workloadSelector fits the client goes before the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from loadgen.policy.rule import DOMAIN, resolve_host
from loadgen.policy.webhook import EVERYWHERE, OWN_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from loadgen.policy.manifest import Subset
    from loadgen.policy.rule import Rule

ROOT_NAMESPACE = "istio-system"
_NOT_YET = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the mesh; ``ports`` are its own ports, not the pods'."""

    name: str
    namespace: str
    ports: tuple[int, ...]
    domain: str = DOMAIN

    @property
    def host(self) -> str:
        """The name that Istio's registry has for it."""
        return f"{self.name}.{self.namespace}.svc.{self.domain}"


@dataclass(frozen=True, slots=True)
class Workload:
    """Who calls: the pod's namespace and labels."""

    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Merged:
    """Rules of one namespace for one host, made into one. ``sources`` are in the order in which they count."""

    rule: Rule
    sources: tuple[Rule, ...]
    export_to: frozenset[str]

    @property
    def policy_source(self) -> Rule | None:
        """The rule whose traffic policy counts."""
        return next((source for source in self.sources if source.traffic_policy is not None), None)

    def subset_source(self, name: str) -> Rule | None:
        """Give the rule whose subset of this name counts."""
        return next((source for source in self.sources if any(subset.name == name for subset in source.subsets)), None)

    def with_rule(self, rule: Rule) -> Merged:
        """Merge a younger rule: its new subsets count, its traffic policy only if there is none so far."""
        policy = rule.traffic_policy if self.rule.traffic_policy is None else self.rule.traffic_policy
        merged = replace(self.rule, traffic_policy=policy, subsets=_union(self.rule.subsets, rule.subsets))
        return replace(self, rule=merged, sources=(*self.sources, rule))


def select(rules: Iterable[Rule], service: Service, client: Workload, *, root_namespace: str = ROOT_NAMESPACE) -> Rule | None:
    """Give the rule that Istio uses for this client, merged; its key is the one that Istio puts into the cluster's metadata."""
    merged = winner(rules, service, client, root_namespace=root_namespace)
    return merged.rule if merged else None


def merged_policy(rules: Iterable[Rule], service: Service, client: Workload) -> str:
    """Name the rule whose traffic policy counts, if Istio merged it into another one; empty if the rule that ``select`` gives has it itself."""
    merged = winner(rules, service, client)
    source = merged.policy_source if merged else None
    return source.key if merged and source and source is not merged.sources[0] else ""


def winner(rules: Iterable[Rule], service: Service, client: Workload, *, root_namespace: str = ROOT_NAMESPACE) -> Merged | None:
    """Give the rule that counts together with the rules that it was made of."""
    everything = sorted(rules, key=precedence)
    candidates = _from_client_namespace(everything, service, client, root_namespace)
    for namespace in (service.namespace, root_namespace):
        candidates = candidates or _from_exports(everything, service, client, namespace)
    return _for_workload(candidates, client)


def precedence(rule: Rule) -> tuple[bool, datetime, str, str]:
    """Sort rules as Istio does: with a workloadSelector first, then the oldest, then by name. One not yet applied is the youngest."""
    return rule.selector is None, rule.created or _NOT_YET, rule.name, rule.namespace


def exports(rule: Rule) -> frozenset[str]:
    """Say where a rule is visible; empty means everywhere. A workloadSelector keeps it in its own namespace."""
    return frozenset({OWN_NAMESPACE}) if rule.selector is not None else frozenset(rule.export_to)


def is_private(rule: Rule) -> bool:
    """Tell whether a rule is visible in its own namespace only."""
    targets = exports(rule)
    return len(targets) == 1 and bool(targets & {OWN_NAMESPACE, rule.namespace})


def is_visible(rule: Rule, namespace: str) -> bool:
    """Tell whether clients of a namespace may see a rule."""
    if namespace == rule.namespace:
        return not exports(rule) or bool(exports(rule) & {EVERYWHERE, OWN_NAMESPACE, namespace})
    return _exported_to(exports(rule), namespace)


def host_of(rule: Rule, service: Service) -> str:
    """Give a rule's full host in the service's cluster."""
    return resolve_host(rule.host, rule.namespace, service.domain)


def matches(rule: Rule, service: Service) -> bool:
    """Tell whether a rule's host covers the service."""
    host = host_of(rule, service)
    return service.host.endswith(host[1:]) if host.startswith("*") else service.host == host


def _from_client_namespace(rules: Sequence[Rule], service: Service, client: Workload, root_namespace: str) -> list[Merged]:
    """Look where the client lives; for one in the root namespace only what is private there, so that mesh-wide rules don't hide others."""
    fits: Callable[[Rule], bool] = is_private if client.namespace == root_namespace else (lambda rule: is_visible(rule, client.namespace))
    return _merge([rule for rule in rules if rule.namespace == client.namespace and fits(rule)], service)


def _from_exports(rules: Sequence[Rule], service: Service, client: Workload, namespace: str) -> list[Merged]:
    """Look into a namespace from outside. The most specific host is chosen first: if that one is not for the client, none is."""
    merged = _merge([rule for rule in rules if rule.namespace == namespace and not is_private(rule)], service)
    return [each for each in merged if _exported_to(each.export_to, client.namespace)]


def _exported_to(targets: frozenset[str], namespace: str) -> bool:
    return not targets or bool(targets & {EVERYWHERE, namespace})


def _merge(rules: Sequence[Rule], service: Service) -> list[Merged]:
    """Merge the rules with the most specific host; those with another exportTo or workloadSelector stay apart."""
    fitting = [rule for rule in rules if matches(rule, service)]
    best = max((specificity(host_of(rule, service)) for rule in fitting), default=None)
    entries: list[Merged] = []
    for rule in fitting:
        if specificity(host_of(rule, service)) == best:
            _add(entries, rule)
    return entries


def specificity(host: str) -> tuple[bool, int]:
    """Sort hosts that cover one service: exact before wildcard, longer before shorter."""
    return not host.startswith("*"), len(host)


def _add(entries: list[Merged], rule: Rule) -> None:
    """Merge a rule into the entry that is alike, or keep it apart.

    Istio also merges one that is exported to more namespaces than an older one, and keeps it apart as well. Nobody sees that:
    who sees the older one sees the younger one too, and that one is the last.
    """
    for index, entry in enumerate(entries):
        if entry.rule.selector == rule.selector and entry.export_to == exports(rule):
            entries[index] = entry.with_rule(rule)
            return
    entries.append(Merged(rule, (rule,), exports(rule)))


def _for_workload(entries: Sequence[Merged], client: Workload) -> Merged | None:
    """Take the first entry whose workloadSelector fits, else the last one without: Istio's own loop goes on to the last."""
    for entry in entries:
        selector = entry.rule.selector
        if selector is not None and entry.rule.namespace == client.namespace and selector.items() <= client.labels.items():
            return entry
    return next((entry for entry in reversed(entries) if entry.rule.selector is None), None)


def _union(subsets: tuple[Subset, ...], younger: tuple[Subset, ...]) -> tuple[Subset, ...]:
    names = {subset.name for subset in subsets}
    return (*subsets, *(subset for subset in younger if subset.name not in names))
