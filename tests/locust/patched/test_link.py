"""Does whoever asks the desk get an answer, an error, or the news that it is gone, and is nothing of it mixed?"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import gevent
import pytest

from loadgen.errors import ExitCode, MeshError
from loadgen.locust import child as children
from loadgen.locust import link as links
from loadgen.locust.child import Child
from loadgen.locust.link import AskError, Link

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ECHO = """
import json, os, socket, sys, time
sock = socket.socket(fileno=int(sys.argv[1]))
sock.setblocking(True)
for line in sock.makefile("rb"):
    said = json.loads(line)
    if said.get("do") == "sleep":
        time.sleep(said["args"]["seconds"])
    if said.get("do") == "fail":
        about = {"message": "it cannot be", "hint": "try another", "problems": [], "exit_code": 3}
        sock.sendall(json.dumps({"done": said["number"], "error": about}).encode() + b"\\n")
    elif said.get("do") == "half":
        sock.sendall(b'{"done": 1, "val')
        os._exit(1)
    elif "do" in said:
        sock.sendall(json.dumps({"done": said["number"], "value": said["args"]}).encode() + b"\\n")
    else:
        sock.sendall(line)
if len(sys.argv) > 2 and "stay" in sys.argv[2]:
    time.sleep(60)
"""
CLOSE_S = 1.0


@pytest.fixture(autouse=True)
def _echo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have a process that answers with what it is told in the place of the desk."""
    (tmp_path / "echo_of_a_test.py").write_text(ECHO)
    monkeypatch.syspath_prepend(str(tmp_path))
    made: Callable[..., Child] = Child
    monkeypatch.setattr(links, "Child", lambda _module, *arguments, **how: made("echo_of_a_test", *arguments, **how))


def link(**options: object) -> tuple[Link, list[dict[str, Any]], list[str]]:
    heard: list[dict[str, Any]] = []
    deaths: list[str] = []
    return Link(options, heard.append, lambda: deaths.append("died")), heard, deaths


def test_answers_come_to_those_who_asked() -> None:
    desk, _, deaths = link()
    asked = [gevent.spawn(desk.ask, "echo", number=number, text="x" * 200_000) for number in range(20)]
    assert [each.get(timeout=10)["number"] for each in asked] == list(range(20))
    assert desk.close(CLOSE_S)
    assert not deaths, "it was asked to end"


def test_many_senders_do_not_write_into_each_others_messages() -> None:
    desk, heard, _ = link()
    long = "x" * 300_000
    for number in range(30):
        gevent.spawn(desk.send, {"event": number, "text": long})
    with gevent.Timeout(10):
        while len(heard) < 30:
            gevent.sleep(0.01)
    assert {each["event"] for each in heard} == set(range(30))
    assert all(each["text"] == long for each in heard)
    assert desk.close(CLOSE_S)


def test_what_cannot_be_done_is_an_error_of_whoever_asked() -> None:
    desk, _, _ = link()
    with pytest.raises(AskError, match="it cannot be") as caught:
        desk.ask("fail")
    assert (caught.value.hint, caught.value.exit_code) == ("try another", ExitCode.REFUSED)
    assert desk.close(CLOSE_S)


def test_a_desk_that_is_silent_is_not_waited_for_for_ever() -> None:
    desk, _, _ = link()
    with pytest.raises(MeshError, match="did not answer within"):
        desk.ask("sleep", seconds=0.5, timeout_s=0.1)
    assert desk.ask("echo", number=7)["number"] == 7, "the late answer was nobody's"
    assert desk.close(CLOSE_S)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_death_of_a_desk_that_was_there_is_told_and_ends_every_question(number: signal.Signals) -> None:
    desk, _, deaths = link()
    desk.ask("echo")
    asked = gevent.spawn(desk.ask, "sleep", seconds=30.0)
    gevent.sleep(0.1)
    os.kill(desk.pid, number)
    with pytest.raises(MeshError, match="the desk is gone"):
        asked.get(timeout=5)
    gevent.sleep(0.1)
    assert deaths == ["died"]
    with pytest.raises(MeshError, match="the desk is gone"):
        desk.ask("echo")
    with pytest.raises(ProcessLookupError):
        os.kill(desk.pid, 0)


def test_a_desk_that_dies_in_the_middle_of_a_message_is_dead_and_no_more() -> None:
    desk, _, deaths = link()
    desk.ask("echo")
    with pytest.raises(MeshError, match="the desk is gone"):
        desk.ask("half")
    gevent.sleep(0.1)
    assert deaths == ["died"]


def test_news_are_dropped_for_a_desk_that_is_far_behind_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "WAITING_AT_MOST", 5)
    desk, heard, _ = link()
    for number in range(50):
        desk.send({"seen": number})
    desk.send({"lost": "a worker"})
    with gevent.Timeout(10):
        while not any("lost" in each for each in heard):
            gevent.sleep(0.01)
    assert sum("seen" in each for each in heard) == 5
    assert desk.close(CLOSE_S)


def test_a_desk_that_goes_on_is_left_to_it_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "REAP_S", 0.1)
    desk, _, deaths = link(stay=True)
    desk.ask("echo")
    assert not desk.close(CLOSE_S)
    os.kill(desk.pid, 0)
    os.kill(desk.pid, signal.SIGKILL)
    gevent.sleep(0.2)
    assert not deaths
