"""What happened in which second? Counts and latencies by second, phase, client and outcome, in as much memory at any rate.

The law: a request is in exactly one row, that of the second in which its end was noticed, so the rows of a phase add up to what the report
says of it, exactly. What is noticed is what a client's present tally has more than at the last look; a tally has a number, so that what is
told late counts where it belongs. Requests between two phases have no phase.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import zlib
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from loadgen.errors import UsageError
from loadgen.outcome import Outcome
from loadgen.recorder import BUCKETS, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loadgen.recorder import Tally
    from loadgen.totals import Totals

SCHEMA = "loadgen.series/v1"
BETWEEN = ""
"""The phase of what ended between two phases."""
_OUTCOMES = list(Outcome)
_COLUMNS = {"second": "I", "phase": "H", "client": "H", "outcome": "B", "count": "Q", "p50_s": "f", "p99_s": "f"}
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Row:
    """What one client saw in one second of one phase with one outcome. Seconds count from the start of the load; latencies are in seconds."""

    second: int
    phase: str
    client: str
    outcome: Outcome
    count: int
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Moment:
    """What all clients together saw in one second of one phase with one outcome: the whole distribution of the latencies."""

    second: int
    phase: str
    outcome: Outcome
    latency: Histogram


class Series:
    """A whole run by the second. ``in_flight`` is what was in flight at the end of each second, all clients together."""

    def __init__(self, rows: list[Row], moments: list[Moment], in_flight: Mapping[int, int]) -> None:
        self.rows = rows
        self.moments = moments
        self.in_flight = dict(in_flight)

    def to_bytes(self) -> bytes:
        """Write the series as its file holds it: JSON in columns, packed with gzip."""
        phases = list(dict.fromkeys([BETWEEN, *(row.phase for row in self.rows), *(moment.phase for moment in self.moments)]))
        clients = list(dict.fromkeys(row.client for row in self.rows))
        columns: dict[str, list[Any]] = {
            "second": [row.second for row in self.rows],
            "phase": [phases.index(row.phase) for row in self.rows],
            "client": [clients.index(row.client) for row in self.rows],
            "outcome": [_OUTCOMES.index(row.outcome) for row in self.rows],
            "count": [row.count for row in self.rows],
            "p50_s": [round(row.p50_s, _DIGITS) for row in self.rows],
            "p99_s": [round(row.p99_s, _DIGITS) for row in self.rows],
        }
        document = {
            "schema": SCHEMA,
            "phases": phases,
            "clients": clients,
            "outcomes": _OUTCOMES,
            "rows": columns,
            "moments": [
                [each.second, phases.index(each.phase), _OUTCOMES.index(each.outcome), *_packed(each.latency)] for each in self.moments
            ],
            "in_flight": sorted(self.in_flight.items()),
        }
        return gzip.compress(json.dumps(document, separators=(",", ":")).encode(), mtime=0)

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Read what ``to_bytes`` wrote.

        Raises UsageError if it is not that.
        """
        try:
            document = json.loads(gzip.decompress(data))
            if document["schema"] != SCHEMA:
                raise UsageError(f"the series is of version {document['schema']}, known is {SCHEMA}", hint="use the loadgen that wrote it")
            phases, clients = document["phases"], document["clients"]
            outcomes = [Outcome(each) for each in document["outcomes"]]
            columns = zip(*(document["rows"][name] for name in _COLUMNS), strict=True)
            rows = [
                Row(int(second), str(phases[p]), str(clients[c]), outcomes[o], int(n), _finite(p50), _finite(p99))
                for second, p, c, o, n, p50, p99 in columns
            ]
            moments = [
                Moment(int(second), str(phases[phase]), outcomes[outcome], _unpacked(*latency))
                for second, phase, outcome, *latency in document["moments"]
            ]
            return cls(rows, moments, {int(second): int(count) for second, count in document["in_flight"]})
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
            raise UsageError("this is no series of loadgen's, or it is damaged", hint="it lies beside its report.json") from error


