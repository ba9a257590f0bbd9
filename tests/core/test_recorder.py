"""Are durations kept to one percent in bounded memory, and do merged parts say exactly what the whole would have said?"""

from __future__ import annotations

import json
import math
import pickle
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loadgen.cause import Cause, Found, MadeBy
from loadgen.outcome import Outcome
from loadgen.recorder import FOLD_AT, Histogram, Tally, buckets_of, merged, value_of

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

HOUR_S = 3600.0
DURATIONS = st.floats(1e-6, HOUR_S)
MANY = st.lists(DURATIONS, max_size=30)
QUANTILES = (0.0, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0)


def histogram(durations: list[float]) -> Histogram:
    """Record some durations."""
    made = Histogram()
    for each in durations:
        made.record(each)
    return made


def bucket_of(seconds: float) -> int:
    """Give the bucket of one duration."""
    (bucket,) = buckets_of([seconds])
    return bucket


def state(each: Histogram) -> tuple[Counter[int], int, float]:
    """Give everything that a histogram knows, but for the sum."""
    return each.buckets, each.count, each.max_s


def whole_state(each: Histogram) -> tuple[Counter[int], int, float, float]:
    """Give everything that a histogram knows."""
    return *state(each), each.sum_s


def through_json(each: Histogram) -> Histogram:
    """Send a histogram to where only text arrives."""
    return Histogram.from_snapshot(json.loads(json.dumps(each.snapshot())))


def through_pickle(each: Histogram) -> Histogram:
    """Send a histogram to another of our processes."""
    sent: Histogram = pickle.loads(pickle.dumps(each))
    return sent


WAYS = pytest.mark.parametrize("send", [through_json, through_pickle])


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


@given(DURATIONS)
@example(2**-10)
@example(math.nextafter(2**-10, 0))
@example(1.0)
def test_the_middle_of_a_bucket_lies_in_that_bucket_and_less_than_one_percent_away(seconds: float) -> None:
    bucket = bucket_of(seconds)
    assert bucket_of(value_of(bucket)) == bucket
    assert abs(value_of(bucket) - seconds) <= 0.01 * seconds


def test_buckets_follow_one_another_without_a_gap() -> None:
    buckets = range(bucket_of(1e-6), bucket_of(HOUR_S) + 1)
    middles = [value_of(bucket) for bucket in buckets]
    assert middles == sorted(middles)
    assert list(buckets_of(middles)) == list(buckets)


@given(st.lists(st.tuples(DURATIONS, st.integers(1, 50)), max_size=10), st.booleans())
def test_a_run_of_equal_durations_counts_as_each_of_them_would(runs: list[tuple[float, int]], fold: bool) -> None:
    one_by_one, in_runs = Histogram(), Histogram()
    for duration, count in runs:
        for _ in range(count):
            one_by_one.record(duration)
        in_runs.waiting.runs.append((duration, count))
        assert in_runs.count == one_by_one.count
        if fold:
            in_runs.fold()
            assert in_runs.waiting.runs == []
    assert state(in_runs) == state(one_by_one)
    assert in_runs.sum_s == pytest.approx(one_by_one.sum_s, abs=1e-8 * len(runs) + 1e-9, rel=1e-9)


def test_memory_is_bounded_whatever_is_recorded() -> None:
    assert bucket_of(HOUR_S) - bucket_of(1e-6) < 4200
    rng = Random(1)
    many = histogram([math.exp(rng.uniform(math.log(1e-6), math.log(HOUR_S))) for _ in range(50_000)])
    assert len(many.buckets) < 4200
    again = histogram([0.0123] * 10_000)
    assert (len(again.buckets), again.count) == (1, 10_000)


def test_what_waits_to_be_put_into_buckets_never_grows_beyond_a_bound_and_is_gone_after_a_fold() -> None:
    recorded = Histogram()
    waiting = recorded.waiting.singles
    longest = 0
    for number in range(3 * FOLD_AT + 5):
        recorded.record(number / 1000)
        longest = max(longest, len(waiting))
    assert longest < FOLD_AT
    assert recorded.waiting.singles is waiting, "the hot path holds on to it"
    assert len(waiting) == 5
    recorded.fold()
    assert waiting == []
    assert recorded.count == recorded.buckets.total() == 3 * FOLD_AT + 5


@given(MANY, st.lists(st.integers(0, 30), max_size=5))
def test_when_it_is_folded_makes_no_difference(durations: list[float], folds: list[int]) -> None:
    folded = Histogram()
    for number, each in enumerate(durations):
        folded.waiting.singles.append(each)
        if number in folds:
            folded.fold()
    assert folded.count == len(durations)
    assert state(folded) == state(histogram(durations))
    assert folded.sum_s == pytest.approx(math.fsum(durations), abs=1e-8)


@pytest.mark.parametrize(
    "read",
    [
        lambda each: each.buckets.total(),
        lambda each: each.count,
        lambda each: each.quantile(0.5) and 1,
        lambda each: each.max_s and 1,
        lambda each: each.sum_s and 1,
        lambda each: sum(each.snapshot()["buckets"].values()),
    ],
    ids=["buckets", "count", "quantile", "max", "sum", "snapshot"],
)
def test_whatever_is_read_includes_what_still_waits(read: Callable[[Histogram], float]) -> None:
    recorded = Histogram()
    recorded.waiting.singles.append(1.0)
    assert read(recorded) == 1


