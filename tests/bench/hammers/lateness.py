"""How late does a tool send at a constant rate, as the server sees it? Stamps in, table rows out; no I/O, no clock.

The law: arrival k (sorted, from 0) is compared with t0 + k / rate. A tool does not tell when its schedule began, so it gets the t0 that is
best for it: the latest start that 99 % of its arrivals do not precede, which is the 1 % percentile of (arrival k - k / rate). The very
least of these values would let one single early arrival make all others late. What precedes t0 + k / rate all the same has lateness 0.

What follows: a tool that sends in bursts is late by up to the time between two of them, one that is too slow by ever more; and one that
leaves requests out is late with all that follow, by as long as it would have taken to send those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from tests.bench.hammers.cost import Spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.bench.hammers.cost import Usage

NS = 10**9
EARLY_SHARE = 0.01
"""The share of arrivals that may precede the schedule."""


@dataclass(frozen=True, slots=True)
class Lateness:
    """How late the arrivals of one run were, in seconds."""

    p50_s: float
    p99_s: float
    max_s: float


def quantile(ordered: Sequence[int], share: float) -> int:
    """Give the nearest-rank quantile: the least value that at least ``share`` (0 to 1) of all values do not exceed."""
    return ordered[max(1, math.ceil(share * len(ordered))) - 1]


def lateness(stamps_ns: Sequence[int], rate_per_s: float) -> Lateness:
    """Compare arrivals, in nanoseconds of any one clock and in any order, with the best schedule of that rate. There must be one at least."""
    starts_ns = [stamp - round(k * NS / rate_per_s) for k, stamp in enumerate(sorted(stamps_ns))]
    t0_ns = quantile(sorted(starts_ns), EARLY_SHARE)
    late_ns = sorted(max(0, start - t0_ns) for start in starts_ns)
    return Lateness(quantile(late_ns, 0.5) / NS, quantile(late_ns, 0.99) / NS, late_ns[-1] / NS)


@dataclass(frozen=True, slots=True)
class Attack:
    """One measurement of one tool at a constant rate. ``wanted`` is rate times duration; ``lateness`` is None if nothing arrived.

    ``error`` says why it does not count; ``unstamped`` is the number of arrivals that the kernel did not stamp, so that the server's own
    clock had to do.
    """

    tool: str
    rate_per_s: int
    round: int
    usage: Usage
    wanted: int
    arrived: int
    connections: int
    unstamped: int
    lateness: Lateness | None
    error: str = ""

    @property
    def cpu_us(self) -> float:
        """Give the CPU microseconds per request that arrived."""
        return self.usage.cpu_s / self.arrived * 1e6


@dataclass(frozen=True, slots=True)
class Punctuality:
    """One row of the table: medians over the rounds, but the worst of ``max_s``, and the least of ``arrived_share`` (1.0 is all).

    ``p99_s`` has the best and the worst round too: what disturbs a measurement only ever adds to it.
    """

    tool: str
    rate_per_s: int
    rounds: int
    lateness: Lateness
    p99_s: Spread
    arrived_share: float
    connections: float
    cpu_us: float
    others_share: float
    steal_share: float


def punctualities(attacks: Iterable[Attack]) -> list[Punctuality]:
    """Make the rows, by rate, each in the order in which the tools were first measured."""
    rows: dict[tuple[int, str], list[tuple[Attack, Lateness]]] = {}
    for attack in attacks:
        if attack.lateness is not None and not attack.error:
            rows.setdefault((attack.rate_per_s, attack.tool), []).append((attack, attack.lateness))
    return [_punctuality(tool, rate, row) for (rate, tool), row in sorted(rows.items(), key=lambda item: item[0][0])]


def _punctuality(tool: str, rate_per_s: int, row: Sequence[tuple[Attack, Lateness]]) -> Punctuality:
    attacks, late = [attack for attack, _ in row], [each for _, each in row]
    return Punctuality(
        tool=tool,
        rate_per_s=rate_per_s,
        rounds=len(row),
        lateness=Lateness(median(each.p50_s for each in late), median(each.p99_s for each in late), max(each.max_s for each in late)),
        p99_s=Spread.of([each.p99_s for each in late]),
        arrived_share=min(attack.arrived / attack.wanted for attack in attacks),
        connections=median(attack.connections for attack in attacks),
        cpu_us=median(attack.cpu_us for attack in attacks),
        others_share=max(attack.usage.others_share for attack in attacks),
        steal_share=max(attack.usage.steal_share for attack in attacks),
    )
