"""What is predicted of which limit under which load, and is nothing predicted that is not sure?"""

from __future__ import annotations

import heapq
import random
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from loadgen.estimate import NOTHING, Case, Estimate, Law, Prediction, Stretch
from loadgen.pacing import Burst, Closed, Coming, Interval, Open, RateCourse, Stage
from loadgen.policy.limits import Limits
from loadgen.prediction import predict
from loadgen.queueing import Span, busy_rate_per_s, constant_arrivals, erlang_b, finite_loss

if TYPE_CHECKING:
    from collections.abc import Callable

EXPONENTIAL, CONSTANT = Interval(0.1, exponential=True), Interval(0.1)
POISSON, STEADY = Open(RateCourse(50), poisson=True), Open(RateCourse(50))
THINKING = Closed(8, Interval(0.2, exponential=True))
FIVE = Limits(max_requests=5)


def case(load: Closed | Open | Burst, limits: Limits = FIVE, service: Interval | None = EXPONENTIAL, **more: object) -> Case:
    return replace(Case(limits, load, service, clients=10, rate_per_s=50.0, max_in_flight=1000), **more)  # type: ignore[arg-type]


def exactly(service: Interval, seconds: float) -> Stretch:
    """Say that a request counts for as long as the service takes."""
    return Stretch(seconds, Span(service.mean_s, service.mean_s))


def predicted(load: Closed | Open | Burst, limits: Limits = FIVE, service: Interval = EXPONENTIAL, **more: object) -> Prediction:
    found = predict(case(load, limits, service, **more), exactly(service, 10))
    assert found is not None
    return found


def unknown(load: Closed | Open | Burst, limits: Limits = FIVE, **more: object) -> Prediction:
    """Predict for a service that is somebody's own, and takes 100 ms on average."""
    found = predict(case(load, limits, service=None, **more), Stretch(10, Span(0.1, 0.1)))
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
    (POISSON, Limits(max_requests_per_connection=1), EXPONENTIAL, Law.ADMITTING),
    (POISSON, Limits(max_retries=3), EXPONENTIAL, Law.ADMITTING),
]


@pytest.mark.parametrize(("load", "limits", "service", "law"), LAWS)
def test_each_load_and_limit_has_its_law(load: Closed | Open | Burst, limits: Limits, service: Interval, law: Law) -> None:
    assert predicted(load, limits, service).law is law


def test_nothing_is_predicted_where_nothing_is_limited() -> None:
    assert predict(case(POISSON, Limits()), Stretch.planned(EXPONENTIAL, 10)) is None


@pytest.mark.parametrize(("service", "share"), [(EXPONENTIAL, "13.5%"), (Interval(0.2), "100.0%")])
def test_nothing_is_predicted_where_answers_come_after_the_timeout(service: Interval, share: str) -> None:
    found = predicted(POISSON, service=service, timeout_s=0.2)
    assert (found.law, found.lost, found.through_per_s) == (Law.UNDETERMINED, NOTHING, NOTHING)
    assert found.because == f"nothing is predicted: {share} of the answers take longer than the timeout of 200ms"


@pytest.mark.parametrize("service", [EXPONENTIAL, CONSTANT])
def test_a_timeout_that_next_to_no_answer_exceeds_changes_nothing(service: Interval) -> None:
    assert predicted(POISSON, service=service, timeout_s=0.5) == predicted(POISSON, service=service)
    assert predict(case(POISSON, Limits(), service, timeout_s=0.1), exactly(service, 10)) is None


def test_of_a_service_that_is_never_ok_no_goodput_is_predicted() -> None:
    found = predicted(POISSON, unexpected_status=503)
    assert (found.lost, found.through_per_s) == (predicted(POISSON).lost, NOTHING)
    assert found.because.endswith("the service answers 503, which is not what is expected, so nothing is ok and no goodput is predicted")


def test_of_a_service_that_is_ejected_nothing_is_predicted() -> None:
    found = predicted(POISSON, ejected=True)
    assert (found.law, found.lost, found.through_per_s) == (Law.UNDETERMINED, NOTHING, NOTHING)
    assert "the service is ejected for what it answers" in found.because


