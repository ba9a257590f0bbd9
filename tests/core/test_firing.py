"""Does the sentence name the limit that fired, and nothing that was not counted?"""

from __future__ import annotations

from typing import Any

import pytest

from loadgen.firing import why
from loadgen.ledger import Counters

BOTH = {"http2MaxRequests": 3, "http1MaxPendingRequests": 1}


def said(limits: dict[str, int], counters: Counters = Counters(), **changes: Any) -> str:  # noqa: B008  # it is frozen
    usual = {"requests": 10, "overflow": 0, "server_side": 0, "clients": 10, "peak": 30}
    return why(limits, counters, **{**usual, **changes})


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (
            said({"http2MaxRequests": 3}, Counters(active_overflow=7), overflow=7),
            "7 of 10 requests were rejected at each client's own sidecar because http2MaxRequests is 3; the service never saw more than 30 at a time (10 clients, 3 each)",
        ),
        (
            said(BOTH, Counters(active_overflow=4, pending_overflow=3), overflow=7, clients=1, peak=3),
            "7 of 10 requests were rejected at the client's own sidecar because http2MaxRequests is 3 and http1MaxPendingRequests is 1; the service never saw more than 3 at a time",
        ),
        (
            said(BOTH, Counters(pending_overflow=7), overflow=7, peak=None),
            "7 of 10 requests were rejected at each client's own sidecar because http1MaxPendingRequests is 1",
        ),
        (
            said({"http2MaxRequests": 3}, Counters(combined_overflow=7), overflow=7, peak=None),
            "7 of 10 requests were rejected at each client's own sidecar because http2MaxRequests is 3",
        ),
        (
            said({"maxConnections": 2}, Counters(cx_overflow=5), peak=20),
            "none of 10 requests was rejected; a further connection was refused 5 times because maxConnections is 2; the service never saw more than 20 at a time",
        ),
        (
            said({}, Counters(), server_side=2, peak=None),
            "none of 10 requests was rejected at each client's own sidecar; 2 were rejected on the server's side",
        ),
        (
            said({}, Counters(active_overflow=2), overflow=2, peak=None),
            "2 of 10 requests were rejected at each client's own sidecar by a limit that the policy does not set",
        ),
        (
            said(BOTH, Counters(combined_overflow=7), overflow=7, peak=None),
            "7 of 10 requests were rejected at each client's own sidecar because http2MaxRequests is 3 or http1MaxPendingRequests is 1, which this Envoy counts together",
        ),
        (
            said({"http2MaxRequests": 3}, Counters(active_overflow=4, pending_overflow=3), overflow=7, peak=None),
            "7 of 10 requests were rejected at each client's own sidecar because http2MaxRequests is 3 and by a limit that the policy does not set",
        ),
        (
            said({"maxRetries": 1, "maxRequestsPerConnection": 2}, Counters(retry_overflow=7, cx_max_requests=5), peak=None),
            "none of 10 requests was rejected; 5 connections were closed because maxRequestsPerConnection is 2; 7 retries were not made because maxRetries is 1",
        ),
        (
            said(
                {"http2MaxRequests": 3, "maxRequestsPerConnection": 1},
                Counters(active_overflow=4, cx_max_requests=6),
                overflow=4,
                peak=None,
            ),
            "4 of 10 requests were rejected at each client's own sidecar because http2MaxRequests is 3",
        ),
        (
            said({"http2MaxRequests": 3}, peak=0),
            "none of 10 requests was rejected; no request came to the service after the phase had begun to count",
        ),
        (said({}), ""),
    ],
)
def test_the_sentence_says_what_was_counted(sentence: str, expected: str) -> None:
    assert sentence == expected
