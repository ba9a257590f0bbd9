"""Does a load on httpx mean the same as one on the wire, whatever the server or the user's own code does?"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import json
import pickle
import random
import re
import shutil
import ssl
import subprocess
import sys
import textwrap
import time
from types import ModuleType
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from loadgen.engine.flow import FAILURE_KINDS, load_flow
from loadgen.engine.http import HttpCarrier, HttpShot
from loadgen.engine.load import ClientLoad, clock
from loadgen.engine.transport import connect_error
from loadgen.errors import UsageError
from loadgen.mesh.boot import envoy_binary
from loadgen.outcome import Answer, Expected, Outcome
from loadgen.pacing import Burst, Closed, Pacing

from .driven_load import OK, Answers, outcomes
from .scripted_server import PATIENCE_S, Gone, Step, close, forever, receive, reset, send, serving, silence
from .test_outcomes import ANSWERS, BREAKS, LATE, OVERFLOW, SERVER_OVERFLOW, mute, refusing, response, table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from .scripted_server import Visit

    Coded = Callable[[httpx.AsyncClient], Awaitable[None]]

pytestmark = pytest.mark.anyio

KEVIN = Expected(200, b"Kevin")
ALWAYS = [forever(receive, send(OK))]
CAP = 4096


class HttpLoad(ClientLoad):
    """A load on httpx that lets a test look at its carrier."""

    def __init__(self, shot: HttpShot, pacing: Pacing, tasks: anyio.abc.TaskGroup) -> None:
        super().__init__("client-1", lambda load: HttpCarrier(load, shot, tasks), pacing, random.Random(7), max_in_flight=1000)

    @property
    def carrier(self) -> HttpCarrier:
        assert isinstance(self._carrier, HttpCarrier)
        return self._carrier


def url_of(address: tuple[str, int], path: str = "/", scheme: str = "http") -> str:
    return f"{scheme}://{address[0]}:{address[1]}{path}"


@contextlib.asynccontextmanager
async def driven(url: str, pacing: Pacing = Closed(1), **shot: Any) -> AsyncIterator[tuple[HttpLoad, Answers]]:  # noqa: B008  # a value
    """Make a load that the test starts. At the end it is aborted, and no task may be left and nothing raised."""
    problems: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: problems.append(context))
    aimed = HttpShot(url, **{"expected": KEVIN, "timeout_s": PATIENCE_S, **shot})
    try:
        with anyio.fail_after(2 * PATIENCE_S):
            async with anyio.create_task_group() as tasks:  # it ends only when all users have ended
                load = HttpLoad(aimed, pacing, tasks)
                try:
                    yield load, Answers(load)
                finally:
                    load.abort()
        load.fold()
        assert load.carrier._users == set()
        assert all(bucket >= 0 for bucket in load.tally.lag.buckets.values())
        assert load.tally.lag.count == load.sent
    finally:
        loop.set_exception_handler(before)
    assert problems == [], problems


@pytest.fixture
def flow_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Make functions a module, and give the name of the flow in it."""

    def make(flow: Coded, **hooks: Coded) -> str:
        module = ModuleType("flow_under_test")
        vars(module).update(flow=flow, **hooks)
        monkeypatch.setitem(sys.modules, "flow_under_test", module)
        return "flow_under_test:flow"

    return make


async def one(url: str, **shot: Any) -> tuple[Answer, HttpLoad]:
    """Send one request, and see what becomes of it."""
    async with driven(url, **shot) as (load, answers):
        answers.stop_after = 1
        load.start()
        (answer,) = await answers.reach(1)
        assert outcomes(load.tally) == {answer.outcome: 1}
    return answer, load


# What becomes of a request.


async def becomes(script: list[Step], wanted: Outcome, **shot: Any) -> None:
    async with serving(script) as server:
        answer, load = await one(url_of(server.address), **shot)
        assert answer.outcome is wanted
        assert load.tally.connect_errors == {}
        await server.until(lambda: server.open == 0)
        assert server.connections == 1


@table(ANSWERS)
async def test_a_complete_answer_becomes_what_it_becomes_on_the_wire(script: list[Step], wanted: Outcome) -> None:
    await becomes(script, wanted)


@table(BREAKS)
async def test_an_answer_that_breaks_off_or_is_no_http_becomes_what_it_becomes_on_the_wire(script: list[Step], wanted: Outcome) -> None:
    await becomes(script, wanted)


@table(LATE)
async def test_an_answer_that_does_not_come_in_time_becomes_a_timeout(script: list[Step], wanted: Outcome) -> None:
    await becomes(script, wanted, timeout_s=0.2)


