"""Does whoever owns the test end what it has begun, believe only whom it has asked, and end with the right code?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gevent
import pytest
from locust.env import Environment

from loadgen.errors import ExitCode, LoadgenError, MeshError, RefusedError
from loadgen.locust import control as controls
from loadgen.locust.control import Control
from loadgen.locust.deal import LOCAL, by_pod, in_turn
from loadgen.locust.link import AskError
from loadgen.locust.node import ASK, ASSIGN
from loadgen.locust.users import SidecarUser

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

HOST = "http://user.base.svc.cluster.local:7000"
EXPECT = {"status": 200, "body": "Kevin"}
VERIFIED = {"verdict": None, "validity": {"state": "VALID", "reasons": []}, "restore": {"state": "verified", "detail": ""}}
NOT_NEEDED = {"verdict": None, "validity": None, "restore": None}
FAILED = {**VERIFIED, "restore": {"state": "failed", "detail": "client-1 shows it"}}


class Caller(SidecarUser):
    pass


class FakeLink:
    """The desk, played: it answers with what stands in ``answers``, an error if that is one, or what a function gives."""

    made: list[FakeLink]
    answers: dict[str, Any]

    def __init__(self, options: Mapping[str, object], heard: Callable[[dict[str, Any]], None], died: Callable[[], None]) -> None:
        self.options, self.heard, self.died = options, heard, died
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.sent: list[dict[str, Any]] = []
        self.pid = 1000 + len(self.made)
        self.closes = True
        self.made.append(self)

    def ask(self, do: str, *, timeout_s: float = 1.0, **arguments: object) -> Any:
        assert timeout_s > 0
        self.asked.append((do, arguments))
        answer = self.answers.get(do)
        if callable(answer):
            answer = answer()
        if isinstance(answer, LoadgenError):
            raise answer
        return answer

    def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def close(self, patience_s: float) -> bool:
        assert patience_s > 0
        return self.closes

    def did(self) -> list[str]:
        return [each for each, _ in self.asked]


class Runner:
    def __init__(self) -> None:
        self.state = "running"
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.ended: list[str] = []

    def register_message(self, *_: object) -> None: ...

    def send_message(self, kind: str, data: dict[str, Any]) -> None:
        self.sent.append((kind, data))

    def stop(self) -> None:
        self.ended.append("stop")

    def quit(self) -> None:
        self.ended.append("quit")


class Here:
    def __init__(self, *, headless: bool = False, clients: int = 2, answers: Mapping[str, Any] | None = None, **given: str) -> None:
        FakeLink.made = []
        about = {"kind": "local", "service": f"{HOST}/", "expect": EXPECT, "pid": 7, "rule": ""}
        hello = {"clients": [{"name": f"client-{each}", "host": "127.0.0.1", "port": 1} for each in range(1, clients + 1)], "mesh": about}
        FakeLink.answers = {"hello": hello, "end": VERIFIED, **(answers or {})}
        self.environment = Environment(user_classes=[Caller])
        names = ("scenario", "kubeconfig", "context", "toggle", "mesh_hold", "allow_managed", "rule", "expect_body", "expect_verdict")
        options = {
            **dict.fromkeys(names, ""),
            "mesh": "local",
            "mesh_pid": 7,
            "allow_host": [],
            "overflow": "failure",
            "headless": headless,
            **given,
        }
        self.options = self.environment.parsed_options = SimpleNamespace(
            **options, web_login=False, mesh_control_anywhere=False, stop_timeout=1
        )
        self.runner = self.environment.runner = Runner()  # type: ignore[assignment]
        self.control = Control(self.environment)

    @property
    def link(self) -> FakeLink:
        return FakeLink.made[-1]

    def begin(self) -> None:
        self.control._begin(self.environment)

    def end(self) -> None:
        self.control._end(self.environment)

    def say(self, listener: Callable[..., None], node: str, **data: object) -> None:
        listener(environment=self.environment, msg=SimpleNamespace(data=data, node_id=node))

    @property
    def code(self) -> int | None:
        return self.environment.process_exit_code


@pytest.fixture(autouse=True)
def _played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "Link", FakeLink)


def later() -> None:
    """Let the other greenlets go on."""
    for _ in range(5):
        gevent.sleep(0)


def test_a_test_begins_and_ends_at_the_desk() -> None:
    here = Here()
    here.begin()
    assert here.control.testing
    here.end()
    assert here.link.did() == ["hello", "hello", "begin", "end"]
    assert not here.control.testing
    assert here.code is None


def test_a_start_that_is_broken_off_is_ended_all_the_same() -> None:
    here = Here()
    FakeLink.answers["begin"] = lambda: gevent.sleep(10)
    one = gevent.spawn(here.begin)
    later()
    one.kill()
    later()
    assert here.link.did()[-2:] == ["begin", "end"]
    assert not here.control.testing
    assert [data["clients"] for kind, data in here.runner.sent if kind == ASSIGN][-1] == []


def test_a_start_that_is_not_answered_is_ended_and_one_that_is_refused_needs_none() -> None:
    here = Here()
    FakeLink.answers["begin"] = MeshError("the desk did not answer within 90 s")
    here.begin()
    later()
    assert here.link.did()[-2:] == ["begin", "end"]
    FakeLink.answers["begin"] = AskError({"message": "somebody has it", "hint": "wait", "problems": [], "exit_code": 3})
    here.begin()
    later()
    assert here.link.did()[-1] == "begin"
    assert here.control.refused == "somebody has it; wait"
    assert here.runner.ended == ["stop", "stop"]


def test_whoever_stops_while_another_does_waits_for_him() -> None:
    here = Here()
    here.begin()
    gate = gevent.event.Event()

    def ends() -> dict[str, Any]:
        gate.wait()
        return VERIFIED

    FakeLink.answers["end"] = ends
    one, two = gevent.spawn(here.end), gevent.spawn(here.end)
    again = gevent.spawn(here.begin)
    later()
    assert not any(each.ready() for each in (one, two, again))
    gate.set()
    gevent.joinall([one, two, again], timeout=2)
    assert here.link.did()[-3:] == ["end", "hello", "begin"], "the next one begins after it"


def test_an_end_that_nobody_asked_for_ends_the_test_and_another_tests_end_does_not() -> None:
    here = Here()
    here.begin()
    here.link.heard({"event": "ended", "test": 0, "said": "of another one", **VERIFIED})
    assert here.control.testing
    here.link.heard({"event": "ended", "test": 1, "said": "client-1 is lost", **VERIFIED})
    later()
    assert not here.control.testing
    assert here.control.refused == "the measurement ended: client-1 is lost"
    assert (here.code, here.runner.ended) == (ExitCode.INVALID, ["stop"])


def test_a_rule_that_may_be_in_force_is_5_until_it_is_known_to_be_gone() -> None:
    here = Here()
    here.begin()
    FakeLink.answers["end"] = MeshError("the desk did not answer within 90 s")
    here.end()
    assert here.code == ExitCode.RESTORE_FAILED
    here.link.heard({"event": "ended", "test": 1, "said": "", **VERIFIED})
    assert here.code is None
    FakeLink.answers["end"] = FAILED
    here.begin()
    here.end()
    assert here.code == ExitCode.RESTORE_FAILED
    FakeLink.answers["end"] = NOT_NEEDED
    here.begin()
    assert here.code == ExitCode.RESTORE_FAILED, "the next test does not take it out"
    here.end()
    assert here.code == ExitCode.RESTORE_FAILED


def test_5_comes_before_4_and_4_before_3_and_what_a_locustfile_says_before_nothing() -> None:
    here = Here()
    here.control.verdicts.test(ExitCode.REFUSED)
    here.control.verdicts.test(ExitCode.INVALID)
    here.control.verdicts.test(ExitCode.REFUSED)
    assert here.code == ExitCode.INVALID
    here.control.verdicts.restored(False)
    assert here.code == ExitCode.RESTORE_FAILED
    here.control.verdicts.restored(True)
    here.control.verdicts.begin()
    assert here.code is None
    here.environment.process_exit_code = 17
    here.control.verdicts.test(ExitCode.REFUSED)
    assert here.code == 17
    here.control.verdicts.test(ExitCode.INVALID)
    assert here.code == ExitCode.INVALID


def test_a_desk_that_dies_is_replaced_its_test_is_lost_and_its_users_are_let_go() -> None:
    here = Here()
    here.begin()
    dead = here.link
    here.runner.sent.clear()
    dead.died()
    later()
    assert here.link.options["mend"] == dead.pid
    assert here.link.did() == ["hello", "restore"]
    stopped = {data["client"] for kind, data in here.runner.sent if kind == ASK and data["verb"] == "stop"}
    assert stopped == {"client-1", "client-2"}
    assert here.control.refused.startswith("the desk died in the test")
    assert (here.code, here.runner.ended) == (ExitCode.INVALID, ["stop"])


def test_a_desk_that_dies_while_the_test_ends_takes_what_was_measured_along() -> None:
    here = Here(expect_verdict="enforced")
    here.begin()
    FakeLink.answers["end"] = MeshError("the desk is gone")
    here.end()
    here.link.died()
    later()
    assert here.code == ExitCode.INVALID
    assert "what was measured is lost" in here.control.refused


def test_a_test_that_is_refused_before_it_runs_is_stopped_when_it_does() -> None:
    here = Here()
    here.runner.state = "ready"
    FakeLink.answers["begin"] = AskError({"message": "no", "hint": "", "problems": [], "exit_code": 3})
    here.begin()
    gevent.sleep(0.1)
    assert not here.runner.ended
    here.runner.state = "spawning"
    gevent.sleep(0.2)
    assert here.runner.ended == ["stop"]


@pytest.mark.parametrize("answers", [{"restore": MeshError("client-1 shows it")}, {"hello": MeshError("it did not answer")}])
def test_a_desk_that_cannot_be_replaced_ends_the_test_too_and_says_what_to_do(answers: dict[str, Any]) -> None:
    here = Here()
    here.begin()
    FakeLink.answers.update(answers)
    here.link.died()
    later()
    assert here.code == ExitCode.RESTORE_FAILED
    assert here.runner.ended == ["stop"]
    assert "take it out with: loadgen policy remove" in here.control.unmeshed


def test_desks_that_die_again_and_again_are_not_replaced_for_ever() -> None:
    here = Here()
    for _ in range(controls.MENDS_AT_MOST + 2):
        here.link.died()
    assert len(FakeLink.made) == 1 + controls.MENDS_AT_MOST
    assert here.code == ExitCode.RESTORE_FAILED
    here.begin()
    later()
    assert "the desk has died" in here.control.refused, "and no test goes elsewhere meanwhile"


def test_locust_ends_with_5_if_the_desk_goes_on_without_it() -> None:
    here = Here()
    here.begin()
    here.link.closes = False
    here.control._quit(here.environment)
    assert here.link.did()[-1] == "end"
    assert here.code == ExitCode.RESTORE_FAILED


def test_only_whom_it_has_asked_is_believed() -> None:
    here = Here()
    here.begin()
    here.link.heard({"ask": 5, "client": "client-1", "verb": "look", "args": {}})
    here.say(here.control.nodes._answered, "stranger", number=5, value="wrong")
    here.say(here.control.nodes._answered, LOCAL, number=6, value="never asked")
    assert not here.link.sent
    here.say(here.control.nodes._answered, LOCAL, number=5, value="right")
    here.say(here.control.nodes._answered, LOCAL, number=5, value="again")
    assert here.link.sent == [{"answer": 5, "value": "right"}]
    here.link.sent.clear()
    here.say(here.control.nodes._seen, "stranger", client="client-1", sight={}, tally={})
    here.say(here.control.nodes._seen, LOCAL, client="client-9", sight={}, tally={})
    here.say(here.control.nodes._died, "stranger", why="I say so")
    assert not here.link.sent
    here.say(here.control.nodes._seen, LOCAL, client="client-1", sight={}, tally={})
    here.say(here.control.nodes._died, LOCAL, why="the engine is gone")
    assert [next(iter(each)) for each in here.link.sent] == ["seen", "lost"]


def test_what_the_start_page_has_sent_decides_neither_what_is_ok_nor_how_locust_ends() -> None:
    here = Here()
    here.options.expect_body, here.options.headless = "mine", True
    here.begin()
    assert [data["body"] for kind, data in here.runner.sent if kind == ASSIGN] == ["Kevin"]
    here.environment.host = "http://0.0.0.0"
    here.begin()
    later()
    assert here.runner.ended == ["stop"]


@pytest.mark.parametrize(
    "host", ["http://a..b", f"http://{'x' * 70}.example", "http://[::1", "ftp://127.0.0.1", "https://localhost.example"]
)
def test_a_host_that_is_none_is_refused_and_nothing_begins(host: str) -> None:
    here = Here(headless=True)
    here.control.link, here.control.mesh = None, {}
    here.environment.host = host
    here.begin()
    later()
    assert here.control.refused
    assert here.runner.ended == ["quit"]
    assert not here.runner.sent


def test_a_worker_that_joins_in_the_test_spoils_it() -> None:
    here = Here()
    here.control._worker_came("late_1")
    here.begin()
    here.control._worker_came(LOCAL)
    assert not here.link.sent
    here.control._worker_came("late_2")
    assert here.link.sent[0]["lost"].startswith("worker late_2 joined while the test ran")


@pytest.mark.parametrize(("expected", "code"), [("enforced", None), ("not_enforced", ExitCode.EXPECTATIONS_FAILED)])
def test_another_verdict_than_the_expected_one_ends_with_99(expected: str, code: int | None) -> None:
    here = Here(expect_verdict=expected)
    FakeLink.answers["end"] = {**VERIFIED, "verdict": {"state": "enforced", "sentence": "Enforced."}}
    here.begin()
    here.end()
    assert here.code == code


def test_a_rule_of_the_command_line_with_mistakes_ends_it_before_it_begins(tmp_path: Path) -> None:
    file = tmp_path / "rule.yaml"
    file.write_text("a: [")
    about = {"message": "1 mistake", "hint": "", "problems": [{"text": "rule:1:4"}], "exit_code": 2}
    with pytest.raises(SystemExit) as caught:
        Here(rule=str(file), answers={"check": AskError(about)})
    assert caught.value.code == ExitCode.USAGE


def test_over_https_a_name_is_called_only_if_that_is_allowed() -> None:
    here = Here()
    here.control.link, here.control.mesh = None, {}
    here.environment.host = "https://localhost:8443"
    here.begin()
    assert "--allow-host localhost" in here.control.refused
    here.environment.host = "https://127.0.0.1:8443"
    here.begin()
    assert not here.control.refused


def test_a_bug_at_the_start_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Here()
    monkeypatch.setattr(here.control.nodes, "names", lambda: 1 / 0)
    here.begin()
    later()
    assert "the test could not begin" in here.control.refused
    assert here.runner.ended == ["stop"]


def test_clients_are_dealt_out_and_no_worker_is_left_without_one() -> None:
    assert in_turn(["a", "b", "c"], ["x", "y"]) == {"a": "x", "b": "y", "c": "x"}
    with pytest.raises(RefusedError, match="there are 3 workers, but 2 clients"):
        in_turn(["a", "b"], ["x", "y", "z"])


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([LOCAL], "users live in workers"),
        (["stranger_1"], "worker stranger is not in a ready pod"),
        (["pod-1_1", "pod-1_2", "pod-2_3"], "pod pod-1 has two workers"),
        (["pod-1_1"], "pod pod-2 has no worker that is connected"),
        ([], "pod pod-1 has no worker that is connected; pod pod-2"),
    ],
)
def test_each_pod_has_the_worker_that_lives_in_it(nodes: list[str], said: str) -> None:
    assert by_pod(["pod-1", "pod-2"], ["pod-2_7", "pod-1_8"]) == {"pod-1": "pod-1_8", "pod-2": "pod-2_7"}
    with pytest.raises(RefusedError) as caught:
        by_pod(["pod-1", "pod-2"], nodes)
    assert said in caught.value.message
