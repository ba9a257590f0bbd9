"""What must an account be allowed to do, and may it? The server is asked before anything is touched; RBAC binds all but ``create`` and ``list`` to names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from loadgen.cluster.failure import ApiError
from loadgen.cluster.marks import journal_name, lease_name, namespaces_of, overlay_name
from loadgen.cluster.paths import ACCESS_REVIEWS, ISTIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.cluster.api import KubeApi

GUARD_ACCOUNT = "loadgen-guard"
_RULES = "destinationrules"


@dataclass(frozen=True, slots=True)
class Right:
    """One thing that an account must be allowed to do. ``resource`` may have a subresource, such as ``pods/proxy``."""

    verb: str
    resource: str
    namespace: str
    group: str = ""
    name: str = ""

    def __str__(self) -> str:
        named = f" {self.name}" if self.name else ""
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}{named} in {self.namespace}"


@dataclass(frozen=True, slots=True)
class Touched:
    """One rule that a run creates, or changes; it is known as ``namespace/name``."""

    key: str
    creates: bool

    @property
    def namespace(self) -> str:
        """Where the rule is."""
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        """What it is called there."""
        return self.key.partition("/")[2]

    @property
    def verbs(self) -> tuple[str, ...]:
        """What it takes to put it back, beside to list it: one that was made is deleted, or loses our marks if somebody has edited it."""
        return ("get", "patch", "delete") if self.creates else ("get", "patch")


def rights_to_put_back(touched: Sequence[Touched]) -> list[Right]:
    """Say what it takes to put rules back, for whoever does it."""
    return [Right(verb, _RULES, each.namespace, ISTIO, each.name) for each in touched for verb in each.verbs]


def rights_to_restore(touched: Sequence[Touched], host: str, home: str) -> list[Right]:
    """Say what it takes to undo all that a run leaves for a host; ``home`` is the clients' namespace."""
    places = dict.fromkeys((home, *namespaces_of(host), *(each.namespace for each in touched)))
    return [
        Right("create", "leases", home, "coordination.k8s.io"),
        *(Right(verb, "leases", home, "coordination.k8s.io", lease_name(host)) for verb in ("get", "update", "delete")),
        *(Right(verb, "configmaps", home, name=journal_name(host)) for verb in ("get", "update", "delete")),
        *(Right("list", _RULES, place, ISTIO) for place in places),
        *rights_to_put_back(touched),
    ]


def roles_for(touched: Sequence[Touched], host: str, home: str) -> list[str]:
    """Say, in sentences, where runner and guard get the rights over these rules from."""
    covered = [each for each in touched if each.namespace in namespaces_of(host) or each.key == f"{home}/{overlay_name(host)}"]
    names = [each.name for each in covered if each.name != overlay_name(host)]
    options = "".join([" with --toggle-in-base", *(f" --rule {name}" for name in names)]) if names else ""
    said = [f"loadgen manifests{options} has the Roles for {', '.join(each.key for each in covered)}"] if covered else []
    for each in touched:
        if each not in covered:
            verbs = ", ".join(("list", *each.verbs))
            account = f"the guard's account {home}/{GUARD_ACCOUNT}"
            needs = (
                f"the runner's account{' (which creates it, too)' if each.creates else ''} and {account} need {verbs} of {_RULES}.{ISTIO}"
            )
            said.append(f"loadgen manifests has no Role for {each.key}: in {each.namespace}, {needs}")
    return said


async def missing_rights(api: KubeApi, rights: Sequence[Right]) -> list[str]:
    """Ask the server which of these rights we do not have."""
    missing: dict[Right, str] = {}
    failures: list[ApiError] = []

    async def ask(right: Right) -> None:
        resource, _, subresource = right.resource.partition("/")
        attributes = {"verb": right.verb, "group": right.group, "resource": resource, "subresource": subresource}
        attributes |= {"namespace": right.namespace, "name": right.name}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
        }
        try:
            answer = await api.create(ACCESS_REVIEWS, review)
        except ApiError as error:
            failures.append(error)
            tasks.cancel_scope.cancel()
            return
        if not answer.get("status", {}).get("allowed"):
            missing[right] = str(right)

    async with anyio.create_task_group() as tasks:
        for right in rights:
            tasks.start_soon(ask, right)
    if failures:
        raise failures[0]
    return [missing[right] for right in rights if right in missing]
