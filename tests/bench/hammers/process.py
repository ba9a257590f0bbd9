"""What does one run of a tool take? Starts it on one core, waits with a deadline, ends whatever it leaves behind, adds up all CPU.

The kernel gives the CPU of a process with that of the children it has waited for. A child that a tool starts and does not wait for comes
to us when the tool has ended, because we are a subreaper: it is ended and added. A tool whose child takes a session of its own *and*
is not waited for would escape; none of the table does that.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.mesh.children import tail
from tests.bench.hammers.cost import Usage
from tests.bench.hammers.target import pinned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.mesh.children import Child, Children

TIMED_OUT = 124
"""The exit code of a tool that did not end by itself, as coreutils' ``timeout`` has it."""
_PR_SET_CHILD_SUBREAPER = 36
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def adopt_orphans() -> None:
    """Become the parent of every process whose own parent, below us, has ended."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core the target has, and which the tool."""

    target: int
    tool: int


@dataclass(frozen=True, slots=True)
class Core:
    """What one core did since the machine started, in seconds: for processes (user, nice, system), and for other guests of the machine."""

    busy_s: float
    stolen_s: float

    def since(self, before: Core) -> Core:
        """Give the difference to an earlier look."""
        return Core(self.busy_s - before.busy_s, self.stolen_s - before.stolen_s)


@dataclass(frozen=True, slots=True)
class _Look:
    """What the cores and the target had used at one moment, in seconds. Ticks of 10 ms: good for a share of seconds, for nothing finer."""

    at_s: float
    tool_core: Core
    target_core: Core
    target_s: float

    @classmethod
    def now(cls, cores: Cores, target_pid: int) -> _Look:
        found = read_cores(Path("/proc/stat").read_text(encoding="ascii"))
        return cls(time.monotonic(), found[cores.tool], found[cores.target], process_s(Path(f"/proc/{target_pid}/stat").read_text("utf-8")))


def read_cores(stat: str) -> dict[int, Core]:
    """Read ``/proc/stat``, by the number of the core."""
    lines = (line.split() for line in stat.splitlines() if line.startswith("cpu") and line[3].isdigit())
    return {
        int(name[3:]): Core(busy_s=sum(map(int, values[:3])) / _TICKS_PER_S, stolen_s=int(values[7]) / _TICKS_PER_S)
        for name, *values in lines
    }


def process_s(stat: str) -> float:
    """Read ``/proc/<pid>/stat``: the user and system seconds of one process. The name before them may hold anything, brackets too."""
    values = stat.rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / _TICKS_PER_S


def run(children: Children, name: str, command: Sequence[str], log: Path, cores: Cores, target: Child, deadline_s: float) -> Usage:
    """Run a tool to its end, or to ``deadline_s`` seconds and then kill it, and say what it took.

    Raises RefusedError if it cannot be started.
    """
    target_pid = target.process.pid
    before = _Look.now(cores, target_pid)
    with pinned(cores.tool):
        child = children.start(name, command, log)
    on_time = False
    try:
        on_time = _wait(child.process.pid, deadline_s)
    finally:
        elapsed_s = time.monotonic() - before.at_s
        cpu_s, code = _reap(child)
    after = _Look.now(cores, target_pid)
    tool_core, target_core = after.tool_core.since(before.tool_core), after.target_core.since(before.target_core)
    target_s = after.target_s - before.target_s
    return Usage(
        elapsed_s=elapsed_s,
        cpu_s=cpu_s,
        exit_code=code if on_time else TIMED_OUT,
        target_cpu_s=target_s,
        others_share=max(0.0, tool_core.busy_s - cpu_s) / elapsed_s,
        steal_share=tool_core.stolen_s / elapsed_s,
        target_others_share=max(0.0, target_core.busy_s + target_core.stolen_s - target_s) / elapsed_s,
    )


def _wait(pid: int, deadline_s: float) -> bool:
    """Say whether the process ended in time."""
    handle = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(deadline_s * 1000))
    finally:
        os.close(handle)


def _reap(child: Child) -> tuple[float, int]:
    """Kill what is left of the tool, wait for all of it; give the CPU seconds of all and the tool's exit code."""
    group = child.process.pid  # it has a session of its own, and with it a group of that number
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    cpu_s, code = 0.0, 0
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status, usage = os.wait4(-group, 0)
            cpu_s += usage.ru_utime + usage.ru_stime
            if pid == group:
                code = child.process.returncode = os.waitstatus_to_exitcode(status)
    return cpu_s, code


def last_words(log: Path) -> str:
    """Give the last line that a tool wrote."""
    return next((line for line in reversed(tail(log).splitlines()) if line.strip()), "")
