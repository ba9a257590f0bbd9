"""Do the deadlines of a run in a cluster leave each other enough time?"""

from __future__ import annotations

from loadgen.cli import cluster
from loadgen.cluster.api import APPLY_S
from loadgen.cluster.mesh import ClusterMesh
from loadgen.inputs import load_plan
from tests.story.command import SCENARIOS

ISTIOD_WAITS_S = 10.0
"""PILOT_DEBOUNCE_MAX: istiod sends nothing for so long while further changes come."""


def test_sidecars_get_more_time_than_istiod_may_take_before_it_sends_anything() -> None:
    assert ClusterMesh.converge_s > 2 * ISTIOD_WAITS_S


def test_a_change_does_not_expire_while_every_phase_takes_all_the_time_that_it_may_take_to_begin() -> None:
    scenario = load_plan(SCENARIOS / "connection-pool.yaml").scenario
    scenario = scenario.model_copy(update={"phases": [*scenario.phases] * 20})
    longest_s = sum(APPLY_S + ClusterMesh.converge_s + scenario.load.timeout + phase.duration for phase in scenario.phases)
    assert cluster._lasts_s(scenario) > longest_s