def test_durations_of_no_length_can_be_counted_together() -> None:
    recorded = histogram([1.0])
    recorded.record_zeros(3)
    recorded.record_zeros(0)
    assert whole_state(recorded) == whole_state(histogram([1.0, 0.0, 0.0, 0.0]))
    assert (recorded.count, recorded.quantile(0.75), recorded.sum_s) == (4, 0.0, 1.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-12])
def test_what_took_no_time_is_counted_as_nothing(seconds: float) -> None:
    recorded = histogram([seconds])
    assert recorded.count == 1
    for shown in (recorded.quantile(0.5), recorded.max_s, recorded.sum_s):
        assert 0.0 <= shown < 1e-9


def test_a_histogram_of_nothing_says_zero() -> None:
    assert [Histogram().quantile(share) for share in QUANTILES] == [0.0] * len(QUANTILES)


@given(st.lists(DURATIONS, min_size=1, max_size=50))
def test_quantiles_rise_and_never_exceed_the_longest_duration(durations: list[float]) -> None:
    recorded = histogram(durations)
    quantiles = [recorded.quantile(share) for share in QUANTILES]
    assert quantiles == sorted(quantiles)
    assert quantiles[-1] <= recorded.max_s == max(durations)
    assert recorded.quantile(1.0) == recorded.max_s
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


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 60 * 10**9), max_size=30), max_size=6), st.randoms(use_true_random=False))
def test_the_sum_of_merged_parts_is_exact_to_the_nanosecond_in_whatever_order(parts: list[list[int]], random: Random) -> None:
    exact_ns = sum(map(sum, parts))
    for send in (through_json, through_pickle):
        left = [histogram([ns / 1e9 for ns in part]) for part in parts] or [Histogram()]
        while len(left) > 1:  # two at random become one: any order, any nesting
            random.shuffle(left)
            left.append(send(left.pop()))
            one = left.pop()
            left[-1].add(one)
        assert round(left[0].sum_s * 1e9) == exact_ns


@WAYS
@given(durations=MANY)
def test_a_histogram_arrives_whole_wherever_it_is_sent(send: Callable[[Histogram], Histogram], durations: list[float]) -> None:
    sent = histogram(durations)
    arrived = send(sent)
    assert whole_state(arrived) == whole_state(sent)
    arrived.record(1.0)
    assert sent.count == len(durations)


@WAYS
@given(first=MANY, second=MANY, third=MANY)
def test_merging_what_was_sent_is_merging(
    send: Callable[[Histogram], Histogram], first: list[float], second: list[float], third: list[float]
) -> None:
    here, there = histogram(first), send(histogram(first))
    for each in (second, third):
        here.add(histogram(each))
        there.add(send(histogram(each)))
        there = send(there)
    assert whole_state(here) == whole_state(there)


def test_merging_leaves_what_was_merged_as_it_was() -> None:
    one, other = histogram([1.0]), histogram([2.0])
    one.add(other)
    one.record(2.0)
    assert whole_state(other) == whole_state(histogram([2.0]))


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


def tally_state(each: Tally) -> dict[str, object]:
    """Give everything that a tally knows."""
    return {
        "outcomes": each.outcomes,
        "latency": {outcome: whole_state(latency) for outcome, latency in each.latency.items()},
        "statuses": each.statuses,
        "lag": whole_state(each.lag),
        "loop_lag": whole_state(each.loop_lag),
        "server_overflow": each.server_overflow,
        "connect_errors": each.connect_errors,
        "bursts": each.bursts,
        "untold_bursts": each.untold_bursts,
        "cut_bursts": each.cut_bursts,
        "causes": each.causes,
    }


def tally_through_json(each: Tally) -> Tally:
    """Send a tally to where only text arrives."""
    return Tally.from_snapshot(json.loads(json.dumps(each.snapshot())))


def tally_through_pickle(each: Tally) -> Tally:
    """Send a tally to another of our processes."""
    sent: Tally = pickle.loads(pickle.dumps(each))
    return sent


def here(each: Tally) -> Tally:
    """Send a tally nowhere."""
    return each


FEW = settings(max_examples=30)  # each of them is many requests
TALLY_WAYS = pytest.mark.parametrize("send", [here, tally_through_json, tally_through_pickle])
NO_CLUSTER = Found(Cause.NO_CLUSTER, MadeBy.OWN_SIDECAR)
STATUSES = st.sampled_from([0, 200, 204, 503])
REQUESTS = st.lists(st.tuples(st.sampled_from(Outcome), STATUSES, DURATIONS), max_size=10)
ERRORS = st.lists(st.sampled_from(["ECONNREFUSED", "EMFILE", "EADDRNOTAVAIL", "OTHER"]), max_size=3)
TALLIES = st.lists(st.tuples(REQUESTS, ERRORS), max_size=5)