@pytest.mark.parametrize(
    ("body", "wanted"), [(b"Kevin", Outcome.OK), (b"Kevin" * 1000, Outcome.PROTOCOL)], ids=["within the cap", "a gzip bomb"]
)
async def test_a_compressed_body_is_compared_and_capped_as_it_is_unpacked(body: bytes, wanted: Outcome) -> None:
    await becomes([receive, send(response(b"200 OK", gzip.compress(body), b"content-encoding: gzip"))], wanted, max_bytes=CAP)


async def test_a_body_that_cannot_be_unpacked_becomes_protocol() -> None:
    await becomes([receive, send(response(b"200 OK", b"Kevin", b"content-encoding: gzip"))], Outcome.PROTOCOL)


@pytest.mark.parametrize("http2", [False, True])
async def test_a_refused_connection_becomes_connect_with_the_name_of_the_error(http2: bool) -> None:
    with refusing() as address:
        answer, load = await one(url_of(address), http2=http2)
        assert answer.outcome is Outcome.CONNECT
        assert load.tally.connect_errors == {"ECONNREFUSED": 1}


@pytest.mark.parametrize("http2", [False, True])
async def test_a_connection_that_is_never_made_becomes_a_timeout(http2: bool) -> None:
    with mute() as address:
        answer, load = await one(url_of(address), http2=http2, timeout_s=0.1)
        assert (answer.outcome, load.tally.connect_errors) == (Outcome.TIMEOUT, {})


@pytest.mark.parametrize("http2", [False, True])
async def test_a_name_that_does_not_exist_becomes_connect(http2: bool) -> None:
    answer, load = await one(f"http://{'a' * 63}.invalid./", http2=http2)
    assert answer.outcome is Outcome.CONNECT
    assert sum(load.tally.connect_errors.values()) == 1
    assert load.tally.connect_errors.keys() <= {"EAI_NONAME", "EAI_AGAIN", "EAI_NODATA"}


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (OSError(errno.EMFILE, "too many"), "EMFILE"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 111] Connect call failed"), "ECONNREFUSED"),
        (caused(httpx.ConnectError("All connection attempts failed"), caused(OSError("failed"), OSError(99, "no port"))), "EADDRNOTAVAIL"),
        (ExceptionGroup("", [caused(OSError("failed"), ExceptionGroup("", [OSError(24, "too many")]))]), "EMFILE"),
        (caused(httpx.ConnectError("no"), ssl.SSLCertVerificationError(1, "self-signed")), "CERTIFICATE"),
        (caused(httpx.ConnectError("no"), ssl.SSLError(1, "wrong version number")), "TLS"),
        (httpx.ConnectError("no"), "OTHER"),
    ],
)
def test_the_reason_of_a_refused_connection_is_found_wherever_it_is_buried(error: Exception, wanted: str) -> None:
    assert connect_error(error) == wanted


@pytest.mark.parametrize(("answer", "by_server"), [(OVERFLOW, 0), (SERVER_OVERFLOW, 1)])
async def test_only_an_overflow_without_a_service_time_was_made_by_the_own_sidecar(answer: bytes, by_server: int) -> None:
    async with serving([receive, send(answer)]) as server:
        _, load = await one(url_of(server.address))
        assert (load.tally.server_overflow, load.sidecar_overflow) == (by_server, 1 - by_server)


async def test_users_keep_their_connections_and_a_load_its_place() -> None:
    async with serving(ALWAYS) as server:
        async with driven(url_of(server.address), Closed(5)) as (load, answers):
            load.start()
            await answers.reach(100)
            assert load.in_flight == 5
            assert server.connections == 5
            assert outcomes(load.tally).keys() == {Outcome.OK}
        await server.until(lambda: server.open == 0)


async def test_a_burst_finds_its_connections_open() -> None:
    async with serving(ALWAYS) as server, driven(url_of(server.address), Burst(8, 60.0)) as (load, answers):
        await load.prepare()
        await server.until(lambda: server.connections == 8)
        load.start()
        await answers.reach(8)
        assert server.connections == 8


async def test_the_method_the_headers_and_the_content_are_sent() -> None:
    heads: list[bytes] = []

    async def take(visit: Visit) -> None:
        try:
            heads.append(await visit.reader.readuntil(b"Bob"))
        except asyncio.IncompleteReadError as error:
            raise Gone from error

    async with serving([take, send(OK)]) as server:
        await one(url_of(server.address, "/users?q=1"), method="PUT", headers=(("x-a", "1"), ("x-a", "2")), content=b"Bob")
    assert heads[0].startswith(b"PUT /users?q=1 HTTP/1.1\r\n")
    assert b"\r\nx-a: 1\r\nx-a: 2\r\n" in heads[0]
    assert b"\r\nContent-Length: 3\r\n" in heads[0]


