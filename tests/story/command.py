"""Runs the real command as a user would: as a process of its own, with a temporary folder of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).parents[2]
SCENARIOS = REPOSITORY / "scenarios"
PATIENCE_S = 60.0
"""No command of these tests takes a quarter of it; a machine that needs more is broken."""
POLL_S = 0.05
NOHUP = ("-c", "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from loadgen.cli import main; main()")
"""The program under nohup."""
AGAIN_IF_STARVED = pytest.mark.flaky(reruns=2, only_rerun=["the hammer was (late|starved) in phase"])
"""In a phase of one second a virtual machine that loses its core for 60 ms has spoilt the run, and the run says so: it does not count, and is
done again, as its user would. The failed assertion must show what the command said."""


@dataclass
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    seconds: float


@dataclass
class Loadgen:
    """The command, with its temporary folder and its results below ``folder``."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def start(self, *arguments: str | Path, program: tuple[str, ...] = ("-m", "loadgen")) -> subprocess.Popen[str]:
        self.temporary.mkdir(exist_ok=True)
        environment = {**os.environ, "TMPDIR": str(self.temporary), "COLUMNS": "100", **self.environment}
        command = [sys.executable, *program, *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str | Path, program: tuple[str, ...] = ("-m", "loadgen"), patience_s: float = PATIENCE_S) -> Ended:
        return finish(self.start(*arguments, program=program), patience_s)

    def run_scenario(self, scenario: Path, *options: str, patience_s: float = PATIENCE_S) -> Ended:
        return self.run("run", scenario, "--out", self.results, *options, patience_s=patience_s)

    def start_scenario(self, scenario: Path, *options: str) -> subprocess.Popen[str]:
        return self.start("run", scenario, "--out", self.results, *options)

    def report(self) -> Any:
        return json.loads((self.results / "report.json").read_text(encoding="utf-8"))

    def run_folders(self) -> list[Path]:
        return [folder for folder in self.temporary.glob("loadgen-*/*") if folder.is_dir()]

    def service_port(self) -> int:
        """Give the port of the running mesh's user service, from a sidecar's configuration."""
        text = (self.run_folders()[0] / "client-1" / "cds.json").read_text(encoding="utf-8")
        found = re.search(r'"port_value": (\d+)', text)
        assert found
        return int(found[1])

    def leftovers(self) -> list[str]:
        """Give the command lines of all processes that run with our temporary folder: sidecars and the user service."""
        return [line for _, line in self.processes()]

    def processes(self) -> list[tuple[int, str]]:
        mark = f"TMPDIR={self.temporary}".encode()
        return [(pid, line) for pid, line, environment in processes() if mark in environment.split(b"\0")]

    def process_of(self, what: str) -> int:
        """Give the process id of one part of the running mesh: a client's folder, or ``user_service``."""
        found = [pid for pid, line in self.processes() if what in line]
        assert len(found) == 1, found
        return found[0]


def processes() -> list[tuple[int, str, bytes]]:
    """Give process id, command line and environment of every process that we may look at."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                environment = (folder / "environ").read_bytes()
            except OSError:
                continue
            found.append((int(folder.name), line, environment))
    return found


def finish(process: subprocess.Popen[str], patience_s: float = PATIENCE_S) -> Ended:
    started = time.monotonic()
    try:
        stdout, stderr = process.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        raise AssertionError(f"the command did not end by itself:\n{stdout}\n{stderr}") from None
    return Ended(process.returncode, stdout, stderr, time.monotonic() - started)


def wait_for_line(process: subprocess.Popen[str], text: str) -> str:
    """Read the command's stderr until a line holds ``text``; give that line."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if text in line:
            return line
    raise AssertionError(f"the command ended without saying '{text}':\n{''.join(said)}")


def interrupt(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> None:
    process.send_signal(number)


def until(condition: Callable[[], object], what: str | Callable[[], str], patience_s: float = PATIENCE_S) -> None:
    """Ask until something is so; for what no event announces. ``what`` may say it when the time is up."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what if isinstance(what, str) else what()}"
        time.sleep(POLL_S)


def variant(target: Path, source: Path, *changes: tuple[str, str]) -> Path:
    """Write a scenario that differs from a shipped one; the policy's path is made absolute."""
    text = source.read_text(encoding="utf-8").replace("policy: policies/", f"policy: {SCENARIOS}/policies/")
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    target.write_text(text, encoding="utf-8")
    return target
