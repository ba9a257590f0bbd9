"""What will a run change in the cluster, and why so? Decided from what was found, before anything is touched.

Three ways. Own: the scenario's rule is created, if no rule is in force for the clients. Overlay: one rule of ours in the clients' namespace
goes over what is in force, for the clients only: its policy is a copy with the scenario's connection pool in it. Patch: the connection
pool of the rule in force is replaced. The first that does what the scenario means is taken; the same selection that says which rule
Istio uses says whether it would.
"""

from __future__ import annotations

import copy
import difflib
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import yaml

from loadgen.cluster.managers import owner_tool
from loadgen.cluster.marks import DOMAIN, HOST, Json, annotation, key_of, overlay_name, run_of, wait_or_restore, whose
from loadgen.cluster.paths import ISTIO
from loadgen.cluster.rights import Touched
from loadgen.cluster.rules import read_rule
from loadgen.errors import RefusedError
from loadgen.policy.limits import Limits
from loadgen.policy.rule import KIND
from loadgen.policy.selection import ROOT_NAMESPACE, host_of, winner
from loadgen.policy.translation import cluster_name, clusters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadgen.policy.rule import Rule
    from loadgen.policy.selection import Merged, Service, Workload

_SHOWN = ("name", "namespace", "labels", "annotations")
_OWNERS_METADATA = ("labels", "annotations")


class Mode(StrEnum):
    """How the rule is put in force."""

    OWN = "own"
    OVERLAY = "overlay"
    PATCH = "patch"


@dataclass(frozen=True, slots=True)
class Write:
    """One rule that is created, or whose connection pool is replaced. ``rule`` is the whole rule as it will be; ``before`` as it was."""

    rule: Json
    before: Json | None = None

    @property
    def key(self) -> str:
        """Name the rule as ``namespace/name``."""
        return key_of(self.rule)


@dataclass(frozen=True, slots=True)
class Change:
    """What a run will change. ``before`` and ``after`` are all rules without it and with it; ``sources`` those that an overlay copies.

    With ``refusals`` it must not be made.
    """

    mode: Mode
    writes: tuple[Write, ...]
    reasons: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    before: tuple[Rule, ...] = field(default=(), repr=False)
    after: tuple[Rule, ...] = field(default=(), repr=False)
    sources: tuple[Json, ...] = field(default=(), repr=False)

    def check(self) -> None:
        """Make sure that the change may be made.

        Raises RefusedError with all reasons why not.
        """
        if self.refusals:
            hint = "nothing was changed; loadgen plan shows what is in force and what a run would do"
            raise RefusedError(f"the rule cannot be changed: {'; '.join(self.refusals)}", hint=hint)

    @property
    def touched(self) -> tuple[Touched, ...]:
        """Name the rules that it creates or changes."""
        return tuple(Touched(write.key, creates=write.before is None) for write in self.writes)

    def diff(self) -> str:
        """Show the change to a person, as a unified diff of YAML."""
        lines: list[str] = []
        for write in self.writes:
            old = _yaml(write.before).splitlines() if write.before else []
            before = f"{write.key} (in the cluster)" if write.before else "/dev/null"
            lines += difflib.unified_diff(old, _yaml(write.rule).splitlines(), before, f"{write.key} (during the run)", lineterm="")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that the decision depends on. ``raw`` are the cluster's rules as they are, by ``namespace/name``; ``known`` as they are read."""

    raw: dict[str, Json]
    known: tuple[Rule, ...]
    wanted: tuple[Rule, ...]
    service: Service
    client: Workload
    root_namespace: str
    version: str
    allow_managed: bool

    def winner(self, rules: Sequence[Rule]) -> Merged | None:
        """Say which rule the clients get."""
        return winner(rules, self.service, self.client, root_namespace=self.root_namespace)

    def limits(self, rules: Sequence[Rule]) -> list[Limits]:
        """Say which limits the clients get, for each port."""
        made = clusters(rules, self.service, self.client, root_namespace=self.root_namespace)
        return [Limits.of_cluster(made[cluster_name(self.service, port)]) for port in self.service.ports]

    def pool(self) -> Json | None:
        """Give the connection pool that the scenario's rules mean for the clients, as it stands in their file."""
        merged = self.winner(self.wanted)
        source = merged.policy_source if merged else None
        spec: Any = source.spec() if source else None
        found = spec["trafficPolicy"].get("connectionPool") if isinstance(spec, dict) else None
        return copy.deepcopy(found)


