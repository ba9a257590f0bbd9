"""Do two hammer processes send twice what one sends? Prints the rates and the ratio, over some alternating rounds.

On a machine with two cores the target needs one of them, so no hammer could have a core of its own. What can be measured is whether a
process that has as much CPU as the other adds as much: each gets the same fixed quota of CPU (a cgroup, version 1), small enough that the
target keeps up, and the rates are compared. Needs root. ``python -m tests.bench.scaling``.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.mesh.children import Children
from tests.bench.hammers.target import envoy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.hammers.target import Target

CGROUPS = Path("/sys/fs/cgroup/cpu")
PERIOD_US = 10_000
"""Short, so that a process that has used its quota does not sleep for long."""
SETTLE_S = 2.0


@contextlib.contextmanager
def quota(name: str, share: float) -> Iterator[Path]:
    """Make a group whose processes together get such a share of one core; give the file that takes process ids."""
    group = CGROUPS / f"loadgen-{name}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(int(PERIOD_US * share)))
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


def hammers_of(pid: int, processes: int) -> list[int]:
    """Give the processes that make the load: the command itself, or its children."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [int(each) for each in found] if processes > 1 else [pid]


def rate_per_s(target: Target, processes: int, share: float, seconds: float) -> float:
    """Give the rate at which the target counts requests while so many processes send, each with its quota."""
    command = [sys.executable, "-m", "loadgen", "hit", target.url, "-c", "64", "-z", f"{seconds + 2 * SETTLE_S:.0f}s", "-q", "--json"]
    with contextlib.ExitStack() as stack:
        groups = [stack.enter_context(quota(str(number), share)) for number in range(processes)]
        process = subprocess.Popen([*command, "--processes", str(processes)], stdout=subprocess.DEVNULL)
        stack.callback(process.wait)
        time.sleep(SETTLE_S)
        for group, pid in zip(groups, hammers_of(process.pid, processes), strict=True):
            group.write_text(str(pid))
        time.sleep(SETTLE_S / 2)
        before, began = target.counts(wait=False).requests, time.monotonic()
        time.sleep(seconds)
        return (target.counts(wait=False).requests - before) / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--share", type=float, default=0.15, help="each process's share of one core")
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder, Children() as children, envoy(children, 0, Path(folder)) as target:
        for number in range(options.rounds):
            one, two = (rate_per_s(target, processes, options.share, options.seconds) for processes in (1, 2))
            ratios.append(two / one)
            print(f"round {number + 1}: one process {one:,.0f}/s, two {two:,.0f}/s, ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
