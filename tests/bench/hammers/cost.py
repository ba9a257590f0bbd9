"""What does one request cost a tool, and how does that compare with wrk? Measurements in, table rows out; no I/O, no clock.

The law: cost is the user and system CPU of the tool's whole process tree, start-up included, divided by the requests that the target
counted, never by what the tool says. A ratio is taken within one round, so that what slows the machine for a while slows both sides of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

REFERENCE = "wrk"
"""The tool that the ratios are to."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run of one tool took, as the kernel counted it.

    ``cpu_s`` is user + system of the whole process tree from its start; ``elapsed_s`` the wall time from start to end; ``target_cpu_s``
    what the target used. The shares (0 to 1) are of the tool's core in that time: ``others_share`` what other processes had of it,
    ``steal_share`` what the hypervisor gave to other guests. ``target_others_share`` is both together, of the target's core.
    """

    elapsed_s: float
    cpu_s: float
    exit_code: int
    target_cpu_s: float = 0.0
    others_share: float = 0.0
    steal_share: float = 0.0
    target_others_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What the target counted: ``failures`` are answers other than 2xx."""

    requests: int
    failures: int
    connections: int

    def since(self, before: Counts) -> Counts:
        """Give the difference to an earlier look."""
        return Counts(self.requests - before.requests, self.failures - before.failures, self.connections - before.connections)


@dataclass(frozen=True, slots=True)
class Hit:
    """One measurement of one tool under closed load. ``error`` says why it does not count, or is empty."""

    tool: str
    round: int
    usage: Usage
    counts: Counts
    error: str = ""

    @property
    def cpu_us(self) -> float:
        """Give the CPU microseconds per request."""
        return self.usage.cpu_s / self.counts.requests * 1e6

    @property
    def rate_per_s(self) -> float:
        """Give the requests per second of wall time, the tool's start-up included, as its CPU is."""
        return self.counts.requests / self.usage.elapsed_s


def fault(usage: Usage, counts: Counts) -> str:
    """Say why a measurement does not count, or give an empty text."""
    if usage.exit_code:
        return f"ended with exit code {usage.exit_code}"
    if not counts.requests:
        return "sent nothing"
    if counts.failures:
        return f"{counts.failures:,} of {counts.requests:,} answers were not 2xx"
    return ""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Take at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Cost:
    """One row of the table. ``ratio`` is None if no round has both the tool and the reference; the shares are the worst round's."""

    tool: str
    rounds: int
    cpu_us: Spread
    ratio: Spread | None
    rate_per_s: float
    connections: float
    others_share: float
    steal_share: float


def costs(hits: Iterable[Hit]) -> list[Cost]:
    """Make the rows, one for each tool with at least one good round, in the order in which the tools were first measured."""
    good = [hit for hit in hits if not hit.error]
    reference_us = {hit.round: hit.cpu_us for hit in good if hit.tool == REFERENCE}
    return [_cost(tool, [hit for hit in good if hit.tool == tool], reference_us) for tool in dict.fromkeys(hit.tool for hit in good)]


def _cost(tool: str, hits: Sequence[Hit], reference_us: dict[int, float]) -> Cost:
    ratios = [hit.cpu_us / reference_us[hit.round] for hit in hits if hit.round in reference_us]
    return Cost(
        tool=tool,
        rounds=len(hits),
        cpu_us=Spread.of([hit.cpu_us for hit in hits]),
        ratio=Spread.of(ratios) if ratios else None,
        rate_per_s=median(hit.rate_per_s for hit in hits),
        connections=median(hit.counts.connections for hit in hits),
        others_share=max(hit.usage.others_share for hit in hits),
        steal_share=max(hit.usage.steal_share for hit in hits),
    )