@pytest.mark.parametrize("load", [POISSON, THINKING, Closed(8), Burst(20, 1.0)])
def test_limits_of_retries_and_of_requests_on_a_connection_reject_nothing(load: Closed | Open | Burst) -> None:
    found = predicted(load, Limits(max_retries=3, max_requests_per_connection=1))
    assert (found.law, found.lost, found.admitted) == (Law.ADMITTING, Estimate(0.0, 0.0, 0.0), NOTHING)
    assert "maxRequestsPerConnection 1 bounds" in found.because
    assert "maxRetries 3 bounds" in found.because


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


def test_the_figure_is_that_of_the_law_which_is_named_where_no_worker_races() -> None:
    found = predicted(POISSON, Limits(max_requests=1), workers=4)
    assert found.lost.value == pytest.approx(erlang_b(1, 5.0))
    assert "B(1, 5)" in found.because


@pytest.mark.parametrize(("service_s", "measured"), [(0.0, 0.06), (0.001, 0.12)])
def test_a_plan_allows_for_the_time_on_the_way_beside_a_fast_service(service_s: float, measured: float) -> None:
    service = Interval(service_s)
    found = predict(case(POISSON, Limits(max_requests=1), service, clients=3), Stretch.planned(service, 2))
    assert found is not None
    low, high = bounds(found.lost)
    assert low < erlang_b(1, 50 * (service_s + 0.001)) < measured < high


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
    assert found.through_per_s == Estimate(50.0, None, busy_rate_per_s(5, 0.1, 1.0, 100) + 0.5), (
        "each place ends a request that had begun before"
    )
    constant = predicted(Closed(50), service=CONSTANT)
    assert constant.through_per_s == Estimate(50.0, None, 50.5), "nothing is left to chance"


@pytest.mark.parametrize("limits", [Limits(max_connections=5), Limits(max_connections=5, max_pending_requests=3)])
def test_what_gets_through_so_many_connections_is_bounded_with_what_chance_may_add(limits: Limits) -> None:
    for load in (Open(RateCourse(90), poisson=True), Closed(50, Interval(0.2))):
        found = predicted(load, limits, rate_per_s=90.0, workers=2).through_per_s
        assert found.high == pytest.approx(busy_rate_per_s(6, 0.1, 1.0, 100) + 0.6)
    assert predicted(Open(RateCourse(90)), Limits(max_connections=5), rate_per_s=90.0).through_per_s.value == 50


@pytest.mark.parametrize(
    ("load", "offered", "chance"),
    [(THINKING, 8 / 0.3, 1.9), (Closed(8, Interval(0.2)), 8 / 0.3, 1.7)],
)
def test_no_more_gets_through_a_queue_than_its_users_offer(load: Closed, offered: float, chance: float) -> None:
    found = predicted(load, Limits(max_connections=5), rate_per_s=20.0).through_per_s
    assert found.value == pytest.approx(offered)
    assert found.high is not None
    assert offered < found.high < offered + chance


def test_no_more_are_admitted_by_racing_workers_than_there_are_users() -> None:
    assert predicted(Closed(6, Interval(0.2)), FIVE, workers=4).admitted == Estimate(5, None, 6)
    assert predicted(Closed(60, Interval(0.2)), FIVE, workers=4).admitted == Estimate(5, None, 8)


@pytest.mark.parametrize(("load", "chance"), [(POISSON, 1.8), (STEADY, 0.61)])
def test_before_a_queue_with_an_end_no_more_gets_through_than_is_offered_and_before_one_without_what_had_waited_may(
    load: Open, chance: float
) -> None:
    ending = predicted(load, Limits(max_connections=5, max_pending_requests=1), CONSTANT, rate_per_s=20.0).through_per_s
    endless = predicted(load, Limits(max_connections=5), CONSTANT, rate_per_s=20.0).through_per_s
    assert ending.value == endless.value == 20.0
    assert ending.high is not None
    assert 20.0 < ending.high < 20.0 + chance
    assert endless.high == 50.5, "five places that are never idle, and the five requests that had begun"


def test_users_who_are_never_rejected_get_through_at_the_middle_of_what_the_service_takes() -> None:
    found = predict(case(Closed(5, Interval(0.1)), service=CONSTANT), Stretch(10, Span(0.1, 0.102)))
    assert found is not None
    assert found.through_per_s.value == pytest.approx(5 / 0.201)
    assert bounds(found.through_per_s) == pytest.approx((5 / 0.202 - 0.5, 25.5))
    timeless = predict(case(Closed(50), service=Interval()), Stretch(10, Span(0.0, 0.002)))
    assert timeless is not None
    assert timeless.through_per_s == NOTHING
    assert timeless.because.endswith("a service that may take no time bounds nothing, either")


