"""What does a run show while it goes on? Its state at this moment, for whoever asks; the story only notes what has become of it.

The law: nothing here is measured. What has ended is read from the tallies when it is asked for, so a run that nobody watches pays nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from loadgen.policy.limits import FIELDS, UNSET
from loadgen.runner.window import imbalance
from loadgen.totals import BETWEEN_PHASES, Totals

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from loadgen.policy.state import SidecarState
    from loadgen.runner.needs import Load
    from loadgen.runner.window import Window

BOUNDS = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
"""The limits that bound how much there is at a time, so that those of several sidecars can be added."""


class Live:
    """The present state of a run through ``phases``.

    ``limits`` are those in force, by the names of the rule's fields, of all clients together; ``differences`` are the ledgers' by the phases that
    are over, without those that could not be read. ``propagation_s`` is what the slowest sidecar took for the last toggle, None before any.
    """

    def __init__(self, phases: Sequence[str]) -> None:
        self.totals = Totals(phases)
        self.phase = BETWEEN_PHASES
        self.applied = False
        self.propagation_s: float | None = None
        self.limits: dict[str, int] = {}
        self.differences: dict[str, int] = {}
        self._loads: Mapping[str, Load] = {}
        self._over = False

    @property
    def in_flight(self) -> int:
        """How many requests are in flight, all clients together."""
        return 0 if self._over else sum(load.sight.in_flight for load in self._loads.values())

    async def settle(self) -> None:
        """Take in what has ended until now; a client's tally in one go, and others' work in between."""
        for name, load in self._loads.items():
            self.totals.notice(name, load.last_tally)
            await anyio.lowlevel.checkpoint()

    # What the story notes.

    def begins(self, loads: Mapping[str, Load]) -> None:
        """These are the clients."""
        self._loads = loads
        self.totals.expect(loads)

    def toggles(self) -> None:
        """The policy is put or removed: until the sidecars have confirmed, nobody knows which limits hold."""
        self.applied, self.limits = False, {}

    def converged(self, took_s: Collection[float]) -> None:
        """The sidecars have confirmed, each after so many seconds."""
        self.propagation_s = max(took_s, default=self.propagation_s)

    def enters(self, phase: str, states: Collection[SidecarState]) -> None:
        """A phase begins to count, with this in force in the sidecars."""
        self.phase = phase
        self.applied = all(state.rule is not None for state in states)
        together: dict[str, int] = {}
        for name in BOUNDS:
            values = [asdict(state.limits)[name] for state in states]
            if UNSET not in values:
                together[FIELDS[name]] = sum(values)
        self.limits = together

    def leaves(self, window: Window) -> None:
        """A phase counts no more."""
        self.phase = BETWEEN_PHASES
        difference = imbalance(window)
        if difference is not None:
            self.differences[window.phase.name] = difference

    def ends(self, *, policy_gone: bool) -> None:
        """The load is over. A policy that is not surely gone counts as applied: somebody has to look."""
        self._over = True
        self.toggles()
        self.applied = not policy_gone
