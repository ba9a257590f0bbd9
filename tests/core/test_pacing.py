"""Are requests due when the load model says, in virtual time and whatever the answers do?"""

from __future__ import annotations

import heapq
import itertools
import math
import statistics
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.pacing import Burst, Closed, Interval, Open, RateCourse, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadgen.pacing import Pacing

EXPONENTIAL = Interval(0.02, exponential=True)
POISSON = Open(RateCourse(50), poisson=True)


def schedule(pacing: Pacing, until: float, answer_s: Callable[[int], float], seed: int | str = 7) -> list[float]:
    """Give the due times in virtual time; the n-th request is answered ``answer_s(n)`` seconds after it was due."""
    rng = Random(seed)
    dues: list[float] = []
    events = [(due, 0) for due in pacing.first(rng)]
    heapq.heapify(events)
    while events and events[0][0] <= until:
        now, is_answer = heapq.heappop(events)
        if is_answer:
            for next_due in pacing.after_done(now, len(events), rng):
                heapq.heappush(events, (next_due, 0))
        else:
            heapq.heappush(events, (now + answer_s(len(dues)), 1))
            dues.append(now)
            following = pacing.after_due(now, rng)
            if following is not None:
                heapq.heappush(events, (following, 0))
    return dues


def at_once(_number: int) -> float:
    """Answer at once."""
    return 0.0


def test_a_constant_interval_is_always_the_same_and_draws_nothing() -> None:
    rng = Random(1)
    before = rng.getstate()
    assert {Interval(0.02).draw(rng) for _ in range(10)} == {0.02}
    assert rng.getstate() == before


def test_an_exponential_interval_has_the_mean_and_the_spread_of_one() -> None:
    rng = Random(1)
    drawn = [EXPONENTIAL.draw(rng) for _ in range(20_000)]
    assert min(drawn) > 0
    assert statistics.fmean(drawn) == pytest.approx(0.02, rel=0.03)
    assert statistics.stdev(drawn) == pytest.approx(0.02, rel=0.03)
    assert sum(each > 0.02 for each in drawn) / len(drawn) == pytest.approx(0.3679, abs=0.01)  # 1/e


@pytest.mark.parametrize("interval", [Interval(), Interval(0.0, exponential=True)])
def test_no_interval_is_no_time(interval: Interval) -> None:
    assert interval.draw(Random(1)) == 0.0


def test_the_same_seed_gives_the_same_schedule_and_another_one_another() -> None:
    stages = (Stage(90, ramp_s=1), Stage(5, hold_s=0.5))
    for pacing in (
        Closed(3, EXPONENTIAL),
        Open(RateCourse(50)),
        POISSON,
        Open(RateCourse(0, stages)),
        Open(RateCourse(9, stages), poisson=True),
    ):
        first, second, other = (schedule(pacing, 2.0, lambda _: 0.01, seed) for seed in (1, 1, 2))
        assert first == second != other


# Closed: every user waits for its answer, thinks, and sends again.


def test_a_closed_load_starts_with_one_request_a_user_spread_over_one_think_time() -> None:
    dues = Closed(1000, Interval(2.0)).first(Random(1))
    assert len(dues) == 1000
    assert 0.0 <= min(dues) < max(dues) < 2.0
    assert statistics.fmean(dues) == pytest.approx(1.0, abs=0.1)


def test_a_closed_load_without_think_time_starts_all_at_once() -> None:
    assert Closed(3).first(Random(1)) == [0.0, 0.0, 0.0]


def test_a_user_of_a_closed_load_waits_for_the_answer_and_then_thinks() -> None:
    pacing: Pacing = Closed(1, Interval(0.5))
    rng = Random(1)
    assert pacing.after_due(1.0, rng) is None
    assert list(pacing.after_done(3.0, 0, rng)) == [3.5]
    assert list(pacing.after_done(3.0, 9, rng)) == [3.5], "whatever the other users do"


