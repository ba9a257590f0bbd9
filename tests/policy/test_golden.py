"""Does the translation equal what a real istiod made of the same rules, and does lint name the reason where a rule has no effect?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadgen.policy.fate import fate
from loadgen.policy.limits import Limits
from loadgen.policy.lint import lint
from loadgen.policy.selection import Workload, select
from loadgen.policy.translation import clusters

from .examples import CLIENT, USER, rules_of

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.yaml"), key=lambda path: path.stem)
FOUND = {
    "client-namespace-wins": ["nearer-namespace"],
    "dotted-not-fqdn": ["host-not-fqdn"],
    "empty-pool": ["empty-block"],
    "export-to-dot": ["export-to-hides"],
    "idle-timeout": ["no-limit"],
    "max-connections": ["endless-queue"],
    "no-rule-for-host": ["host-other-service"],
    "port-level": ["port-hides-pool"],
    "root-beaten-by-service": ["nearer-namespace"],
    "selector-other": ["selector-other-workload"],
    "short-host-other-namespace": ["host-other-namespace"],
    "subset": ["subset-not-routed"],
    "tcp-and-http": ["endless-queue"],
    "two-rules-older-wins": ["older-rule"],
    "zero-is-unset": ["zero-is-unset", "zero-is-unset"],
}
"""What lint says of each case; nothing of those that are not here."""


def client_of(text: str) -> Workload:
    """Read the client's namespace from the comment at the top."""
    line = next(line for line in text.splitlines() if line.startswith("# client-namespace:"))
    return Workload(line.split(":")[1].strip(), CLIENT.labels)


def wanted(path: Path) -> dict[str, dict[str, Any]]:
    """Give istiod's clusters without what the caller of the translation adds."""
    found: dict[str, dict[str, Any]] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["clusters"]
    return {
        name: {key: value for key, value in cluster.items() if key not in {"type", "eds_cluster_config"}} for name, cluster in found.items()
    }


def test_all_golden_cases_are_here() -> None:
    assert len(GOLDEN) == 27
    assert FOUND.keys() <= {path.stem for path in GOLDEN}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_clusters_equal_what_istiod_made(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert clusters(rules_of(text), USER, client_of(text)) == wanted(path)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_selected_rule_is_the_one_istiod_names(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    rule = select(rules_of(text), USER, client_of(text))
    named = {cluster["metadata"]["filter_metadata"]["istio"].get("config") for cluster in wanted(path).values()}
    assert named == {f"/apis/networking.istio.io/v1/namespaces/{rule.namespace}/destination-rule/{rule.name}" if rule else None}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_lint_says_why_a_rule_has_no_effect(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = lint(rules_of(text), USER, client_of(text))
    assert [problem.code for problem in found] == FOUND.get(path.stem, [])
    assert found or Limits.of_cluster(wanted(path)["outbound|7000||user.base.svc.cluster.local"]).in_force()
    assert all(problem.severity == "warning" and problem.line and problem.column and problem.hint for problem in found)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_of_every_rule_it_is_known_whether_it_makes_the_limits_that_istiod_made(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    rules = rules_of(text)
    fates = [fate(rule, rules, USER, client_of(text)) for rule in rules]
    made = Limits.of_cluster(wanted(path)["outbound|7000||user.base.svc.cluster.local"]).in_force()
    assert [each.limits for each in fates].count(True) == (1 if made else 0)
    assert all(each.limits != bool(each.code and each.reason) for each in fates)
