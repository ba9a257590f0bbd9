"""What do the rules of a cluster say? Raw objects, read as the rules of a file are; one that we cannot read in full still takes its place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import ValidationError

from loadgen.cluster.marks import Json, key_of, moment_of
from loadgen.document import parse_documents
from loadgen.errors import InputError
from loadgen.policy.manifest import Spec, Subset, TrafficPolicy, WorkloadSelector
from loadgen.policy.rule import KIND, Rule, parse_rules

if TYPE_CHECKING:
    from loadgen.errors import Problem

_KEPT = ("name", "namespace", "creationTimestamp")


def read_rule(raw: Json) -> tuple[Rule, list[Problem]]:
    """Read a rule as the API server gives it; the problems say what in it is not known here.

    What is not known is passed over. If the rest cannot be understood either, the rule has its host, selector and names, which decide who
    gets it, and policies that say nothing.
    """
    metadata = {key: raw["metadata"][key] for key in _KEPT if key in raw["metadata"]}
    manifest = {"apiVersion": raw["apiVersion"], "kind": KIND, "metadata": metadata, "spec": raw.get("spec") or {}}
    try:
        documents = parse_documents(json.dumps(manifest, ensure_ascii=False), key_of(raw))
        rules, problems = parse_rules(documents, key_of(raw))
    except InputError as error:
        rules, problems = [], list(error.problems)
    return (rules[0] if rules else _leniently(raw)), problems


def _leniently(raw: Json) -> Rule:
    try:
        spec = Spec.model_validate(raw.get("spec") or {}, extra="ignore")
    except ValidationError:
        spec = _outline(raw.get("spec") or {})
    selector = spec.workload_selector
    return Rule(
        name=raw["metadata"]["name"],
        namespace=raw["metadata"]["namespace"],
        host=spec.host,
        traffic_policy=spec.traffic_policy,
        subsets=tuple(spec.subsets or ()),
        export_to=tuple(spec.export_to or ()),
        selector=None if selector is None else dict(selector.match_labels or {}),
        created=moment_of(raw["metadata"].get("creationTimestamp")),
    )


def _outline(spec: Json) -> Spec:
    selector = spec.get("workloadSelector")
    return Spec.model_construct(
        host=str(spec.get("host", "")),
        traffic_policy=TrafficPolicy() if spec.get("trafficPolicy") is not None else None,
        subsets=[Subset.model_construct(name=str(each.get("name", ""))) for each in spec.get("subsets") or ()],
        export_to=[str(each) for each in spec.get("exportTo") or ()],
        workload_selector=None
        if selector is None
        else WorkloadSelector.model_construct(match_labels=dict(selector.get("matchLabels") or {})),
    )
