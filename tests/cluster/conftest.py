"""What the tests of the cluster side share: one API server for all of them, and namespaces of its own for each."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

import pytest

from loadgen.cluster.paths import rules
from loadgen.errors import RefusedError
from tests.browser.conftest import browser  # noqa: F401  # pytest finds it by its name
from tests.cluster.controlplane import machine
from tests.cluster.controlplane.cluster import Cluster
from tests.cluster.controlplane.plane import ControlPlane
from tests.cluster.rules import owners_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.cluster.controlplane.container import Program

USERS = ("runner", "guest")
"""They may do nothing until a test gives them a Role."""


@contextlib.contextmanager
def _or_skip() -> Iterator[None]:
    """Skip what this machine has not got the tools for, with the reason."""
    try:
        machine.install_missing()
        yield
    except RefusedError as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """An API server with Istio's CRDs. A test that takes it away brings it back."""
    with contextlib.ExitStack() as stack:
        with _or_skip():
            plane = stack.enter_context(ControlPlane(USERS))
        _warm_up(plane)
        yield plane


def _warm_up(plane: ControlPlane) -> None:
    """Have a rule created: a server's first one takes it longer than some tests let a lease live."""
    name = f"warm-{secrets.token_hex(4)}"
    plane.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    plane.api.create(owners_rule(name))
    plane.api.delete(rules("v1", name, "owners"))
    plane.api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="module")
def start_cluster() -> Iterator[Callable[[Mapping[str, Program]], Cluster]]:
    """Start a cluster with istiod and a node that runs these programs for these images; it ends with the module's last test."""
    with contextlib.ExitStack() as stack:

        def start(programs: Mapping[str, Program]) -> Cluster:
            with _or_skip():
                return stack.enter_context(Cluster(programs, USERS))

        yield start


@pytest.fixture
def make_namespace(control_plane: ControlPlane) -> Iterator[Callable[..., str]]:
    """Make a namespace with a name that no other test has; give the name. ``labels`` are its labels."""
    made: list[str] = []

    def make(prefix: str = "test", **labels: str) -> str:
        name = f"{prefix}-{secrets.token_hex(4)}"
        control_plane.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        made.append(name)
        return name

    yield make
    for name in made:
        control_plane.api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def namespace(make_namespace: Callable[..., str]) -> str:
    """A namespace for this test alone."""
    return make_namespace()
