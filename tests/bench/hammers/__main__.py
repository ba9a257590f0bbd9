"""Measures, in alternating rounds, every load tool that is installed: its CPU per request, and how late it sends at a constant rate.

The target is pinned to one core and the tool to another. Nothing else should run meanwhile; what ran all the same on the tool's core is
shown as 'others'. ^C ends everything that was started, and prints and writes what was measured until then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadgen.errors import LoadgenError, RefusedError, UsageError
from loadgen.mesh.children import Children
from tests.bench.hammers.cost import Hit, costs, fault
from tests.bench.hammers.lateness import Attack, lateness, punctualities
from tests.bench.hammers.process import Cores, adopt_orphans, last_words, run
from tests.bench.hammers.tables import print_costs, print_punctualities
from tests.bench.hammers.target import WARM_UP_S, envoy, stamping, warm_up
from tests.bench.hammers.tools import TOOLS, Installed, Load, find

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.hammers.target import Target

GRACE_S = 30.0
"""How long a tool may take beyond the time it was given: to start, to wait for its last answers, to print."""
CLOCK_MOVED_NS = 100_000
"""If the two clocks of the stamps moved more against each other, the system's clock was set in the meantime."""
TABLES = ("cpu", "lateness")


@dataclass(slots=True)
class Bench:
    """One run of the whole: what it uses, and what was measured until now."""

    children: Children
    folder: Path
    cores: Cores
    connections: int
    tools: list[Installed]
    options: dict[str, Any]
    hits: list[Hit] = field(default_factory=list)
    attacks: list[Attack] = field(default_factory=list)

    def compare_costs(self, rounds: int, seconds: int) -> None:
        """Measure the CPU per request of each tool in turn, ``rounds`` times."""
        tools = [each for each in self.tools if each.tool.closed]
        with envoy(self.children, self.cores.target, self.folder) as target:
            warm_up(target.address, self.connections, WARM_UP_S)
            for number in range(1, rounds + 1):
                for each in tools:
                    self.hits.append(hit := self._hit(each, number, seconds, target))
                    _say(f"round {number} of {rounds}  {hit.tool:<10} {_hit_text(hit)}")

    def compare_lateness(self, rates_per_s: Sequence[int], rounds: int, seconds: int) -> None:
        """Measure how late each tool sends at each rate in turn, ``rounds`` times."""
        tools = [each for each in self.tools if each.tool.constant]
        for number in range(1, rounds + 1):
            for rate in rates_per_s:
                for each in tools:
                    self.attacks.append(attack := self._attack(each, number, seconds, rate))
                    _say(f"round {number} of {rounds}  {rate:>6,}/s  {attack.tool:<10} {_attack_text(attack)}")

    def _hit(self, each: Installed, number: int, seconds: int, target: Target) -> Hit:
        load, log = self._load(target.url, seconds), self._log(each)
        before = target.counts()
        usage = run(self.children, each.tool.name, each.command(load), log, self.cores, target.child, seconds + GRACE_S)
        counts = target.counts().since(before)
        error = fault(usage, counts)
        return Hit(each.tool.name, number, usage, counts, _with_last_words(error, log))

    def _attack(self, each: Installed, number: int, seconds: int, rate_per_s: int) -> Attack:
        log = self._log(each)
        with stamping(self.children, self.cores.target, self.folder) as stamps:
            load = self._load(stamps.url, seconds, rate_per_s)
            usage = run(self.children, each.tool.name, each.command(load), log, self.cores, stamps.child, seconds + GRACE_S)
        arrived = stamps.stamps_ns
        error = "" if arrived else f"nothing arrived, exit code {usage.exit_code}"
        if abs(stamps.clock_moved_ns) > CLOCK_MOVED_NS:
            error = f"the system's clock was moved by {stamps.clock_moved_ns / 1e6:.1f} ms meanwhile"
        return Attack(
            tool=each.tool.name,
            rate_per_s=rate_per_s,
            round=number,
            usage=usage,
            wanted=rate_per_s * seconds,
            arrived=len(arrived),
            connections=stamps.connections,
            unstamped=stamps.unstamped,
            lateness=lateness(arrived, rate_per_s) if arrived else None,
            error=_with_last_words(error, log),
        )

    def _load(self, url: str, seconds: int, rate_per_s: int | None = None) -> Load:
        targets = self.folder / "targets.txt"
        targets.write_text(f"GET {url}\n", encoding="utf-8")
        return Load(url, seconds, self.connections, targets, rate_per_s)

    def _log(self, each: Installed) -> Path:
        return self.folder / f"{each.tool.name}.log"

    def results(self) -> dict[str, Any]:
        """Give everything that was measured, for machines."""
        return {
            "environment": {
                "kernel": platform.release(),
                "machine": platform.machine(),
                "python": platform.python_version(),
                "processor": _processor(),
                "cores": os.cpu_count(),
                "load_average": os.getloadavg(),
            },
            "options": self.options,
            "tools": [{"name": each.tool.name, "version": each.version, "arguments": asdict(each.tool)} for each in self.tools],
            "cpu": {"rows": [asdict(row) for row in costs(self.hits)], "measurements": [asdict(hit) for hit in self.hits]},
            "lateness": {
                "rows": [asdict(row) for row in punctualities(self.attacks)],
                "measurements": [asdict(attack) for attack in self.attacks],
            },
        }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _with_last_words(error: str, log: Path) -> str:
    words = last_words(log) if error else ""
    return f"{error}: {words}" if words else error


