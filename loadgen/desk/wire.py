"""``python -m loadgen.desk.wire FD``: the engine as a process of Locust's own, for users that send through it; it ends with Locust.

It is told, a line of JSON each: ``make`` with the clients, what they send and the number of the test; ``join`` and ``leave`` of users; and
what a run asks of a load. All that it says has the number of the test that it is about.

The law: of a load that was stopped, what it has seen is said a ``last`` time when all of its requests have ended, and before any answer that
lets anybody conclude that; then no more, unless it is asked.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any

import anyio

from loadgen.desk.lines import Lines
from loadgen.desk.signals import leave_signals_to_locust
from loadgen.engine.lanes import Shot
from loadgen.engine.load import clock
from loadgen.engine.spec import LoadSpec, mesh_request
from loadgen.engine.this_process import allow_many_files
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
DRAINED_S = 0.01


class Wire:
    """The loads of this process, by client."""

    def __init__(self, lines: Lines, tasks: TaskGroup) -> None:
        self._lines = lines
        self._tasks = tasks
        self._loads: dict[str, ClientLoad] = {}
        self._ending: set[str] = set()
        """The loads that were stopped and have something in flight."""
        self._over: set[str] = set()
        """The loads of which everything was said."""
        self._test = 0

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
        for each in (self._loads, self._ending, self._over):
            each.clear()

    async def obey(self, number: int, client: str, verb: str, args: Mapping[str, Any]) -> None:
        """Do what was asked of a client's load, and say what came of it if that is wanted."""
        load = self._loads.get(client)
        if load is None:
            return
        value = await _ask(load, verb, args) if verb in _ASKED else getattr(load, verb)(**args)
        if verb == "stop" and client not in self._over:  # a load may be stopped more than once
            self._ending.add(client)
        self._say_last()
        if number:
            self._lines.send({"answer": number, "value": value, "test": self._test})

    async def report(self) -> None:
        """Say twice a second what was seen."""
        while True:
            await anyio.sleep(SEEN_S)
            for name, load in self._loads.items():
                if name not in self._over:
                    self._lines.send({**seen(name, load), "test": self._test})

    async def follow(self) -> None:
        """Say at once what was seen of a load that ends: Locust may be about to end, too."""
        while True:
            await anyio.sleep(DRAINED_S)
            self._say_last()

    def _say_last(self) -> None:
        for name in [each for each in self._ending if not self._loads[each].in_flight]:
            self._ending.remove(name)
            self._over.add(name)
            self._lines.send({**seen(name, self._loads[name]), "test": self._test, "last": True})


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
        tasks.start_soon(wire.follow)
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
    leave_signals_to_locust()
    allow_many_files()
    anyio.run(serve, int(sys.argv[1]), backend_options={"use_uvloop": True})


if __name__ == "__main__":
    main()
