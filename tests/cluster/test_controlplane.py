"""Is the control plane of the tests a real one, and is nothing left of it?"""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loadgen.errors import MeshError
from loadgen.mesh.run_folder import run_folder
from tests.cluster.controlplane.api import ApiError, path_of
from tests.cluster.controlplane.container import Plain
from tests.cluster.controlplane.injection import LABEL
from tests.cluster.controlplane.network import leftovers, pod_network, run
from tests.cluster.controlplane.patience import PATIENCE_S, until
from tests.story.command import REPOSITORY, processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cluster.controlplane.api import Object
    from tests.cluster.controlplane.cluster import Cluster, PodView
    from tests.cluster.controlplane.plane import ControlPlane

HOST = "user.base.svc.cluster.local"
CLUSTER = f"outbound|7000||{HOST}"
SERVER = """
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        answer = (os.environ["BODY"] if self.path == "/" else self.client_address[0]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
http.server.ThreadingHTTPServer(("0.0.0.0", 7000), Handler).serve_forever()
"""
ASK = """
import os, pathlib, ssl, urllib.request
own = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
url = "https://{KUBERNETES_SERVICE_HOST}:{KUBERNETES_SERVICE_PORT}/version".format(**os.environ)
question = urllib.request.Request(url, headers={"authorization": f"Bearer {(own / 'token').read_text()}"})
urllib.request.urlopen(question, context=ssl.create_default_context(cafile=own / "ca.crt")).read()
"""
PROGRAMS = {
    "python": Plain((sys.executable, "-c")),
    "server": Plain((sys.executable, "-c", SERVER)),
    "shell": Plain(("sh", "-c")),
    "sleep": Plain(("sleep", "infinity")),
}
COUNTED = 'proxyStatsMatcher: {inclusionRegexps: ["cluster\\\\.outbound.*upstream_rq_total"]}'


def rule(namespace: str, **pool: object) -> Object:
    """Make a DestinationRule for the example service."""
    metadata = {"name": "user", "namespace": namespace}
    spec = {"host": HOST, "trafficPolicy": {"connectionPool": pool}}
    return {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": metadata, "spec": spec}


def template(
    name: str, image: str, *, annotations: dict[str, str] | None = None, labels: dict[str, str] | None = None, **container: Any
) -> Object:
    """Make the part of a Deployment or a Job that says what its pods are."""
    metadata = {"labels": {"app": name, **(labels or {})}, "annotations": annotations or {}}
    return {"metadata": metadata, "spec": {"containers": [{"name": "main", "image": image, **container}]}}


def deployment(namespace: str, name: str, pods: Object, replicas: int = 1) -> Object:
    """Make a Deployment."""
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": pods}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def job(namespace: str, name: str, code: str, image: str = "shell", **more: Any) -> Object:
    """Make a Job that runs a shell command, or a Python program, once."""
    pods = template(name, image, args=[code])
    pods["spec"] |= {"restartPolicy": "Never", **more}
    spec = {"backoffLimit": 0, "template": pods}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def condition_of_job(cluster: Cluster, namespace: str, name: str) -> str:
    """Wait until a Job is over; say how."""
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
    ends = {"Complete", "Failed"}

    def ended() -> str:
        conditions = cluster.plane.api.get(path)["status"].get("conditions", [])
        return next((each["type"] for each in conditions if each["type"] in ends and each["status"] == "True"), "")

    return until(ended, f"{name} is over")


class TestApiServer:
    def test_a_rule_is_accepted_and_comes_back_as_it_was_written(self, control_plane: ControlPlane, namespace: str) -> None:
        wanted = rule(namespace, tcp={"maxConnections": 1}, http={"http1MaxPendingRequests": 1})
        control_plane.api.create(wanted)
        assert control_plane.api.get(path_of(wanted))["spec"] == wanted["spec"]

    def test_a_malformed_rule_is_refused_with_the_name_of_the_field(self, control_plane: ControlPlane, namespace: str) -> None:
        with pytest.raises(ApiError, match=r"maxConnections") as refused:
            control_plane.api.create(rule(namespace, tcp={"maxConnections": "many"}))
        assert refused.value.status == 422

    def test_a_user_without_a_role_may_not_even_look(self, control_plane: ControlPlane, namespace: str) -> None:
        with control_plane.client("runner") as runner, pytest.raises(ApiError, match="cannot list resource") as refused:
            runner.list(f"/apis/networking.istio.io/v1/namespaces/{namespace}/destinationrules")
        assert refused.value.status == 403

    def test_a_token_that_was_renewed_is_unknown_after_a_restart(self, control_plane: ControlPlane, namespace: str) -> None:
        with control_plane.client("guest") as before:
            control_plane.users.renew("guest")
            control_plane.restart_apiserver()
            with pytest.raises(ApiError) as refused:
                before.get("/version")
        assert refused.value.status == 401
        with control_plane.client("guest") as after:
            assert after.get("/version")["major"]
        assert control_plane.api.get(f"/api/v1/namespaces/{namespace}")["status"]["phase"] == "Active"

    def test_a_service_account_is_known_by_its_token(self, control_plane: ControlPlane, namespace: str) -> None:
        control_plane.api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "guard", "namespace": namespace}})
        token = control_plane.service_account_token(namespace, "guard")
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {"token": token}}
        assert control_plane.api.create(review)["status"]["user"]["username"] == f"system:serviceaccount:{namespace}:guard"