def test_constant_arrivals_that_find_every_place_free_again_lose_nothing() -> None:
    found = predicted(STEADY, Limits(max_requests=1), Interval(0.09), rate_per_s=10.0)
    assert (found.lost, found.through_per_s) == (Estimate(None, 0.0, 0.0), Estimate(10, 9.9, 10.1))
    assert "nothing is lost" in found.because
    assert predicted(STEADY, Limits(max_requests=1), Interval(0.099), rate_per_s=10.0).lost.high != 0, "the way may take the rest"


def test_of_a_burst_as_many_are_admitted_as_the_limit_says_and_some_more_by_racing_workers() -> None:
    found = predict(case(Burst(20, 1.0), FIVE, CONSTANT, workers=2), exactly(CONSTANT, 1e6))
    assert found is not None
    assert found.admitted == Estimate(5, 5, 6)
    assert bounds(found.lost) == pytest.approx((0.7, 0.75), abs=1e-4)


@pytest.mark.parametrize("service", [Interval(0.0), Interval(0.001), EXPONENTIAL])
def test_a_service_that_may_end_some_of_a_burst_lets_more_through_but_admits_no_more_at_a_time(service: Interval) -> None:
    found = predict(case(Burst(20, 1.0), FIVE, service, workers=2), exactly(service, 1e6))
    assert found is not None
    assert (found.lost.value, found.lost.low) == (None, None), "some end before the last has come"
    assert found.lost.high == pytest.approx(0.75, abs=1e-4)
    assert found.admitted == Estimate(None, None, 6), "nothing makes so many be in service at a time"


def test_a_burst_that_the_phase_cuts_in_two_moves_the_share_a_little() -> None:
    made = case(Burst(20, 1.0), service=CONSTANT, clients=1)
    found = predict(made, Stretch(10, Span(0.1, 0.1), attempts=215))  # ten bursts, and the rejections of an eleventh
    assert found is not None
    low, high = bounds(found.lost)
    assert 0.7 < low <= (10 * 15 + 15) / 215 <= high


def test_a_plan_knows_too_that_the_phase_cuts_a_burst_in_two() -> None:
    found = predicted(Burst(20, 1.0), service=CONSTANT, clients=1)  # in ten seconds nine bursts of 1.1 s, or eight and parts of two
    assert found.because.endswith("a burst that the end of the phase cuts adds its rejections and not its answers")
    low, high = bounds(found.lost)
    assert low == pytest.approx(8 * 15 / (8 * 20 + 5))
    assert high == pytest.approx(9 * 15 / (8 * 20 + 15))


def test_a_queue_of_several_workers_is_not_that_of_one() -> None:
    limits = Limits(max_connections=2, max_pending_requests=1)
    assert "M/M/2/3" in predicted(POISSON, limits).because
    several = predicted(POISSON, limits, workers=4)
    assert several.lost == NOTHING
    assert "is not predicted" in several.because


def test_what_waits_for_a_connection_is_not_lost() -> None:
    found = predicted(POISSON, Limits(max_connections=4))
    assert found.lost == Estimate(0.0, 0.0, 0.0)
    assert "the queue grows" in found.because
    assert "the queue grows" not in predicted(POISSON, Limits(max_connections=6)).because
    judged = predicted(POISSON, Limits(max_connections=4, max_pending_requests=3)).lost
    assert (judged.low, judged.high) == (None, None), "while connections are set up more is rejected"
    assert predicted(THINKING, Limits(max_connections=4, max_pending_requests=3)).lost == Estimate(None)


LATE = "; what comes after about 3.9 s waits longer than the timeout of 2s"


