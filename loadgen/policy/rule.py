"""Which DestinationRules does a file hold? Reads them as ``kubectl apply -f`` would, and finds every mistake at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from loadgen.errors import Problem, Severity
from loadgen.policy.manifest import HttpPool, Manifest, OutlierDetection, TcpPool, TrafficPolicy
from loadgen.policy.scalar import quoted
from loadgen.policy.webhook import objections
from loadgen.schema import Model, nearest, shown, validate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from loadgen.document import Document
    from loadgen.policy.manifest import PortPolicy, Subset

KIND = "DestinationRule"
DOMAIN = "cluster.local"
_LISTS = ("List", f"{KIND}List")
_HOMES: dict[str, type[Model]] = {
    "connectionPool.http": HttpPool,
    "connectionPool.tcp": TcpPool,
    "outlierDetection": OutlierDetection,
    "trafficPolicy": TrafficPolicy,
}
"""Where the keys that are most often put into the wrong block belong."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One DestinationRule. ``created`` is None for a rule that no cluster has yet: it is younger than all that one has.

    ``path`` leads from the document's root to the rule. A merged rule points at the oldest of those that it was made of.
    """

    name: str
    namespace: str
    host: str
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[str, ...] = ()
    selector: Mapping[str, str] | None = None
    created: datetime | None = None
    document: Document | None = field(default=None, repr=False, compare=False)
    path: Path = field(default=(), repr=False, compare=False)

    @property
    def key(self) -> str:
        """Name the rule as ``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    def policies(self) -> Iterator[tuple[Path, TrafficPolicy | PortPolicy]]:
        """Give every policy with its path from ``spec``: the service's, its ports', then those of each subset."""
        owners: list[tuple[Path, TrafficPolicy | None]] = [((), self.traffic_policy)]
        owners += [(("subsets", index), subset.traffic_policy) for index, subset in enumerate(self.subsets)]
        for owner, policy in owners:
            if policy is not None:
                path = (*owner, "trafficPolicy")
                yield path, policy
                yield from (((*path, "portLevelSettings", index), each) for index, each in enumerate(policy.port_level_settings or ()))

    def spec(self) -> object:
        """Give the plain ``spec`` as it stands in the document."""
        value: Any = self.document.data if self.document else {}
        for step in self.path:
            value = value[step]
        return value.get("spec")

    def warning(self, path: Sequence[str | int], message: str, *, hint: str, code: str, at_key: bool = False) -> Problem:
        """Make a warning at the value that ``path`` leads to from ``spec``."""
        if self.document is None:
            return Problem(self.key, 0, 0, message, hint, code, Severity.WARNING)
        problem = self.document.problem((*self.path, "spec", *path), message, hint=hint, code=code, at_key=at_key)
        return replace(problem, severity=Severity.WARNING)


def resolve_host(host: str, namespace: str, domain: str = DOMAIN) -> str:
    """Complete a host without a dot with the rule's namespace; Istio takes one with a dot as it stands, FQDN or not."""
    return host if "." in host or host == "*" else f"{host}.{namespace}.svc.{domain}"


def parse_rules(documents: Sequence[Document], file: str, *, default_namespace: str = "default") -> tuple[list[Rule], list[Problem]]:
    """Read the rules of one file; several documents and lists are allowed.

    Returns the rules that are free of errors, and every problem: errors, and warnings of what Istio's webhook would say.
    """
    rules: list[Rule] = []
    problems: list[Problem] = []
    for document in documents:
        problems += document.problems
        for path, data in _objects(document, problems):
            rule, found = _parse_rule(document, path, data, default_namespace)
            problems += [*found, *_repetition(rule, rules)]
            rules += [rule] if rule else []
    if not rules and not problems:
        problems.append(
            Problem(
                file,
                0,
                0,
                f"the file holds no {KIND}",
                f"it must hold what kubectl apply -f accepts: kind: {KIND}, metadata, spec",
                "no-rule",
            )
        )
    return rules, sorted(problems, key=lambda problem: (problem.line == 0, problem.line, problem.column))