@pytest.fixture(scope="module")
def cluster(start_cluster: Callable[..., Cluster]) -> Cluster:
    """A cluster with the service ``user`` in ``base`` and two clients in ``test``, all of them behind sidecars."""
    cluster = start_cluster(PROGRAMS)
    user = template("user", "server", env=[{"name": "BODY", "value": "Kevin"}], readinessProbe={"httpGet": {"port": 7000}})
    client = template("client", "sleep", annotations={"proxy.istio.io/config": COUNTED})
    service = {"selector": {"app": "user"}, "ports": [{"name": "http", "port": 7000}]}
    for name in ("base", "test"):
        cluster.plane.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": LABEL}})
    cluster.plane.api.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "user", "namespace": "base"}, "spec": service},
        deployment("base", "user", user),
        deployment("test", "client", client, replicas=2),
    )
    return cluster


@pytest.fixture
def clients(cluster: Cluster) -> list[PodView]:
    """The two clients, when they and the service are ready."""
    cluster.ready_pods("base", "app=user")
    clients = cluster.ready_pods("test", "app=client", count=2)
    for client in clients:
        until(lambda: f"{CLUSTER}::" in client.admin("/clusters"), f"istiod told {client.name} of the service")  # noqa: B023  # used at once
    return clients


class TestMesh:
    def test_a_request_goes_through_both_sidecars(self, clients: list[PodView]) -> None:
        assert clients[0].fetch("http://user.base:7000/") == "Kevin"
        assert clients[0].fetch("http://user.base:7000/caller") == "127.0.0.6"  # as which Istio's inbound listener speaks to the service
        counters = clients[0].admin(f"/stats?filter={HOST}")
        assert f"{CLUSTER};.upstream_rq_total: 2" in counters
        assert "upstream_cx_total" not in counters  # the pod did not ask for it, and Istio keeps no more than it must

    def test_a_rule_reaches_every_sidecar_and_is_gone_after_its_deletion(self, cluster: Cluster, clients: list[PodView]) -> None:
        wanted = rule("base", tcp={"maxConnections": 7})

        def limited() -> list[bool]:
            return [f"{CLUSTER}::default_priority::max_connections::7\n" in client.admin("/clusters") for client in clients]

        cluster.plane.api.create(wanted)
        until(lambda: all(limited()), "the rule is everywhere", patience_s=5)
        cluster.plane.api.delete(path_of(wanted))
        until(lambda: not any(limited()), "the rule is gone", patience_s=5)

    def test_the_api_server_reaches_a_pod(self, cluster: Cluster, clients: list[PodView]) -> None:
        [user] = cluster.pods("base", "app=user")
        assert cluster.plane.api.get(f"/api/v1/namespaces/base/pods/{user.name}:7000/proxy/") == "Kevin"

    def test_a_port_that_is_excluded_is_answered_by_the_program_itself(self, cluster: Cluster) -> None:
        direct = {"traffic.sidecar.istio.io/excludeInboundPorts": "7000"}
        pods = template(
            "direct", "server", annotations=direct, env=[{"name": "BODY", "value": ""}], readinessProbe={"httpGet": {"port": 7000}}
        )
        cluster.plane.api.apply(deployment("test", "direct", pods))
        [pod] = cluster.ready_pods("test", "app=direct")
        path = f"/api/v1/namespaces/test/pods/{pod.name}:7000/proxy"
        assert cluster.plane.api.get(f"{path}/caller") == cluster.network.gateway

    def test_a_pod_that_wants_no_sidecar_gets_none(self, cluster: Cluster) -> None:
        cluster.plane.api.apply(deployment("test", "bare", template("bare", "sleep", labels={"sidecar.istio.io/inject": "false"})))
        [pod] = cluster.ready_pods("test", "app=bare")
        with pytest.raises(MeshError, match="Connection refused"):
            pod.admin("/ready")

    def test_a_sidecar_is_put_into_a_namespace_of_the_level_restricted(self, cluster: Cluster) -> None:
        labels = {**LABEL, "pod-security.kubernetes.io/enforce": "restricted"}
        cluster.plane.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": labels}})
        strict = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
        pods = template("strict", "sleep", securityContext={**strict, "seccompProfile": {"type": "RuntimeDefault"}})
        pod = cluster.plane.api.post("/api/v1/namespaces/strict/pods", {**pods, "metadata": {"name": "strict"}}, dryRun="All")
        assert [each["name"] for each in pod["spec"]["initContainers"]] == ["istio-proxy"]


