"""Do those who wait for each other leave each other enough time?"""

from __future__ import annotations

import re
from importlib import resources

import yaml

from loadgen.cluster.mesh import ClusterMesh
from loadgen.desk.desk import END_S, UNDO_S
from loadgen.locust.control import CLUSTER_S, QUIT_S, TOGGLE_S
from loadgen.locust.link import ASK_S
from loadgen.mesh.published import BorrowedMesh


def test_a_test_that_is_cut_short_ends_before_locust_gives_the_desk_up() -> None:
    assert END_S + BorrowedMesh.hurry_s + UNDO_S < QUIT_S
    assert END_S + ClusterMesh.hurry_s + ClusterMesh.converge_s < CLUSTER_S


def test_the_page_waits_longer_than_locust() -> None:
    script = resources.files("loadgen").joinpath("locust/static/page.js").read_text(encoding="utf-8")
    found = re.search(r"TOGGLE_MS = ([0-9_]+)", script)
    assert found
    assert int(found[1].replace("_", "")) > 1000 * max(CLUSTER_S, TOGGLE_S)
    waits = re.search(r" WAIT_MS = ([0-9_]+)", script)
    assert waits
    assert int(waits[1].replace("_", "")) > 1000 * ASK_S


def test_a_pod_is_not_killed_before_its_locust_has_ended() -> None:
    file = resources.files("loadgen").joinpath("manifests/locust/master-deployment.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(file)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > QUIT_S + 10
