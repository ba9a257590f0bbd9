"""Does the time series of a run add up to its report, to the request?"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from loadgen.results import SERIES_FILE
from loadgen.series import Series
from tests.story.command import SCENARIOS

if TYPE_CHECKING:
    from tests.story.command import Loadgen

pytestmark = pytest.mark.envoy


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_seconds_of_each_phase_add_up_to_the_report_to_the_request(loadgen: Loadgen, processes: str) -> None:
    ended = loadgen.run_scenario(SCENARIOS / "connection-pool.yaml", "--duration", "2s", "--clients", "3", "--processes", processes)
    assert ended.code in {0, 4}, ended.stdout + ended.stderr  # a machine that is busy spoils the figures, not the counts
    report = loadgen.report()
    series = Series.of_bytes((loadgen.results / SERIES_FILE).read_bytes())
    counts: Counter[tuple[str, str, str]] = Counter()
    for row in series.rows:
        counts[row.phase, row.client, row.outcome.value] += row.count
    for phase in report["phases"]:
        for client in phase["clients"]:
            assert {outcome: counts[phase["name"], client["name"], outcome] for outcome in client["outcomes"]} == client["outcomes"]
    by_second = [moment.second for moment in series.moments if moment.phase == "limited"]
    limited = report["phases"][1]
    assert limited["began_s"] <= min(by_second) + 1
    assert max(by_second) <= limited["ended_s"] + 1
    assert report["phases"][0]["toggled_s"] is None
    assert limited["toggled_s"] < limited["converged_s"] < limited["began_s"] < limited["ended_s"]