async def test_an_abort_drops_what_is_in_flight_without_a_word() -> None:
    async with serving([receive]) as server:
        async with driven(url_of(server.address), Closed(3)) as (load, answers):
            load.start()
            await server.until(lambda: server.requests == 3)
            moment = clock()
            assert not await load.all_done_since(moment)
        await server.until(lambda: server.open == 0)
        assert answers.seen == []
        assert load.tally.requests == 0


async def test_everything_sent_until_a_moment_is_done_when_it_has_ended_and_not_before() -> None:
    async with serving(ALWAYS) as server, driven(url_of(server.address), Closed(4)) as (load, answers):
        load.start()
        await answers.reach(20)
        moment = clock()
        load.hold()
        with anyio.fail_after(PATIENCE_S):
            while not await load.all_done_since(moment):  # noqa: ASYNC110  # as the runner does it
                await asyncio.sleep(0)
        assert load.in_flight == 0
        assert server.requests == load.tally.requests == load.sent


async def test_a_dead_target_does_not_make_the_hammer_spin() -> None:
    with refusing() as address:
        async with driven(url_of(address)) as (load, answers):
            started = clock()
            load.start()
            await answers.reach(4)
            assert clock() - started >= 3 * 0.05


@pytest.mark.parametrize("seed", range(3))
async def test_among_all_faults_at_once_every_request_ends_exactly_once(seed: int) -> None:
    rng = random.Random(seed)
    scripts = [[receive, send(OK), *rng.choice(ANSWERS + BREAKS + LATE)[1]] for _ in range(60)]
    async with serving(*scripts) as server:
        async with driven(url_of(server.address), Closed(5), timeout_s=0.05) as (load, answers):
            load.start()
            await answers.reach(100)
            assert load.tally.requests + load.in_flight == load.sent
            assert load.in_flight == 5
        await server.until(lambda: server.open == 0)


def test_a_shot_goes_to_another_process_as_it_is() -> None:
    shot = HttpShot("http://user/", headers=(("a", "b"),), expected=KEVIN, http2=True, flow="a:b")
    assert pickle.loads(pickle.dumps(shot)) == shot


@pytest.mark.parametrize("url", ["user", "/path", "ftp://user/", "http://"])
def test_a_shot_needs_an_absolute_url(url: str) -> None:
    with pytest.raises(UsageError, match="no http"):
        HttpShot(url)


# Flows.


async def test_every_request_of_a_flow_counts(flow_of: Callable[..., str]) -> None:
    async def flow(client: httpx.AsyncClient) -> None:
        for path in ("/a", "/b?c=1", "/a"):
            await client.get(path)

    async with serving(ALWAYS) as server, driven(url_of(server.address), flow=flow_of(flow)) as (load, answers):
        load.start()
        await answers.reach(9)
        assert server.connections == 1
        assert load.in_flight == 1
        assert outcomes(load.tally).keys() == {Outcome.OK}
        assert load.tally.flow_failures == {}


async def test_the_first_latency_runs_from_when_the_iteration_was_due_and_the_others_from_when_they_were_sent(
    flow_of: Callable[..., str],
) -> None:
    seconds: list[float] = []

    async def flow(client: httpx.AsyncClient) -> None:
        for _ in range(2):
            began = clock()
            await anyio.sleep(0.01)
            sent = clock()
            await client.get("/")
            seconds.extend((sent - began, clock() - sent))

    async with serving(ALWAYS) as server, driven(url_of(server.address), flow=flow_of(flow)) as (load, answers):
        load.start()
        first, second = (await answers.reach(3))[:2]
        assert first.latency_s > seconds[0]
        assert second.latency_s <= seconds[3]


async def test_an_iteration_is_not_done_before_its_last_request(flow_of: Callable[..., str]) -> None:
    async def flow(client: httpx.AsyncClient) -> None:
        await client.get("/")
        await client.get("/")

    async with serving([receive, send(OK), receive]) as server, driven(url_of(server.address), flow=flow_of(flow)) as (load, answers):
        load.start()
        await answers.reach(1)
        moment = clock()
        await server.until(lambda: server.requests == 2)
        assert not await load.all_done_since(moment)


