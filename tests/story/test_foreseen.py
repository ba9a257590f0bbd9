"""Does a real sidecar do what theory says, and does the report say so?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.story.command import AGAIN_IF_STARVED, SCENARIOS, Loadgen, variant

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.envoy, AGAIN_IF_STARVED]
RULE = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: user, namespace: base}}
spec:
  host: user.base.svc.cluster.local
  trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {connections}}}, http: {{http2MaxRequests: 3}}}}}}
"""


def limited(loadgen: Loadgen, folder: Path, connections: int) -> tuple[Any, str]:
    """Run Poisson arrivals at 2 Erlang against http2MaxRequests 3; give the phase with the rule, and what the run said."""
    (folder / "rule.yaml").write_text(RULE.format(connections=connections))
    scenario = variant(
        folder / "scenario.yaml",
        SCENARIOS / "http2-max-requests.yaml",
        (f"{SCENARIOS}/policies/five-requests.yaml", str(folder / "rule.yaml")),
        ("rate: 50/s", "rate: 40/s"),
        ("exponential 100ms", "exponential 50ms"),
    )
    ended = loadgen.run_scenario(scenario, "--duration", "2s", "--clients", "4")
    return loadgen.report()["phases"][1], ended.stdout + ended.stderr


def test_poisson_arrivals_lose_erlangs_share_and_the_run_says_so(loadgen: Loadgen, tmp_path: Path) -> None:
    phase, said = limited(loadgen, tmp_path, connections=4)
    found = phase["prediction"]
    assert found["law"] == "erlang"
    assert found["loss"]["low"] < 0.21 < found["loss"]["high"], "Erlang's B(3, 2)"
    assert found["loss"]["measured"] == pytest.approx(phase["outcomes"]["overflow"] / phase["requests"], abs=1e-6)
    assert found["admitted"]["measured"] <= 3
    assert abs(found["loss"]["measured"] - 0.22) < 0.12, "five times as far as chance goes"
    assert f"limited: {found['sentence']}" in said
    assert "Prediction beside measurement" in said


def test_with_no_more_connections_than_requests_everybody_waits_and_nobody_is_rejected(loadgen: Loadgen, tmp_path: Path) -> None:
    phase, said = limited(loadgen, tmp_path, connections=3)
    assert phase["outcomes"]["overflow"] == 0
    assert phase["prediction"]["law"] == "queue"
    assert phase["prediction"]["parts"] is False
    assert "maxConnections 3 comes before http2MaxRequests 3" in said
