"""Which tools are compared, and with which command line? One row each, as a person would type it.

In a command line ``{url}`` (``{origin}`` without its last slash), ``{seconds}``, ``{connections}`` and ``{rate}`` (per second, of all connections) stand for themselves;
``{rate_each}`` is the rate of one connection, ``{targets}`` a file with vegeta's target, ``{clients}`` the folder of our own scripts.
Each is to show the best that it can do: fortio is told to spread its connections over the schedule, and vegeta to keep to as many
connections as the others, for otherwise it opens thousands when it falls behind, and never catches up.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_HERE = Path(__file__).parent
_VERSION = re.compile(r"(?:^|[\s/v])(\d+\.\d+[\w.+-]*)")
_VERSION_S = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a tool shall send, to where, for how long. ``rate_per_s`` None is closed load: each connection as fast as it is answered."""

    url: str
    seconds: int
    connections: int
    targets: Path
    rate_per_s: int | None = None

    def fill(self, template: str) -> list[str]:
        """Make the arguments that a template of the table stands for."""
        rate = self.rate_per_s or 0
        values = {
            "url": self.url,
            "origin": self.url.rstrip("/"),
            "seconds": self.seconds,
            "connections": self.connections,
            "rate": rate,
            "rate_each": rate / self.connections,
            "targets": self.targets,
            "clients": _HERE / "clients",
        }
        return [word.format(**values) for word in template.split()]


@dataclass(frozen=True, slots=True)
class Tool:
    """One row: ``closed`` and ``constant`` are its arguments, empty if it cannot do that; ``module`` makes it a script for this Python.

    ``version`` are the arguments that print it; a module's is that of its package.
    """

    name: str
    closed: str = ""
    constant: str = ""
    version: str = "--version"
    module: str = ""

    def arguments(self, load: Load) -> list[str]:
        """Give the arguments for one run; empty if the tool cannot do it."""
        return load.fill(self.closed if load.rate_per_s is None else self.constant)


TOOLS = (
    Tool("wrk", "-t 1 -c {connections} -d {seconds}s {url}", version="-v"),
    Tool(
        "h2load",
        "--h1 -t 1 -c {connections} -D {seconds} {url}",
        "--h1 -t 1 -c {connections} -D {seconds} --rps {rate_each} {url}",
    ),
    Tool(
        "loadgen",
        "hit {url} -c {connections} -z {seconds}s --json",
        "hit {url} -r {rate} -z {seconds}s --json",
    ),
    Tool(
        "oha",
        "--no-tui -c {connections} -z {seconds}s {url}",
        "--no-tui -c {connections} -z {seconds}s -q {rate} {url}",
    ),
    Tool(
        "hey",
        "-c {connections} -z {seconds}s {url}",
        "-c {connections} -z {seconds}s -q {rate_each} {url}",
        version="",
    ),
    Tool(
        "fortio",
        "load -quiet -qps 0 -c {connections} -t {seconds}s {url}",
        "load -quiet -uniform -qps {rate} -c {connections} -t {seconds}s {url}",
        version="version",
    ),
    Tool(
        "vegeta",
        "attack -targets {targets} -rate 0 -workers {connections} -max-workers {connections} -duration {seconds}s -output /dev/null",
        "attack -targets {targets} -rate {rate}/1s -connections {connections} -max-connections {connections} -duration {seconds}s -output /dev/null",
        version="-version",
    ),
    Tool(
        "k6",
        "run --quiet --no-usage-report -e URL={url} -e SECONDS={seconds} -e CONNECTIONS={connections} {clients}/k6.js",
        "run --quiet --no-usage-report -e URL={url} -e SECONDS={seconds} -e CONNECTIONS={connections} -e RATE={rate} {clients}/k6.js",
        version="version",
    ),
    Tool(
        "locust",
        "-f {clients}/locustfile.py --headless --only-summary --loglevel WARNING --stop-timeout 0"
        " -u {connections} -r {connections} -t {seconds}s -H {origin}",
    ),
    Tool("aiohttp", "{clients}/aiohttp_client.py {url} {connections} {seconds}", module="aiohttp"),
    Tool("httpx", "{clients}/httpx_client.py {url} {connections} {seconds}", module="httpx"),
    Tool("metronome", constant="{clients}/metronome.py {url} {connections} {seconds} {rate}", module="socket"),
)
"""The table. ``metronome`` is no load tool but the yardstick of the second table: it spins until each moment, so what it shows is the least
that can be seen. loadgen stands after wrk and h2load, so that what it is to be compared with is measured shortly before and after."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A tool that is there: how it is started, and its version as it says it (empty if it does not)."""

    tool: Tool
    start: tuple[str, ...]
    version: str

    def command(self, load: Load) -> list[str]:
        """Give the whole command line for one run."""
        return [*self.start, *self.tool.arguments(load)]


def find(tool: Tool, folders: Sequence[Path]) -> Installed | None:
    """Look for a tool: beside this Python, in ``folders``, on PATH, in this order. None if it is not installed."""
    if tool.module:
        if importlib.util.find_spec(tool.module) is None:
            return None
        return Installed(tool, (sys.executable,), _module_version(tool.module))
    places = [str(Path(sys.executable).parent), *map(str, folders), os.environ.get("PATH", os.defpath)]
    binary = shutil.which(tool.name, path=os.pathsep.join(places))
    return Installed(tool, (binary,), _version(binary, tool.version)) if binary else None


def _module_version(module: str) -> str:
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _version(binary: str, arguments: str) -> str:
    if not arguments:
        return ""
    try:
        said = subprocess.run(
            [binary, *arguments.split()], capture_output=True, text=True, errors="replace", timeout=_VERSION_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = _VERSION.search(said.stdout + said.stderr)
    return found.group(1) if found else ""
