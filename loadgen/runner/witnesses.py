"""Do the witnesses of a phase agree? What its clients, their sidecars and the service counted, held against each other; no I/O, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.discrepancy import why_apart
from loadgen.errors import printable
from loadgen.ledger import ServiceCount
from loadgen.outcome import Outcome
from loadgen.runner.window import counters_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loadgen.ledger import Counters
    from loadgen.recorder import Tally
    from loadgen.report import ClientPart, PhasePart
    from loadgen.runner.window import Window

SHOWN = 3
NAMELESS = "callers that give no name"
LOST_AT_MOST = 5
"""So many requests of a client may be lost on connections that are closed between its sidecar and the service."""


def arrived_of(window: Window, name: str) -> int | None:
    """Give how many requests of a client reached the service in a phase; None if that is not known."""
    end, before = window.ends.get(name), window.starts[name].reading.arrived
    return None if end is None or end.reading.arrived is None or before is None else end.reading.arrived - before


def count_of(window: Window, name: str | None = None) -> ServiceCount | None:
    """Give what the service had counted in the end, in all or of one client; None if that is not known."""
    if window.service is None or window.service.total is None or window.service_before.total is None:
        return None
    return window.service.total if name is None else window.service.clients.get(name, ServiceCount())


def unseen(window: Window) -> str:
    """Say why the service's peaks in a phase are no more than bounds from below, or not known; nothing if they are exact."""
    if window.service_before.total is None:
        return window.service_before.unseen
    return window.service.unseen if window.service else "the service could not be asked any more"


def blind_spots(windows: Iterable[Window]) -> list[str]:
    """Say in which phases a service that counts was no full witness, and why."""
    phases: dict[str, list[str]] = {}
    for window in windows:
        if window.service_before.total is not None and (why := unseen(window)):
            phases.setdefault(why, []).append(window.phase.name)
    return [f"the service's peak in phase {', '.join(names)} is not known: {why}" for why, names in phases.items()]


def imbalance_of(window: Window, phase: PhasePart) -> list[str]:
    """Say by how much the ledger of a phase does not balance, at whom, and why."""
    apart = [client for client in phase.clients if client.ledger.difference]
    if not apart:
        return []
    proxy = "an unknown number" if phase.ledger.proxy is None else f"{phase.ledger.proxy:,}"
    told = "; ".join(_imbalance(window, client) for client in apart[:SHOWN])
    more = f"; and {len(apart) - SHOWN:,} clients more" if len(apart) > SHOWN else ""
    return [
        f"the ledger of phase {phase.name} does not balance: clients counted {phase.ledger.client:,} overflows, their sidecars {proxy}: {told}{more}"
    ]


def _imbalance(window: Window, client: ClientPart) -> str:
    counters = counters_of(window, client.name)
    assert counters is not None, "there is no difference without them"
    why = why_apart(window.tallies[client.name], counters, _on_the_way(window, client.name))
    return f"{client.name} {client.ledger.client:,}, its sidecar {client.ledger.proxy:,}, because {why}"


def imbalance_outside(name: str, tally: Tally, counters: Counters, on_the_way: int) -> str:
    """Say by how much a client and its sidecar differ in a stretch that is in no phase's ledger, and why; nothing if they agree."""
    why = why_apart(tally, counters, on_the_way)
    told = f"{tally.sidecar_overflow:,} overflows, its sidecar {counters.overflow:,}, because {why}"
    return f"outside the ledgers of the phases {name} counted {told}" if why else ""


def shortened(sentences: Sequence[str]) -> list[str]:
    """Give the first of many sentences, each about a client, and how many clients more there are."""
    more = len(sentences) - SHOWN
    return [*sentences[:SHOWN], *([f"so do {more:,} clients more"] if more > 0 else [])]


def _on_the_way(window: Window, name: str) -> int:
    """Bound how many requests of a client one witness may have counted in the phase and another outside it."""
    end = window.ends.get(name)
    return window.starts[name].on_the_way + (end.on_the_way if end else 0)


def disagreements(window: Window) -> list[str]:
    """Compare the service with the sidecars: every request that a sidecar let through must have arrived, and no other."""
    found = []
    for name, end in window.ends.items():
        where = f"in phase {window.phase.name}"
        if not end.settled:
            found.append(f"{name} and its sidecar could not be brought to agree at the end of phase {window.phase.name}")
        if restarted(window, name):
            found.append(f"{where} the sidecar of {name} was restarted: its counters went back")
        if (more := beside(window, name)) > 0:
            found.append(
                f"{where} {more:,} more requests of {name} reached the service than its sidecar let through: it goes round its sidecar"
            )
        elif more < 0:
            found.append(
                f"{where} {-more:,} requests of {name} were answered, but not by a service that counts them: another one answers, too"
            )
    return found + _who_else(window)


def restarted(window: Window, name: str) -> bool:
    """Tell whether a client's sidecar surely began to count anew in a phase; one that has counted more since than before goes unseen."""
    counters = counters_of(window, name)
    return counters is not None and counters.went_back


def beside(window: Window, name: str) -> int:
    """Give how many requests of a client came to the service beside those that its sidecar let through; negative: so many were lost on the way.

    What another proxy rejected, and what failed, need not have come; 0 within what may be on the way at the edges, or if it is not known.
    """
    counters, arrived, tally = counters_of(window, name), arrived_of(window, name), window.tallies[name]
    if counters is None or counters.went_back or arrived is None:
        return 0
    tolerance = _on_the_way(window, name) + LOST_AT_MOST
    more, answered = arrived - counters.total, tally.outcomes[Outcome.OK] - arrived
    if more > tolerance:
        return more
    return -answered if answered > tolerance else 0


def strangers(window: Window) -> int:
    """Give how many requests reached the service in a phase that no client sent; 0 if that is not known."""
    before, after = window.service_before, window.service
    if after is None or after.total is None or before.total is None:
        return 0
    ours = sum(count for name, count in _arrivals(window).items() if name in window.starts)
    return after.total.requests - before.total.requests - ours


def _arrivals(window: Window) -> dict[str, int]:
    """Give by sender how many requests reached the service in a phase; only of a window with both readings."""
    before, after = window.service_before, window.service
    assert after is not None, "there is no count without it"
    return {name: count.requests - before.clients.get(name, ServiceCount()).requests for name, count in after.clients.items()}


def _who_else(window: Window) -> list[str]:
    """Say how many requests no client sent, and what their senders call themselves, as far as they do."""
    theirs = strangers(window)
    if not theirs:
        return []
    names = [name for name, count in _arrivals(window).items() if count and name not in window.starts]
    names.sort(key=lambda name: (not name, name))
    shown = ", ".join(printable(name) or NAMELESS for name in names[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    who = f" (some are of {shown}{more})" if names else ""
    return [f"somebody else calls the service: requests in phase {window.phase.name} that no client sent: {theirs:,}{who}"]
