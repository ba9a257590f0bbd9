"""How many requests ended how, and how long did they take? Counts and histograms that merge without loss and do not grow with the run.

The law of the hot path: to record is to append to a list, which costs some 30 ns. ``fold`` turns what was appended into buckets,
hundreds at a time and in C: the upper half of an IEEE 754 single is a sign, 8 bits of exponent and 7 of mantissa, and so *is* the number
of a log-linear bucket. Everything that is merged is an integer or a maximum, so merging is exact, whatever the order.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections import Counter
from dataclasses import dataclass
from operator import mul
from typing import TYPE_CHECKING, Any

from loadgen.cause import UNANSWERED, Found, MadeBy, let_through
from loadgen.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FOLD_AT = 4096
"""``record`` folds by itself when so many are waiting."""
INFINITE_BUCKET = 0x7F80
"""The buckets of finite durations have smaller numbers."""

MOST = 1 << 53
"""No count that comes from outside is read as more: beyond it a float is not exact, and nobody counts so far."""
LONGEST_S = 2e6
"""No time that comes from outside is read as longer: 20 phases of 24 h take 1.73 million seconds."""

_UPPER_HALF = 1 if sys.byteorder == "little" else 0
_NANOSECONDS = 1_000_000_000


BUCKETS = 0x7F7F
"""Every bucket's number is below this: the upper half of a finite, positive float of 32 bits."""


def buckets_of(durations: Iterable[float]) -> array[int]:
    """Give the bucket of each duration; none may be below zero.

    Each power of two is cut into 128 buckets, so a bucket is at most 1/128 of its value wide: relative error below 0.8 %.
    """
    singles = array("f", durations)
    return array("H", singles.tobytes())[_UPPER_HALF::2]


def value_of(bucket: int) -> float:
    """Give the middle of a bucket, in seconds."""
    if not bucket:
        return 0.0
    middle: float = struct.unpack("<f", struct.pack("<I", (bucket << 16) + (1 << 15)))[0]
    return middle


class Waiting:
    """Durations in seconds that were recorded and are in no bucket yet: ``singles``, and ``runs`` of equal ones.

    A run is a duration, and how often it counts. None may be below zero.
    """

    __slots__ = ("runs", "singles")

    def __init__(self) -> None:
        self.singles: list[float] = []
        self.runs: list[tuple[float, int]] = []

    @property
    def count(self) -> int:
        """How many durations wait."""
        return len(self.singles) + sum(count for _, count in self.runs)


