"""Is a difference between two runs called a regression exactly when it is more than noise and more than is tolerated?"""

from __future__ import annotations

import math
import random
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.bootstrap import Draws, Estimate, hanging_together, pooled, student
from loadgen.comparison import SCHEMA, Comparison, Figure, State, _state, compare, obstacles, to_json
from loadgen.outcome import Outcome
from loadgen.recorder import Histogram
from loadgen.report import PhasePart, Quantiles, Report
from loadgen.series import Moment, Series
from loadgen.summary import quantiles

TEMPLATE = Report.of_json((Path(__file__).parents[1] / "render" / "data" / "report.json").read_bytes())
SEEDED = settings(derandomize=True, deadline=None, max_examples=25)


@dataclass(frozen=True)
class Saved:
    report: Report
    series: Series | None


def run(
    seed: int,
    *,
    seconds: int = 30,
    per_s: int = 80,
    slower: float = 1.0,
    overflow: float = 0.0,
    fewer: float = 1.0,
    hanging: float = 0.5,
    swing: float = 0.05,
    name: str = "limited",
    policy: str = "applied",
) -> Saved:
    """Make up a run of one phase. Its seconds hang together, as those of a real one do: they ``swing``, and ``hanging`` of it is left a second later."""
    rng = random.Random(seed)
    mood, moments = 0.0, []
    for second in range(seconds):
        mood = hanging * mood + rng.gauss(0, swing)
        made = {Outcome.OK: Histogram(), Outcome.OVERFLOW: Histogram()}
        for _ in range(round(per_s * fewer * (1 + rng.gauss(0, 0.05)))):
            outcome = Outcome.OVERFLOW if rng.random() < overflow else Outcome.OK
            made[outcome].record(slower * 0.02 * rng.lognormvariate(mood, 0.5))
        moments += [Moment(second, name, outcome, latency) for outcome, latency in made.items() if latency.count]
    phase = phase_of(moments, seconds).model_copy(update={"name": name, "policy": policy})
    return Saved(TEMPLATE.model_copy(update={"phases": [phase]}), Series([], moments, {}))


def together(*parts: Saved) -> Saved:
    """Make one run of several phases, each made up as a run of its own."""
    phases = [phase for part in parts for phase in part.report.phases]
    moments = [moment for part in parts if part.series for moment in part.series.moments]
    return Saved(TEMPLATE.model_copy(update={"phases": phases}), Series([], moments, {}))


def phase_of(moments: list[Moment], seconds: int) -> PhasePart:
    whole = {outcome: Histogram() for outcome in Outcome}
    for moment in moments:
        whole[moment.outcome].add(moment.latency)
    count = sum(histogram.count for histogram in whole.values())
    return TEMPLATE.phases[1].model_copy(
        update={
            "duration_s": float(seconds),
            "began_s": 0.0,
            "ended_s": float(seconds),
            "requests": count,
            "rate_per_s": count / seconds,
            "outcomes": {outcome.value: histogram.count for outcome, histogram in whole.items()},
            "latency_s": {outcome.value: Quantiles(**quantiles(histogram)) for outcome, histogram in whole.items() if histogram.count},
        }
    )


def worse(base: list[Saved], new: list[Saved], tolerance: float = 0.05) -> set[tuple[str, str]]:
    return {(figure.outcome.value, figure.name) for figure in compare(base, new, tolerance=tolerance).regressions}


def figure(compared: Comparison, name: str, outcome: Outcome = Outcome.OK) -> Figure:
    return next(each for each in compared.figures if each.outcome is outcome and each.name == name)


@SEEDED
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(0, 60), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.05]))
def test_a_run_against_itself_is_never_a_regression(seed: int, seconds: int, per_s: int, overflow: float, tolerance: float) -> None:
    one = run(seed, seconds=seconds, per_s=per_s, overflow=overflow)
    compared = compare([one], [one], tolerance=tolerance)
    assert not compared.regressions
    assert all(each.change == pytest.approx(0, abs=1e-9) for each in compared.figures if each.change is not None)


@SEEDED
@given(st.integers(0, 10**6), st.integers(20, 60))
def test_a_doubled_latency_is_always_a_regression_and_a_halved_one_is_better(seed: int, seconds: int) -> None:
    one, other = run(seed, seconds=seconds), run(seed + 1, seconds=seconds, slower=2)
    assert worse([one], [other]) == {("ok", "p50"), ("ok", "p99")}
    back = compare([other], [one], tolerance=0.05)
    assert [figure(back, name).state for name in ("p50", "p99")] == [State.BETTER, State.BETTER]