@pytest.mark.parametrize(
    ("more", "seconds", "said"),
    [
        ({"timeout_s": 2.0}, 10, LATE),
        ({"timeout_s": 2.0}, 3, ""),
        ({}, 1000, "; after about 49.8 s there are 1000 in flight, and what would be more is not sent"),
        (
            {"timeout_s": 30.0},
            1000,
            "; what comes after about 59.8 s waits longer than the timeout of 30s",
        ),  # of 60/s and 30 s there are 1800
        (
            {"timeout_s": 2.0, "max_in_flight": 84},
            10,
            f"{LATE}; after about 4.1 s there are 84 in flight, and what would be more is not sent",
        ),
        ({"timeout_s": 2.0, "max_in_flight": 64}, 10, "; after about 3.1 s there are 64 in flight, and what would be more is not sent"),
    ],
)
def test_how_a_growing_queue_ends_is_said(more: dict[str, Any], seconds: float, said: str) -> None:
    made = case(POISSON, Limits(max_connections=4), rate_per_s=60.0, **{"max_in_flight": 1000 if "timeout_s" not in more else 2000, **more})
    found = predict(made, exactly(EXPONENTIAL, seconds))  # 40 a second are served
    assert found is not None
    assert found.because.endswith(f"the queue grows for as long as 60.0/s come and 40.0/s can be served{said}")
    assert (found.through_per_s.value is None) is ("waits longer" in said), "what gives up has taken a place in vain"


def test_a_queue_that_was_there_before_the_stretch_goes_on_to_grow() -> None:
    course = RateCourse(100, [Stage(100, hold_s=1.9), Stage(60, hold_s=5)])
    made = case(Open(course), Limits(max_connections=1), Interval(0.02), rate_per_s=60.0, timeout_s=2.0)
    for since_s, said in ((0.0, "what comes after about 0.5 s waits"), (1.9, "")):
        found = predict(made, replace(exactly(Interval(0.02), 5), coming=Coming(course, since_s, 1.9, 6.9)))
        assert found is not None
        assert "60.0/s come and 50.0/s can be served" in found.because
        assert said in found.because
        assert ("waits longer" in found.because) is bool(said)


@pytest.mark.parametrize(
    ("load", "places", "said"),
    [
        (Closed(100), None, "10.0 s"),  # 99 before it, 0.1 s each, and itself
        (Closed(100, Interval(2.0)), None, "8.0 s"),  # some 20 think meanwhile
        (Closed(20), None, ""),
        (Closed(100), 19, ""),
        (Closed(100), 20, "2.1 s"),
        (Burst(100, 1.0), None, "10.0 s"),
        (Burst(20, 1.0), None, ""),
        (Burst(15, 1.0), None, ""),
        (Burst(21, 1.0), None, "2.1 s"),
    ],
)
def test_who_is_answered_after_the_timeout_is_known_before(load: Closed | Open | Burst, places: int | None, said: str) -> None:
    limits = Limits(max_connections=1) if places is None else Limits(max_connections=1, max_pending_requests=places)
    found = predicted(load, limits, CONSTANT, timeout_s=2.0, rate_per_s=0.0)
    last = re.findall(r"; what comes last would be answered after about (.*?), and the timeout is 2s", found.because)
    assert last == ([said] if said else [])
    assert (found.through_per_s.value is None) is bool(said)
    assert found.through_per_s.high is not None
    assert "timeout" not in predicted(load, limits, CONSTANT, timeout_s=60.0, rate_per_s=9.0).because


@pytest.mark.parametrize(
    ("rate", "places", "seconds", "late"),
    [(50.0, 30, 10, True), (50.0, 15, 10, False), (11.0, 900, 10, False), (11.0, 900, 60, True), (9.0, 900, 60, False)],
)
def test_a_queue_with_an_end_is_late_once_it_is_so_long(rate: float, places: int, seconds: float, late: bool) -> None:
    made = case(Open(RateCourse(rate)), Limits(max_connections=1, max_pending_requests=places), CONSTANT, rate_per_s=rate, timeout_s=2.0)
    found = predict(made, exactly(CONSTANT, seconds))
    assert found is not None
    assert ("waits longer than the timeout of 2s" in found.because) is late
    assert "not sent" not in found.because


def test_bursts_are_served_in_rounds() -> None:
    for size, late in ((20, False), (25, True)):
        found = predicted(Burst(size, 1.0), Limits(max_connections=10), CONSTANT, timeout_s=0.25)
        assert ("answered after about 0.3 s" in found.because) is late
    assert "answered" not in predicted(Burst(5, 1.0), Limits(max_connections=10), CONSTANT, timeout_s=0.25).because


def test_users_who_think_fill_a_queue_with_an_end_for_all_that() -> None:
    limits = Limits(max_connections=10, max_pending_requests=500)
    assert "answered after about 5.1 s" in predicted(Closed(2000, Interval(5.0)), limits, CONSTANT, timeout_s=2.0).because
    assert "answered" not in predicted(Closed(500, Interval(5.0)), limits, CONSTANT, timeout_s=2.0).because


