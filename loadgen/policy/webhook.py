"""What does Istio's validating webhook refuse that no single key shows? Keys that contradict each other, repeat or say nothing.

Works on the plain values, before anyone knows whether they have the right types: so these mistakes are shown together with
wrong types, and what has a wrong type is passed over in silence here. Source: Istio's ``ValidateDestinationRule``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from loadgen.errors import Severity
from loadgen.policy.scalar import namespace_name, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from loadgen.document import Document
    from loadgen.errors import Problem

Path = tuple[str | int, ...]
Mapped = dict[str, Any]

EMPTY_BLOCK = "empty-block"
EVERYWHERE = "*"
OWN_NAMESPACE = "."
_PORT_BLOCKS = ("connectionPool", "outlierDetection", "loadBalancer", "tls")


@dataclass(frozen=True, slots=True)
class Objection:
    """One thing that the webhook refuses or warns about; ``path`` starts at ``spec``."""

    path: Path
    message: str
    hint: str = ""
    code: str = "invalid"
    severity: Severity = Severity.ERROR

    def problem(self, document: Document, spec_path: Sequence[str | int]) -> Problem:
        """Point at the key in the document."""
        found = document.problem((*spec_path, *self.path), self.message, hint=self.hint, code=self.code, at_key=True)
        return replace(found, severity=self.severity)


def objections(spec: object, namespace: str) -> list[Objection]:
    """Find everything that contradicts itself in a rule's plain ``spec``; ``namespace`` is the rule's."""
    if not isinstance(spec, dict):
        return []
    found = [*empty_blocks(spec), *_subset_names(spec), *_exports(spec, namespace), *_selector(spec)]
    for path, policy in _policies(spec):
        found += [*_tunnel(path, policy), *_pool(path, policy), *_outlier(path, policy), *_balancer(path, policy)]
    for path, policy in _port_policies(spec):
        found += [*_port(path, policy), *_pool(path, policy), *_outlier(path, policy), *_balancer(path, policy)]
    return found


def empty_blocks(spec: object) -> list[Objection]:
    """Find the blocks that the webhook refuses because they say nothing; a mesh without the webhook takes them for unset."""
    found = []
    for path, policy in _policies(spec):
        if _is_empty(policy):
            found.append(_empty(path, "the traffic policy is empty"))
    for path, policy in (*_policies(spec), *_port_policies(spec)):
        pool = policy.get("connectionPool")
        if isinstance(pool, dict) and _is_empty(pool):
            found.append(_empty((*path, "connectionPool"), "the connection pool is empty"))
    return found


def _empty(path: Path, message: str) -> Objection:
    consequence = "it must have at least one field; Istio's webhook refuses it, and without the webhook it counts as unset"
    return Objection(path, f"{message}: {consequence}", "set a field in it, or leave the block out", EMPTY_BLOCK, Severity.WARNING)


def _policies(spec: object) -> Iterator[tuple[Path, Mapped]]:
    """Give the policy of the service and those of its subsets."""
    owners: list[tuple[Path, object]] = [((), spec), *((("subsets", index), subset) for index, subset in _entries(spec, "subsets"))]
    for path, owner in owners:
        policy = owner.get("trafficPolicy") if isinstance(owner, dict) else None
        if isinstance(policy, dict):
            yield (*path, "trafficPolicy"), policy


def _port_policies(spec: object) -> Iterator[tuple[Path, Mapped]]:
    for path, policy in _policies(spec):
        for index, entry in _entries(policy, "portLevelSettings"):
            yield (*path, "portLevelSettings", index), entry


def _entries(owner: object, key: str) -> Iterator[tuple[int, Mapped]]:
    values = owner.get(key) if isinstance(owner, dict) else None
    for index, value in enumerate(values if isinstance(values, list) else []):
        if isinstance(value, dict):
            yield index, value


def _is_empty(block: Mapping[str, Any]) -> bool:
    return all(value is None for value in block.values())


def _block(owner: Mapping[str, Any], *keys: str) -> Mapped:
    value: object = owner
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _subset_names(spec: Mapped) -> Iterator[Objection]:
    seen = set()
    for index, subset in _entries(spec, "subsets"):
        name = subset.get("name")
        if isinstance(name, str) and name in seen:
            yield Objection(
                ("subsets", index, "name"),
                f"the subset name {quoted(name)} stands twice",
                "give each subset a name of its own",
                "duplicate-subset",
            )
        seen.add(name if isinstance(name, str) else None)


def _exports(spec: Mapped, namespace: str) -> Iterator[Objection]:
    values = spec.get("exportTo")
    entries = [value if isinstance(value, str) else None for value in values] if isinstance(values, list) else []
    named = [namespace if entry == OWN_NAMESPACE else entry for entry in entries]
    for index, name in enumerate(named):
        if name is not None and name in named[:index]:
            both = {entry for entry, other in zip(entries, named, strict=True) if other == name}
            yield _export(
                index, f"exportTo names {quoted(name)} twice" + (" ('.' is the rule's own namespace)" if OWN_NAMESPACE in both else "")
            )
        elif name is not None and not _is_target(name):
            yield _export(index, f"exportTo cannot be {quoted(str(entries[index]))}", "allowed are '.', '*' and names of namespaces")
    if EVERYWHERE in named and len(set(named)) > 1:
        yield _export(named.index(EVERYWHERE), "exportTo has '*' beside others", "'*' alone means every namespace")
    if spec.get("workloadSelector") is not None and set(named) - {namespace, None}:
        message = "a rule with a workloadSelector can only be exported to its own namespace"
        yield Objection(("exportTo",), message, "write exportTo: ['.'] or leave it out", "export-to")


def _export(index: int, message: str, hint: str = "leave one of them out") -> Objection:
    return Objection(("exportTo", index), message, hint, "export-to")


def _is_target(name: str) -> bool:
    try:
        return name == EVERYWHERE or bool(namespace_name(name))
    except ValueError:
        return False


def _selector(spec: Mapped) -> Iterator[Objection]:
    selector = spec.get("workloadSelector")
    if not isinstance(selector, dict):
        return
    wanted = _block(selector, "matchLabels")
    for key, value in wanted.items():
        if not key or "*" in key or (isinstance(value, str) and "*" in value):
            yield Objection(
                ("workloadSelector", "matchLabels", key),
                "a workloadSelector takes no wildcard and no empty key",
                "write the label in full",
                "selector",
            )
    if not wanted:
        message = "the workloadSelector has no labels: it selects every workload of the rule's namespace"
        yield Objection(("workloadSelector",), message, "add matchLabels", "selector-empty", Severity.WARNING)


def _tunnel(path: Path, policy: Mapped) -> Iterator[Objection]:
    if policy.get("tunnel") is not None and policy.get("proxyProtocol") is not None:
        yield Objection((*path, "proxyProtocol"), "tunnel and proxyProtocol cannot be set together", "leave one of them out")


def _port(path: Path, policy: Mapped) -> Iterator[Objection]:
    if policy.get("port") is None:
        yield Objection(path, "an entry of portLevelSettings must say for which port", "add port: {number: ...}", "port-missing")
    if all(policy.get(block) is None for block in _PORT_BLOCKS):
        yield Objection(
            path, "a port's policy must have at least one field beside the port", f"add one of {', '.join(_PORT_BLOCKS)}", "port-empty"
        )


def _pool(path: Path, policy: Mapped) -> Iterator[Objection]:
    http = _block(policy, "connectionPool", "http")
    where = (*path, "connectionPool", "http")
    if http.get("h2UpgradePolicy") == "UPGRADE" and http.get("useClientProtocol") is True:
        yield Objection(
            (*where, "useClientProtocol"), "useClientProtocol must not be true when h2UpgradePolicy is UPGRADE", "choose one of them"
        )
    alive = http.get("http2KeepAlive")
    missing = [key for key in ("interval", "timeout") if isinstance(alive, dict) and alive.get(key) is None]
    if missing:
        yield Objection(
            (*where, "http2KeepAlive"), f"http2KeepAlive needs interval and timeout; {' and '.join(missing)} is missing", code="missing-key"
        )


def _outlier(path: Path, policy: Mapped) -> Iterator[Objection]:
    outlier = _block(policy, "outlierDetection")
    where = (*path, "outlierDetection")
    failures = outlier.get("consecutiveLocalOriginFailures")
    if isinstance(failures, int) and failures > 0 and outlier.get("splitExternalLocalOriginErrors") is not True:
        message = "consecutiveLocalOriginFailures counts only with splitExternalLocalOriginErrors: true"
        yield Objection(
            (*where, "consecutiveLocalOriginFailures"), message, "add splitExternalLocalOriginErrors: true, or leave this key out"
        )
    if outlier.get("consecutiveErrors"):
        message = "consecutiveErrors is deprecated and does nothing"
        yield Objection(
            (*where, "consecutiveErrors"), message, "use consecutive5xxErrors or consecutiveGatewayErrors", "deprecated", Severity.WARNING
        )


def _balancer(path: Path, policy: Mapped) -> Iterator[Objection]:
    balancer = _block(policy, "loadBalancer")
    if balancer.get("simple") is not None and balancer.get("consistentHash") is not None:
        yield Objection(
            (*path, "loadBalancer", "consistentHash"), "a loadBalancer takes simple or consistentHash, not both", "leave one of them out"
        )
