"""What is a control plane here? etcd and kube-apiserver with Istio's CRDs; on demand Kubernetes' controllers and istiod.

All of it listens on one address: loopback, or the gateway of the pods' network if pods shall reach it. RBAC is on, as in every real
cluster; the admission of service accounts is off, for no pod of a test needs a token that it did not ask for.
"""

from __future__ import annotations

import contextlib
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import httpx
import yaml

from loadgen.mesh.run_folder import run_folder
from tests.cluster.controlplane import machine
from tests.cluster.controlplane.api import Api, ApiError, path_of
from tests.cluster.controlplane.binaries import find
from tests.cluster.controlplane.credentials import ADMIN, Users, kubeconfig, make_signing_key
from tests.cluster.controlplane.part import Part, free_ports
from tests.cluster.controlplane.patience import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

LOOPBACK = "127.0.0.1"
SERVICE_RANGE = "198.19.0.0/16"
"""Half of the range for benchmarks (RFC 2544), which no network uses. Only pods have a route to it."""
ROOT_NAMESPACE = "istio-system"
_CONTROLLERS = (
    "deployment-controller,replicaset-controller,job-controller,ttl-after-finished-controller,"
    "garbage-collector-controller,namespace-controller,endpointslice-controller,disruption-controller"
)
_MESH_CONFIG = {
    "enableAutoMtls": False,
    "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
    "rootNamespace": ROOT_NAMESPACE,
}
_ISTIOD_ENVIRONMENT = {
    "ENABLE_CA_SERVER": "false",
    "INJECTION_WEBHOOK_CONFIG_NAME": "",
    "PILOT_CERT_PROVIDER": "none",
    "PILOT_ENABLE_ALPN_FILTER": "false",  # a stock Envoy refuses the filters that only Istio's has
    "PILOT_ENABLE_GATEWAY_API": "false",
    "PILOT_ENABLE_METADATA_EXCHANGE": "false",
    "POD_NAMESPACE": ROOT_NAMESPACE,
    "VALIDATION_WEBHOOK_CONFIG_NAME": "",
}
_PLAIN_TEXT = {
    "apiVersion": "security.istio.io/v1",
    "kind": "PeerAuthentication",
    "metadata": {"name": "default", "namespace": ROOT_NAMESPACE},
    "spec": {"mtls": {"mode": "DISABLE"}},
}
"""Without it the inbound listener of every sidecar would wait for certificates for ever."""


