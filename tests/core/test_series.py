"""Do the seconds of a run add up to what its report says, whenever one looks, and in as much memory at any rate?"""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
import zlib
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import UsageError
from loadgen.outcome import Outcome
from loadgen.recorder import Histogram, Tally, merged
from loadgen.series import BETWEEN, Series, SeriesRecorder, TooLargeError

CLIENTS = ("client-1", "client-2")
PHASES = (BETWEEN, "baseline", BETWEEN, "limited", BETWEEN)


def copy(tally: Tally) -> Tally:
    """Give what another process would report of it now."""
    return Tally.from_snapshot(json.loads(json.dumps(tally.snapshot())))


def told(seed: int, *, per_second: int = 20) -> tuple[Series, dict[tuple[str, str], list[Tally]]]:
    """Have clients send for some seconds in each phase, looked at now and then, also by old news; give the series and the ended tallies."""
    rng = random.Random(seed)
    recorder, ended = SeriesRecorder(), dict[tuple[str, str], list[Tally]]()
    second, tallies = 0, {name: Tally() for name in CLIENTS}
    stale: list[tuple[str, Tally]] = []
    for number, phase in enumerate(PHASES):
        for name in CLIENTS:
            recorder.opens(name, number, phase)
        for _ in range(rng.randrange(1, 4)):
            for name, tally in tallies.items():
                for _ in range(rng.randrange(per_second)):
                    tally.record(rng.choice([Outcome.OK, Outcome.OK, Outcome.OVERFLOW, Outcome.TIMEOUT]), rng.expovariate(100.0))
                if rng.random() < 0.7:
                    stale.append((name, copy(tally)))
                    recorder.notice(second, name, tally if rng.random() < 0.5 else copy(tally))
                if stale and rng.random() < 0.5:
                    recorder.notice(second, *rng.choice(stale))
            second += 1
        for name, tally in tallies.items():
            recorder.complete(second, name, tally)
            ended.setdefault((name, phase), []).append(tally)
        tallies = {name: Tally(number + 1) for name in CLIENTS}
    return recorder.series(), ended


@given(st.integers(0, 10_000))
def test_the_rows_of_a_phase_add_up_to_its_tallies_exactly_whenever_one_looks(seed: int) -> None:
    series, ended = told(seed)
    rows: Counter[tuple[str, str, Outcome]] = Counter()
    for row in series.rows:
        rows[row.client, row.phase, row.outcome] += row.count
    for (client, phase), tallies in ended.items():
        assert {outcome: rows[client, phase, outcome] for outcome in Outcome} == merged(tallies).outcomes


@given(st.integers(0, 10_000))
def test_the_distributions_of_all_seconds_merge_to_that_of_the_run(seed: int) -> None:
    series, ended = told(seed)
    whole = merged(tally for tallies in ended.values() for tally in tallies)
    for outcome in Outcome:
        total = Histogram()
        for moment in series.moments:
            if moment.outcome is outcome:
                total.add(moment.latency)
        assert total.buckets == whole.latency[outcome].buckets
        assert total.max_s <= whole.latency[outcome].max_s * 1.01


def test_there_is_one_row_for_each_second_phase_client_and_outcome() -> None:
    series, _ = told(3)
    keys = [(row.second, row.phase, row.client, row.outcome) for row in series.rows]
    assert len(keys) == len(set(keys))


def test_latencies_of_a_row_are_those_of_its_second() -> None:
    recorder, tally = SeriesRecorder(), Tally()
    recorder.opens("client-1", 0, "baseline")
    for second, latency_s in enumerate((0.001, 0.1, 0.001)):
        for _ in range(10):
            tally.record(Outcome.OK, latency_s)
        recorder.notice(second, "client-1", tally)
    rows = recorder.series().rows
    assert [row.count for row in rows] == [10, 10, 10]
    assert [row.p50_s for row in rows] == pytest.approx([0.001, 0.1, 0.001], rel=0.01)
    assert [row.p99_s for row in rows] == pytest.approx([0.001, 0.1, 0.001], rel=0.01)


@given(st.integers(0, 10_000))
def test_what_is_told_late_of_a_second_counts_there_though_others_told_of_the_next(seed: int) -> None:
    """An edge of one client is found in the next second before the recorder has asked the others about the last one."""
    rng = random.Random(seed)
    recorder, sent = SeriesRecorder(), Counter[tuple[str, int]]()
    tallies = {name: Tally() for name in CLIENTS}
    for second in range(rng.randrange(1, 6)):
        for name in CLIENTS:
            early, count = rng.random() < 0.3, rng.randrange(1, 20)
            sent[name, second + early] += count
            for _ in range(count):
                tallies[name].record(Outcome.OK, 0.01)
            if early:
                recorder.complete(second + 1, name, tallies[name])
                tallies[name] = Tally(tallies[name].number + 1)
        for name in CLIENTS:
            recorder.notice(second, name, tallies[name])
        recorder.in_flight(second, 0)
    counts: Counter[tuple[str, int]] = Counter()
    for row in recorder.series().rows:
        counts[row.client, row.second] += row.count
    assert counts == sent


