"""Are the manifests what a real API server accepts, what the level ``restricted`` admits, and what ``loadgen manifests`` prints?"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import stat
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import loadgen
from loadgen.cli import exit_code_of
from loadgen.cluster.guard import guard_job
from loadgen.cluster.marks import Run, guard_name, journal_name, lease_name, overlay_name, this_holder
from loadgen.inputs import load_plan
from loadgen.preview import state_of
from tests.cluster.controlplane.api import ApiError, path_of
from tests.cluster.controlplane.plane import ROOT_NAMESPACE
from tests.story.command import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.cluster.controlplane.plane import ControlPlane

Object = dict[str, Any]
HOST = "user.base.svc.cluster.local"
FILES = REPOSITORY / "loadgen" / "manifests"
DOCUMENTATION = (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")
KUBECTL = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl: install the package of the Kubernetes project")
PODS = ("client", "user", "guard", "locust-master", "locust-worker")
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
ISTIOS_SIDECAR = {
    "name": "istio-proxy",
    "image": "istio/proxyv2",
    "restartPolicy": "Always",
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsGroup": 1337,
        "runAsNonRoot": True,
        "runAsUser": 1337,
    },
}
"""What Istio's injection puts in where its CNI plugin does the rest. It says nothing of seccomp: the pod has to."""


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[Object]]:
    """Give the objects that the command prints with some options."""

    def run(*options: str) -> list[Object]:
        assert exit_code_of(["manifests", *options]) == 0
        return list(yaml.safe_load_all(capsys.readouterr().out))

    return run


@pytest.fixture
def tutorial(control_plane: ControlPlane) -> ControlPlane:
    """A cluster with the tutorial's namespaces: a dry run makes none, so nothing could be put into them."""
    for name in ("test", "base", ROOT_NAMESPACE):
        control_plane.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return control_plane


