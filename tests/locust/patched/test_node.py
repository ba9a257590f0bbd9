"""Does a Locust process answer for its own clients only, and say what it cannot answer for?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from locust.env import Environment
from locust.exception import RPCSendError

from loadgen.locust.node import ANSWER, ASK, ASSIGN, LOST, NEWS, SEEN, Node
from loadgen.locust.users import SidecarUser
from loadgen.locust.wire import WireUser

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENTS = [{"name": f"client-{number}", "host": "127.0.0.1", "port": 1000 + number} for number in (1, 2)]
ABOUT = {"scheme": "http", "authority": "user.base:7000", "status": 200, "body": "Kevin"}


class Caller(SidecarUser):
    pass


class Wired(WireUser):
    pass


class Runner:
    """What is sent is kept; what comes is given to the node by hand."""

    def __init__(self) -> None:
        self.listeners: dict[str, Callable[..., None]] = {}
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.broken = False

    def register_message(self, kind: str, listener: Callable[..., None]) -> None:
        self.listeners[kind] = listener

    def send_message(self, kind: str, data: dict[str, Any]) -> None:
        if self.broken:
            raise RPCSendError
        self.sent.append((kind, data))


class Here:
    """A node, and what is said to it."""

    def __init__(self, *users: type) -> None:
        self.environment = Environment(user_classes=list(users))
        self.environment.parsed_options = SimpleNamespace(overflow="failure without a rule")
        self.runner = self.environment.runner = Runner()  # type: ignore[assignment]
        self.node = Node(self.environment)

    def say(self, kind: str, **data: object) -> None:
        self.runner.listeners[kind](environment=self.environment, msg=SimpleNamespace(data=data))

    def assign(self, *clients: dict[str, Any], **about: object) -> None:
        users = [user.__name__ for user in self.environment.user_classes]
        self.say(ASSIGN, **{"clients": list(clients or CLIENTS), "users": users, **ABOUT, **about})


def test_users_are_dealt_out_to_the_clients_in_turn() -> None:
    here = Here(Caller)
    assert here.node.client() is None, "nobody has any before a test"
    here.assign()
    names = [client.book.name for client in (here.node.client() for _ in range(4)) if client is not None]
    assert names == ["client-1", "client-2", "client-1", "client-2"]


def test_an_ipv6_client_is_reached_at_its_address() -> None:
    here = Here(Caller)
    here.assign({"name": "client-1", "host": "::1", "port": 1001})
    client = here.node.client()
    assert client is not None
    assert client.origin == "http://[::1]:1001"


def test_questions_about_others_clients_are_theirs_to_answer() -> None:
    here = Here(Caller)
    here.assign()
    here.say(ASK, number=7, client="client-9", verb="look", args={})
    assert not here.runner.sent
    here.say(ASK, number=8, client="client-1", verb="look", args={})
    kind, answer = here.runner.sent.pop()
    assert (kind, answer["number"], answer["value"]["sent"]) == (ANSWER, 8, 0)
    here.say(ASK, number=0, client="client-1", verb="hold", args={})
    assert not here.runner.sent, "that has no answer"


def test_the_users_of_an_earlier_test_send_nothing_more() -> None:
    here = Here(Caller)
    here.assign()
    before = here.node.client()
    here.assign()
    assert before is not None
    assert before.book.stopped


def test_a_test_that_is_over_has_no_clients() -> None:
    here = Here(Caller)
    here.assign()
    here.environment.events.test_stop.fire(environment=here.environment)  # type: ignore[no-untyped-call]
    assert here.node.client() is None


@pytest.mark.parametrize(
    ("option", "failed"), [("failure", (True, True)), ("failure without a rule", (False, True)), ("no failure", (False, False))]
)
def test_an_overflow_is_a_failure_if_the_user_says_so(option: str, failed: tuple[bool, bool]) -> None:
    here = Here(Caller)
    here.environment.parsed_options = SimpleNamespace(overflow=option)
    assert (here.node.failed(True), here.node.failed(False)) == failed


def test_news_of_a_rule_count_until_the_next_test() -> None:
    here = Here(Caller)
    here.assign()
    here.say(NEWS, ruled=True)
    assert here.node.ruled
    here.assign()
    assert not here.node.ruled


@pytest.mark.parametrize(
    ("attribute", "value", "said"),
    [
        ("path", "user", "begins with /"),
        ("path", "/\r\nHost: other", "printable ASCII"),
        ("think", "for ever", "think of Wired"),
        ("timeout_s", 0, "timeout_s of Wired"),
        ("timeout_s", True, "timeout_s of Wired"),
        ("name", None, "is no text"),
    ],
)
def test_users_that_could_not_send_what_their_class_says_have_no_client(
    monkeypatch: pytest.MonkeyPatch, attribute: str, value: object, said: str
) -> None:
    monkeypatch.setattr(Wired, attribute, value)
    here = Here(Wired)
    here.assign()
    [(kind, data)] = here.runner.sent
    assert kind == LOST
    assert said in data["why"]
    assert here.node.client() is None


def test_users_of_the_engine_and_others_are_not_mixed() -> None:
    here = Here(Caller, Wired)
    here.assign()
    assert "a WireUser has the test for itself" in here.runner.sent[0][1]["why"]


def test_a_master_that_cannot_be_told_ends_nobody() -> None:
    here = Here(Caller)
    here.assign()
    here.runner.broken = True
    here.say(ASK, number=8, client="client-1", verb="look", args={})
    here.runner.broken = False
    here.say(ASK, number=9, client="client-1", verb="look", args={})
    assert [data["number"] for kind, data in here.runner.sent if kind != SEEN] == [9]