@pytest.mark.parametrize(
    ("pacing", "immediate"),
    [(Closed(3), True), (Closed(3, Interval(0.1)), False), (Closed(3, EXPONENTIAL), False), (POISSON, False), (Burst(3, 0.0), False)],
)
def test_only_a_closed_load_without_think_time_need_not_be_asked_what_follows_an_answer(pacing: Pacing, *, immediate: bool) -> None:
    assert pacing.immediate is immediate


def test_a_closed_load_never_has_more_requests_in_flight_than_users() -> None:
    users, answer_s = 4, 0.05
    dues = schedule(Closed(users, EXPONENTIAL), 20.0, lambda _: answer_s)
    assert all(later - earlier >= answer_s for earlier, later in zip(dues, dues[users:], strict=False))


@pytest.mark.parametrize("think", [Interval(0.02), EXPONENTIAL])
def test_the_throughput_of_a_closed_load_follows_little_s_law(think: Interval) -> None:
    dues = schedule(Closed(5, think), 100.0, lambda _: 0.03)
    assert len(dues) / 100.0 == pytest.approx(5 / (0.02 + 0.03), rel=0.03)


def test_a_closed_load_slows_down_with_its_answers() -> None:
    fast, slow = (len(schedule(Closed(5), 10.0, lambda _, answer_s=answer_s: answer_s)) for answer_s in (0.01, 0.1))  # type: ignore[misc]  # a default binds the value
    assert fast == pytest.approx(10 * slow, rel=0.02)


def test_every_user_of_a_closed_load_has_a_connection_from_the_start() -> None:
    assert Closed(7).at_once == 7


# Open: arrivals at a rate, whatever the answers do.


def test_a_constant_open_load_arrives_like_clockwork_from_a_random_part_of_an_interval_on() -> None:
    dues = schedule(Open(RateCourse(4)), 2.0, lambda _: 9.0)
    assert 0.0 <= dues[0] < 0.25
    assert dues == pytest.approx([dues[0] + 0.25 * number for number in range(8)])


def test_constant_arrivals_of_several_clients_are_not_in_step() -> None:
    pacing = Open(RateCourse(10))
    firsts = sorted(schedule(pacing, 0.1, at_once, seed=f"1-{client}")[0] for client in range(200))
    assert 0.0 <= firsts[0] < firsts[-1] < 0.1
    assert max(later - earlier for earlier, later in itertools.pairwise(firsts)) < 0.01
    assert statistics.fmean(firsts) == pytest.approx(0.05, abs=0.005)


def test_a_poisson_load_arrives_at_its_rate_and_as_irregularly_as_a_poisson_process() -> None:
    dues = schedule(POISSON, 400.0, at_once)
    seconds = [0] * 400
    for due in dues:
        seconds[int(due)] += 1
    assert statistics.fmean(seconds) == pytest.approx(50, rel=0.03)
    assert statistics.variance(seconds) == pytest.approx(50, rel=0.2)


@pytest.mark.parametrize("poisson", [False, True])
@pytest.mark.parametrize("course", [RateCourse(50), RateCourse(0, [Stage(80, ramp_s=4, hold_s=2), Stage(0, ramp_s=1)])])
def test_the_schedule_of_an_open_load_does_not_depend_on_when_answers_come(course: RateCourse, *, poisson: bool) -> None:
    pacing = Open(course, poisson=poisson)
    prompt, late, mixed = (
        schedule(pacing, 10.0, answer_s) for answer_s in (at_once, lambda _: 1e9, lambda number: (number * 7919) % 13 / 10)
    )
    assert prompt == late == mixed


def test_a_late_sender_does_not_slow_an_open_load_down() -> None:
    pacing: Pacing = Open(RateCourse(4))
    rng = Random(1)
    assert pacing.after_due(1.0, rng) == 1.25  # whatever the clock says now
    assert list(pacing.after_done(9.0, 0, rng)) == []


# A rate that changes: the arrivals of any stretch of time are the integral of the rate over it.

RATES = st.one_of(st.just(0.0), st.floats(0.1, 5000.0))
SPANS = st.one_of(st.just(0.0), st.floats(0.01, 100.0))
STAGES = st.lists(st.builds(Stage, RATES, SPANS, SPANS), max_size=5)

