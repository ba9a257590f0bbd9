"""May the accounts of the manifests do what a run and its undoing take, and nothing else? A real API server with RBAC answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import yaml

from loadgen.cli import exit_code_of
from loadgen.cluster.api import KubeApi
from loadgen.cluster.change import Mode
from loadgen.cluster.finding import Fate
from loadgen.cluster.guard import guard_job
from loadgen.cluster.marks import guard_name, journal_name, lease_name, overlay_name
from loadgen.cluster.paths import config_maps, jobs, leases, rules
from loadgen.cluster.restore import restore
from loadgen.cluster.survey import survey
from loadgen.cluster.turn import turn
from tests.cluster.controlplane.plane import ROOT_NAMESPACE
from tests.cluster.rules import access, host, new_run, owners_rule, planned
from tests.cluster.site import Site, make_site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loadgen.cluster.turn import RuleChange
    from tests.cluster.controlplane.plane import ControlPlane

Object = dict[str, Any]
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
RUNNER = {
    "clients create list leases.coordination.k8s.io",
    "clients get update delete leases.coordination.k8s.io LEASE",
    "clients create list configmaps",
    "clients get update delete configmaps JOURNAL",
    "clients create list jobs.batch",
    "clients get delete jobs.batch GUARD",
    "clients get list pods",
    "clients get create pods/proxy",
    "clients get secrets loadgen-control",
    "clients get list create destinationrules.networking.istio.io",
    "clients patch delete destinationrules.networking.istio.io OVERLAY",
    "base get list destinationrules.networking.istio.io",
    "base get services pods",
    "base list endpointslices.discovery.k8s.io",
    "base get create pods/proxy",
    "mesh get list destinationrules.networking.istio.io",
}
GUARD = {
    "clients create leases.coordination.k8s.io",
    "clients get update delete leases.coordination.k8s.io LEASE",
    "clients get update delete configmaps JOURNAL",
    "clients get list destinationrules.networking.istio.io",
    "clients patch delete destinationrules.networking.istio.io OVERLAY",
    "base get list destinationrules.networking.istio.io",
}
RUNNER_TOGGLES = {"base create patch delete destinationrules.networking.istio.io"}
GUARD_TOGGLES = {"base patch delete destinationrules.networking.istio.io"}
NOBODYS = {
    "clients get list secrets",
    "clients get secrets other",
    "base get list secrets",
    "clients create pods/exec pods/attach pods/portforward pods/ephemeralcontainers pods/eviction",
    "clients create patch delete pods",
    "base create delete pods",
    "clients patch update delete deployments.apps services",
    "clients get update delete leases.coordination.k8s.io other",
    "clients get update patch delete configmaps other",
    "clients get patch delete jobs.batch other",
    "clients update patch delete destinationrules.networking.istio.io other",
    "base update destinationrules.networking.istio.io",
    "mesh create update patch delete destinationrules.networking.istio.io",
    "clients create patch bind escalate roles.rbac.authorization.k8s.io rolebindings.rbac.authorization.k8s.io",
    "clients create impersonate serviceaccounts",
    "clients create serviceaccounts/token",
    "everywhere list pods secrets configmaps destinationrules.networking.istio.io",
    "everywhere get list namespaces nodes",
    "everywhere delete namespaces nodes",
}


@dataclass(frozen=True)
class Accounts:
    """The accounts of the manifests in a site of the test's own, as ``loadgen manifests`` made them."""

    site: Site
    objects: list[Object]

    def token(self, name: str) -> str:
        return self.site.plane.service_account_token(self.site.clients, name)

    def api(self, name: str) -> KubeApi:
        token = self.token(name)
        return KubeApi(lambda: access(self.site.plane.url, self.site.plane.authority, token))

    def spelt_out(self, lines: set[str]) -> set[tuple[str, str, str, str]]:
        """Give one tuple for each right: namespace, verb, resource, name."""
        found = set()
        places = {"clients": self.site.clients, "base": self.site.base, "mesh": ROOT_NAMESPACE, "everywhere": ""}
        namers = {"LEASE": lease_name, "JOURNAL": journal_name, "GUARD": guard_name, "OVERLAY": overlay_name}
        verbs = {"get", "list", "create", "update", "patch", "delete", "bind", "escalate", "impersonate"}
        for line in lines:
            place, *words = line.split()
            wanted = [word for word in words if word in verbs]
            *resources, last = [word for word in words if word not in verbs]
            name = namers[last](self.site.host) if last in namers else last if last in {"loadgen-control", "other"} else ""
            found |= {(places[place], verb, resource, name) for verb in wanted for resource in (resources if name else [*resources, last])}
        return found

    def granted(self, account: str) -> set[tuple[str, str, str, str]]:
        """Give what the Roles say, spelt out in the same way."""
        roles = {(each["metadata"]["namespace"], each["metadata"]["name"]): each for each in self.objects if each["kind"] == "Role"}
        bindings = [each for each in self.objects if each["kind"] == "RoleBinding" and account in {who["name"] for who in each["subjects"]}]
        return {
            (binding["metadata"]["namespace"], verb, f"{resource}.{group}" if group else resource, name)
            for binding in bindings
            for rule in roles[binding["metadata"]["namespace"], binding["roleRef"]["name"]]["rules"]
            for verb in rule["verbs"]
            for resource in rule["resources"]
            for group in rule["apiGroups"]
            for name in rule.get("resourceNames", [""])
        }

    def denied(self, account: str, rights: set[tuple[str, str, str, str]]) -> set[tuple[str, str, str, str]]:
        """Ask the server, as the account, and give those of the rights that it does not have."""
        found = set()
        with self.site.plane.client("guest", self.token(account)) as client:
            for namespace, verb, resource, name in rights:
                plain, _, group = resource.partition(".")
                plural, _, sub = plain.partition("/")
                attributes = {"namespace": namespace, "verb": verb, "resource": plural, "group": group, "subresource": sub, "name": name}
                review = {
                    "apiVersion": "authorization.k8s.io/v1",
                    "kind": "SelfSubjectAccessReview",
                    "spec": {"resourceAttributes": attributes},
                }
                if not client.post(REVIEWS, review)["status"]["allowed"]:
                    found.add((namespace, verb, resource, name))
        return found
