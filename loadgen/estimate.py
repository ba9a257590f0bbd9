"""What is predicted of what? The records of a prediction: the case, the stretch in which it is measured, and what is said of it; no load, no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from loadgen.pacing import Burst, Closed
from loadgen.queueing import Span

if TYPE_CHECKING:
    from loadgen.pacing import Coming, Interval, Pacing
    from loadgen.policy.limits import Limits

WAY_S = 0.002
"""So much longer than the service takes may a request count in its sidecar, for the wire and the proxy: measured on a small machine, 1 to 2 ms beside a service that takes no time."""


LATE_SHARE = 0.01
"""If more of all requests than that are answered too late, it is said: some always may be."""


def late_share(service: Interval, timeout_s: float) -> float:
    """Give the share of answers of a service for which the client has waited that long."""
    if not service.mean_s:
        return 0.0
    return math.exp(-timeout_s / service.mean_s) if service.exponential else float(service.mean_s >= timeout_s)


class Law(StrEnum):
    """Where a prediction comes from."""

    ERLANG = "erlang"
    TAKACS = "takacs"
    ENGSET = "engset"
    BOUND = "bound"
    BURST = "burst"
    SATURATED = "saturated"
    UNREACHED = "unreached"
    QUEUE = "queue"
    ADMITTING = "admitting"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True, slots=True)
class Estimate:
    """One figure: what theory gives, None if only bounds, and between what it is to be measured, chance included; None where nothing is sure."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def times(self, factor: float) -> Estimate:
        """Give the same of so many clients."""
        return Estimate(*(None if each is None else each * factor for each in (self.value, self.low, self.high)))

    def to_json(self) -> dict[str, float | None]:
        """Give the figure as JSON holds it."""
        return {"predicted": _rounded(self.value), "low": _rounded(self.low), "high": _rounded(self.high)}


NOTHING = Estimate(None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


@dataclass(frozen=True, slots=True)
class Case:
    """What is to be predicted: limits, Envoy's workers and the load in each of ``clients`` clients.

    ``service`` is None where it is somebody's own, as in a cluster: neither the distribution of its time is known nor how many endpoints it has. Otherwise it has one.
    ``rate_per_s`` is that of an open load in this stretch, which may have several. ``http2`` says whether the sidecar speaks HTTP/2 to the service.
    A client gives up after ``timeout_s``. ``unexpected_status`` is what the service answers instead of what is expected, None if it does not;
    ``ejected`` says that the sidecar stops to ask it for that.
    """

    limits: Limits
    load: Pacing
    service: Interval | None
    workers: int = 1
    clients: int = 1
    rate_per_s: float = 0.0
    max_in_flight: int | None = None
    timeout_s: float = math.inf
    http2: bool = False
    unexpected_status: int | None = None
    ejected: bool = False

    @property
    def at_once(self) -> int | None:
        """How many requests of a client can be in flight at most; None if that is not bounded."""
        match self.load:
            case Closed(users=users):
                return users
            case Burst(size=size):
                return size
        return self.max_in_flight

    @property
    def late_share(self) -> float:
        """Give the share of answers that come after the client gave up; 0 where the service's time is not known."""
        return 0.0 if self.service is None else late_share(self.service, self.timeout_s)


@dataclass(frozen=True, slots=True)
class Stretch:
    """How long it is measured, and what is known of it.

    The mean time that a request counts in the sidecar lies in ``service_s``. ``overhead_s`` is what client and sidecar take beside it at most: an answer's user thinks, so much
    longer, before the sidecar sees him again. ``scatter`` is how many times as much losses vary as with exponential service of that mean. ``attempts`` is the number of requests of
    all clients, None before they are counted; ``pending_share`` the share of them that ``http1MaxPendingRequests`` rejected, None before. ``longest_s`` is the longest from when
    a request was due to its end, whatever that was, None before. ``coming`` is what an open load offers in it, None if that is one rate from the stretch's beginning on.
    """

    seconds: float
    service_s: Span
    overhead_s: float = 0.0
    scatter: float = 1.0
    attempts: int | None = None
    pending_share: float | None = None
    longest_s: float | None = None
    coming: Coming | None = None

    @classmethod
    def planned(cls, service: Interval, seconds: float, coming: Coming | None = None) -> Stretch:
        """Say what is known before a load: that the service takes as long as the scenario says, and the way some more."""
        return cls(seconds, Span(service.mean_s, service.mean_s + WAY_S), coming=coming)

    def offered(self, rate_per_s: float) -> Span:
        """Give what arrivals of such a rate offer, in Erlang."""
        return Span(rate_per_s * self.service_s.low, rate_per_s * self.service_s.high)

    def begun_per_s(self, places: float) -> float:
        """Give by how much so many places exceed what fits into the stretch: each may end one request more, one that had begun before."""
        return places / self.seconds

    @property
    def middle_s(self) -> float:
        """The service time for which one figure is given."""
        return (self.service_s.low + self.service_s.high) / 2


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one client will show: ``admitted`` at a time, the share that is ``lost``, ``through_per_s``; ``because`` is one sentence.

    ``lost`` is that of all clients together where chance is concerned. ``offered`` is in Erlang: how many requests would be in service at a time without a limit.
    """

    law: Law
    because: str
    admitted: Estimate
    lost: Estimate = NOTHING
    through_per_s: Estimate = NOTHING
    offered: Span | None = None

    def to_json(self, clients: int = 1) -> dict[str, Any]:
        """Give the prediction for so many clients together as JSON holds it."""
        return {
            "admitted": self.admitted.times(clients).to_json(),
            "loss": self.lost.to_json(),
            "goodput_per_s": self.through_per_s.times(clients).to_json(),
        }
