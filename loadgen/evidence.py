"""What did a run show of the limits? What is judged, made by nobody here and of one shape for every law."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from loadgen.ledger import Counters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadgen.ledger import Ledger


class State(StrEnum):
    """What can be said about a limit."""

    ENFORCED = "enforced"
    OVERSHOOT = "overshoot"
    NOT_ENFORCED = "not_enforced"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Bursts:
    """How many bursts there were, and the fewest and the most of their requests that a client's own sidecar let through.

    ``cut`` are those that an edge of a phase cut, ``untold`` those of which it is not known; they are not in ``count``.
    """

    count: int
    least: int
    most: int
    cut: int = 0
    untold: int = 0


@dataclass(frozen=True, slots=True)
class ClientEvidence:
    """What one client showed while the policy was applied.

    ``admitted`` is the most that the service saw of it at a time, None if it does not say. ``connections`` were open to the service where its
    counters begin, added up over the phases; None if that is not known.
    """

    name: str
    requests: int
    ledger: Ledger
    counters: Counters
    admitted: int | None
    connections: int | None = None


@dataclass(frozen=True, slots=True)
class Failures:
    """Requests that were sent in the phases that are judged and ended neither ok nor in an overflow; those that another proxy's limit rejected are apart.

    ``mostly`` says in a sentence why most of the ``others`` failed, as far as that is known.
    """

    server_side: int = 0
    others: int = 0
    mostly: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """How many of some requests did not end ok."""

    failed: int
    requests: int

    def __str__(self) -> str:
        return f"{self.failed:,} of {self.requests:,}"

    def explains(self, later: Share) -> bool:
        """Tell whether a ``later`` share is no higher but by chance (two standard deviations of the difference)."""
        both = (self.failed + later.failed) / (self.requests + later.requests)
        chance = 2 * math.sqrt(both * (1 - both) * (1 / self.requests + 1 / later.requests))
        return self.failed > 0 and later.failed / later.requests <= self.failed / self.requests + chance


@dataclass(frozen=True, slots=True)
class Recovery:
    """What did not end ok after the rule was removed, and before it was applied; ``before`` is None if no phase shows that."""

    after: Share
    before: Share | None = None


@dataclass(frozen=True, slots=True)
class Gaps:
    """What keeps a run from being judged, or the judgement from being whole.

    ``policy_lost``: somebody else changed the policy during the run, or may have. ``crossed`` are the clients of which requests reached the
    service by another way than their sidecar, ``strangers`` says whether
    somebody else called it, ``restarted`` those whose sidecar began anew, ``missing`` those that could not be measured to the end. ``unseen`` says why what the service
    saw at a time is only what it saw at least, or not known at all.
    """

    policy_lost: bool = False
    crossed: Sequence[str] = ()
    restarted: Sequence[str] = ()
    strangers: bool = False
    missing: Sequence[str] = ()
    unseen: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run showed.

    ``rule`` is the winning rule's ``namespace/name`` for the clients, None if no rule has an effect; ``limits`` the limits that it sets, by
    the DestinationRule's field names; ``reason`` why a rule has no effect, if that is known; ``files`` the rules that the policy file holds;
    ``multiplexed`` whether a connection carries more than one request at a time; ``service_peak`` the most that the service saw at a time of
    all clients; ``recovery`` what came after the rule was removed, None if no phase shows that; ``offer`` says what load would go beyond the limits,
    if that is known.
    """

    applied: bool
    rule: str | None
    limits: Mapping[str, int]
    workers: int
    clients: Sequence[ClientEvidence]
    service_peak: int | None
    recovery: Recovery | None
    files: Sequence[str] = ()
    reason: str = ""
    multiplexed: bool = False
    bursts: Bursts | None = None
    offer: str = ""
    failures: Failures = field(default_factory=Failures)
    gaps: Gaps = field(default_factory=Gaps)

    @property
    def overflow(self) -> int:
        """All requests that the clients' own sidecars rejected."""
        return sum(client.ledger.client for client in self.clients)

    @property
    def requests(self) -> int:
        """All requests of all clients."""
        return sum(client.requests for client in self.clients)

    @property
    def counters(self) -> Counters:
        """The counters of all sidecars together."""
        return Counters.total_of(client.counters for client in self.clients)

    @property
    def admitted(self) -> int | None:
        """The most that the service saw of one client at a time; None if it does not say."""
        return max((client.admitted for client in self.clients if client.admitted is not None), default=None)

    @property
    def how_sure(self) -> str:
        """How sure ``admitted`` is, in words that stand before it."""
        return "at least" if self.gaps.unseen else "up to"

    @property
    def band(self) -> int:
        """How far workers that race may go beyond a limit: each but one may let one more through (measured on Envoy 1.40)."""
        return self.workers - 1
