"""Does the hammer say so when it spoils the measurement itself, and say nothing when it does not?"""

from __future__ import annotations

import dataclasses

import pytest

from loadgen.validity import Health, doubts

WELL = Health(requests=1000, unsent=10, cpu_share=0.89, lag_p99_s=0.049, loop_lag_p99_s=0.049, connect_errors={"ECONNREFUSED": 500})


def test_a_hammer_that_kept_up_leaves_no_doubt() -> None:
    assert doubts(WELL) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cpu_share": 0.9}, "the bottleneck in phase limited: it used 90% of a core; offer less load"),
        ({"lag_p99_s": 0.05}, "late in phase limited: 1 % of the requests left 50 ms or more after they were due"),
        ({"loop_lag_p99_s": 0.1}, "starved in phase limited: 1 % of the time it got to run 100 ms late or more"),
        ({"unsent": 11}, "11 of 1,000 requests in phase limited were not sent"),
        ({"connect_errors": {"EMFILE": 3}}, "ran out of file descriptors (raise the limit: ulimit -n) in phase limited: 3 connections"),
        ({"connect_errors": {"EADDRNOTAVAIL": 1}}, "ran out of local ports"),
    ],
)
def test_each_way_to_spoil_a_measurement_is_named(change: dict[str, object], said: str) -> None:
    found = doubts(dataclasses.replace(WELL, **change), " in phase limited")  # type: ignore[arg-type]  # a field each
    assert len(found) == 1
    assert said in found[0]


def test_a_late_hammer_is_not_called_starved_as_well() -> None:
    assert len(doubts(dataclasses.replace(WELL, lag_p99_s=0.1, loop_lag_p99_s=0.1))) == 1
