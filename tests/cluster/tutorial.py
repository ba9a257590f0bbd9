"""The tutorial's cluster, and the command against it: what ``loadgen manifests`` prints, applied, with the real image in its pods."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from loadgen.errors import MeshError
from tests.cluster.controlplane.api import path_of
from tests.cluster.controlplane.credentials import kubeconfig
from tests.cluster.controlplane.injection import LABEL
from tests.cluster.image import Image, build_image
from tests.story.command import REPOSITORY, SCENARIOS, Loadgen, until, variant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.cluster.controlplane.cluster import Cluster, PodView
    from tests.cluster.controlplane.container import Container, Program

Json = dict[str, Any]
CLIENTS = 3
HOST = "user.base.svc.cluster.local"
RULES = "/apis/networking.istio.io/v1/namespaces/{}/destinationrules"
PULL_SECRET = "registry"
PATIENCE_S = 40.0
"""A pod's image is a whole file system here, and two cores start all of them at once."""


def run_image(image: Image, container: Container) -> list[str]:
    """Run the container's image as a node would."""
    return image.command(
        container.spec.get("args", ()),
        entrypoint=container.spec.get("command", ()),
        environment=container.environment,
        files={**container.files, "/etc/hosts": Path("/etc/hosts")},
        host_name=container.pod["metadata"]["name"],
    )


class EveryImage(dict[str, "Program"]):
    """The program for whatever an image is called: it is always ours that runs."""

    def __init__(self, image: Image) -> None:
        super().__init__()
        self._image = image

    def __reduce__(self) -> tuple[type[EveryImage], tuple[Image]]:
        return EveryImage, (self._image,)

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Program:
        return partial(run_image, self._image)


@dataclass
class Tutorial:
    """A cluster in which the tutorial's clients call the user service."""

    cluster: Cluster
    kubeconfig: Path

    def rules(self, namespace: str) -> list[Json]:
        return self.cluster.plane.api.list(RULES.format(namespace))

    def add_rule(self, spec: Json, *, name: str = "theirs", namespace: str = "base", **metadata: object) -> Json:
        whole = {"name": name, "namespace": namespace, **metadata}
        return self.cluster.plane.api.create(
            {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": whole, "spec": spec}
        )

    def remove(self, thing: Json) -> None:
        self.cluster.plane.api.delete(path_of(thing))

    def clients(self) -> list[PodView]:
        return self.cluster.ready_pods("test", "app=client", count=CLIENTS, patience_s=PATIENCE_S)

    def scale_service(self, count: int) -> list[PodView]:
        """Have so many pods stand behind the service; give them."""
        self.cluster.plane.api.patch("/apis/apps/v1/namespaces/base/deployments/user", {"spec": {"replicas": count}})
        return self.cluster.ready_pods("base", "app=user", count=count, patience_s=PATIENCE_S)

    def give_service_a_sidecar(self, *, wanted: bool) -> PodView:
        """Have the service's pod stand behind a sidecar of its own, or not; give the new pod."""
        before = {pod.name for pod in self.cluster.pods("base", "app=user")}
        labels = {"sidecar.istio.io/inject": str(wanted).lower()}
        self.cluster.plane.api.patch("/api/v1/namespaces/base", {"metadata": {"labels": LABEL if wanted else dict.fromkeys(LABEL)}})
        template = {"spec": {"template": {"metadata": {"labels": labels}}}}
        self.cluster.plane.api.patch("/apis/apps/v1/namespaces/base/deployments/user", template)
        until(lambda: not before & {pod.name for pod in self.cluster.pods("base", "app=user")}, "the service's pod is another one")
        [pod] = self.cluster.ready_pods("base", "app=user", patience_s=PATIENCE_S)
        return pod

    def leases(self) -> list[Json]:
        return self.cluster.plane.api.list("/apis/coordination.k8s.io/v1/namespaces/test/leases", labelSelector="loadgen.dev/run")

    def left_overs(self) -> list[str]:
        """Name everything of a run that is in the cluster."""
        api = self.cluster.plane.api
        kinds = (
            "/api/v1/configmaps",
            "/apis/batch/v1/jobs",
            "/apis/coordination.k8s.io/v1/leases",
            "/apis/networking.istio.io/v1/destinationrules",
        )
        return [
            f"{kind.rpartition('/')[2]} {each['metadata']['name']}"
            for kind in kinds
            for each in api.list(kind, labelSelector="loadgen.dev/run")
        ]

    def command(self, folder: Path) -> Loadgen:
        """Give the command as the runner's service account."""
        return Loadgen(folder, {"KUBECONFIG": str(self.kubeconfig), "XDG_STATE_HOME": str(folder / "state")})

    def scenario(self, folder: Path, *changes: tuple[str, str]) -> Path:
        return variant(folder / "scenario.yaml", SCENARIOS / "connection-pool.yaml", ("count: 10", f"count: {CLIENTS}"), *changes)


def make_tutorial(start_cluster: Callable[[Mapping[str, Program]], Cluster], *, toggle_in_base: bool = True) -> Tutorial:
    """Start a cluster and make it the tutorial's."""
    options = ["--replicas", str(CLIENTS), *(["--toggle-in-base", "--rule", "user", "--rule", "theirs"] if toggle_in_base else [])]
    printed = subprocess.run(
        [sys.executable, "-m", "loadgen", "manifests", *options], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    objects: list[Json] = list(yaml.safe_load_all(printed))
    for each in objects:
        if (each["kind"], each["metadata"]["name"]) == ("Deployment", "client"):
            each["spec"]["template"]["spec"]["imagePullSecrets"] = [{"name": PULL_SECRET}]  # as if the registry asked for it
    images = {
        container["image"]
        for each in objects
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    cluster = start_cluster(dict.fromkeys(images, partial(run_image, build_image())))
    cluster.plane.api.apply(*objects)
    cluster.ready_pods("base", count=1, patience_s=PATIENCE_S)
    plane = cluster.plane
    file = plane.folder / "loadgen-runner.kubeconfig"
    token = plane.service_account_token("test", "loadgen-runner")
    file.write_text(kubeconfig(plane.url, plane.authority, "loadgen-runner", token), encoding="utf-8")
    tutorial = Tutorial(cluster, file)
    try:
        tutorial.clients()
    except MeshError as error:
        raise MeshError(f"{error.message}; {_last_words(cluster)}") from error
    return tutorial


def _last_words(cluster: Cluster) -> str:
    return "; ".join(f"{pod.name}: {pod.log('client')[-500:]} {pod.log('istio-proxy')[-500:]}" for pod in cluster.pods("test"))


def rule_as_written(rule: Json) -> Json:
    """Give what the user wrote of a rule: all but what only the server changes."""
    metadata = {key: value for key, value in rule["metadata"].items() if key not in {"resourceVersion", "generation", "managedFields"}}
    return json.loads(json.dumps({**rule, "metadata": metadata}))  # type: ignore[no-any-return]
