"""Who turns Pod objects into processes? One node's agent: it asks the API server for pods, runs them, and says how they are.

It is a process of its own, so that it dies with the test that started it and takes all pods with it, and so that the API server may go away
and come back as on a real node: the pods run on. It asks anew instead of watching, for there is nothing to lose then.
"""

from __future__ import annotations

import pickle
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from tests.cluster.controlplane.api import Api, ApiError
from tests.cluster.controlplane.logs import serve_logs
from tests.cluster.controlplane.pod import TERMINAL, Pod, Surroundings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.cluster.controlplane.api import Object
    from tests.cluster.controlplane.container import Program
    from tests.cluster.controlplane.network import Network

NODE = "node"
ROUND_S = 0.2
_FROM_CACHE = {"resourceVersion": "0"}
"""A list as the API server has it at hand: it costs etcd nothing, and the next round is soon."""
_NUMBERS = range(2, 255)
_PLACE = {"topology.kubernetes.io/region": "here", "topology.kubernetes.io/zone": "here-1"}
"""The API server copies these labels to every pod of the node."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the kubelet is started with, pickled. ``server`` and ``istiod`` are host and port."""

    server: tuple[str, int]
    token: str
    authority: Path
    istiod: tuple[str, int]
    network: Network
    programs: Mapping[str, Program]
    folder: Path


@dataclass
class Kubelet:
    """All pods of the one node, by their uid."""

    around: Surroundings
    _pods: dict[str, Pod] = field(default_factory=dict)
    _told: dict[str, Object] = field(default_factory=dict)

    def register(self, logs_port: int) -> None:
        """Tell the API server that the node is there, and where it gives the containers' logs."""
        self.around.api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": _PLACE}})
        status = {
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}],
            "addresses": [{"type": "InternalIP", "address": self.around.network.gateway}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": logs_port}},
        }
        self.around.api.patch(f"/api/v1/nodes/{NODE}/status", {"status": status})

    def round(self) -> None:
        """Look at every pod once."""
        self._write_hosts()
        manifests = {manifest["metadata"]["uid"]: manifest for manifest in self.around.api.list("/api/v1/pods", **_FROM_CACHE)}
        for uid in self._pods.keys() - manifests.keys():  # deleted by force
            self._forget(uid)
        for uid, manifest in manifests.items():
            try:
                self._look_at(uid, manifest)
            except ApiError as error:  # somebody changed or deleted it meanwhile: the next round knows
                _say(f"{manifest['metadata']['name']}: {error}")

    def _look_at(self, uid: str, manifest: Object) -> None:
        pod = self._pods.get(uid)
        if pod is None:
            if "deletionTimestamp" in manifest["metadata"]:
                self._delete(manifest)
            elif manifest.get("status", {}).get("phase") not in TERMINAL:
                self._adopt(uid, manifest)
            return
        if "deletionTimestamp" not in manifest["metadata"]:
            pod.step()
            self._tell(uid, manifest)
        elif pod.end(manifest["metadata"].get("deletionGracePeriodSeconds", 0)):
            self._tell(uid, manifest)
            self._delete(manifest)
            self._forget(uid, removed=True)

    def _adopt(self, uid: str, manifest: Object) -> None:
        metadata = manifest["metadata"]
        if not manifest["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": metadata["name"]}, "target": target}
            self.around.api.post(f"{_path(manifest)}/binding", binding)
            manifest = self.around.api.get(_path(manifest))
        number = next(number for number in _NUMBERS if number not in {pod.number for pod in self._pods.values()})
        self._pods[uid] = Pod(manifest, number, self.around)

    def _tell(self, uid: str, manifest: Object) -> None:
        status = self._pods[uid].status()
        if self._told.get(uid) != status:
            self.around.api.patch(f"{_path(manifest)}/status", {"status": status})
            self._told[uid] = status

    def _delete(self, manifest: Object) -> None:
        self.around.api.delete(_path(manifest), gracePeriodSeconds=0, preconditions={"uid": manifest["metadata"]["uid"]})

    def _forget(self, uid: str, *, removed: bool = False) -> None:
        pod = self._pods.pop(uid)
        self._told.pop(uid, None)
        if not removed:
            pod.remove()

    def _write_hosts(self) -> None:
        """Give the services their names. The file is changed in place and never empty, for the pods look into it all the time."""
        lines = ["127.0.0.1 localhost"]
        for service in self.around.api.list("/api/v1/services", **_FROM_CACHE):
            name, address = "{name}.{namespace}".format(**service["metadata"]), service["spec"].get("clusterIP", "None")
            if address != "None":
                lines.append(f"{address} {name}.svc.cluster.local {name}.svc {name}")
        text = "\n".join(lines) + "\n"
        with self.around.hosts.open("r+", encoding="utf-8") as file:
            if file.read() != text:
                file.seek(0)
                file.write(text)
                file.truncate()


def _path(manifest: Object) -> str:
    return "/api/v1/namespaces/{namespace}/pods/{name}".format(**manifest["metadata"])


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    """Run until killed."""
    settings: Settings = pickle.loads(Path(sys.argv[1]).read_bytes())
    host, port = settings.server
    hosts = settings.folder / "hosts"
    hosts.touch()
    with Api(f"https://{host}:{port}", settings.authority, settings.token) as api:
        around = Surroundings(
            api, settings.network, settings.programs, settings.server, settings.authority, settings.istiod, hosts, settings.folder
        )
        kubelet = Kubelet(around)
        kubelet.register(serve_logs(settings.folder, settings.network.gateway))
        _say("ready")
        while True:
            try:
                kubelet.round()
            except (httpx.TransportError, ApiError) as error:
                _say(f"the API server: {error!r}")
            time.sleep(ROUND_S)


if __name__ == "__main__":
    main()
