"""Are users refused, with a hint, that could not be what their class says?"""

from __future__ import annotations

from typing import Any

import pytest
from locust import User

from loadgen.errors import UsageError
from loadgen.locust.users import SidecarUser
from loadgen.locust.wire import WireUser, check

HTTP, HTTPS, WITH_PATH = "http://127.0.0.1:1", "https://127.0.0.1", "http://127.0.0.1/base"


class Sidecar(SidecarUser):
    abstract = False


class Wired(WireUser):
    abstract = False


class Other(WireUser):
    abstract = False


def wired(**attributes: Any) -> type[User]:
    return type("Wired", (Wired,), attributes)


@pytest.mark.parametrize(
    ("users", "url"),
    [
        ([wired()], HTTP),
        ([wired()], ""),
        ([wired(path="/a?b=c%20d", think="exponential 30ms")], HTTP),
        ([Sidecar], HTTPS),
        ([User], WITH_PATH),
        ([Sidecar, User], HTTP),
    ],
)
def test_what_can_be_is_not_refused(users: list[type[User]], url: str) -> None:
    check(users, url)


@pytest.mark.parametrize(
    ("users", "url", "said"),
    [
        ([Wired, Other], HTTP, "has the test for itself"),
        ([Wired, Sidecar], HTTP, "has the test for itself"),
        ([wired()], HTTPS, "plain HTTP"),
        ([wired()], WITH_PATH, "has a path"),
        ([Sidecar], WITH_PATH, "has a path"),
        ([wired(think="30 ms")], HTTP, "write 30ms"),
        ([wired(think=None)], HTTP, "think of Wired"),
        ([wired(path="/\u00e4")], HTTP, "printable ASCII"),
        ([wired(path="/ HTTP/1.1\r\nx: y")], HTTP, "printable ASCII"),
        ([wired(path=[])], HTTP, "printable ASCII"),
        ([wired(path="x")], "", "printable ASCII"),
        ([wired(name=7)], HTTP, "is no text"),
        ([wired(wait_time=lambda user: 1.0)], HTTP, "has a wait_time"),
        ([wired(tasks=[lambda user: None])], HTTP, "has tasks"),
        ([wired(timeout_s="5")], HTTP, "is a number of seconds"),
        ([wired(timeout_s=0)], HTTP, "is a number of seconds"),
        ([wired(timeout_s=float("nan"))], HTTP, "is a number of seconds"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(users: list[type[User]], url: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(users, url)
    assert said in caught.value.in_a_line
