"""Does the pod end in order, soon, and without losing a request that it had reported?"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.engine.driven_load import OK

from .pods import LOAD, PROGRAM, RUN, environment_of
from .waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loadgen.mesh.local import LocalMesh

    from .pods import Pod

pytestmark = [pytest.mark.anyio, pytest.mark.envoy]


class Slow:
    """A target that answers when it is let go on; ``waiting`` requests wait for that."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.waiting = 0
        self.answered = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.waiting += 1
                await self.gate.wait()
                self.waiting -= 1
                self.answered += 1
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def slow_pod(pods: Callable[..., Pod], mesh: LocalMesh, folder: Path) -> tuple[Slow, asyncio.Server, Pod]:
    """Run a pod with three users whose target is slow."""
    slow = Slow()
    server = await asyncio.start_server(slow.serve, "127.0.0.1", 0)
    target = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    pod = pods(environment_of(mesh.clients[0], folder, LOADGEN_TARGET=target, LOADGEN_USERS="3"))
    await until(lambda: slow.waiting == 3)
    return slow, server, pod


def ended_with(pod: Pod) -> int:
    """Give how many requests the last line says there were."""
    found = re.fullmatch(r"ended: (\d+) requests since the start.*", pod.lines[-1])
    assert found, pod.lines[-3:]
    return int(found[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_soon_with_0_and_the_totals_are_the_last_line(pod: Pod, number: signal.Signals) -> None:
    await pod.until_logged("Kevin")
    reported = await pod.requests()
    code, seconds = await pod.end(number)
    assert code == 0
    assert seconds < 3.0
    assert ended_with(pod) >= reported > 0
    assert f"{number.name}: sending nothing more" in "\n".join(pod.lines)


async def test_what_a_run_was_told_is_in_the_totals_when_the_pod_is_ended_under_it(pod: Pod) -> None:
    await pod.do("take", load=LOAD)
    await pod.do("start")
    await pod.do("phase", name="baseline")

    async def some() -> bool:
        return bool((await pod.do("look"))["sent"] > 50)

    await pod.until(some, "some were sent")
    edge = await pod.do("edge")
    reported = sum(sum(each["buckets"].values()) for each in edge["tally"]["latency"].values())
    totals = await pod.requests()
    code, _ = await pod.end()
    assert code == 0
    assert ended_with(pod) >= totals >= reported > 0


async def test_while_the_last_answers_are_waited_for_the_pages_answer_and_nothing_new_is_sent(
    pods: Callable[..., Pod], mesh: LocalMesh, tmp_path: Path
) -> None:
    slow, server, pod = await slow_pod(pods, mesh, tmp_path)
    pod.process.send_signal(signal.SIGTERM)
    await pod.until_logged("sending nothing more")
    said = await pod.snapshot()
    assert (said["stopping"], said["sight"]["in_flight"]) == (True, 3)
    ready = await pod.get("/readyz")
    assert (ready.status_code, ready.text) == (503, "this pod is ending\n")
    assert (await pod.get("/healthz")).status_code == 200
    assert (await pod.control("state")).status_code == 200
    response = await pod.control("take", load=LOAD)
    assert (response.status_code, response.json()["error"]) == (503, "this pod is ending")
    await asyncio.sleep(0.1)
    assert slow.waiting == 3
    slow.gate.set()
    assert await asyncio.to_thread(pod.process.wait, 20) == 0
    assert slow.answered == 3
    assert pod.lines[-1] == "ended: 3 requests since the start: ok 3"
    server.close()


async def test_a_run_can_still_read_the_last_edge_while_the_pod_is_ending(
    pods: Callable[..., Pod], mesh: LocalMesh, tmp_path: Path
) -> None:
    slow, server, pod = await slow_pod(pods, mesh, tmp_path)
    taking = asyncio.create_task(pod.do("take", load={"model": "closed", "users": 2, "think_time": "10ms"}))
    await taking
    await pod.do("start")
    await until(lambda: slow.waiting == 5)  # those of the own load were dropped, and their target does not know it yet
    pod.process.send_signal(signal.SIGTERM)
    await pod.until_logged("sending nothing more")
    assert (await pod.snapshot())["run"] == RUN
    slow.gate.set()
    edge = await pod.do("edge")
    assert edge["settled"]
    assert await asyncio.to_thread(pod.process.wait, 20) == 0
    assert pod.lines[-1] == "ended: 2 requests since the start: ok 2"
    server.close()


async def test_what_never_ends_is_dropped_in_time_and_said(pods: Callable[..., Pod], mesh: LocalMesh, tmp_path: Path) -> None:
    slow, server, pod = await slow_pod(pods, mesh, tmp_path)
    code, seconds = await pod.end()
    assert code == 0
    assert seconds < 10.0, "the grace period that is promised"
    assert slow.waiting == 3
    assert pod.lines[-1].startswith("ended: ")
    slow.gate.set()
    server.close()


async def test_a_second_signal_leaves_at_once(pods: Callable[..., Pod], mesh: LocalMesh, tmp_path: Path) -> None:
    slow, server, pod = await slow_pod(pods, mesh, tmp_path)
    pod.process.send_signal(signal.SIGTERM)
    await pod.until_logged("sending nothing more")
    code, seconds = await pod.end(signal.SIGINT)
    assert code == 128 + signal.SIGINT
    assert seconds < 2.0
    slow.gate.set()
    server.close()


async def test_a_log_that_nobody_reads_stops_nothing(mesh: LocalMesh, tmp_path: Path) -> None:
    environment = {**os.environ, **environment_of(mesh.clients[0], tmp_path, POD_NAME="unread", LOADGEN_THINK_TIME="5ms")}
    reader, writer = os.pipe()
    process = subprocess.Popen([sys.executable, *PROGRAM], env=environment, stdout=writer, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    os.close(writer)
    os.close(reader)
    started = time.monotonic()
    while (await mesh.count()).clients.get("unread") is None:
        assert time.monotonic() < started + 20
        await asyncio.sleep(0.05)
    before = (await mesh.count()).clients["unread"].requests
    await asyncio.sleep(1.5)
    assert (await mesh.count()).clients["unread"].requests > before
    process.terminate()
    assert await asyncio.to_thread(process.wait, 20) == 0
