"""How sure is a figure of one phase? Its seconds are drawn again and again, and how much the figure varies from draw to draw tells.

The law: neighbouring seconds hang together (a slow second is followed by another), so whole blocks of them are drawn, around the end to the
beginning. A block is as long as the cube root of the phase; a variance from few blocks is not known well either, so an interval is Student's.
Blocks that overlap tell half as much again as those that do not.
Everything is decided by the seed.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadgen.recorder import value_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REPLICATES = 400
"""So many draws give a standard deviation to within 4 %."""
MIN_SECONDS = 4
"""A phase of fewer seconds says nothing about its own noise."""
_NORMAL_FROM = 200.0
SHORTEST_S = 1e-7


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and what its variance is made of: each part with its degrees of freedom. None if nothing is known of it."""

    value: float
    parts: tuple[tuple[float, float], ...] | None

    def times(self, factor: float) -> Estimate:
        """Give the estimate of a multiple of the figure."""
        parts = None if self.parts is None else tuple((variance * factor**2, freedom) for variance, freedom in self.parts)
        return Estimate(self.value * factor, parts)

    def minus(self, other: Estimate) -> Estimate:
        """Give the estimate of the difference of two figures that do not hang together."""
        parts = None if self.parts is None or other.parts is None else self.parts + other.parts
        return Estimate(self.value - other.value, parts)

    def half_width(self, alpha: float) -> float | None:
        """Give how far the true figure may lie above the estimate, with ``alpha`` to be wrong, and as far below; None if that is not known."""
        if self.parts is None:
            return None
        variance = sum(part for part, _ in self.parts)
        spread = sum(part**2 / freedom for part, freedom in self.parts)
        return student(variance**2 / spread, alpha) * math.sqrt(variance) if spread else 0.0  # Welch and Satterthwaite's freedom


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """Give the mean of the same figure of several runs; they may vary more among themselves than each does from second to second.

    Without anything known about each, several runs still tell by how much they differ.
    """
    runs = len(estimates)
    value = statistics.mean(estimate.value for estimate in estimates)
    known = [estimate.parts for estimate in estimates if estimate.parts is not None]
    within = tuple((variance / runs**2, freedom) for parts in known for variance, freedom in parts) if len(known) == runs else None
    if runs == 1:
        return Estimate(value, within)
    more = statistics.variance(estimate.value for estimate in estimates) / runs - sum(variance for variance, _ in within or ())
    return Estimate(value, (*(within or ()), (max(0.0, more), runs - 1)))


class Draws:
    """Which seconds the drawn phases are made of. ``seconds`` is how many the phase has, at least ``MIN_SECONDS``."""

    def __init__(self, seconds: int, seed: str) -> None:
        self.block = max(1, int(seconds ** (1 / 3) + 1e-9))
        self._freedom = max(1.0, seconds / self.block * (1.5 if self.block > 1 else 1) - 1)
        self._seconds = seconds
        rng = random.Random(seed)
        self._starts = [rng.choices(range(seconds), k=max(1, round(seconds / self.block))) for _ in range(REPLICATES)]

    def sums(self, column: Sequence[float]) -> list[float]:
        """Give the sum over each drawn phase of what a column has for every second."""
        blocks = self._blocks(column)
        return [sum(map(blocks.__getitem__, starts)) for starts in self._starts]

    def ratios(self, above: Sequence[float], below: Sequence[float], value: float) -> Estimate:
        """Estimate the ratio of two columns' sums, whose value is known better than from its seconds."""
        drawn = [over / under for over, under in zip(self.sums(above), self.sums(below), strict=True) if under]
        return self._estimate(value, drawn)

    def quantiles(self, seconds: Sequence[Mapping[int, int]], share: float, value_s: float) -> Estimate:
        """Estimate the logarithm of a quantile; ``seconds`` counts by bucket what each second brought."""
        buckets = sorted({bucket for second in seconds for bucket in second})
        keys = [sorted(second) for second in seconds]
        counts = [[0, *itertools.accumulate(second[key] for key in own)] for second, own in zip(seconds, keys, strict=True)]
        totals = self._blocks([each[-1] for each in counts])
        columns: dict[int, list[float]] = {}

        def up_to(index: int) -> list[float]:
            """Give how many of each block are in the bucket with this index or below; most are never asked for."""
            if index not in columns:
                columns[index] = self._blocks([each[bisect_right(own, buckets[index])] for own, each in zip(keys, counts, strict=True)])
            return columns[index]

        drawn = []
        for starts in self._starts:
            wanted = share * sum(map(totals.__getitem__, starts))
            if wanted:
                low, high = 0, len(buckets) - 1
                while low < high:
                    middle = (low + high) // 2
                    if sum(map(up_to(middle).__getitem__, starts)) >= wanted:
                        high = middle
                    else:
                        low = middle + 1
                drawn.append(math.log(max(SHORTEST_S, value_of(buckets[low]))))
        return self._estimate(math.log(max(SHORTEST_S, value_s)), drawn, RESOLUTION)

    def _blocks(self, column: Sequence[float]) -> list[float]:
        around = [*column, *column[: self.block - 1]]
        until = [0.0, *itertools.accumulate(around)]
        return [after - before for before, after in zip(until, until[self.block :], strict=False)]

    def _estimate(self, value: float, drawn: Sequence[float], least: float = 0.0) -> Estimate:
        if len(drawn) < REPLICATES / 2:
            return Estimate(value, None)  # in most draws there was nothing
        few = self._seconds / (self._seconds - self.block)
        return Estimate(value, ((statistics.variance(drawn) * few + least, self._freedom),))


RESOLUTION = (1 / 128) ** 2 / 12
"""The variance of a logarithm that is known to a bucket, which is 1/128 wide."""


def student(freedom: float, alpha: float) -> float:
    """Give what Student's t exceeds with probability ``alpha``."""
    if freedom >= _NORMAL_FROM:
        return statistics.NormalDist().inv_cdf(1 - alpha)
    whole = max(1, int(freedom))
    low, high = 0.0, 1.0
    while _beyond(whole, high) > alpha:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _beyond(whole, middle) > alpha else (low, middle)
    return high


def _beyond(freedom: int, t: float) -> float:
    """Give the probability that Student's t is above ``t``, by the series for whole degrees of freedom (Abramowitz and Stegun 26.7.3, .4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, cosine if freedom > 1 else 0.0) if odd else (1.0, 1.0)
    for step in range(2 + odd, freedom - 1, 2):
        term *= (step - 1) / step * cosine**2
        total += term
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 - inside) / 2
