"""Is the new run worse than the base? Per phase and outcome: share, rate, p50 and p99, each with an interval, so that noise is no regression.

The law: what is called worse is so with its whole interval, and by more than what is tolerated. The intervals are so wide that a run compared
with its like has one such figure, whichever, in some 5 of 100 comparisons, also where slow seconds come together, as long as a phase is many times
longer than they do; if it is not, the intervals are wider, but not quite wide enough. A share is compared in points, everything else relative to the
base. Where no figure has an interval (a run without a series, phases of few seconds), all are compared as they stand; where only some have none,
those are unclear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from loadgen.bootstrap import MIN_SECONDS, Draws, Estimate, pooled
from loadgen.errors import printable
from loadgen.outcome import Outcome
from loadgen.scenario import load_text

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from loadgen.report import PhasePart, Report
    from loadgen.series import Series

SCHEMA = "loadgen.comparison/v1"
ALPHA = 0.05
"""How often a comparison may call something worse that is not."""
LEAST_SHARE = 0.001
"""A share that changes by less than a tenth of a point is not worth a word."""
MAX_STRETCHES = 600
"""A phase of more seconds is looked at in so many stretches of several, which tell as much and are compared within seconds."""
MIN_REQUESTS = {"p50": 20, "p99": 100}
"""A percentile of fewer requests says nothing."""
_QUANTILES = {"p50": 0.5, "p99": 0.99}
_DURATION_SHARE, _DURATION_S = 0.1, 0.5


class State(StrEnum):
    """What became of a figure. ``unclear``: the interval holds both a change that is tolerated and one that is not, or only others have one."""

    SAME = "same"
    BETTER = "better"
    WORSE = "worse"
    UNCLEAR = "unclear"
    NOT_JUDGED = "not_judged"


class Run(Protocol):
    """One run as it was saved."""

    @property
    def report(self) -> Report: ...
    @property
    def series(self) -> Series | None: ...


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a phase and outcome on both sides.

    ``change`` is relative to the base (0.1: a tenth more), for a share in points (0.1: ten of 100 requests more); None if the base is 0 or one
    side has too few requests. ``interval`` is that of the change, None if it is not known.
    """

    phase: str
    outcome: Outcome
    name: str
    base: float | None
    new: float | None
    change: float | None
    interval: tuple[float, float] | None
    state: State


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides, figure by figure. ``tolerance`` is a share; ``doubts`` say why the runs should not be compared, if they were all the same."""

    base: Sequence[Run]
    new: Sequence[Run]
    figures: Sequence[Figure]
    tolerance: float
    seed: int
    doubts: Sequence[str] = ()

    @property
    def regressions(self) -> list[Figure]:
        """What is worse."""
        return [figure for figure in self.figures if figure.state is State.WORSE]

    @property
    def without_interval(self) -> bool:
        """Whether no figure has an interval."""
        return not any(figure.interval for figure in self.figures)


def obstacles(base: Sequence[Run], new: Sequence[Run]) -> tuple[list[str], list[str]]:
    """Say which runs are INVALID, and in what the others are not like the first; what the files say is escaped."""
    runs = [*(("base", number, run) for number, run in enumerate(base, 1)), *(("new", number, run) for number, run in enumerate(new, 1))]
    several = {"base": len(base) > 1, "new": len(new) > 1}
    invalid, unlike = [], []
    first = base[0].report
    for side, number, run in runs:
        who = f"the {side} run{f' {number}' if several[side] else ''}"
        if run.report.validity.state == "INVALID":
            reasons = "; ".join(run.report.validity.reasons) or "no reason is given"
            invalid.append(printable(f"{who} is INVALID: {reasons}"))
        unlike += [printable(f"{who} {sentence}") for sentence in _differences(first, run.report)]
    return invalid, unlike


def _differences(one: Report, other: Report) -> Iterator[str]:
    ours, theirs = one.scenario, other.scenario
    if one.mesh != other.mesh:
        yield f"is of mesh {other.mesh}, the first of {one.mesh}"
    for name, what in _ALIKE.items():
        before, after = getattr(ours, name), getattr(theirs, name)
        if before != after:
            yield f"has {'other' if what.endswith('limits') else 'another'} {what}: {_shown(after)}, the first {_shown(before)}"
    phases, others = [[(phase.name, phase.policy) for phase in report.phases] for report in (one, other)]
    if phases != others:
        yield f"has other phases: {_listed(others)}, the first {_listed(phases)}"
        return
    for before, after in zip(one.phases, other.phases, strict=True):
        if abs(before.duration_s - after.duration_s) > max(_DURATION_S, _DURATION_SHARE * before.duration_s):
            yield f"has a phase {after.name} of {after.duration_s:.0f} s, the first of {before.duration_s:.0f} s"


_ALIKE = {
    "name": "scenario",
    "load": "load",
    "clients": "number of clients",
    "workers": "number of Envoy's workers",
    "service_time": "service time",
    "limits": "limits",
}
"""What of a scenario must be the same, and what it is called."""


def _shown(value: object) -> str:
    return load_text(value) or "none" if isinstance(value, dict) else str(value)


def _listed(phases: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name} ({policy})" for name, policy in phases) or "none"


def compare(base: Sequence[Run], new: Sequence[Run], *, tolerance: float, seed: int = 1, doubts: Sequence[str] = ()) -> Comparison:
    """Compare the runs of two sides, of which there is at least one each, phase by phase."""
    sides = [_measured(base, f"{seed}-base"), _measured(new, f"{seed}-new")]
    had = {
        (phase.name, outcome) for run in (*base, *new) for phase in run.report.phases for outcome in Outcome if phase.outcomes.get(outcome)
    }
    limited = {phase.name for run in (*base, *new) for phase in run.report.phases if phase.policy == "applied"}
    directions = {key: _direction(key, limited) for key in sides[0] if key in sides[1] and key[:2] in had}
    alpha = ALPHA / max(1, sum(direction != 0 for direction in directions.values()))
    figures = [_figure(key, sides[0][key], sides[1][key], tolerance, alpha, direction) for key, direction in directions.items()]
    return Comparison(base, new, _only_beyond_noise(figures), tolerance, seed, doubts)


Key = tuple[str, Outcome, str]
"""Phase, outcome and name of a figure."""


def _direction(key: Key, limited: Container[str]) -> int:
    """Say what is worse: 1 more, -1 less, 0 neither. ``limited`` are the phases with the policy applied.

    How often a limit rejects is its business; only that fewer get through is worse. The trap: who is rejected is back at once if he does not think,
    so with faster rejections there are more of them, and the share of ``ok`` is smaller, though as many get through. It is the rate that tells.
    """
    phase, outcome, name = key
    if name in _QUANTILES:
        return 1
    if name == "share" and phase in limited and outcome in {Outcome.OK, Outcome.OVERFLOW}:
        return 0
    if outcome is Outcome.OK:
        return -1
    return 1 if name == "share" else 0


def _only_beyond_noise(figures: Sequence[Figure]) -> list[Figure]:
    """Let no figure without an interval be judged as it stands where others have one: nobody would see that it may be noise."""
    if not any(figure.interval for figure in figures):
        return list(figures)
    return [
        replace(figure, state=State.UNCLEAR) if figure.interval is None and figure.state is not State.NOT_JUDGED else figure
        for figure in figures
    ]


def _measured(runs: Sequence[Run], seed: str) -> dict[Key, Estimate | None]:
    """Give every figure of one side: of a quantile its logarithm, None of too few requests."""
    each = [_of_run(run, f"{seed}-{number}") for number, run in enumerate(runs)]
    found: dict[Key, Estimate | None] = {}
    for key in each[0]:
        estimates = [estimate for run in each if (estimate := run.get(key)) is not None]
        if all(key in run for run in each):
            found[key] = pooled(estimates) if len(estimates) == len(each) else None
    return found


def _of_run(run: Run, seed: str) -> dict[Key, Estimate | None]:
    figures: dict[Key, Estimate | None] = {}
    for phase in run.report.phases:
        seconds = _Seconds(phase, run.series)
        draws = Draws(len(seconds.weights), f"{seed}-{phase.name}") if len(seconds.weights) >= MIN_SECONDS else None
        for outcome in Outcome:
            figures |= {(phase.name, outcome, name): estimate for name, estimate in _of_outcome(phase, outcome, seconds, draws).items()}
    return figures


def _of_outcome(phase: PhasePart, outcome: Outcome, seconds: _Seconds, draws: Draws | None) -> dict[str, Estimate | None]:
    count = phase.outcomes.get(outcome, 0)
    found: dict[str, Estimate | None] = {"share": None, "rate": None}
    buckets = seconds.buckets.get(outcome)
    counts = [sum(each.values()) for each in buckets] if buckets else [0] * len(seconds.weights)
    if phase.requests:
        share = count / phase.requests
        found["share"] = draws.ratios(counts, seconds.requests, share) if draws else Estimate(share, None)
    if phase.duration_s:
        rate = count / phase.duration_s
        found["rate"] = draws.ratios(counts, seconds.weights, rate) if draws else Estimate(rate, None)
    latency = phase.latency_s.get(outcome)
    for name, quantile in _QUANTILES.items():
        value = getattr(latency, name) if latency is not None and count >= MIN_REQUESTS[name] else 0
        found[name] = None
        if value > 0:
            found[name] = draws.quantiles(buckets, quantile, value) if draws and buckets else Estimate(math.log(value), None)
    return found


class _Seconds:
    """One phase by the second: how much of each second belongs to it, how many requests ended in it, and by outcome how long they took.

    If it is too long for that, by as many seconds at a time as leave no more than ``MAX_STRETCHES``.
    """

    def __init__(self, phase: PhasePart, series: Series | None) -> None:
        moments = [moment for moment in series.moments if moment.phase == phase.name] if series is not None else []
        self.weights: list[float] = []
        self.requests: list[int] = []
        self.buckets: dict[Outcome, list[dict[int, int]]] = {}
        if not moments:
            return
        began = phase.began_s if phase.began_s is not None else float(min(moment.second for moment in moments))
        ended = phase.ended_s if phase.ended_s is not None else began + phase.duration_s
        first, last = int(began), max(int(began), math.ceil(ended) - 1)
        step = math.ceil((last + 1 - first) / MAX_STRETCHES)
        self.weights = [max(0.0, min(second + step, ended) - max(second, began)) for second in range(first, last + 1, step)]
        self.requests = [0] * len(self.weights)
        for moment in moments:
            place = (min(max(moment.second, first), last) - first) // step  # what is noticed a little late belongs to the last second
            own = self.buckets.setdefault(moment.outcome, [{} for _ in self.weights])[place]
            for bucket, count in moment.latency.buckets.items():
                own[bucket] = own.get(bucket, 0) + count
            self.requests[place] += moment.latency.count


def _figure(key: Key, base: Estimate | None, new: Estimate | None, tolerance: float, alpha: float, direction: int) -> Figure:
    phase, outcome, name = key
    before, after = (None if each is None else math.exp(each.value) if name in _QUANTILES else each.value for each in (base, new))
    if base is None or new is None:
        return Figure(phase, outcome, name, before, after, None, None, State.NOT_JUDGED)
    if name in _QUANTILES:
        change, interval = _interval(new.minus(base), alpha, -_UNBOUNDED_LOG, _UNBOUNDED_LOG)
        change, interval = math.expm1(change), interval and (math.expm1(interval[0]), math.expm1(interval[1]))
    elif name == "share":
        change, interval = _interval(new.minus(base), alpha, -base.value, 1 - base.value)
    elif base.value:
        change, interval = _interval(_ratio(new, base), alpha, -1.0, math.expm1(_UNBOUNDED_LOG))
    else:
        return Figure(phase, outcome, name, before, after, None, None, State.NOT_JUDGED)
    tolerated = max(LEAST_SHARE, tolerance * base.value) if name == "share" else tolerance
    return Figure(phase, outcome, name, before, after, change, interval, _state(direction, change, interval, tolerated))


def _ratio(new: Estimate, base: Estimate) -> Estimate:
    """Give how much larger one figure is than the other, relative to it; its variance is that of the first order."""
    inexact = new.times(1 / base.value).minus(base.times(new.value / base.value**2))
    return Estimate(new.value / base.value - 1, inexact.parts)


_UNBOUNDED_LOG = 700.0
"""The logarithm of a ratio that is as good as unbounded: a larger one is no float any more. With few runs Student's t has no other bound."""


