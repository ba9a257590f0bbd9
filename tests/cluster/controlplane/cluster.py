"""What does a test see of a whole cluster? A control plane with istiod, a node that runs pods, and each pod as something to look into."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from loadgen.errors import MeshError
from loadgen.mesh.boot import envoy_binary
from tests.cluster.controlplane import injection
from tests.cluster.controlplane.credentials import ADMIN
from tests.cluster.controlplane.kubelet import Settings
from tests.cluster.controlplane.network import pod_network
from tests.cluster.controlplane.part import Part
from tests.cluster.controlplane.patience import PATIENCE_S, until
from tests.cluster.controlplane.plane import ControlPlane
from tests.cluster.controlplane.sidecar import ADMIN_PORT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.cluster.controlplane.api import Object
    from tests.cluster.controlplane.container import Program
    from tests.cluster.controlplane.network import Network

COMMAND_S = 30.0
_FETCH = "import sys, urllib.request as r; sys.stdout.buffer.write(r.build_opener(r.ProxyHandler({})).open(sys.argv[1], timeout=10).read())"


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod, from where a test stands. ``folder`` holds its logs, ``<container>.<restart>.log``."""

    name: str
    namespace: str
    address: str
    netns: str
    folder: Path

    def run(self, *command: str) -> str:
        """Run a command in the pod's network; give what it prints.

        Raises MeshError if it fails.
        """
        whole = ["ip", "netns", "exec", self.netns, *command]
        ended = subprocess.run(whole, capture_output=True, text=True, timeout=COMMAND_S, check=False)
        if ended.returncode:
            raise MeshError(f"{' '.join(command[:2])} failed in {self.name}: {ended.stderr.strip()[-500:]}")
        return ended.stdout

    def fetch(self, url: str) -> str:
        """Fetch a page as the pod would: through its sidecar if it has one.

        Raises MeshError for everything but a 2xx.
        """
        return self.run(sys.executable, "-S", "-c", _FETCH, url)

    def admin(self, path: str) -> str:
        """Fetch a page of the sidecar's admin interface."""
        return self.fetch(f"http://127.0.0.1:{ADMIN_PORT}{path}")

    def log(self, container: str) -> str:
        """Give what a container has written, of all its lives."""
        return "".join(file.read_text(encoding="utf-8", errors="replace") for file in sorted(self.folder.glob(f"{container}.*.log")))


class Cluster:
    """A control plane and its one node, alive inside the ``with`` block. ``programs`` says what the containers of each image run.

    Raises RefusedError if the machine lacks something, MeshError if a part does not come up.
    """

    plane: ControlPlane
    network: Network

    def __init__(self, programs: Mapping[str, Program], users: Sequence[str] = ()) -> None:
        self._programs = programs
        self._users = users
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        envoy_binary()
        with contextlib.ExitStack() as stack:
            self.network = stack.enter_context(pod_network())
            self.plane = stack.enter_context(ControlPlane(self._users, address=self.network.gateway))
            self.plane.start_controllers()
            istiod = self.plane.start_istiod()
            injection.install(self.plane.api)
            self._folder = self.plane.folder / "pods"
            self._folder.mkdir()
            self.kubelet = self._kubelet(istiod)
            stack.callback(self.network.empty)
            stack.callback(self.kubelet.kill)
            self.plane.seconds["kubelet"] = self.kubelet.start(self._kubelet_is_ready)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def pods(self, namespace: str, selector: str = "") -> list[PodView]:
        """Give the pods of a namespace that run, by name; ``selector`` is a label selector."""
        found = self.plane.api.list(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)
        return sorted((self._view(pod) for pod in found if pod["status"].get("podIP")), key=lambda pod: pod.name)

    def ready_pods(self, namespace: str, selector: str = "", *, count: int = 1, patience_s: float = PATIENCE_S) -> list[PodView]:
        """Wait until exactly ``count`` pods are there and all of them are ready; give them, by name.

        Raises MeshError if they are not in time.
        """
        path = f"/api/v1/namespaces/{namespace}/pods"

        def ready() -> list[PodView] | None:
            found = self.plane.api.list(path, labelSelector=selector)
            return self.pods(namespace, selector) if len(found) == count and all(map(_is_ready, found)) else None

        return until(ready, f"{count} pods of {namespace} {selector} are ready", patience_s=patience_s)

    def _view(self, pod: Object) -> PodView:
        name, namespace, address = pod["metadata"]["name"], pod["metadata"]["namespace"], pod["status"]["podIP"]
        return PodView(name, namespace, address, self.network.namespace(address), self._folder / f"{namespace}_{name}")

    def _kubelet(self, istiod: tuple[str, int]) -> Part:
        plane = self.plane
        token = plane.users.token(ADMIN)
        settings = Settings((plane.address, plane.port), token, plane.authority, istiod, self.network, self._programs, self._folder)
        file = plane.folder / "kubelet.pickle"
        file.write_bytes(pickle.dumps(settings))
        return Part("kubelet", [sys.executable, "-m", "tests.cluster.controlplane.kubelet", str(file)], plane.folder)

    def _kubelet_is_ready(self) -> bool:
        return (self._folder / "hosts").exists() and self.plane.api.find("/api/v1/nodes/node") is not None


def _is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions) and "deletionTimestamp" not in pod["metadata"]
