"""Do users send to where they were sent only, what their classes say, and is all of it counted? Without a mesh, at a service of this machine."""

from __future__ import annotations

import contextlib
import http.server
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.locust.headless import headless
from tests.locust.webui import web_ui
from tests.story.command import until

if TYPE_CHECKING:
    from collections.abc import Iterator

SIDECAR = """
from locust import task

import loadgen.locust.plugin
from loadgen.locust.users import SidecarUser


class Caller(SidecarUser):
    def wait_time(self):
        return 0.05

    @task
    def call(self):
        self.get("/")
"""
WIRE = """
import loadgen.locust.plugin
from loadgen.locust.wire import WireUser


class Wired(WireUser):
    think = "1ms"
"""


DRIP = SIDECAR.replace("class Caller(SidecarUser):", "class Caller(SidecarUser):\n    network_timeout = 0.5\n")
DRIP_S = 0.1
DRIPS = 40


class Service(http.server.ThreadingHTTPServer):
    """Answers after a while, and counts; ``drips``: byte by byte, which takes ``DRIPS`` times ``DRIP_S``."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, answer_s: float, *, drips: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer_s = answer_s
        self.drips = drips
        self.answered = 0
        self.bodies: set[bytes] = set()
        self.headers: dict[str, str] = {}
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_POST(self) -> None:
        self.server.bodies.add(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.headers = {name.lower(): value for name, value in self.headers.items()}
        self.do_GET()

    def do_GET(self) -> None:
        time.sleep(self.server.answer_s)
        with self.server.lock:
            self.server.answered += 1
        self.send_response(200)
        self.send_header("Content-Length", str(DRIPS if self.server.drips else 0))
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(DRIPS if self.server.drips else 0):
                self.wfile.write(b"x")
                time.sleep(DRIP_S)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def service(answer_s: float = 0.0, *, drips: bool = False) -> Iterator[Service]:
    with Service(answer_s, drips=drips) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def locustfile(folder: Path, text: str) -> Path:
    file = folder / "locustfile_of_a_test.py"
    file.write_text(text, encoding="utf-8")
    return file


def test_whoever_sets_a_users_attributes_does_not_send_its_requests_elsewhere(tmp_path: Path) -> None:
    with service() as own, service() as other, web_ui(tmp_path, "--mesh", "off", file=locustfile(tmp_path, SIDECAR)) as ui:
        said = {"user_class_name": "Caller", "proxy_host": "127.0.0.1", "proxy_port": other.server_address[1]}
        assert ui.wire.post(f"{ui.address}/user", json=said).is_success
        ui.start_users(own.url)
        until(lambda: own.answered + other.answered >= 20, "the users send")
        assert not other.answered


def test_a_path_that_would_be_read_as_a_host_is_not_sent(tmp_path: Path) -> None:
    with service() as own, service() as other:
        text = SIDECAR.replace('"/"', repr(f"@{other.url.removeprefix('http://')}/"))
        ended = headless(tmp_path, "-u", "1", "-t", "2s", "--mesh", "off", "-H", own.url, files=(locustfile(tmp_path, text),))
        assert "does not begin with /" in ended.log
        assert not other.answered


@pytest.mark.parametrize("workers", [1, 2])
def test_what_ends_after_the_end_is_in_the_statistics(tmp_path: Path, workers: int) -> None:
    processes = ("--processes", str(workers)) if workers > 1 else ()
    with service(answer_s=0.2) as own:
        options = ("-u", "6", "-r", "6", "-t", "3s", "--mesh", "off", "-H", own.url, *processes)
        ended = headless(tmp_path, *options, files=(locustfile(tmp_path, WIRE),))
        assert ended.requests == {"/": own.answered}, ended.log
        assert own.answered > 6
    assert ended.code == 0


OWN = (
    SIDECAR.replace(
        'self.get("/")',
        'assert self.post("/order", name="order", json={"item": 7}, headers={"x-shop": "here", "Host": "elsewhere"}) == "ok"',
    )
    + """
    @task
    def round_it(self):
        self.client.get("/")
"""
)


def test_users_post_through_the_sidecar_and_cannot_go_round_it(tmp_path: Path) -> None:
    with service() as own:
        ended = headless(tmp_path, "-u", "2", "-t", "2s", "--mesh", "off", "-H", own.url, files=(locustfile(tmp_path, OWN),))
        assert own.bodies == {b'{"item": 7}'}
        assert own.headers["x-shop"] == "here"
        assert own.headers["host"] == own.url.removeprefix("http://")
        assert re.search(rf"POST +order +{own.answered} +0\(", ended.log), ended.log
    assert "self.client.get goes round the sidecar" in ended.log


DOCUMENTED = (
    SIDECAR
    + """
from locust import events


@events.quitting.add_listener
def _code(environment, **_):
    environment.process_exit_code = 1 if environment.stats.total.fail_ratio > 0.01 else 0