RAMPS_AND_HOLDS = (20.0, (Stage(100, ramp_s=4, hold_s=3), Stage(10, ramp_s=2, hold_s=5), Stage(60, hold_s=2), Stage(30)))
A_PAUSE = (40.0, (Stage(40, hold_s=2), Stage(0, hold_s=3), Stage(80, hold_s=2)))
A_RAMP_TO_A_PAUSE = (0.0, (Stage(50, ramp_s=2), Stage(0, ramp_s=2, hold_s=3), Stage(50, ramp_s=2, hold_s=1)))
COURSES = pytest.mark.parametrize(
    "rates", [(25.0, ()), RAMPS_AND_HOLDS, A_PAUSE, A_RAMP_TO_A_PAUSE], ids=["level", "ramps", "pause", "ramped pause"]
)


def corners(rate_per_s: float, stages: Sequence[Stage]) -> list[tuple[float, float]]:
    """Give the course as a line through (time, rate); a jump is two points at one time."""
    now, line = 0.0, [(0.0, rate_per_s)]
    for stage in stages:
        line.append((now := now + stage.ramp_s, stage.rate_per_s))
        line.append((now := now + stage.hold_s, stage.rate_per_s))
    return [*line, (1e6, line[-1][1])]


def integral(line: Sequence[tuple[float, float]], start: float, end: float) -> float:
    """Give the area under the line between two times, trapezium by trapezium."""
    area = 0.0
    for (left, first), (right, last) in itertools.pairwise(line):
        low, high = max(left, start), min(right, end)
        if low < high:
            slope = (last - first) / (right - left)
            area += (high - low) * (first + slope * ((low + high) / 2 - left))
    return area


@COURSES
def test_constant_arrivals_come_where_the_integral_of_the_rate_is_a_whole_number_more_than_a_random_part(
    rates: tuple[float, tuple[Stage, ...]],
) -> None:
    line = corners(*rates)
    dues = schedule(Open(RateCourse(*rates)), 20.0, at_once, seed=3)
    part = Random(3).random()
    assert [integral(line, 0, due) for due in dues] == pytest.approx([part + number for number in range(len(dues))])
    assert len(dues) == math.floor(integral(line, 0, 20.0) - part) + 1


@COURSES
@pytest.mark.parametrize("seed", range(5))
def test_constant_arrivals_in_any_interval_are_the_integral_of_the_rate_to_less_than_one(
    rates: tuple[float, tuple[Stage, ...]], seed: int
) -> None:
    line = corners(*rates)
    dues = schedule(Open(RateCourse(*rates)), 20.0, at_once, seed)
    rng = Random(seed)
    for _ in range(200):
        start, end = sorted(rng.uniform(0, 20) for _ in range(2))
        assert abs(sum(start < due <= end for due in dues) - integral(line, start, end)) <= 1 + 1e-9


@COURSES
def test_poisson_arrivals_of_each_stretch_of_a_course_are_as_many_as_its_integral_says(rates: tuple[float, tuple[Stage, ...]]) -> None:
    line = corners(*rates)
    runs = [schedule(Open(RateCourse(*rates), poisson=True), 20.0, at_once, seed) for seed in range(50)]
    for start, end in itertools.pairwise(sorted({min(at, 20.0) for at, _ in line})):
        counts = [sum(start < due <= end for due in dues) for dues in runs]
        expected = integral(line, start, end)
        assert abs(sum(counts) - 50 * expected) <= 4 * math.sqrt(50 * expected), f"from {start} to {end}"
        assert statistics.variance(counts) == pytest.approx(expected, rel=0.7)


@COURSES
def test_poisson_arrivals_are_exponentially_apart_when_measured_by_the_integral_of_the_rate(rates: tuple[float, tuple[Stage, ...]]) -> None:
    line = corners(*rates)
    apart = [
        later - earlier
        for seed in range(10)
        for earlier, later in itertools.pairwise(
            integral(line, 0, due) for due in schedule(Open(RateCourse(*rates), poisson=True), 20.0, at_once, seed)
        )
    ]
    assert len(apart) > 1000
    assert statistics.fmean(apart) == pytest.approx(1, rel=0.08)
    assert statistics.stdev(apart) == pytest.approx(1, rel=0.08)