def test_connections_for_all_that_may_be_in_flight_let_nothing_wait() -> None:
    found = predicted(Open(RateCourse(200)), Limits(max_connections=100), CONSTANT, rate_per_s=200.0, max_in_flight=10)
    assert "the queue grows" not in found.because


def test_a_rate_that_never_made_anything_wait_lets_through_what_comes() -> None:
    course = RateCourse(10, [Stage(20, ramp_s=5)])
    made = case(Open(course), Limits(max_connections=100), CONSTANT, rate_per_s=20.0)
    found = predict(made, replace(exactly(CONSTANT, 10), coming=Coming(course, 0, 10, 20)))
    assert found is not None
    assert found.through_per_s.value == 20


def test_a_queue_that_max_in_flight_keeps_shorter_than_its_limit_is_not_that_of_the_books() -> None:
    limits = Limits(max_connections=2, max_pending_requests=3)
    assert "M/M/2/5" in predicted(POISSON, limits, max_in_flight=6).because
    found = predicted(POISSON, limits, max_in_flight=5)
    assert found.lost == NOTHING
    assert "a client has at most 5 in flight, so it rejects only while connections are set up" in found.because


def test_workers_that_race_leave_no_value_where_there_is_one_bound() -> None:
    connections = Limits(max_connections=2)
    one, two = predicted(POISSON, connections), predicted(POISSON, connections, workers=2)
    assert one.through_per_s.value == pytest.approx(20)
    assert (two.through_per_s.value, two.through_per_s.low) == (None, None)
    assert two.through_per_s.high is not None
    assert two.through_per_s.high > 29
    assert predicted(Closed(50), workers=2).through_per_s.value is None
    assert predicted(POISSON, workers=2).lost.value is not None, "between two bounds it is the one of no race"


def test_what_waited_before_may_get_through_beside_what_comes() -> None:
    made = case(Open(RateCourse(5)), Limits(max_connections=2), CONSTANT, rate_per_s=5.0)
    course = RateCourse(60, [Stage(60, hold_s=10), Stage(5)])
    for coming, value in (
        (None, 5.0),
        (Coming(RateCourse(5), 0, 0, 10), 5.0),
        (Coming(RateCourse(5), 0, 5, 15), 5.0),
        (Coming(course, 5, 5, 15), 20.0),
        (Coming(course, 10, 10, 15), 5.0),
    ):
        found = predict(made, replace(exactly(CONSTANT, 10), coming=coming))
        assert found is not None
        assert found.through_per_s.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("rate", "places", "service", "some"),
    [
        (9.9, 200, EXPONENTIAL, True),  # of a simulation 5.7 % are late
        (9.0, 30, EXPONENTIAL, True),  # 2.2 %
        (5.0, 30, EXPONENTIAL, False),
        (9.9, 15, EXPONENTIAL, False),  # so many are no wait of 2 s, but for chance
        (9.9, None, EXPONENTIAL, True),
        (5.0, None, EXPONENTIAL, False),
        (9.9, 200, CONSTANT, True),
        (8.0, 200, CONSTANT, False),
    ],
)
def test_of_a_queue_of_which_some_may_give_up_no_loss_is_given(rate: float, places: int | None, service: Interval, some: bool) -> None:
    limits = Limits(max_connections=1) if places is None else Limits(max_connections=1, max_pending_requests=places)
    found = predicted(Open(RateCourse(rate), poisson=True), limits, service, timeout_s=2.0, rate_per_s=rate)
    assert ("; by chance some may wait longer than the timeout of 2s" in found.because) is some
    assert ("M/M/1" in found.because) is (places is not None and service.exponential and not some)
    assert places is None or (found.lost == NOTHING) is (some or not service.exponential)


def test_a_pending_limit_makes_of_the_loss_a_bound_until_its_rejections_are_counted() -> None:
    both = Limits(max_requests=5, max_pending_requests=1)
    found = predicted(POISSON, both)
    assert found.lost.high is None
    assert found.lost.low is not None
    assert found.lost.low < erlang_b(5, 5.0)
    made = case(POISSON, both)
    counted = predict(made, replace(exactly(EXPONENTIAL, 1e6), pending_share=0.1))
    assert counted is not None
    assert bounds(counted.lost)[1] == pytest.approx(0.1 + 0.9 * erlang_b(5, 5.0), abs=1e-3)