def kubectl(*arguments: str | Path, given: str | None = None) -> str:
    ended = subprocess.run(["kubectl", *map(str, arguments)], input=given, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def one(objects: Sequence[Object], kind: str, name: str) -> Object:
    (found,) = (each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def by_name(objects: Sequence[Object]) -> dict[tuple[str, str, str], Object]:
    return {(each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): each for each in objects}


def try_out(plane: ControlPlane, thing: Object) -> None:
    """Have the server do everything but write it down; a field that it does not know is an error."""
    options = {"dryRun": "All", "fieldValidation": "Strict", "fieldManager": "test", "force": "true"}
    plane.api.patch(path_of(thing), thing, "application/apply-patch+yaml", **options)


@KUBECTL
@pytest.mark.parametrize(("folder", "options"), [("", []), ("toggle-in-base", ["--toggle-in-base"])])
def test_the_command_prints_what_kubectl_makes_of_the_files(folder: str, options: list[str], printed: Callable[..., list[Object]]) -> None:
    made = by_name(list(yaml.safe_load_all(kubectl("kustomize", FILES / folder))))
    wanted = by_name(printed(*options))
    secret = wanted.pop(("Secret", "test", "loadgen-control"))
    assert len(secret["stringData"]["secret"]) >= 32
    if folder:
        assert {key for key, thing in wanted.items() if thing == made.get(key)} == set(made)
    else:
        assert made == wanted


@KUBECTL
def test_with_locust_the_command_prints_what_kubectl_makes_of_its_files_and_leaves_the_clients_out(
    printed: Callable[..., list[Object]],
) -> None:
    made = by_name(list(yaml.safe_load_all(kubectl("kustomize", FILES / "locust"))))
    plain, wanted = by_name(printed()), by_name(printed("--locust"))
    assert {key: thing for key, thing in wanted.items() if key not in plain} == made
    assert sorted(key for key in plain if key not in wanted) == [
        ("Deployment", "test", "client"),
        ("PodDisruptionBudget", "test", "client"),
        ("Service", "test", "client"),
    ]


@KUBECTL
@pytest.mark.parametrize("folder", ["", "toggle-in-base", "locust"])
def test_kubectl_apply_k_is_accepted_by_a_real_server(folder: str, tutorial: ControlPlane) -> None:
    access = ("--kubeconfig", tutorial.kubeconfig("admin"))
    said = kubectl(*access, "apply", "--dry-run=server", "--validate=strict", "-k", FILES / folder)
    count = kubectl("kustomize", FILES / folder).count("\nkind: ")
    assert said.count("(server dry run)") == count
    assert count >= 4


@KUBECTL
def test_what_the_command_prints_is_accepted_by_kubectl_apply_f(tutorial: ControlPlane, printed: Callable[..., list[Object]]) -> None:
    stream = yaml.safe_dump_all(printed("--toggle-in-base"))
    said = kubectl("--kubeconfig", tutorial.kubeconfig("admin"), "apply", "--dry-run=server", "--validate=strict", "-f", "-", given=stream)
    assert "secret/loadgen-control created (server dry run)" in said


@KUBECTL
def test_the_documentation_s_kubeconfig_is_the_runner_s_account_and_holds_nothing_of_the_administrator_s(
    tutorial: ControlPlane, printed: Callable[..., list[Object]], tmp_path: Path
) -> None:
    tutorial.api.apply(*(each for each in printed() if each["kind"] == "ServiceAccount"))
    administrator = tutorial.kubeconfig("admin")
    lines = [line.removeprefix("$ ") for line in DOCUMENTATION.splitlines() if line.startswith("$ ") and "runner.kubeconfig" in line]
    *commands, run = lines
    assert run.startswith("loadgen run ")
    environment = {**os.environ, "KUBECONFIG": str(administrator)}
    for command in commands:
        subprocess.run(["sh", "-ec", command], cwd=tmp_path, env=environment, check=True, timeout=60)
    made = tmp_path / "runner.kubeconfig"
    question = yaml.safe_dump({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
    said = json.loads(kubectl("--kubeconfig", made, "create", "--validate=false", "-f", "-", "-o", "json", given=question))
    assert said["status"]["userInfo"]["username"] == "system:serviceaccount:test:loadgen-runner"
    assert tutorial.users.token("admin") in administrator.read_text(encoding="utf-8")
    assert tutorial.users.token("admin") not in made.read_text(encoding="utf-8")
    assert stat.S_IMODE(made.stat().st_mode) == 0o600


def test_the_documentation_names_every_role(printed: Callable[..., list[Object]]) -> None:
    roles = {each["metadata"]["name"] for each in printed("--toggle-in-base") if each["kind"] == "Role"}
    assert {
        name for line in DOCUMENTATION.splitlines() if line.startswith("| `loadgen-") for name in re.findall(r"`(loadgen-[\w-]+)`", line)
    } == roles


def test_every_object_is_accepted_by_a_real_server_which_knows_all_its_fields(
    tutorial: ControlPlane, make_namespace: Callable[..., str], printed: Callable[..., list[Object]]
) -> None:
    clients, base = make_namespace("test"), make_namespace("base")
    options = ("--namespace", clients, "--target", f"http://orders.{base}.svc.cluster.local:8080/x?y=1", "--toggle-in-base")
    for thing in (*printed("--toggle-in-base"), *printed(*options), *printed("--locust"), *printed(*options, "--locust")):
        try_out(tutorial, thing)
    wrong = one(printed(), "Deployment", "client")
    wrong["spec"]["template"]["spec"]["readinessProb"] = {}
    with pytest.raises(ApiError, match="readinessProb"):
        try_out(tutorial, wrong)


def test_the_files_name_what_a_run_makes_for_the_tutorials_host(printed: Callable[..., list[Object]]) -> None:
    names = {name for each in printed("--toggle-in-base") for rule in each.get("rules", ()) for name in rule.get("resourceNames", ())}
    assert names == {lease_name(HOST), overlay_name(HOST), journal_name(HOST), guard_name(HOST), "loadgen-control", "user"}


def test_the_files_name_the_image_of_this_version() -> None:
    images = [
        container["image"] for file in FILES.rglob("deployment.yaml") for container in containers(yaml.safe_load(file.read_text("utf-8")))
    ]
    assert images == [f"loadgen:{loadgen.__version__}"] * 2


def containers(deployment: Object) -> list[Object]:
    found: list[Object] = deployment["spec"]["template"]["spec"]["containers"]
    return found


def test_the_clients_are_the_tutorials(printed: Callable[..., list[Object]]) -> None:
    objects = printed()
    client = one(objects, "Deployment", "client")
    assert client["spec"]["replicas"] == 10
    (container,) = containers(client)
    environment = {each["name"]: each.get("value") or each["valueFrom"]["fieldRef"]["fieldPath"] for each in container["env"]}
    assert environment["POD_NAME"] == "metadata.name"
    assert {"POD_NAMESPACE", "REGION"} <= set(environment)
    assert one(objects, "Service", "client")["spec"]["ports"][0]["port"] == 7000
    assert one(objects, "Namespace", "test")["metadata"]["labels"]["istio-injection"] == "enabled"
    annotations = {name: one(objects, "Deployment", name)["spec"]["template"]["metadata"]["annotations"] for name in ("client", "user")}
    excluded = {name: found["traffic.sidecar.istio.io/excludeInboundPorts"] for name, found in annotations.items()}
    assert excluded == {"client": "7000", "user": annotations["user"]["loadgen.dev/count-port"]}
    assert annotations["user"]["loadgen.dev/count-port"] == "7001"


def test_every_option_says_what_stands_in_the_objects(printed: Callable[..., list[Object]], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef\n", encoding="ascii")
    options = ["--namespace", "load", "--replicas", "3", "--image", "registry.example/loadgen@sha256:0", "--region", "eu-west-1"]
    objects = printed(*options, "--target", "http://orders.shop:8080/x", "--secret-from", str(secret))
    client = one(objects, "Deployment", "client")
    (container,) = containers(client)
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert (client["metadata"]["namespace"], client["spec"]["replicas"]) == ("load", 3)
    assert container["image"] == "registry.example/loadgen@sha256:0"
    assert (environment["REGION"], environment["LOADGEN_TARGET"]) == ("eu-west-1", "http://orders.shop:8080/x")
    assert one(objects, "Secret", "loadgen-control")["stringData"] == {"secret": "0123456789abcdef"}
    assert {each["metadata"].get("namespace") for each in objects} == {None, "load", "shop", ROOT_NAMESPACE}
    assert {subject["namespace"] for each in objects for subject in each.get("subjects", ())} == {"load"}
    assert lease_name("orders.shop.svc.cluster.local") in str(one(objects, "Role", "loadgen-runner"))
    assert {"user", "loadgen-runner-count"} & {each["metadata"]["name"] for each in objects} == set()


def test_locust_is_about_the_target_and_the_namespace_that_were_named(printed: Callable[..., list[Object]], tmp_path: Path) -> None:
    options = ["--namespace", "load", "--replicas", "3", "--image", "one", "--locust-image", "another", "--region", "eu-west-1"]
    objects = printed("--locust", "--target", "http://orders.shop:8080/x", *options)
    worker, master = (one(objects, "Deployment", name) for name in ("locust-worker", "locust-master"))
    client, locust = containers(worker)
    assert worker["spec"]["replicas"] == 3
    assert (client["image"], locust["image"], containers(master)[0]["image"]) == ("one", "another", "another")
    assert locust["args"][-1] == "locust-master.load.svc.cluster.local"
    assert {"name": "LOADGEN_TARGET", "value": "http://orders.shop:8080/x"} in client["env"]
    files = one(objects, "ConfigMap", "locust")["data"]
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    plan = load_plan(tmp_path / "scenario.yaml")
    assert plan.findings == ()
    assert plan.scenario.target.url == "http://orders.shop.svc.cluster.local:8080/x"
    assert [rule.key for rule in plan.rules] == ["shop/user"]
    assert (plan.client.namespace, plan.client.labels["app"]) == ("load", worker["spec"]["template"]["metadata"]["labels"]["app"])
    for each in ("locustfile.py", "wire.py"):
        assert 'host = "http://orders.shop.svc.cluster.local:8080"' in files[each]


@pytest.mark.parametrize(("options", "file"), [((), "locustfile.py"), (("--locust-users", "engine"), "wire.py")])
def test_master_and_workers_have_the_same_users(printed: Callable[..., list[Object]], options: tuple[str, ...], file: str) -> None:
    objects = printed("--locust", *options)
    for name in ("locust-worker", "locust-master"):
        arguments = containers(one(objects, "Deployment", name))[-1]["args"]
        assert f"/var/run/locust/{file}" in arguments, name
    assert file in one(objects, "ConfigMap", "locust")["data"]


def test_the_files_of_locust_are_about_the_tutorial(tmp_path: Path) -> None:
    files = yaml.safe_load((FILES / "locust" / "config-map.yaml").read_text(encoding="utf-8"))["data"]
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    shipped = load_plan(REPOSITORY / "scenarios" / "connection-pool.yaml")
    plan = load_plan(tmp_path / "scenario.yaml")
    assert (plan.scenario.target, plan.client.namespace) == (shipped.scenario.target, shipped.client.namespace)
    assert [rule.key for rule in plan.rules] == [rule.key for rule in shipped.rules]
    assert state_of(plan.rules, plan.service, plan.client) == state_of(shipped.rules, plan.service, plan.client)


def test_the_files_of_locust_name_the_images_of_this_version() -> None:
    deployments = [yaml.safe_load(file.read_text("utf-8")) for file in sorted((FILES / "locust").glob("*-deployment.yaml"))]
    images = [container["image"] for each in deployments for container in containers(each)]
    version = loadgen.__version__
    assert images == [f"loadgen-locust:{version}", f"loadgen:{version}", f"loadgen-locust:{version}"]


def test_only_the_rules_that_are_named_may_be_changed(printed: Callable[..., list[Object]]) -> None:
    objects = printed("--toggle-in-base", "--rule", "orders", "--rule", "orders.v2")
    for role in ("loadgen-runner-toggle", "loadgen-guard-toggle"):
        bound = [each.get("resourceNames") for each in one(objects, "Role", role)["rules"] if "patch" in each["verbs"]]
        assert bound == [["orders", "orders.v2"]]


def test_the_example_service_comes_with_its_own_target_and_can_be_left_out(printed: Callable[..., list[Object]]) -> None:
    assert one(printed("--target", "http://user.base.svc:7000/"), "Deployment", "user")
    left_out = printed("--no-user-service")
    assert {each["kind"] for each in left_out if each["metadata"].get("namespace") == "base"} == {"Role", "RoleBinding"}


def test_a_new_secret_is_made_each_time(printed: Callable[..., list[Object]]) -> None:
    first, second = (one(printed(), "Secret", "loadgen-control")["stringData"]["secret"] for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--replicas", "0"], "--replicas"),
        (["--replicas", "201"], "--replicas"),
        (["--rule", "user"], "--rule says which rules may be changed in the target's namespace\n   hint: add --toggle-in-base"),
        (["--toggle-in-base", "--rule", "User"], "--rule 'User' is not possible\n   hint: the name of a DestinationRule"),
        (["--namespace", "Test"], "--namespace 'Test' is not possible\n   hint: lower-case letters"),
        (["--namespace", "base"], "the example service's own\n   hint: choose another one, or add --no-user-service"),
        (["--image", "load gen"], "--image 'load gen' is not possible\n   hint: the name of an image"),
        (["--locust-image", "load gen"], "--locust-image 'load gen' is not possible\n   hint: the name of an image"),
        (["--region", "a\nb"], "--region 'a\\nb' is not possible\n   hint: letters, digits"),
        (["--target", "http://example.com.:80/"], "is no service of the mesh\n   hint: write http://SERVICE.NAMESPACE:PORT/"),
        (["--target", "https://user.base/"], "is no service of the mesh\n   hint: write http://SERVICE.NAMESPACE:PORT/"),
        (["--target", "http://127.0.0.1:7000/"], "is no service of the mesh\n   hint: write http://SERVICE.NAMESPACE:PORT/"),
        (["--target", "user.base:7000"], "is no http URL"),
        (["--target", "http://orders.shop:80/", "--user-service"], "the example service is http://user.base:7000/"),
        (["--secret-from", "/no/such/file"], "--secret-from"),
        (["--secret-from", "/dev/null"], "the secret in /dev/null is not one line of 16 to 1024 printable characters"),
        (["--replica", "3"], "No such option"),
    ],
)
def test_a_wrong_option_ends_with_2_and_prints_no_object(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(["manifests", *options]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


@pytest.fixture
def pods(printed: Callable[..., list[Object]]) -> dict[str, Object]:
    """Give one pod of each kind that there is in a cluster: the clients', the example service's, the guard's, and Locust's."""
    objects = (*printed(), *printed("--locust"))
    templates = {each["metadata"]["name"]: each["spec"]["template"] for each in objects if each["kind"] == "Deployment"}
    run = Run("some-run", this_holder(), HOST, "test", datetime.now(UTC))
    templates["guard"] = guard_job(run, "loadgen:test", lasts_s=60)["spec"]["template"]
    return {
        name: {**each, "apiVersion": "v1", "kind": "Pod", "metadata": {**each["metadata"], "name": "try"}}
        for name, each in templates.items()
    }


def admit(plane: ControlPlane, pod: Object, namespace: str) -> None:
    plane.api.post(f"/api/v1/namespaces/{namespace}/pods", pod, dryRun="All", fieldValidation="Strict")


def with_sidecar(pod: Object) -> Object:
    return {**pod, "spec": {**pod["spec"], "initContainers": [ISTIOS_SIDECAR]}}


@pytest.mark.parametrize("name", PODS)
def test_the_level_restricted_admits_every_pod_with_and_without_its_sidecar(
    name: str, control_plane: ControlPlane, make_namespace: Callable[..., str], pods: dict[str, Object]
) -> None:
    namespace = make_namespace(**RESTRICTED)
    admit(control_plane, pods[name], namespace)
    admit(control_plane, with_sidecar(pods[name]), namespace)
    for container in pods[name]["spec"]["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {"requests", "limits"} <= set(container["resources"])
    assert pods[name]["spec"]["automountServiceAccountToken"] is (name in {"guard", "locust-master"})


@pytest.mark.parametrize("name", PODS)
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("securityContext/runAsNonRoot", False),
        ("securityContext/seccompProfile/type", "Unconfined"),
        ("securityContext/runAsUser", 0),
        ("containers/0/securityContext/allowPrivilegeEscalation", True),
        ("containers/0/securityContext/capabilities/drop", []),
        ("containers/0/securityContext/capabilities/add", ["NET_ADMIN"]),
        ("hostNetwork", True),
        ("volumes", [{"hostPath": {"path": "/"}}]),
    ],
)
def test_a_pod_that_may_more_is_refused_by_the_same_check(
    name: str, path: str, value: object, control_plane: ControlPlane, make_namespace: Callable[..., str], pods: dict[str, Object]
) -> None:
    pod = copy.deepcopy(pods[name])
    *way, last = path.split("/")
    place: Any = pod["spec"]
    for step in way:
        place = place[int(step)] if step.isdigit() else place[step]
    if last == "volumes" and isinstance(value, list):  # whatever is mounted has to be there, or that is what is wrong
        mounted = {mount["name"] for container in pod["spec"]["containers"] for mount in container.get("volumeMounts", ())}
        value = [{"name": each, **source} for each in mounted or {"any"} for source in value]
    place[last] = value
    with pytest.raises(ApiError, match='violates PodSecurity "restricted:latest"') as refused:
        admit(control_plane, pod, make_namespace(**RESTRICTED))
    assert refused.value.status == 403
