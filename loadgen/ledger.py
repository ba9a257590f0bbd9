"""Do the witnesses agree? What the proxies and the service counted, and the clients' overflow count against the proxies'."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class Counters:
    """One cluster's counters in one sidecar, since its start.

    Rejects by ``http1MaxPendingRequests`` are ``pending_overflow``, those by ``http2MaxRequests`` ``active_overflow``; before Envoy 1.38 both
    are in one counter, which is ``combined_overflow`` here.
    ``cx_overflow`` is no reject count: a connection was not opened, its request stayed queued. ``cx_total`` connections were opened, and
    ``cx_max_requests`` of them closed because they had carried as many requests as they may; ``retry_overflow`` retries were not made
    and ``retried`` were.
    """

    pending_overflow: int = 0
    active_overflow: int = 0
    cx_overflow: int = 0
    total: int = 0
    cx_total: int = 0
    cx_max_requests: int = 0
    retry_overflow: int = 0
    retried: int = 0
    combined_overflow: int = 0

    @property
    def overflow(self) -> int:
        """All rejects by a connection-pool limit."""
        return self.pending_overflow + self.active_overflow + self.combined_overflow

    @property
    def went_back(self) -> bool:
        """Whether this difference of two readings has a count that became less: the sidecar began to count anew between them."""
        return any(getattr(self, each.name) < 0 for each in fields(Counters))

    def since(self, earlier: Counters) -> Counters:
        """Give what was counted between two readings."""
        return Counters(*(getattr(self, each.name) - getattr(earlier, each.name) for each in fields(Counters)))

    def plus(self, other: Counters) -> Counters:
        """Add another sidecar's counters."""
        return Counters(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Counters)))

    @classmethod
    def total_of(cls, each: Iterable[Counters]) -> Counters:
        """Add up the counters of several sidecars."""
        return reduce(cls.plus, each, cls())


@dataclass(frozen=True, slots=True)
class ServiceCount:
    """What the service saw: requests since its start, and the most in flight since the peak was last restarted.

    ``periods`` counts the periods since then in which something was in flight, by the most that was.
    """

    requests: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    periods: Mapping[int, int] = field(default_factory=dict)

    def plus(self, other: ServiceCount) -> ServiceCount:
        """Add another pod's count. The peaks need not have been at the same moment: the higher one is all that is sure of their sum."""
        peak = max(self.peak_in_flight, other.peak_in_flight)
        return ServiceCount(
            self.requests + other.requests, self.in_flight + other.in_flight, peak
        )  # two pods' periods are none of the service's


@dataclass(frozen=True, slots=True)
class ServiceReading:
    """What a service said of itself at one moment: its count in all, None without one, and per client; ``""`` is whoever gives no name.

    ``unseen`` says why the peaks show no more than what was at least in flight, or why there is no count; empty if they are exact.
    """

    total: ServiceCount | None
    clients: Mapping[str, ServiceCount]
    unseen: str = ""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The client's overflow count against its proxy's overflow counters, over the same stretch of time."""

    client: int
    proxy: int

    @property
    def difference(self) -> int:
        """0 when the witnesses agree to the request."""
        return self.client - self.proxy
