"""What is predicted of which limit under which load, and is nothing predicted that is not sure?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadgen.pacing import Burst, Closed, Interval, Open, RateCourse
from loadgen.policy.limits import Limits
from loadgen.prediction import Case, Estimate, Law, Prediction, Stretch, predict
from loadgen.queueing import Span, erlang_b, finite_loss

EXPONENTIAL, CONSTANT = Interval(0.1, exponential=True), Interval(0.1)
POISSON, STEADY = Open(RateCourse(50), poisson=True), Open(RateCourse(50))
THINKING = Closed(8, Interval(0.2, exponential=True))
FIVE = Limits(max_requests=5)


def case(load: Closed | Open | Burst, limits: Limits = FIVE, service: Interval = EXPONENTIAL, **more: object) -> Case:
    return replace(Case(limits, load, service, clients=10, rate_per_s=50.0, max_in_flight=1000), **more)  # type: ignore[arg-type]


def predicted(load: Closed | Open | Burst, limits: Limits = FIVE, service: Interval = EXPONENTIAL, **more: object) -> Prediction:
    made = case(load, limits, service, **more)
    found = predict(made, Stretch.planned(made, 10))
    assert found is not None
    return found


def bounds(estimate: Estimate) -> tuple[float, float]:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low, estimate.high


LAWS = [
    (POISSON, FIVE, EXPONENTIAL, Law.ERLANG),
    (POISSON, FIVE, CONSTANT, Law.ERLANG),
    (STEADY, FIVE, EXPONENTIAL, Law.TAKACS),
    (STEADY, FIVE, CONSTANT, Law.BOUND),
    (THINKING, FIVE, CONSTANT, Law.ENGSET),
    (Closed(8, Interval(0.2)), FIVE, EXPONENTIAL, Law.ENGSET),
    (Closed(8, Interval(0.2)), FIVE, CONSTANT, Law.BOUND),
    (Closed(8), FIVE, EXPONENTIAL, Law.SATURATED),
    (Closed(5), FIVE, EXPONENTIAL, Law.UNREACHED),
    (Burst(5, 1.0), FIVE, EXPONENTIAL, Law.UNREACHED),
    (Burst(20, 1.0), FIVE, CONSTANT, Law.BURST),
    (POISSON, Limits(max_connections=5), EXPONENTIAL, Law.QUEUE),
    (POISSON, Limits(max_connections=5, max_requests=5), EXPONENTIAL, Law.QUEUE),
    (POISSON, Limits(max_connections=6, max_requests=5), EXPONENTIAL, Law.ERLANG),
    (POISSON, Limits(max_pending_requests=1), EXPONENTIAL, Law.UNDETERMINED),
]


@pytest.mark.parametrize(("load", "limits", "service", "law"), LAWS)
def test_each_load_and_limit_has_its_law(load: Closed | Open | Burst, limits: Limits, service: Interval, law: Law) -> None:
    assert predicted(load, limits, service).law is law


def test_nothing_is_predicted_where_nothing_is_limited() -> None:
    for limits in (Limits(), Limits(max_retries=3, max_requests_per_connection=1)):
        made = case(POISSON, limits)
        assert predict(made, Stretch.planned(made, 10)) is None


def test_poisson_arrivals_lose_erlangs_share_whatever_the_service_time_s_distribution() -> None:
    for service in (EXPONENTIAL, CONSTANT):
        found = predicted(POISSON, service=service)
        assert found.lost.value == pytest.approx(erlang_b(5, 5.0))
        low, high = bounds(found.lost)
        assert low < erlang_b(5, 5.0) < high
        assert found.admitted == Estimate(5, None, 5)
        assert found.through_per_s.value == pytest.approx(50 * (1 - erlang_b(5, 5.0)))


def test_more_clients_and_a_longer_phase_leave_less_to_chance() -> None:
    one, ten = (bounds(predicted(POISSON, clients=count).lost) for count in (1, 10))
    assert ten[1] - ten[0] < (one[1] - one[0]) / 2


def test_what_is_not_known_of_the_service_time_widens_the_interval_to_both_sides() -> None:
    made = case(POISSON)
    found = predict(made, Stretch(1e9, Span(0.08, 0.12)))
    assert found is not None
    assert bounds(found.lost) == pytest.approx((erlang_b(5, 4.0), erlang_b(5, 6.0)), abs=1e-3)


def test_workers_that_race_may_admit_some_more() -> None:
    found = predicted(POISSON, workers=4)
    assert found.admitted == Estimate(5, None, 8)
    assert bounds(found.lost)[0] < erlang_b(8, 5.0) < erlang_b(5, 5.0) < bounds(found.lost)[1]


def test_users_who_think_lose_engsets_share() -> None:
    found = predicted(THINKING)
    assert found.lost.value == pytest.approx(finite_loss(5, 8, 0.2, 0.1).share)


@pytest.mark.parametrize(
    ("users", "limit", "think", "measured"), [(5, 1, 0.15, 0.754), (10, 3, 0.1, 0.70), (2, 1, 0.1, 0.5), (8, 5, 0.03, 0.6465)]
)
def test_the_bound_for_constant_times_holds_what_a_simulation_shows(users: int, limit: int, think: float, measured: float) -> None:
    found = predicted(Closed(users, Interval(think)), Limits(max_requests=limit), CONSTANT)
    low, high = bounds(found.lost)
    assert low <= measured <= high
    assert high < 1


def test_constant_arrivals_at_a_constant_service_lie_between_bounds() -> None:
    found = predicted(STEADY, service=CONSTANT, rate_per_s=95.0)  # 9.5 Erlang: of ten arrivals five find a place
    low, high = bounds(found.lost)
    assert low == pytest.approx(1 - 5 / 9.5)
    assert low <= 0.5 <= high == pytest.approx(1 - 5 / 10.5)


def test_without_think_time_only_what_gets_through_is_bounded() -> None:
    found = predicted(Closed(50))
    assert found.lost == Estimate(None)
    assert found.through_per_s == Estimate(50.0, None, 50.0)


def test_of_a_burst_as_many_are_admitted_as_the_limit_says_and_some_more_by_racing_workers() -> None:
    found = predicted(Burst(20, 1.0), service=CONSTANT, workers=2)
    assert found.admitted == Estimate(5, 5, 6)
    assert bounds(found.lost) == pytest.approx((0.7, 0.75))
    assert predicted(Burst(20, 1.0), service=Interval(0.001)).lost == Estimate(None, None, 0.75), "some end before the last has come"


def test_a_burst_that_the_phase_cuts_in_two_moves_the_share_a_little() -> None:
    made = case(Burst(20, 1.0), service=CONSTANT, clients=1)
    found = predict(made, Stretch(10, Span(0.1, 0.1), attempts=215))  # ten bursts, and the rejections of an eleventh
    assert found is not None
    assert found.lost.holds((10 * 15 + 15) / 215)
    assert not found.lost.holds(0.7)


def test_what_waits_for_a_connection_is_not_lost() -> None:
    found = predicted(POISSON, Limits(max_connections=4))
    assert found.lost == Estimate(0.0, 0.0, 0.0)
    assert "the queue grows" in found.because
    assert "the queue grows" not in predicted(POISSON, Limits(max_connections=6)).because
    assert predicted(POISSON, Limits(max_connections=4, max_pending_requests=3)).lost.holds(0.9) is None, "is not judged"
    assert predicted(THINKING, Limits(max_connections=4, max_pending_requests=3)).lost == Estimate(None)


def test_a_pending_limit_makes_of_the_loss_a_bound_until_its_rejections_are_counted() -> None:
    both = Limits(max_requests=5, max_pending_requests=1)
    found = predicted(POISSON, both)
    assert found.lost.high is None
    assert found.lost.low is not None
    assert found.lost.low < erlang_b(5, 5.0)
    made = case(POISSON, both)
    counted = predict(made, replace(Stretch.planned(made, 1e6), pending_share=0.1))
    assert counted is not None
    assert bounds(counted.lost)[1] == pytest.approx(0.1 + 0.9 * erlang_b(5, 5.0), abs=1e-3)


def test_a_pending_limit_that_the_load_cannot_reach_changes_nothing() -> None:
    assert predicted(THINKING, Limits(max_requests=5, max_pending_requests=8)) == predicted(THINKING)


def test_over_http2_connections_and_queue_are_no_limits() -> None:
    limits = Limits(max_connections=1, max_pending_requests=1, max_requests=5)
    assert predicted(POISSON, limits, http2=True).lost.value == pytest.approx(erlang_b(5, 5.0))
    made = case(POISSON, Limits(max_connections=1), http2=True)
    assert predict(made, Stretch.planned(made, 10)) is None