@pytest.mark.parametrize(
    ("share", "said"),
    [(None, "may reject some while connections are set up, too"), (0.0, ""), (0.1, "rejected 10.0% while connections were")],
)
def test_of_a_pending_limit_that_rejected_none_nothing_is_said(share: float | None, said: str) -> None:
    limits = Limits(max_requests=5, max_pending_requests=1)
    found = predict(case(POISSON, limits), replace(exactly(EXPONENTIAL, 10), pending_share=share))
    assert found is not None
    assert ("http1MaxPendingRequests" in found.because) is bool(said)
    assert said in found.because


def test_connections_that_workers_race_for_may_be_more_than_the_requests_that_are_admitted() -> None:
    racing = predicted(POISSON, Limits(max_connections=5, max_requests=5), workers=4)
    assert (racing.law, racing.lost, racing.admitted) == (Law.QUEUE, Estimate(None), Estimate(5, None, 8))
    assert "4 workers of Envoy race for them; so http2MaxRequests 5 may reject some" in racing.because
    assert predicted(POISSON, Limits(max_connections=5, max_requests=7), workers=4).lost == Estimate(None)
    roomy = predicted(POISSON, Limits(max_connections=5, max_requests=8), workers=4)
    assert (roomy.law, roomy.lost, roomy.admitted) == (Law.QUEUE, Estimate(0.0, 0.0, 0.0), Estimate(5, None, 8))


def test_fewer_users_than_connections_are_all_that_is_served_at_a_time() -> None:
    assert predicted(Closed(3), Limits(max_connections=5)).admitted == Estimate(3, None, 3)


@pytest.mark.parametrize(("load", "places"), [(THINKING, 8), (Burst(8, 1.0), 8), (POISSON, 1000)])
def test_a_pending_limit_alone_that_the_load_cannot_reach_rejects_nothing(load: Closed | Open | Burst, places: int) -> None:
    found = predicted(load, Limits(max_pending_requests=places))
    assert (found.law, found.lost) == (Law.UNREACHED, Estimate(0.0, 0.0, 0.0))
    assert f"http1MaxPendingRequests {places} rejects nothing" in found.because
    waiting = predicted(load, Limits(max_connections=5, max_pending_requests=places))
    assert waiting.lost == Estimate(0.0, 0.0, 0.0)
    assert "without an end" not in waiting.because
    assert predicted(load, Limits(max_pending_requests=places - 1)).law is Law.UNDETERMINED


@pytest.mark.parametrize(
    ("load", "service", "goodput"),
    [
        (Open(RateCourse(1000), poisson=True), CONSTANT, 1000 * (1 - erlang_b(5, 100.0))),
        (Open(RateCourse(1000)), EXPONENTIAL, 1000 * (1 - constant_arrivals(5, 100.0))),
    ],
)
def test_what_would_exceed_max_in_flight_is_not_sent_and_does_not_get_through(load: Open, service: Interval, goodput: float) -> None:
    found = predicted(load, service=service, rate_per_s=1000.0, max_in_flight=5)
    assert (found.law, found.lost, found.admitted) == (Law.UNREACHED, Estimate(0.0, 0.0, 0.0), Estimate(None, None, 5))
    assert found.through_per_s.value == pytest.approx(goodput)
    assert goodput < 50, "no more than five in 100 ms"
    assert "what finds 5 in flight is not sent" in found.because


def test_of_constant_arrivals_that_were_held_up_nothing_is_said() -> None:
    made = case(Open(RateCourse(200)), service=Interval(0.01), rate_per_s=200.0)
    short = Stretch(10, Span(0.01, 0.012), attempts=20_000, longest_s=0.022)
    found = predict(made, short)
    assert found is not None
    assert bounds(found.lost)[1] == pytest.approx(0.0025), "what may be in service at the ends of the phase"
    found = predict(made, replace(short, longest_s=0.024))
    assert found is not None
    assert (found.lost, found.through_per_s) == (NOTHING, NOTHING)
    assert "but a request ended 24.0 ms after it was due" in found.because


def test_of_constant_arrivals_and_service_as_much_gets_through_as_max_in_flight_leaves() -> None:
    found = predicted(STEADY, service=CONSTANT, rate_per_s=1000.0, max_in_flight=5)
    assert bounds(found.through_per_s) == pytest.approx((1000 * 5 / 101 - 0.5, 50 + 0.5))
    assert predicted(STEADY, service=CONSTANT, rate_per_s=20.0, max_in_flight=5).through_per_s == Estimate(20, 19.5, 20.5)


