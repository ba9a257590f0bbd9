"""What does the author of a scenario expect, and did it hold? ``ok == 100%``, ``p99(overflow) < 5ms``, ``rate > 100/s``, ``verdict == enforced``.

A metric is one of a closed set, so that a misspelt one is a mistake in the file and never passes silently.
"""

from __future__ import annotations

import contextlib
import operator
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from loadgen.evidence import State
from loadgen.outcome import Outcome
from loadgen.quantity import duration_s, rate_per_s, seconds_text
from loadgen.schema import nearest, shown

if TYPE_CHECKING:
    from collections.abc import Callable


class Kind(StrEnum):
    """What sort of figure a metric has."""

    COUNT = "count"
    OUTCOME = "outcome"
    DURATION = "duration"
    RATE = "rate"
    STATE = "state"


LATENCIES = ("avg", "min", "med", "max")
"""Figures of a latency distribution beside its percentiles, with the names that k6 has for them."""
PHASE_METRICS: dict[str, Kind] = {
    **dict.fromkeys((outcome.value for outcome in Outcome), Kind.OUTCOME),
    **dict.fromkeys(("requests", "ledger", "peak_in_flight"), Kind.COUNT),
    "rate": Kind.RATE,
    **dict.fromkeys(("p50", "p90", "p95", "p99", "p999", *LATENCIES, "convergence"), Kind.DURATION),
}
"""Outcomes are counts, or shares if the wanted value has a percent sign; convergence is the slowest client's. Any other percentile can be
written, too: ``p97.5`` or ``p(97.5)``. Latencies are those of ``ok`` and the rate is that of all requests, or of the outcome that stands behind
in parentheses: ``p99(overflow)``, ``rate(ok)``."""

RUN = "run"
"""The key of what is expected of the run as a whole: its verdict, and its validity."""
RUN_METRICS: dict[str, Kind] = {"verdict": Kind.STATE, "validity": Kind.STATE}
_STATES: dict[str, tuple[str, ...]] = {"verdict": tuple(State), "validity": ("VALID", "INVALID")}

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
ALMOST_ALL = 0.999999
_FORM = re.compile(r"\s*([^\s=!<>][^=!<>]*?)\s*(==|!=|>=|<=|>|<)\s*([^\s=!<>]+)\s*")
_MEANT = re.compile(r"\s*([^\s=!<>][^=!<>]*?)\s*([=!<>]+)\s*([^\s=!<>][^=!<>]*?)\s*")
"""What comes near to the form: another sign, or blanks in the value."""
_SIGNS = {"=": "==", "===": "==", "=>": ">=", "=<": "<=", "<>": "!=", "=!": "!=", "!==": "!="}
"""Signs of other languages, and ours for them."""
_METRIC = re.compile(r"(?P<name>p\([^()]*\)|[^()]+)(?:\((?P<outcome>[^()]*)\))?")
_PERCENTILE = re.compile(r"p(?:\((?P<inner>[^()]*)\)|(?P<plain>[-+.0-9].*))")
_OLD_PERCENTILES = {"p999": "99.9"}
"""What reports call it; every other number is read as it stands."""


class Figures(Protocol):
    """What was measured, by metric; None for what does not exist, such as a latency of no request."""

    def __getitem__(self, metric: str, /) -> float | str | None: ...


@dataclass(frozen=True, slots=True)
class Measure:
    """What the text of a metric names.

    ``quantile`` (0 to 1) is set for a percentile, whose ``name`` is written with its number; ``outcome`` if one stands behind in parentheses.
    """

    name: str
    kind: Kind
    outcome: Outcome | None = None
    quantile: float | None = None

    def __str__(self) -> str:
        return f"{self.name}({self.outcome})" if self.outcome else self.name


@dataclass(frozen=True, slots=True)
class Expectation:
    """One expectation. ``wanted`` is a count, a share (0 to 1), seconds, a rate per second, or the name of a state; ``written`` the author's text."""

    phase: str
    metric: str
    operator: str
    wanted: float | str
    written: str
    share: bool = False

    def __str__(self) -> str:
        return self.written

    def show(self, value: float | str) -> str:
        """Write a value of this metric as its author would."""
        if isinstance(value, str):
            return value
        if self.share:
            return f"{value * 100:.{6 if value == 1 or value < ALMOST_ALL else 12}g}%"  # never 100% for a share that is less
        kind = RUN_METRICS.get(self.metric) or measure_of(self.metric).kind
        if kind is Kind.DURATION:
            return seconds_text(value)
        return f"{value:.6g}/s" if kind is Kind.RATE else f"{value:.10g}"

    def holds(self, got: float | str | None) -> bool:
        """Compare; a figure that does not exist (a latency of no request) holds nothing."""
        if got is None:
            return False
        if isinstance(got, str) or isinstance(self.wanted, str):
            return (got == self.wanted) is (self.operator == "==")
        return _OPERATORS[self.operator](got, self.wanted)

    def got(self, figures: Figures) -> float | str | None:
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
        raise ValueError(f"{shown(text)} is no expectation; {_instead(phase, text)}")
    metric, sign, wanted = match.groups()
    if _is_of_a_phase(metric) if phase == RUN else metric in RUN_METRICS:
        raise ValueError(
            f"'{metric}' is a figure of {'a phase' if phase == RUN else 'the run'}; write it under {'its name' if phase == RUN else RUN}"
        )
    if phase == RUN and metric not in RUN_METRICS:
        raise ValueError(f"unknown metric '{metric}'; {nearest(metric, RUN_METRICS)}")
    measure = Measure(metric, Kind.STATE) if phase == RUN else measure_of(metric)
    share = measure.kind is Kind.OUTCOME and wanted.endswith("%")
    return Expectation(phase, str(measure), sign, _READERS[measure.kind](measure, sign, wanted), match.string.strip(), share)


