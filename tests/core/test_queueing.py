"""Are the loss formulas right, and does a measurement lie in the interval as often as is said? Against tables, and against a simulation."""

from __future__ import annotations

import heapq
import random
import statistics
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest

from loadgen.pacing import Coming, RateCourse, Stage
from loadgen.queueing import (
    Queue,
    Span,
    busy_rate_per_s,
    constant_arrivals,
    erlang_b,
    finite_loss,
    loss_span,
    poisson_loss,
    queue_loss,
    through_span,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TABLE = [  # servers, offered, loss: from published tables
    (0, 3.0, 1.0),
    (1, 1.0, 1 / 2),
    (2, 1.0, 1 / 5),
    (2, 2.0, 2 / 5),
    (3, 1.0, 1 / 16),
    (5, 5.0, 0.284868),
    (10, 4.461, 0.01),
    (10, 5.0, 0.018385),
    (20, 12.03, 0.01),
    (20, 20.0, 0.158892),
    (100, 84.06, 0.01),
    (5, 0.0, 0.0),
    (5, 1e-300, 0.0),
    (1, 1e9, 1.0),
]


@pytest.mark.parametrize(("servers", "offered", "loss"), TABLE)
def test_erlang_b_is_that_of_the_tables(servers: int, offered: float, loss: float) -> None:
    assert erlang_b(servers, offered) == pytest.approx(loss, rel=2e-3, abs=1e-9)


@pytest.mark.parametrize(("servers", "offered"), [(3, 7), (20, 12), (300, 280), (1000, 1000)])
def test_erlang_b_is_that_of_the_formula_in_exact_fractions(servers: int, offered: int) -> None:
    term = total = Fraction(1)
    for server in range(1, servers + 1):
        term = term * offered / server
        total += term
    assert erlang_b(servers, offered) == pytest.approx(float(term / total), rel=1e-12)


@pytest.mark.parametrize(("servers", "offered"), [(1, 0.5), (5, 5.0), (20, 0.5), (200, 180.0), (2000, 1900.0), (2000, 10.0)])
def test_the_chain_agrees_with_the_recursion_however_large_it_is(servers: int, offered: float) -> None:
    found = poisson_loss(servers, offered, 1.0)
    assert found.share == pytest.approx(erlang_b(servers, offered), rel=1e-6, abs=1e-250)
    assert found.busy == pytest.approx(found.through_per_s, rel=1e-9), "Little's law"
    assert 0 <= found.variance < 1e6


def test_one_server_forgets_so_its_losses_are_coin_flips() -> None:
    found = poisson_loss(1, 3.0, 1.0)
    assert found.variance == pytest.approx(found.share * (1 - found.share))


def test_a_queue_without_places_is_a_loss_system_and_one_with_places_is_that_of_the_books() -> None:
    assert queue_loss(5, 0, 5.0, 1.0).share == pytest.approx(erlang_b(5, 5.0))
    assert queue_loss(1, 3, 1.0, 1.0).share == pytest.approx(1 / 5), "M/M/1/4 at rho 1"


def test_engset_is_that_of_the_books() -> None:
    found = finite_loss(1, 2, 1.0, 1.0)  # two users, one server: as often lost as served
    assert found.share == pytest.approx(1 / 2)
    assert found.through_per_s == pytest.approx(2 / 3)
    assert finite_loss(5, 5, 1.0, 1.0).share == 0
    many = finite_loss(5, 100_000, 20_000.0, 1.0)
    assert many.share == pytest.approx(erlang_b(5, 5.0), rel=1e-3), "very many users are Poisson arrivals"


def test_constant_arrivals_lose_less_than_random_ones() -> None:
    assert constant_arrivals(1, 2.0) == pytest.approx(2.718281828**-0.5)
    for servers, offered in ((1, 0.5), (5, 5.0), (20, 20.0)):
        assert constant_arrivals(servers, offered) < erlang_b(servers, offered)
    assert constant_arrivals(2000, 1.0) == 0


def test_few_losses_have_the_skew_of_few() -> None:
    span = loss_span(0.0005, 0.0005, 1000)
    assert span.low == 0
    assert 0.002 < span.high < 0.005
    assert loss_span(0.0, 0.0, 1000) == Span(0, 0)
    wide, narrow = (loss_span(0.3, 0.3, count) for count in (47_000, 48_000))  # on both sides of where the normal distribution takes over
    assert narrow.low == pytest.approx(wide.low, abs=2e-4)
    assert narrow.high == pytest.approx(wide.high, abs=2e-4)


RUNS, ARRIVALS, WARM = 120, 1000, 100
CASES = [(1, 0.5), (2, 1.0), (5, 5.0), (5, 20.0), (8, 5.0), (20, 20.0)]


def one(_rng: random.Random) -> float:
    return 1.0


def exponential(rng: random.Random) -> float:
    return rng.expovariate(1)


def simulate(servers: int, offered: float, service: Callable[[random.Random], float], rng: random.Random, *, steady: bool = False) -> float:
    """Give the share that is lost of some arrivals, with a mean service time of 1."""
    now, lost, ends = 0.0, 0, list[float]()
    for arrival in range(ARRIVALS + WARM):
        now += 1 / offered if steady else rng.expovariate(offered)
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        if len(ends) < servers:
            heapq.heappush(ends, now + service(rng))
        else:
            lost += arrival >= WARM
    return lost / ARRIVALS


@pytest.mark.parametrize(("servers", "offered"), CASES)
def test_simulated_losses_scatter_as_the_chain_says_for_exponential_service(servers: int, offered: float) -> None:
    rng, found = random.Random(f"exponential {servers} {offered}"), poisson_loss(servers, offered, 1.0)
    losses = [simulate(servers, offered, exponential, rng) for _ in range(RUNS)]
    spread = statistics.variance(losses) * ARRIVALS / found.variance
    assert 0.6 < spread < 1.6, "120 variances of 99.9 in 100 lie between"
    assert abs(statistics.mean(losses) - found.share) < 4 * (found.variance / ARRIVALS / RUNS) ** 0.5
    span = loss_span(found.share, found.variance, ARRIVALS)
    assert sum(not span.holds(loss) for loss in losses) <= 6


@pytest.mark.parametrize(("servers", "offered"), CASES)
def test_constant_service_loses_as_much_and_scatters_less(servers: int, offered: float) -> None:
    rng, found = random.Random(f"constant {servers} {offered}"), poisson_loss(servers, offered, 1.0)
    losses = [simulate(servers, offered, one, rng) for _ in range(RUNS)]
    assert statistics.variance(losses) * ARRIVALS / found.variance < 1.05
    assert abs(statistics.mean(losses) - found.share) < 4 * (found.variance / ARRIVALS / RUNS) ** 0.5 + 1e-3
    span = loss_span(found.share, found.variance, ARRIVALS)
    assert sum(not span.holds(loss) for loss in losses) <= 2


def mostly_short(rng: random.Random) -> float:
    return rng.expovariate(1 / 5) if rng.random() < 0.1 else rng.expovariate(1.8)


@pytest.mark.parametrize(("servers", "offered"), [(1, 0.5), (5, 2.0), (5, 5.0), (20, 20.0)])
def test_service_that_sometimes_stays_long_scatters_as_much_more_as_its_mean_square(servers: int, offered: float) -> None:
    rng, found = random.Random(f"mostly short {servers} {offered}"), poisson_loss(servers, offered, 1.0)
    losses = [simulate(servers, offered, mostly_short, rng) for _ in range(RUNS)]
    spread = statistics.variance(losses) * ARRIVALS / found.variance
    mean_square = 0.1 * 2 * 5**2 + 0.9 * 2 / 1.8**2
    assert 1.2 < spread < 1.4 * mean_square / 2


@pytest.mark.parametrize(("servers", "offered"), [(1, 0.5), (5, 5.0), (20, 20.0)])
def test_constant_arrivals_lose_what_takacs_says_and_scatter_less_than_random_ones(servers: int, offered: float) -> None:
    rng, found = random.Random(f"steady {servers} {offered}"), poisson_loss(servers, offered, 1.0)
    losses = [simulate(servers, offered, exponential, rng, steady=True) for _ in range(RUNS)]
    assert statistics.variance(losses) * ARRIVALS / found.variance < 1.05
    assert abs(statistics.mean(losses) - constant_arrivals(servers, offered)) < 4 * (found.variance / ARRIVALS / RUNS) ** 0.5


def simulate_users(
    servers: int, users: int, think: Callable[[random.Random], float], service: Callable[[random.Random], float], rng: random.Random
) -> tuple[int, int]:
    """Give how many attempts were made and lost in 200 mean service times."""
    events = [(think(rng) * rng.random(), False) for _ in range(users)]
    heapq.heapify(events)
    attempts = lost = busy = 0
    while events[0][0] < 200:
        now, served = heapq.heappop(events)
        attempts += not served
        if served or busy >= servers:
            busy -= served
            lost += not served
            heapq.heappush(events, (now + think(rng), False))
        else:
            busy += 1
            heapq.heappush(events, (now + service(rng), True))
    return attempts, lost


@pytest.mark.parametrize(("think", "service"), [(exponential, exponential), (exponential, one), (one, exponential)])
@pytest.mark.parametrize(("servers", "users"), [(1, 3), (3, 8)])
def test_users_who_think_lose_what_engset_says_if_one_of_the_times_is_exponential(
    servers: int, users: int, think: Callable[[random.Random], float], service: Callable[[random.Random], float]
) -> None:
    rng, found = random.Random(f"{servers} {users} {think} {service}".split(" at ", maxsplit=1)[0]), finite_loss(servers, users, 1.0, 1.0)
    runs = [simulate_users(servers, users, think, service, rng) for _ in range(60)]
    losses = [lost / attempts for attempts, lost in runs]
    attempts = statistics.mean(attempts for attempts, _ in runs)
    assert abs(statistics.mean(losses) - found.share) < 4 * (found.variance / attempts / len(runs)) ** 0.5 + 0.003
    assert statistics.variance(losses) * attempts / found.variance < 1.8
    through = statistics.mean((attempts - lost) / 200 for attempts, lost in runs)
    assert through_span(found, 200 * len(runs)).low - 0.02 < through < through_span(found, 200 * len(runs)).high + 0.02


def test_what_gets_through_is_steadier_than_what_comes() -> None:
    found = poisson_loss(5, 20.0, 1.0)
    span = through_span(found, 1000)
    assert span.holds(found.through_per_s)
    assert span.high - span.low < 2 * 2.58 * (20 / 1000) ** 0.5


@pytest.mark.parametrize("servers", [1, 5])
def test_servers_that_are_never_idle_end_more_than_is_said_in_one_of_some_hundred_stretches(servers: int) -> None:
    rng, seconds, runs = random.Random(servers), 40.0, 2_000
    most = busy_rate_per_s(servers, 0.1, 1.0, seconds) * seconds
    beyond = sum(sum(ended(rng, seconds) for _ in range(servers)) > most for _ in range(runs))
    assert 0.001 < beyond / runs < 0.015, "half of what 99 in 100 leave"
    assert busy_rate_per_s(servers, 0.1, 0.0, seconds) == pytest.approx(10 * servers)


def ended(rng: random.Random, seconds: float) -> int:
    """Give how many exponential services of 100 ms a server ends that is never idle."""
    count, now = 0, rng.expovariate(10)
    while now <= seconds:
        count, now = count + 1, now + rng.expovariate(10)
    return count


def simulate_queue(due: Sequence[float], places: int, service_s: float, most: float, timeout_s: float) -> tuple[int, list[float]]:
    """Let a queue be served in the order of arrival; give how many were not sent, and when those were due that gave up, waiting or served."""
    ends: list[float] = []  # of those that are there, whatever ends it
    free = [0.0] * places
    unsent, late = 0, []
    for at in due:
        while ends and ends[0] <= at:
            heapq.heappop(ends)
        if len(ends) >= most:
            unsent += 1
            continue
        begins = max(at, free[0])
        ended = min(begins + service_s, at + timeout_s)
        if begins < ended:
            heapq.heapreplace(free, ended)
        if begins + service_s > at + timeout_s:
            late.append(at)
        heapq.heappush(ends, ended)
    return unsent, late


@pytest.mark.parametrize(
    ("course", "begins_s", "ends_s", "queue"),
    [
        (RateCourse(1000), 0.0, 10.0, Queue(1, 0.02, 498, 0.5)),
        (RateCourse(120), 0.0, 10.0, Queue(4, 0.1, 110, 1.0)),
        (RateCourse(60), 0.0, 10.0, Queue(4, 0.1, timeout_s=2.0)),
        (RateCourse(60), 0.0, 10.0, Queue(4, 0.1, 64, 2.0)),
        (RateCourse(60), 0.0, 600.0, Queue(4, 0.1, 110, 2.0)),
        (RateCourse(100), 0.0, 10.0, Queue(1, 0.02, 51)),
        (RateCourse(60), 0.0, 3600.0, Queue(5, 0.1, 30, 1.0)),
        (RateCourse(49), 0.0, 600.0, Queue(1, 0.02, 20, 2.0)),
        (RateCourse(10, [Stage(10, hold_s=5), Stage(200, hold_s=0.2), Stage(10)]), 0.0, 10.0, Queue(50, 1.0, 60, 10.0)),
        (RateCourse(0.1, [Stage(0.1, hold_s=1800), Stage(1000, hold_s=0.2), Stage(0.1)]), 0.0, 3600.0, Queue(1, 0.02, 51, 30.0)),
        (RateCourse(100, [Stage(100, hold_s=1.9), Stage(60, hold_s=5)]), 1.9, 6.9, Queue(1, 0.02, timeout_s=2.0)),
        (RateCourse(1, [Stage(200, ramp_s=10)]), 0.0, 10.0, Queue(1, 0.02, 200, 2.0)),
    ],
)
def test_a_queue_fills_and_is_late_as_one_that_is_simulated(course: RateCourse, begins_s: float, ends_s: float, queue: Queue) -> None:
    due = [course.when(number + 0.5) for number in range(int(course.arrived(ends_s)))]
    unsent, late = simulate_queue(due, int(queue.places), queue.service_s, queue.most, queue.timeout_s)
    found = queue.walk(Coming(course, 0.0, begins_s, ends_s))
    assert found.unsent == pytest.approx(unsent, rel=0.1, abs=20)
    assert (found.full_s is None) is (unsent == 0)
    counted = [at - begins_s for at in late if at >= begins_s]
    assert (found.late_s is None) is (not counted)
    if found.late_s is not None:
        assert found.late_s == pytest.approx(counted[0], rel=0.05, abs=0.05)


def test_a_service_that_takes_no_time_loses_nothing() -> None:
    assert poisson_loss(1, 50.0, 0.0).share == pytest.approx(0, abs=1e-6)
    assert finite_loss(1, 5, 0.1, 0.0).share == pytest.approx(0, abs=1e-6)
    assert queue_loss(1, 1, 50.0, 0.0).share == pytest.approx(0, abs=1e-6)
