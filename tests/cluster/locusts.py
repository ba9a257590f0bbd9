"""Locust in the tutorial's cluster: what ``loadgen manifests --locust`` prints, applied, and a master with arguments of a test's own."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import yaml

from loadgen.errors import MeshError
from tests.cluster.controlplane.patience import until
from tests.cluster.image import build_image
from tests.cluster.tutorial import PATIENCE_S, Tutorial, run_image
from tests.story.command import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.cluster.controlplane.cluster import Cluster, PodView
    from tests.cluster.controlplane.container import Program

Json = dict[str, Any]
WORKERS = 3
FILES = "/var/run/locust"
END_S = 90.0
STORY = ("-u", "30", "--stage", "3s", "--overflow", "failure without a rule")


@dataclass
class Master:
    """A master that runs a test without a page."""

    cluster: Cluster
    name: str

    def view(self) -> PodView:
        return self.cluster.ready_pods("test", f"run={self.name}", patience_s=PATIENCE_S)[0]

    def log(self) -> str:
        return "".join(pod.log("locust") for pod in self.cluster.pods("test", f"run={self.name}"))

    def says(self, text: str) -> str:
        """Wait until it has said something; give its log."""
        until(lambda: text in self.log() or self._ended(), f"the master says '{text}'", patience_s=END_S)
        assert text in self.log(), self.log()
        return self.log()

    def code(self) -> int:
        """Wait until it has ended; give its exit code."""
        try:
            return until(self._ended, "the master has ended", patience_s=END_S)[0]
        except MeshError as error:
            raise AssertionError(f"{error.message}: {self.log()}") from error

    def _ended(self) -> list[int] | None:
        """Give the exit code of the one container if it has ended."""
        pod = self.cluster.plane.api.find(f"/api/v1/namespaces/test/pods/{self.name}") or {}
        states = [each["state"] for each in pod.get("status", {}).get("containerStatuses", ())]
        return [state["terminated"]["exitCode"] for state in states if "terminated" in state] or None

    def delete(self) -> None:
        self.cluster.plane.api.delete(f"/api/v1/namespaces/test/pods/{self.name}", gracePeriodSeconds=0)


@dataclass
class Locusts(Tutorial):
    """The tutorial's cluster with Locust's workers in the place of the clients."""

    template: Json
    """The master's pod."""

    def workers(self, count: int = WORKERS) -> list[PodView]:
        return self.cluster.ready_pods("test", "app=locust-worker", count=count, patience_s=PATIENCE_S)

    def overflows(self) -> int:
        """Say how many overflows the workers' sidecars have counted, all together."""
        pages = [pod.admin("/stats?filter=user.base.*upstream_rq_(active|pending)_overflow") for pod in self.workers()]
        return sum(int(line.rpartition(" ")[2]) for page in pages for line in page.splitlines())

    def start(self, name: str, *arguments: str, expect: int = WORKERS, page: bool = False) -> Master:
        """Start a master with the story, or with the ``page``, that waits for so many workers, once the one before is gone.

        The Service leads to whoever has its label.
        """
        api = self.cluster.plane.api
        until(lambda: not api.list("/api/v1/namespaces/test/pods", labelSelector="app=locust-master"), "no other master is there")
        self.workers()
        pod = copy.deepcopy(self.template)
        [container] = pod["spec"]["containers"]
        if not page:
            users = container["args"].index("--locustfile") + 1
            container["args"][users] += f",{FILES}/story.py"
            container["args"] += ["--headless", "--only-summary", "--expect-workers", str(expect), "--expect-workers-max-wait", "60"]
        container["args"] += arguments
        pod["spec"]["restartPolicy"] = "Never"
        metadata = {"name": name, "namespace": "test", "labels": {**pod["metadata"]["labels"], "run": name}}
        api.create({**pod, "apiVersion": "v1", "kind": "Pod", "metadata": metadata})
        return Master(self.cluster, name)


def make_locusts(start_cluster: Callable[[Mapping[str, Program]], Cluster], *more: str) -> Locusts:
    """Start a cluster with Locust's workers, and no master yet; ``more`` are options of ``loadgen manifests``."""
    options = ["--locust", "--replicas", str(WORKERS), "--toggle-in-base", "--rule", "user", "--rule", "theirs", *more]
    printed = subprocess.run(
        [sys.executable, "-m", "loadgen", "manifests", *options], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    objects: list[Json] = list(yaml.safe_load_all(printed))
    master = next(each for each in objects if (each["kind"], each["metadata"]["name"]) == ("Deployment", "locust-master"))
    objects.remove(master)
    images = {
        container["image"]: container["name"]
        for each in objects
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    programs = {name: partial(run_image, build_image(target=target)) for name, target in (("locust", "locust"), ("", ""))}
    cluster = start_cluster({image: programs.get(name, programs[""]) for image, name in images.items()})
    cluster.plane.api.apply(*objects)
    cluster.ready_pods("base", count=1, patience_s=PATIENCE_S)
    made = Locusts(cluster, _no_file(cluster), master["spec"]["template"])
    try:
        made.workers()
    except MeshError as error:
        said = "; ".join(f"{pod.name}: {pod.log('client')[-500:]} {pod.log('locust')[-500:]}" for pod in cluster.pods("test"))
        raise MeshError(f"{error.message}; {said}") from error
    return made


def overflows(log: str) -> int:
    """Give the overflows of Locust's own statistics."""
    found = re.search(r"GET +user \(overflow\) +(\d+)", log)
    return int(found[1]) if found else 0


def _no_file(cluster: Cluster) -> Path:
    """Nobody needs a kubeconfig here: the master has the account of its pod."""
    return cluster.plane.folder / "none"