def fill(tally: Tally, requests: list[tuple[Outcome, int, float]], errors: list[str]) -> Tally:
    """Count some requests, each with a lag, and some errors."""
    for outcome, status, latency_s in requests:
        tally.record(outcome, latency_s, status, NO_CLUSTER if outcome is Outcome.UNAVAILABLE else None)
        tally.lag.record(latency_s / 2)
        tally.loop_lag.record(latency_s / 3)
        tally.server_overflow += outcome is Outcome.OVERFLOW
    tally.connect_errors.update(errors)
    return tally


@TALLY_WAYS
@FEW
@given(clients=TALLIES)
def test_tallies_of_clients_merge_into_what_one_would_have_counted(
    send: Callable[[Tally], Tally], clients: list[tuple[list[tuple[Outcome, int, float]], list[str]]]
) -> None:
    tallies, whole = [send(fill(Tally(), *client)) for client in clients], Tally()
    for client in clients:
        fill(whole, *client)
    for total in (merged(tallies), merged(reversed(tallies))):
        assert (total.outcomes, total.requests, total.server_overflow) == (whole.outcomes, whole.requests, whole.server_overflow)
        assert (total.statuses, total.causes, total.connect_errors) == (whole.statuses, whole.causes, whole.connect_errors)
        assert (state(total.lag), state(total.loop_lag)) == (state(whole.lag), state(whole.loop_lag))
        assert all(state(total.latency[outcome]) == state(whole.latency[outcome]) for outcome in Outcome)
        assert all(total.latency[outcome].sum_s == pytest.approx(whole.latency[outcome].sum_s, abs=1e-7) for outcome in Outcome)
    assert sum(tally.requests for tally in tallies) == whole.requests


@TALLY_WAYS
@FEW
@given(clients=st.tuples(*[st.tuples(REQUESTS, ERRORS)] * 3))
def test_merging_tallies_is_commutative_and_associative_to_the_last_digit(
    send: Callable[[Tally], Tally], clients: tuple[tuple[list[tuple[Outcome, int, float]], list[str]], ...]
) -> None:
    first, second, third = (send(fill(Tally(), *client)) for client in clients)
    in_turn = tally_state(merged([first, second, third]))
    assert tally_state(merged([third, second, first])) == in_turn
    assert tally_state(merged([first, send(merged([third, second]))])) == in_turn
    assert tally_state(merged([send(merged([second, first])), third])) == in_turn


@pytest.mark.parametrize("send", [tally_through_json, tally_through_pickle])
@FEW
@given(client=st.tuples(REQUESTS, ERRORS))
def test_a_tally_arrives_whole_wherever_it_is_sent(
    send: Callable[[Tally], Tally], client: tuple[list[tuple[Outcome, int, float]], list[str]]
) -> None:
    sent = fill(Tally(), *client)
    arrived = send(sent)
    assert tally_state(arrived) == tally_state(sent)
    arrived.record(Outcome.OK, 1.0, 200)
    assert arrived.requests == sent.requests + 1


def test_a_tally_counts_complete_responses_by_their_status() -> None:
    tally = Tally()
    for outcome, status in [(Outcome.OK, 200), (Outcome.WRONG_BODY, 200), (Outcome.OVERFLOW, 503), (Outcome.TIMEOUT, 0)]:
        tally.record(outcome, 0.01, status)
    assert tally.statuses == {200: 2, 503: 1}
    assert tally.requests == 4


def test_a_list_that_the_hot_path_appends_to_goes_on_to_count_after_a_fold() -> None:
    tally = Tally()
    append = tally.waiting(Outcome.OK, 200).singles.append
    for _ in range(3):
        append(0.5)
        tally.fold()
        assert tally.waiting(Outcome.OK, 200).singles == []
    append(0.5)
    assert (tally.outcomes[Outcome.OK], tally.statuses[200], tally.latency[Outcome.OK].sum_s) == (4, 4, 2.0)


def test_a_tally_that_nobody_folds_folds_itself() -> None:
    tally = Tally()
    waiting = tally.waiting(Outcome.OK, 200).singles
    longest = 0
    for _ in range(2 * FOLD_AT + 1):
        tally.record(Outcome.OK, 0.001, 200)
        longest = max(longest, len(waiting))
    assert longest < FOLD_AT
    assert tally.requests == 2 * FOLD_AT + 1


def test_a_tally_knows_nothing_below_zero() -> None:
    tally = Tally()
    tally.record(Outcome.OK, -1.0)
    assert (tally.latency[Outcome.OK].sum_s, tally.latency[Outcome.OK].max_s, tally.latency[Outcome.OK].quantile(1.0)) == (0.0, 0.0, 0.0)


def test_a_snapshot_does_not_grow_with_the_run() -> None:
    rng = Random(1)
    tally = Tally()
    for _ in range(20_000):
        tally.record(Outcome.OK, rng.lognormvariate(-5, 0.5), 200)
    size = len(json.dumps(tally.snapshot()))
    for _ in range(100_000):
        tally.record(Outcome.OK, rng.lognormvariate(-5, 0.5), 200)
    assert len(json.dumps(tally.snapshot())) < 2 * size < 40_000