class TestPods:
    def test_a_deployment_follows_its_replicas(self, cluster: Cluster) -> None:
        cluster.plane.api.apply(deployment("default", "scaled", template("scaled", "sleep"), replicas=3))
        first = cluster.ready_pods("default", "app=scaled", count=3)
        cluster.plane.api.patch("/apis/apps/v1/namespaces/default/deployments/scaled", {"spec": {"replicas": 1}})
        [left] = cluster.ready_pods("default", "app=scaled")
        gone = {pod.netns for pod in first} - {left.netns}
        until(lambda: not gone & set(leftovers()), "the network namespaces of the others are gone")

    def test_a_killed_program_is_started_again_and_counted(self, cluster: Cluster) -> None:
        cluster.plane.api.apply(deployment("default", "killed", template("killed", "sleep")))
        [pod] = cluster.ready_pods("default", "app=killed")
        for pid in pod.run("ip", "netns", "pids", pod.netns).split():
            with contextlib.suppress(ProcessLookupError):  # the question itself ran there, too
                os.kill(int(pid), signal.SIGKILL)
        path = f"/api/v1/namespaces/default/pods/{pod.name}"
        until(lambda: cluster.plane.api.get(path)["status"]["containerStatuses"][0]["restartCount"] == 1, "it was started again")
        cluster.ready_pods("default", "app=killed")

    def test_a_job_ends_as_its_program_does(self, cluster: Cluster) -> None:
        cluster.plane.api.create(job("default", "well", "exit 0"))
        cluster.plane.api.create(job("default", "ill", "exit 3"))
        assert condition_of_job(cluster, "default", "well") == "Complete"
        assert condition_of_job(cluster, "default", "ill") == "Failed"

    def test_a_pod_whose_probe_opens_a_port_is_ready_when_it_is_open(self, cluster: Cluster) -> None:
        probe = {"tcpSocket": {"port": 7000}, "periodSeconds": 1}
        for name, image in (("shut", "sleep"), ("open", "server")):
            pods = template(name, image, env=[{"name": "BODY", "value": ""}], readinessProbe=probe)
            cluster.plane.api.apply(deployment("default", name, pods))
        cluster.ready_pods("default", "app=open")
        [shut] = cluster.plane.api.list("/api/v1/namespaces/default/pods", labelSelector="app=shut")
        [container] = shut["status"]["containerStatuses"]
        assert (list(container["state"]), container["ready"]) == (["running"], False)

    def test_a_program_that_is_started_again_leaves_the_last_lines_of_its_life_before(self, cluster: Cluster) -> None:
        telling = job("default", "last", "echo one; echo two >&2; exit 3", restartPolicy="OnFailure")
        telling["spec"]["template"]["spec"]["containers"][0]["terminationMessagePolicy"] = "FallbackToLogsOnError"
        telling["spec"]["backoffLimit"] = 6
        cluster.plane.api.create(telling)

        def last() -> Object | None:
            pods = cluster.plane.api.list("/api/v1/namespaces/default/pods", labelSelector="app=last")
            statuses = [each for pod in pods for each in pod["status"].get("containerStatuses", [])]
            return next((each["lastState"]["terminated"] for each in statuses if each.get("lastState")), None)

        ended = until(last, "it was started again")
        assert (ended["exitCode"], ended["message"]) == (3, "one\ntwo\n")

    def test_the_api_server_gives_a_container_s_log(self, cluster: Cluster) -> None:
        cluster.plane.api.create(job("default", "telling", "echo one; echo two; echo three"))
        assert condition_of_job(cluster, "default", "telling") == "Complete"
        [pod] = cluster.plane.api.list("/api/v1/namespaces/default/pods", labelSelector="app=telling")
        path = f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}/log"
        assert cluster.plane.api.get(path, container="main") == "one\ntwo\nthree\n"
        assert cluster.plane.api.get(path, container="main", tailLines="2") == "two\nthree\n"
        with pytest.raises(ApiError, match="404"):
            cluster.plane.api.get(path, container="main", previous="true")

    def test_a_pod_whose_preparation_fails_never_begins(self, cluster: Cluster) -> None:
        for name, code in (("prepared", "exit 0"), ("unprepared", "exit 1")):
            preparing = {"name": "first", "image": "shell", "args": [code]}
            cluster.plane.api.create(job("default", name, "exit 0", initContainers=[preparing]))
        assert condition_of_job(cluster, "default", "prepared") == "Complete"
        assert condition_of_job(cluster, "default", "unprepared") == "Failed"

    def test_a_program_sees_what_its_manifest_gives_it(self, cluster: Cluster) -> None:
        data = {"secret": base64.b64encode(b"sesame").decode()}
        cluster.plane.api.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "door", "namespace": "default"}, "data": data})
        seeing = job(
            "default",
            "seeing",
            'test "$NAME" = "$(cat /var/run/door/secret) in default, here"',
            volumes=[{"name": "door", "secret": {"secretName": "door"}}],
        )
        container = seeing["spec"]["template"]["spec"]["containers"][0]
        container["volumeMounts"] = [{"name": "door", "mountPath": "/var/run/door"}]
        container["env"] = [
            {"name": "REGION", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['topology.kubernetes.io/region']"}}},
            {"name": "WHERE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "NAME", "value": "sesame in $(WHERE), $(REGION)"},
        ]
        cluster.plane.api.create(seeing)
        assert condition_of_job(cluster, "default", "seeing") == "Complete"

    def test_a_pod_speaks_to_the_api_server_with_its_service_account(self, cluster: Cluster) -> None:
        cluster.plane.api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "asker", "namespace": "default"}})
        cluster.plane.api.create(job("default", "asker", ASK, "python", serviceAccountName="asker"))
        assert condition_of_job(cluster, "default", "asker") == "Complete"

    def test_pods_run_on_while_the_api_server_is_away(self, cluster: Cluster) -> None:
        cluster.plane.api.apply(deployment("default", "lasting", template("lasting", "sleep")))
        [before] = cluster.ready_pods("default", "app=lasting")
        cluster.plane.restart_apiserver()
        assert cluster.ready_pods("default", "app=lasting") == [before]
        cluster.plane.api.delete(f"/api/v1/namespaces/default/pods/{before.name}")
        until(lambda: before not in cluster.pods("default", "app=lasting"), "the node hears of what happens again")

    def test_a_pod_that_asks_for_what_is_not_there_says_so(self, cluster: Cluster) -> None:
        cluster.plane.api.apply(deployment("default", "unknown", template("unknown", "no-such-image")))
        path = "/api/v1/namespaces/default/pods"

        def reason() -> str:
            pods = cluster.plane.api.list(path, labelSelector="app=unknown")
            states = [each["state"] for pod in pods for each in pod["status"].get("containerStatuses", [])]
            return next((state["waiting"].get("message", "") for state in states if "waiting" in state), "")

        assert until(reason, "the pod says what it lacks") == "this test has no program for the image no-such-image"


