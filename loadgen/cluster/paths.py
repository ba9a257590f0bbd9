"""Where does the API server keep what? Paths, and back from a path to what a person calls it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

ISTIO = "networking.istio.io"
VERSIONS = ("v1", "v1beta1", "v1alpha3")
"""The versions of a DestinationRule, the best first; they share one schema."""
ISTIO_GROUP = f"/apis/{ISTIO}"
VERSION = "/version"
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>v[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+).*)?"
)


def rules(version: str, namespace: str, name: str = "") -> str:
    """Give the path of a namespace's DestinationRules, or of one of them."""
    return _path(f"{ISTIO_GROUP}/{version}", namespace, "destinationrules", name)


def leases(namespace: str, name: str = "") -> str:
    """Give the path of a namespace's Leases, or of one of them."""
    return _path("/apis/coordination.k8s.io/v1", namespace, "leases", name)


def config_maps(namespace: str, name: str = "") -> str:
    """Give the path of a namespace's ConfigMaps, or of one of them."""
    return _path("/api/v1", namespace, "configmaps", name)


def jobs(namespace: str, name: str = "") -> str:
    """Give the path of a namespace's Jobs, or of one of them."""
    return _path("/apis/batch/v1", namespace, "jobs", name)


def pods(namespace: str, name: str = "") -> str:
    """Give the path of a namespace's Pods, or of one of them."""
    return _path("/api/v1", namespace, "pods", name)


def secrets(namespace: str, name: str) -> str:
    """Give the path of a Secret."""
    return _path("/api/v1", namespace, "secrets", name)


def services(namespace: str, name: str = "") -> str:
    """Give the path of a namespace's Services, or of one of them."""
    return _path("/api/v1", namespace, "services", name)


def endpoint_slices(namespace: str) -> str:
    """Give the path of a namespace's EndpointSlices."""
    return _path("/apis/discovery.k8s.io/v1", namespace, "endpointslices", "")


def pod_proxy(namespace: str, name: str, port: int, path: str) -> str:
    """Give the path at which the API server passes a request on to a pod."""
    return f"{pods(namespace, f'{name}:{port}')}/proxy{path}"


def _path(root: str, namespace: str, resource: str, name: str) -> str:
    return f"{root}/namespaces/{quote(namespace, safe='')}/{resource}" + (f"/{quote(name, safe=':')}" if name else "")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as RBAC and people see it."""

    method: str
    path: str

    @property
    def is_write(self) -> bool:
        """Tell whether it may change something."""
        return self.method in _VERBS

    @property
    def verb(self) -> str:
        """RBAC's word for it."""
        found = _PATH.fullmatch(self.path)
        return _VERBS.get(self.method) or ("list" if found and not found["name"] else "get")

    @property
    def resource(self) -> str:
        """The resource with its group, as RBAC names it: ``leases.coordination.k8s.io``, ``pods/proxy``."""
        found = _PATH.fullmatch(self.path)
        if not found:
            return self.path
        return found["resource"] + (f".{found['group']}" if found["group"] else "") + (f"/{found['sub']}" if found["sub"] else "")

    @property
    def namespace(self) -> str:
        """The namespace, empty if it has none."""
        found = _PATH.fullmatch(self.path)
        return unquote(found["namespace"] or "") if found else ""

    def __str__(self) -> str:
        found = _PATH.fullmatch(self.path)
        if not found:
            return f"{self.verb} {self.path}"
        name = unquote(found["name"] or "")
        where = f" {self.namespace}/{name}" if name and self.namespace else f" {name}" if name else ""
        return f"{self.verb} {found['resource']}{where}" + (f" in namespace {self.namespace}" if self.namespace and not name else "")
