"""What in these rules does Istio accept and then ignore, so that the limits are not what the file says?

Two tables of small checks: why a rule does not reach the client, and what in it does nothing. A check takes one rule and the
scene, and gives warnings.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadgen.policy.limits import FIELDS
from loadgen.policy.manifest import ConnectionPool, PortPolicy, TrafficPolicy
from loadgen.policy.pools import empty_half, endless_queue, http2_only, limits_of, one_connection, port_entries, zero
from loadgen.policy.scalar import quoted
from loadgen.policy.selection import ROOT_NAMESPACE, exports, host_of, is_visible, matches, specificity, winner
from loadgen.policy.translation import effective_policy
from loadgen.policy.webhook import empty_blocks

if TYPE_CHECKING:
    from loadgen.errors import Problem
    from loadgen.policy.rule import Path, Rule
    from loadgen.policy.selection import Merged, Service, Workload

SIMILAR = 0.75
"""How alike two words must be, from 0 to 1, to pass for one of them misspelt."""
_DOTTED_NAME = 2
_DOTTED_SVC = 3


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a check may look at. ``merged`` is what Istio uses for the client, if anything."""

    service: Service
    client: Workload
    merged: Merged | None
    root_namespace: str
    routed_subsets: Collection[str]
    hosts: Collection[str]
    workers: int | None = 1


Check = Callable[["Rule", Scene], Iterator["Problem"]]


def lint(  # what is known beside the rules, by keyword
    rules: Sequence[Rule],
    service: Service,
    client: Workload,
    *,
    root_namespace: str = ROOT_NAMESPACE,
    routed_subsets: Collection[str] = (),
    hosts: Collection[str] = (),
    workers: int | None = 1,
) -> list[Problem]:
    """Find what Istio silently ignores in these rules, seen from one client of one service; only warnings, in the order of the file.

    ``routed_subsets`` are the subsets that a route sends traffic to, ``hosts`` the full names of other services that are
    known to exist, ``workers`` the threads of the client's Envoy before a service with one endpoint; None of a cluster's, of which neither is known. Blocks that are empty are also among the problems of ``parse_rules``, as equal values.
    """
    merged = winner(rules, service, client, root_namespace=root_namespace)
    scene = Scene(service, client, merged, root_namespace, routed_subsets, hosts, workers)
    found = [problem for rule in rules for problem in _findings(rule, scene)]
    return sorted(found, key=lambda problem: (problem.file, problem.line, problem.column))


def _findings(rule: Rule, scene: Scene) -> Iterator[Problem]:
    empty = list(empty_block(rule, scene))
    yield from empty
    if not matches(rule, scene.service):
        yield from first(HOST_CHECKS, rule, scene)
        return
    if scene.merged is None or rule not in scene.merged.sources:
        yield from first(REACH_CHECKS, rule, scene)
    found = [problem for check in CONTENT_CHECKS for problem in check(rule, scene)]
    yield from found if found or empty else no_limit(rule, scene)


def first(checks: Sequence[Check], rule: Rule, scene: Scene) -> Iterator[Problem]:
    """Give the first reason only: the others follow from it or would confuse."""
    for check in checks:
        found = list(check(rule, scene))
        if found:
            yield from found
            return


def empty_block(rule: Rule, _scene: Scene) -> Iterator[Problem]:
    if rule.document is not None:
        for objection in empty_blocks(rule.spec()):
            yield objection.problem(rule.document, (*rule.path, "spec"))


# Why does the host not name the service?


def _dotted_host(rule: Rule, scene: Scene) -> Iterator[Problem]:
    full = _completed(rule, scene)
    if full is None or rule.host in scene.hosts:
        return
    message = f"the host {quoted(rule.host)} has a dot, so Istio takes it for a full name, and no service of the cluster is called that"
    yield rule.warning(
        ("host",), message, hint=f"write {scene.service.host if _alike(full, scene.service.host) else full}", code="host-not-fqdn"
    )


