"""How many requests of each burst got past the own sidecar? Noted when a burst begins and when its last request has ended.

The law: a burst counts in the tally in which it began *and* ended; one that an edge cuts in two is in none, and one that has a request of which nobody
can say whether it was let through, as one that timed out, is counted as ``untold_bursts``. Each tally that has a part of a burst that an edge cuts counts it as ``cut_bursts``, once. The pause between two bursts belongs to neither, so an edge there costs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.recorder import Passage

if TYPE_CHECKING:
    from loadgen.recorder import Tally


class Bursts:
    """The bursts of one load, one after the other."""

    def __init__(self) -> None:
        self._earlier = Passage()
        """What became of the requests in the tallies that have ended."""
        self._began: tuple[int, Passage] | None = None
        """The number of the tally in which the present burst began, and what had become of all earlier requests; None in a pause."""

    def sends(self, tally: Tally) -> None:
        """Note that a request is about to be sent: the first one begins a burst."""
        if self._began is None:
            self._began = tally.number, self._until_now(tally)

    def all_ended(self, tally: Tally) -> None:
        """Count the burst whose last request has ended."""
        assert self._began is not None, "an end of nothing that was sent"
        (number, before), self._began = self._began, None
        burst = self._until_now(tally).since(before)
        if number != tally.number:
            return
        if burst.untold:
            tally.untold_bursts += 1
        else:
            tally.bursts[burst.let_through] += 1

    def leave(self, ended: Tally, begun: Tally) -> None:
        """Note that a tally has ended and another begun; if both have one number they are parts of the same, and there is no edge between them."""
        self._earlier = self._until_now(ended)
        if self._began is not None and begun.number != ended.number:
            began_in, _ = self._began
            ended.cut_bursts += began_in == ended.number
            begun.cut_bursts += 1

    def _until_now(self, tally: Tally) -> Passage:
        return self._earlier.plus(tally.passage)
