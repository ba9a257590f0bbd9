"""Is a scenario's load, as a report has it, shown the way that its author wrote it?"""

from __future__ import annotations

from typing import Any

import pytest

from loadgen.scenario import BurstLoad, ClosedLoad, OpenLoad, load_text


@pytest.mark.parametrize(
    ("model", "written", "text"),
    [
        (
            ClosedLoad,
            {"model": "closed", "users": 5, "think_time": "exponential 30ms"},
            "model closed, users 5, think_time exponential 30ms, timeout 5s",
        ),
        (ClosedLoad, {"model": "closed", "users": 1, "think_time": "1.5s"}, "model closed, users 1, think_time constant 1.5s, timeout 5s"),
        (ClosedLoad, {"model": "closed", "users": 1, "timeout": "250ms"}, "model closed, users 1, think_time none, timeout 250ms"),
        (
            OpenLoad,
            {"model": "open", "rate": "300/m", "stages": [{"rate": "200/s", "ramp": "10s"}]},
            "model open, rate 5/s, stages [{rate: 200/s, ramp: 10s, hold: 0s}], arrivals poisson, max_in_flight 1000, timeout 5s",
        ),
        (OpenLoad, {"model": "open", "rate": "5/s"}, "model open, rate 5/s, arrivals poisson, max_in_flight 1000, timeout 5s"),
        (BurstLoad, {"model": "burst", "size": 20, "pause": "800us"}, "model burst, size 20, pause 800us, timeout 5s"),
    ],
)
def test_a_load_is_shown_as_it_is_written_in_a_scenario(model: Any, written: dict[str, object], text: str) -> None:
    assert load_text(model.model_validate(written).model_dump(mode="json")) == text


@pytest.mark.parametrize(
    ("load", "text"),
    [
        ({"model": None, "timeout": "soon", "rate": [1, {}]}, "model None, timeout soon, rate [1/s, {}]"),
        ({"think_time": {"mean_s": "long", "exponential": 1}}, "think_time {mean_s: long, exponential: 1}"),
        ({}, ""),
    ],
)
def test_a_load_that_no_scenario_has_is_shown_all_the_same(load: dict[str, object], text: str) -> None:
    assert load_text(load) == text