@pytest.mark.parametrize(("seconds", "hanging", "swing"), [(8, 0.5, 0.05), (30, 0.8, 0.3)])
def test_noise_is_called_a_regression_in_few_of_a_hundred_comparisons(seconds: int, hanging: float, swing: float) -> None:
    def one(number: int) -> Saved:
        return run(number, seconds=seconds, per_s=50, overflow=0.3, hanging=hanging, swing=swing)

    pairs = [(one(2 * number), one(2 * number + 1)) for number in range(100)]
    assert sum(bool(worse([base], [new], tolerance=0)) for base, new in pairs) <= 5


def test_noise_between_runs_is_called_a_regression_in_few_of_a_hundred_comparisons() -> None:
    rng = random.Random(1)
    alarms = 0
    for number in range(60):
        runs = [run(1000 * number + place, seconds=20, per_s=30, slower=rng.lognormvariate(0, 0.1)) for place in range(6)]
        alarms += bool(worse(runs[:3], runs[3:], tolerance=0.02))
    assert alarms <= 2


def test_runs_that_differ_among_themselves_make_the_interval_wide() -> None:
    machines = [run(1), run(2, slower=1.3), run(3, slower=0.8)]
    others = [run(4, slower=1.25), run(5, slower=0.9), run(6, slower=1.3)]
    assert figure(compare(machines[:1], others[:1], tolerance=0.05), "p50").state is State.WORSE
    assert figure(compare(machines, others, tolerance=0.05), "p50").state is State.UNCLEAR


def test_several_runs_that_agree_tell_more_than_one() -> None:
    def width(count: int) -> float:
        found = figure(compare([run(n) for n in range(count)], [run(10 + n) for n in range(count)], tolerance=0.05), "p50").interval
        assert found is not None
        return found[1] - found[0]

    assert width(4) < width(1)


def test_rejections_that_become_more_and_answers_that_become_fewer_are_worse() -> None:
    found = worse([run(1, overflow=0.1, policy="absent")], [run(2, overflow=0.3, policy="absent")])
    assert found >= {("overflow", "share"), ("ok", "share"), ("ok", "rate")}
    assert ("overflow", "rate") not in found
    assert ("ok", "rate") in worse([run(1)], [run(2, fewer=0.5)])


def test_how_often_a_limit_rejects_is_shown_and_not_judged_for_faster_rejections_are_more() -> None:
    compared = compare([run(1, overflow=0.90)], [run(2, overflow=0.92, fewer=1.25)], tolerance=0.05)  # as many get through
    shares = [figure(compared, "share", outcome) for outcome in (Outcome.OK, Outcome.OVERFLOW)]
    assert [each.state for each in shares] == [State.NOT_JUDGED, State.NOT_JUDGED]
    assert all(each.change and each.interval for each in shares)
    assert not compared.regressions
    assert ("ok", "rate") in worse([run(1, overflow=0.1)], [run(2, overflow=0.5)])


def test_a_failure_that_the_base_never_had_is_worse_and_a_single_one_among_thousands_is_not() -> None:
    assert ("overflow", "share") in worse([run(1, policy="absent")], [run(2, overflow=0.02, policy="absent")])
    assert worse([run(1, policy="absent")], [run(2, overflow=0.0004, policy="absent")]) == set()


def test_without_a_series_the_figures_are_compared_as_they_stand_and_have_no_interval() -> None:
    one, other = (replace(each, series=None) for each in (run(1), run(2, slower=1.1)))
    compared = compare([one], [other], tolerance=0.05)
    assert compared.without_interval
    assert {each.name for each in compared.regressions} == {"p50", "p99"}
    assert not compare([one], [other], tolerance=0.5).regressions


def test_a_short_phase_is_unclear_beside_one_that_knows_its_noise() -> None:
    base, new = (together(run(seed), run(seed + 2, seconds=3, name="short", slower=slower)) for seed, slower in ((1, 1.0), (2, 1.5)))
    compared = compare([base], [new], tolerance=0.05)
    short = {each.name: each for each in compared.figures if each.phase == "short"}
    assert {each.interval for each in short.values()} == {None}
    assert [short[name].state for name in ("rate", "p50", "p99")] == [State.UNCLEAR] * 3
    assert not compared.regressions


def test_two_runs_of_a_side_that_differ_wildly_have_intervals_that_end_where_a_figure_must() -> None:
    def side(seed: int, slower: float) -> Saved:
        return together(*(run(10 * seed + place, seconds=5, overflow=0.5, slower=slower, name=str(place)) for place in range(10)))

    compared = compare([side(1, 1), side(2, 1000)], [side(3, 1), side(4, 1)], tolerance=0.05)
    assert not compared.regressions
    low, high = figure(compared, "p50").interval or (0, 0)
    assert low == -1
    assert 1e300 < high < math.inf
    for each in compared.figures:
        if each.name in {"share", "rate"} and each.interval:
            assert -1 <= each.interval[0] <= each.interval[1]
            assert each.name == "rate" or each.interval[1] <= 1


