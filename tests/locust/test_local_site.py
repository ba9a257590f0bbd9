"""Does a desk take out what it has left in force, and nothing of anybody else's?"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loadgen.desk.local import LocalSite
from loadgen.errors import MeshError
from loadgen.inputs import load_rules
from loadgen.runner.convergence import converge
from tests.locust.headless import REPOSITORY, SCENARIO, Up, up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.envoy, pytest.mark.anyio]
RULES, _ = load_rules(SCENARIO.parent / "policies" / "user.yaml")


@pytest.fixture
async def site(mesh: Up) -> AsyncIterator[LocalSite]:
    yield LocalSite.found(mesh.pid)
    await (found := LocalSite.found(mesh.pid)).restore()
    async with found.session() as borrowed:
        await borrowed.put(())
        await converge(borrowed, ())


async def put(site: LocalSite) -> None:
    async with site.session() as mesh:
        await mesh.put(RULES)
        await converge(mesh, RULES)


async def rules(site: LocalSite) -> set[str | None]:
    return {state.rule for state in (await site.states()).values()}


def policy(mesh: Up, *arguments: str) -> None:
    """Toggle as somebody at another terminal does."""
    line = [sys.executable, "-m", "loadgen", "policy", *arguments, "--pid", str(mesh.pid)]
    subprocess.run(line, cwd=REPOSITORY, check=True, capture_output=True)


async def test_what_it_has_put_it_takes_out(site: LocalSite) -> None:
    await put(site)
    await site.restore()
    assert await rules(site) == {None}


async def test_what_somebody_has_put_after_it_stays(mesh: Up, site: LocalSite) -> None:
    await put(site)
    policy(mesh, "remove")
    policy(mesh, "apply", "scenarios/policies/user.yaml")
    await site.restore()
    assert await rules(site) == {"base/user"}


async def test_what_the_desk_has_left_whose_place_it_takes_it_takes_out(mesh: Up, site: LocalSite, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = 4_194_305  # no process has such a number
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: dead)
        await put(site)
    await site.restore()
    assert await rules(site) == {"base/user"}
    await LocalSite.found(mesh.pid, dead=dead).restore()
    assert await rules(site) == {None}


async def test_a_mesh_that_is_gone_is_said_to_be() -> None:
    with up() as gone:
        site = LocalSite.found(gone.pid)
    with pytest.raises(MeshError, match="the local mesh is gone"):
        await site.restore()