def _interval(change: Estimate, alpha: float, least: float, most: float) -> tuple[float, tuple[float, float] | None]:
    """Give a change and its interval, which ends at the least and the most that the change can be."""
    half = change.half_width(alpha)
    return change.value, None if half is None else (max(least, change.value - half), min(most, change.value + half))


def _state(direction: int, change: float, interval: tuple[float, float] | None, tolerated: float) -> State:
    if not direction:
        return State.NOT_JUDGED
    low, high = sorted(direction * each for each in interval or (change, change))
    if low > tolerated:
        return State.WORSE
    if high < -tolerated:
        return State.BETTER
    return State.SAME if -tolerated <= low and high <= tolerated else State.UNCLEAR


def to_json(comparison: Comparison, names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Give a comparison as JSON (``loadgen.comparison/v1``); ``names`` are the files of both sides. Latencies are seconds."""
    return {
        "schema": SCHEMA,
        "tolerance": comparison.tolerance,
        "seed": comparison.seed,
        "regression": bool(comparison.regressions),
        "doubts": list(comparison.doubts),
        **{
            side: [
                {
                    "report": name,
                    "started_at": run.report.started_at,
                    "validity": run.report.validity.state,
                    "series": run.series is not None,
                }
                for name, run in zip(names[side], runs, strict=True)
            ]
            for side, runs in (("base", comparison.base), ("new", comparison.new))
        },
        "figures": [
            {
                "phase": each.phase,
                "outcome": each.outcome.value,
                "figure": each.name,
                "base": each.base,
                "new": each.new,
                "change": each.change,
                "interval": each.interval and list(each.interval),
                "state": each.state.value,
            }
            for each in comparison.figures
        ],
    }
