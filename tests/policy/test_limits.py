"""Which of two limits is met first?"""

from __future__ import annotations

import pytest

from loadgen.policy.limits import connections_come_first


@pytest.mark.parametrize(
    ("limits", "workers", "first"),
    [
        ({"maxConnections": 5, "http2MaxRequests": 5}, 1, True),
        ({"maxConnections": 6, "http2MaxRequests": 5}, 1, False),
        ({"maxConnections": 5, "http2MaxRequests": 5}, 4, False),
        ({"maxConnections": 5, "http2MaxRequests": 8}, 4, True),
        ({"maxConnections": 5, "http2MaxRequests": 7}, 4, False),
        ({"maxConnections": 5}, 1, False),
        ({"http2MaxRequests": 5}, 1, False),
    ],
)
def test_connections_come_first_if_all_that_the_workers_may_open_are_no_more_than_the_requests(
    limits: dict[str, int], workers: int, first: bool
) -> None:
    assert connections_come_first(limits, workers) is first
