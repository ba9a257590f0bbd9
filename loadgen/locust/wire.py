"""Who are Locust's users if the engine sends for them? A user is no more than one of the engine's, in a process of Locust's own beside it.

Locust's statistics are told twice a second what the engine has counted: a request costs no greenlet and no event. What such a user cannot do
is anything but to send the same request, wait for the answer and think: no tasks, no events for single requests.

The law: each line that the engine says carries the number of the test that it is about, and what is about another than the present one is
dropped: it would be entered into statistics that it does not belong to.
"""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
from gevent.event import Event
from locust import User, task
from locust.exception import StopUser

from loadgen.errors import UsageError
from loadgen.locust.child import Child
from loadgen.locust.statistics import Statistics
from loadgen.locust.users import SidecarUser, check_plugged_in
from loadgen.quantity import interval
from loadgen.recorder import Tally
from loadgen.target import parse_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from locust.env import Environment

    from loadgen.locust.node import Node

CLOSE_S = 5.0
SETTLE_S = 2.0
"""How long the end of a test may wait for what is in flight; Locust reports its statistics afterwards, and what comes later is in none of them."""
MAX_TIMEOUT_S = 3600.0
LOOK_S = 0.2
"""How long a user that is to stop may take to notice."""
log = logging.getLogger("loadgen")


class Engine:
    """The engine's process. ``answered`` takes what it says, as the desk does of users that live here; ``died`` hears that it is gone unasked."""

    def __init__(
        self,
        environment: Environment,
        answered: Callable[[dict[str, Any]], None],
        failed: Callable[[bool], bool],
        died: Callable[[str], None],
    ) -> None:
        self._answered = answered
        self._died = died
        self._statistics = Statistics(environment.stats, failed)
        self._ended: dict[int, str] = {}
        """By question: the client whose tally it ends."""
        self._test = 0
        self._sending: set[str] = set()
        """The clients of which the last word is missing."""
        self._settled = Event()
        self._settled.set()
        self._closing = False
        self._child = Child("loadgen.desk.wire", heard=self._take, gone=self._gone)
        environment.events.quit.add_listener(self._close)

    def make(self, clients: Sequence[dict[str, Any]], user: type[WireUser], said: dict[str, Any]) -> None:
        """Have a load without users for each client; it is another test."""
        self._test += 1
        self._ended.clear()
        addresses = {client["name"]: {"host": client["host"], "port": client["port"]} for client in clients}
        about = {"path": user.path, "think": user.think, "timeout_s": user.timeout_s, "seed": os.getpid()}
        self._statistics.begin(user.name or user.path, addresses)
        self._sending = set(addresses)
        if addresses:
            self._settled.clear()
        self._child.send({"make": addresses, "test": self._test, **about, **{each: said[each] for each in ("authority", "status", "body")}})

    def ask(self, number: int, client: str, verb: str, args: dict[str, Any]) -> None:
        """Pass a question on."""
        if verb == "begin_tally":
            self._ended[number] = client
        self._child.send({"ask": number, "client": client, "verb": verb, "args": args})

    def rule(self, ruled: bool) -> None:
        """Take in whether a rule may be in force from now on."""
        self._statistics.rule(ruled)

    def settle(self) -> None:
        """End the test: nothing more is sent, and what was on its way is in the statistics, unless it takes too long."""
        for client in list(self._sending):
            self.ask(0, client, "stop", {})
        if not self._settled.wait(SETTLE_S):
            log.warning("requests are still in flight %.0f s after the end: they are not in the statistics", SETTLE_S)

    def _take(self, message: dict[str, Any]) -> None:
        if message["test"] != self._test:
            return
        if "seen" in message:
            self._statistics.notice(message["seen"], Tally.from_snapshot(message["tally"]))
        elif (client := self._ended.pop(message["answer"], None)) is not None and message["value"] is not None:
            self._statistics.notice(client, Tally.from_snapshot(message["value"]), ended=True)
        self._answered(message)
        if message.get("last"):
            self._sending.discard(message["seen"])
            if not self._sending:
                self._settled.set()

    def _gone(self) -> None:
        self._settled.set()
        if not self._closing:
            self._died("the engine's process is gone: its users send nothing more")

    def _close(self, **_: object) -> None:
        self._closing = True
        if not self._child.close(CLOSE_S):
            self._child.kill()


