"""Is everything there that a run needs? Looks, and changes nothing; all that is missing is said at once.

A load pod is usable if it is ready and has a sidecar (a container or a native sidecar called ``istio-proxy``) that is ready, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadgen.cluster import paths
from loadgen.cluster.failure import ForbiddenError
from loadgen.cluster.marks import annotation
from loadgen.cluster.rights import Right, missing_rights
from loadgen.policy.selection import ROOT_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from loadgen.cluster.api import KubeApi
    from loadgen.cluster.marks import Json
    from loadgen.policy.selection import Service, Workload

SIDECAR = "istio-proxy"
COUNT_PORT = "loadgen.dev/count-port"


@dataclass(frozen=True, slots=True)
class Pods:
    """The load pods that were found: the usable ones in order of their names, and for each of the others why not.

    ``image`` is what they run, and ``pull_secrets`` names the Secrets with which a node gets it: the guard runs the same.
    """

    usable: tuple[str, ...]
    others: Mapping[str, str]
    image: str = ""
    pull_secrets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServicePod:
    """One of those that stand behind the service and are ready. ``count_port`` is where it tells its count, 0 if it does not count.

    ``life`` is another one when the pod was restarted, or another one of its name came: then it has begun to count anew.
    """

    name: str
    count_port: int = 0
    life: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a cluster has for a run. ``rules`` are all that could concern the clients, as the server gives them in ``version``."""

    version: str
    rules: tuple[Json, ...]
    pods: Pods
    count_ports: Mapping[str, int]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


async def read_rules(api: KubeApi, version: str, namespaces: Sequence[str]) -> tuple[Json, ...]:
    """Give all rules of these namespaces, as the server has them."""
    found: list[Json] = []
    for namespace in dict.fromkeys(namespaces):
        found += await api.list(paths.rules(version, namespace))
    return tuple(found)


async def look(api: KubeApi, service: Service, client: Workload, wanted: int, homes: Sequence[str]) -> Found:
    """Look at everything that a run of so many clients needs. ``homes`` are the namespaces of the scenario's own rules.

    Raises RefusedError if it cannot even be looked.
    """
    version = await api.rule_version()
    problems: list[str] = []
    notes: list[str] = []
    rules = await read_rules(api, version, [client.namespace, service.namespace, *homes])
    try:
        rules += await read_rules(api, version, [ROOT_NAMESPACE])
    except ForbiddenError as error:
        notes.append(f"rules for the whole mesh could not be read, so none of them is counted with: {error.message}")
    pods = await _load_pods(api, client)
    if not pods.usable:
        problems.append(f"no load pod is usable in {client.namespace}: {_why(pods)}")
    elif len(pods.usable) < wanted:
        problems.append(f"{len(pods.usable)} load pods are usable in {client.namespace}, the scenario wants {wanted}: {_why(pods)}")
    elif len(pods.usable) > wanted:
        advice = f"say --clients {len(pods.usable)}, or scale the Deployment"
        problems.append(f"{len(pods.usable)} load pods call the service, the scenario wants {wanted}, and the others would go on: {advice}")
    problems += await _service_problems(api, service)
    endpoints = await _endpoints(api, service)
    if not endpoints:
        problems.append(f"the service {service.host} has no endpoint that is ready")
    behind: tuple[ServicePod, ...] = ()
    try:
        behind = await _service_pods(api, service, endpoints)
    except ForbiddenError as error:
        notes.append(f"whether the service counts its requests could not be seen, so it is taken for one that does not: {error.message}")
    count_ports = {pod.name: pod.count_port for pod in behind if pod.count_port}
    missing = await missing_rights(api, [Right(verb, "pods/proxy", service.namespace) for verb in ("get", "create")] if count_ports else ())
    if missing:
        count_ports = {}
        notes.append(
            f"the service counts its requests, but the account may not {missing[0]}, so its count is no witness; loadgen manifests --service-counts gives the right"
        )
    elif count_ports and unseen(behind):
        notes.append(f"{unseen(behind)}: how many requests it has in flight will not be known")
    return Found(version, rules, pods, count_ports, tuple(problems), tuple(notes))


async def newcomers(api: KubeApi, client: Workload, known: Collection[str]) -> list[str]:
    """Name the load pods that could make load by now, and are none of those that are known."""
    return [name for name in (await _load_pods(api, client)).usable if name not in known]