def _objects(document: Document, problems: list[Problem]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Give the objects of a document, those of a list one by one; what is no DestinationRule goes to ``problems``."""
    data = document.data
    if not isinstance(data, dict) or data.get("kind") not in _LISTS:
        candidates: list[tuple[Path, object]] = [((), data)]
    elif isinstance(data.get("items"), list):
        candidates = [(("items", index), item) for index, item in enumerate(data["items"])]
    else:
        problems.append(document.problem(("items",), f"a {data['kind']} needs items, a list of {KIND}s", code="missing-key", at_key=True))
        return
    for path, value in candidates:
        if isinstance(value, dict) and value.get("kind") == KIND:
            yield path, value
        else:
            problems.append(_not_a_rule(document, path, value))


def _not_a_rule(document: Document, path: Path, value: object) -> Problem:
    if not isinstance(value, dict):
        return document.problem(
            path,
            f"this is {shown(value)}, expected a {KIND}",
            hint=f"a rule starts with apiVersion, kind: {KIND}, metadata and spec",
            code="kind",
        )
    if "kind" not in value:
        return document.problem(path, "the key 'kind' is missing", hint=f"write kind: {KIND}", code="missing-key")
    kind = value["kind"]
    if not isinstance(kind, str):
        return document.problem((*path, "kind"), f"kind is {shown(kind)}, expected '{KIND}'", hint=f"write kind: {KIND}", code="kind")
    hint = nearest(kind, [KIND])
    if not hint.startswith("did you mean"):
        hint = f"only {KIND}s belong in a policy file; keep that in a file of its own"
    return document.problem((*path, "kind"), f"kind is {quoted(kind)}, expected '{KIND}'", hint=hint, code="kind")


def _parse_rule(document: Document, path: Path, data: dict[str, Any], default_namespace: str) -> tuple[Rule | None, list[Problem]]:
    manifest, found = validate(Manifest, document, data=data, at=path)
    problems = [_with_home(problem) for problem in found]
    metadata = data.get("metadata")
    namespace = metadata.get("namespace") if isinstance(metadata, dict) else None
    namespace = namespace if isinstance(namespace, str) else default_namespace
    problems += [each.problem(document, (*path, "spec")) for each in objections(data.get("spec"), namespace)]
    if manifest is None or any(problem.severity is Severity.ERROR for problem in problems):
        return None, problems
    return _rule(manifest, namespace, document, path), problems


def _with_home(problem: Problem) -> Problem:
    """Say where a key belongs that is right but in the wrong block."""
    key = problem.message.removeprefix("unknown key '").removesuffix("'")
    homes = [home for home, model in _HOMES.items() if key in {each.alias for each in model.model_fields.values()}]
    if problem.code != "unknown-key" or not homes:
        return problem
    return replace(problem, hint=f"{key} belongs under {' or '.join(homes)}")


def _rule(manifest: Manifest, namespace: str, document: Document, path: Path) -> Rule:
    spec = manifest.spec
    selector = spec.workload_selector
    return Rule(
        name=manifest.metadata.name,
        namespace=namespace,
        host=spec.host,
        traffic_policy=spec.traffic_policy,
        subsets=tuple(spec.subsets or ()),
        export_to=tuple(spec.export_to or ()),
        selector=None if selector is None else dict(selector.match_labels or {}),
        created=manifest.metadata.creation_timestamp,
        document=document,
        path=path,
    )


def _repetition(rule: Rule | None, earlier: Sequence[Rule]) -> Iterator[Problem]:
    if rule and rule.document and any(rule.key == other.key for other in earlier):
        message = f"the rule {rule.key} stands twice in the file; in a cluster the last one would overwrite the first"
        yield rule.document.problem(
            (*rule.path, "metadata", "name"), message, hint="give it another name, or leave one of them out", code="duplicate-rule"
        )
