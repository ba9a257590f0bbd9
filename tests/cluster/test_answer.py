"""Is what a pod says read as it was meant, and is one wrong value in it enough for it to be no answer?"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest

from loadgen.cause import Cause, Found, MadeBy
from loadgen.cluster import answer
from loadgen.engine.edge import Edge, Reading
from loadgen.engine.load import Sight
from loadgen.ledger import Counters
from loadgen.outcome import Answer, Outcome, Response
from loadgen.pod.control import _as_edge, as_sight
from loadgen.policy.limits import Limits
from loadgen.policy.state import SidecarState
from loadgen.recorder import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Values = dict[str, Any]
NO_ANSWER = (LookupError, TypeError, ValueError, AttributeError)
"""What ``RemotePod.reading`` takes for an answer that is none."""


def a_tally() -> Tally:
    made = Tally()
    for number in range(1, 4):
        made.record(Outcome.OK, number * 0.01, 200)
        made.record(Outcome.OVERFLOW, 0.001, 503)
        made.lag.record(0.0001 * number)
    made.loop_lag.record(0.002)
    made.record(Outcome.UNAVAILABLE, 0.001, 503, Found(Cause.NO_CLUSTER, MadeBy.OWN_SIDECAR))
    made.connect_errors["ECONNREFUSED"] += 2
    made.flow_failures["KeyError"] += 1
    return made


SIGHT = Sight(dict.fromkeys(Outcome, 3), sidecar_overflow=3, sent=9, in_flight=2, pid=1, cpu_s=0.5)
EDGE = Edge(7.0, Reading(Counters(1, 2, 3, 40), None, 5), a_tally(), overflow=3, held_s=0.01, on_the_way=2, settled=True)
STATE = SidecarState(Limits(max_requests=1), "base/user", updated="2026-01-05T10:00:00.000Z")
SAMPLE = Answer("client-1", Outcome.OK, 0.02, Response(200, b"Kevin"))
CASES: dict[str, tuple[Values, Callable[[Values], object], object]] = {
    "sight": (as_sight(SIGHT), lambda values: answer.sight(values, -4), replace(SIGHT, pid=-4)),
    "tally": (EDGE.tally.snapshot(), lambda values: answer.tally(values).snapshot(), EDGE.tally.snapshot()),
    "edge": (_as_edge(EDGE), lambda values: _as_edge(answer.edge(values, Counters(), 7.0)), _as_edge(EDGE)),
    "counters": (asdict(Counters(1, 2, 3, 40)), answer.counters, Counters(1, 2, 3, 40)),
    "state": ({"limits": asdict(STATE.limits), "rule": STATE.rule, "updated": STATE.updated}, answer.state, STATE),
    "sample": (
        {"outcome": "ok", "latency_s": 0.02, "status": 200, "body": "Kevin"},
        lambda values: answer.sample("client-1", values),
        SAMPLE,
    ),
}
WRONG: dict[type, tuple[Any, ...]] = {
    bool: (None, 0, 1, "true", []),
    int: (None, "7", [7], {}, True, 1.5, -1, 2**64, math.nan),
    float: (None, "7", [7], {}, True, math.nan, math.inf, 10**400),
    str: (None, 7, ["x"], {}),
    dict: (None, 7, "x", [1]),
}
"""What cannot stand in the place of a value of a kind."""
UNREAD = {"/pid"}
"""The process's id is not taken from the pod."""
OPTIONAL = {"/rule", "/status", "/connections"}
OPEN = {"outcomes", "latency", "buckets", "statuses", "causes", "connect_errors", "flow_failures"}
"""Mappings that need not have every key."""


def spoilt(values: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Give an answer again and again, each time with another one of its values replaced by what cannot stand there; and say which."""
    for wrong in WRONG[type(values)] if where not in UNREAD else ():
        if wrong is not None or where not in OPTIONAL:
            yield f"{where}: {wrong!r:.20}", wrong
    if isinstance(values, dict):
        for key, value in values.items():
            for inside, wrong in spoilt(value, f"{where}/{key}"):
                yield inside, {**values, key: wrong}
            if f"{where}/{key}" not in UNREAD and where.rpartition("/")[2] not in OPEN:
                yield f"{where} without {key}", {name: value for name, value in values.items() if name != key}


@pytest.mark.parametrize("kind", CASES)
def test_what_a_pod_says_is_read_as_it_was_meant(kind: str) -> None:
    values, read, meant = CASES[kind]
    assert read(json.loads(json.dumps(values))) == meant


@pytest.mark.parametrize("kind", CASES)
def test_one_value_that_cannot_stand_there_is_enough_for_it_to_be_no_answer(kind: str) -> None:
    values, read, _ = CASES[kind]
    taken = []
    for where, wrong in spoilt(json.loads(json.dumps(values))):
        try:
            read(wrong)
            taken.append(where)
        except NO_ANSWER:
            continue
    assert taken == []


@pytest.mark.parametrize("cause", ["", "no_cluster", "no_cluster:nobody", "\x1b[31m:own_sidecar"])
def test_a_cause_is_one_that_is_known(cause: str) -> None:
    values = a_tally().snapshot()
    values["causes"] = {cause: 1}
    with pytest.raises(ValueError, match="is not a valid"):
        answer.tally(values)


@pytest.mark.parametrize("bucket", ["-1", "32640", "99999999", "x"])
def test_a_histogram_has_buckets_of_finite_durations_only(bucket: str) -> None:
    values = a_tally().snapshot()
    values["lag"]["buckets"] = {bucket: 1}
    with pytest.raises(ValueError, match=r"bucket|literal"):
        answer.tally(values)


def test_without_a_response_there_is_no_body_and_without_a_rule_none_is_named() -> None:
    timeout = {"outcome": "timeout", "latency_s": 1.0, "status": None, "body": ""}
    assert answer.sample("client-1", timeout) == Answer("client-1", Outcome.TIMEOUT, 1.0, None)
    assert answer.state({"limits": asdict(Limits()), "rule": None, "updated": ""}) == SidecarState(Limits(), None)
