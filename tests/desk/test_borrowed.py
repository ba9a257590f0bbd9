"""Does a mesh that lives on get its configuration even if one of its sidecars hangs?"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from loadgen.mesh.boot import LocalSpec
from loadgen.mesh.children import Children
from loadgen.mesh.local import CONVERGE_S, REFUSALS_S, Sidecar
from loadgen.mesh.published import BorrowedMesh
from loadgen.pacing import Interval
from loadgen.policy.selection import Service, Workload
from loadgen.runner.convergence import LOOK_S
from loadgen.sidecar import Admin

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio
SPEC = LocalSpec(Service("user", "base", (7000,)), 7000, Workload("test", {"app": "client"}), 2, 1, 200, "Kevin", Interval(0.001))


async def test_a_sidecar_that_hangs_keeps_no_other_from_its_configuration(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sidecars = []
        for name in ("client-1", "client-2"):
            (tmp_path / name).mkdir()
            sidecars.append(Sidecar(name, ("127.0.0.1", 1), Admin(name, silent.getsockname(), "cluster"), tmp_path / name))
        mesh = BorrowedMesh(SPEC, tmp_path, sidecars, (1, 2), Children(), "1.40.0")
        with anyio.fail_after(2 * REFUSALS_S):
            await mesh.put(())
    assert all((tmp_path / sidecar.name / "cds.json").exists() for sidecar in sidecars)


def test_whoever_borrowed_a_mesh_has_the_time_to_verify_that_the_policy_is_gone() -> None:
    assert BorrowedMesh.hurry_s * 2 / 3 >= REFUSALS_S + CONVERGE_S
    assert BorrowedMesh.hurry_s >= CONVERGE_S + LOOK_S


def test_a_mesh_that_is_gone_has_no_sidecar_left(tmp_path: Path) -> None:
    sidecars = [Sidecar("client-1", ("127.0.0.1", 1), Admin("client-1", ("127.0.0.1", 1), "cluster"), tmp_path)]
    assert BorrowedMesh(SPEC, tmp_path, sidecars, (1, 2), Children(), "1.40.0").gone() == {"client-1"}
