"""Do options of the command line take the place of the scenario's values, and only those that fit?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from loadgen.errors import ExitCode, UsageError
from loadgen.inputs import load_plan, overridden
from loadgen.scenario import ClosedLoad, OpenLoad, StageModel

from .examples import OPEN, SCENARIO, write

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.inputs import Plan


@pytest.fixture
def closed(tmp_path: Path) -> Plan:
    return load_plan(write(tmp_path, SCENARIO))


@pytest.fixture
def opened(tmp_path: Path) -> Plan:
    return load_plan(write(tmp_path, OPEN))


def test_no_options_leave_the_scenario_as_it_is(closed: Plan, opened: Plan) -> None:
    assert overridden(closed, {}).scenario == closed.scenario
    assert overridden(opened, {"rate": None, "users": None, "clients": None, "duration": None, "seed": None}).scenario == opened.scenario


def test_what_is_questionable_is_so_with_the_values_that_count(closed: Plan) -> None:
    assert [finding.code for finding in overridden(closed, {}).findings] == ["limit-never-reached"]
    assert overridden(closed, {"users": 6}).findings == ()


def test_options_take_the_place_of_the_values_of_a_closed_load(closed: Plan) -> None:
    scenario = overridden(closed, {"clients": 3, "users": 7, "duration": 1.5, "seed": 9}).scenario
    assert isinstance(scenario.load, ClosedLoad)
    assert (scenario.clients.count, scenario.load.users, scenario.seed) == (3, 7, 9)
    assert scenario.load.think_time.mean_s == 0.03
    assert [(phase.name, phase.duration) for phase in scenario.phases] == [("baseline", 1.5), ("limited", 1.5), ("recovered", 1.5)]
    assert scenario.clients.namespace == "test"


def test_options_take_the_place_of_the_values_of_an_open_load(opened: Plan) -> None:
    load = overridden(opened, {"rate": 12.5}).scenario.load
    assert isinstance(load, OpenLoad)
    assert (load.rate, load.arrivals, load.timeout) == (12.5, "poisson", 3.0)


def test_the_plan_that_was_read_stays_as_it_is(closed: Plan) -> None:
    overridden(closed, {"clients": 3, "duration": 1.5})
    assert (closed.scenario.clients.count, closed.scenario.phases[0].duration) == (10, 8.0)


@pytest.mark.parametrize(("name", "value"), [("clients", 1), ("clients", 200), ("users", 2000), ("seed", 0), ("duration", 86400.0)])
def test_the_ends_of_a_range_are_allowed(closed: Plan, name: str, value: float) -> None:
    overridden(closed, {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clients", 0), ("clients", -1), ("clients", 201), ("clients", 1.5), ("clients", "3"), ("clients", True), ("users", 0), ("users", 2001),
        ("rate", 0.0), ("rate", -1.0), ("rate", 50_001.0), ("rate", 1e-310), ("rate", float("inf")), ("rate", float("nan")), ("duration", 0.0),
        ("duration", -1.0), ("duration", float("inf")), ("duration", float("nan")), ("duration", 86401.0), ("seed", -1), ("seed", 2**31),
        ("client", 3),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_bad_usage_and_names_the_option(closed: Plan, name: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"^--{name}( must be |: )") as caught:
        overridden(closed, {name: value})
    assert caught.value.exit_code is ExitCode.USAGE


def test_an_option_of_the_other_load_model_is_bad_usage(closed: Plan, opened: Plan) -> None:
    with pytest.raises(UsageError, match=r"^--rate does not fit: the scenario's load model is closed$"):
        overridden(closed, {"rate": 5.0})
    with pytest.raises(UsageError, match=r"^--users does not fit: the scenario's load model is open$"):
        overridden(opened, {"users": 5})
    stages = opened.scenario.load.model_copy(update={"stages": [StageModel.model_validate({"rate": "9/s"})]})
    with pytest.raises(UsageError, match="--rate does not fit: the scenario's rate has stages"):
        overridden(replace(opened, scenario=opened.scenario.model_copy(update={"load": stages})), {"rate": 5.0})
