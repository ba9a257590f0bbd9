"""Do two hammer processes send twice what one sends? Prints what a request costs with one and with two, over some alternating rounds.

On a machine with two cores the target needs one of them, so no second hammer could have a core of its own, and the rate is the target's.
What can be measured is whether a request costs more CPU when two processes send: what one process sends on a core, two of them send on
two cores, less what a request has become dearer. ``python -m tests.bench.scaling``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.mesh.children import Children
from tests.bench.hammers.target import envoy, pinned

if TYPE_CHECKING:
    from tests.bench.hammers.target import Target

TARGET_CORE, HAMMER_CORE = 0, 1
CONNECTIONS = 64
"""Of each process."""
SETTLE_S = 2.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Give the CPU time so far, in seconds, of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    used = 0.0
    for each in [str(pid), *children]:
        fields = Path(f"/proc/{each}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) / TICKS_PER_S  # utime and stime, proc(5)
    return used


def cpu_us_per_request(target: Target, command: list[str], seconds: float, settle_s: float = SETTLE_S) -> float:
    """Give what a request costs whoever sends, in microseconds; the ``settle_s`` seconds of the start are not in it."""
    with contextlib.ExitStack() as stack:
        with pinned(HAMMER_CORE):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        time.sleep(settle_s)
        requests, used = target.counts(wait=False).requests, cpu_s(process.pid)
        time.sleep(seconds)
        return (cpu_s(process.pid) - used) * 1e6 / (target.counts(wait=False).requests - requests)


def hit(target: Target, processes: int, seconds: float) -> list[str]:
    """Give the command that has so many processes send."""
    command = [sys.executable, "-m", "loadgen", "hit", target.url, "-c", str(CONNECTIONS * processes), "--processes", str(processes)]
    return [*command, "-z", f"{seconds + 2 * SETTLE_S:.0f}s", "-q", "--json"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder, Children() as children, envoy(children, TARGET_CORE, Path(folder)) as target:
        for number in range(options.rounds):
            one, two = (cpu_us_per_request(target, hit(target, processes, options.seconds), options.seconds) for processes in (1, 2))
            ratios.append(2 * one / two)
            print(
                f"round {number + 1}: one process {one:.2f} us/request, two {two:.2f}, so two send {ratios[-1]:.2f} times as much",
                flush=True,
            )
    print(f"median {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
