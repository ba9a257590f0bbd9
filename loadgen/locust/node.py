"""Which clients' users live in this process? Every Locust process that has users keeps the books of its own clients, and answers for them."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Any

import gevent
from locust.exception import StopUser

from loadgen.locust.book import Book
from loadgen.locust.wire import Engine, WireUser
from loadgen.outcome import Expected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from locust.env import Environment

ASSIGN, ASK, ANSWER, SEEN, NEWS = (f"loadgen-{each}" for each in ("assign", "ask", "answer", "seen", "news"))
SEEN_S = 0.5
log = logging.getLogger("loadgen")


class Client:
    """A client of the mesh: its book, which stays empty if the engine sends for it, and where its users send to."""

    def __init__(self, name: str, host: str, port: int, scheme: str) -> None:
        self.book = Book(name)
        self.origin = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


class Node:
    """The users' side of a Locust process."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._clients: dict[str, Client] = {}
        self._turn: Iterator[Client] = iter(())
        self.authority = ""
        self.expected = Expected(None)
        self.ruled = False
        """Whether a rule may be in force."""
        runner = environment.runner
        assert runner is not None, "the event init comes after the runner"
        for message, listener in ((ASSIGN, self._assigned), (ASK, self._asked), (NEWS, self._heard)):
            runner.register_message(message, listener)
        self._engine: Engine | None = None
        self._by_engine = False
        self._reporter = gevent.spawn(self._report)

    def client(self) -> Client:
        """Give the client that a new user belongs to: each has as many as the others.

        Raises StopUser if this process has none.
        """
        if (client := next(self._turn, None)) is None:
            log.error("a user ends: this process has no client of the mesh (it joined when the test ran; stop the test and start it again)")
            raise StopUser
        return client

    def failed(self) -> bool:
        """Tell whether an overflow is a failure now."""
        options = self._environment.parsed_options
        how = options.overflow if options is not None else "failure"
        return how == "failure" or (how == "failure without a rule" and not self.ruled)

    def _assigned(self, environment: Environment, msg: Any, **_: object) -> None:
        del environment
        for client in self._clients.values():
            client.book.stop()
        said = msg.data
        self.authority, self.ruled = said["authority"], False
        self.expected = Expected(said["status"], said["body"].encode() if said["body"] else None)
        self._clients = {each["name"]: Client(each["name"], each["host"], each["port"], said["scheme"]) for each in said["clients"]}
        self._turn = itertools.cycle(self._clients.values())
        wired = [user for user in self._environment.user_classes if issubclass(user, WireUser)]
        self._by_engine = bool(wired)
        if wired:
            self._engine = self._engine or Engine(self._environment, self._answered, self.failed)
            self._engine.make(said["clients"], wired[0], said)

    def _asked(self, environment: Environment, msg: Any, **_: object) -> None:
        del environment
        said = msg.data
        if (client := self._clients.get(said["client"])) is None:
            return
        if self._engine is not None and self._by_engine:
            self._engine.ask(said["number"], said["client"], said["verb"], said["args"])
            return
        value = client.book.obey(said["verb"], **said["args"])
        if said["number"]:
            self._send(ANSWER, {"number": said["number"], "value": value})

    def engine(self, client: str, verb: str) -> None:
        """Have one user more, or less, of a client that the engine sends for."""
        if self._engine is not None:
            self._engine.ask(0, client, verb, {"users": 1})

    def _answered(self, message: dict[str, Any]) -> None:
        """Pass on what the engine says."""
        if "seen" in message:
            self._send(SEEN, {"client": message["seen"], "sight": message["sight"], "tally": message["tally"]})
        elif message["answer"]:
            self._send(ANSWER, {"number": message["answer"], "value": message["value"]})

    def _heard(self, environment: Environment, msg: Any, **_: object) -> None:
        del environment
        self.ruled = msg.data["ruled"]

    def _report(self) -> None:
        """Say twice a second what was seen, so that it is known even if this process is killed."""
        while True:
            gevent.sleep(SEEN_S)
            for name, client in list(self._clients.items()):
                if not client.book.stopped and not self._by_engine:
                    self._send(SEEN, {"client": name, "sight": client.book.look(), "tally": client.book.snapshot()})

    def _send(self, kind: str, data: dict[str, Any]) -> None:
        runner = self._environment.runner
        if runner is not None:
            runner.send_message(kind, data)