def _hit_text(hit: Hit) -> str:
    if hit.error:
        return hit.error
    return f"{hit.cpu_us:8.2f} us/request  {hit.rate_per_s:9,.0f}/s  others {hit.usage.others_share:.0%}  steal {hit.usage.steal_share:.0%}"


def _attack_text(attack: Attack) -> str:
    if attack.error or attack.lateness is None:
        return attack.error
    late = attack.lateness
    return f"p50 {late.p50_s * 1e3:9.3f} ms  p99 {late.p99_s * 1e3:9.3f} ms  {attack.arrived:,} of {attack.wanted:,} arrived"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _installed(names: Sequence[str], folders: Sequence[Path]) -> list[Installed]:
    """Find the tools, and say what is there and what is not."""
    found = []
    for tool in TOOLS:
        if names and tool.name not in names:
            continue
        each = find(tool, folders)
        print(f"{tool.name:<10} {(each.version or 'installed') if each else 'not installed'}", flush=True)
        if each:
            found.append(each)
    return found


def _cores(options: argparse.Namespace) -> Cores:
    """Give the two cores.

    Raises RefusedError if we may not use both.
    """
    cores = Cores(target=options.target_core, tool=options.tool_core)
    allowed = os.sched_getaffinity(0)
    if cores.target == cores.tool or not {cores.target, cores.tool} <= allowed:
        raise RefusedError(
            f"the target needs one core and the tool another; asked for {cores.target} and {cores.tool}, allowed are {sorted(allowed)}",
            hint="name two that are allowed with --target-core and --tool-core",
        )
    return cores


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hammers", description=__doc__)
    parser.add_argument("--rounds", type=_positive, default=3, help="how often each tool is measured, in turn (default 3)")
    parser.add_argument("--seconds", type=_positive, default=15, help="length of one measurement of CPU (default 15)")
    parser.add_argument("--lateness-seconds", type=_positive, default=5, help="length of one measurement of lateness (default 5)")
    parser.add_argument("--connections", type=_positive, default=64, help="how many connections a tool may open (default 64)")
    parser.add_argument("--rates", type=_rates, default=[2_000, 10_000], help="rates per second for the lateness (default 2000,10000)")
    parser.add_argument("--tools", type=_names, default=[], help=f"only these: {','.join(tool.name for tool in TOOLS)}")
    parser.add_argument("--table", choices=TABLES, help="only this table")
    parser.add_argument("--path", type=Path, action="append", default=[], metavar="DIR", help="a further folder with tools")
    parser.add_argument("--out", type=Path, help="where the JSON goes (default results/bench-<time>.json)")
    parser.add_argument("--target-core", type=int, default=0, help="the core of the target (default 0)")
    parser.add_argument("--tool-core", type=int, default=1, help="the core of the tool (default 1)")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _rates(text: str) -> list[int]:
    return [_positive(word.replace("_", "")) for word in text.split(",")]


def _names(text: str) -> list[str]:
    names, known = text.split(","), {tool.name for tool in TOOLS}
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return names


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _plain_environment() -> None:
    """Send no load but to the target, and let Python keep its bytecode, as it does where nobody forbids it."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name == "PYTHONDONTWRITEBYTECODE"]:
        del os.environ[name]


@contextlib.contextmanager
def _bench(options: argparse.Namespace) -> Iterator[Bench]:
    cores = _cores(options)
    tools = _installed(options.tools, options.path)
    if not tools:
        raise UsageError("none of the tools is installed", hint="name the folder that they are in with --path")
    with tempfile.TemporaryDirectory(prefix="loadgen-bench-") as folder, Children() as children:
        asked = {name: value for name, value in vars(options).items() if name not in {"path", "out"}}
        yield Bench(children, Path(folder), cores, options.connections, tools, asked)


def _measure(options: argparse.Namespace, out: Path) -> None:
    with _bench(options) as bench:
        try:
            if options.table != "lateness":
                bench.compare_costs(options.rounds, options.seconds)
            if options.table != "cpu":
                bench.compare_lateness(options.rates, options.rounds, options.lateness_seconds)
        finally:
            if bench.hits:
                print_costs(bench.hits, sys.stdout)
            if bench.attacks:
                print_punctualities(bench.attacks, sys.stdout)
            out.write_text(json.dumps(bench.results(), indent=1) + "\n", encoding="utf-8")
            print(f"\nwritten to {out}")


def main() -> int:
    """Measure, print, write; give the exit code."""
    options = _options()
    out = options.out or Path("results") / time.strftime("bench-%Y%m%d-%H%M%S.json")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    _plain_environment()
    adopt_orphans()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _measure(options, out)
    except LoadgenError as error:
        _say(f"error: {error}" + (f"\n hint: {error.hint}" if error.hint else ""))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
