"""Are requests due when the load model says, in virtual time and whatever the answers do?"""

from __future__ import annotations

import heapq
import statistics
from random import Random
from typing import TYPE_CHECKING

import pytest

from loadgen.pacing import Closed, Interval, Open

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.pacing import Pacing

EXPONENTIAL = Interval(0.02, exponential=True)


def schedule(pacing: Pacing, until: float, answer_s: Callable[[int], float], seed: int = 7) -> list[float]:
    """Give the due times in virtual time; the n-th request is answered ``answer_s(n)`` seconds after it was due."""
    rng = Random(seed)
    dues: list[float] = []
    events = [(due, 0) for due in pacing.first(0.0, rng)]
    heapq.heapify(events)
    while events and events[0][0] <= until:
        now, is_answer = heapq.heappop(events)
        if is_answer:
            following = pacing.after_done(now, rng)
        else:
            heapq.heappush(events, (now + answer_s(len(dues)), 1))
            dues.append(now)
            following = pacing.after_due(now, rng)
        if following is not None:
            heapq.heappush(events, (following, 0))
    return dues


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
    for pacing in (Closed(3, EXPONENTIAL), Open(EXPONENTIAL)):
        first, second, other = (schedule(pacing, 2.0, lambda _: 0.01, seed) for seed in (1, 1, 2))
        assert first == second != other


# Closed: every user waits for its answer, thinks, and sends again.


def test_a_closed_load_starts_with_one_request_a_user_spread_over_one_think_time() -> None:
    dues = Closed(1000, Interval(2.0)).first(5.0, Random(1))
    assert len(dues) == 1000
    assert 5.0 <= min(dues) < max(dues) < 7.0
    assert statistics.fmean(dues) == pytest.approx(6.0, abs=0.1)


def test_a_closed_load_without_think_time_starts_all_at_once() -> None:
    assert Closed(3).first(5.0, Random(1)) == [5.0, 5.0, 5.0]


def test_a_user_of_a_closed_load_waits_for_the_answer_and_then_thinks() -> None:
    pacing: Pacing = Closed(1, Interval(0.5))
    rng = Random(1)
    assert pacing.after_due(1.0, rng) is None
    assert pacing.after_done(3.0, rng) == 3.5


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


# Open: arrivals at a rate, whatever the answers do.


def test_a_constant_open_load_arrives_like_clockwork() -> None:
    assert schedule(Open(Interval(0.25)), 1.1, lambda _: 9.0) == [0.25, 0.5, 0.75, 1.0]


def test_a_poisson_load_arrives_at_its_rate_and_as_irregularly_as_a_poisson_process() -> None:
    dues = schedule(Open(EXPONENTIAL), 400.0, lambda _: 0.0)
    seconds = [0] * 400
    for due in dues:
        seconds[int(due)] += 1
    assert statistics.fmean(seconds) == pytest.approx(50, rel=0.03)
    assert statistics.variance(seconds) == pytest.approx(50, rel=0.2)


@pytest.mark.parametrize("between", [Interval(0.02), EXPONENTIAL])
def test_the_schedule_of_an_open_load_does_not_depend_on_when_answers_come(between: Interval) -> None:
    at_once, late, mixed = (
        schedule(Open(between), 10.0, answer_s) for answer_s in (lambda _: 0.0, lambda _: 1e9, lambda number: (number * 7919) % 13 / 10)
    )
    assert at_once == late == mixed


def test_a_late_sender_does_not_slow_an_open_load_down() -> None:
    pacing: Pacing = Open(Interval(0.25))
    rng = Random(1)
    assert pacing.after_due(1.0, rng) == 1.25  # whatever the clock says now
    assert pacing.after_done(9.0, rng) is None