START = """
import sys
from tests.cluster.controlplane.cluster import Cluster
from tests.cluster.test_controlplane import PROGRAMS, deployment, template
with Cluster(PROGRAMS) as cluster:
    cluster.plane.api.apply(deployment("default", "sleeper", template("sleeper", "sleep", labels={"sidecar.istio.io/inject": "false"})))
    cluster.ready_pods("default", "app=sleeper")
    print(cluster.network.mark, cluster.plane.folder, flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class OtherRun:
    """A cluster of another process, and what would be left of it."""

    process: subprocess.Popen[str]
    mark: str
    folder: str

    def names(self) -> list[str]:
        """Give its network namespaces, its links and their folders."""
        return [name for name in leftovers() if name.startswith(self.mark)]

    def processes(self) -> list[str]:
        """Give its processes: they name its folder, or live in its namespaces."""
        namespaces = [line.split()[0] for line in run("ip netns list").splitlines()]
        inside = [pid for name in namespaces if name.startswith(self.mark) for pid in run(f"ip netns pids {name}").split()]
        return [line for _, line, _ in processes() if self.folder in line] + inside

    def left(self) -> list[str]:
        """Give all that is left of it."""
        return [*self.names(), *self.processes(), *([self.folder] if Path(self.folder).exists() else [])]


@pytest.fixture
def other_run(cluster: Cluster) -> Iterator[OtherRun]:
    """Start a cluster in a process of its own, beside the one that is there."""
    command = [sys.executable, "-c", START]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        mark, folder = process.stdout.readline().split()
        other = OtherRun(process, mark, folder)
        assert mark != cluster.network.mark
        assert other.names()
        assert len(other.processes()) == 6  # etcd, the API server, its controllers, istiod, the kubelet, and the pod
        yield other
        process.kill()


class TestEnd:
    def test_nothing_is_left_after_a_break(self, other_run: OtherRun) -> None:
        other_run.process.send_signal(signal.SIGINT)
        other_run.process.wait(PATIENCE_S)
        assert other_run.left() == []

    def test_no_process_outlives_a_killed_run_and_the_next_one_removes_the_rest(self, cluster: Cluster, other_run: OtherRun) -> None:
        other_run.process.kill()
        other_run.process.wait(PATIENCE_S)
        until(lambda: not other_run.processes(), "all its processes are gone")
        with run_folder(), pod_network():
            assert other_run.left() == []
        assert cluster.ready_pods("base", "app=user")
