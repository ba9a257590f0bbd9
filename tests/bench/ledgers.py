"""Runs the tutorial many times in a row and prints every ledger; ends with 1 if one does not balance or a run is not VALID and enforced.

Not a test of the gate: it takes minutes. ``make ledgers N=20``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


def run(scenario: Path, duration: str, folder: Path) -> tuple[int, Any]:
    command = [sys.executable, "-m", "loadgen", "run", str(scenario), "--duration", duration, "--out", str(folder), "-q"]
    code = subprocess.run(command, cwd=REPOSITORY, check=False, stdout=subprocess.DEVNULL).returncode
    return code, json.loads((folder / "report.json").read_text(encoding="utf-8"))


def line(number: int, code: int, report: Any) -> tuple[str, bool]:
    differences = [client["ledger"]["difference"] for phase in report["phases"] for client in phase["clients"]]
    counts = "  ".join(f"{phase['name']} {phase['ledger']['client']}/{phase['ledger']['proxy']}" for phase in report["phases"])
    ready, share = report["environment"]["ready_s"], report["environment"]["hammer_cpu_share"]
    good = code == 0 and report["validity"]["state"] == "VALID" and not any(differences)
    figures = f"{len(differences)} ledgers, not 0: {sum(map(bool, differences))}  ready {ready:.2f} s  hammer {share:.0%}"
    return f"{number:>3}  exit {code}  {report['validity']['state']}  {report['verdict']['state']}  {counts}  {figures}", good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--duration", default="3s", help="length of every phase")
    parser.add_argument("--scenario", type=Path, default=REPOSITORY / "scenarios" / "connection-pool.yaml")
    options = parser.parse_args()
    results = []
    for number in range(1, options.runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            text, good = line(number, *run(options.scenario, options.duration, Path(folder)))
        print(text, flush=True)
        results.append(good)
    print(f"{sum(results)} of {len(results)} runs were VALID with every ledger at 0")
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
