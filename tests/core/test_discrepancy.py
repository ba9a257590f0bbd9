"""Why a client and its sidecar differ: each thing that may be amiss, from the counts that it leaves."""

from __future__ import annotations

import pytest

from loadgen.cause import Cause, Found, MadeBy
from loadgen.discrepancy import LEGACY, why_apart
from loadgen.ledger import Counters
from loadgen.outcome import Outcome
from loadgen.recorder import Tally

UNMARKED = Found(Cause.OVERFLOW_UNMARKED, MadeBy.UNKNOWN)


def tally(ok: int = 60, overflow: int = 40, *, cause: Found | None = None, **others: int) -> Tally:
    made = Tally()
    for outcome, count in {Outcome.OK: ok, Outcome.OVERFLOW: overflow, **{Outcome(name): count for name, count in others.items()}}.items():
        for _ in range(count):
            made.record(outcome, 0.01, 503 if outcome is Outcome.OVERFLOW else 200, cause if outcome is Outcome.OVERFLOW else None)
    return made


def test_of_witnesses_that_agree_there_is_nothing_to_say() -> None:
    assert not why_apart(tally(), Counters(total=60, active_overflow=40), 0)


@pytest.mark.parametrize(
    ("seen", "counted", "on_the_way", "why"),
    [
        (tally(), Counters(total=-500, active_overflow=-300), 0, "the sidecar's counters went back: it was restarted"),
        (tally(), Counters(total=60, active_overflow=40, pending_overflow=40), 0, f"twice: the runtime flag {LEGACY} is off"),
        (
            tally(),
            Counters(total=65, active_overflow=55),
            4,
            "somebody else uses the sidecar: it took 120 requests, and the client sent 100",
        ),
        (
            tally(),
            Counters(total=72, active_overflow=55, retried=7),
            4,
            "somebody else uses the sidecar: it took 120 requests and 7 retries, and the client sent 100",
        ),
        (
            tally(timeout=3),
            Counters(total=63, active_overflow=42),
            9,
            "the client gave up on 3 requests, which the sidecar may have rejected",
        ),
        (tally(), Counters(total=60, active_overflow=43), 4, "4 requests were on their way where the phase begins or ends"),
        (tally(), Counters(total=67, active_overflow=43, retried=7), 0, "somebody else uses the sidecar"),
        (tally(), Counters(total=57, active_overflow=43), 0, "something that was not counted"),
        (
            tally(),
            Counters(total=50, active_overflow=30),
            4,
            "goes round the sidecar: 20 of the requests that were answered never came to it",
        ),
        (
            tally(cause=UNMARKED),
            Counters(total=70, active_overflow=30),
            0,
            "40 overflows bear no proxy's mark, because debug headers are suppressed: the server's side may have made 10",
        ),
        (tally(), Counters(total=61, active_overflow=38), 5, "5 requests were on their way"),
        (tally(), Counters(total=65, active_overflow=35), 0, "something that was not counted"),
    ],
)
def test_what_was_counted_beside_tells_why_they_differ(seen: Tally, counted: Counters, on_the_way: int, why: str) -> None:
    assert why in why_apart(seen, counted, on_the_way)
