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


def limited(loadgen: Loadgen, folder: Path, connections: int, *changes: tuple[str, str]) -> tuple[Any, str]:
    """Run Poisson arrivals at 2 Erlang, or what is changed of it, against http2MaxRequests 3; give the phase with the rule, and what the run said."""
    (folder / "rule.yaml").write_text(RULE.format(connections=connections))
    scenario = variant(
        folder / "scenario.yaml",
        SCENARIOS / "http2-max-requests.yaml",
        (f"{SCENARIOS}/policies/five-requests.yaml", str(folder / "rule.yaml")),
        ("rate: 50/s", "rate: 40/s"),
        ("exponential 100ms", "exponential 50ms"),
        *changes,
    )
    ended = loadgen.run_scenario(scenario, "--duration", "2s", "--clients", "4")
    return loadgen.report()["phases"][1], ended.stdout + ended.stderr


def test_poisson_arrivals_lose_erlangs_share_and_the_run_says_so(loadgen: Loadgen, tmp_path: Path) -> None:
    phase, said = limited(loadgen, tmp_path, connections=4)
    found = phase["prediction"]
    low, high, measured = (found["loss"][figure] for figure in ("low", "high", "measured"))
    assert found["law"] == "erlang"
    assert low < 0.21 < high, "Erlang's B(3, 2)"
    assert measured == pytest.approx(phase["outcomes"]["overflow"] / phase["requests"], abs=1e-6)
    assert found["admitted"]["measured"] <= found["admitted"]["high"] == 3
    assert abs(measured - (low + high) / 2) < high - low, "twice as far as 99 of 100 go, which chance does once in millions"
    assert found["parts"] is not (low <= measured <= high), "one in 100 parts by right, but none is left out"
    assert found["sentence"].startswith(f"{'Parts from the prediction' if found['parts'] else 'As predicted'}: {measured:.1%} lost, ")
    assert f"limited: {found['sentence']}" in said
    assert "Prediction beside measurement" in said


def test_with_no_more_connections_than_requests_everybody_waits_and_nobody_is_rejected(loadgen: Loadgen, tmp_path: Path) -> None:
    phase, said = limited(loadgen, tmp_path, connections=3)
    assert phase["outcomes"]["overflow"] == 0
    assert phase["prediction"]["law"] == "queue"
    assert phase["prediction"]["parts"] is False
    assert "maxConnections 3 comes before http2MaxRequests 3" in said


def test_workers_that_race_for_no_more_connections_than_requests_have_some_rejected_and_nothing_else_is_claimed(
    loadgen: Loadgen, tmp_path: Path
) -> None:
    more = ("rate: 40/s", "rate: 200/s"), ("  namespace: test", "  namespace: test\n  workers: 4")
    phase, _ = limited(loadgen, tmp_path, 3, *more)
    assert phase["outcomes"]["overflow"] > 0
    found = phase["prediction"]
    assert (found["law"], found["loss"]["low"], found["loss"]["high"]) == ("queue", None, None)
    assert found["admitted"]["measured"] <= found["admitted"]["high"] == 6
    assert found["parts"] is False