class ControlPlane:
    """One cluster's control plane, alive inside the ``with`` block. ``seconds`` says how long each part took to start.

    Raises RefusedError if the machine lacks something, MeshError if a part does not come up.
    """

    def __init__(self, users: Sequence[str] = (), *, address: str = LOOPBACK) -> None:
        self.address = address
        self.seconds: dict[str, float] = {}
        self._users = users
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        machine.need(*machine.API_TOOLS)
        programs = {name: find(name) for name in ("etcd", "kube-apiserver")}
        with contextlib.ExitStack() as stack:
            self.folder = stack.enter_context(run_folder())
            self._etcd_port, self._peer_port, self.port = free_ports(self.address, 3)
            self.url = f"https://{self.address}:{self.port}"
            self.authority = self.folder / "certificates" / "apiserver.crt"
            self.users = Users(self.folder / "tokens.csv", self._users)
            make_signing_key(self.folder / "service-accounts.key")
            self.etcd = self._part("etcd", [str(programs["etcd"]), *self._etcd_arguments()])
            self.apiserver = self._part("kube-apiserver", [str(programs["kube-apiserver"]), *self._apiserver_arguments()])
            self._others: dict[str, Part] = {}
            stack.callback(self._kill_all)
            self.seconds["etcd"] = self.etcd.start(self._etcd_is_ready)
            self.start_apiserver()
            self.api = stack.enter_context(self.client(ADMIN))
            self._install_crds()
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def client(self, user: str) -> Api:
        """Give a user's own way to the API server; close it."""
        return Api(self.url, self.authority, self.users.token(user))

    def kubeconfig(self, user: str, namespace: str = "default") -> Path:
        """Write a user's kubeconfig as it has to be now; give the file."""
        file = self.folder / f"{user}.{namespace}.kubeconfig"
        file.write_text(kubeconfig(self.url, self.authority, user, self.users.token(user), namespace), encoding="utf-8")
        file.chmod(0o600)
        return file

    def service_account_token(self, namespace: str, name: str) -> str:
        """Give a token of a service account that exists, valid for an hour."""
        return self.api.service_account_token(namespace, name)

    def start_apiserver(self) -> None:
        """Start the API server, at the same address and with the same certificate as before."""
        self.seconds["kube-apiserver"] = self.apiserver.start(self._apiserver_is_ready)

    def stop_apiserver(self) -> None:
        """Take the API server away, from one moment to the next."""
        self.apiserver.kill()

    def restart_apiserver(self) -> None:
        """Take the API server away and bring it back; tokens that were renewed meanwhile are valid then, and the old ones are not."""
        self.stop_apiserver()
        self.start_apiserver()

    @contextlib.contextmanager
    def apiserver_away(self) -> Iterator[None]:
        """Take the API server away while the block runs."""
        self.stop_apiserver()
        try:
            yield
        finally:
            self.start_apiserver()

    def start_controllers(self) -> None:
        """Start the part of kube-controller-manager that Deployments, Jobs, Services, namespaces and owners need; once."""
        if "kube-controller-manager" not in self._others:
            [port] = free_ports(self.address, 1)
            arguments = ["--kubeconfig", self.kubeconfig(ADMIN), "--controllers", _CONTROLLERS, "--leader-elect=false"]
            arguments += ["--bind-address", self.address, "--secure-port", port, "--kube-api-qps=200", "--kube-api-burst=400"]
            command = [str(find("kube-controller-manager")), *map(str, arguments)]
            self._start("kube-controller-manager", command, lambda: _says_ok(f"https://{self.address}:{port}/healthz"))

    def start_istiod(self) -> tuple[str, int]:
        """Start istiod, once; give the address where sidecars find it."""
        if "istiod" not in self._others:
            binary = find("pilot-discovery")
            namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ROOT_NAMESPACE}}
            self.api.apply(namespace, _PLAIN_TEXT)
            mesh = self.folder / "mesh.yaml"
            mesh.write_text(json.dumps(_MESH_CONFIG), encoding="utf-8")
            self._grpc, self._http, monitoring = free_ports(self.address, 3)
            arguments = ["discovery", "--kubeconfig", self.kubeconfig(ADMIN), "--meshConfig", mesh, "--domain", "cluster.local"]
            arguments += [
                "--clusterID",
                "Kubernetes",
                "--grpcAddr",
                f"{self.address}:{self._grpc}",
                "--httpAddr",
                f"{self.address}:{self._http}",
            ]
            arguments += [
                "--monitoringAddr",
                f"{self.address}:{monitoring}",
                "--secureGRPCAddr",
                "",
                "--httpsAddr",
                "",
                "--ctrlz_port",
                "0",
            ]
            environment = [f"{name}={value}" for name, value in _ISTIOD_ENVIRONMENT.items()]
            command = ["env", *environment, str(binary), *map(str, arguments)]
            self._start("istiod", command, lambda: _says_ok(f"http://{self.address}:{self._http}/ready"))
        return self.address, self._grpc

    def _part(self, name: str, command: list[str]) -> Part:
        return Part(name, command, self.folder)

    def _start(self, name: str, command: list[str], is_ready: Callable[[], bool]) -> None:
        self._others[name] = self._part(name, command)
        self.seconds[name] = self._others[name].start(is_ready)

    def processes(self) -> dict[str, int]:
        """Give the process ids of the parts that run."""
        return {part.name: part.pid for part in (self.etcd, self.apiserver, *self._others.values())}

    def _kill_all(self) -> None:
        for part in (*self._others.values(), self.apiserver, self.etcd):
            part.kill()

    def _etcd_arguments(self) -> list[str]:
        client, peer = f"http://{self.address}:{self._etcd_port}", f"http://{self.address}:{self._peer_port}"
        arguments = ["--data-dir", f"{self.folder}/etcd", "--unsafe-no-fsync", "--logger", "zap", "--log-level", "warn"]
        arguments += ["--listen-client-urls", client, "--advertise-client-urls", client]
        return [*arguments, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]

    def _apiserver_arguments(self) -> list[str]:
        key = self.folder / "service-accounts.key"
        return [
            f"--etcd-servers=http://{self.address}:{self._etcd_port}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={self.port}",
            f"--cert-dir={self.authority.parent}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self.users.file}",
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",  # it would publish an address of the machine
            "--profiling=false",
        ]

    def _etcd_is_ready(self) -> bool:
        return _says_ok(f"http://{self.address}:{self._etcd_port}/health")

    def _apiserver_is_ready(self) -> bool:
        if not self.authority.is_file():
            return False
        try:
            with self.client(ADMIN) as api:
                return bool(api.get("/readyz") == "ok")
        except (httpx.HTTPError, ApiError, OSError):
            return False

    def _install_crds(self) -> None:
        started = time.monotonic()
        crds = list(yaml.load_all(find("istio-crds.yaml").read_bytes(), Loader=yaml.CSafeLoader))
        for crd in crds:
            self.api.create(crd)
        for crd in crds:
            until(partial(self._is_established, crd), f"the API server serves {crd['metadata']['name']}")
        self.seconds["Istio's CRDs"] = time.monotonic() - started

    def _is_established(self, crd: dict[str, Any]) -> bool:
        conditions = self.api.get(path_of(crd)).get("status", {}).get("conditions") or []  # null at first
        return any(condition["type"] == "Established" and condition["status"] == "True" for condition in conditions)


def _says_ok(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, verify=False, timeout=1.0).is_success  # nobody's secret is asked for, or told
    except httpx.HTTPError:
        return False
