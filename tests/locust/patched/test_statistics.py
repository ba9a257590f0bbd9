"""Is each request entered into Locust's statistics once, at its place, and forgiven if a rule may have been in force?"""

from __future__ import annotations

import pytest
from locust.stats import RequestStats

from loadgen.locust.statistics import Statistics
from loadgen.outcome import Outcome
from loadgen.recorder import Tally


def tally(number: int = 0, **counts: int) -> Tally:
    """Give a tally with so many requests of each outcome, each of which took 20 ms."""
    made = Tally(number)
    for outcome, count in counts.items():
        for _ in range(count):
            made.record(Outcome(outcome), 0.02, 0)
    return made


def statistics(*, forgiven: bool = True) -> tuple[Statistics, RequestStats]:
    """Give empty statistics in which an overflow is a failure unless there is a rule and it is ``forgiven``."""
    stats = RequestStats()
    made = Statistics(stats, lambda ruled: not (ruled and forgiven))
    made.begin("user", ["client-1", "client-2"])
    return made, stats


def counted(stats: RequestStats, name: str) -> tuple[int, int]:
    entry = stats.get(name, "GET")
    return entry.num_requests, entry.num_failures


def test_a_tally_that_is_told_again_and_again_is_entered_once() -> None:
    made, stats = statistics()
    for seen in (3, 3, 7, 7):
        made.notice("client-1", tally(ok=seen))
    assert counted(stats, "user") == (7, 0)
    assert stats.total.num_requests == 7
    assert sum(stats.total.num_reqs_per_sec.values()) == 7


def test_two_clients_and_two_tallies_are_told_apart() -> None:
    made, stats = statistics()
    made.notice("client-1", tally(ok=3))
    made.notice("client-2", tally(ok=4))
    made.notice("client-1", tally(ok=5), ended=True)
    made.notice("client-1", tally(1, ok=2))
    made.notice("client-1", tally(ok=5))
    assert counted(stats, "user") == (5 + 2 + 4, 0)


def test_an_overflow_has_an_entry_of_its_own_and_other_failures_say_what_they_are() -> None:
    made, stats = statistics()
    made.notice("client-1", tally(ok=1, overflow=2, reset=3))
    assert counted(stats, "user") == (4, 3)
    assert counted(stats, "user (overflow)") == (2, 2)
    assert {error.error: error.occurrences for error in stats.errors.values()} == {"overflow": 2, "reset": 3}


def test_an_overflow_is_forgiven_if_a_rule_was_there_at_any_moment_of_its_tally() -> None:
    made, stats = statistics()
    made.rule(True)
    made.rule(False)
    made.notice("client-1", tally(overflow=2), ended=True)
    assert counted(stats, "user (overflow)") == (2, 0)
    made.notice("client-1", tally(1, overflow=1))
    assert counted(stats, "user (overflow)") == (3, 1), "the next tally began without one"


def test_without_forgiveness_an_overflow_is_a_failure_with_a_rule_too() -> None:
    made, stats = statistics(forgiven=False)
    made.rule(True)
    made.notice("client-1", tally(overflow=2))
    assert counted(stats, "user (overflow)") == (2, 2)


def test_the_next_test_is_entered_under_its_own_name_from_the_beginning() -> None:
    made, stats = statistics()
    made.notice("client-1", tally(ok=3))
    made.begin("other", ["client-1"])
    made.notice("client-1", tally(ok=2))
    assert (counted(stats, "user"), counted(stats, "other")) == ((3, 0), (2, 0))


def test_times_are_entered_as_locust_would() -> None:
    made, stats = statistics()
    slow = tally(ok=1)
    slow.record(Outcome.OK, 1.2345, 200)
    made.notice("client-1", slow)
    theirs = RequestStats()
    for milliseconds in (20.0, 1234.5):
        theirs.log_request("GET", "user", milliseconds, 5)  # type: ignore[arg-type]  # Locust itself gives it floats
    entry, expected = stats.get("user", "GET"), theirs.get("user", "GET")
    assert entry.response_times == expected.response_times
    assert entry.max_response_time == pytest.approx(expected.max_response_time, rel=0.01)
    assert entry.min_response_time == pytest.approx(expected.min_response_time, rel=0.01)
    assert entry.avg_response_time == pytest.approx(expected.avg_response_time, rel=0.01)