@pytest.mark.parametrize("poisson", [False, True])
def test_nothing_arrives_while_the_rate_is_zero_and_arrivals_go_on_afterwards(*, poisson: bool) -> None:
    dues = schedule(Open(RateCourse(*A_PAUSE), poisson=poisson), 7.0, at_once)
    assert [due for due in dues if 2.0 < due < 5.0] == []
    assert sum(due <= 2.0 for due in dues) == pytest.approx(80, abs=30 if poisson else 1)
    assert sum(due >= 5.0 for due in dues) == pytest.approx(160, abs=40 if poisson else 1)


@pytest.mark.parametrize("poisson", [False, True])
@pytest.mark.parametrize("last", [Stage(0), Stage(0, ramp_s=2), Stage(0, ramp_s=2, hold_s=3)], ids=["jump", "ramp", "ramp and hold"])
def test_a_course_that_ends_at_rate_zero_has_a_last_arrival(last: Stage, *, poisson: bool) -> None:
    course = RateCourse(100, [Stage(100, hold_s=3), last])
    dues = schedule(Open(course, poisson=poisson), math.inf, at_once)
    assert max(dues) <= 3 + last.ramp_s
    assert len(dues) == pytest.approx(300 + 50 * last.ramp_s, abs=80 if poisson else 1)


def test_a_rate_that_is_never_more_than_zero_makes_nothing_due() -> None:
    assert Open(RateCourse(0)).first(Random(1)) == []
    assert Open(RateCourse(0), poisson=True).first(Random(1)) == []


def test_arrivals_that_begin_at_rate_zero_and_rise_are_not_all_late() -> None:
    dues = schedule(Open(RateCourse(0, [Stage(200, ramp_s=10)])), 10.0, at_once)
    assert len(dues) == pytest.approx(1000, abs=1)
    assert sum(due <= 5 for due in dues) == pytest.approx(250, abs=1)


@given(RATES, STAGES, st.lists(st.floats(0.0, 1.0), min_size=2, max_size=20))
def test_the_time_of_an_arrival_is_the_inverse_of_the_arrivals_until_a_time(rate: float, stages: list[Stage], shares: list[float]) -> None:
    course = RateCourse(rate, stages)
    all_of_it = course.arrived(600.0)
    for arrivals in (share * all_of_it for share in shares):
        when = course.when(arrivals)
        assert 0.0 <= when <= 600.0 * (1 + 1e-9)
        assert course.arrived(when) == pytest.approx(arrivals, rel=1e-9, abs=1e-6)


@given(RATES, STAGES, st.lists(st.floats(0.0, 600.0), min_size=2, max_size=20))
def test_the_expected_arrivals_are_the_integral_of_the_rate(rate: float, stages: list[Stage], times: list[float]) -> None:
    course = RateCourse(rate, stages)
    line = corners(rate, stages)
    for at in times:
        assert course.arrived(at) == pytest.approx(integral(line, 0, at), rel=1e-9, abs=1e-6)


@given(RATES, STAGES, st.lists(st.floats(0.0, 600.0), min_size=2, max_size=20))
def test_arrivals_never_become_fewer_and_their_times_never_go_back(rate: float, stages: list[Stage], times: list[float]) -> None:
    course = RateCourse(rate, stages)
    arrived = [course.arrived(at) for at in sorted(times)]
    assert all(later >= earlier - 1e-9 * (1 + earlier) for earlier, later in itertools.pairwise(arrived))
    when = [course.when(arrivals) for arrivals in sorted(arrived)]
    assert all(later >= earlier - 1e-9 * (1 + earlier) for earlier, later in itertools.pairwise(when))


@given(RATES, STAGES, st.integers(0, 1 << 30), st.booleans())
def test_due_times_of_an_open_load_never_go_back(rate: float, stages: list[Stage], seed: int, poisson: bool) -> None:
    pacing, rng = Open(RateCourse(rate, stages), poisson=poisson), Random(seed)
    due = next(iter(pacing.first(rng)), None)
    for _ in range(200):
        if due is None:
            return
        following = pacing.after_due(due, rng)
        assert following is None or following >= due
        due = following