def plan_change(
    rules: Sequence[Json],
    wanted: Sequence[Rule],
    service: Service,
    client: Workload,
    *,
    version: str = "v1",
    mode: Mode | None = None,
    allow_managed: bool = False,
    root_namespace: str = ROOT_NAMESPACE,
) -> Change:
    """Decide how the scenario's rules are put in force among these of the cluster.

    ``rules`` are all of the clients', the service's and the root namespace, and of those that the wanted rules name; ``version`` is the
    best one that is served. With ``mode`` only that one is looked at. The change that is given may have refusals; it has if a rule of the
    service has the marks of a run.
    """
    raw = {key_of(rule): rule for rule in rules}
    read = [read_rule(rule) for rule in raw.values()]
    scene = Scene(raw, tuple(rule for rule, _ in read), tuple(wanted), service, client, root_namespace, version, allow_managed)
    notes = tuple(
        f"the rule {rule.key} holds what is not known here, so its limits are not: {problems[0].message}"
        for rule, problems in read
        if problems and rule.document is None
    )
    if held := _held(scene):
        return Change(mode or Mode.OWN, (), notes, held, scene.known, scene.known)
    tried = [each(scene) for each in ([_WAYS[mode]] if mode else _WAYS.values())]
    chosen = next((change for change in tried if not change.refusals), tried[0])
    if chosen.refusals:
        refusals = dict.fromkeys(f"{change.mode}: {refusal}" for change in tried for refusal in change.refusals)
        return replace(chosen, refusals=tuple(refusals), reasons=(*chosen.reasons, *notes))
    passed = (f"not {change.mode}: {'; '.join(change.refusals)}" for change in tried[: tried.index(chosen)])
    return replace(chosen, reasons=(*chosen.reasons, *passed, *notes))


def _held(scene: Scene) -> tuple[str, ...]:
    """Refuse to plan with what another run made of the rules, or left: the limits before it would be lost for good."""
    host = scene.service.host
    marked = [rule for rule in scene.known if run_of(scene.raw[rule.key])]
    ours = [rule.key for rule in marked if host in {host_of(rule, scene.service), annotation(scene.raw[rule.key], HOST)}]
    return tuple(f"the rule {key} is changed by {whose(scene.raw[key])} ({wait_or_restore(scene.raw[key])})" for key in ours)


def _own(scene: Scene) -> Change:
    writes = tuple(Write(_object(scene, rule)) for rule in scene.wanted)
    refusals = [refusal for rule in scene.wanted for refusal in _in_the_way(scene, rule)]
    merged, meant = scene.winner(scene.known), scene.winner(scene.wanted)
    if merged is not None and meant is not None:
        message = f"the rule {merged.rule.key} is in force for the clients, and all that it says would be replaced or hide ours"
        refusals.append(message)
    after = (*scene.known, *scene.wanted)
    if not refusals:
        refusals += _other_limits(scene, after)
    names = " and ".join(write.key for write in writes)
    none = "" if merged else f"no rule for {scene.service.host} is in force for the clients in {scene.client.namespace}, so "
    reason = f"{none}{names} is created and removed again; it holds for all clients of the mesh that can see it"
    return Change(Mode.OWN, writes, (reason,), tuple(refusals), scene.known, after)


def _object(scene: Scene, rule: Rule) -> Json:
    """Give a rule of a file as it is to be created."""
    raw: Any = rule.document.data if rule.document else {}
    for step in rule.path:
        raw = raw[step]
    kept = {key: raw["metadata"][key] for key in _OWNERS_METADATA if raw["metadata"].get(key)}
    metadata = {"name": rule.name, "namespace": rule.namespace, **kept}
    return copy.deepcopy({"apiVersion": f"{ISTIO}/{scene.version}", "kind": KIND, "metadata": metadata, "spec": raw["spec"]})


def _in_the_way(scene: Scene, rule: Rule) -> list[str]:
    found = []
    for other in scene.known:
        if other.key == rule.key:
            found.append(f"there is a rule {other.key} already")
        elif other.namespace == rule.namespace and host_of(other, scene.service) == host_of(rule, scene.service):
            found.append(f"the rule {other.key} is for the same host in the same namespace and older, so its policy would count")
    return found


def _overlay(scene: Scene) -> Change:
    pool, merged = scene.pool(), scene.winner(scene.known)
    namespace, name = scene.client.namespace, overlay_name(scene.service.host)
    refusals = [] if pool else [_no_pool(scene)]
    if not scene.client.labels:
        refusals.append("the clients have no labels that a rule could select them by")
    if f"{namespace}/{name}" in scene.raw:
        command = f"kubectl delete destinationrules.networking.istio.io {name} -n {namespace}"
        refusals.append(f"there is a rule {namespace}/{name} already, which no run has any more; to remove it: {command}")
    sources = merged.sources if merged else ()
    policy = _raw_spec(scene, merged.policy_source).get("trafficPolicy") if merged and merged.policy_source else None
    spec: Json = {
        "host": scene.service.host,
        "exportTo": ["."],
        "workloadSelector": {"matchLabels": dict(scene.client.labels)},
        "trafficPolicy": _with_pool(policy, pool or {}, scene.service.ports),
    }
    subsets = [subset for source in sources for subset in _raw_spec(scene, source).get("subsets") or ()]
    if subsets:
        spec["subsets"] = [*{str(each.get("name")): each for each in reversed(subsets)}.values()][::-1]
    rule = {
        "apiVersion": f"{ISTIO}/{scene.version}",
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": copy.deepcopy(spec),
    }
    after = (*scene.known, read_rule(rule)[0])
    if not refusals:
        refusals += _other_limits(scene, after)
    over = f"{' and '.join(source.key for source in sources)} stays as it is" if sources else "there is none for them now"
    selector = ",".join(f"{key}={value}" for key, value in scene.client.labels.items())
    reason = f"a rule {namespace}/{name} for the clients only ({selector}) goes over what is in force for them: {over}, and what it says is copied"
    return Change(
        Mode.OVERLAY, (Write(rule),), (reason,), tuple(refusals), scene.known, after, tuple(scene.raw[each.key] for each in sources)
    )


