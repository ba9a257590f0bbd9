"""What does a further hammer process do? ``python -m loadgen.engine.process FD`` makes the loads that it is told over a socket, and reports.

When the parent is gone, however it went, the socket closes and the process ends.
"""

from __future__ import annotations

import functools
import gc
import inspect
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import anyio

from loadgen.engine.channel import Channel
from loadgen.engine.this_process import allow_many_files

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from anyio.abc import TaskGroup

    from loadgen.engine.load import ClientLoad
    from loadgen.outcome import Answer

REPORT_S = 0.2


async def _serve(descriptor: int) -> None:
    channel = await Channel.on(socket.socket(fileno=descriptor))
    loads: dict[str, ClientLoad] = {}
    async with anyio.create_task_group() as tasks:
        try:
            loads.update({spec.name: spec.make(tasks) for spec in await channel.receive()})
            tasks.start_soon(_report, channel, loads)
            while True:
                number, name, verb, arguments = await channel.receive()
                _obey(channel, tasks, loads[name], number, verb, arguments)
        except EOFError:
            pass
        for load in loads.values():
            load.abort()
        tasks.cancel_scope.cancel()


def _obey(channel: Channel, tasks: TaskGroup, load: ClientLoad, number: int, verb: str, arguments: dict[str, Any]) -> None:
    """Do what the parent said, in the order in which it said it; what has an answer is awaited in a task of its own."""
    if verb == "ask":
        load.ask(functools.partial(_tell, channel))
        return
    result = getattr(load, verb)(**arguments)
    if inspect.isawaitable(result):
        tasks.start_soon(_answer, channel, number, result)


async def _answer(channel: Channel, number: int, awaited: Awaitable[Any]) -> None:
    channel.send(("result", number, await awaited))


def _tell(channel: Channel, answer: Answer) -> None:
    channel.send(("answer", answer.client, answer))


async def _report(channel: Channel, loads: Mapping[str, ClientLoad]) -> None:
    """Say several times a second what was seen, so that the parent knows it even if this process is killed."""
    while True:
        await anyio.sleep(REPORT_S)
        for name, load in loads.items():
            channel.send(("seen", name, (load.sight, await load.snapshot())))


def main() -> None:
    """Run until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a ^C at the terminal is for the parent, which tells us what to do
    allow_many_files()
    gc.freeze()
    anyio.run(_serve, int(sys.argv[1]), backend_options={"use_uvloop": True})


if __name__ == "__main__":
    main()
