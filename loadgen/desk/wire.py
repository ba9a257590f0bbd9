"""``python -m loadgen.desk.wire FD``: the engine as a process of Locust's own, for users that send through it; it ends with Locust.

It is told, a line of JSON each: ``make`` with the clients and what they send; ``join`` and ``leave`` of users; and what a run asks of a load.
"""

from __future__ import annotations

import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import anyio

from loadgen.desk.lines import Lines
from loadgen.engine.lanes import Shot
from loadgen.engine.load import allow_many_files, clock
from loadgen.engine.spec import LoadSpec, mesh_request
from loadgen.outcome import Expected
from loadgen.pacing import Closed
from loadgen.quantity import interval

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import TaskGroup

    from loadgen.engine.load import ClientLoad, Sight

MAX_USERS = 10_000
"""Of one client."""
SEEN_S = 0.5
DRAIN_S = 0.02


class Wire:
    """The loads of this process, by client."""

    def __init__(self, lines: Lines, tasks: TaskGroup) -> None:
        self._lines = lines
        self._tasks = tasks
        self._loads: dict[str, ClientLoad] = {}
        self._test = 0
        self._ended: set[str] = set()
        """The clients whose load was stopped."""

    def make(self, clients: Mapping[str, Any], said: Mapping[str, Any]) -> None:
        """Have a load without users for each client; those of an earlier test are gone."""
        self.drop()
        self._test = said["test"]
        expected = Expected(said["status"], said["body"].encode() if said["body"] else None)
        pacing = Closed(0, interval(said["think"]))
        for name, address in clients.items():
            shot = Shot(
                (address["host"], address["port"]), mesh_request(name, said["authority"], said["path"]), expected, said["timeout_s"]
            )
            load = self._loads[name] = LoadSpec(name, shot, pacing, f"{name}-{said['seed']}", MAX_USERS).make(self._tasks)
            load.start()

    def drop(self) -> None:
        """Drop all loads and what they have in flight."""
        for load in self._loads.values():
            load.abort()
        self._loads.clear()
        self._ended.clear()

    async def obey(self, number: int, client: str, verb: str, args: Mapping[str, Any]) -> None:
        """Do what was asked of a client's load, and say what came of it if that is wanted."""
        load = self._loads.get(client)
        if load is None:
            return
        test = self._test
        value = await _ask(load, verb, args) if verb in _ASKED else getattr(load, verb)(**args)
        if number:
            self._lines.send({"answer": number, "value": value, "test": test})
        if verb == "stop" and client not in self._ended:
            self._ended.add(client)
            self._tasks.start_soon(self._drain, client, load, test)

    async def _drain(self, name: str, load: ClientLoad, test: int) -> None:
        """Say for the last time what a load has seen, when all that it has sent has ended; it still answers what it is asked."""
        while load.in_flight:  # noqa: ASYNC110  # bounded by the requests' timeout, or by the next test
            await anyio.sleep(DRAIN_S)
        if test == self._test:
            self._lines.send({**seen(name, load), "test": test, "last": True})

    async def report(self) -> None:
        """Say twice a second what was seen."""
        while True:
            await anyio.sleep(SEEN_S)
            for name, load in self._loads.items():
                if name not in self._ended:
                    self._lines.send({**seen(name, load), "test": self._test})


_ASKED = ("begin_tally", "look", "snapshot", "all_done_since")


async def _ask(load: ClientLoad, verb: str, args: Mapping[str, Any]) -> Any:
    if verb == "begin_tally":
        ended = await load.begin_tally(**args)
        return None if ended is None else ended.snapshot()
    if verb == "look":
        return _shown(load.sight)
    if verb == "snapshot":
        return (await load.snapshot()).snapshot()
    return await load.all_done_since(clock() - args["age_s"])


def seen(name: str, load: ClientLoad) -> dict[str, Any]:
    """Say what a load has seen until now."""
    load.fold()
    return {"seen": name, "sight": _shown(load.sight), "tally": load.tally.snapshot()}


def _shown(sight: Sight) -> dict[str, Any]:
    return {
        "outcomes": {outcome.value: count for outcome, count in sight.outcomes.items()},
        "sidecar_overflow": sight.sidecar_overflow,
        "sent": sight.sent,
        "in_flight": sight.in_flight,
        "process": sight.pid,
        "cpu_s": sight.cpu_s,
    }


async def serve(descriptor: int) -> None:
    """Do what is asked until the other end is gone."""
    lines = await Lines.on(socket.socket(fileno=descriptor))
    async with anyio.create_task_group() as tasks:
        wire = Wire(lines, tasks)
        tasks.start_soon(wire.report)
        try:
            while True:
                message = await lines.receive()
                if "make" in message:
                    wire.make(message["make"], message)
                else:
                    await wire.obey(message["ask"], message["client"], message["verb"], message["args"])
        except EOFError:
            wire.drop()
        tasks.cancel_scope.cancel()


def main() -> None:
    """Run until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a ^C at the terminal is for Locust
    allow_many_files()
    anyio.run(serve, int(sys.argv[1]), backend_options={"use_uvloop": True})


if __name__ == "__main__":
    main()
