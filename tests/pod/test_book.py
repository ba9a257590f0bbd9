"""Does the book keep every request that was entered, and never go back?"""

from __future__ import annotations

import random

from loadgen.outcome import Outcome
from loadgen.pod.book import MAX_PHASES, OTHER_PHASES, OWN_LOAD, Book
from loadgen.recorder import Histogram, Tally
from loadgen.totals import BOUNDS_S, Distribution


def tally_of(**counts: int) -> Tally:
    tally = Tally()
    for outcome, count in counts.items():
        for _ in range(count):
            tally.record(Outcome(outcome), 0.003)
            tally.lag.record(0.0001)
    return tally


def test_a_distribution_counts_each_duration_below_its_bound_to_within_a_fine_bucket() -> None:
    rng = random.Random(3)
    durations = [rng.expovariate(20) for _ in range(5000)] + [0.0, 7.0]
    histogram = Histogram()
    for duration in durations:
        histogram.record(duration)
    distribution = Distribution()
    distribution.add(histogram)
    assert distribution.count == len(durations)
    assert abs(distribution.sum_s - sum(durations)) < 1e-5
    below = 0
    for bound, count in zip(BOUNDS_S, distribution.counts, strict=False):
        below += count
        assert sum(each <= bound for each in durations) <= below <= sum(each <= bound * 1.008 for each in durations)
    assert distribution.counts[-1] == 1


def test_what_is_entered_adds_up_by_phase_and_in_all() -> None:
    book = Book()
    book.enter(OWN_LOAD, tally_of(ok=3))
    book.enter("limited", tally_of(ok=2, overflow=5))
    book.enter("limited", tally_of(overflow=1))
    assert {outcome: count for outcome, count in book.outcomes.items() if count} == {Outcome.OK: 5, Outcome.OVERFLOW: 6}
    assert book.phases["limited"][Outcome.OVERFLOW].count == 6
    assert book.lag.count == 11


def test_a_phase_appears_with_every_outcome_at_nothing() -> None:
    book = Book()
    book.open("limited")
    assert {outcome: distribution.count for outcome, distribution in book.phases["limited"].items()} == dict.fromkeys(Outcome, 0)


def test_more_phases_than_are_told_apart_are_counted_together_and_none_is_lost() -> None:
    book = Book()
    for number in range(MAX_PHASES + 5):
        book.enter(f"phase-{number}", tally_of(ok=1))
    assert len(book.phases) == MAX_PHASES + 3
    assert book.phases[OTHER_PHASES][Outcome.OK].count == 5
    assert book.outcomes[Outcome.OK] == MAX_PHASES + 5
    assert book.open("phase-0") == "phase-0"
