"""Does the service count what it really saw, whoever asks and however the asking ends?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen.mesh.children import Children
from loadgen.mesh.user_service import MAX_CLIENTS, MAX_NAME_CHARACTERS, MAX_PEAKS, Count, Service, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

PATIENCE_S = 20.0
LONG_S = 3600.0
CLOSED = b""


class Line:
    """A connection to the service or to its control port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def request(self, client: str = "", path: str = "/", *extra: str, method: str = "GET") -> None:
        lines = [f"{method} {path} HTTP/1.1", "host: user", *([f"X-Loadgen-Client: {client}"] if client else []), *extra, "", ""]
        self.write("\r\n".join(lines).encode("latin-1"))

    async def read(self) -> tuple[int, bytes]:
        """Read one answer: its status and body."""
        with anyio.fail_after(PATIENCE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = next(int(line.partition(b":")[2]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            return int(head.split()[1]), await self._reader.readexactly(length)

    async def some(self) -> bytes:
        """Wait for more bytes, whatever they mean."""
        return await self._reader.read(1 << 16)

    async def end(self) -> bytes:
        """Wait until the service closes the connection; give what it still said."""
        with anyio.fail_after(PATIENCE_S):
            return await self._reader.read()

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@dataclass
class Running:
    """A service in this process, on loopback ports."""

    address: tuple[str, int]
    control: tuple[str, int]
    lines: contextlib.AsyncExitStack

    async def line(self, address: tuple[str, int] | None = None) -> Line:
        line = Line(*await asyncio.open_connection(*(address or self.address)))
        self.lines.push_async_callback(line.close)
        return line

    async def count(self, method: str = "GET") -> dict[str, Any]:
        line = await self.line(self.control)
        line.request(path="/count", method=method)
        status, body = await line.read()
        assert status == 200
        await line.close()
        counts: dict[str, Any] = json.loads(body)
        return counts

    async def until(self, in_flight: int, requests: int) -> dict[str, Any]:
        """Ask until the service has seen so many requests and has so many in flight: it tells nobody by itself."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                counts = await self.count()
                if (counts["in_flight"], counts["requests"]) == (in_flight, requests):
                    return counts


@contextlib.asynccontextmanager
async def running(mean_s: float = 0.0, *, exponential: bool = False) -> AsyncIterator[Running]:
    """Run a service; whatever it leaves to the loop's exception handler fails the test."""
    problems: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: problems.append(context))
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as control:
        service = Service(b"Kevin", mean_s, exponential=exponential, seed=7)
        task = asyncio.create_task(serve(service, listening, control))
        try:
            async with contextlib.AsyncExitStack() as lines:
                yield Running(listening.getsockname(), control.getsockname(), lines)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError), anyio.fail_after(PATIENCE_S):
                await task
            loop.set_exception_handler(before)
    assert problems == []


def test_a_period_is_from_the_first_request_in_flight_to_the_last_and_one_that_was_cut_is_none() -> None:
    count = Count()
    count.enter()
    count.restart_peak()
    count.enter()
    for _ in range(2):
        count.leave()
    assert count.periods == {}, "it began before"
    for most in (3, 1, 3):
        for _ in range(most):
            count.enter()
        for _ in range(most):
            count.leave()
    assert count.periods == {3: 2, 1: 1}
    assert count.as_dict()["periods"] == {"3": 2, "1": 1}
    count.restart_peak()
    for most in range(1, MAX_PEAKS + 10):
        for _ in range(most):
            count.enter()
        for _ in range(most):
            count.leave()
    assert len(count.periods) == MAX_PEAKS


async def test_every_request_is_answered_with_the_body_and_counted() -> None:
    async with running() as service:
        line = await service.line()
        for _ in range(5):
            line.request("client-1")
            assert await line.read() == (200, b"Kevin")
        counts = await service.count()
        assert counts == {
            "requests": 5,
            "in_flight": 0,
            "peak_in_flight": 1,
            "periods": {"1": 5},
            "clients": {"client-1": {"requests": 5, "in_flight": 0, "peak_in_flight": 1, "periods": {"1": 5}}},
        }


async def test_requests_in_flight_are_counted_per_client_and_in_all() -> None:
    async with running(LONG_S) as service:
        for client in ("client-1", "client-1", "client-2"):
            (await service.line()).request(client)
        counts = await service.until(in_flight=3, requests=3)
        assert counts["peak_in_flight"] == 3
        assert counts["clients"] == {
            "client-1": {"requests": 2, "in_flight": 2, "peak_in_flight": 2, "periods": {}},
            "client-2": {"requests": 1, "in_flight": 1, "peak_in_flight": 1, "periods": {}},
        }


async def test_a_client_that_goes_away_while_it_is_served_is_no_longer_in_flight() -> None:
    async with running(LONG_S) as service:
        one, other = await service.line(), await service.line()
        one.request("client-1")
        other.request("client-1")
        await service.until(in_flight=2, requests=2)
        await one.close()
        counts = await service.until(in_flight=1, requests=2)
        assert counts["clients"]["client-1"] == {"requests": 2, "in_flight": 1, "peak_in_flight": 2, "periods": {}}


async def test_the_peak_stays_until_it_is_restarted_and_then_begins_with_what_is_in_flight() -> None:
    async with running(LONG_S) as service:
        lines = [await service.line() for _ in range(3)]
        for line in lines:
            line.request("client-1")
        await service.until(in_flight=3, requests=3)
        await lines[0].close()
        await service.until(in_flight=2, requests=3)
        before = await service.count("POST")
        after = await service.count()
        assert [each["peak_in_flight"] for each in (before, after)] == [3, 2]
        assert [each["clients"]["client-1"]["peak_in_flight"] for each in (before, after)] == [3, 2]
        assert after["requests"] == 3, "only the peak begins anew"


async def test_a_get_leaves_the_peak_alone() -> None:
    async with running() as service:
        line = await service.line()
        line.request("client-1")
        await line.read()
        assert [(await service.count())["peak_in_flight"] for _ in range(2)] == [1, 1]


async def test_the_control_port_is_not_counted_and_knows_one_path() -> None:
    async with running() as service:
        line = await service.line(service.control)
        line.request("client-1", "/other")
        assert (await line.read())[0] == 404
        line.request("client-1", "/count", "connection: close")
        status, body = await line.read()
        assert (status, json.loads(body)["requests"], json.loads(body)["clients"]) == (200, 0, {})
        assert await line.end() == CLOSED


@pytest.mark.parametrize("port", ["service", "control"])
@pytest.mark.parametrize(
    "garbage",
    [b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\xfc", b"GET / HTTP/9\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n"],
)
async def test_garbage_is_answered_with_400_and_ends_the_connection(port: str, garbage: bytes) -> None:
    async with running() as service:
        line = await service.line(service.address if port == "service" else service.control)
        line.write(garbage)
        assert (await line.read())[0] == 400
        assert await line.end() == CLOSED
        assert (await service.count())["requests"] == 0


async def test_garbage_while_a_request_is_served_ends_both() -> None:
    async with running(LONG_S) as service:
        line = await service.line()
        line.request("client-1")
        await service.until(in_flight=1, requests=1)
        line.write(b"\x00\x00\x00garbage\r\n\r\n")
        assert (await line.read())[0] == 400
        assert await line.end() == CLOSED
        await service.until(in_flight=0, requests=1)


async def test_a_second_request_before_the_answer_ends_the_connection_and_is_not_counted() -> None:
    async with running(LONG_S) as service:
        line = await service.line()
        line.request("client-1")
        await service.until(in_flight=1, requests=1)
        line.request("client-1")
        with contextlib.suppress(ConnectionError):
            assert await line.end() == CLOSED
        await service.until(in_flight=0, requests=1)


@pytest.mark.parametrize(
    "end",
    [
        lambda line: line.request("client-1", "/", "connection: close"),
        lambda line: line.write(b"GET / HTTP/1.0\r\nx-loadgen-client: client-1\r\n\r\n"),
    ],
)
async def test_a_client_that_wants_no_more_is_answered_and_closed(end: Any) -> None:
    async with running() as service:
        line = await service.line()
        end(line)
        assert await line.read() == (200, b"Kevin")
        assert await line.end() == CLOSED
        assert (await service.count())["clients"]["client-1"]["requests"] == 1


async def test_a_request_with_a_body_is_counted_once_all_of_it_is_there() -> None:
    async with running() as service:
        line = await service.line()
        line.request("client-1", "/", "content-length: 5", method="POST")
        line.write(b"hel")
        assert (await service.count())["requests"] == 0
        line.write(b"lo")
        assert await line.read() == (200, b"Kevin")
        assert (await service.count())["requests"] == 1


async def test_the_name_of_one_request_is_not_taken_for_the_next() -> None:
    async with running() as service:
        line = await service.line()
        for client in ("client-1", "", "client-2"):
            line.request(client)
            await line.read()
        assert {name: count["requests"] for name, count in (await service.count())["clients"].items()} == {
            "client-1": 1,
            "": 1,
            "client-2": 1,
        }


async def test_a_name_that_is_no_name_does_not_break_the_count() -> None:
    async with running() as service:
        line = await service.line()
        for client in ('"}\\', "\xff\xe9", "a" * 5000):
            line.request(client)
            assert await line.read() == (200, b"Kevin")
        assert set((await service.count())["clients"]) == {'"}\\', "\xff\xe9", "a" * MAX_NAME_CHARACTERS}


async def test_more_names_than_a_mesh_has_are_counted_together() -> None:
    async with running() as service:
        line = await service.line()
        for number in range(MAX_CLIENTS + 5):
            line.request(f"client-{number}")
            await line.read()
        line.request("client-0")
        await line.read()
        counts = await service.count()
        assert counts["requests"] == MAX_CLIENTS + 6
        assert len(counts["clients"]) == MAX_CLIENTS + 1
        assert (counts["clients"]["other"]["requests"], counts["clients"]["client-0"]["requests"]) == (5, 2)
        assert counts["in_flight"] == counts["clients"]["other"]["in_flight"] == 0


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_clients_do_the_counts_add_up_and_end_at_nothing_in_flight(seed: int) -> None:
    rng = random.Random(seed)
    async with running(0.001, exponential=True) as service:

        async def client(name: str) -> None:
            for _ in range(8):
                line = await service.line()
                for _ in range(rng.randint(0, 3)):
                    line.request(name)
                    if rng.random() < 0.6:
                        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                            await line.read()
                await line.close()

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(client, f"client-{number}")
        with anyio.fail_after(PATIENCE_S):
            while (counts := await service.count())["in_flight"]:
                pass
        each = counts["clients"].values()
        assert counts["requests"] == sum(count["requests"] for count in each)
        assert {count["in_flight"] for count in each} == {0}
        assert all(1 <= count["peak_in_flight"] <= counts["peak_in_flight"] <= 8 for count in each)


def test_service_times_are_what_was_asked_for_and_the_same_for_the_same_seed() -> None:
    def draws(mean_s: float, *, exponential: bool, seed: int = 1) -> list[float]:
        service = Service(b"", mean_s, exponential=exponential, seed=seed)
        return [service.draw() for _ in range(4000)]

    assert set(draws(0.05, exponential=False)) == {0.05}
    assert set(draws(0.0, exponential=True)) == {0.0}
    assert draws(0.05, exponential=True) == draws(0.05, exponential=True) != draws(0.05, exponential=True, seed=2)
    assert sum(draws(0.05, exponential=True)) / 4000 == pytest.approx(0.05, rel=0.1)


async def test_the_process_serves_on_the_sockets_that_it_inherits(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        children = stack.enter_context(Children())
        with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as control:
            service = Running(listening.getsockname(), control.getsockname(), stack)
            inherited = [listening.fileno(), control.fileno()]
            command = [
                sys.executable,
                "-m",
                "loadgen.mesh.user_service",
                "--service-fd",
                str(inherited[0]),
                "--control-fd",
                str(inherited[1]),
            ]
            children.start(
                "the user service", [*command, "--body", "Kevin", "--service-time-s", "0"], tmp_path / "log", inherited=inherited
            )
        line = await service.line()
        line.request("client-1")
        assert await line.read() == (200, b"Kevin")
        assert (await service.count())["requests"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_listens_where_it_is_told_and_a_signal_ends_it_at_once_with_0(number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [each.getsockname()[1] for each in (one, other)]  # free now; who else takes one in the next tenths of a second is unlucky
    options = ["--host", "127.0.0.1", "--port", str(ports[0]), "--control-port", str(ports[1])]
    command = [sys.executable, "-m", "loadgen.mesh.user_service", *options, "--body", "Kevin", "--service-time-s", "0.001", "--exponential"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    async with contextlib.AsyncExitStack() as stack:
        service = Running(("127.0.0.1", ports[0]), ("127.0.0.1", ports[1]), stack)
        with anyio.fail_after(PATIENCE_S):
            while True:
                with contextlib.suppress(ConnectionError):
                    line = await service.line()
                    break
                await asyncio.sleep(0.01)
        line.request("client-1")
        assert await line.read() == (200, b"Kevin")
        assert (await service.count())["requests"] == 1
        process.send_signal(number)
        with anyio.fail_after(PATIENCE_S):
            _, said = await process.communicate()
        assert (process.returncode, said) == (0, b"")


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--port", "7000"],
        ["--port", "7000", "--service-fd", "3", "--control-port", "7001"],
        ["--control-port", "7001"],
    ],
)
async def test_a_process_that_is_not_told_where_to_listen_says_what_is_missing(options: list[str]) -> None:
    command = [sys.executable, "-m", "loadgen.mesh.user_service", *options, "--body", "Kevin", "--service-time-s", "0"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    with anyio.fail_after(PATIENCE_S):
        _, said = await process.communicate()
    assert process.returncode == 2
    assert b"--port and --control-port" in said
