"""How does another process find a running local mesh, to toggle its policy? By the file ``mesh.json`` in the mesh's folder."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from loadgen.errors import MeshError
from loadgen.mesh.boot import LocalSpec
from loadgen.mesh.children import Children
from loadgen.mesh.local import LocalMesh, Sidecar
from loadgen.mesh.run_folder import live_folders, write_atomically
from loadgen.pacing import Interval
from loadgen.policy.selection import Service, Workload
from loadgen.sidecar import Admin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.policy.rule import Rule

_FILE = "mesh.json"
POLICY_LOCK = "policy.lock"
"""The file in the mesh's folder that is locked by whoever toggles the policy."""
_TOGGLED_BY = "toggled-by"
LOOK_S = 0.25
HURRY_S = 18.0
"""The mesh lives on when whoever borrowed it ends, with what is left in it: enough for the last readings (a third), to put, to converge and
to say what a sidecar shows that did not."""


class BorrowedMesh(LocalMesh):
    """A mesh that another process runs: it dies when that one ends."""

    hurry_s = HURRY_S

    async def put(self, rules: Sequence[Rule]) -> dict[str, float]:
        """As ``LocalMesh`` does; and who takes back what he has put can see whether somebody has toggled after him."""
        try:
            write_atomically(self.folder / _TOGGLED_BY, str(os.getpid()))
        except OSError as error:
            raise MeshError(f"cannot write into the mesh's folder: {error}", hint="the mesh may be gone, or the disk full") from error
        return await super().put(rules)

    def toggled_by(self) -> int:
        """Give the process that put or removed a policy last; 0 if none has."""
        try:
            return int((self.folder / _TOGGLED_BY).read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0

    def deaths(self) -> list[MeshError]:
        """Say that the mesh is gone, if it is."""
        if self.folder in live_folders():
            return []
        return [MeshError("the local mesh is gone", hint="its process has ended; start it again: loadgen up")]

    def gone(self) -> frozenset[str]:
        """Name all clients if the mesh is gone."""
        return frozenset(client.name for client in self.clients) if self.deaths() else frozenset()

    async def watch(self) -> MeshError:
        """Wait until the mesh is gone."""
        while not (deaths := self.deaths()):  # noqa: ASYNC110  # another process tells nobody that it ends
            await anyio.sleep(LOOK_S)
        return deaths[0]


@dataclass(frozen=True, slots=True)
class Published:
    """A mesh that another process runs: who runs it, for which scenario, and the mesh itself, without its processes."""

    pid: int
    scenario: str
    mesh: BorrowedMesh


def publish(mesh: LocalMesh, scenario: str) -> None:
    """Let other processes of this user find the mesh."""
    values = {
        "pid": os.getpid(),
        "scenario": scenario,
        "spec": asdict(mesh.spec),
        "sidecars": [asdict(each) for each in mesh.clients],
        "ports": mesh.ports,
        "envoy_version": mesh.envoy_version,
    }
    write_atomically(mesh.folder / _FILE, json.dumps(values, default=str))


def published() -> list[Published]:
    """Find the meshes of this user that run now and were published."""
    found = []
    for folder in live_folders():
        with contextlib.suppress(FileNotFoundError):
            values = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            spec = values["spec"]
            spec |= {
                "service": Service(**spec["service"]),
                "client": Workload(**spec["client"]),
                "service_time": Interval(**spec["service_time"]),
            }
            sidecars = [_sidecar(each) for each in values["sidecars"]]
            mesh = BorrowedMesh(LocalSpec(**spec), folder, sidecars, tuple(values["ports"]), Children(), values["envoy_version"])
            found.append(Published(values["pid"], values["scenario"], mesh))
    return found


def _sidecar(values: dict[str, Any]) -> Sidecar:
    admin = values["admin"]
    return Sidecar(
        values["name"],
        tuple(values["address"]),
        Admin(admin["client"], tuple(admin["address"]), admin["cluster"]),
        Path(values["folder"]),
    )