def _completed(rule: Rule, scene: Scene) -> str | None:
    """Give the full name that a dotted host was meant to be, if it looks like a part of one: ``user.base`` or ``user.base.svc``."""
    host, service = rule.host, scene.service
    if "." not in host or "*" in host:
        return None
    if service.host.startswith(f"{host}."):
        return service.host
    labels = host.split(".")
    if len(labels) == _DOTTED_NAME and labels[1] in {service.namespace, scene.client.namespace, rule.namespace}:
        return f"{host}.svc.{service.domain}"
    return f"{host}.{service.domain}" if len(labels) == _DOTTED_SVC and labels[2] == "svc" else None


def _host_elsewhere(rule: Rule, scene: Scene) -> Iterator[Problem]:
    if rule.host == scene.service.name:
        message = (
            f"the host {quoted(rule.host)} means {host_of(rule, scene.service)}: a short name is completed with the rule's own namespace"
        )
        yield rule.warning(
            ("host",),
            message,
            hint=f"write {scene.service.host}, or put the rule into the namespace {scene.service.namespace}",
            code="host-other-namespace",
        )


def _misspelt_host(rule: Rule, scene: Scene) -> Iterator[Problem]:
    host = host_of(rule, scene.service)
    if host not in scene.hosts and _alike(host, scene.service.host):
        yield rule.warning(
            ("host",), f"no known service is called {host}", hint=f"did you mean {scene.service.host}?", code="host-misspelt"
        )


def _alike(host: str, target: str) -> bool:
    labels, wanted = host.split("."), target.split(".")
    return len(labels) == len(wanted) and all(
        difflib.SequenceMatcher(None, *pair).ratio() >= SIMILAR for pair in zip(labels, wanted, strict=True)
    )


def _other_service(rule: Rule, scene: Scene) -> Iterator[Problem]:
    if scene.merged is None:
        message = f"the rule is for {host_of(rule, scene.service)}, not for the target {scene.service.host}: it limits nothing here"
        yield rule.warning(
            ("host",), message, hint=f"write {scene.service.host} if that is what you mean to limit", code="host-other-service"
        )


# The host is right: why does the rule not reach the client?


def _selector_namespace(rule: Rule, scene: Scene) -> Iterator[Problem]:
    if rule.selector is not None and rule.namespace != scene.client.namespace:
        own, other = rule.namespace, scene.client.namespace
        message = f"a rule with a workloadSelector is for workloads of its own namespace {own}; the client is in {other}"
        yield rule.warning(
            ("workloadSelector",),
            message,
            hint="put the rule into the client's namespace, or leave the selector out",
            code="selector-other-namespace",
            at_key=True,
        )


def _selector_labels(rule: Rule, scene: Scene) -> Iterator[Problem]:
    missing = [quoted(f"{key}={value}") for key, value in (rule.selector or {}).items() if scene.client.labels.get(key) != value]
    if missing:
        message = f"the workloadSelector does not fit the client: it has no label {', '.join(missing)}"
        yield rule.warning(
            ("workloadSelector",), message, hint="correct the selector or the client's labels", code="selector-other-workload", at_key=True
        )


def _hidden(rule: Rule, scene: Scene) -> Iterator[Problem]:
    if not is_visible(rule, scene.client.namespace):
        message = f"exportTo hides the rule from the client's namespace {scene.client.namespace}"
        yield rule.warning(
            ("exportTo",),
            message,
            hint=f"add {scene.client.namespace} to exportTo, or leave exportTo out",
            code="export-to-hides",
            at_key=True,
        )


def _stray_namespace(rule: Rule, scene: Scene) -> Iterator[Problem]:
    searched = list(dict.fromkeys((scene.client.namespace, scene.service.namespace, scene.root_namespace)))
    if rule.namespace not in searched:
        message = f"Istio looks for a rule in {', '.join(searched)} only, not in {rule.namespace}"
        yield rule.warning(
            ("host",), message, hint=f"put the rule into the namespace {scene.service.namespace}", code="namespace-not-searched"
        )


