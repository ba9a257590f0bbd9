"""``loadgen hit`` as people use it: the real command against a real server, and the real figures against what the server saw."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import pytest

from tests.engine.scripted_server import PATIENCE_S, close, forever, receive, send, serving, silence, wait

if TYPE_CHECKING:
    from anyio.abc import Process

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nKevin"
OVERFLOW_BODY = b"upstream connect error or disconnect/reset before headers. reset reason: overflow"
OVERFLOW = b"HTTP/1.1 503 x\r\ncontent-length: %d\r\n\r\n%s" % (len(OVERFLOW_BODY), OVERFLOW_BODY)


class Ended:
    """How a command ended."""

    def __init__(self, code: int, stdout: bytes, stderr: bytes) -> None:
        self.code = code
        self.stdout = stdout.decode()
        self.stderr = stderr.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


async def hit(address: tuple[str, int], *options: str) -> Ended:
    with anyio.fail_after(PATIENCE_S):
        ended = await anyio.run_process(
            [sys.executable, "-m", "loadgen", "hit", f"http://{address[0]}:{address[1]}/", *options], check=False
        )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def counted(report: Any) -> dict[str, int]:
    return {outcome: count for outcome, count in report["outcomes"].items() if count}


async def test_exactly_so_many_requests_are_sent_as_were_asked_for() -> None:
    async with serving([forever(receive, send(OK))]) as server:
        ended = await hit(server.address, "-n", "100", "-c", "7", "--json")
    assert ended.code == 0, ended.stderr
    assert counted(ended.json) == {"ok": 100}
    assert (server.requests, server.connections) == (100, 7)
    assert ended.json["statuses"] == {"200": 100}
    assert ended.json["load"] == {"model": "closed", "users": 7}
    assert ended.json["validity"] == {"state": "VALID", "reasons": []}
    assert 0 < ended.json["latency_s"]["ok"]["p50"] <= ended.json["latency_s"]["ok"]["max"]


async def test_two_processes_send_exactly_so_many_as_well() -> None:
    async with serving([forever(receive, send(OK))]) as server:
        ended = await hit(server.address, "-n", "101", "-c", "6", "--processes", "2", "--json")
    assert ended.code == 0, ended.stderr
    assert (counted(ended.json), ended.json["processes"]) == ({"ok": 101}, 2)
    assert (server.requests, server.connections) == (101, 6)


async def test_a_duration_ends_the_load_and_every_request_is_accounted_for() -> None:
    async with serving([forever(receive, send(OK))]) as server:
        ended = await hit(server.address, "-z", "500ms", "-c", "3", "--json")
    assert counted(ended.json) == {"ok": server.requests}
    assert ended.json["duration_s"] >= 0.5


async def test_no_more_connections_are_opened_than_there_are_requests() -> None:
    async with serving([forever(receive, send(OK))]) as server:
        ended = await hit(server.address, "-n", "2", "-c", "50", "--json")
    assert counted(ended.json) == {"ok": 2}
    assert server.connections == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-d", "@/dev/zero"), "the file holds more than 64 MiB"),
        (("-m", ""), "'' is no method"),
        (("-H", "Host: a", "-H", "host: b"), "-H gives Host more than once"),
    ],
)
async def test_what_cannot_be_sent_is_refused_before_anything_is(options: tuple[str, ...], message: str) -> None:
    async with serving([forever(receive, send(OK))]) as server:
        ended = await hit(server.address, "-n", "1", *options)
    assert ended.code == 2
    assert message in ended.stderr
    assert server.connections == 0


async def test_a_rate_is_kept_whatever_the_answers_do() -> None:
    async with serving([forever(receive, send(OK))]) as server:
        ended = await hit(server.address, "-r", "200", "-n", "100", "--json")
    assert counted(ended.json) == {"ok": 100}
    assert ended.json["load"] == {"model": "open", "rate_per_s": 200.0, "arrivals": "constant", "max_in_flight": 1000}
    assert ended.json["rate_per_s"] == pytest.approx(200, rel=0.2)
    assert server.requests == 100


TERMINAL_WIDTH = 80


async def test_the_outcomes_are_split_and_shown_with_a_picture() -> None:
    async with serving([forever(receive, send(OK), receive, send(OVERFLOW))]) as server:
        ended = await hit(server.address, "-n", "20", "-c", "1")
    assert ended.code == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].endswith("1 user, 1 process")
    assert lines[1].startswith("20 requests in ")
    rows = {line.split()[0]: line.split()[1:3] for line in lines if line.startswith(("ok", "overflow"))}
    assert rows == {"ok": ["10", "50.0%"], "overflow": ["10", "50.0%"]}
    assert "  status 200: 10, 503: 10" in lines
    assert max(len(line) for line in lines if line.startswith(("outcome", "ok", "overflow", "  to "))) <= TERMINAL_WIDTH
    assert "Distribution of ok" in lines
    assert sum(int(line.split()[3].replace(",", "")) for line in lines if line.startswith("  to ")) == 10
    assert lines[-1].startswith("VALID: 99% of the requests left within ")


async def test_what_was_expected_decides_what_is_ok() -> None:
    async with serving([forever(receive, send(OK))]) as server:
        met = await hit(server.address, "-n", "3", "--expect-body", "Kevin", "--json")
        other_body = await hit(server.address, "-n", "3", "--expect-body", "Kelvin", "--json")
        other_status = await hit(server.address, "-n", "3", "--expect-status", "204", "--json")
    assert (met.code, counted(met.json)) == (0, {"ok": 3})
    assert (other_body.code, counted(other_body.json)) == (99, {"wrong_body": 3})
    assert (other_status.code, counted(other_status.json)) == (99, {"http_error": 3})


async def test_a_request_without_an_answer_times_out_after_the_time_that_was_given() -> None:
    async with serving([receive, silence]) as server:
        ended = await hit(server.address, "-n", "2", "-c", "2", "--timeout", "100ms", "--json")
    assert counted(ended.json) == {"timeout": 2}
    assert ended.json["latency_s"]["timeout"]["p50"] >= 0.1


async def test_refused_connections_are_counted_with_the_system_s_reason() -> None:
    async with serving([close]) as server:
        address = server.address
    ended = await hit(address, "-n", "3", "-c", "1")
    assert "connect failed with ECONNREFUSED: 3" in ended.stdout
    assert ended.code == 0, "the target's fault, not the hammer's"


async def test_a_foreign_target_is_refused_with_exit_code_3_and_nothing_is_sent() -> None:
    ended = await hit(("192.0.2.1", 80), "-n", "1")
    assert (ended.code, ended.stdout) == (3, "")
    assert "--allow-host 192.0.2.1" in ended.stderr


async def started(*arguments: str) -> Process:
    return await anyio.open_process([sys.executable, "-m", "loadgen", "hit", *arguments])


async def read_all(process: Process) -> str:
    assert process.stdout is not None
    return b"".join([chunk async for chunk in process.stdout]).decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("processes", ["1", "2"])
async def test_an_interrupted_load_shows_what_was_measured_until_then(number: signal.Signals, code: int, processes: str) -> None:
    async with serving([forever(receive, send(OK))]) as server:
        process = await started(f"http://127.0.0.1:{server.address[1]}/", "-z", "60s", "-c", "2", "--processes", processes, "--json")
        await server.until(lambda: server.requests > 50)
        process.send_signal(number)
        with anyio.fail_after(PATIENCE_S):
            report = json.loads(await read_all(process))
            assert await process.wait() == code
    first, *others = report["validity"]["reasons"]
    assert (report["validity"]["state"], first) == ("INVALID", f"interrupted by {number.name}")
    assert all("were under way" in other for other in others), "what had not ended just then"
    assert report["outcomes"]["ok"] > 0


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_requests_that_had_not_ended_when_a_load_is_interrupted_are_said_to_be_counted_nowhere(processes: str) -> None:
    async with serving([receive, silence]) as server:
        process = await started(f"http://127.0.0.1:{server.address[1]}/", "-z", "60s", "-c", "3", "--processes", processes, "--json")
        await server.until(lambda: server.requests == 3)
        process.send_signal(signal.SIGINT)
        with anyio.fail_after(PATIENCE_S):
            report = json.loads(await read_all(process))
            await process.wait()
    assert "3 requests or iterations were under way and are counted nowhere" in report["validity"]["reasons"]
    assert report["requests"] == 0


async def test_the_rate_is_of_what_ended_in_time_and_what_did_not_is_shown() -> None:
    gate = asyncio.Event()
    async with serving([receive, wait(gate), send(OK)]) as server:
        process = await started(f"http://127.0.0.1:{server.address[1]}/", "-z", "500ms", "-c", "3")
        await server.until(lambda: server.requests == 3)
        await asyncio.sleep(1.5)
        gate.set()
        with anyio.fail_after(PATIENCE_S):
            lines = (await read_all(process)).splitlines()
            await process.wait()
    assert re.fullmatch(r"3 requests in \d+(\.\d+)? m?s, 0/s \(3 ended after that\)", lines[1])


async def test_a_hammer_process_that_dies_makes_the_load_invalid() -> None:
    async with serving([forever(receive, send(OK))]) as server:
        process = await started(f"http://127.0.0.1:{server.address[1]}/", "-z", "60s", "-c", "2", "--processes", "2", "--json")
        await server.until(lambda: server.requests > 50 and server.connections == 2)
        (child, *_) = children(process.pid)
        os.kill(child, signal.SIGKILL)
        with anyio.fail_after(PATIENCE_S):
            report = json.loads(await read_all(process))
            assert await process.wait() == 4
    assert report["validity"]["state"] == "INVALID"
    assert "died" in report["validity"]["reasons"][0]


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


FLOW = """
async def on_start(client):
    client.headers["x-user"] = "Kevin"