async def test_a_flow_may_send_at_the_same_time(flow_of: Callable[..., str]) -> None:
    async def flow(client: httpx.AsyncClient) -> None:
        await asyncio.gather(*(client.get("/") for _ in range(3)))

    async with serving(ALWAYS) as server, driven(url_of(server.address), flow=flow_of(flow)) as (load, answers):
        load.start()
        await answers.reach(9)
        assert server.connections == 3


async def test_the_iterations_of_a_user_share_cookies_and_users_do_not(flow_of: Callable[..., str]) -> None:
    sent: set[str] = set()

    async def flow(client: httpx.AsyncClient) -> None:
        got = await client.get("/")
        sent.add(got.request.headers.get("cookie", "none"))

    scripts = [
        [receive, send(OK.replace(b"\r\n", b"\r\nset-cookie: user=%d\r\n" % number, 1)), forever(receive, send(OK))] for number in (1, 2)
    ]
    async with serving(*scripts) as server, driven(url_of(server.address), Closed(2), flow=flow_of(flow)) as (load, answers):
        load.start()
        await answers.reach(20)
        assert sent == {"none", "user=1", "user=2"}


async def test_what_the_user_asks_of_httpx_is_done(flow_of: Callable[..., str]) -> None:
    seen: list[str] = []

    async def on_start(client: httpx.AsyncClient) -> None:
        async def note(got: httpx.Response) -> None:
            seen.append(f"hook {got.status_code}")

        client.event_hooks["response"].append(note)

    async def flow(client: httpx.AsyncClient) -> None:
        got = await client.get("/", auth=("user", "secret"), follow_redirects=True, params={"a": "b"})
        seen.append(f"{got.request.url.raw_path.decode()} {got.request.headers['authorization']} {len(got.history)}")
        client.event_hooks["response"].clear()
        moved = await client.get("/")
        assert moved.next_request is not None
        seen.append(f"{moved.status_code} to {moved.next_request.url.path} after {moved.elapsed.total_seconds() > 0}")
        (await client.get(httpx.URL("/last"))).raise_for_status()

    moved = response(b"302 Found", b"", b"location: /next")
    script = [receive, send(moved), receive, send(OK), receive, send(moved), receive, send(response(b"500 No", b""))]
    made = flow_of(flow, on_start=on_start)
    async with serving(script) as server, driven(url_of(server.address), flow=made, expected=Expected(200)) as (load, answers):
        answers.stop_after = 4
        load.start()
        await answers.reach(4)
        assert outcomes(load.tally) == {Outcome.OK: 1, Outcome.HTTP_ERROR: 3}
        assert load.tally.flow_failures == {}
    assert seen == ["hook 302", "hook 200", "/next Basic dXNlcjpzZWNyZXQ= 1", "302 to /next after True"]


FAULTY: list[tuple[str, list[Step], Outcome]] = [
    ("the body", [receive, send(response(b"200 OK", b"Bob"))], Outcome.WRONG_BODY),
    ("an overflow", [receive, send(OVERFLOW)], Outcome.OVERFLOW),
    ("a reset", [receive, reset], Outcome.RESET),
    ("garbage", [receive, send(b"garbage\r\n\r\n")], Outcome.PROTOCOL),
    ("silence", [receive], Outcome.TIMEOUT),
]


@table(FAULTY)
async def test_what_becomes_of_the_requests_of_a_flow_is_no_failure_of_its_code(
    script: list[Step], wanted: Outcome, flow_of: Callable[..., str]
) -> None:
    async def flow(client: httpx.AsyncClient) -> None:
        await client.get("/")

    timeout_s = 0.1 if wanted is Outcome.TIMEOUT else PATIENCE_S
    async with serving(script) as server, driven(url_of(server.address), flow=flow_of(flow), timeout_s=timeout_s) as (load, answers):
        answers.stop_after = 1
        load.start()
        await answers.reach(1)
        assert outcomes(load.tally) == {wanted: 1}
        assert load.tally.flow_failures == {}


def failures(load: Any) -> dict[str, int]:
    """Give what went wrong in the code of the flow, without the places."""
    return {kind.rpartition(" (")[0]: count for kind, count in load.tally.flow_failures.items()}


async def test_a_flow_that_fails_leaves_its_requests_as_they_ended_and_is_remembered(flow_of: Callable[..., str]) -> None:
    async def flow(client: httpx.AsyncClient) -> None:
        await client.get("/")
        raise AssertionError("not Bob")

    async with serving(ALWAYS) as server, driven(url_of(server.address), flow=flow_of(flow)) as (load, answers):
        load.start()
        await answers.reach(3)
        assert outcomes(load.tally).keys() == {Outcome.OK}
        (kind,) = load.tally.flow_failures
        assert re.fullmatch(r"AssertionError: not Bob \(test_http\.py, line \d+\)", kind)