def test_a_percentile_of_few_requests_is_not_judged() -> None:
    compared = compare([run(1, seconds=5, per_s=8)], [run(2, seconds=5, per_s=8, slower=10)], tolerance=0.05)
    assert figure(compared, "p99").state is State.NOT_JUDGED
    assert figure(compared, "p99").base is None


def test_a_comparison_is_the_same_each_time_and_another_seed_changes_little() -> None:
    one, other = run(1), run(2)
    first, again, seeded = (compare([one], [other], tolerance=0.05, seed=seed) for seed in (1, 1, 2))
    assert first.figures == again.figures
    assert first.figures != seeded.figures
    low, high = figure(first, "p50").interval or (0, 0)
    assert figure(seeded, "p50").interval == pytest.approx((low, high), abs=(high - low) / 5)


def test_ten_minutes_are_compared_within_two_seconds() -> None:
    one, other = run(1, seconds=600, per_s=100, overflow=0.5), run(2, seconds=600, per_s=100, overflow=0.5)
    started = time.process_time()
    compare([one], [other], tolerance=0.05)
    assert time.process_time() - started < 2


def test_two_hours_are_compared_within_some_seconds_and_know_as_much() -> None:
    one, other = run(1, seconds=7200, per_s=10, overflow=0.5), run(2, seconds=7200, per_s=10, overflow=0.5, slower=1.05)
    started = time.process_time()
    compared = compare([one], [other], tolerance=0.02)
    assert time.process_time() - started < 4
    assert figure(compared, "p50").state is State.WORSE


@pytest.mark.parametrize(
    ("low", "high", "more_is_worse", "less_is_worse"),
    [
        (0.06, 0.2, State.WORSE, State.BETTER),
        (-0.2, -0.06, State.BETTER, State.WORSE),
        (0.04, 0.2, State.UNCLEAR, State.UNCLEAR),
        (-0.04, 0.04, State.SAME, State.SAME),
        (-0.05, 0.05, State.SAME, State.SAME),
        (-0.2, 0.2, State.UNCLEAR, State.UNCLEAR),
    ],
)
def test_only_what_is_worse_with_its_whole_interval_is_worse(low: float, high: float, more_is_worse: State, less_is_worse: State) -> None:
    states = [_state(direction, (low + high) / 2, (low, high), 0.05) for direction in (1, -1, 0)]
    assert states == [more_is_worse, less_is_worse, State.NOT_JUDGED]


def scenario(**changes: object) -> Report:
    return TEMPLATE.model_copy(update={"scenario": TEMPLATE.scenario.model_copy(update=changes)})


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (scenario(name="bursts"), "the new run has another scenario: bursts, the first "),
        (scenario(load={"model": "closed", "users": 7}), "the new run has another load: model closed, users 7, the first model "),
        (scenario(clients=99), "the new run has another number of clients: 99, the first "),
        (scenario(limits={}), "the new run has other limits: none, the first "),
        (TEMPLATE.model_copy(update={"mesh": "cluster"}), "the new run is of mesh cluster, the first of local"),
        (TEMPLATE.model_copy(update={"phases": TEMPLATE.phases[:1]}), "the new run has other phases: baseline (absent), the first baseline"),
        (
            TEMPLATE.model_copy(update={"phases": [TEMPLATE.phases[0].model_copy(update={"duration_s": 77.0}), *TEMPLATE.phases[1:]]}),
            "the new run has a phase baseline of 77 s, the first of ",
        ),
    ],
)  # fmt: skip
def test_runs_that_are_not_alike_are_told_in_what(other: Report, sentence: str) -> None:
    invalid, unlike = obstacles([Saved(TEMPLATE, None)], [Saved(other, None)])
    assert not invalid
    assert [each[: len(sentence)] for each in unlike] == [sentence]


def test_invalid_runs_are_named_with_their_reasons() -> None:
    spoilt = TEMPLATE.model_copy(update={"validity": TEMPLATE.validity.model_copy(update={"state": "INVALID", "reasons": ["too late"]})})
    good = TEMPLATE.model_copy(update={"validity": TEMPLATE.validity.model_copy(update={"state": "VALID", "reasons": []})})
    assert obstacles([Saved(good, None)], [Saved(good, None), Saved(spoilt, None)]) == (["the new run 2 is INVALID: too late"], [])