async def flow(client):
    first = await client.get("/first")
    assert first.text == "Kevin", first.text
    await client.post("/second", content=b"x")

async def broken(client):
    await client.get("/")
    raise LookupError("no such thing")
"""


async def run_flow(folder: Path, address: tuple[str, int], *options: str) -> Ended:
    (folder / "shop.py").write_text(FLOW, encoding="utf-8")
    command = [sys.executable, "-m", "loadgen", "hit", f"http://{address[0]}:{address[1]}/", *options]
    with anyio.fail_after(PATIENCE_S):
        ended = await anyio.run_process(command, cwd=folder, check=False)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_each_request_of_a_flow_counts(tmp_path: Path, processes: str) -> None:
    async with serving([forever(receive, send(OK))]) as server:
        ended = await run_flow(tmp_path, server.address, "--flow", "shop:flow", "-n", "6", "-c", "2", "--processes", processes, "--json")
    assert ended.code == 0, ended.stderr
    assert counted(ended.json) == {"ok": 12}
    assert server.requests == 12


async def test_what_fails_in_a_flow_is_shown_with_its_place(tmp_path: Path) -> None:
    async with serving([forever(receive, send(OK))]) as server:
        ended = await run_flow(tmp_path, server.address, "--flow", "shop:broken", "-n", "3", "-c", "1")
    assert "the flow failed 3 times: LookupError: no such thing (shop.py, line 12)" in ended.stdout


@pytest.mark.parametrize(
    ("flow", "said"),
    [
        ("shop", "names no flow"),
        ("shop:flaw", "did you mean shop:flow?"),
        ("nowhere:flow", "no module 'nowhere'"),
        ("os:getcwd", "no coroutine"),
    ],
)
async def test_a_flow_that_is_not_there_is_refused_before_anything_is_sent(tmp_path: Path, flow: str, said: str) -> None:
    async with serving([silence]) as server:
        ended = await run_flow(tmp_path, server.address, "--flow", flow, "-n", "1")
        assert server.connections == 0
    assert (ended.code, ended.stdout) == (2, "")
    assert said in ended.stderr


async def test_an_answer_that_comes_before_the_body_was_taken_does_not_garble_the_next_request(tmp_path: Path) -> None:
    """The rest of a long request must not be cut in two by the next one."""
    size = 8 << 20  # more than the system's buffers hold
    (tmp_path / "body").write_bytes(b"x" * size)
    seen: list[bytes] = []

    async def answer_early(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                read = b""
                for _ in range(4):
                    read += await stream.receive(1 << 16)
                    await stream.send(OK)
                    await anyio.sleep(0.02)  # so that each answer comes alone
                seen.append(read + b"".join([chunk async for chunk in stream]))

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer_early)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        await hit(("127.0.0.1", port), "-c", "2", "-z", "300ms", "-d", f"@{tmp_path}/body", "--timeout", "1s", "--json")
        tasks.cancel_scope.cancel()
    assert seen
    for stream in seen:
        request = stream[: stream.index(b"\r\n\r\n") + 4] + b"x" * size
        assert (request * (len(stream) // len(request) + 1)).startswith(stream), "requests one after the other, none in another"


async def test_a_long_body_is_compared_as_a_whole() -> None:
    body = "Kevin" * 20_000
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body.encode())
    async with serving([forever(receive, send(answer))]) as server:
        met = await hit(server.address, "-z", "200ms", "-c", "2", "--expect-body", body, "--json")
        longer = await hit(server.address, "-z", "200ms", "-c", "2", "--expect-body", body[:70_000], "--json")
    assert set(counted(met.json)) == {"ok"}
    assert set(counted(longer.json)) == {"wrong_body"}


async def test_a_header_without_an_end_is_no_http_and_fills_no_memory() -> None:
    async with serving([receive, send(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000), silence]) as server:
        ended = await hit(server.address, "-n", "2", "-c", "1", "--json")
    assert counted(ended.json) == {"protocol": 2}


async def test_what_hangs_at_the_end_does_not_slow_the_rate_down() -> None:
    async with serving([forever(receive, send(OK))], [forever(receive, send(OK))], [receive, silence]) as server:
        ended = await hit(server.address, "-z", "500ms", "-c", "3", "--timeout", "1s", "--json")
    assert ended.json["outcomes"]["timeout"] >= 1
    assert ended.json["duration_s"] < 0.9


async def test_a_flow_that_fails_meets_no_expectation(tmp_path: Path) -> None:
    async with serving([forever(receive, send(OK))]) as server:
        ended = await run_flow(tmp_path, server.address, "--flow", "shop:broken", "-n", "3", "-c", "1", "--expect-status", "200")
    assert ended.code == 99


async def test_a_file_of_the_current_folder_does_not_get_into_a_hammer_process(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('not mine')", encoding="utf-8")
    command = [str(Path(sys.executable).parent / "loadgen"), "hit"]
    async with serving([forever(receive, send(OK))]) as server:
        url = f"http://127.0.0.1:{server.address[1]}/"
        with anyio.fail_after(PATIENCE_S):
            ended = await anyio.run_process([*command, url, "-n", "4", "-c", "2", "--processes", "2"], cwd=tmp_path, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
