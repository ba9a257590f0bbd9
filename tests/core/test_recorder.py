"""Are durations kept to one percent in bounded memory, and do merged parts say exactly what the whole would have said?"""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loadgen.outcome import Outcome
from loadgen.recorder import Histogram, Tally, bucket_of, merged, value_of

HOUR_NS = 3600 * 10**9
DURATIONS = st.floats(1e-6, 3600.0)
MANY = st.lists(DURATIONS, max_size=30)
QUANTILES = (0.0, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0)


def histogram(durations: list[float]) -> Histogram:
    """Record some durations."""
    made = Histogram()
    for each in durations:
        made.record(each)
    return made


def state(each: Histogram) -> tuple[dict[int, int], int, float]:
    """Give everything that a histogram knows."""
    return each.buckets, each.count, each.max_s


@given(DURATIONS)
@example(1e-6)
@example(1.999e-6)
@example(255.9e-9 * 4)
@example(99.99e-6)
@example(3600.0)
def test_a_duration_is_kept_to_one_percent_from_a_microsecond_to_an_hour(seconds: float) -> None:
    recorded = histogram([seconds, 3600.0])  # the longest one bounds what is shown
    assert recorded.quantile(0.5) == pytest.approx(seconds, rel=0.01)
    assert histogram([seconds]).quantile(0.5) == pytest.approx(seconds, rel=0.01)


@given(st.integers(0, HOUR_NS))
@example(255)
@example(256)
@example(511)
@example(512)
def test_the_middle_of_a_bucket_lies_in_that_bucket_and_less_than_one_percent_away(nanoseconds: int) -> None:
    bucket = bucket_of(nanoseconds)
    assert bucket_of(int(value_of(bucket))) == bucket
    assert abs(value_of(bucket) - nanoseconds) <= 0.01 * nanoseconds


@given(st.integers(0, HOUR_NS))
def test_buckets_follow_one_another_without_a_gap(nanoseconds: int) -> None:
    assert bucket_of(nanoseconds + 1) - bucket_of(nanoseconds) in {0, 1}


def test_memory_is_bounded_whatever_is_recorded() -> None:
    assert bucket_of(HOUR_NS) - bucket_of(1000) < 4200
    rng = Random(1)
    many = histogram([math.exp(rng.uniform(math.log(1e-6), math.log(3600))) for _ in range(50_000)])
    assert len(many.buckets) < 4200
    again = histogram([0.0123] * 10_000)
    assert (len(again.buckets), again.count) == (1, 10_000)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-12])
def test_what_took_no_time_is_counted_as_nothing(seconds: float) -> None:
    recorded = histogram([seconds])
    assert (recorded.count, recorded.quantile(0.5)) == (1, 0.0)


def test_a_histogram_of_nothing_says_zero() -> None:
    assert [Histogram().quantile(share) for share in QUANTILES] == [0.0] * len(QUANTILES)


@given(st.lists(DURATIONS, min_size=1, max_size=50))
def test_quantiles_rise_and_never_exceed_the_longest_duration(durations: list[float]) -> None:
    recorded = histogram(durations)
    quantiles = [recorded.quantile(share) for share in QUANTILES]
    assert quantiles == sorted(quantiles)
    assert quantiles[-1] <= recorded.max_s == max(durations)
    assert quantiles[0] == pytest.approx(min(durations), rel=0.01)
    assert quantiles[-1] == pytest.approx(max(durations), rel=0.01)


@given(st.lists(DURATIONS, min_size=1, max_size=50), st.sampled_from([0.25, 0.5, 0.75]))
def test_a_quantile_is_the_duration_of_that_rank(durations: list[float], share: float) -> None:
    rank = max(1, math.ceil(share * len(durations)))
    assert histogram(durations).quantile(share) == pytest.approx(sorted(durations)[rank - 1], rel=0.01)


@given(MANY, MANY, MANY)
def test_merging_is_commutative_and_associative_and_loses_nothing(first: list[float], second: list[float], third: list[float]) -> None:
    whole = state(histogram([*first, *second, *third]))
    left, right = histogram(first), histogram(second)
    left.add(histogram(second))
    left.add(histogram(third))
    right.add(histogram(third))
    right.add(histogram(first))
    nested, inner = histogram(first), histogram(second)
    inner.add(histogram(third))
    nested.add(inner)
    assert state(left) == state(right) == state(nested) == whole


def test_merging_leaves_what_was_merged_as_it_was() -> None:
    one, other = histogram([1.0]), histogram([2.0])
    one.add(other)
    one.record(2.0)
    assert state(other) == state(histogram([2.0]))


def test_a_tally_counts_each_outcome_with_its_own_latency() -> None:
    tally = Tally()
    for outcome, latency_s in [(Outcome.OK, 0.02), (Outcome.OK, 0.04), (Outcome.OVERFLOW, 0.001), (Outcome.UNSENT, 0.0)]:
        tally.record(outcome, latency_s)
    assert tally.requests == 4
    assert {outcome: count for outcome, count in tally.outcomes.items() if count} == {
        Outcome.OK: 2,
        Outcome.OVERFLOW: 1,
        Outcome.UNSENT: 1,
    }
    assert tally.latency[Outcome.OK].quantile(0.5) == pytest.approx(0.02, rel=0.01)  # an instant reject does not flatter it
    assert tally.latency[Outcome.TIMEOUT].count == 0


def test_an_overflow_of_the_server_side_is_not_the_own_sidecar_s() -> None:
    tally = Tally()
    for _ in range(5):
        tally.record(Outcome.OVERFLOW, 0.001)
    tally.server_overflow = 2
    assert tally.sidecar_overflow == 3


@given(st.lists(st.lists(st.tuples(st.sampled_from(Outcome), DURATIONS), max_size=10), max_size=5))
def test_tallies_of_clients_merge_into_what_one_would_have_counted(clients: list[list[tuple[Outcome, float]]]) -> None:
    tallies, whole = [], Tally()
    for requests in clients:
        tally = Tally()
        for outcome, latency_s in requests:
            for each in (tally, whole):
                each.record(outcome, latency_s)
                each.lag.record(latency_s / 2)
                each.server_overflow += outcome is Outcome.OVERFLOW
        tallies.append(tally)
    for total in (merged(tallies), merged(reversed(tallies))):
        assert (total.outcomes, total.requests, total.server_overflow) == (whole.outcomes, whole.requests, whole.server_overflow)
        assert state(total.lag) == state(whole.lag)
        assert all(state(total.latency[outcome]) == state(whole.latency[outcome]) for outcome in Outcome)
    assert sum(tally.requests for tally in tallies) == whole.requests
