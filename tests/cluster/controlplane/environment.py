"""What does a container see of the cluster? Its variables and its files, as its pod's manifest asks for them.

What the kubelet of these tests does not know it refuses; it never leaves a part of a manifest out in silence.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.controlplane.api import Api, Object

SERVICE_ACCOUNT_FILES = "/var/run/secrets/kubernetes.io/serviceaccount"
_MAP_FIELD = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


class UnsupportedError(Exception):
    """The manifest asks for something that is not there, or that these tests do not know."""


def variables(container: Object, pod: Object, api: Api) -> dict[str, str]:
    """Give the variables of a container; later ones may refer to earlier ones.

    Raises UnsupportedError for what cannot be resolved.
    """
    found: dict[str, str] = {}
    for entry in container.get("env", []):
        value = entry.get("value", "") if "valueFrom" not in entry else _value_from(entry["valueFrom"], pod, api)
        if value is not None:
            found[entry["name"]] = _REFERENCE.sub(lambda match: found.get(match[1], match[0]), value)
    return found


def files(container: Object, pod: Object, api: Api, folder: Path) -> dict[str, Path]:
    """Write the files of a container's secrets and config maps below ``folder``; give them by their paths in the container.

    Raises UnsupportedError for other kinds of volumes.
    """
    found: dict[str, Path] = {}
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        volume = volumes[mount["name"]]
        for name, content in _contents(volume, pod["metadata"]["namespace"], api).items():
            path = f"{mount['mountPath']}/{name}" if "subPath" not in mount else mount["mountPath"]
            if mount.get("subPath", name) == name:
                found[path] = _written(folder / "volumes" / volume["name"] / name, content)
    return found


def service_account_files(pod: Object, api: Api, authority: Path, folder: Path) -> dict[str, Path]:
    """Write the files by which a pod with a service account of its own speaks to the API server; give them by their paths."""
    spec, namespace = pod["spec"], pod["metadata"]["namespace"]
    name = spec.get("serviceAccountName")
    if not name or spec.get("automountServiceAccountToken") is False:
        return {}
    own = folder / "serviceaccount"
    contents = {
        "token": api.service_account_token(namespace, name).encode(),
        "ca.crt": authority.read_bytes(),
        "namespace": namespace.encode(),
    }
    return {f"{SERVICE_ACCOUNT_FILES}/{file}": _written(own / file, content) for file, content in contents.items()}


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _value_from(source: Object, pod: Object, api: Api) -> str | None:
    namespace = pod["metadata"]["namespace"]
    match source:
        case {"fieldRef": {"fieldPath": path}}:
            return _field(path, pod)
        case {"secretKeyRef": reference}:
            return _key(reference, _secret(reference["name"], namespace, api))
        case {"configMapKeyRef": reference}:
            return _key(reference, _config_map(reference["name"], namespace, api))
    raise UnsupportedError(f"valueFrom {', '.join(source)}")


def _field(path: str, pod: Object) -> str:
    if match := _MAP_FIELD.fullmatch(path):
        return str(pod["metadata"].get(match[1], {}).get(match[2], ""))
    value: Any = pod
    for name in path.split("."):
        value = value.get(name, "")
    return str(value)


def _key(reference: Object, data: dict[str, bytes] | None) -> str | None:
    if data is not None and reference["key"] in data:
        return data[reference["key"]].decode()
    if reference.get("optional"):
        return None
    raise UnsupportedError(f"there is no key {reference['key']} in {reference['name']}")


def _contents(volume: Object, namespace: str, api: Api) -> dict[str, bytes]:
    match volume:
        case {"emptyDir": _}:
            return {}
        case {"secret": {"secretName": name} as source}:
            data = _secret(name, namespace, api)
        case {"configMap": {"name": name} as source}:
            data = _config_map(name, namespace, api)
        case _:
            raise UnsupportedError(f"a volume of the kind {', '.join(set(volume) - {'name'})}")
    if data is None and not source.get("optional"):
        raise UnsupportedError(f"{name} of the volume {volume['name']} is not there")
    names = {item["key"]: item["path"] for item in source.get("items", [])} or {key: key for key in data or {}}
    return {path: (data or {})[key] for key, path in names.items() if key in (data or {})}


def _secret(name: str, namespace: str, api: Api) -> dict[str, bytes] | None:
    found = api.find(f"/api/v1/namespaces/{namespace}/secrets/{name}")
    return found and {key: base64.b64decode(value) for key, value in found.get("data", {}).items()}


def _config_map(name: str, namespace: str, api: Api) -> dict[str, bytes] | None:
    found = api.find(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
    return found and {key: value.encode() for key, value in found.get("data", {}).items()}