class WireUser(User):
    """A user of the engine: sends a GET of ``path``, waits for the answer, thinks, and sends again.

    ``think`` is as in a scenario: ``none``, ``30ms`` or ``exponential 30ms``. ``name`` is that of the entry in the statistics.
    """

    abstract = True
    host = "http://user.base.svc.cluster.local:7000"
    path: ClassVar[str] = "/"
    name: ClassVar[str] = ""
    think: ClassVar[str] = "none"
    timeout_s: ClassVar[float] = 5.0
    node: ClassVar[Node]

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        check_plugged_in(self)
        self._client = self.node.client()

    def on_start(self) -> None:
        """Join the engine's users."""
        if self._client is not None:
            self.node.engine(self._client.book.name, "join")

    def on_stop(self) -> None:
        """Leave them; the request that is on its way ends."""
        if self._client is not None:
            self.node.engine(self._client.book.name, "leave")

    @task
    def be(self) -> None:
        """Let the engine send.

        Raises StopUser if it does not: the test was refused, or the engine is gone.
        """
        if self._client is None or not self.node.by_engine:
            raise StopUser
        gevent.sleep(LOOK_S)


def check(users: Iterable[type[User]], url: str) -> None:
    """Check that the users of a test send what their classes say; ``url`` is the host, if not the users' own.

    The engine sends for one class only, and a bare HTTP/1.1. What POST /user has set was checked by nobody, and becomes a part of the request.
    Raises UsageError if they would not.
    """
    classes = list(users)
    wired = [user for user in classes if issubclass(user, WireUser)]
    if wired and len(classes) > 1:
        names = ", ".join(user.__name__ for user in classes)
        raise UsageError(f"a WireUser has the test for itself, and here are {names}", hint="name one of them on the command line")
    for user in wired:
        _check_one(user)
    host = str(url or next((user.host for user in classes if user.host), ""))
    if not host or not any(issubclass(user, (SidecarUser, WireUser)) for user in classes):
        return
    target = parse_target(host)
    if target.path != "/":
        raise UsageError(f"the host {host[:100]} has a path, which would be dropped", hint="write it where the user sends its request")
    if wired and target.scheme != "http":
        raise UsageError(f"a WireUser sends plain HTTP, not {target.scheme}", hint="take a SidecarUser, or a host with http://")


def _check_one(user: type[WireUser]) -> None:
    about: Any = user  # its attributes are what somebody has set
    if not isinstance(about.path, str) or not re.fullmatch(r"/[!-~]*", about.path):
        said = "begins with / and holds printable ASCII characters only, and no blanks"
        raise UsageError(f"the path of {user.__name__} {said}, not {str(about.path)[:100]!r}", hint="percent-encode the others")
    try:
        interval(about.think)
    except ValueError as error:
        raise UsageError(f"think of {user.__name__}: {error}") from error
    if user.wait_time is not WireUser.wait_time:
        raise UsageError(
            f"{user.__name__} has a wait_time, which the engine does not read", hint="say think = '30ms' or 'exponential 30ms'"
        )
    if [task for task in user.tasks if task is not WireUser.be]:
        raise UsageError(f"{user.__name__} has tasks, which the engine does not do", hint="take a SidecarUser for them")
    if not isinstance(about.name, str):
        raise UsageError(f"the name of {user.__name__} is no text")
    if isinstance(about.timeout_s, bool) or not isinstance(about.timeout_s, (int, float)) or not 0 < about.timeout_s <= MAX_TIMEOUT_S:
        raise UsageError(f"timeout_s of {user.__name__} is a number of seconds, more than 0 and at most {MAX_TIMEOUT_S:.0f}")