def _beaten(rule: Rule, scene: Scene) -> Iterator[Problem]:
    if scene.merged is None:
        message = "a rule with a more specific host stands before it, and that one is not for this client"
        yield rule.warning(("host",), message, hint="widen the exportTo of the more specific rule", code="more-specific-host")
        return
    chosen = scene.merged.rule
    code, reason = _why_beaten(rule, chosen, scene)
    hint = f"change {chosen.key} instead, or remove it: Istio does not mix the two"
    yield rule.warning(("host",), f"the rule has no effect, {chosen.key} counts instead: {reason}", hint=hint, code=code)


def _why_beaten(rule: Rule, chosen: Rule, scene: Scene) -> tuple[str, str]:
    service = scene.service
    if rule.namespace != chosen.namespace:
        return "nearer-namespace", f"Istio looks into the namespace {chosen.namespace} first"
    if specificity(host_of(rule, service)) < specificity(host_of(chosen, service)):
        return "more-specific-host", f"its host {chosen.host} is more specific than {rule.host}"
    if chosen.selector is not None:
        return "selector-wins", "its workloadSelector fits the client"
    return (
        "export-to-differs",
        f"the two have different exportTo ({_listed(rule)} and {_listed(chosen)}), so Istio does not merge them and takes the youngest",
    )


def _listed(rule: Rule) -> str:
    return ", ".join(sorted(exports(rule))) or "none"


# The rule reaches the client: what in it does nothing?


def older_policy(rule: Rule, scene: Scene) -> Iterator[Problem]:
    source = scene.merged.policy_source if scene.merged and rule in scene.merged.sources else None
    if source is None or source is rule or rule.traffic_policy is None:
        return
    reason = f"{source.key} is for the same host and {_before(source, rule)}, and Istio takes the first one as a whole"
    message = f"this trafficPolicy has no effect: {reason}"
    yield rule.warning(("trafficPolicy",), message, hint=f"change {source.key} instead, or remove it", code="older-rule", at_key=True)


def _older_subset(rule: Rule, scene: Scene) -> Iterator[Problem]:
    merged = scene.merged if scene.merged and rule in scene.merged.sources else None
    for index, subset in enumerate(rule.subsets):
        source = merged.subset_source(subset.name) if merged else None
        if source is not None and source is not rule:
            message = f"the subset {subset.name} has no effect: {source.key} has one of that name and {_before(source, rule)}"
            yield rule.warning(
                ("subsets", index, "name"), message, hint="give it another name, or remove the other one", code="older-subset"
            )


def _before(source: Rule, rule: Rule) -> str:
    return "comes first by name" if source.created == rule.created else "is older"


def _second_entry(rule: Rule, scene: Scene) -> Iterator[Problem]:
    for path, policy in rule.policies():
        counting = {} if isinstance(policy, PortPolicy) else port_entries(policy)
        for index, entry in enumerate(policy.port_level_settings or () if not isinstance(policy, PortPolicy) else ()):
            number = entry.port.number if entry.port else None
            if number in scene.service.ports and counting[number][0] != index:
                message = f"this policy of port {number} has no effect: an entry above is for the same port, and Istio takes the first one"
                where: Path = (*path, "portLevelSettings", index, "port", "number")
                yield rule.warning(where, message, hint="make one entry of the two", code="port-twice")


def _hidden_by_port(rule: Rule, scene: Scene) -> Iterator[Problem]:
    policy = rule.traffic_policy or TrafficPolicy()
    for number, (index, entry) in port_entries(policy).items():
        lost = _lost(policy.connection_pool, entry.connection_pool)
        if lost and number in scene.service.ports:
            message = f"the policy of port {number} replaces the one above it as a whole, so {lost} of that has no effect on the port"
            yield rule.warning(
                ("trafficPolicy", "portLevelSettings", index, "port", "number"),
                message,
                hint="repeat the limits in a connectionPool of this entry",
                code="port-hides-pool",
            )


def _changed_by_port(rule: Rule, scene: Scene) -> Iterator[Problem]:
    policy = rule.traffic_policy or TrafficPolicy()
    above = limits_of(policy.connection_pool)
    for number, (index, entry) in port_entries(policy).items():
        if number not in scene.service.ports:
            continue
        for path, value in limits_of(entry.connection_pool).items():
            if value and above.get(path) and above[path] != value:
                message = f"on port {number} {path[-1]} {value} holds, and {above[path]} of the policy above it has no effect"
                where: Path = ("trafficPolicy", "portLevelSettings", index, "connectionPool", *path)
                yield rule.warning(where, message, hint="leave one of them out, if no other port needs it", code="port-changes-limit")