def _with_pool(policy: Json | None, pool: Json, ports: Sequence[int]) -> Json:
    """Copy a policy with another connection pool, also for those of the ports that have a policy of their own."""
    made: Json = {**copy.deepcopy(policy or {}), "connectionPool": pool}
    for entry in made.get("portLevelSettings") or ():
        if (entry.get("port") or {}).get("number") in ports:
            entry["connectionPool"] = pool
    return made


def _patch(scene: Scene) -> Change:
    pool, merged = scene.pool(), scene.winner(scene.known)
    refusals = [] if pool else [_no_pool(scene)]
    if merged is None:
        return Change(
            Mode.PATCH, (), (), (*refusals, "no rule is in force for the clients that could be changed"), scene.known, scene.known
        )
    target = merged.policy_source or merged.sources[0]
    raw = scene.raw[target.key]
    refusals += _not_to_touch(scene, target, raw)
    spec = raw.get("spec") or {}
    policy: Json = {**(spec.get("trafficPolicy") or {}), "connectionPool": pool or {}}
    patched = copy.deepcopy({**raw, "spec": {**spec, "trafficPolicy": policy}})
    after = tuple(read_rule(patched)[0] if rule.key == target.key else rule for rule in scene.known)
    if not refusals:
        refusals += _other_limits(scene, after)
    reason = f"the connection pool of the rule {target.key}, which is in force for the clients, is replaced and put back; it holds for all clients of the mesh that can see it"
    return Change(Mode.PATCH, (Write(patched, raw),), (reason,), tuple(refusals), scene.known, after)


def _not_to_touch(scene: Scene, rule: Rule, raw: Json) -> list[str]:
    found = []
    tool = owner_tool(raw)
    if tool and not scene.allow_managed:
        found.append(
            f"the rule {rule.key} is kept by {tool}, which would undo the change or be undone by it (--allow-managed does it all the same)"
        )
    if host_of(rule, scene.service) != scene.service.host:
        found.append(f"the rule {rule.key} is for {rule.host}, so other services would get the limits, too")
    if raw["metadata"].get("deletionTimestamp"):
        found.append(f"the rule {rule.key} is being deleted")
    return found


def _raw_spec(scene: Scene, rule: Rule) -> Json:
    spec: Json = scene.raw[rule.key].get("spec") or {}
    return spec


def _no_pool(scene: Scene) -> str:
    names = " and ".join(rule.key for rule in scene.wanted) or "no rule"
    return f"the scenario's {names} sets no connection pool for clients of {scene.service.host}"


def _other_limits(scene: Scene, after: Sequence[Rule]) -> list[str]:
    """Refuse what would not lead to the limits that the scenario means."""
    meant, got = scene.limits(scene.wanted), scene.limits(after)
    if meant == got or scene.winner(scene.wanted) is None:
        return []
    merged = scene.winner(after)
    source = f"the rule {merged.rule.key}" if merged else "no rule"
    want, have = meant[0].in_force(), got[0].in_force()
    return [f"the clients would get {have or 'no limits'} from {source} instead of {want or 'no limits'}"]


_WAYS: dict[Mode, Callable[[Scene], Change]] = {Mode.OWN: _own, Mode.OVERLAY: _overlay, Mode.PATCH: _patch}
"""In the order in which they are tried: the least that is foreign is touched first."""


def _yaml(rule: Json) -> str:
    metadata = {key: rule["metadata"][key] for key in _SHOWN if rule["metadata"].get(key)}
    if "annotations" in metadata:
        kept = {key: value for key, value in metadata["annotations"].items() if not key.startswith((DOMAIN, "kubectl.kubernetes.io/"))}
        metadata = {**metadata, "annotations": kept} if kept else {key: value for key, value in metadata.items() if key != "annotations"}
    shown = {"apiVersion": rule["apiVersion"], "kind": KIND, "metadata": metadata, "spec": rule.get("spec") or {}}
    return str(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True))
