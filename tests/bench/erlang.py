"""Does a real sidecar lose what Erlang says? Runs ``loadgen run`` for pairs of limit and offered load and prints predicted, interval, measured.

Poisson arrivals against ``http2MaxRequests``, with constant and with exponential service. Ends with 1 if more than one measured loss is outside its interval.
Not a test of the gate: the whole table takes some quarter of an hour. ``python -m tests.bench.erlang [--pairs 3] [--seconds 10]``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

REPOSITORY = Path(__file__).parents[2]
SERVICE_S = 0.1
CLIENTS = 4
PAIRS: Sequence[tuple[int, float]] = (
    *((1, offered) for offered in (0.5, 1, 5, 20)),
    *((2, offered) for offered in (0.5, 1, 2, 10)),
    *((5, offered) for offered in (1, 2, 5, 10, 20)),
    *((8, offered) for offered in (2, 5, 8, 20)),
    *((20, offered) for offered in (10, 15, 20)),
)
"""Limit, and offered load in Erlang, for each client."""
RULE = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: user, namespace: base}}
spec:
  host: user.base.svc.cluster.local
  trafficPolicy: {{connectionPool: {{http: {{http2MaxRequests: {limit}}}}}}}
"""
SCENARIO = """\
name: erlang
target: {{url: "http://user.base.svc.cluster.local:7000/", expect: {{status: 200, body: Kevin}}}}
clients: {{count: {clients}, namespace: test}}
load: {{model: open, arrivals: poisson, rate: {rate:.6f}/s}}
service: {{time: {service}}}
policy: rule.yaml
phases: [{{name: limited, policy: applied, duration: {seconds:g}s}}]
seed: {seed}
"""


def run(folder: Path, limit: int, offered: float, kind: str, seconds: float, seed: int) -> Any:
    """Give the report of one run."""
    service = f"{kind} {SERVICE_S * 1000:.0f}ms"
    (folder / "rule.yaml").write_text(RULE.format(limit=limit))
    text = SCENARIO.format(clients=CLIENTS, rate=offered / SERVICE_S, service=service, seconds=seconds, seed=seed)
    (folder / "scenario.yaml").write_text(text)
    command = [sys.executable, "-m", "loadgen", "run", str(folder / "scenario.yaml"), "--out", str(folder / "out"), "-q"]
    ended = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True, timeout=60 + 3 * seconds)
    report = folder / "out" / "report.json"
    assert report.exists(), ended.stderr
    return json.loads(report.read_text(encoding="utf-8"))


def line(limit: int, offered: float, kind: str, report: Any) -> tuple[str, bool]:
    """Write one line of the table, and tell whether the measured loss is inside."""
    (phase,) = report["phases"]
    found, loss = phase["prediction"], phase["prediction"]["loss"]
    inside = loss["low"] <= loss["measured"] <= loss["high"]
    low, high = found["service_time_s"]
    state = report["validity"]["state"]
    text = f"{limit:>3}  {offered:>5.1f}  {kind:<11}  {phase['requests']:>6}  {loss['predicted']:.4f}  {loss['low']:.4f} to {loss['high']:.4f}  {loss['measured']:.4f}"
    admitted = found["admitted"]["measured"]
    return f"{text}  {'yes' if inside else 'NO':<6}  {admitted:>4.0f}  {low * 1000:.1f} to {high * 1000:.1f} ms  {state}", inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=len(PAIRS), help="only so many of the pairs, evenly picked")
    parser.add_argument("--seconds", type=float, default=10, help="length of the phase")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    picked = [PAIRS[index * len(PAIRS) // options.pairs] for index in range(min(options.pairs, len(PAIRS)))]
    print("  c  offered  service  requests  predicted  99 in 100 measured  loss  inside  peak  service time in the sidecar")
    outside = runs = 0
    for limit, offered in picked:
        for kind in ("constant", "exponential"):
            with tempfile.TemporaryDirectory() as folder:
                text, inside = line(limit, offered, kind, run(Path(folder), limit, offered, kind, options.seconds, options.seed + runs))
            print(text, flush=True)
            runs += 1
            outside += not inside
    print(f"{runs - outside} of {runs} measured losses are inside the interval; seeds from {options.seed}")
    sys.exit(outside > 1)


if __name__ == "__main__":
    main()
