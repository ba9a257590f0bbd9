"""Is there one session at a time, is a report about what was in force, and does the desk stay until the policy is gone?"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen.desk import __main__ as process
from loadgen.desk import desk as desks
from loadgen.desk.desk import Desk
from loadgen.desk.local import LocalSite
from loadgen.desk.users import Users
from loadgen.errors import MeshError, RefusedError
from loadgen.inputs import load_plan
from loadgen.outcome import Outcome
from loadgen.recorder import Tally
from loadgen.runner.convergence import converge
from loadgen.runner.environment import environment
from tests.runner import test_session as session_tests
from tests.story.command import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from loadgen.policy.rule import Rule

pytestmark = pytest.mark.anyio
TEXT = (SCENARIOS / "policies" / "user.yaml").read_text()
REFUSED = TEXT.replace("name: user", "name: refused")
SIGHT = {"outcomes": dict.fromkeys([each.value for each in Outcome], 0), "sidecar_overflow": 0, "sent": 0, "in_flight": 0}
ANSWERS = {
    "look": {**SIGHT, "process": 1, "cpu_s": 0.0},
    "begin_tally": Tally().snapshot(),
    "snapshot": Tally().snapshot(),
    "all_done_since": True,
}


class Mesh(session_tests.Mesh):
    """As for a session; the next ``fails`` times it does not take what is put."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = 0

    async def put(self, rules: Sequence[Rule]) -> dict[str, float]:
        if self.fails:
            self.fails -= 1
            raise MeshError("client-1's sidecar does not answer")
        return await super().put(rules)

    async def reach(self, client: Any, wanted: object) -> None:
        await super().reach(client, wanted)  # type: ignore[arg-type]
        if any(rule.name == "refused" for rule in self.rules):
            raise MeshError("the sidecar rejected the configuration")


class Deaf:
    """The end of a Locust that is gone."""

    @classmethod
    async def on(cls, sock: socket.socket) -> Deaf:
        sock.close()
        return cls()

    async def receive(self) -> dict[str, Any]:
        raise EOFError


class Site:
    kind = "local"
    hold_s = None
    clients: Sequence[dict[str, Any]] = ({"name": session_tests.NAME, "host": "127.0.0.1", "port": 1},)

    def __init__(self) -> None:
        self.plan = load_plan(SCENARIOS / "connection-pool.yaml")
        self.mesh = Mesh()
        self.sessions = self.most_sessions = 0
        self.death = self.occupied = ""

    async def look(self) -> None: ...

    def about(self) -> dict[str, Any]:
        return {}

    @contextlib.asynccontextmanager
    async def prepared(self, rules: Sequence[Rule]) -> AsyncIterator[list[Any]]:
        yield []

    async def judge(self, *_: object) -> None: ...
    async def check(self, *_: object) -> None:
        if self.occupied:
            raise RefusedError(self.occupied)

    async def restore(self) -> None:
        async with self.session() as mesh:
            await mesh.put(())
            await converge(mesh, ())

    def findings(self, rules: Sequence[Rule]) -> list[Any]:
        return []

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        self.sessions += 1
        self.most_sessions = max(self.most_sessions, self.sessions)
        await anyio.sleep(0.01)
        yield self.mesh
        self.sessions -= 1

    async def states(self) -> dict[str, Any]:
        return {}

    def gone(self) -> str:
        return self.death

    def environment(self) -> Any:
        return environment("1.40.0", 0.0, 1)


