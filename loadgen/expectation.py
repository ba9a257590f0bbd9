"""What does the author of a scenario expect, and did it hold? ``ok == 100%``, ``overflow > 0``, ``p99 < 200ms``, ``verdict == enforced``.

A metric is one of a closed set, so that a misspelt one is a mistake in the file and never passes silently.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from loadgen.outcome import Outcome
from loadgen.quantity import duration_s, seconds_text
from loadgen.schema import nearest, shown
from loadgen.verdict import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Kind(StrEnum):
    """What sort of figure a metric has."""

    COUNT = "count"
    OUTCOME = "outcome"
    DURATION = "duration"
    STATE = "state"


PHASE_METRICS: dict[str, Kind] = {
    **dict.fromkeys((outcome.value for outcome in Outcome), Kind.OUTCOME),
    **dict.fromkeys(("requests", "ledger", "peak_in_flight"), Kind.COUNT),
    **dict.fromkeys(("p50", "p90", "p99", "p999", "max", "convergence"), Kind.DURATION),
}
"""Outcomes are counts, or shares if the wanted value has a percent sign; latencies are those of ``ok``; convergence is the slowest client's."""

RUN = "run"
"""The key of what is expected of the run as a whole: its verdict."""
RUN_METRICS: dict[str, Kind] = {"verdict": Kind.STATE}

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
ALMOST_ALL = 0.999999
_FORM = re.compile(r"\s*([^\s=!<>]+)\s*(==|!=|>=|<=|>|<)\s*([^\s=!<>]+)\s*")


@dataclass(frozen=True, slots=True)
class Expectation:
    """One expectation. ``wanted`` is a count, a share (0 to 1), seconds, or the name of a verdict's state."""

    phase: str
    metric: str
    operator: str
    wanted: float | str
    share: bool = False

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {self.show(self.wanted)}"

    def show(self, value: float | str) -> str:
        """Write a value of this metric as its author would."""
        if isinstance(value, str):
            return value
        if self.share:
            return f"{value * 100:.{6 if value == 1 or value < ALMOST_ALL else 12}g}%"  # never 100% for a share that is less
        return seconds_text(value) if PHASE_METRICS.get(self.metric) is Kind.DURATION else f"{value:.10g}"

    def holds(self, got: float | str | None) -> bool:
        """Compare; a figure that does not exist (a latency of no request) holds nothing."""
        if got is None:
            return False
        if isinstance(got, str) or isinstance(self.wanted, str):
            return (got == self.wanted) is (self.operator == "==")
        return _OPERATORS[self.operator](got, self.wanted)

    def got(self, figures: Mapping[str, float | str | None]) -> float | str | None:
        """Pick this metric out of a phase's figures; a share is of ``requests``, and there is none of 0 requests."""
        value = figures[self.metric]
        if not self.share:
            return value
        requests = figures["requests"]
        return float(value or 0) / float(requests) if requests else None


def parse_expectation(phase: str, text: object) -> Expectation:
    """Read one expectation of a phase, or of the run.

    Raises ValueError with a sentence for a person.
    """
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        example = "verdict == enforced" if phase == RUN else "ok == 100%, overflow > 0 or p99 < 200ms"
        raise ValueError(f"{shown(text)} is no expectation; write for example {example}")
    metric, sign, wanted = match.groups()
    kinds, others = (RUN_METRICS, PHASE_METRICS) if phase == RUN else (PHASE_METRICS, RUN_METRICS)
    if metric in others:
        raise ValueError(
            f"'{metric}' is a figure of {'a phase' if phase == RUN else 'the run'}; write it under {'its name' if phase == RUN else RUN}"
        )
    if metric not in kinds:
        raise ValueError(f"unknown metric '{metric}'; {nearest(metric, kinds)}")
    return _READERS[kinds[metric]](phase, metric, sign, wanted)


def _read_count(phase: str, metric: str, sign: str, wanted: str) -> Expectation:
    if not re.fullmatch(r"[0-9]{1,15}", wanted):
        raise ValueError(
            f"'{wanted}' must be a whole number, such as 0{', or a percentage, such as 100%' if PHASE_METRICS[metric] is Kind.OUTCOME else ''}"
        )
    return Expectation(phase, metric, sign, float(wanted))


def _read_outcome(phase: str, metric: str, sign: str, wanted: str) -> Expectation:
    if not wanted.endswith("%"):
        return _read_count(phase, metric, sign, wanted)
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?%", wanted):
        raise ValueError(f"'{wanted}' is no percentage; write for example 100%")
    share = float(wanted[:-1]) / 100
    if share > 1:
        raise ValueError(f"{wanted} is more than 100%")
    return Expectation(phase, metric, sign, share, share=True)


def _read_duration(phase: str, metric: str, sign: str, wanted: str) -> Expectation:
    return Expectation(phase, metric, sign, duration_s(wanted))


def _read_state(phase: str, metric: str, sign: str, wanted: str) -> Expectation:
    if sign not in {"==", "!="}:
        raise ValueError(f"{metric} can be compared with == or !=, not with {sign}")
    if wanted not in set(State):
        raise ValueError(f"unknown verdict '{wanted}'; {nearest(wanted, State)}")
    return Expectation(phase, metric, sign, wanted)


_READERS = {Kind.COUNT: _read_count, Kind.OUTCOME: _read_outcome, Kind.DURATION: _read_duration, Kind.STATE: _read_state}
