"""Which clients' users live in this process? Every Locust process that has users keeps the books of its own clients, and answers for them."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Any

import gevent
from locust.exception import RPCError, RPCSendError
from locust.runners import WorkerRunner

from loadgen.errors import LoadgenError
from loadgen.locust.book import Book
from loadgen.locust.wire import Engine, WireUser, check
from loadgen.outcome import Expected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from locust.env import Environment

ASSIGN, ASK, ANSWER, SEEN, NEWS, LOST = (f"loadgen-{each}" for each in ("assign", "ask", "answer", "seen", "news", "lost"))
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
        self.by_engine = False
        """Whether the engine sends for the users of this test."""
        self._said_none = False
        environment.events.test_stop.add_listener(self._settle)
        environment.events.quitting.add_listener(self._settle)  # a main that sees the runner stopped does not wait for its listeners
        self._reporter = gevent.spawn(self._report)

    def client(self) -> Client | None:
        """Give the client that a new user belongs to: each has as many as the others; None if the test was refused, or this process came late.

        It does not raise: Locust makes users where nobody catches it, and no other user would be made either.
        """
        client = next(self._turn, None)
        if client is None and not self._said_none and isinstance(self._environment.runner, WorkerRunner):
            self._said_none = True
            log.error(
                "the users of this worker end: it has no client of the mesh. Unless the test was refused, it joined when that ran; start it again"
            )
        return client

    def failed(self, ruled: bool) -> bool:
        """Tell whether an overflow is a failure, with a rule or without one."""
        options = self._environment.parsed_options
        how = options.overflow if options is not None else "failure"
        return how == "failure" or (how == "failure without a rule" and not ruled)

    def _assigned(self, environment: Environment, msg: Any, **_: object) -> None:
        del environment
        for client in self._clients.values():
            client.book.stop()
        said = msg.data
        self.authority, self.ruled = said["authority"], False
        self.expected = Expected(said["status"], said["body"].encode() if said["body"] else None)
        self._clients, self._turn, self.by_engine = {}, iter(()), False
        users = [user for user in self._environment.user_classes if user.__name__ in said["users"]]
        try:
            check(users, f"{said['scheme']}://{said['authority']}")  # a worker's may be others than the master's
        except LoadgenError as error:
            self._lose(error.in_a_line)
            return
        self._clients = {each["name"]: Client(each["name"], each["host"], each["port"], said["scheme"]) for each in said["clients"]}
        self._turn = itertools.cycle(self._clients.values())
        wired = [user for user in users if issubclass(user, WireUser)]
        self.by_engine = bool(wired)
        if wired:
            self._engine = self._engine or Engine(self._environment, self._answered, self.failed, self._bereft)
            self._engine.make(said["clients"], wired[0], said)

    def _settle(self, environment: Environment, **_: object) -> None:
        """End a test: what the engine has counted is in the statistics before Locust reports them, and there are no clients until the next one."""
        del environment
        self._turn, self._said_none = iter(()), False
        if self._engine is not None and self.by_engine:
            self._engine.settle()

    def _bereft(self, why: str) -> None:
        """Go on without the engine; the next test has a new one. In this one nobody answers for its clients: their books are empty."""
        self._engine, self.by_engine = None, False
        self._clients, self._turn = {}, iter(())
        self._lose(why)

    def _lose(self, why: str) -> None:
        """Say that what this process has counted, or would, is not to be trusted."""
        log.error("%s", why)
        self._send(LOST, {"why": why})

    def _asked(self, environment: Environment, msg: Any, **_: object) -> None:
        del environment
        said = msg.data
        if (client := self._clients.get(said["client"])) is None:
            return
        if self._engine is not None and self.by_engine:
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
        if self._engine is not None:
            self._engine.rule(self.ruled)

    def _report(self) -> None:
        """Say twice a second what was seen, so that it is known even if this process is killed."""
        while True:
            gevent.sleep(SEEN_S)
            for name, client in list(self._clients.items()):
                if not client.book.stopped and not self.by_engine:
                    self._send(SEEN, {"client": name, "sight": client.book.look(), "tally": client.book.snapshot()})

    def _send(self, kind: str, data: dict[str, Any]) -> None:
        """Tell the test's owner. A message that cannot be sent is lost, and no more than that: whoever sends goes on."""
        runner = self._environment.runner
        if runner is not None:
            try:
                runner.send_message(kind, data)
            except (RPCError, RPCSendError) as error:  # neither is the other
                log.error("the master could not be told: %s", error)