class Lines:
    """Locust's end, whose users answer at once."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.desk: Desk

    def send(self, message: dict[str, Any]) -> None:
        self.said.append(message)
        if message.get("ask"):
            self.desk.take({"answer": message["ask"], "value": ANSWERS[message["verb"]]})

    def ended(self) -> list[dict[str, Any]]:
        return [each for each in self.said if each.get("event") == "ended"]


@contextlib.asynccontextmanager
async def desk_of(site: Site) -> AsyncIterator[tuple[Desk, Lines]]:
    lines = Lines()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            lines.desk = Desk(site, lines, tasks)  # type: ignore[arg-type]
            yield lines.desk, lines
            await lines.desk.close()
            tasks.cancel_scope.cancel()


async def test_a_report_is_about_the_rules_that_were_in_force_and_not_about_those_that_the_sidecars_refused() -> None:
    site = Site()
    async with desk_of(site) as (desk, _):
        await desk.begin()
        await desk.apply(TEXT)
        with pytest.raises(MeshError, match="rejected"):
            await desk.apply(REFUSED)
        with pytest.raises(RefusedError, match="toggled meanwhile"):
            await desk.apply(REFUSED, expected="another turn")
        await desk.end()
        assert desk._test.result is not None
        assert desk._test.result.report.scenario.rule == "base/user"
        assert [phase.name for phase in desk._test.result.report.phases] == ["baseline", "limited", "recovered"]


async def test_a_session_that_cannot_begin_is_refused_and_has_no_end() -> None:
    site = Site()
    async with desk_of(site) as (desk, lines):
        site.occupied = "a rule is in force already"
        with pytest.raises(RefusedError, match="in force already"):
            await desk.begin(7)
        assert not lines.ended()
        site.occupied = ""
        await desk.begin(8)
        await desk.end()
        assert [each["test"] for each in lines.ended()] == [8]


async def test_a_policy_that_comes_and_goes_again_and_again_counts_in_the_same_figures() -> None:
    site = Site()
    async with desk_of(site) as (desk, _):
        await desk.begin()
        for _ in range(3):
            await desk.apply(TEXT)
            await desk.remove()
        page = await desk.metrics()
        assert [phase["name"] for phase in (await desk.state())["phases"]][-2:] == ["recovered-2", "limited-3"]
        requests = [line for line in page.splitlines() if line.startswith("loadgen_requests_total{")]
        assert {line.partition('phase="')[2].partition('"')[0] for line in requests} == {
            "between_phases",
            "baseline",
            "limited",
            "recovered",
        }
        await desk.end()


async def test_the_text_that_is_in_force_is_told_to_whoever_does_not_know_it() -> None:
    site = Site()
    async with desk_of(site) as (desk, _):
        await desk.begin()
        assert (await desk.state())["text"] == ""
        await desk.apply(TEXT)
        state = await desk.state()
        assert state["text"] == TEXT
        assert "text" not in await desk.state(turn=state["turn"])
        with pytest.raises(MeshError):
            await desk.apply(REFUSED)
        assert (await desk.state(turn=state["turn"]))["text"] == ""


async def test_two_tests_that_begin_at_once_are_one_after_the_other() -> None:
    site = Site()
    async with desk_of(site) as (desk, lines):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(desk.begin)
            tasks.start_soon(desk.restore)
        await desk.end()
        assert site.most_sessions == 1
        assert len(lines.ended()) == 3


async def test_an_answer_to_a_question_of_an_earlier_test_is_none_to_one_of_this_test() -> None:
    class Silent:
        def __init__(self) -> None:
            self.asked: list[int] = []

        def send(self, message: dict[str, Any]) -> None:
            self.asked.append(message["ask"])

    earlier, lines = Silent(), Silent()
    for each in (earlier, lines):
        users = Users(["client-1"], each)  # type: ignore[arg-type]
        with anyio.move_on_after(0.01):
            await users.ask("client-1", "look")
    assert earlier.asked != lines.asked


async def test_a_test_that_ends_unasked_says_whether_the_policy_is_gone() -> None:
    site = Site()
    async with desk_of(site) as (desk, lines):
        await desk.begin()
        await desk.apply(TEXT)
        desk.gone()
        while not lines.ended():  # noqa: ASYNC110  # once
            await anyio.sleep(0.01)
    assert lines.ended()[0]["said"] == "Locust is gone"
    assert lines.ended()[0]["restore"]["state"] == "verified"
    assert lines.ended()[0]["validity"]["state"] == "INVALID"


async def test_that_the_policy_could_not_be_removed_is_a_reason_whatever_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "UNDO_S", 0.0)
    site = Site()
    async with desk_of(site) as (desk, lines):
        await desk.begin()
        await desk.apply(TEXT)
        site.mesh.fails = 2
        desk.gone()
        while not lines.ended():  # noqa: ASYNC110  # once
            await anyio.sleep(0.01)
        assert lines.ended()[0]["said"] == "Locust is gone; client-1's sidecar does not answer"
        assert lines.ended()[0]["restore"]["state"] == "failed"
        assert "does not answer" in lines.ended()[0]["restore"]["detail"]
        assert site.mesh.rules
    assert not site.mesh.rules, "the desk does not go before it is"


async def test_the_desk_stays_until_the_policy_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "UNDO_S", 0.1)
    monkeypatch.setattr(desks, "AGAIN_S", 0.05)
    site = Site()
    async with desk_of(site) as (desk, _):
        await desk.begin()
        await desk.apply(TEXT)
        site.mesh.fails = 8
        desk.gone()
        assert await desk.close() == "what the test had left in force is gone"
    assert not site.mesh.rules


async def test_a_policy_that_cannot_be_got_out_is_given_up_some_day_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "UNDO_S", 0.1)
    monkeypatch.setattr(desks, "CLOSE_S", 0.3)
    site = Site()
    async with desk_of(site) as (desk, _):
        await desk.begin()
        await desk.apply(TEXT)
        site.mesh.fails = 10_000
        desk.gone()
        assert await desk.close() == "what the test had left may still be in force: client-1's sidecar does not answer"


async def test_a_mesh_that_ends_takes_the_policy_along() -> None:
    site = Site()
    async with desk_of(site) as (desk, lines):
        await desk.begin()
        await desk.apply(TEXT)
        site.mesh.fails = 10_000
        site.death = "the local mesh is gone"
        desk.gone()
    assert lines.ended()[0]["restore"] == {"state": "verified", "detail": "the mesh is gone and took the policy along"}


async def test_a_desk_that_mends_does_so_before_it_hears_that_locust_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    monkeypatch.setattr(LocalSite, "found", lambda _pid, *, dead: site)
    monkeypatch.setattr(process, "Lines", Deaf)
    for options, put in (({"mend": 7}, [()]), ({}, [])):
        site.mesh.put_before.clear()
        ours, theirs = socket.socketpair()
        ours.close()
        with anyio.fail_after(10):
            await process.serve(theirs.detach(), {"kind": "local", "pid": None, **options})
        assert site.mesh.put_before == put