def test_what_is_said_of_runs_cannot_drive_a_terminal() -> None:
    evil = TEMPLATE.model_copy(
        update={
            "scenario": TEMPLATE.scenario.model_copy(update={"name": "\x1b[2Jname"}),
            "validity": TEMPLATE.validity.model_copy(update={"state": "INVALID", "reasons": ["\x1b[2Jreason"]}),
            "phases": [phase.model_copy(update={"name": "\x1b[2Jphase"}) for phase in TEMPLATE.phases],
        }
    )
    invalid, unlike = obstacles([Saved(TEMPLATE, None)], [Saved(evil, None)])
    assert (len(invalid), len(unlike)) == (1, 2)
    assert all(r"\x1b[2J" in sentence and sentence.isprintable() for sentence in (*invalid, *unlike))


def test_the_json_holds_every_figure_and_its_version() -> None:
    one, other = run(1), run(2, slower=2)
    document = to_json(compare([one], [other], tolerance=0.05), {"base": ["a"], "new": ["b"]})
    assert (document["schema"], document["regression"], document["tolerance"]) == (SCHEMA, True, 0.05)
    assert [each["report"] for each in (*document["base"], *document["new"])] == ["a", "b"]
    assert [each["figure"] for each in document["figures"]] == ["share", "rate", "p50", "p99"]
    assert document["figures"][3]["state"] == "worse"


@pytest.mark.parametrize(
    ("freedom", "alpha", "wanted"),
    [
        (1, 0.025, 12.706),
        (2, 0.025, 4.303),
        (3, 0.005, 5.841),
        (4, 0.001, 7.173),
        (5, 0.025, 2.571),
        (30, 0.025, 2.042),
        (10_000, 0.025, 1.96),
    ],
)
def test_students_quantiles_are_those_of_the_tables(freedom: float, alpha: float, wanted: float) -> None:
    assert student(freedom, alpha) == pytest.approx(wanted, abs=0.001)


def test_the_draws_know_the_noise_of_independent_seconds() -> None:
    rng = random.Random(1)
    column = [rng.gauss(100, 10) for _ in range(400)]
    ((variance, _),) = Draws(400, "1").ratios(column, [1.0] * 400, 100.0).parts or ()
    assert variance == pytest.approx(100 / 400, rel=0.4)


def autoregressive(rng: random.Random, seconds: int, hanging: float, noise: float = 0.0) -> list[float]:
    value, column = rng.gauss(0, 1), []
    for _ in range(seconds):
        column.append(10 + value + rng.gauss(0, noise))
        value = hanging * value + math.sqrt(1 - hanging**2) * rng.gauss(0, 1)
    return column


@pytest.mark.parametrize(
    ("seconds", "hanging", "noise", "at_most"),
    [(15, 0.0, 0, 5), (15, 0.5, 0, 6), (30, 0.8, 0, 7), (60, 0.8, 0, 7), (60, 0.8, 1, 8), (60, 0.9, 0, 8), (150, 0.9, 0, 7), (15, 0.9, 0, 14)],
)  # fmt: skip
def test_seconds_that_hang_together_are_taken_for_a_change_in_some_5_of_a_hundred(
    seconds: int, hanging: float, noise: float, at_most: int
) -> None:
    rng, pairs, mistakes = random.Random(1), 200, 0
    for number in range(pairs):
        one, other = (
            Draws(seconds, f"{number}-{side}").ratios(column, [1.0] * seconds, sum(column) / seconds)
            for side, column in enumerate(autoregressive(rng, seconds, hanging, noise) for _ in range(2))
        )
        change = other.minus(one)
        mistakes += change.value > (change.half_width(0.05) or 0)
    assert 100 * mistakes / pairs <= at_most


def test_how_long_seconds_hang_together_is_found() -> None:
    rng = random.Random(1)
    for hanging, wanted in ((0.0, 1), (0.5, 3), (0.8, 9), (0.9, 19)):
        times_s = [hanging_together(autoregressive(rng, 600, hanging))[1] for _ in range(20)]
        assert statistics.mean(times_s) == pytest.approx(wanted, rel=0.25)
    assert hanging_together([3.0] * 10) == (1.0, 1.0)
    assert hanging_together([1.0, -1.0] * 10)[1] == 1


def test_pooled_runs_take_their_own_noise_and_the_difference_between_them_together() -> None:
    pool = pooled([Estimate(1.0, ((0.01, 9.0),)), Estimate(3.0, ((0.01, 9.0),))])
    assert pool.value == 2
    assert sum(variance for variance, _ in pool.parts or ()) == pytest.approx(1.0)
    assert pooled([Estimate(1.0, None), Estimate(3.0, None)]).parts == ((1.0, 1),)
    assert pooled([Estimate(1.0, None)]).parts is None