async def _load_pods(api: KubeApi, client: Workload) -> Pods:
    selector = ",".join(f"{key}={value}" for key, value in client.labels.items())
    usable: list[str] = []
    others: dict[str, str] = {}
    image = ""
    pull_secrets: tuple[str, ...] = ()
    for pod in await api.list(paths.pods(client.namespace), labelSelector=selector):
        name = pod["metadata"]["name"]
        reason = _unusable(pod)
        if reason:
            others[name] = reason
        else:
            if not usable:
                image = _own_containers(pod)[0]["image"]
                pull_secrets = tuple(each["name"] for each in pod["spec"].get("imagePullSecrets", ()))
            usable.append(name)
    return Pods(tuple(sorted(usable)), others, image, pull_secrets)


def _unusable(pod: Mapping[str, Any]) -> str:
    """Say why a pod cannot make load; empty if it can."""
    if pod["metadata"].get("deletionTimestamp"):
        return "is being deleted"
    spec, status = pod["spec"], pod.get("status", {})
    if status.get("phase") != "Running":
        return f"is {status.get('phase', 'unknown')}" + (f" ({status['reason']})" if status.get("reason") else "")
    if not any(each["name"] == SIDECAR for each in (*spec["containers"], *spec.get("initContainers", ()))):
        return "has no sidecar: label its namespace istio-injection=enabled and restart it"
    if not _own_containers(pod):
        return "has no container beside its sidecar"
    unready = [each["name"] for each in _statuses(status) if not each.get("ready")]
    if unready:
        return f"is not ready ({', '.join(unready)})"
    conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
    return "" if conditions.get("Ready") == "True" else "is not ready"


def _own_containers(pod: Mapping[str, Any]) -> list[Json]:
    """Give the containers that are not the sidecar."""
    return [each for each in pod["spec"]["containers"] if each["name"] != SIDECAR]


def _statuses(status: Mapping[str, Any]) -> list[Json]:
    native = [each for each in status.get("initContainerStatuses", ()) if each["name"] == SIDECAR]
    return [*status.get("containerStatuses", ()), *native]


def _why(pods: Pods) -> str:
    reasons = [f"{name} {reason}" for name, reason in sorted(pods.others.items())]
    return "; ".join(reasons[:10]) or "there is no other pod with their labels"


async def _service_problems(api: KubeApi, service: Service) -> list[str]:
    found = await api.find(paths.services(service.namespace, service.name))
    if found is None:
        return [f"there is no service {service.name} in namespace {service.namespace}"]
    ports = [port["port"] for port in found["spec"].get("ports", ())]
    missing = [str(port) for port in service.ports if port not in ports]
    return [f"the service {service.name} in {service.namespace} has no port {', '.join(missing)}; it has {ports}"] if missing else []


async def _endpoints(api: KubeApi, service: Service) -> list[Json]:
    """Give the service's endpoints that are ready."""
    selector = f"kubernetes.io/service-name={service.name}"
    slices = await api.list(paths.endpoint_slices(service.namespace), labelSelector=selector)
    found = [each for part in slices for each in part.get("endpoints") or ()]
    return [each for each in found if each.get("conditions", {}).get("ready", True) is not False]


async def service_pods(api: KubeApi, service: Service) -> tuple[ServicePod, ...]:
    """Look who stands behind the service now, in order of their names."""
    return await _service_pods(api, service, await _endpoints(api, service))


async def _service_pods(api: KubeApi, service: Service, endpoints: Sequence[Json]) -> tuple[ServicePod, ...]:
    references = [each.get("targetRef") or {} for each in endpoints]
    names = {each["name"] for each in references if each.get("kind") == "Pod"}
    others = {each["addresses"][0] for each, reference in zip(endpoints, references, strict=True) if reference.get("kind") != "Pod"}
    pods = [_service_pod(name, await api.find(paths.pods(service.namespace, name))) for name in sorted(names)]
    return (*pods, *(ServicePod(address) for address in sorted(others)))


def unseen(pods: Sequence[ServicePod]) -> str:
    """Say why the highest peak of the pods behind a service is not the service's own; nothing if it is."""
    counting = sum(1 for pod in pods if pod.count_port)
    if counting < len(pods) or not pods:
        return f"{f'only {counting}' if counting else 'none'} of this service's {len(pods)} pods {'count' if counting > 1 else 'counts'} requests"
    return f"this service has {len(pods)} pods, and each knows its own peak only" if len(pods) > 1 else ""


def _service_pod(name: str, pod: Json | None) -> ServicePod:
    if pod is None:  # it is gone, and the list of endpoints does not know yet
        return ServicePod(name)
    port = annotation(pod, COUNT_PORT)
    containers = pod.get("status", {}).get("containerStatuses", ())
    restarts = sum(each.get("restartCount", 0) for each in containers if each["name"] != SIDECAR)
    return ServicePod(name, int(port) if port.isdigit() else 0, f"{pod['metadata']['uid']}/{restarts}")
