"""How many requests ended how, and how long did they take? Counts and histograms that merge without loss and do not grow with the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

SUB_BUCKET_BITS = 7
"""Each power of two is cut into 128 buckets, so a bucket is at most 1/128 of its value wide: relative error below 0.8 %."""

_LINEAR = 2 << SUB_BUCKET_BITS
_NANOSECONDS = 1_000_000_000


def bucket_of(nanoseconds: int) -> int:
    """Give the index of the log-linear bucket of a value."""
    if nanoseconds < _LINEAR:
        return max(0, nanoseconds)
    shift = nanoseconds.bit_length() - SUB_BUCKET_BITS - 1
    return (shift << SUB_BUCKET_BITS) + (nanoseconds >> shift)


def value_of(bucket: int) -> float:
    """Give the middle of a bucket, in nanoseconds."""
    if bucket < _LINEAR:
        return float(bucket)
    shift = (bucket >> SUB_BUCKET_BITS) - 1
    low = (bucket - (shift << SUB_BUCKET_BITS)) << shift
    return low + ((1 << shift) - 1) / 2


class Histogram:
    """A sparse log-linear histogram of durations in seconds; at most some 4,100 buckets between 1 µs and 1 h."""

    __slots__ = ("buckets", "count", "max_s")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}
        self.count = 0
        self.max_s = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration."""
        bucket = bucket_of(int(seconds * _NANOSECONDS))
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.count += 1
        self.max_s = max(self.max_s, seconds)

    def add(self, other: Histogram) -> None:
        """Merge another histogram into this one; nothing is lost."""
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.count += other.count
        self.max_s = max(self.max_s, other.max_s)

    def quantile(self, share: float) -> float:
        """Give the duration in seconds that ``share`` (0 to 1) of the recorded ones do not exceed; 0 if there are none."""
        wanted = share * self.count
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                return min(value_of(bucket) / _NANOSECONDS, self.max_s)
        return self.max_s


class Tally:
    """What one client (or all, merged) saw in one phase.

    ``latency`` runs from the moment a request was due to its last byte, by outcome; ``lag`` from due to sent.
    ``server_overflow`` is the part of the overflow outcomes that the own sidecar did not make.
    """

    __slots__ = ("lag", "latency", "outcomes", "server_overflow")

    def __init__(self) -> None:
        self.outcomes: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self.latency: dict[Outcome, Histogram] = {outcome: Histogram() for outcome in Outcome}
        self.lag = Histogram()
        self.server_overflow = 0

    def record(self, outcome: Outcome, latency_s: float) -> None:
        """Count one request that ended."""
        self.outcomes[outcome] += 1
        self.latency[outcome].record(latency_s)

    def add(self, other: Tally) -> None:
        """Merge another tally into this one."""
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] += count
            self.latency[outcome].add(other.latency[outcome])
        self.lag.add(other.lag)
        self.server_overflow += other.server_overflow

    @property
    def requests(self) -> int:
        """All requests that were due and ended, the unsent ones included."""
        return sum(self.outcomes.values())

    @property
    def sidecar_overflow(self) -> int:
        """The overflows that the own sidecar's counters must know."""
        return self.outcomes[Outcome.OVERFLOW] - self.server_overflow


def merged(tallies: Iterable[Tally]) -> Tally:
    """Merge tallies into a new one."""
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total
