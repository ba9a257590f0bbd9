"""Runs Locust with its web UI beside a mesh of ``loadgen up``, and asks it as a program would."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from tests.locust.headless import END_S, REPOSITORY, USERS, command, environment, free_port
from tests.story.command import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.locust.headless import Up

USERS_COUNT = 50


@dataclass(frozen=True)
class WebUi:
    """A running web UI, without the slash at its address's end."""

    process: subprocess.Popen[bytes]
    address: str
    wire: httpx.Client
    log: Path

    @property
    def page(self) -> str:
        return f"{self.address}/mesh-policy"

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.wire.get(f"{self.address}{path}", headers=headers)

    def state(self) -> Any:
        return self.get("/mesh-policy/state").json()

    def token(self) -> str:
        found = re.search(r'name="loadgen-token" content="([^"]+)"', self.get("/mesh-policy").text)
        assert found
        return found[1]

    def post(self, what: str, body: object, **headers: str) -> httpx.Response:
        """Ask as the page does, with its token unless another is given."""
        given = {"X-Loadgen-Token": headers.pop("token", None) or self.token()}
        return self.wire.post(f"{self.page}/{what}", json=body, headers={**given, **headers})

    def apply(self, rule: str) -> httpx.Response:
        return self.post("apply", {"rule": rule, "expected": self.state()["turn"]})

    def start_users(self, host: str = "") -> None:
        """Start users as Locust's own page does."""
        form = {"user_count": str(USERS_COUNT), "spawn_rate": str(USERS_COUNT), "host": host}
        assert self.wire.post(f"{self.address}/swarm", data=form).json()["success"]

    def stop_users(self) -> None:
        if self.wire.post(f"{self.address}/stop").status_code == 405:  # Locust 2.44
            self.get("/stop")
        until(lambda: not self.state().get("running"), "the test is over")


@contextlib.contextmanager
def web_ui(
    folder: Path, *options: str, host: str = "127.0.0.1", base: str = "", file: Path = USERS, path: Path | None = None
) -> Iterator[WebUi]:
    """Start Locust with its web UI, and end it; that in ``path``, if not the one that is installed."""
    port, log = free_port(), folder / "locust.log"
    line = command("--web-host", host, "--web-port", str(port), *options, *(("--web-base-path", base) if base else ()), files=(file,))
    with log.open("wb") as written, httpx.Client(timeout=END_S, trust_env=False) as wire:
        process = subprocess.Popen(
            line, cwd=REPOSITORY, env=environment(path), stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT
        )
        try:
            running = WebUi(process, f"http://127.0.0.1:{port}{base}", wire, log)
            until(lambda: _answers(running), lambda: f"Locust answers; it said:\n{log.read_text(encoding='utf-8')}")
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def mesh_of(up: Up) -> tuple[str, ...]:
    """Give Locust's options that have it take a mesh."""
    return "--mesh", "local", *up.options


def _answers(running: WebUi) -> bool:
    assert running.process.poll() is None, running.log.read_text(encoding="utf-8")
    try:
        return running.get("/").status_code < 500
    except httpx.TransportError:
        return False
