"""Is the pods' network as one that a cluster has, where it is easy to get wrong?"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.cluster.conftest import _or_skip as or_skip
from tests.cluster.controlplane.network import Network, pod_network, run
from tests.cluster.controlplane.patience import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def network() -> Iterator[Network]:
    with or_skip(), pod_network() as made:
        yield made


def test_a_pod_that_gets_the_address_of_one_that_is_gone_is_reached_at_once(network: Network, tmp_path: Path) -> None:
    network.attach(6, tmp_path / "hosts")  # when the last pod goes the bridge is down, and forgets everything
    until(lambda: "state UP" in run(f"ip link show {network.bridge}"), "the bridge is up")
    for _ in range(3):
        name = network.attach(7, tmp_path / "hosts")
        with pytest.raises(ConnectionRefusedError):  # by the pod itself
            socket.create_connection((network.address(7), 1), timeout=2)
        network.release(name)
