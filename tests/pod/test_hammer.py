"""Is there always one load, of whom it should be, and does nothing that goes wrong leave the pod without one?"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen.errors import MeshError, RefusedError
from loadgen.ledger import Counters
from loadgen.outcome import Outcome
from loadgen.pacing import Interval
from loadgen.pod import hammer as hammers
from loadgen.pod.book import OWN_LOAD, Book
from loadgen.pod.control import Control
from loadgen.pod.hammer import Hammer, HeldError
from loadgen.pod.log import Log
from loadgen.pod.orders import Take, read_order
from loadgen.pod.settings import read_settings
from loadgen.serving.exchange import Request
from loadgen.totals import BETWEEN_PHASES
from tests.engine.driven_load import OK
from tests.engine.scripted_server import forever, receive, send, serving, silence

from .pods import LOAD, RUN, SECRET
from .waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio
KEVIN = forever(receive, send(OK))


class Name:
    """A target's name; ``address`` is what it stands for, None while nobody knows it."""

    url = "http://user.base:7000/"
    names = ("user.base.svc.cluster.local",)
    path = "/"
    authority = "user.base:7000"

    def __init__(self, address: tuple[str, int] | None) -> None:
        self.address = address
        self.asked = 0

    async def look_up(self) -> tuple[str, int]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.address is None:
            raise RefusedError("the name is not known")
        return self.address


class Sidecar:
    """A sidecar that has counted; ``failure`` is what it says instead, ``gate`` makes it slow."""

    def __init__(self) -> None:
        self.counted = Counters(pending_overflow=3, active_overflow=4)
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def counters(self) -> Counters:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return self.counted


@dataclasses.dataclass
class Owned:
    """A hammer that runs, and what it stands on."""

    hammer: Hammer
    name: Name
    sidecar: Sidecar
    book: Book
    log: Path
    control: Control

    async def until_sent(self, count: int) -> None:
        await until(lambda: sum(self.hammer.outcomes().values()) >= count)


@contextlib.asynccontextmanager
async def owned(folder: Path, address: tuple[str, int] | None, think_s: float = 0.002) -> AsyncIterator[Owned]:
    (folder / "secret").write_text(SECRET)
    settings = read_settings({"POD_NAME": "client-1", "LOADGEN_SECRET_FILE": str(folder / "secret")})
    name, sidecar, book = Name(address), Sidecar(), Book()
    settings = dataclasses.replace(settings, aim=name, users=1, think=Interval(think_s))  # type: ignore[arg-type]  # what the hammer uses of it

    async def snapshot() -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"name": "client-1"}

    with (folder / "log").open("wb") as file:
        log = Log(file.fileno(), asyncio.get_running_loop().time)
        async with anyio.create_task_group() as tasks:
            hammer = Hammer(settings, sidecar, book, tasks, log)  # type: ignore[arg-type]
            tasks.start_soon(hammer.keep)
            yield Owned(hammer, name, sidecar, book, folder / "log", Control(settings, hammer, sidecar, snapshot, log))  # type: ignore[arg-type]
            hammer.close()
            tasks.cancel_scope.cancel()


def order(**more: Any) -> Take:
    return read_order(Take, json.dumps({"load": LOAD, **more}).encode())


async def test_the_own_load_begins_at_once_and_a_run_takes_over_where_nothing_is_in_flight(tmp_path: Path) -> None:
    async with serving([KEVIN]) as server, owned(tmp_path, server.address) as pod:
        await pod.until_sent(10)
        await pod.hammer.take(RUN, order())
        hold, load = pod.hammer.held_by(RUN)
        assert (hold.offset, load.sent, load.in_flight) == (-7, 0, 0)
        assert sum(pod.hammer.outcomes().values()) == server.requests, "every request of the own load was answered and counted"
        load.start()
        await until(lambda: load.sent > 20)
        await pod.hammer.leave(hold)
        own = pod.book.phases[OWN_LOAD][Outcome.OK].count
        assert pod.book.phases[BETWEEN_PHASES][Outcome.OK].count >= 16
        await until(lambda: pod.hammer.load is not None and pod.hammer.load.sent > 5)
        await pod.hammer.settle()
        assert pod.book.phases[OWN_LOAD][Outcome.OK].count > own


@pytest.mark.parametrize("what", ["the name", "the sidecar"])
async def test_a_take_that_cannot_be_leaves_the_pod_with_its_own_load(what: str, tmp_path: Path) -> None:
    async with serving([KEVIN]) as server, owned(tmp_path, server.address) as pod:
        await pod.until_sent(5)
        if what == "the name":
            pod.name.address = None
        else:
            pod.sidecar.failure = MeshError("the sidecar does not answer")
        with pytest.raises((RefusedError, MeshError)):
            await pod.hammer.take(RUN, order())
        assert pod.hammer.hold is None
        with pytest.raises(HeldError):
            pod.hammer.held_by(RUN)
        pod.name.address, pod.sidecar.failure = server.address, None
        await until(lambda: pod.hammer.load is not None and pod.hammer.load.sent > 5)
        await pod.hammer.take("run-2", order())


