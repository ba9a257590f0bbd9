"""``loadgen up`` and ``loadgen policy``: people try a rule with a client of their own."""

from __future__ import annotations

import http.client
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.story.command import SCENARIOS, Loadgen, finish, interrupt, variant

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.envoy


def test_a_mesh_that_cannot_say_where_it_is_ends(loadgen: Loadgen) -> None:
    full = ("-c", "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); from loadgen.cli import main; main()")
    ended = loadgen.run("up", SCENARIOS / "connection-pool.yaml", "--clients", "1", program=full)
    assert (ended.code, loadgen.run_folders()) == (3, [])
    assert "where the mesh is cannot be printed: No space left on device\n   hint: free some space there\n" in ended.stderr


@pytest.fixture
def slow_service(tmp_path: Path) -> Path:
    """A scenario whose service holds every request long enough for others to meet it."""
    return variant(tmp_path / "slow.yaml", SCENARIOS / "connection-pool.yaml", ("time: exponential 20ms", "time: 300ms"))


class Up:
    """A running ``loadgen up`` and what it printed."""

    def __init__(self, loadgen: Loadgen, scenario: Path) -> None:
        self.loadgen = loadgen
        self.process: subprocess.Popen[str] = loadgen.start("up", scenario, "--clients", "2")
        assert self.process.stdout is not None
        self.printed: list[str] = []
        for line in self.process.stdout:
            self.printed.append(line)
            if "No policy is there" in line:
                break
        self.addresses = {
            match[1]: (match[2], int(match[3]))
            for line in self.printed
            if (match := re.match(r"(client-\d+|user) +http://([\d.]+):(\d+)/", line))
        }

    def get(self, client: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(*self.addresses[client], timeout=10)
        connection.request("GET", "/", headers={"host": "user.base:7000"})
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body

    def get_at_once(self, client: str, count: int) -> list[int]:
        with ThreadPoolExecutor(count) as pool:
            return sorted(status for status, _ in pool.map(self.get, [client] * count))


@pytest.fixture
def up(loadgen: Loadgen, slow_service: Path) -> Iterator[Up]:
    running = Up(loadgen, slow_service)
    yield running
    if running.process.poll() is None:
        interrupt(running.process)
        finish(running.process)


def test_each_client_has_an_address_that_answers_kevin(up: Up) -> None:
    assert set(up.addresses) == {"client-1", "client-2", "user"}
    assert [up.get(name) for name in up.addresses] == [(200, "Kevin")] * 3


def test_a_rule_is_toggled_from_another_terminal_and_each_command_returns_when_it_is_in_force(up: Up) -> None:
    assert up.get_at_once("client-1", 6) == [200] * 6

    applied = up.loadgen.run("policy", "apply", SCENARIOS / "policies" / "user.yaml")
    assert applied.code == 0, applied.stderr
    assert "rule base/user is in force at all 2 sidecars" in applied.stdout
    assert "http2MaxRequests 1" in applied.stdout
    assert up.get_at_once("client-1", 6) == [200] + [503] * 5
    assert up.get("client-2") == (200, "Kevin")

    removed = up.loadgen.run("policy", "remove")
    assert removed.code == 0
    assert "no rule is in force at all 2 sidecars" in removed.stdout
    assert up.get_at_once("client-1", 6) == [200] * 6


def test_a_rule_without_effect_is_said_to_have_none(up: Up) -> None:
    applied = up.loadgen.run("policy", "apply", SCENARIOS / "policies" / "wrong-host.yaml")
    assert applied.code == 0
    assert "none of these rules has an effect" in applied.stdout
    assert "did you mean" in applied.stderr


def test_a_mistake_in_the_rule_changes_nothing(up: Up, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text((SCENARIOS / "policies" / "user.yaml").read_text().replace("http2MaxRequests", "http2MaxRequest"))
    ended = up.loadgen.run("policy", "apply", broken)
    assert ended.code == 2
    assert f"{broken}:12:9: error: unknown key 'http2MaxRequest'" in ended.stderr
    assert "did you mean 'http2MaxRequests'" in ended.stderr
    assert up.get_at_once("client-1", 4) == [200] * 4


def test_a_change_that_not_every_sidecar_confirms_says_so_and_can_be_undone(up: Up) -> None:
    sidecar = up.loadgen.process_of("client-1/bootstrap")
    os.kill(sidecar, signal.SIGSTOP)
    applied = up.loadgen.run("policy", "apply", SCENARIOS / "policies" / "user.yaml")
    os.kill(sidecar, signal.SIGCONT)
    assert applied.code == 5
    assert "may be in force at some of them: client-1's sidecar does not answer" in applied.stderr
    assert "loadgen policy remove" in applied.stderr
    assert up.loadgen.run("policy", "remove").code == 0
    assert up.get_at_once("client-2", 6) == [200] * 6


def test_a_block_that_the_local_mesh_leaves_out_is_named(up: Up, tmp_path: Path) -> None:
    rule = tmp_path / "tls.yaml"
    rule.write_text(
        (SCENARIOS / "policies" / "five-requests.yaml")
        .read_text()
        .replace("    connectionPool:", "    tls: {mode: ISTIO_MUTUAL}\n    connectionPool:")
    )
    applied = up.loadgen.run("policy", "apply", rule)
    assert applied.code == 0
    assert "tls is not part of the local mesh" in applied.stderr


def test_what_up_prints_to_toggle_the_policy_can_be_typed_as_it_stands(loadgen: Loadgen) -> None:
    running = Up(loadgen, SCENARIOS / "connection-pool.yaml")
    try:
        command = next(match[1] for line in running.printed if (match := re.search(r"loadgen (policy apply [^,]+),", line)))
        assert loadgen.run(*command.split()).code == 0
    finally:
        interrupt(running.process)
        finish(running.process)


def test_interrupting_it_ends_the_mesh_with_130_and_leaves_nothing(up: Up) -> None:
    interrupt(up.process)
    assert finish(up.process).code == 130
    assert not up.loadgen.leftovers()
    assert not up.loadgen.run_folders()


def test_toggling_without_a_mesh_says_how_to_start_one(loadgen: Loadgen) -> None:
    ended = loadgen.run("policy", "remove")
    assert ended.code == 3
    assert "loadgen up scenarios/connection-pool.yaml" in ended.stderr


def test_with_two_meshes_one_has_to_be_chosen(loadgen: Loadgen, slow_service: Path) -> None:
    first, second = Up(loadgen, slow_service), Up(loadgen, slow_service)
    try:
        ended = loadgen.run("policy", "remove")
        assert ended.code == 2
        assert f"--pid {first.process.pid}" in ended.stderr
        assert loadgen.run("policy", "remove", "--pid", str(second.process.pid)).code == 0
        assert loadgen.run("policy", "remove", "--pid", "1").code == 2
    finally:
        for each in (first, second):
            interrupt(each.process)
            assert finish(each.process).code == 130