def _hidden_by_subset(rule: Rule, scene: Scene) -> Iterator[Problem]:
    whole = scene.merged.rule if scene.merged and rule in scene.merged.sources else rule
    for index, subset in enumerate(rule.subsets):
        if subset.name not in scene.routed_subsets:
            continue
        pools = ((effective_policy(whole, port), effective_policy(whole, port, subset)) for port in scene.service.ports)
        lost = next(filter(None, (_lost(above.connection_pool, own.connection_pool) for above, own in pools)), "")
        if lost:
            message = (
                f"the subset {subset.name} replaces the connectionPool above it as a whole, so {lost} of that has no effect on the subset"
            )
            path: Path = ("subsets", index, "trafficPolicy", "connectionPool")
            yield rule.warning(
                path, message, hint="repeat the limits in the subset's connectionPool", code="subset-hides-pool", at_key=True
            )


def _lost(above: ConnectionPool | None, own: ConnectionPool | None) -> str:
    """Name the limits of a pool that another one, which stands in its place, does not set."""
    kept = {path for path, value in limits_of(own).items() if value}
    return " and ".join(f"{path[-1]} {value}" for path, value in limits_of(above).items() if value and path not in kept)


def _unrouted_subset(rule: Rule, scene: Scene) -> Iterator[Problem]:
    for index, subset in enumerate(rule.subsets):
        if subset.traffic_policy is not None and subset.name not in scene.routed_subsets:
            path: Path = ("subsets", index, "trafficPolicy")
            message = f"the policy of the subset {subset.name} has no effect: no route sends traffic to the subset"
            yield rule.warning(
                path, message, hint="move it to spec.trafficPolicy, or add a route to the subset", code="subset-not-routed", at_key=True
            )


def _unknown_port(rule: Rule, scene: Scene) -> Iterator[Problem]:
    for path, policy in rule.policies():
        number = policy.port.number or 0 if isinstance(policy, PortPolicy) and policy.port else None
        if number is not None and number not in scene.service.ports:
            message = f"the policy of port {number} has no effect: the clients do not call that port of {scene.service.host}"
            hint = f"they call {', '.join(map(str, scene.service.ports))}; the service's port counts, not the pod's"
            yield rule.warning((*path, "port", "number"), message, hint=hint, code="port-unknown")


def no_limit(rule: Rule, scene: Scene) -> Iterator[Problem]:
    """Say of a rule that counts that it limits nothing, where no other finding says why."""
    merged = scene.merged
    if merged is None or rule is not (merged.policy_source or merged.sources[0]):
        return
    routed = [None, *(subset for subset in merged.rule.subsets if subset.name in scene.routed_subsets)]
    policies = [effective_policy(merged.rule, port, subset) for port in scene.service.ports for subset in routed]
    if not any(value for policy in policies for value in limits_of(policy.connection_pool).values()):
        message = f"the rule counts for the client, but sets none of {', '.join(FIELDS.values())}"
        hint = "set one of them in trafficPolicy.connectionPool, such as http.http2MaxRequests"
        yield rule.warning(("trafficPolicy", "connectionPool"), message, hint=hint, code="no-limit", at_key=True)


HOST_CHECKS: tuple[Check, ...] = (_dotted_host, _host_elsewhere, _misspelt_host, _other_service)
REACH_CHECKS: tuple[Check, ...] = (_selector_namespace, _selector_labels, _hidden, _stray_namespace, _beaten)
PASSED_OVER_CHECKS: tuple[Check, ...] = (
    _second_entry,
    _hidden_by_port,
    _hidden_by_subset,
    zero,
    empty_half,
    http2_only,
    _unrouted_subset,
    _unknown_port,
)
CONTENT_CHECKS: tuple[Check, ...] = (older_policy, _older_subset, _changed_by_port, endless_queue, one_connection, *PASSED_OVER_CHECKS)
