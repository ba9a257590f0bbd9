"""The life of a load pod's process: serve, hammer, until a signal; then send nothing more, let the last answers come, say the totals, end.

The law: a count that was reported is never lost, so the pages go on answering until the last request has ended.
"""

from __future__ import annotations

import gc
import os
import signal
from typing import TYPE_CHECKING

import anyio
from prometheus_client import CollectorRegistry

from loadgen import __version__
from loadgen.engine.load import clock
from loadgen.engine.this_process import allow_many_files
from loadgen.pod.answers import Answers
from loadgen.pod.book import Book
from loadgen.pod.control import Control
from loadgen.pod.hammer import Hammer
from loadgen.pod.log import Log
from loadgen.pod.metrics import Metrics
from loadgen.pod.own_sidecar import OwnSidecar
from loadgen.pod.routes import Routes
from loadgen.pod.snapshot import Snapshots
from loadgen.serving.server import Server, listen
from loadgen.sidecar import Admin

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

    from loadgen.pod.settings import Settings

STDOUT = 1
FINISH_S = 8.0
"""Everything between the signal and the end, in seconds; Kubernetes' own patience is 30, and ours is promised to be at most 10."""
LAST_READ_S = 0.2
"""So long the pages are still there after the last answer, for who was about to ask."""
_SIGNAL_EXIT = 128


def run_pod(settings: Settings) -> None:
    """Run the pod until SIGTERM or SIGINT.

    Raises RefusedError if it cannot listen.
    """
    allow_many_files()
    listening = listen(settings.bind, settings.port, hint="LOADGEN_PORT names another; 0 takes any")
    gc.freeze()  # what is imported stays: nobody has to look through it again
    anyio.run(_serve, settings, listening, backend_options={"use_uvloop": True})


async def _serve(settings: Settings, listening: socket.socket) -> None:
    log = Log(STDOUT, clock)
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as tasks:
            book = Book()
            sidecar = OwnSidecar(Admin(settings.name, settings.admin, settings.cluster))
            hammer = Hammer(settings, sidecar, book, tasks, log)
            answers = Answers(hammer, log)
            snapshots = Snapshots(settings, hammer, sidecar, answers)
            control = Control(settings, hammer, sidecar, snapshots.take, log)
            metrics = Metrics(CollectorRegistry(), book, hammer, sidecar)
            server = Server(Routes(hammer, sidecar, metrics, snapshots, control).answer, tasks, log)
            await server.open(listening)
            _introduce(settings, listening.getsockname()[1], log)
            for job in (sidecar.watch, hammer.keep, answers.listen):
                tasks.start_soon(job)
            async for number in signals:
                log.say(f"{signal.Signals(number).name}: sending nothing more; the last answers are waited for")
                break
            tasks.start_soon(_leave_at_once, signals, log)
            with anyio.move_on_after(FINISH_S):
                await hammer.finish()
                await server.wait_answered()
                await anyio.sleep(LAST_READ_S)
            server.close()
            under_way = hammer.close()
            tasks.cancel_scope.cancel()
        _sum_up(hammer, under_way, log)


def _introduce(settings: Settings, port: int, log: Log) -> None:
    think = f"{'exponential ' if settings.think.exponential else ''}{settings.think.mean_s:g} s think time"
    own = f"{settings.users} user{'s' if settings.users > 1 else ''} with {think}"
    control = "with a secret" if settings.secret_file is not None else "off (no LOADGEN_SECRET_FILE)"
    log.say(f"loadgen {__version__}: {settings.name} calls {settings.aim.url} as {own}; serves on port {port}; control interface {control}")
    for warning in settings.warnings:
        log.say(f"warning: {warning}")


async def _leave_at_once(signals: AsyncIterator[signal.Signals], log: Log) -> None:
    """Wait for a second signal."""
    async for number in signals:
        log.say_last(f"{signal.Signals(number).name} again: left at once")
        os._exit(_SIGNAL_EXIT + number)


def _sum_up(hammer: Hammer, under_way: int, log: Log) -> None:
    outcomes = hammer.outcomes()
    parts = ", ".join(f"{outcome} {count}" for outcome, count in outcomes.items() if count)
    lost = f"; {under_way} under way were dropped and are counted nowhere" if under_way else ""
    log.say_last(f"ended: {sum(outcomes.values())} requests since the start{f': {parts}' if parts else ''}{lost}")