@pytest.mark.parametrize("fails", [True, False])
async def test_an_iteration_without_a_request_is_unsent_and_does_not_spin(fails: bool, flow_of: Callable[..., str]) -> None:
    async def flow(_client: httpx.AsyncClient) -> None:
        if fails:
            raise KeyError("x")

    with refusing() as address:
        async with driven(url_of(address), flow=flow_of(flow)) as (load, answers):
            started = clock()
            load.start()
            await answers.reach(3)
            assert clock() - started >= 2 * 0.05
            assert outcomes(load.tally).keys() == {Outcome.UNSENT}
            assert [kind.partition(" (")[0] for kind in load.tally.flow_failures] == ["KeyError: 'x'" if fails else "it sent no request"]


async def test_a_flow_that_cancels_itself_costs_no_user(flow_of: Callable[..., str]) -> None:
    async def flow(client: httpx.AsyncClient) -> None:
        await client.get("/")
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task

    async with serving(ALWAYS) as server, driven(url_of(server.address), flow=flow_of(flow)) as (load, answers):
        load.start()
        await answers.reach(3)
        assert failures(load).keys() == {"CancelledError: "}


async def test_failures_that_differ_every_time_are_kept_in_bounded_memory(flow_of: Callable[..., str]) -> None:
    count = 0

    async def flow(client: httpx.AsyncClient) -> None:
        nonlocal count
        await client.get("/")
        count += 1
        raise ValueError(f"{count} " + "x" * 10_000)

    async with serving(ALWAYS) as server, driven(url_of(server.address), flow=flow_of(flow)) as (load, answers):
        load.start()
        await answers.reach(50)
        kinds = load.tally.flow_failures
        assert len(kinds) == FAILURE_KINDS + 1
        assert kinds["others"] == kinds.total() - FAILURE_KINDS
        assert all(len(kind) <= 250 for kind in kinds)


async def test_a_flow_cannot_send_to_a_host_that_nobody_allowed(flow_of: Callable[..., str]) -> None:
    async def flow(client: httpx.AsyncClient) -> None:
        await client.get("/")
        await client.get("http://elsewhere.invalid/")

    async with serving(ALWAYS) as server, driven(url_of(server.address), flow=flow_of(flow)) as (load, answers):
        load.start()
        await answers.reach(3)
        assert outcomes(load.tally).keys() == {Outcome.OK}
        (kind,) = load.tally.flow_failures
        assert "'elsewhere.invalid', which is not the target" in kind


async def test_a_further_host_can_be_allowed(flow_of: Callable[..., str]) -> None:
    async def flow(client: httpx.AsyncClient) -> None:
        await client.get(str(client.base_url).replace("127.0.0.1", "localhost"))

    async with serving(ALWAYS) as server, driven(url_of(server.address), flow=flow_of(flow), hosts=("localhost",)) as (load, answers):
        load.start()
        await answers.reach(3)
        assert outcomes(load.tally).keys() == {Outcome.OK}


async def test_hooks_run_once_for_each_user_around_all_of_its_iterations(flow_of: Callable[..., str]) -> None:
    told: list[tuple[str, int]] = []

    async def on_start(client: httpx.AsyncClient) -> None:
        told.append(("start", id(client)))
        await client.get("/login")

    async def flow(client: httpx.AsyncClient) -> None:
        told.append(("flow", id(client)))
        await client.get("/")

    async def on_stop(client: httpx.AsyncClient) -> None:
        await client.get("/logout")
        told.append(("stop", id(client)))

    async with serving(ALWAYS) as server:
        made = flow_of(flow, on_start=on_start, on_stop=on_stop)
        async with driven(url_of(server.address), Closed(3), flow=made) as (load, answers):
            load.start()
            await answers.reach(30)
        counted = load.tally.requests
        assert server.requests >= counted + 3, "the farewells were sent, and counted nowhere"
        await server.until(lambda: server.open == 0)
    users = {user for _, user in told}
    assert len(users) == 3
    for user in users:
        course = [what for what, who in told if who == user]
        assert course[0] == "start"
        assert course[-1] == "stop"
        assert set(course[1:-1]) <= {"flow"}


async def test_users_are_started_before_a_burst(flow_of: Callable[..., str]) -> None:
    started: list[httpx.AsyncClient] = []

    async def on_start(client: httpx.AsyncClient) -> None:
        started.append(client)

    async def flow(client: httpx.AsyncClient) -> None:
        await client.get("/")

    made = flow_of(flow, on_start=on_start)
    async with serving(ALWAYS) as server, driven(url_of(server.address), Burst(4, 60.0), flow=made) as (load, answers):
        await load.prepare()
        assert len(started) == 4
        load.start()
        await answers.reach(4)
        assert (len(started), server.connections) == (4, 4)