@pytest.mark.parametrize(
    ("rate", "stages", "highest"),
    [
        (100, (), 100),
        (100, (Stage(2000, ramp_s=1), Stage(10, ramp_s=1)), 2000),
        (100, (Stage(2000, hold_s=1), Stage(10)), 2000),
        (100, (Stage(10),), 10),
        (0, (Stage(0, hold_s=1), Stage(300, ramp_s=1)), 300),
    ],
)
def test_a_course_knows_its_highest_rate_and_an_open_load_the_connections_for_answers_of_10_ms_at_that_rate(
    rate: float, stages: tuple[Stage, ...], highest: float
) -> None:
    course = RateCourse(rate, stages)
    assert course.highest_per_s == highest
    assert Open(course).at_once == Open(course, poisson=True).at_once == math.ceil(highest * 0.01)


def test_the_highest_rate_may_be_the_end_of_a_ramp() -> None:
    assert RateCourse(100, [Stage(2000, ramp_s=1), Stage(10)]).highest_per_s == 2000


# Burst: so many at the same moment, and again when all have ended.


def test_a_burst_is_due_at_one_moment() -> None:
    pacing: Pacing = Burst(5, 0.5)
    assert pacing.first(Random(1)) == [0.0] * 5
    assert pacing.at_once == 5
    assert pacing.after_due(0.0, Random(1)) is None


@pytest.mark.parametrize("pause_s", [0.0, 0.5])
@pytest.mark.parametrize("order", list(itertools.permutations([0.1, 0.2, 0.3])))
def test_the_next_burst_is_due_a_pause_after_the_last_answer_in_whatever_order_they_come(order: tuple[float, ...], pause_s: float) -> None:
    dues = schedule(Burst(3, pause_s), 3 * (0.3 + pause_s) - 0.01, lambda number: order[number % 3])
    assert dues == pytest.approx([start for start in (0.0, 0.3 + pause_s, 2 * (0.3 + pause_s)) for _ in range(3)])


def test_an_answer_that_is_not_the_last_makes_nothing_due() -> None:
    pacing: Pacing = Burst(3, 0.5)
    rng = Random(1)
    assert [list(pacing.after_done(1.0, left, rng)) for left in (2, 1, 0)] == [[], [], [1.5, 1.5, 1.5]]


def test_one_answer_that_hangs_holds_the_next_burst_back() -> None:
    assert len(schedule(Burst(10, 0.1), 100.0, lambda number: math.inf if number == 3 else 0.01)) == 10


def test_a_rate_is_steady_where_no_stage_changes_it() -> None:
    course = RateCourse(10, [Stage(10, hold_s=5), Stage(20, ramp_s=2, hold_s=3)])
    assert course.steady_rate_per_s(0, 4.9) == 10
    assert course.steady_rate_per_s(4.9, 5.1) is None
    assert course.steady_rate_per_s(5.5, 6.5) is None
    assert course.steady_rate_per_s(7, 1000) == 20
    assert RateCourse(3).steady_rate_per_s(0, 9) == 3


def test_a_course_knows_for_how_long_each_rate_stays_within_a_time() -> None:
    course = RateCourse(10, [Stage(10, hold_s=5), Stage(20, ramp_s=2, hold_s=3), Stage(10)])
    assert course.held_s(0, 4) == {10.0: 4.0}
    assert course.held_s(4, 14) == {10.0: 5.0, 20.0: 3.0}
    assert course.held_s(5, 7) == {}
    assert RateCourse(3).held_s(2, 9) == {3.0: 7.0}


def test_courses_with_the_same_stretches_are_equal() -> None:
    stages = [Stage(80, ramp_s=4, hold_s=2), Stage(0, ramp_s=1)]
    assert RateCourse(50, stages) == RateCourse(50, list(stages))
    assert len({RateCourse(50, stages), RateCourse(50, list(stages))}) == 1
    assert RateCourse(50, stages) != RateCourse(50, stages[:1])
    assert RateCourse(50) != 50