class SeriesRecorder:
    """Notices, second by second, what the clients' tallies have more than before. Seconds are numbered from the start of the load.

    ``totals``, if there are any, hear of every tally that begins to count or has ended.
    """

    def __init__(self, totals: Totals | None = None) -> None:
        self._totals = totals
        self._names: dict[str, int] = {}
        self._seen: dict[tuple[int, int], dict[Outcome, Histogram]] = {}
        """What was noticed until now, by client and tally."""
        self._done: dict[int, int] = {}
        """By client: the number of the last tally that is complete."""
        self._phases: dict[tuple[int, int], str] = {}
        self._second = 0
        self._fresh: dict[tuple[int, int, Outcome], Histogram] = {}
        """What was noticed in the present second, by client, tally and outcome."""
        self._columns: dict[str, array[Any]] = {name: array(code) for name, code in _COLUMNS.items()}
        self._moments: dict[tuple[int, int, Outcome], Histogram] = {}
        self._in_flight: dict[int, int] = {}

    def opens(self, client: str, number: int, phase: str) -> None:
        """Say that this tally of a client is what it counts of a phase."""
        self._phases[self._name(client), number] = phase
        if self._totals is not None:
            self._totals.opens(client, number, phase)

    def notice(self, second: int, client: str, tally: Tally) -> None:
        """Take in what the present tally of a client says in a second, or at its end. One that is complete already is stale news."""
        name = self._name(client)
        if tally.number <= self._done.get(name, -1):
            return
        if second > self._second:
            self._end_second()
            self._second = second
        seen = self._seen.setdefault((name, tally.number), {})
        for outcome, histogram in tally.latency.items():
            before = seen.get(outcome)
            if histogram.count > (before.count if before is not None else 0):
                more = _difference(histogram, before)
                self._fresh.setdefault((name, tally.number, outcome), Histogram()).add(more)
                seen.setdefault(outcome, Histogram()).add(more)

    def complete(self, second: int, client: str, tally: Tally) -> None:
        """Take in a tally that has ended: it gets nothing more."""
        self.notice(second, client, tally)
        if self._totals is not None:
            self._totals.complete(client, tally)
        name = self._name(client)
        self._done[name] = max(tally.number, self._done.get(name, -1))
        for key in [key for key in self._seen if key[0] == name and key[1] <= tally.number]:
            del self._seen[key]

    def in_flight(self, second: int, count: int) -> None:
        """Take in how many requests are in flight in a second."""
        self._in_flight[second] = count

    def series(self) -> Series:
        """Give what was noticed until now."""
        self._end_second()
        names = list(self._names)
        rows = [
            Row(second, self._phases.get((name, number), BETWEEN), names[name], _OUTCOMES[outcome], count, p50_s, p99_s)
            for second, number, name, outcome, count, p50_s, p99_s in zip(*self._columns.values(), strict=True)
        ]
        return Series(rows, list(self._all_moments()), self._in_flight)

    def _all_moments(self) -> Iterator[Moment]:
        phases = {number: phase for (_, number), phase in self._phases.items()}
        for (second, number, outcome), latency in self._moments.items():
            yield Moment(second, phases.get(number, BETWEEN), outcome, latency)

    def _name(self, client: str) -> int:
        return self._names.setdefault(client, len(self._names))

    def _end_second(self) -> None:
        for (name, number, outcome), latency in self._fresh.items():
            values = (self._second, number, name, _OUTCOMES.index(outcome), latency.count, latency.quantile(0.5), latency.quantile(0.99))
            for column, value in zip(self._columns.values(), values, strict=True):
                column.append(value)
            self._moments.setdefault((self._second, number, outcome), Histogram()).add(latency)
        self._fresh.clear()


def _packed(latency: Histogram) -> list[Any]:
    """Give a distribution in few bytes: sum, longest, and for each bucket its distance from the one before and its count, in turn."""
    numbers, last = list[int](), 0
    for bucket in sorted(latency.buckets):
        numbers += (bucket - last, latency.buckets[bucket])
        last = bucket
    return [round(latency.sum_s, _DIGITS), round(latency.max_s, _DIGITS), numbers]


def _unpacked(sum_s: float, max_s: float, numbers: list[int]) -> Histogram:
    buckets = list(itertools.accumulate(map(int, numbers[::2])))
    if not all(0 <= bucket < BUCKETS for bucket in buckets):
        raise ValueError(buckets)
    counts = dict(zip(buckets, map(int, numbers[1::2]), strict=True))
    return Histogram.of_buckets(counts, sum_s=_finite(sum_s), at_most_s=_finite(max_s))


def _finite(seconds: float) -> float:
    if not math.isfinite(seconds):
        raise ValueError(seconds)
    return float(seconds)


def _difference(histogram: Histogram, before: Histogram | None) -> Histogram:
    """Give what a histogram has more than it had before; its longest is that of the whole, or of its highest new bucket."""
    if before is None:
        before = Histogram()
    known = before.buckets.get
    more = {bucket: count - known(bucket, 0) for bucket, count in histogram.buckets.items() if count > known(bucket, 0)}
    return Histogram.of_buckets(more, sum_s=max(0.0, histogram.sum_s - before.sum_s), at_most_s=histogram.max_s)
