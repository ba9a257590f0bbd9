"""What happened in which second? Counts and latencies by second, phase, client and outcome, in as much memory at any rate.

The law: a request is in exactly one row, that of the second in which its end was noticed, so the rows of a phase add up to what the report
says of it, exactly. What is noticed is what a client's present tally has more than at the last look; a tally has a number, so that what is
told late counts where it belongs. A second is open until one has heard of all clients after it, for some tell of it before others do. Requests
between two phases have no phase.
"""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from loadgen.errors import UsageError, repeated
from loadgen.outcome import Outcome
from loadgen.recorder import BUCKETS, LONGEST_S, MOST, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from loadgen.recorder import Tally
    from loadgen.totals import Totals

T = TypeVar("T")

SCHEMA = "loadgen.series/v1"
BETWEEN = ""
"""The phase of what ended between two phases."""
MAX_BYTES = 256 << 20
"""The largest series that is read, unpacked; one of ten clients reaches it after more than a day, one of 200 clients after some six hours."""
_GZIP = 16 + zlib.MAX_WBITS
_OUTCOMES = list(Outcome)
_COLUMNS = {"second": "I", "phase": "H", "client": "H", "outcome": "B", "count": "Q", "p50_s": "f", "p99_s": "f"}
_DIGITS = 6


class TooLargeError(UsageError):
    """A series is larger than what is read; a report can do without it."""


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


class Packed:
    """A distribution of latencies in a fiftieth of the memory that its buckets take: a run of a day has some 100,000 of them."""

    __slots__ = ("_max_s", "_numbers", "_sum_s", "count")

    def __init__(self, sum_s: float, max_s: float, numbers: list[int], count: int) -> None:
        self.count = count
        self._sum_s = sum_s
        self._max_s = max_s
        self._numbers = zlib.compress(json.dumps(numbers, separators=(",", ":")).encode(), 1)
        """For each bucket its distance from the one before and its count, in turn."""

    @classmethod
    def of(cls, latency: Histogram) -> Self:
        """Pack a distribution."""
        numbers, last = list[int](), 0
        for bucket in sorted(latency.buckets):
            numbers += (bucket - last, latency.buckets[bucket])
            last = bucket
        return cls(latency.sum_s, latency.max_s, numbers, latency.count)

    @classmethod
    def of_file(cls, sum_s: object, max_s: object, numbers: list[object]) -> Self:
        """Take what ``to_file`` wrote.

        Raises ValueError or TypeError if it is no distribution.
        """
        steps = [_whole(step, BUCKETS) for step in numbers[::2]]
        counts = [_whole(count, MOST) for count in numbers[1::2]]
        if len(steps) != len(counts) or sum(steps) >= BUCKETS or not all(steps[1:]):
            raise ValueError("no buckets in ascending order")
        pairs = zip(steps, counts, strict=True)
        return cls(_seconds(sum_s, MOST), _seconds(max_s), list(itertools.chain.from_iterable(pairs)), sum(counts))

    def to_file(self) -> str:
        """Write sum, longest and buckets as the series' file holds them."""
        return f"{round(self._sum_s, _DIGITS)},{round(self._max_s, _DIGITS)},{zlib.decompress(self._numbers).decode()}"

    def unpacked(self) -> Histogram:
        """Give the distribution."""
        numbers = json.loads(zlib.decompress(self._numbers))
        counts = dict(zip(itertools.accumulate(numbers[::2]), numbers[1::2], strict=True))
        return Histogram.of_buckets(counts, sum_s=self._sum_s, at_most_s=self._max_s)