UNKNOWN = [
    (POISSON, Law.ERLANG),
    (STEADY, Law.BOUND),
    (THINKING, Law.ENGSET),
    (Closed(8, Interval(0.2)), Law.BOUND),
    (Closed(8), Law.SATURATED),
    (Burst(20, 1.0), Law.BURST),
]


@pytest.mark.parametrize(("load", "law"), UNKNOWN)
def test_of_a_service_that_is_not_ours_only_laws_count_that_hold_whatever_its_distribution(load: Closed | Open | Burst, law: Law) -> None:
    found = unknown(load)
    assert found.law is law
    assert "service are constant" not in found.because
    assert "exponential service" not in found.because
    if law is Law.BURST:
        assert (found.lost.low, found.admitted.low) == (None, None), "100 ms on average may be 0 for most"


def one(_rng: random.Random) -> float:
    return 0.1


def exponential(rng: random.Random) -> float:
    return rng.expovariate(10)


def rarely_long(rng: random.Random) -> float:
    return rng.expovariate(0.2) if rng.random() < 0.02 else 0.0


def simulated(rate_per_s: float, limit: int, service: Callable[[random.Random], float]) -> tuple[float, float]:
    """Give the share that constant arrivals lose, and the mean service time."""
    rng, ends, lost, took, arrivals = random.Random(5), list[float](), 0, 0.0, 40_000
    for arrival in range(arrivals):
        while ends and ends[0] <= arrival / rate_per_s:
            heapq.heappop(ends)
        if len(ends) >= limit:
            lost += 1
        else:
            drawn = service(rng)
            took += drawn
            heapq.heappush(ends, arrival / rate_per_s + drawn)
    return lost / arrivals, took / (arrivals - lost)


@pytest.mark.parametrize("service", [one, exponential, rarely_long])
@pytest.mark.parametrize(("rate", "limit"), [(9.9, 1), (10.1, 1), (19.9, 1), (50, 5), (50, 7), (200, 5)])
def test_the_bound_for_constant_arrivals_holds_whatever_the_service_time(
    rate: float, limit: int, service: Callable[[random.Random], float]
) -> None:
    share, mean_s = simulated(rate, limit, service)
    found = predict(case(STEADY, Limits(max_requests=limit), service=None, rate_per_s=rate), Stretch(10, Span(mean_s, mean_s)))
    assert found is not None
    low, high = bounds(found.lost)
    assert low - 1e-3 <= share <= high + 1e-3
    assert high < 1


def test_a_service_that_scatters_more_widens_the_interval_and_moves_no_figure() -> None:
    made, plain = case(POISSON, service=None), Stretch(10, Span(0.1, 0.1))
    calm, wild = predict(made, plain), predict(made, replace(plain, scatter=4.0))
    assert calm is not None
    assert wild is not None
    assert calm.lost.value == wild.lost.value
    widths = [high - low for low, high in (bounds(calm.lost), bounds(wild.lost))]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.1)


def test_how_many_endpoints_a_service_has_that_is_not_ours_is_not_known() -> None:
    alone = unknown(POISSON, Limits(max_connections=5))
    assert (alone.law, alone.lost, alone.admitted) == (Law.QUEUE, Estimate(0.0, 0.0, 0.0), Estimate(5))
    both = unknown(POISSON, Limits(max_connections=5, max_requests=7))
    assert (both.law, both.lost, both.admitted) == (Law.QUEUE, Estimate(None), Estimate(5, None, 7))
    assert "how many there are is not known" in both.because


def test_a_pending_limit_that_the_load_cannot_reach_changes_nothing() -> None:
    assert predicted(THINKING, Limits(max_requests=5, max_pending_requests=8)) == predicted(THINKING)


def test_over_http2_connections_and_queue_are_no_limits() -> None:
    limits = Limits(max_connections=1, max_pending_requests=1, max_requests=5)
    assert predicted(POISSON, limits, http2=True).lost.value == pytest.approx(erlang_b(5, 5.0))
    found = predicted(POISSON, Limits(max_connections=1), http2=True)
    assert (found.law, found.lost) == (Law.ADMITTING, Estimate(0.0, 0.0, 0.0))
    assert "HTTP/2" in found.because
