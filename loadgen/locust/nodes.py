"""Which Locust processes have the users, and what passes between them and the desk? ``node.py`` is the other side of it.

The law: whatever calls itself a worker may say anything; only what comes from whom it was asked of, or whose client it is about, is taken.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import gevent
from locust.exception import RPCError, RPCSendError
from locust.runners import STATE_MISSING, MasterRunner

from loadgen.locust.deal import LOCAL
from loadgen.locust.node import ANSWER, ASK, LOST, SEEN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from locust.env import Environment

LOOK_S = 1.0


class Nodes:
    """The Locust processes that have users. ``say`` tells the desk and gives whether there is one; ``lost`` hears why users send nothing more."""

    def __init__(self, environment: Environment, say: Callable[[dict[str, Any]], bool], lost: Callable[[str], None]) -> None:
        self._environment = environment
        self._say = say
        self._lost = lost
        self._node_of: Mapping[str, str] = {}
        """By client: the process that has its users."""
        self._asked: dict[int, str] = {}
        """By question: the process that is to answer it."""
        self._watcher: gevent.Greenlet | None = None

    def listen(self) -> None:
        """Take in from now on what the processes say."""
        runner = self._environment.runner
        assert runner is not None, "the event init comes after the runner"
        runner.register_message(ANSWER, self._answered)
        runner.register_message(SEEN, self._seen)
        runner.register_message(LOST, self._died)

    def names(self) -> list[str]:
        """Name the processes that can have users."""
        runner = self._environment.runner
        if not isinstance(runner, MasterRunner):
            return [LOCAL]
        return sorted((node.id for node in runner.clients.all if node.state != STATE_MISSING), key=runner.get_worker_index)

    def deal(self, node_of: Mapping[str, str]) -> None:
        """Note for a test which process has the users of each client; what was asked before is not answered any more."""
        self._node_of = node_of
        self._asked.clear()

    def has_clients(self, node: str) -> bool:
        """Tell whether a process has the users of any client."""
        return node in self._node_of.values()

    def send(self, kind: str, data: dict[str, Any], node: str) -> None:
        """Send a message to a process."""
        runner = self._environment.runner
        if isinstance(runner, MasterRunner):
            with contextlib.suppress(RPCError, RPCSendError):  # a worker that is gone is missed by ``_look``; neither is the other
                runner.send_message(kind, data, client_id=node)
        elif runner is not None:
            runner.send_message(kind, data)

    def ask(self, message: dict[str, Any]) -> None:
        """Carry a question of the desk's to the process that has the client's users."""
        node = self._node_of.get(message["client"], LOCAL)
        if message["ask"]:
            self._asked[message["ask"]] = node
        self.send(ASK, {"number": message["ask"], "client": message["client"], "verb": message["verb"], "args": message["args"]}, node)

    def stop_users(self) -> None:
        """Have every client's users stop."""
        for client, node in self._node_of.items():
            self.send(ASK, {"number": 0, "client": client, "verb": "stop", "args": {}}, node)

    def watch(self) -> None:
        """Tell the desk from now on when a worker is lost that has users."""
        if isinstance(self._environment.runner, MasterRunner):
            self._watcher = gevent.spawn(self._look, self._environment.runner)

    def unwatch(self) -> None:
        """Watch the workers no more."""
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher = None

    def _look(self, runner: MasterRunner) -> None:
        while True:
            gevent.sleep(LOOK_S)
            there = {node.id for node in runner.clients.all if node.state != STATE_MISSING}
            for name, node in self._node_of.items():
                if node not in there and self._say({"lost": f"worker {node}, which has the users of {name}, is lost"}):
                    return

    def _answered(self, environment: Environment, msg: Any, **_: object) -> None:
        del environment
        number = msg.data["number"]
        if self._asked.get(number) == msg.node_id:
            del self._asked[number]
            self._say({"answer": number, "value": msg.data["value"]})

    def _seen(self, environment: Environment, msg: Any, **_: object) -> None:
        del environment
        if self._node_of.get(msg.data["client"]) == msg.node_id:
            self._say({"seen": msg.data["client"], "sight": msg.data["sight"], "tally": msg.data["tally"]})

    def _died(self, environment: Environment, msg: Any, **_: object) -> None:
        """Hear that an engine's process is gone: its users send nothing more."""
        del environment
        if self.has_clients(msg.node_id):
            self._lost(msg.data["why"])