class Moment:
    """What all clients together saw in one second of one phase with one outcome: the whole distribution of the latencies."""

    __slots__ = ("_latency", "outcome", "phase", "second")

    def __init__(self, second: int, phase: str, outcome: Outcome, latency: Histogram | Packed) -> None:
        self.second = second
        self.phase = phase
        self.outcome = outcome
        self._latency = latency if isinstance(latency, Packed) else Packed.of(latency)

    @property
    def latency(self) -> Histogram:
        """The distribution, unpacked for whoever asks."""
        return self._latency.unpacked()

    @property
    def count(self) -> int:
        """How many requests."""
        return self._latency.count

    def to_file(self, phases: list[str]) -> str:
        """Write the moment as the series' file holds it, a list in JSON."""
        return f"[{self.second},{phases.index(self.phase)},{_OUTCOMES.index(self.outcome)},{self._latency.to_file()}]"


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
            "in_flight": sorted(self.in_flight.items()),
        }
        head = json.dumps(document, separators=(",", ":")).removesuffix("}")
        moments = ",".join(moment.to_file(phases) for moment in self.moments)  # as text: a day's numbers take gigabytes
        return gzip.compress(f'{head},"moments":[{moments}]}}'.encode(), mtime=0)

    def requests_of(self, phase: str) -> dict[str, int]:
        """Give how many requests of a phase ended how; an outcome that did not occur is left out."""
        counts: Counter[str] = Counter()
        for moment in self.moments:
            if moment.phase == phase:
                counts[moment.outcome.value] += moment.count
        return dict(+counts)

    @classmethod
    def of_bytes(cls, data: bytes) -> Self:
        """Read what ``to_bytes`` wrote.

        Raises UsageError if it is not that, and TooLargeError if it unpacks to more than ``MAX_BYTES``.
        """
        try:
            document = json.loads(_inflated(data))
            if document["schema"] != SCHEMA:
                version = repeated(document["schema"])
                raise UsageError(f"the series is of version {version}, known is {SCHEMA}", hint="use the loadgen that wrote it")
            phases = [str(each) for each in document["phases"]]
            clients = [str(each) for each in document["clients"]]
            outcomes = [Outcome(each) for each in document["outcomes"]]
            columns = zip(*(document["rows"][name] for name in _COLUMNS), strict=True)
            rows = [
                Row(_second(second), _at(phases, p), _at(clients, c), _at(outcomes, o), _whole(n, MOST), _seconds(p50), _seconds(p99))
                for second, p, c, o, n, p50, p99 in columns
            ]
            moments = [
                Moment(_second(second), _at(phases, phase), _at(outcomes, outcome), Packed.of_file(*latency))
                for second, phase, outcome, *latency in document["moments"]
            ]
            return cls(rows, moments, {_second(second): _whole(count, MOST) for second, count in document["in_flight"]})
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
            raise UsageError(
                "this is no series of loadgen's, or it is damaged",
                hint="take the file as the run wrote it, or move it away: its report is read without it, too",
            ) from error


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
        self._open = 0
        """The first second that is not ended."""
        self._fresh: dict[int, dict[tuple[int, int, Outcome], Histogram]] = {}
        """What was noticed, by second that is open, client, tally and outcome."""
        self._columns: dict[str, array[Any]] = {name: array(code) for name, code in _COLUMNS.items()}
        self._moments: dict[tuple[int, int, Outcome], Packed] = {}
        self._in_flight: dict[int, int] = {}

    def opens(self, client: str, number: int, phase: str) -> None:
        """Say that this tally of a client is what it counts of a phase."""
        self._phases[self._name(client), number] = phase
        if self._totals is not None:
            self._totals.opens(client, number, phase)

    def notice(self, second: int, client: str, tally: Tally) -> None:
        """Take in what the present tally of a client says in a second, or at its end. One that is complete already is stale news.

        What is told of a second that is ended counts in the first one that is open.
        """
        name = self._name(client)
        if tally.number <= self._done.get(name, -1):
            return
        fresh = self._fresh.setdefault(max(second, self._open), {})
        seen = self._seen.setdefault((name, tally.number), {})
        for outcome, histogram in tally.latency.items():
            before = seen.get(outcome)
            if histogram.count > (before.count if before is not None else 0):
                more = _difference(histogram, before)
                fresh.setdefault((name, tally.number, outcome), Histogram()).add(more)
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
        """Take in how many requests are in flight at the end of a second, when all clients were heard of: what came before it is ended."""
        self._in_flight[second] = count
        self._end(before=second)

    def series(self) -> Series:
        """Give what was noticed until now."""
        self._end(before=max(self._fresh, default=-1) + 1)
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

    def _end(self, *, before: int) -> None:
        """End the seconds before this one: they get nothing more."""
        self._open = max(self._open, before)
        for second in sorted(each for each in self._fresh if each < before):
            together: dict[tuple[int, Outcome], Histogram] = {}
            for (name, number, outcome), latency in self._fresh.pop(second).items():
                values = (second, number, name, _OUTCOMES.index(outcome), latency.count, latency.quantile(0.5), latency.quantile(0.99))
                for column, value in zip(self._columns.values(), values, strict=True):
                    column.append(value)
                together.setdefault((number, outcome), Histogram()).add(latency)
            self._moments |= {(second, *key): Packed.of(latency) for key, latency in together.items()}


def _inflated(data: bytes) -> bytes:
    """Unpack a file's gzip, and no more of it than is read: a few bytes can stand for gigabytes."""
    unpacker = zlib.decompressobj(_GZIP)
    text = unpacker.decompress(data, MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise TooLargeError(f"the series unpacks to more than {MAX_BYTES:,} bytes", hint="it lies beside its report.json")
    if not unpacker.eof or unpacker.unused_data:
        raise EOFError
    return text


def _whole(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(value)
    return value


def _second(value: object) -> int:
    return _whole(value, int(LONGEST_S))


def _at(names: Sequence[T], place: object) -> T:
    return names[_whole(place, len(names) - 1)]


def _seconds(value: object, most: float = LONGEST_S) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:  # nor is NaN
        raise ValueError(value)
    return float(value)


def _difference(histogram: Histogram, before: Histogram | None) -> Histogram:
    """Give what a histogram has more than it had before; its longest is that of the whole, or of its highest new bucket."""
    if before is None:
        before = Histogram()
    known = before.buckets.get
    more = {bucket: count - known(bucket, 0) for bucket, count in histogram.buckets.items() if count > known(bucket, 0)}
    return Histogram.of_buckets(more, sum_s=max(0.0, histogram.sum_s - before.sum_s), at_most_s=histogram.max_s)
