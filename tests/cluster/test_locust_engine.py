"""Do Locust's users in a cluster end enforced and with equal ledgers if loadgen's engine sends for them?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.cluster.locusts import STORY, make_locusts, overflows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.cluster.controlplane.cluster import Cluster
    from tests.cluster.controlplane.container import Program

pytestmark = [pytest.mark.envoy, pytest.mark.thorough, pytest.mark.timeout(300)]


def test_the_story_with_users_of_the_engine(start_cluster: Callable[[Mapping[str, Program]], Cluster]) -> None:
    locusts = make_locusts(start_cluster, "--locust-users", "engine")
    before = locusts.overflows()
    master = locusts.start("master", *STORY)
    code, log = master.code(), master.log()
    assert code == 0, log
    assert "Enforced: http2MaxRequests 1 and http1MaxPendingRequests 1 of rule base/user" in log
    assert re.search(r"loadgen: VALID$", log, re.MULTILINE), log
    counted = locusts.overflows() - before
    print(f"Locust {overflows(log)}, Envoy {counted}")
    assert overflows(log) == counted > 0
    assert (locusts.rules("base"), locusts.left_overs()) == ([], [])
