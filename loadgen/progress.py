"""Where is a run now? What the screen shows while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadgen.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a run. ``outcomes`` counts the current phase, or the transition into it while ``counting`` is false.

    ``left_s`` is what the phases still take, transitions not included. ``limit`` is how many requests all sidecars together let through at a
    time, None without such a limit; ``ok_p99_s`` is of the phase until now, None of no request. In a transition ``confirmed`` of ``clients``
    sidecars show the policy.
    """

    phase: str
    policy: str
    index: int
    phases: int
    counting: bool
    elapsed_s: float
    duration_s: float
    left_s: float
    outcomes: dict[Outcome, int]
    in_flight: int
    limit: int | None = None
    ok_p99_s: float | None = None
    clients: int = 0
    confirmed: int = 0
