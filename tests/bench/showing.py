"""What do the metrics and the time series cost the hammer? Runs with both and runs with neither take turns; prints what a request costs in each.

With both, Prometheus' part is played by a client that asks for the page once a second, as docker/prometheus.yml has it. With neither, no
port is open and the recorder of the series hears nothing. The CPU is that of the process with the hammer, in the phase alone, as the report
has it; the sidecars and the service are other processes. ``python -m tests.bench.showing``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRAPE_S = 1.0
LOADS = {
    "the tutorial's": "load: {model: closed, users: 5, think_time: exponential 30ms}\nservice: {time: exponential 20ms}",
    "without a pause": "load: {model: closed, users: 2}\nservice: {time: 0ms}",
}
SCENARIO = """
name: showing
target: {{url: "http://user.base.svc.cluster.local:7000/", expect: {{status: 200, body: Kevin}}}}
clients: {{count: 10, namespace: test}}
{load}
policy: policies/user.yaml
phases:
  - {{name: baseline, policy: absent, duration: {seconds:g}s}}
"""
DEAF = """
from loadgen.series import SeriesRecorder
for name in ("notice", "complete", "in_flight"):
    setattr(SeriesRecorder, name, lambda *_: None)
from loadgen.__main__ import main
main()
"""
POLICY = Path(__file__).parents[2] / "scenarios" / "policies" / "user.yaml"


@contextlib.contextmanager
def scraped(url: str) -> Iterator[list[int]]:
    """Ask for a page once a second as long as the context lasts; give the sizes of the answers."""
    over, sizes = threading.Event(), list[int]()

    def ask() -> None:
        while not over.wait(SCRAPE_S):
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=SCRAPE_S) as answer:
                sizes.append(len(answer.read()))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield sizes
    finally:
        over.set()
        thread.join()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def cpu_us_per_request(scenario: Path, *, shown: bool) -> float:
    """Give what a request costs the hammer in a run, in microseconds."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        arguments, sizes = ["run", str(scenario), "--out", folder, "-q"], [0]
        if shown:
            port = free_port()
            arguments += ["--metrics-port", str(port), "--metrics-linger", "0s"]
            sizes = stack.enter_context(scraped(f"http://127.0.0.1:{port}/metrics"))
        program = ["-m", "loadgen"] if shown else ["-c", DEAF]
        subprocess.run([sys.executable, *program, *arguments], check=False, stdout=subprocess.DEVNULL)
        assert sizes, "nobody scraped"
        (phase,) = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))["phases"]
    return float(phase["hammer_cpu_share"] * phase["duration_s"] / phase["requests"] * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=10, help="length of the phase")
    options = parser.parse_args()
    for title, load in LOADS.items():
        ratios = []
        with tempfile.TemporaryDirectory() as folder:
            scenario = Path(folder) / "scenario.yaml"
            scenario.write_text(SCENARIO.format(load=load, seconds=options.seconds), encoding="utf-8")
            (scenario.parent / "policies").mkdir()
            (scenario.parent / "policies" / "user.yaml").write_bytes(POLICY.read_bytes())
            for number in range(options.rounds):
                order = (True, False) if number % 2 else (False, True)
                cost = {shown: cpu_us_per_request(scenario, shown=shown) for shown in order}
                ratios.append(cost[True] / cost[False])
                print(
                    f"{title}, round {number + 1}: {cost[True]:.1f} us/request with, {cost[False]:.1f} without: {ratios[-1]:.3f}",
                    flush=True,
                )
        print(f"{title}: median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)


if __name__ == "__main__":
    main()
