"""A service and load pods in namespaces of a test's own, as objects only: enough to look at, and to change rules of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from loadgen.inputs import load_plan
from tests.story.command import SCENARIOS, variant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loadgen.inputs import Plan
    from tests.cluster.controlplane.plane import ControlPlane

Json = dict[str, Any]
PORT = 7000


@dataclass(frozen=True)
class Site:
    """The clients' namespace and the service's; what is in them is made through ``plane``."""

    plane: ControlPlane
    clients: str
    base: str

    @property
    def host(self) -> str:
        return f"user.{self.base}.svc.cluster.local"

    def scenario(self, folder: Path, *changes: tuple[str, str]) -> Path:
        """Write the tutorial's scenario for these namespaces, with its rule beside it."""
        text = (SCENARIOS / "policies" / "user.yaml").read_text(encoding="utf-8")
        (folder / "rule.yaml").write_text(text.replace("namespace: base", f"namespace: {self.base}"), encoding="utf-8")
        names = (
            (f"{SCENARIOS}/policies/user.yaml", str(folder / "rule.yaml")),
            ("user.base.svc", f"user.{self.base}.svc"),
            ("namespace: test", f"namespace: {self.clients}"),
            ("count: 10", "count: 2"),
        )
        return variant(folder / "scenario.yaml", SCENARIOS / "connection-pool.yaml", *names, *changes)

    def plan(self, folder: Path, *changes: tuple[str, str]) -> Plan:
        return load_plan(self.scenario(folder, *changes))

    def add_service(self, *, port: int = PORT, addresses: tuple[str, ...] = ("10.9.0.1",)) -> None:
        metadata = {"name": "user", "namespace": self.base}
        spec = {"selector": {"app": "user"}, "ports": [{"name": "http", "port": port}]}
        self.plane.api.create({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
        self.plane.api.create(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {**metadata, "name": "user-1", "labels": {"kubernetes.io/service-name": "user"}},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": port}],
                "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
            }
        )

    def add_pod(self, name: str, *, sidecar: bool = True, ready: bool = True, phase: str = "Running", **spec: Any) -> None:
        containers = ["client", *(["istio-proxy"] if sidecar else [])]
        pod: Json = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.clients, "labels": {"app": "client"}},
            "spec": {"containers": [{"name": each, "image": "loadgen:test"} for each in containers], **spec},
        }
        self.plane.api.create(pod)
        status = {
            "phase": phase,
            "podIP": "10.9.0.2",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [
                {"name": each, "ready": ready, "restartCount": 0, "image": "loadgen:test", "imageID": ""} for each in containers
            ],
        }
        self.plane.api.patch(f"/api/v1/namespaces/{self.clients}/pods/{name}/status", {"status": status})

    def add_counting_pod(self, name: str, *, count_port: str = "7001") -> None:
        """Put a pod that counts behind the service, in the place of what was there."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.base, "annotations": {"loadgen.dev/count-port": count_port}},
            "spec": {"containers": [{"name": each, "image": "loadgen:test"} for each in ("user", "istio-proxy")]},
        }
        self.plane.api.create(pod)
        self.set_endpoints(self.endpoint(name))

    def set_endpoints(self, *endpoints: Json) -> None:
        """Say what stands behind the service."""
        self.plane.api.patch(f"/apis/discovery.k8s.io/v1/namespaces/{self.base}/endpointslices/user-1", {"endpoints": list(endpoints)})

    def endpoint(self, pod: str, *, ready: bool = True) -> Json:
        """Give an endpoint: a pod, or without a name an address that belongs to none."""
        reference = {"targetRef": {"kind": "Pod", "name": pod, "namespace": self.base}} if pod else {}
        return {"addresses": ["10.9.0.1"], "conditions": {"ready": ready}, **reference}

    def set_restarts(self, pod: str, *, user: int = 0, sidecar: int = 0) -> None:
        """Say how often the containers of a pod of the service were restarted."""
        restarts = {"user": user, "istio-proxy": sidecar}
        statuses = [
            {"name": name, "ready": True, "restartCount": count, "image": "loadgen:test", "imageID": ""} for name, count in restarts.items()
        ]
        path = f"/api/v1/namespaces/{self.base}/pods/{pod}/status"
        self.plane.api.patch(path, {"status": {"phase": "Running", "containerStatuses": statuses}})

    def allow(self, user: str, *rules: tuple[str, str, str, str]) -> None:
        """Give a user rights: namespace, group, resource, verbs."""
        for number, (namespace, group, resource, verbs) in enumerate(rules):
            metadata = {"name": f"{user}-{number}", "namespace": namespace}
            role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata}
            self.plane.api.create({**role, "rules": [{"apiGroups": [group], "resources": [resource], "verbs": verbs.split()}]})
            binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata}
            subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
            reference = {"kind": "Role", "name": metadata["name"], "apiGroup": "rbac.authorization.k8s.io"}
            self.plane.api.create({**binding, "roleRef": reference, "subjects": [subject]})


def make_site(plane: ControlPlane, make_namespace: Callable[..., str]) -> Site:
    """Make both namespaces."""
    return Site(plane, make_namespace("test"), make_namespace("base"))


def without_policy(plan: Plan) -> Plan:
    """Give a plan that never applies its rule."""
    phases = [phase.model_copy(update={"policy": "absent"}) for phase in plan.scenario.phases]
    return replace(plan, scenario=plan.scenario.model_copy(update={"phases": phases}))
