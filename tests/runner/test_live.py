"""What does a run show when it is over?"""

from __future__ import annotations

import pytest

from loadgen.runner.live import Live


@pytest.mark.parametrize("gone", [True, False])
def test_a_policy_that_is_not_surely_gone_counts_as_applied(gone: bool) -> None:
    live = Live(["limited"])
    live.limits = {"http2MaxRequests": 5}
    live.ends(policy_gone=gone)
    assert live.applied is not gone
    assert not live.limits, "nobody knows which hold"
    assert live.in_flight == 0