async def test_a_start_that_fails_is_tried_again_and_remembered(flow_of: Callable[..., str]) -> None:
    attempts = 0

    async def on_start(_client: httpx.AsyncClient) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ValueError("not yet")

    async def flow(client: httpx.AsyncClient) -> None:
        await client.get("/")

    async with serving(ALWAYS) as server, driven(url_of(server.address), flow=flow_of(flow, on_start=on_start)) as (load, answers):
        load.start()
        first, second, _ = (await answers.reach(3))[:3]
        assert (first.outcome, second.outcome, attempts) == (Outcome.UNSENT, Outcome.OK, 2)
        assert failures(load) == {"ValueError: not yet": 1}


async def test_a_farewell_that_fails_or_never_ends_keeps_nobody(flow_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.engine.http.STOP_S", 0.05)
    stopped = 0

    async def flow(client: httpx.AsyncClient) -> None:
        await client.get("/")

    async def on_stop(_client: httpx.AsyncClient) -> None:
        nonlocal stopped
        stopped += 1
        if stopped == 1:
            raise ValueError("no farewell")
        await anyio.sleep_forever()

    async with serving(ALWAYS) as server:
        async with driven(url_of(server.address), Closed(2), flow=flow_of(flow, on_stop=on_stop)) as (load, answers):
            load.start()
            await answers.reach(4)
        assert stopped == 2
        assert failures(load) == {"ValueError: no farewell": 1}
        await server.until(lambda: server.open == 0)


# Where a flow is found.

FLOW = """
    import httpx
    number = 7
    def plain(client): ...
    async def flow(client: httpx.AsyncClient) -> None: ...
    async def two(client, other): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a folder of one's own; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "mine.py").write_text(textwrap.dedent(FLOW))
    (tmp_path / "broken.py").write_text("import json\nx = = 1\n")
    (tmp_path / "needy.py").write_text("import no_such_package\n")
    (tmp_path / "failing.py").write_text("x = 1 / 0\n")
    (tmp_path / "hooked.py").write_text("async def flow(client): ...\ndef on_start(client): ...\n")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_a_flow_is_found_in_the_current_directory() -> None:
    flow = load_flow("mine:flow")
    assert (flow.run.__name__, flow.on_start, flow.on_stop) == ("flow", None, None)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("mine", "names no flow", "module:function"),
        ("mine:", "names no flow", "module:function"),
        ("mine.pie:flow", "no module 'mine.pie'", "mine/pie.py"),
        ("./mine:flow", "names no flow", "module:function"),
        ("there:flow", "no module 'there'", "there.py is looked for in"),
        ("there.it:flow", "no module 'there'", "there.py is looked for in"),
        ("mine:flov", "'mine' has no 'flov'", "did you mean mine:flow?"),
        ("mine:number", "mine:number is no coroutine function", "async def number"),
        ("mine:plain", "mine:plain is no coroutine function", "async def plain"),
        ("mine:two", "cannot be called with one client", "async def two"),
        ("broken:flow", "'broken' cannot be imported: SyntaxError", "python -c"),
        ("needy:flow", "'needy' cannot be imported: ModuleNotFoundError: No module named 'no_such_package'", "python -c"),
        ("failing:flow", "ZeroDivisionError: division by zero", "python -c"),
        ("hooked:flow", "hooked:on_start is no coroutine function", "async def on_start"),
    ],
)
def test_a_mistake_in_the_name_of_a_flow_is_told_with_what_to_do(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_flow(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


# TLS and HTTP/2.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a certificate for this machine, signed by itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(made)], check=True, capture_output=True, timeout=PATIENCE_S)
    return made, key


@contextlib.asynccontextmanager
async def tls_server(certificate: tuple[Path, Path], *alpn: str) -> AsyncIterator[tuple[tuple[str, int], list[str | None]]]:
    """Answer Kevin over TLS and HTTP/1.1; give the address, and the protocols that were agreed on."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    context.set_alpn_protocols(list(alpn))
    agreed: list[str | None] = []
    visits: set[asyncio.Task[None]] = set()

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        visits.add(task)
        agreed.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        with contextlib.suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(OK)
        writer.transport.abort()

    server = await asyncio.start_server(visit, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname(), agreed
    finally:
        server.close()
        with anyio.fail_after(PATIENCE_S):
            await asyncio.gather(*visits)
            await asyncio.sleep(0)


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("by_flow", [False, True])
async def test_a_server_with_tls_and_without_http2_is_spoken_to_in_http1(
    http2: bool, by_flow: bool, certificate: tuple[Path, Path], flow_of: Callable[..., str]
) -> None:
    async def flow(client: httpx.AsyncClient) -> None:
        await client.get("/")

    async with tls_server(certificate, "http/1.1") as (address, agreed):
        shot = {"http2": http2, "verify": str(certificate[0]), "flow": flow_of(flow) if by_flow else ""}
        async with driven(url_of(address, scheme="https"), Closed(2), **shot) as (load, answers):
            load.start()
            await answers.reach(20)
            assert outcomes(load.tally).keys() == {Outcome.OK}
    assert agreed == ["http/1.1", "http/1.1"]


@pytest.mark.parametrize("http2", [False, True])
async def test_a_host_that_was_looked_up_before_is_not_looked_up_again_and_tls_still_asks_for_its_name(
    http2: bool, certificate: tuple[Path, Path]
) -> None:
    async with tls_server(certificate) as (address, _):
        verified = {"http2": http2, "verify": str(certificate[0]), "address": address[0]}
        answer, _ = await one(f"https://localhost:{address[1]}/", **verified)
        assert answer.outcome is Outcome.OK
        answer, load = await one(f"https://user.invalid:{address[1]}/", **verified)
        assert load.tally.connect_errors == {"CERTIFICATE": 1}, "the server was found, but it is not user.invalid"
        answer, _ = await one(f"https://user.invalid:{address[1]}/", **{**verified, "verify": False})
        assert answer.outcome is Outcome.OK


@pytest.mark.parametrize("http2", [False, True])
async def test_a_certificate_that_nobody_vouches_for_becomes_connect(http2: bool, certificate: tuple[Path, Path]) -> None:
    async with tls_server(certificate) as (address, _):
        answer, load = await one(url_of(address, scheme="https"), http2=http2)
        assert answer.outcome is Outcome.CONNECT
        assert load.tally.connect_errors == {"CERTIFICATE": 1}


@pytest.mark.parametrize("http2", [False, True])
async def test_a_certificate_need_not_be_checked(http2: bool, certificate: tuple[Path, Path]) -> None:
    async with tls_server(certificate) as (address, _):
        answer, _ = await one(url_of(address, scheme="https"), http2=http2, verify=False)
        assert answer.outcome is Outcome.OK


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize(
    ("script", "reason"), [([send(b"SSH-2.0-OpenSSH_9.6\r\n")], "TLS"), ([close], None), ([reset], None)], ids=["no TLS", "closed", "reset"]
)
async def test_a_handshake_that_fails_becomes_connect(script: list[Step], reason: str | None, http2: bool) -> None:
    async with serving(script) as server:
        answer, load = await one(url_of(server.address, scheme="https"), http2=http2, verify=False)
        assert answer.outcome is Outcome.CONNECT
        assert sum(load.tally.connect_errors.values()) == 1
        assert reason is None or load.tally.connect_errors == {reason: 1}
        await server.until(lambda: server.open == 0)


@pytest.mark.parametrize("http2", [False, True])
async def test_a_handshake_that_never_ends_becomes_a_timeout(http2: bool) -> None:
    async with serving([silence]) as server:
        answer, _ = await one(url_of(server.address, scheme="https"), http2=http2, verify=False, timeout_s=0.1)
        assert answer.outcome is Outcome.TIMEOUT
        await server.until(lambda: server.open == 0)


def test_authorities_that_cannot_be_read_are_a_mistake_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "not.pem").write_text("Kevin")
    for name in ("not.pem", "none.pem"):
        with pytest.raises(UsageError, match="cannot be used"):
            HttpShot("https://user/", verify=str(tmp_path / name)).tls()


# A real Envoy, as targets are.

_TYPE = "type.googleapis.com/envoy.extensions"


def _listener(name: str, tls: dict[str, Any] | None) -> dict[str, Any]:
    bodies = {
        "/overflow": (503, "upstream connect error or disconnect/reset before headers. reset reason: overflow"),
        "/large": (200, "a" * (CAP + 1)),
        "/bob": (200, "Bob"),
        "/": (200, "Kevin"),
    }
    routes = [
        {"match": {"prefix": path}, "direct_response": {"status": status, "body": {"inline_string": body}}}
        for path, (status, body) in bodies.items()
    ]
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"}}
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {
            "max_direct_response_body_size_bytes": 2 * CAP,
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
        },
        "http_filters": [router],
    }
    chain: dict[str, Any] = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if tls is not None:
        chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    return {"name": name, "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}, "filter_chains": [chain]}


class Target:
    """A real Envoy with two listeners, ``plain`` and ``tls``, that answer by themselves."""

    def __init__(self, admin: str) -> None:
        self._admin = httpx.Client(base_url=admin, trust_env=False, timeout=PATIENCE_S)
        statuses = self._admin.get("/listeners?format=json").json()["listener_statuses"]
        addresses = {status["name"]: status["local_address"]["socket_address"] for status in statuses}
        self.urls = {
            name: url_of((address["address"], address["port_value"]), scheme="https" if name == "tls" else "http")
            for name, address in addresses.items()
        }

    def counter(self, name: str) -> int:
        stats = self._admin.get("/stats", params={"filter": f"^{name}$", "format": "json"}).json()["stats"]
        return sum(each["value"] for each in stats if each.get("name") == name)

    def close(self) -> None:
        self._admin.close()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("envoy")
    own, key = ({"filename": str(path)} for path in certificate)
    tls = {
        "@type": f"{_TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [{"certificate_chain": own, "private_key": key}]},
    }
    config, admin = folder / "envoy.json", folder / "admin"
    listeners = [_listener("plain", None), _listener("tls", tls)]
    config.write_text(
        json.dumps(
            {
                "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
                "static_resources": {"listeners": listeners},
            }
        )
    )
    command = [str(envoy_binary()), "-c", str(config), "--admin-address-path", str(admin), "--concurrency", "1", "--disable-hot-restart"]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not (admin.exists() and admin.read_text()) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            assert admin.exists(), (folder / "log").read_text()[-2000:]
            made = Target(f"http://{admin.read_text()}")
            yield made
            made.close()
        finally:
            process.kill()


@pytest.mark.envoy
@pytest.mark.parametrize("listener", ["plain", "tls"])
@pytest.mark.parametrize("http2", [False, True])
async def test_http2_is_really_spoken_where_it_is_wanted_and_only_there(
    listener: str, http2: bool, target: Target, certificate: tuple[Path, Path], flow_of: Callable[..., str]
) -> None:
    versions: set[str] = set()

    async def flow(client: httpx.AsyncClient) -> None:
        versions.add((await client.get("/")).http_version)

    before = {version: target.counter(f"http.{listener}.downstream_rq_{version}_total") for version in ("http1", "http2")}
    async with driven(target.urls[listener], Closed(3), http2=http2, verify=str(certificate[0]), flow=flow_of(flow)) as (load, answers):
        load.start()
        await answers.reach(30)
        assert outcomes(load.tally).keys() == {Outcome.OK}
    assert versions == {"HTTP/2" if http2 else "HTTP/1.1"}
    more = {version: target.counter(f"http.{listener}.downstream_rq_{version}_total") - before[version] for version in before}
    assert more["http2" if http2 else "http1"] >= load.tally.requests
    assert more["http1" if http2 else "http2"] == 0


@pytest.mark.envoy
@pytest.mark.parametrize("listener", ["plain", "tls"])
@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize(
    ("path", "wanted"),
    [("", Outcome.OK), ("bob", Outcome.WRONG_BODY), ("overflow", Outcome.OVERFLOW), ("large", Outcome.PROTOCOL)],
)
async def test_outcomes_are_the_same_over_tls_and_http2(
    path: str, wanted: Outcome, listener: str, http2: bool, target: Target, certificate: tuple[Path, Path]
) -> None:
    answer, load = await one(target.urls[listener] + path, http2=http2, verify=str(certificate[0]), max_bytes=CAP)
    assert answer.outcome is wanted
    assert load.sidecar_overflow == (wanted is Outcome.OVERFLOW)


@pytest.mark.envoy
@pytest.mark.parametrize("listener", ["plain", "tls"])
@pytest.mark.parametrize("http2", [False, True])
async def test_connections_are_kept_and_none_is_left(listener: str, http2: bool, target: Target, certificate: tuple[Path, Path]) -> None:
    before = target.counter(f"http.{listener}.downstream_cx_total")
    async with driven(target.urls[listener], Closed(4), http2=http2, verify=str(certificate[0])) as (load, answers):
        load.start()
        await answers.reach(40)
    assert target.counter(f"http.{listener}.downstream_cx_total") - before == 4
    with anyio.fail_after(PATIENCE_S):
        while target.counter(f"http.{listener}.downstream_cx_active"):  # noqa: ASYNC110  # Envoy tells nobody
            await asyncio.sleep(0)
