"""Are the bodies of control requests read as what they mean, and refused with a sentence where they mean nothing?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from loadgen.pacing import Interval
from loadgen.pod.orders import Converge, DoneSince, FindEdge, Nothing, OrderError, Phase, Take, UnreadableError, over_limits, read_order
from loadgen.scenario import BurstLoad, ClosedLoad, OpenLoad

if TYPE_CHECKING:
    from loadgen.schema import Model

LOADS: list[dict[str, Any]] = [
    {"model": "closed", "users": 5},
    {"model": "closed", "users": 5, "think_time": "none", "timeout": "250ms"},
    {"model": "closed", "users": 5, "think_time": "constant 10ms"},
    {"model": "closed", "users": 5, "think_time": "exponential 30ms"},
    {"model": "open", "rate": "50/s", "arrivals": "constant", "max_in_flight": 7},
    {"model": "open", "rate": "1/h", "stages": [{"rate": "100/s", "ramp": "1m30s"}, {"rate": "300/m", "hold": "2s"}]},
    {"model": "burst", "size": 20, "pause": "100ms"},
]


def take(load: Any, **more: Any) -> Take:
    return read_order(Take, json.dumps({"load": load, **more}).encode())


@pytest.mark.parametrize("written", LOADS)
def test_a_load_means_the_same_as_it_is_written_in_a_scenario_and_as_it_is_dumped(written: dict[str, Any]) -> None:
    models: dict[str, type[Model]] = {"closed": ClosedLoad, "open": OpenLoad, "burst": BurstLoad}
    wanted = models[written["model"]].model_validate(written)
    assert take(written).load == wanted
    assert take(wanted.model_dump(mode="json")).load == wanted


def test_what_is_not_said_has_a_default() -> None:
    order = take(LOADS[0])
    assert (order.seed, order.path, order.hold_s) == ("1", "", 30.0)
    order = take(LOADS[3], seed='7-é\\"', path="/a?b=c", hold_s=2)
    assert (order.seed, order.path, order.hold_s) == ('7-é\\"', "/a?b=c", 2.0)
    assert order.load == ClosedLoad(model="closed", users=5, think_time=Interval(0.03, exponential=True))


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({}, "the key 'load' is missing"),
        ({"load": "closed"}, "load"),
        ({"load": None}, "load"),
        ({"load": {}}, "model"),
        ({"load": {"model": "flood"}}, "model cannot be the text 'flood'"),
        ({"load": {"model": "closed"}}, "the key 'users' is missing"),
        ({"load": {"model": "closed", "users": 0}}, "users must be at least 1, not 0"),
        ({"load": {"model": "closed", "users": 5000}}, "users must be at most 2000, not 5000"),
        ({"load": {"model": "closed", "users": "5"}}, "users must be a whole number"),
        ({"load": {"model": "closed", "users": 5, "think_time": {"mean_s": -1, "exponential": False}}}, "think_time"),
        ({"load": {"model": "closed", "users": 5, "think_time": {"mean_s": "1"}}}, "think_time"),
        ({"load": {"model": "closed", "users": 5, "timeout": -1}}, "timeout"),
        ({"load": {"model": "closed", "users": 5, "timeout": True}}, "timeout"),
        ({"load": {"model": "closed", "users": 5, "url": "http://evil/"}}, "unknown key 'url'"),
        ({"load": {"model": "open", "rate": float("inf")}}, "rate"),
        ({"load": {"model": "open", "rate": 1e6}}, "at most 50000/s"),
        ({"load": {"model": "open", "rate": 5, "stages": ["x"]}}, "stages"),
        ({"load": LOADS[0], "target": "http://evil/"}, "unknown key 'target'"),
        ({"load": LOADS[0], "path": "http://evil/"}, "path"),
        ({"load": LOADS[0], "path": "/a b"}, "path"),
        ({"load": LOADS[0], "path": "/a\r\nx: y"}, "path"),
        ({"load": LOADS[0], "path": "/a\n"}, "path"),
        ({"load": LOADS[0], "seed": 7}, "seed must be text"),
        ({"load": LOADS[0], "seed": "\ud800"}, "seed"),
        ({"load": LOADS[0], "hold_s": 0}, "hold_s must be at least 1"),
        ({"load": LOADS[0], "hold_s": float("nan")}, "hold_s"),
        ({"load": LOADS[0], "hold_s": 1e9}, "hold_s must be at most 600"),
    ],
)
def test_a_load_that_cannot_be_is_refused_with_a_sentence(order: Any, said: str) -> None:
    with pytest.raises(OrderError) as raised:
        read_order(Take, json.dumps(order).encode())
    assert said in raised.value.message
    assert raised.value.message.isprintable()


@pytest.mark.parametrize("body", [b"{", b"[]", b"1", b"null", b'"x"', b"load: {}", b"\xff\xfe", b"[" * 60_000, b'{"a":' * 10_000])
def test_a_body_that_is_no_json_object_is_unreadable(body: bytes) -> None:
    with pytest.raises(UnreadableError):
        read_order(Nothing, body)


def test_no_body_is_an_empty_object() -> None:
    assert read_order(Nothing, b"") == Nothing()
    assert read_order(FindEdge, b"{}").offset is None


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (Nothing, {"x": 1}),
        (Phase, {}),
        (Phase, {"name": "Not A Label"}),
        (Phase, {"name": "own_load"}),
        (DoneSince, {"age_s": -1}),
        (DoneSince, {}),
        (FindEdge, {"offset": 1.5}),
        (Converge, {"limits": {}, "rule": None}),
        (Converge, {"limits": dict.fromkeys(["max_connections"], 1), "rule": None}),
    ],
)
def test_the_other_verbs_are_as_strict(model: Any, body: Any) -> None:
    with pytest.raises(OrderError):
        read_order(model, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("load", "too_much"),
    [
        ({"model": "closed", "users": 10, "think_time": "1s"}, ""),
        ({"model": "closed", "users": 11, "think_time": "1s"}, "11 users, but this pod allows 10; raise LOADGEN_MAX_USERS"),
        ({"model": "closed", "users": 1}, "may reach 2,000 requests per second, but this pod allows 100; raise LOADGEN_MAX_RATE"),
        ({"model": "open", "rate": "100/s"}, ""),
        ({"model": "open", "rate": "101/s"}, "may reach 101"),
        ({"model": "open", "rate": "1/s", "stages": [{"rate": "200/s"}, {"rate": "1/s"}]}, "may reach 200"),
        ({"model": "burst", "size": 10, "pause": "1s"}, ""),
        ({"model": "burst", "size": 11, "pause": "1s"}, "11 users"),
        ({"model": "burst", "size": 10, "pause": "1ms"}, "may reach 10,000"),
    ],
)
def test_a_load_beyond_what_the_pod_allows_is_seen(load: Any, too_much: str) -> None:
    said = over_limits(take(load), max_users=10, max_rate_per_s=100.0)
    assert too_much in said
    assert bool(said) is bool(too_much)