def test_a_second_that_is_ended_gets_no_second_row() -> None:
    recorder, tally = SeriesRecorder(), Tally()
    for told in (0, 1, 0):
        tally.record(Outcome.OK, 0.01)
        recorder.notice(told, "client-1", tally)
        recorder.in_flight(told, 0)
    assert [(row.second, row.count) for row in recorder.series().rows] == [(0, 1), (1, 2)]


def test_an_hour_of_a_run_takes_little_memory() -> None:
    rng, recorder, tally = random.Random(1), SeriesRecorder(), Tally()
    before = 0
    tracemalloc.start()
    for second in range(60):
        for _ in range(1_000):
            tally.record(Outcome.OK, rng.lognormvariate(-4, 0.6))
        recorder.notice(second, "client-1", tally)
        recorder.in_flight(second, 0)
        if second == 9:
            before, _ = tracemalloc.get_traced_memory()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / 50 * 3600 < 10e6


def test_what_is_told_late_of_a_tally_that_has_ended_counts_no_second_time() -> None:
    recorder, first, second = SeriesRecorder(), Tally(0), Tally(1)
    recorder.opens("client-1", 0, "baseline")
    recorder.opens("client-1", 1, "limited")
    first.record(Outcome.OK, 0.01)
    old = copy(first)
    recorder.complete(0, "client-1", first)
    recorder.notice(1, "client-1", old)
    second.record(Outcome.OVERFLOW, 0.001)
    recorder.notice(1, "client-1", second)
    assert [(row.second, row.phase, row.outcome, row.count) for row in recorder.series().rows] == [
        (0, "baseline", Outcome.OK, 1),
        (1, "limited", Outcome.OVERFLOW, 1),
    ]


def test_the_file_holds_everything_and_is_the_same_for_the_same_series() -> None:
    series, _ = told(5)
    series.in_flight[2] = 7
    again = Series.of_bytes(series.to_bytes())
    assert again.to_bytes() == series.to_bytes()
    assert [(row.second, row.phase, row.client, row.outcome, row.count) for row in again.rows] == [
        (row.second, row.phase, row.client, row.outcome, row.count) for row in series.rows
    ]
    assert [moment.latency.buckets for moment in again.moments] == [moment.latency.buckets for moment in series.moments]
    assert again.in_flight == {2: 7}


def test_ten_times_the_rate_makes_no_more_rows_and_hardly_a_larger_file() -> None:
    slow, fast = told(7, per_second=2_000)[0], told(7, per_second=20_000)[0]
    assert len(fast.rows) <= 3 * len(CLIENTS) * len({(row.second, row.phase) for row in fast.rows})
    assert len(fast.to_bytes()) < 4 * len(slow.to_bytes()), "only the buckets become fuller, which end some day"
    assert len(fast.to_bytes()) < 1_200 * len(fast.moments)


# By name: a gzip's header carries the second it was made in, and a test's name must be the same in every process.
DAMAGED = {
    "empty": b"",
    "not gzip": b"no gzip",
    "a list": gzip.compress(b"[]"),
    "no schema": gzip.compress(b"{}"),
    "a foreign version": gzip.compress(b'{"schema": "loadgen.series/v9"}'),
    "an unknown outcome": gzip.compress(b'{"schema": "loadgen.series/v1", "phases": [], "clients": [], "outcomes": ["no"], "rows": {}}'),
    "cut off": told(1)[0].to_bytes()[:-20],
}


def test_a_few_bytes_that_unpack_to_gigabytes_are_refused_without_unpacking_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.series.MAX_BYTES", 1 << 20)
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    tracemalloc.start()
    with pytest.raises(TooLargeError, match="unpacks to more than 1,048,576 bytes"):
        Series.of_bytes(bomb)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10 << 20


def test_a_foreign_version_is_repeated_shortly_and_harmlessly() -> None:
    with pytest.raises(UsageError, match=r"^the series is of version \\x1b\[31mx+, known is ") as caught:
        Series.of_bytes(gzip.compress(json.dumps({"schema": "\x1b[31m" + "x" * 1_000_000}).encode()))
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_series_is_said_to_be_none(data: Any) -> None:
    with pytest.raises(UsageError, match=r"no series of loadgen|is of version"):
        Series.of_bytes(data)
