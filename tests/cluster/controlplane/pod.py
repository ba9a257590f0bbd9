"""How does a pod live? From its object to its processes and back to its status; the laws are those of the Pod API.

Init containers run in order, a sidecar (an init container with ``restartPolicy: Always``) must be ready before the next one starts, and ends
after the last one has ended. A pod whose main containers have all ended for good has Succeeded or Failed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadgen.mesh.boot import envoy_binary
from tests.cluster.controlplane import sidecar
from tests.cluster.controlplane.container import Container, Program, Role, Running, timestamp
from tests.cluster.controlplane.environment import UnsupportedError, files, service_account_files, variables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.cluster.controlplane.api import Api, Object
    from tests.cluster.controlplane.network import Network

TERMINAL = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all pods share. ``server`` and ``istiod`` are host and port; ``hosts`` is the file with the services' names."""

    api: Api
    network: Network
    programs: Mapping[str, Program]
    server: tuple[str, int]
    authority: Path
    istiod: tuple[str, int]
    hosts: Path
    folder: Path


class Pod:
    """One pod of this node."""

    def __init__(self, manifest: Object, number: int, around: Surroundings) -> None:
        self.number = number
        self.manifest = manifest
        self._around = around
        self._address = around.network.address(number)
        self._folder = around.folder / f"{manifest['metadata']['namespace']}_{manifest['metadata']['name']}"
        self._folder.mkdir(exist_ok=True)
        self._containers = self._prepared()
        text = sidecar.interception(self._annotations) if any(each.spec["name"] == sidecar.NAME for each in self._containers) else ""
        self._namespace = around.network.attach(number, around.hosts, text)
        self._problem = ""
        self._terminating_since: float | None = None
        self._since: dict[str, tuple[bool, str]] = {}

    @property
    def _annotations(self) -> dict[str, str]:
        found: dict[str, str] = self.manifest["metadata"].get("annotations", {})
        return found

    def step(self) -> None:
        """Start what is due, and see what became of the rest."""
        for each in self._containers:
            each.look()
        if self.phase() in TERMINAL:
            self._kill(Role.SIDECAR)
            return
        may_start = True
        for each in self._containers:
            if may_start and each.is_due():
                self._start(each)
            may_start &= each.role is Role.MAIN or (each.is_ready if each.role is Role.SIDECAR else each.exit_code == 0)

    def end(self, grace_s: float) -> bool:
        """Go on with the end of the pod; tell whether it is over. The main containers end first, within ``grace_s``, then the sidecars."""
        main = self._of(Role.MAIN)
        if self._terminating_since is None:
            self._terminating_since = time.monotonic()
            for each in main:
                each.terminate()
        for each in main:
            each.look()
        if any(each.is_alive for each in main) and time.monotonic() < self._terminating_since + grace_s:
            return False
        self.remove()
        return True

    def remove(self) -> None:
        """End all processes at once, and remove the network namespace."""
        self._kill(*Role)
        self._around.network.release(self._namespace)

    def phase(self) -> str:
        """Give the pod's phase."""
        main = self._of(Role.MAIN)
        if any(each.is_over and each.exit_code for each in self._of(Role.INIT)):
            return "Failed"
        if all(each.is_over for each in main):
            return "Succeeded" if all(each.exit_code == 0 for each in main) else "Failed"
        return "Running" if all(each.started_at for each in main) else "Pending"

    def status(self) -> Object:
        """Give the pod's status."""
        phase = self.phase()
        ready = phase == "Running" and all(each.is_ready for each in self._containers if each.role is not Role.INIT)
        initialised = all(each.is_ready or each.exit_code == 0 for each in self._containers if each.role is not Role.MAIN)
        facts = {"PodScheduled": True, "Initialized": initialised, "ContainersReady": ready, "Ready": ready}
        return {
            "phase": phase,
            "podIP": self._address,
            "podIPs": [{"ip": self._address}],
            "hostIP": self._around.network.gateway,
            "startTime": self.manifest["metadata"]["creationTimestamp"],
            "conditions": [self._condition(name, is_so) for name, is_so in facts.items()],
            "initContainerStatuses": [self._container_status(each) for each in self._containers if each.role is not Role.MAIN],
            "containerStatuses": [self._container_status(each) for each in self._of(Role.MAIN)],
        }

    def _prepared(self) -> list[Running]:
        spec = self.manifest["spec"]
        found = []
        for each in spec.get("initContainers", []):
            role = Role.SIDECAR if each.get("restartPolicy") == "Always" else Role.INIT
            policy = "Always" if role is Role.SIDECAR else "Never" if spec["restartPolicy"] == "Never" else "OnFailure"
            found.append(self._container(each, role, policy))
        return [*found, *(self._container(each, Role.MAIN, spec["restartPolicy"]) for each in spec["containers"])]

    def _container(self, spec: Object, role: Role, policy: str) -> Running:
        return Running(spec, role, policy, self._probe_url(spec), self._folder / f"{spec['name']}.log")

    def _probe_url(self, spec: Object) -> str:
        if spec["name"] == sidecar.NAME:
            return f"http://{self._address}:{sidecar.READY_PORT}{sidecar.READY_PATH}"
        ports = {port.get("name"): port["containerPort"] for port in spec.get("ports", [])}
        match spec.get("readinessProbe", {}):
            case {"httpGet": {"port": port} as probe}:
                return f"http://{self._address}:{ports.get(port, port)}{probe.get('path', '/')}"
            case {"tcpSocket": {"port": port}}:
                return f"tcp://{self._address}:{ports.get(port, port)}"
        return ""

    def _start(self, each: Running) -> None:
        try:
            command = self._sidecar_command() if each.spec["name"] == sidecar.NAME else self._command(each.spec)
        except UnsupportedError as error:
            self._problem = str(error)
            return
        self._problem = ""
        each.start(["ip", "netns", "exec", self._namespace, *command])

    def _command(self, spec: Object) -> Sequence[str]:
        around = self._around
        if spec["image"] not in around.programs:
            raise UnsupportedError(f"this test has no program for the image {spec['image']}")
        pod = {**self.manifest, "status": {"podIP": self._address, "hostIP": around.network.gateway}}
        server = {"KUBERNETES_SERVICE_HOST": around.server[0], "KUBERNETES_SERVICE_PORT": str(around.server[1])}
        environment = {**server, **variables(spec, pod, around.api)}
        seen = files(spec, pod, around.api, self._folder)
        seen |= service_account_files(pod, around.api, around.authority, self._folder)
        return around.programs[spec["image"]](Container(pod, spec, environment, seen))

    def _sidecar_command(self) -> list[str]:
        config = self._folder / "envoy.json"
        config.write_text(sidecar.bootstrap(self.manifest["metadata"], self._address, self._around.istiod), encoding="utf-8")
        workers = str(sidecar.workers(self._annotations))
        command = [str(envoy_binary()), "-c", str(config), "--concurrency", workers, "--disable-hot-restart"]
        return [*command, "--log-level", "warning", "--component-log-level", "misc:error"]  # misc: what istiod sends is deprecated

    def _of(self, role: Role) -> list[Running]:
        return [each for each in self._containers if each.role is role]

    def _kill(self, *roles: Role) -> None:
        for each in self._containers:
            if each.role in roles:
                each.kill()

    def _condition(self, name: str, is_so: bool) -> dict[str, Any]:
        if self._since.get(name, (None,))[0] is not is_so:
            self._since[name] = (is_so, timestamp())
        return {"type": name, "status": str(is_so), "lastTransitionTime": self._since[name][1]}

    def _container_status(self, each: Running) -> dict[str, Any]:
        if each.is_alive:
            state: dict[str, Any] = {"running": {"startedAt": each.started_at}}
        elif each.exit_code is not None:
            state = {"terminated": each.end()}
        else:
            reason = "CreateContainerConfigError" if self._problem else "PodInitializing"
            state = {"waiting": {"reason": reason, "message": self._problem}}
        numbers = {"restartCount": each.restarts, "ready": each.is_ready, "started": each.is_alive}
        before = {"lastState": {"terminated": each.previous}} if each.previous else {}
        return {"name": each.spec["name"], "image": each.spec["image"], "imageID": "", "state": state, **before, **numbers}
