"""What does the page plot? How many requests ended how in each second since the test began, all clients together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loadgen.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

GROUPS = ("ok", "overflow", "other")
MAX_SECONDS = 24 * 3600
"""After a day the plot stands still."""


@dataclass(slots=True)
class Timeline:
    """The seconds that are over, each with how many requests ended how."""

    counts: dict[str, list[int]] = field(default_factory=lambda: {group: [] for group in GROUPS})
    _before: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GROUPS, 0))

    def second(self, totals: Mapping[Outcome, int]) -> None:
        """Enter a second that is over; ``totals`` are all requests until its end."""
        if len(self.counts["ok"]) >= MAX_SECONDS:
            return
        now = {
            "ok": totals[Outcome.OK],
            "overflow": totals[Outcome.OVERFLOW],
            "other": sum(count for outcome, count in totals.items() if outcome not in {Outcome.OK, Outcome.OVERFLOW}),
        }
        for group in GROUPS:
            self.counts[group].append(now[group] - self._before[group])
        self._before = now

    def since(self, second: int) -> dict[str, Any]:
        """Give what came from a second on: what was given before does not change."""
        start = max(0, second)
        return {"from": start, **{group: counts[start:] for group, counts in self.counts.items()}}
