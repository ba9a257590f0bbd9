"""Joins a plan, a booting mesh, a story and a screen to one run."""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from loadgen.cli.signals import HeldBack, Interruption, attended
from loadgen.mesh.local import ready
from loadgen.render.screen import Screen
from loadgen.runner.crew import LocalCrew
from loadgen.runner.environment import environment
from loadgen.runner.story import Story

if TYPE_CHECKING:
    from loadgen.cli.metrics import MetricsPort
    from loadgen.engine.hammers import Load
    from loadgen.inputs import Plan
    from loadgen.mesh.boot import Booting
    from loadgen.mesh.local import Sidecar
    from loadgen.render.stream import Stream
    from loadgen.runner.live import Live
    from loadgen.runner.result import Result


def run_local(
    plan: Plan,
    booting: Booting,
    held: HeldBack,
    *,
    processes: int | None,
    quiet: bool,
    stream: Stream | None = None,
    metrics: MetricsPort | None = None,
) -> tuple[Result | None, int]:
    """Run a plan on a booting mesh; give the result (None if it was interrupted before the first request) and the interruption's exit code.

    Signals that come afterwards are ``held`` back.
    """

    async def tell(interruption: Interruption) -> Result:
        with Screen(quiet=quiet, stream=stream) as screen:
            async with shown(metrics, plan) as live:
                return await _run(plan, booting, processes, screen, interruption, live)

    return anyio.run(attended, tell, held, backend_options={"use_uvloop": True})


def shown(metrics: MetricsPort | None, plan: Plan) -> contextlib.AbstractAsyncContextManager[Live | None]:
    """Give what a run notes its state in, while its metrics are served; None if they are not."""
    return contextlib.nullcontext() if metrics is None else metrics.serving([phase.name for phase in plan.scenario.phases])


async def _run(
    plan: Plan, booting: Booting, processes: int | None, screen: Screen, interruption: Interruption, live: Live | None
) -> Result:
    started_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    mesh = await ready(booting)
    crew = LocalCrew(plan.scenario, mesh.clients, processes)
    story: Story[Sidecar, Load] = Story(plan, mesh, screen, crew, live)
    interruption.on_first = story.stop
    interruption.say = screen.say

    def leave() -> None:
        mesh.kill()
        screen.close()

    interruption.on_second = leave
    ready_s = since_process_start()
    screen.ready(len(mesh.clients), ready_s, crew.processes)
    gc.freeze()
    gc.enable()
    measured = await story.run()

    from loadgen.runner.foresight import with_predictions  # noqa: PLC0415  # as the next
    from loadgen.runner.result import Result, make_report  # noqa: PLC0415  # not needed before, and the first request should not wait for it

    about = environment(mesh.envoy_version, ready_s, crew.processes)
    report = make_report(plan, measured, mesh.wanted(plan.rules), about, started_at)
    return Result(with_predictions(report, plan, measured), measured.series)


def since_process_start() -> float:
    """Give the seconds since this process was started, the interpreter's own start included."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
