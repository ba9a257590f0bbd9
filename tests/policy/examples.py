"""The service, the client and the shortest way from YAML to rules, as all tests of this folder use them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from loadgen.document import parse_documents
from loadgen.plain import kubectl_value
from loadgen.policy.rule import parse_rules
from loadgen.policy.selection import Service, Workload

if TYPE_CHECKING:
    from loadgen.errors import Problem
    from loadgen.policy.rule import Rule

FILE = "user.yaml"
USER = Service("user", "base", (7000, 7001))
CLIENT = Workload("test", {"app": "client"})


def read(text: str) -> tuple[list[Rule], list[Problem]]:
    """Read rules from YAML text."""
    return parse_rules(parse_documents(textwrap.dedent(text), FILE, plain=kubectl_value), FILE)


def rules_of(text: str) -> list[Rule]:
    """Read rules that have no errors; an empty text holds none."""
    if not text:
        return []
    rules, problems = read(text)
    assert [problem for problem in problems if problem.severity == "error"] == []
    return rules


def manifest(spec: str, *, name: str = "user", namespace: str = "base", created: str = "") -> str:
    """Wrap a ``spec`` in a whole rule; the spec's first line is line 7 of the document, indented by two."""
    lines = ["apiVersion: networking.istio.io/v1", "kind: DestinationRule", "metadata:", f"  name: {name}", f"  namespace: {namespace}"]
    lines += [f'  creationTimestamp: "{created}"'] if created else []
    return "\n".join([*lines, "spec:", textwrap.indent(textwrap.dedent(spec).strip("\n"), "  "), ""])


def together(*manifests: str) -> str:
    """Put several rules into one file."""
    return "---\n".join(manifests)


def limit(host: str = "user", requests: int = 5, extra: str = "") -> str:
    """Write a spec with one limit."""
    return f"host: '{host}'\ntrafficPolicy: {{connectionPool: {{http: {{http2MaxRequests: {requests}}}}}}}\n{textwrap.dedent(extra)}"
