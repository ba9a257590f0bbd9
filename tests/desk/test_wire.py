"""Does the engine's process say everything that its loads have seen, of the right test, and nothing twice?"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen.desk import wire as wires
from loadgen.desk.wire import Wire
from loadgen.recorder import Tally

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio
NAME = "client-1"
TAKES_S = 0.2
SAID = {"path": "/", "think": "none", "timeout_s": 5.0, "seed": 1, "authority": "user", "status": 200, "body": "", "test": 7}


class Lines:
    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.said.append(message)


@contextlib.asynccontextmanager
async def loaded(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Wire, Lines]]:
    """Give a wire with one user, whose request is on its way."""
    monkeypatch.setattr(wires, "SEEN_S", 0.05)
    arrived = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                arrived.set()
                await asyncio.sleep(TAKES_S)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server, lines = await asyncio.start_server(serve, "127.0.0.1", 0), Lines()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            wire = Wire(lines, tasks)  # type: ignore[arg-type]
            tasks.start_soon(wire.report)
            tasks.start_soon(wire.follow)
            wire.make({NAME: {"host": "127.0.0.1", "port": server.sockets[0].getsockname()[1]}}, SAID)
            await wire.obey(0, NAME, "join", {"users": 1})
            await arrived.wait()
            yield wire, lines
            wire.drop()
            tasks.cancel_scope.cancel()
    server.close()


def last(lines: Lines) -> list[int]:
    return [number for number, each in enumerate(lines.said) if each.get("last")]


async def test_what_a_stopped_load_has_seen_is_said_a_last_time_when_it_has_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    async with loaded(monkeypatch) as (wire, lines):
        await wire.obey(0, NAME, "stop", {})
        assert not last(lines), "a request is on its way"
        while not last(lines):  # noqa: ASYNC110  # once
            await anyio.sleep(0.005)
        await wire.obey(0, NAME, "stop", {})  # as whoever aborts a load does
        await anyio.sleep(0.2)
        assert last(lines) == [len(lines.said) - 1], "once, and nothing afterwards"
        assert Tally.from_snapshot(lines.said[-1]["tally"]).requests == 1
        assert {each["test"] for each in lines.said} == {7}


async def test_it_is_said_before_the_answer_that_all_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "DRAINED_S", 60.0)
    async with loaded(monkeypatch) as (wire, lines):
        await wire.obey(0, NAME, "stop", {})
        await anyio.sleep(2 * TAKES_S)
        await wire.obey(1, NAME, "all_done_since", {"age_s": 0.0})
        assert lines.said[-1] == {"answer": 1, "value": True, "test": 7}
        assert last(lines) == [len(lines.said) - 2]


async def test_a_new_test_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async with loaded(monkeypatch) as (wire, lines):
        await wire.obey(0, NAME, "stop", {})
        wire.make({NAME: {"host": "127.0.0.1", "port": 1}}, {**SAID, "test": 8})
        lines.said.clear()
        await anyio.sleep(0.2)
        assert {each["test"] for each in lines.said} == {8}
        assert not last(lines)
