"""Who wrote what in an object? Read from its ``managedFields``, where the API server keeps it for each manager."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loadgen.cluster.marks import FIELD_MANAGER, annotation, run_of, whose
from loadgen.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadgen.cluster.marks import Json
    from loadgen.cluster.merge import Path

_ANNOTATIONS = {
    "argocd.argoproj.io/tracking-id": "Argo CD",
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
    "meta.helm.sh/release-name": "Helm",
}
_LABELS = {
    "argocd.argoproj.io/instance": "Argo CD",
    "app.kubernetes.io/instance": "Argo CD or Helm",
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
}
_CONTROLLERS = {"argocd-controller": "Argo CD", "kustomize-controller": "Flux", "helm-controller": "Flux", "helm": "Helm"}


def owner_tool(thing: Json) -> str:
    """Say which tool keeps an object as it wants it, and would undo a change; empty if none does."""
    for key, tool in _ANNOTATIONS.items():
        if annotation(thing, key):
            return f"{tool} (annotation {key})"
    labels = thing["metadata"].get("labels") or {}
    for key, tool in _LABELS.items():
        if labels.get(key):
            return f"{tool} (label {key})"
    for entry in _entries(thing):
        if entry.get("manager") in _CONTROLLERS:
            return f"{_CONTROLLERS[entry['manager']]} (field manager {entry['manager']})"
    return ""


def who_changed(now: Json, before: Json | None, path: Path = ()) -> str:
    """Name who changed an object since: the manager that owns the path, else the last one to write, else the run whose marks it has.

    ``before`` is how it was.
    """
    known = {_stamp(entry) for entry in _entries(before or {"metadata": {}})}
    suspects = [entry for entry in _entries(now) if entry.get("manager") != FIELD_MANAGER and _stamp(entry) not in known]
    owners = [entry for entry in suspects if path and _owns(entry, path)]
    last = max(owners or suspects, key=lambda entry: str(entry.get("time", "")), default=None)
    if last is None:
        return whose(now) if run_of(now) else "somebody who left no name"
    return f"{printable(str(last.get('manager')))} ({last.get('operation')} at {last.get('time')})"


def only_ours(thing: Json) -> bool:
    """Tell whether nobody but us has written anything in an object."""
    managers = {entry.get("manager") for entry in _entries(thing)}
    return managers == {FIELD_MANAGER}


def owns_alone(thing: Json, path: Path) -> bool:
    """Tell whether every value under a path was written by us, and by nobody else."""
    value: Any = thing
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    owners = [{entry.get("manager") for entry in _entries(thing) if _owns(entry, leaf)} for leaf in _leaves(value, path)]
    return value is not None and all(each == {FIELD_MANAGER} for each in owners)


def without_us(thing: Json) -> list[Json]:
    """Give the entries of the other managers."""
    return [entry for entry in _entries(thing) if entry.get("manager") != FIELD_MANAGER]


def _entries(thing: Json) -> list[Json]:
    return thing["metadata"].get("managedFields") or []


def _stamp(entry: Json) -> tuple[Any, ...]:
    """Tell writings apart. A manager that only lost fields to others did not write."""
    return entry.get("manager"), entry.get("operation"), entry.get("time")


def _owns(entry: Json, path: Path) -> bool:
    fields: Any = entry.get("fieldsV1")
    for step in path:
        fields = fields.get(f"f:{step}") if isinstance(fields, dict) else None
    return isinstance(fields, dict)


def _leaves(value: Any, path: Path) -> Iterator[Path]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    else:
        yield path
