"""Why does a client's overflow count differ from its sidecar's? From what both counted beside it; what no count explains is said to be so.

Facts (Envoy 1.40, measured): a proxy never retries what it rejected itself, so retries add to ``total`` and not to a difference. ``total`` counts
each attempt that was given a connection. A reject counts as active and as pending at once where the runtime flag ``LEGACY`` is off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.cause import Cause
from loadgen.outcome import Outcome

if TYPE_CHECKING:
    from loadgen.ledger import Counters
    from loadgen.recorder import Tally

LEGACY = "envoy.reloadable_features.skip_pending_overflow_count_on_active_rq"


def why_apart(tally: Tally, counters: Counters, on_the_way: int) -> str:
    """Say why the two differ; nothing if they do not.

    ``tally`` and ``counters`` are of the same stretch of time, but for at most ``on_the_way`` requests at its two ends.
    """
    difference = tally.sidecar_overflow - counters.overflow
    if not difference:
        return ""
    if counters.went_back:
        return "the sidecar's counters went back: it was restarted"
    explain = _more_in_the_sidecar if difference < 0 else _more_in_the_client
    return explain(tally, counters, on_the_way, abs(difference))


def _more_in_the_sidecar(tally: Tally, counters: Counters, on_the_way: int, apart: int) -> str:
    taken, retried = counters.total + counters.overflow - counters.retried, counters.retried
    given_up = tally.outcomes[Outcome.TIMEOUT] + tally.outcomes[Outcome.RESET]
    if tally.sidecar_overflow == counters.active_overflow == counters.pending_overflow:
        return f"the sidecar counts each of its rejects twice: the runtime flag {LEGACY} is off"
    if taken - tally.requests > on_the_way:
        again = f" and {retried:,} retries" if retried else ""
        return f"somebody else uses the sidecar: it took {taken:,} requests{again}, and the client sent {tally.requests:,}"
    if given_up >= apart:
        return f"the client gave up on {given_up:,} requests, which the sidecar may have rejected after that"
    return _at_the_edges(on_the_way, apart)


def _more_in_the_client(tally: Tally, counters: Counters, on_the_way: int, apart: int) -> str:
    unmarked = sum(count for found, count in tally.causes.items() if found.cause is Cause.OVERFLOW_UNMARKED)
    known = tally.outcomes[Outcome.OK] + tally.sidecar_overflow - counters.total - counters.overflow
    if unmarked >= apart:
        return (
            f"{unmarked:,} overflows bear no proxy's mark, because debug headers are suppressed: the server's side may have made {apart:,}"
        )
    if known > on_the_way:
        return f"the client goes round the sidecar: {known:,} of the requests that were answered never came to it"
    return _at_the_edges(on_the_way, apart)


def _at_the_edges(on_the_way: int, apart: int) -> str:
    if on_the_way >= apart:
        return (
            f"{on_the_way:,} requests were on their way where the phase begins or ends, so one of the two may have counted them outside it"
        )
    return "of something that was not counted"