async def test_a_take_that_is_cancelled_gives_the_pod_back(tmp_path: Path) -> None:
    async with serving([KEVIN]) as server, owned(tmp_path, server.address) as pod:
        await pod.until_sent(5)
        pod.sidecar.gate.clear()
        with anyio.move_on_after(0.05):
            await pod.hammer.take(RUN, order())
        assert pod.hammer.hold is None
        pod.sidecar.gate.set()
        await until(lambda: pod.hammer.load is not None and pod.hammer.load.sent > 5)


async def test_a_second_run_is_refused_also_while_the_first_is_still_taking(tmp_path: Path) -> None:
    async with serving([KEVIN]) as server, owned(tmp_path, server.address) as pod:
        pod.sidecar.gate.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pod.hammer.take, RUN, order())
            await until(lambda: pod.hammer.hold is not None)
            asyncio.get_running_loop().call_later(0.05, pod.sidecar.gate.set)
            with pytest.raises(HeldError) as raised:
                await pod.hammer.take("run-2", order())
            assert raised.value.holder == RUN


async def test_a_run_that_takes_again_gets_a_new_load_and_loses_no_count(tmp_path: Path) -> None:
    async with serving([KEVIN]) as server, owned(tmp_path, server.address) as pod:
        await pod.hammer.take(RUN, order())
        _, first = pod.hammer.held_by(RUN)
        first.start()
        await until(lambda: first.sent > 10)
        await pod.hammer.take(RUN, order())
        _, second = pod.hammer.held_by(RUN)
        assert second is not first
        assert second.sent == 0
        assert sum(pod.hammer.outcomes().values()) == server.requests


async def test_a_name_that_is_known_later_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hammers, "RETRY_S", 0.01)
    async with serving([KEVIN]) as server, owned(tmp_path, None) as pod:
        await until(lambda: pod.name.asked >= 3)
        assert pod.hammer.trouble == "the name is not known"
        assert pod.hammer.load is None
        pod.name.address = server.address
        await pod.until_sent(3)
        assert pod.hammer.trouble == ""
        assert "nothing is sent: the name is not known" in pod.log.read_text()


async def test_an_own_load_that_reaches_nobody_follows_the_name_to_another_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hammers, "RELOOK_S", 0.1)
    async with serving([KEVIN]) as gone:
        nobody = gone.address
    async with serving([KEVIN]) as server, owned(tmp_path, nobody) as pod:
        await pod.until_sent(2)
        asked = pod.name.asked
        await until(lambda: pod.name.asked > asked)
        before = pod.hammer.outcomes()[Outcome.CONNECT]
        pod.name.address = server.address
        await until(lambda: pod.hammer.outcomes()[Outcome.OK] > 3)
        assert pod.hammer.outcomes()[Outcome.CONNECT] >= before > 0, "what was counted stays"
        assert "has another address now" in pod.log.read_text()
        asked = pod.name.asked
        await asyncio.sleep(0.3)
        assert pod.name.asked == asked, "while somebody answers, nobody asks for the name"


async def test_at_the_end_nothing_more_is_sent_and_nobody_may_take_the_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hammers, "DRAIN_S", 0.1)
    async with serving([receive, silence]) as server, owned(tmp_path, server.address) as pod:
        await until(lambda: server.requests == 1)
        await pod.hammer.finish()
        with pytest.raises(RefusedError, match="ending"):
            await pod.hammer.take(RUN, order())
        assert pod.hammer.close() == 1, "one was under way"
        await asyncio.sleep(0.3)
        assert (server.requests, pod.hammer.load) == (1, None)


async def test_a_call_that_failed_may_be_tried_again_and_one_that_was_done_is_done_once(tmp_path: Path) -> None:
    async with serving([KEVIN]) as server, owned(tmp_path, None) as pod:
        headers = {"x-loadgen-secret": SECRET, "x-loadgen-run": RUN, "x-loadgen-call": "1"}
        request = Request("POST", "/control/take", headers, json.dumps({"load": LOAD}).encode())
        assert (await pod.control.answer(request, "take")).status == 503
        pod.name.address = server.address
        replies = await asyncio.gather(pod.control.answer(request, "take"), pod.control.answer(request, "take"))
        assert [reply.status for reply in replies] == [200, 200]
        _, load = pod.hammer.held_by(RUN)
        assert (await pod.control.answer(request, "take")).status == 200
        assert pod.hammer.held_by(RUN)[1] is load
        another = dataclasses.replace(request, headers={**headers, "x-loadgen-call": "2"})
        assert (await pod.control.answer(another, "take")).status == 200
        assert pod.hammer.held_by(RUN)[1] is not load
