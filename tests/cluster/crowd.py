"""What do many load pods cost their runner? A crowd of them, as far as a runner sees it, and a runner that polls it.

``python -m tests.cluster.crowd KUBECONFIG NAMESPACE POLLS`` takes all pods of the namespace, polls them so often, and prints a ``Cost`` as
JSON. It has loaded all that a run has loaded, and is a process of its own: so its memory is that of a run.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

import loadgen.cli.cluster  # noqa: F401  # what a run has in its memory
from loadgen import __version__
from loadgen.cluster import paths
from loadgen.cluster.access import find_access
from loadgen.cluster.api import KubeApi
from loadgen.cluster.pods import PodCrew, PodLoad
from loadgen.cluster.remote import RemotePod
from loadgen.engine.load import Sight, clock
from loadgen.ledger import Counters
from loadgen.outcome import Outcome
from loadgen.pod.log import Log
from loadgen.pod_interface import PORT
from loadgen.recorder import Tally, merged
from loadgen.runner.convergence import for_each
from loadgen.serving.exchange import as_json, refusal
from loadgen.serving.server import Server, listen

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from loadgen.serving.exchange import Reply, Request

RUN = "crowd"
SECRET = "secret"
STDERR = 2


@dataclass(frozen=True)
class Cost:
    """How long a poll took, and how much of that the runner computed, the medians of several; the most memory that the process ever had; what all tallies were merged to."""

    pods: int
    poll_s: float
    cpu_s: float
    peak_mb: float
    outcomes: dict[str, int]


# The crowd.


def tally_of(number: int) -> Tally:
    """Give what a pod may have seen in some minutes, another one for each pod."""
    rng = random.Random(number)
    tally = Tally()
    for _ in range(8000 + number):
        tally.record(Outcome.OK, 0.001 + rng.expovariate(50), 200)
        tally.lag.record(rng.expovariate(5000))
    for _ in range(2000 + number):
        tally.record(Outcome.OVERFLOW, 0.0005 + rng.expovariate(1000), 503)
    for _ in range(3000):
        tally.loop_lag.record(rng.expovariate(2000))
    return tally


class Member:
    """One pod of the crowd: what it answers to a run that takes it and polls it."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.tally = tally_of(number)
        self._run: str | None = None
        self._snapshot = self._look()

    async def open(self, address: str, tasks: TaskGroup) -> Server:
        """Serve at an address."""
        server = Server(self._answer, tasks, Log(STDERR, clock))
        await server.open(listen(address, PORT, hint=""))
        return server

    async def _answer(self, request: Request) -> Reply:
        match request.path:
            case "/snapshot":
                return self._snapshot
            case "/control/take":
                self._snapshot = self._look(run=request.headers["x-loadgen-run"])
                return self._snapshot
            case "/control/counters":
                return as_json(200, {"counters": asdict(Counters(total=self.tally.requests))})
            case "/control/leave":
                self._snapshot = self._look()
                return as_json(200, {})
        return refusal(404, request.path)

    def _look(self, run: str | None = None) -> Reply:
        """Make the page once for all polls: a hundred pods would have more cores for it than this machine."""
        outcomes = self.tally.outcomes
        return as_json(
            200,
            {
                "schema": "loadgen.pod/v1",
                "version": __version__,
                "name": self.name,
                "incarnation": f"{self.name}-1",
                "run": run,
                "sight": asdict(Sight(outcomes, self.tally.sidecar_overflow, self.tally.requests, 3, 1, 1.0)),
                "tally": self.tally.snapshot(),
                "totals": outcomes,
                "sample": {"outcome": "ok", "status": 200, "body": "Kevin", "latency_s": 0.01},
            },
        )


# The runner.


async def measure(kubeconfig: Path, namespace: str, polls: int) -> Cost:
    """Take all pods, and poll them."""
    async with KubeApi(find_access(kubeconfig=kubeconfig)) as api:
        names = [pod["metadata"]["name"] for pod in await api.list(paths.pods(namespace))]
        loads = [PodLoad(RemotePod(api, namespace, name, RUN, SECRET), number, {}) for number, name in enumerate(names, 1)]
        crew = PodCrew(loads)
        await for_each(loads, PodLoad.prepare)
        took = [await _timed(crew) for _ in range(polls)]
        outcomes = merged(load.last_tally for load in loads).outcomes
        await crew.leave()
    lost = [load.death.message for load in loads if load.death is not None]
    assert not lost, lost
    poll_s, cpu_s = (statistics.median(each) for each in zip(*took, strict=True))
    return Cost(len(loads), poll_s, cpu_s, peak_mb(), {str(outcome): count for outcome, count in outcomes.items() if count})


async def _timed(crew: PodCrew) -> tuple[float, float]:
    for load in crew.loads.values():
        load.last_tally = Tally()
    started, computed_s = clock(), time.process_time()
    await crew.poll_all()
    return clock() - started, time.process_time() - computed_s


def peak_mb() -> float:
    """Give the most memory that this process ever had resident; what ``getrusage`` says may be its parent's."""
    line = next(line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    print(json.dumps(asdict(anyio.run(measure, Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))))