"""
)


def test_the_code_that_locusts_documentation_writes_hides_none_of_ours(tmp_path: Path) -> None:
    ended = headless(tmp_path, "-u", "1", "-t", "2s", "--mesh", "off", "-H", "http://0.0.0.0", files=(locustfile(tmp_path, DOCUMENTED),))
    assert ended.code == 3, ended.log


ALONE = SIDECAR.replace("import loadgen.locust.plugin\n", "")


def test_a_locustfile_without_the_plugin_is_told_what_it_lacks(tmp_path: Path) -> None:
    with service() as own:
        ended = headless(tmp_path, "-u", "1", "-t", "2s", "-H", own.url, files=(locustfile(tmp_path, ALONE),))
    assert "there is no mesh for this user" in ended.log


def test_an_answer_that_comes_in_drops_is_too_late_all_the_same(tmp_path: Path) -> None:
    with service(drips=True) as own:
        ended = headless(tmp_path, "-u", "2", "-t", "4s", "--mesh", "off", "-H", own.url, files=(locustfile(tmp_path, DRIP),))
    assert ended.requests["/"] == ended.failures["/"] > 4, ended.log
    assert "GET /: timeout" in ended.log


def test_a_test_with_such_users_is_refused(tmp_path: Path) -> None:
    file = locustfile(tmp_path, WIRE.replace('"1ms"', '"30 ms"'))
    with service() as own:
        ended = headless(tmp_path, "-u", "2", "-t", "5s", "--mesh", "off", "-H", own.url, files=(file,))
        assert ended.code == 2
        assert "think of Wired: '30 ms' is no duration; write 30ms" in ended.log
        assert "Traceback" not in ended.log
        assert not own.answered


@pytest.mark.parametrize("text", [SIDECAR, WIRE], ids=["SidecarUser", "WireUser"])
@pytest.mark.parametrize("workers", [1, 2])
def test_users_of_a_test_that_is_refused_end_quietly(tmp_path: Path, text: str, workers: int) -> None:
    processes = ("--processes", str(workers)) if workers > 1 else ()
    file = locustfile(tmp_path, text)
    ended = headless(tmp_path, "-u", "4", "-r", "4", "-t", "5s", "--mesh", "off", "-H", "http://0.0.0.0", *processes, files=(file,))
    assert ended.code == 3
    assert "is not this machine, so nothing was sent" in ended.log
    assert "Traceback" not in ended.log
    assert workers > 1 or "it joined when" not in ended.log


UNHEARD = (
    SIDECAR
    + """
from pathlib import Path

import gevent
from locust import events
from locust.exception import RPCSendError

TOLD = Path(__file__).with_name("told")


@events.init.add_listener
def _break(environment, **_):
    send, broken = environment.runner.send_message, []

    def break_once(kind, data=None, client_id=None):
        if kind == "loadgen-seen" and not broken:
            broken.append(kind)
            raise RPCSendError("the wire is broken")
        if kind == "loadgen-seen" and not TOLD.exists():
            TOLD.touch()
            gevent.spawn(environment.runner.quit)
        send(kind, data, client_id)

    environment.runner.send_message = break_once
"""
)


def test_a_report_that_cannot_be_sent_is_not_the_last(tmp_path: Path) -> None:
    with service() as own:
        options = ("-u", "1", "-t", "20s", "--mesh", "off", "-H", own.url)
        ended = headless(tmp_path, *options, files=(locustfile(tmp_path, UNHEARD),))
        assert "the master could not be told: the wire is broken" in ended.log
        assert (tmp_path / "told").exists()


MORTAL = (
    WIRE
    + """
import os
import signal
from pathlib import Path

from locust import events

TOLD = Path(__file__).with_name("told")


@events.init.add_listener
def _hear(environment, **_):
    def lost(environment, msg, **_):
        TOLD.write_text(msg.data["why"])

    environment.runner.custom_messages["loadgen-lost"] = lost, False
"""
)


def test_an_engine_that_dies_is_told_and_the_next_test_has_another(tmp_path: Path) -> None:
    with service() as own, web_ui(tmp_path, "--mesh", "off", file=locustfile(tmp_path, MORTAL)) as ui:
        ui.start_users(own.url)
        until(lambda: own.answered >= 20, "the engine sends")
        subprocess.run(["kill", "-KILL", str(engine_of(ui.process.pid))], check=True)
        until((tmp_path / "told").exists, "it is told")
        assert (tmp_path / "told").read_text() == "the engine's process is gone: its users send nothing more"
        ui.stop_users()
        before = own.answered
        ui.start_users(own.url)
        until(lambda: own.answered >= before + 20, "the next engine sends")


def engine_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return next(int(each) for each in children if b"loadgen.desk.wire\0" in Path(f"/proc/{each}/cmdline").read_bytes())