class Histogram:
    """A sparse log-linear histogram of durations in seconds; at most some 4,100 buckets between 1 µs and 1 h.

    Who appends to ``waiting`` directly, as the hot path does, must ``fold`` now and then; reading folds.
    """

    __slots__ = ("_buckets", "_count", "_max_s", "_sum_ns", "waiting")

    def __init__(self) -> None:
        self.waiting = Waiting()
        self._buckets: Counter[int] = Counter()
        self._count = 0
        self._sum_ns = 0
        self._max_s = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration; one below zero counts as none."""
        singles = self.waiting.singles
        singles.append(max(0.0, seconds))
        if len(singles) >= FOLD_AT:
            self.fold()

    def record_zeros(self, count: int) -> None:
        """Count durations of no length."""
        if count:
            self._buckets[0] += count
            self._count += count

    def fold(self) -> None:
        """Turn what waits into buckets."""
        self.take(self.waiting)

    def take(self, waiting: Waiting) -> int:
        """Turn what waits there into buckets here, and say how many durations that were."""
        before = self._count
        singles, runs = waiting.singles, waiting.runs
        if singles:
            self._buckets.update(buckets_of(singles))
            self._count += len(singles)
            self._sum_ns += round(sum(singles) * _NANOSECONDS)
            longest = max(singles)
            self._max_s = max(self._max_s, longest)
            singles.clear()
        if runs:
            durations, counts = zip(*runs, strict=True)
            for bucket, count in zip(buckets_of(durations), counts, strict=True):
                self._buckets[bucket] += count
            self._count += sum(counts)
            self._sum_ns += round(sum(map(mul, durations, counts)) * _NANOSECONDS)
            longest = max(durations)
            self._max_s = max(self._max_s, longest)
            runs.clear()
        return self._count - before

    @property
    def buckets(self) -> Counter[int]:
        """How many durations are in which bucket."""
        self.fold()
        return self._buckets

    @property
    def count(self) -> int:
        """How many durations were recorded."""
        return self._count + self.waiting.count

    @property
    def max_s(self) -> float:
        """The longest, exactly."""
        self.fold()
        return self._max_s

    @property
    def sum_s(self) -> float:
        """All of them together, to the nanosecond."""
        self.fold()
        return self._sum_ns / _NANOSECONDS

    def add(self, other: Histogram) -> None:
        """Merge another histogram into this one; nothing is lost."""
        self.buckets.update(other.buckets)
        self._count += other._count
        self._sum_ns += other._sum_ns
        self._max_s = max(self._max_s, other._max_s)

    def quantile(self, share: float) -> float:
        """Give the duration in seconds that ``share`` (0 to 1) of the recorded ones do not exceed; 0 if there are none.

        That of all of them is the longest, exactly; any other is known as well as its bucket.
        """
        if share >= 1:
            return self.max_s
        wanted = share * self.count
        seen, buckets = 0, self.buckets
        for bucket in sorted(buckets):
            seen += buckets[bucket]
            if seen >= wanted:
                return min(value_of(bucket), self.max_s)
        return self.max_s

    def snapshot(self) -> dict[str, Any]:
        """Give everything that this histogram knows, as JSON can hold it."""
        return {
            "buckets": {str(bucket): count for bucket, count in self.buckets.items()},
            "sum_ns": self._sum_ns,
            "max_s": self._max_s,
        }

    @classmethod
    def from_snapshot(cls, snapshot: dict[str, Any]) -> Histogram:
        """Make the histogram that a snapshot was taken of."""
        histogram = cls()
        histogram._buckets = Counter({int(bucket): count for bucket, count in snapshot["buckets"].items()})
        histogram._count = histogram._buckets.total()
        histogram._sum_ns = snapshot["sum_ns"]
        histogram._max_s = snapshot["max_s"]
        return histogram

    @classmethod
    def of_buckets(cls, buckets: Mapping[int, int], *, sum_s: float, at_most_s: float) -> Histogram:
        """Make a histogram of counts by bucket; the longest is not known better than by its bucket, and is no longer than ``at_most_s``."""
        histogram = cls()
        histogram._buckets = Counter(buckets)
        histogram._count = histogram._buckets.total()
        histogram._sum_ns = round(sum_s * _NANOSECONDS)
        histogram._max_s = min(at_most_s, value_of(max(buckets) + 1)) if buckets else 0.0
        return histogram


@dataclass(frozen=True, slots=True)
class Passage:
    """How many requests the own sidecar let through: ok, and every answer from beyond it. Of ``untold`` it is not known: timeouts, resets.

    The others it rejected, or they did not even reach it (``cause.let_through``).
    """

    let_through: int = 0
    untold: int = 0

    def plus(self, other: Passage) -> Passage:
        """Add what became of further requests."""
        return Passage(self.let_through + other.let_through, self.untold + other.untold)

    def since(self, earlier: Passage) -> Passage:
        """Give what became of the requests between two moments."""
        return Passage(self.let_through - earlier.let_through, self.untold - earlier.untold)


class Tally:
    """What one client (or all, merged) saw in one phase.

    ``latency`` runs from the moment a request was due to its last byte, by outcome; ``lag`` from due to sent, and of requests that are
    written in one go it is the last one's; ``loop_lag`` is how late the event loop itself got to run. ``statuses`` counts complete responses by HTTP status. ``server_overflow`` is the part of the overflow
    outcomes that the own sidecar did not make. ``connect_errors`` says why connections could not be opened, by the system's name of the
    error (a small closed set). ``flow_failures`` says what went wrong in the code of a flow, in as many kinds as its carrier tells apart.
    ``bursts`` says how many bursts had so many of their requests let through by the own sidecar; ``untold_bursts`` are those with requests of which
    that is not known, and ``cut_bursts`` those of which the tally has a part only.
    ``number`` says which of its load's tallies it is, from 0 on.
    """

    __slots__ = (
        "_causes",
        "_latency",
        "_statuses",
        "_waiting",
        "bursts",
        "connect_errors",
        "cut_bursts",
        "flow_failures",
        "lag",
        "loop_lag",
        "number",
        "server_overflow",
        "untold_bursts",
    )

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self._latency: dict[Outcome, Histogram] = {outcome: Histogram() for outcome in Outcome}
        self._statuses: Counter[int] = Counter()
        self._causes: Counter[Found] = Counter()
        self._waiting: dict[tuple[Outcome, int, Found | None], Waiting] = {}
        self.lag = Histogram()
        self.loop_lag = Histogram()
        self.server_overflow = 0
        self.connect_errors: Counter[str] = Counter()
        self.flow_failures: Counter[str] = Counter()
        self.bursts: Counter[int] = Counter()
        self.untold_bursts = 0
        self.cut_bursts = 0

    def waiting(self, outcome: Outcome, status: int = 0, cause: Found | None = None) -> Waiting:
        """Give where the latencies of requests wait that ended so; ``status`` is 0 without a complete response.

        ``cause`` is that of a response that was neither ok nor an overflow by the own sidecar. Who appends must ``fold`` now and then.
        """
        key = outcome, status, cause
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = Waiting()
        return waiting

    def record(self, outcome: Outcome, latency_s: float, status: int = 0, cause: Found | None = None) -> None:
        """Count one request that ended."""
        singles = self.waiting(outcome, status, cause).singles
        singles.append(max(0.0, latency_s))
        if len(singles) >= FOLD_AT:
            self.fold()

    def fold(self) -> None:
        """Bound the memory: turn what was recorded since the last time into buckets."""
        for (outcome, status, cause), waiting in self._waiting.items():
            ended = self._latency[outcome].take(waiting)
            if ended and status:
                self._statuses[status] += ended
            if ended and cause:
                self._causes[cause] += ended
        self.lag.fold()

    def add(self, other: Tally) -> None:
        """Merge another tally into this one."""
        for outcome, histogram in self.latency.items():
            histogram.add(other.latency[outcome])
        self._statuses.update(other._statuses)
        self._causes.update(other._causes)
        self.lag.add(other.lag)
        self.loop_lag.add(other.loop_lag)
        self.server_overflow += other.server_overflow
        self.connect_errors.update(other.connect_errors)
        self.flow_failures.update(other.flow_failures)
        self.bursts.update(other.bursts)
        self.untold_bursts += other.untold_bursts
        self.cut_bursts += other.cut_bursts

    @property
    def latency(self) -> dict[Outcome, Histogram]:
        """How long the requests took that ended so."""
        self.fold()
        return self._latency

    @property
    def statuses(self) -> Counter[int]:
        """How many complete responses had which HTTP status."""
        self.fold()
        return self._statuses

    @property
    def causes(self) -> Counter[Found]:
        """How many requests had which cause, of all that were neither ok nor marked by the own sidecar as its overflows."""
        unanswered = {Found(cause, MadeBy.UNKNOWN): self.latency[outcome].count for outcome, cause in UNANSWERED.items()}
        return self._causes + Counter(unanswered)

    @property
    def passage(self) -> Passage:
        """How many requests got past the own sidecar."""
        found = [(let_through(each), count) for each, count in self.causes.items()]
        passed = sum(count for passed_on, count in found if passed_on)
        return Passage(self._latency[Outcome.OK].count + passed, sum(count for passed_on, count in found if passed_on is None))

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """How many requests ended how."""
        return {outcome: histogram.count for outcome, histogram in self.latency.items()}

    @property
    def requests(self) -> int:
        """All requests that were due and ended, the unsent ones included."""
        return sum(self.outcomes.values())

    @property
    def sidecar_overflow(self) -> int:
        """The overflows that the own sidecar's counters must know."""
        return self.latency[Outcome.OVERFLOW].count - self.server_overflow

    def __reduce__(self) -> tuple[Any, ...]:
        return Tally.from_snapshot, (self.snapshot(),)  # another process gets the snapshot

    def snapshot(self) -> dict[str, Any]:
        """Give everything that this tally knows, as JSON can hold it."""
        return {
            "number": self.number,
            "latency": {outcome.value: histogram.snapshot() for outcome, histogram in self.latency.items() if histogram.count},
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "causes": {str(found): count for found, count in self._causes.items()},
            "lag": self.lag.snapshot(),
            "loop_lag": self.loop_lag.snapshot(),
            "server_overflow": self.server_overflow,
            "connect_errors": dict(self.connect_errors),
            "flow_failures": dict(self.flow_failures),
            "bursts": {str(admitted): count for admitted, count in self.bursts.items()},
            "untold_bursts": self.untold_bursts,
            "cut_bursts": self.cut_bursts,
        }

    @classmethod
    def from_snapshot(cls, snapshot: dict[str, Any]) -> Tally:
        """Make the tally that a snapshot was taken of."""
        tally = cls(snapshot["number"])
        for outcome, histogram in snapshot["latency"].items():
            tally._latency[Outcome(outcome)] = Histogram.from_snapshot(histogram)
        tally._statuses = Counter({int(status): count for status, count in snapshot["statuses"].items()})
        tally._causes = Counter({Found.parse(found): count for found, count in snapshot["causes"].items()})
        tally.lag = Histogram.from_snapshot(snapshot["lag"])
        tally.loop_lag = Histogram.from_snapshot(snapshot["loop_lag"])
        tally.server_overflow = snapshot["server_overflow"]
        tally.connect_errors = Counter(snapshot["connect_errors"])
        tally.flow_failures = Counter(snapshot["flow_failures"])
        tally.bursts = Counter({int(admitted): count for admitted, count in snapshot["bursts"].items()})
        tally.untold_bursts = snapshot["untold_bursts"]
        tally.cut_bursts = snapshot["cut_bursts"]
        return tally


def merged(tallies: Iterable[Tally]) -> Tally:
    """Merge tallies into a new one."""
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total
