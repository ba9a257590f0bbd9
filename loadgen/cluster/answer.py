"""What did a pod say? From its JSON, which may hold anything, to the values of a run; no I/O.

The law: what is no count, no duration and no name is found out here, where it is read, and not when the run's figures are added up. Every
function raises LookupError, TypeError, ValueError or AttributeError of what is no such answer. The bounds are such that those of all pods of a
run together stay within what its report can hold.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from loadgen.engine.edge import Edge, Reading
from loadgen.engine.load import Sight
from loadgen.ledger import Counters
from loadgen.outcome import Answer, Outcome, Response
from loadgen.policy.limits import Limits
from loadgen.policy.state import SidecarState
from loadgen.recorder import INFINITE_BUCKET, LONGEST_S, Tally

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST = 2**40
MOST_NS = 2**63
MOST_CPU_S = 1e9


def count(value: Any, most: int = MOST) -> int:
    """Read a count."""
    if type(value) is not int:
        raise TypeError(f"{type(value).__name__} in the place of a count")
    if not 0 <= value < most:
        raise ValueError("a count out of range")
    return value


def seconds(value: Any, most: float = LONGEST_S) -> float:
    """Read a duration."""
    if type(value) not in {int, float}:
        raise TypeError(f"{type(value).__name__} in the place of a duration")
    if not 0 <= value <= most:  # nor is NaN
        raise ValueError("a duration out of range")
    return float(value)


def flag(value: Any) -> bool:
    """Read a yes or no."""
    if type(value) is not bool:
        raise TypeError(f"{type(value).__name__} in the place of yes or no")
    return value


def text(value: Any) -> str:
    """Read a text."""
    if type(value) is not str:
        raise TypeError(f"{type(value).__name__} in the place of a text")
    return value


def counters(values: Mapping[str, Any]) -> Counters:
    """Read a sidecar's counters."""
    return Counters(**{each.name: count(values[each.name]) for each in fields(Counters)})


def state(values: Mapping[str, Any]) -> SidecarState:
    """Read what is in force in a sidecar."""
    limits = Limits(**{each.name: count(values["limits"][each.name]) for each in fields(Limits)})
    return SidecarState(limits, None if values["rule"] is None else text(values["rule"]), updated=text(values["updated"]))


def sight(values: Mapping[str, Any], pid: int) -> Sight:
    """Read what a load has seen; its process gets another id, for every pod's is number 1."""
    return Sight(
        outcomes={outcome: count(values["outcomes"].get(outcome.value, 0)) for outcome in Outcome},
        sidecar_overflow=count(values["sidecar_overflow"]),
        sent=count(values["sent"]),
        in_flight=count(values["in_flight"]),
        pid=pid,
        cpu_s=seconds(values["cpu_s"], MOST_CPU_S),
    )


def tally(values: dict[str, Any]) -> Tally:
    """Read a tally."""
    for histogram in (*values["latency"].values(), values["lag"], values["loop_lag"]):
        _check(histogram)
    for counts in (values["statuses"], values["causes"], values["connect_errors"], values["flow_failures"], values["bursts"]):
        for each in counts.values():
            count(each)
    count(values["number"])
    count(values["server_overflow"])
    count(values["untold_bursts"])
    count(values["cut_bursts"])
    return Tally.from_snapshot(values)


def _check(histogram: Mapping[str, Any]) -> None:
    for bucket, each in histogram["buckets"].items():
        count(each)
        if not 0 <= int(bucket) < INFINITE_BUCKET:
            raise ValueError("a bucket out of range")
    count(sum(histogram["buckets"].values()))
    count(histogram["sum_ns"], MOST_NS)
    seconds(histogram["max_s"])


def edge(values: Mapping[str, Any], base: Counters, at: float) -> Edge:
    """Read an edge that was found at a moment; ``base`` is what the sidecar had counted when the run began."""
    return Edge(
        at=at,
        reading=Reading(
            counters(values["counters"]).since(base), None, None if values["connections"] is None else count(values["connections"])
        ),
        tally=tally(values["tally"]),
        overflow=count(values["overflow"]),
        held_s=seconds(values["held_s"]),
        on_the_way=count(values["on_the_way"]),
        settled=flag(values["settled"]),
    )


def sample(client: str, values: Mapping[str, Any]) -> Answer:
    """Read one of the client's answers."""
    response = None if values["status"] is None else Response(count(values["status"]), text(values["body"]).encode())
    return Answer(client, Outcome(values["outcome"]), seconds(values["latency_s"]), response)