def _instead(phase: str, text: object) -> str:
    """Say what the author of a text that has not the form of an expectation may have meant, or give an example."""
    match = _MEANT.fullmatch(text) if isinstance(text, str) else None
    if match is not None:
        metric, sign, wanted = match.groups()
        meant = f"{metric} {_SIGNS.get(sign, sign)} {''.join(wanted.split())}"
        with contextlib.suppress(ValueError):
            parse_expectation(phase, meant)
            why = f"'{sign}' compares nothing" if sign in _SIGNS else "a value has no blank in it"
            return f"{why}; did you mean '{meant}'?"
    return f"write for example {'verdict == enforced' if phase == RUN else 'ok == 100%, overflow > 0 or p99 < 200ms'}"


def measure_of(metric: str) -> Measure:
    """Read the metric of a phase: a name, or a percentile, with an outcome in parentheses or without.

    Raises ValueError with a sentence for a person.
    """
    match = _METRIC.fullmatch(re.sub(r"\s*([()])\s*", r"\1", metric))
    name, inner = (match["name"], match["outcome"]) if match else (metric, None)
    quantile = _quantile(name)
    if quantile is None and name not in PHASE_METRICS:
        raise ValueError(f"unknown metric '{metric}'; {nearest(metric, PHASE_METRICS)}")
    if quantile is not None and name not in PHASE_METRICS:
        name = f"p{quantile * 100:.10g}"
    kind = Kind.DURATION if quantile is not None else PHASE_METRICS[name]
    return Measure(name, kind, _outcome(name, kind, inner) if inner is not None else None, quantile)


def _is_of_a_phase(metric: str) -> bool:
    try:
        measure_of(metric)
    except ValueError:
        return False
    return True


def _quantile(name: str) -> float | None:
    """Give the quantile that a percentile's name stands for; None if it is no percentile."""
    match = _PERCENTILE.fullmatch(name)
    if match is None:
        return None
    number = _OLD_PERCENTILES.get(name, match["inner"] if match["plain"] is None else match["plain"]).strip()
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", number):
        raise ValueError(f"'{number}' is no percentile; write a number from 0 to 100, such as p95 or p(99.9)")
    quantile = float(f"{number}e-2")  # not divided by 100: 0.999 must be 0.999
    if quantile > 1:
        meant = f"; did you mean p{number[:2]}.{number[2:]}?" if re.fullmatch(r"9[0-9]{2,}", number) else ""
        raise ValueError(f"the percentile {number} is not within 0 and 100{meant}")
    return quantile


def _outcome(name: str, kind: Kind, text: str) -> Outcome:
    if kind is not Kind.RATE and (kind is not Kind.DURATION or name == "convergence"):
        raise ValueError(f"'{name}' is of no single outcome; write it without ({text})")
    allowed = [outcome for outcome in Outcome if kind is Kind.RATE or outcome is not Outcome.UNSENT]
    if text == Outcome.UNSENT and kind is not Kind.RATE:
        raise ValueError("a request that was not sent has no latency")
    if text not in allowed:
        raise ValueError(f"unknown outcome '{text}'; {nearest(text, allowed)}")
    return Outcome(text)


def _read_count(measure: Measure, _sign: str, wanted: str) -> float:
    if not re.fullmatch(r"[0-9]{1,15}", wanted):
        raise ValueError(
            f"'{wanted}' must be a whole number, such as 0{', or a percentage, such as 100%' if measure.kind is Kind.OUTCOME else ''}"
        )
    return float(wanted)


def _read_outcome(measure: Measure, sign: str, wanted: str) -> float:
    if not wanted.endswith("%"):
        return _read_count(measure, sign, wanted)
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?%", wanted):
        raise ValueError(f"'{wanted}' is no percentage; write for example 100%")
    share = float(wanted[:-1]) / 100
    if share > 1:
        raise ValueError(f"{wanted} is more than 100%")
    return share


def _read_duration(_measure: Measure, _sign: str, wanted: str) -> float:
    return duration_s(wanted)


def _read_rate(measure: Measure, sign: str, wanted: str) -> float:
    if re.fullmatch(r"0+(\.0+)?/[smh]", wanted):
        return 0.0
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?%?", wanted):
        outcome = measure.outcome or Outcome.OK
        raise ValueError(f"a rate is per time, such as {wanted.rstrip('%')}/s; a share of the requests is written {outcome} {sign} 99%")
    return rate_per_s(wanted)


def _read_state(measure: Measure, sign: str, wanted: str) -> str:
    if sign not in {"==", "!="}:
        raise ValueError(f"{measure} can be compared with == or !=, not with {sign}")
    if wanted not in _STATES[measure.name]:
        raise ValueError(f"unknown {measure} '{wanted}'; {nearest(wanted, _STATES[measure.name])}")
    return wanted


_READERS: dict[Kind, Callable[[Measure, str, str], float | str]] = {
    Kind.COUNT: _read_count,
    Kind.OUTCOME: _read_outcome,
    Kind.DURATION: _read_duration,
    Kind.RATE: _read_rate,
    Kind.STATE: _read_state,
}
