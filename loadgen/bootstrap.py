"""How sure is a figure of one phase? Its seconds are drawn again and again, and how much the figure varies from draw to draw tells.

The law: seconds are drawn singly, as if they did not hang together. They do (a slow second is followed by another), so the variance is multiplied
by the time for which they do, and the longer that is, the less is known of the variance itself: an interval is Student's, with fewer degrees of
freedom. Drawing whole blocks instead is not enough: those that are short enough to be many miss most of what hangs together for ten seconds.
Where the phase is not much longer than that time, the time itself is underestimated, and the interval is still somewhat too narrow.
Everything is decided by the seed.
"""

from __future__ import annotations

import itertools
import math
import operator
import random
import statistics
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadgen.recorder import value_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MEDIAN = 0.5
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
        rng = random.Random(seed)
        self._drawn = [rng.choices(range(seconds), k=seconds) for _ in range(REPLICATES)]

    def sums(self, column: Sequence[float]) -> list[float]:
        """Give the sum over each drawn phase of what a column has for every second."""
        return [sum(map(column.__getitem__, seconds)) for seconds in self._drawn]

    def ratios(self, above: Sequence[float], below: Sequence[float], value: float) -> Estimate:
        """Estimate the ratio of two columns' sums, whose value is known better than from its seconds."""
        drawn = [over / under for over, under in zip(self.sums(above), self.sums(below), strict=True) if under]
        ratio = sum(above) / (sum(below) or 1.0)
        pulls = [over - ratio * under for over, under in zip(above, below, strict=True)]
        return _estimate(value, drawn, [pulls])

    def quantiles(self, seconds: Sequence[Mapping[int, int]], share: float, value_s: float) -> Estimate:
        """Estimate the logarithm of a quantile; ``seconds`` counts by bucket what each second brought.

        A tail has too few requests in a second to show how long seconds hang together: it is taken to be as long as for the median, at least.
        """
        buckets = sorted({bucket for second in seconds for bucket in second})
        keys = [sorted(second) for second in seconds]
        counts = [[0, *itertools.accumulate(second[key] for key in own)] for second, own in zip(seconds, keys, strict=True)]
        totals = [each[-1] for each in counts]
        columns: dict[int, list[int]] = {}

        def up_to(index: int) -> list[int]:
            """Give how many of each second are in the bucket with this index or below; most are never asked for."""
            if index not in columns:
                columns[index] = [each[bisect_right(own, buckets[index])] for own, each in zip(keys, counts, strict=True)]
            return columns[index]

        def place(chosen: Sequence[int], wanted: float) -> int:
            """Give the index of the bucket that the quantile of these seconds lies in."""
            low, high = 0, len(buckets) - 1
            while low < high:
                middle = (low + high) // 2
                if sum(map(up_to(middle).__getitem__, chosen)) >= wanted:
                    high = middle
                else:
                    low = middle + 1
            return low

        wanted = [(chosen, share * sum(map(totals.__getitem__, chosen))) for chosen in self._drawn]
        drawn = [math.log(max(SHORTEST_S, value_of(buckets[place(chosen, count)]))) for chosen, count in wanted if count]
        pulls = []
        for each in {share, MEDIAN}:
            below = up_to(place(range(len(seconds)), each * sum(totals)))
            pulls.append([each * total - under for total, under in zip(totals, below, strict=True)])
        return _estimate(math.log(max(SHORTEST_S, value_s)), drawn, pulls, RESOLUTION)


def _estimate(value: float, drawn: Sequence[float], pulls: Sequence[Sequence[float]], least: float = 0.0) -> Estimate:
    """Give the estimate of a figure from its draws; ``pulls`` say how far each second pulls it up or down, in several ways to look at it."""
    if len(drawn) < REPLICATES / 2:
        return Estimate(value, None)  # in most draws there was nothing
    wider, time_s = map(max, zip(*map(hanging_together, pulls), strict=True))
    freedom = max(1.0, len(pulls[0]) / (1 + 2 * time_s))  # of the long-run variance of an autoregression, by the delta method
    return Estimate(value, ((statistics.variance(drawn) * wider + least, freedom),))


def hanging_together(column: Sequence[float]) -> tuple[float, float]:
    """Give by what the variance of a column's mean is larger than if its seconds did not hang together, and the time for which they do.

    The time is the integrated autocorrelation time in seconds, at least 1: the sum of the autocorrelations of all lags, by Geyer's initial monotone
    sequence (Practical Markov Chain Monte Carlo, 1992), which ends where sums of two neighbours are noise, and at half of the seconds.
    The trap: the column's own mean is taken away, and with it each autocovariance loses the variance of that mean. It is put back, in rounds.
    """
    seconds, mean = len(column), statistics.fmean(column)
    rest = [value - mean for value in column]
    spread = sum(map(operator.mul, rest, rest)) / seconds
    if not spread:
        return 1.0, 1.0
    pairs: list[float] = []
    variance, time_s, of_mean = spread, 1.0, 0.0
    for _ in range(_ROUNDS):
        total, least = 0.0, math.inf
        for lag in range(0, seconds // 2 - 1, 2):
            if len(pairs) <= lag // 2:
                pairs.append(sum(sum(map(operator.mul, rest, rest[each:])) for each in (lag, lag + 1)) / seconds)
            least = min(least, pairs[lag // 2] + of_mean * (2 - (2 * lag + 1) / seconds))
            if least <= 0:
                break
            total += least
        variance = spread + of_mean
        time_s = min(max(1.0, 2 * total / variance - 1), seconds / 2)
        of_mean = variance * time_s / seconds
    return variance * time_s / spread, time_s


_ROUNDS = 5
"""After so many the time changes no more than it is uncertain."""
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
