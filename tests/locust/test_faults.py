"""Is the rule gone whatever ends, and is it said what was wrong?"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.locust.headless import END_S, REPOSITORY, SCENARIO, USERS, WIRE_USERS, Up, command, environment, headless, up
from tests.story.command import until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy
RULE = {"base/user"}
LONG = ("--headless", "-u", "20", "--only-summary")
HELD = (USERS, Path(__file__).with_name("held.py"))
"""The rule is put in force, and nothing takes it out by itself."""


@pytest.fixture
def mesh() -> Iterator[Up]:
    with up() as running:
        yield running


@contextlib.contextmanager
def running(
    folder: Path, *arguments: str, files: tuple[Path, ...] = (), alone: bool = False
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run Locust in the background, ``alone`` in a process group of its own; its log is in the file."""
    log = folder / "log"
    line = command(*LONG, *arguments, files=files) if files else command(*LONG, *arguments)
    with log.open("wb") as file:
        process = subprocess.Popen(line, stdout=file, stderr=file, cwd=REPOSITORY, env=environment(), start_new_session=alone)
    try:
        yield process, log
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(END_S)


def in_force(mesh: Up, log: Path) -> None:
    """Wait until the phase with the rule counts, and has something to count."""
    until(lambda: "the rule is in force" in log.read_text(), "it is said")
    before = mesh.overflows()
    until(lambda: mesh.overflows() > before, "it has rejected something")


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def desk_of(pid: int) -> int:
    return next(each for each in children(pid) if b"loadgen.desk\0" in Path(f"/proc/{each}/cmdline").read_bytes())


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 0),
        pytest.param(signal.SIGTERM, 0, marks=pytest.mark.thorough),
        pytest.param(signal.SIGHUP, -signal.SIGHUP, marks=pytest.mark.thorough),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
    ids=lambda each: getattr(each, "name", None),
)
def test_the_rule_is_taken_out_however_locust_ends(mesh: Up, tmp_path: Path, number: signal.Signals, code: int) -> None:
    with running(tmp_path, *mesh.options, "--overflow", "no failure", files=HELD) as (process, log):
        in_force(mesh, log)
        process.send_signal(number)
        assert process.wait(END_S) == code, log.read_text()
        until(lambda: mesh.rules() == {None}, "the rule is gone")


def test_a_ctrl_c_at_a_terminal_with_workers_ends_in_order(mesh: Up, tmp_path: Path) -> None:
    """The terminal gives it to all of them at the same time, and the workers may be gone first."""
    with running(tmp_path, *mesh.options, "--overflow", "no failure", "--processes", "2", files=HELD, alone=True) as (process, log):
        in_force(mesh, log)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(END_S) == 0, log.read_text()
    assert mesh.rules() == {None}
    assert "did not answer within" not in log.read_text()


def test_a_desk_that_is_killed_is_replaced_by_one_that_takes_the_rule_out(mesh: Up, tmp_path: Path) -> None:
    with running(tmp_path, *mesh.options, "--overflow", "no failure", files=HELD) as (process, log):
        until(lambda: mesh.rules() == RULE, "the rule is in force")
        os.kill(desk_of(process.pid), signal.SIGKILL)
        until(lambda: mesh.rules() == {None}, "the rule is gone")
        assert process.wait(END_S) == 4
    assert "the desk died in the test; what it had counted is lost" in log.read_text()


def test_a_worker_that_is_killed_ends_the_measurement_and_the_rule(mesh: Up, tmp_path: Path) -> None:
    with running(tmp_path, *mesh.options, "--overflow", "no failure", "--processes", "2", files=HELD) as (process, log):
        until(lambda: mesh.rules() == RULE, "the rule is in force")
        worker = next(each for each in children(process.pid) if b"loadgen.desk" not in Path(f"/proc/{each}/cmdline").read_bytes())
        os.kill(worker, signal.SIGKILL)
        until(lambda: mesh.rules() == {None}, "the rule is gone")
        assert process.wait(END_S) == 4, log.read_text()
        assert "is lost" in log.read_text()


def test_a_mesh_that_ends_in_the_test_ends_the_measurement(tmp_path: Path) -> None:
    with up() as mesh, running(tmp_path, *mesh.options, "--overflow", "no failure", files=HELD) as (process, log):
        until(lambda: mesh.rules() == RULE, "the rule is in force")
        os.kill(mesh.pid, signal.SIGINT)
        assert process.wait(END_S) == 4
    said = log.read_text()
    assert "the measurement ended: the local mesh is gone" in said or "sidecar does not answer" in said


@pytest.mark.parametrize("files", [(USERS,), (WIRE_USERS,)], ids=["SidecarUser", "WireUser"])
def test_a_host_that_is_not_the_service_of_the_mesh_is_refused(mesh: Up, tmp_path: Path, files: tuple[Path, ...]) -> None:
    ended = headless(tmp_path, *mesh.options, "-u", "2", "-t", "5s", "-H", "http://0.0.0.0", files=files)
    assert ended.code == 3
    assert "the host http://0.0.0.0 is not the mesh's service" in ended.log
    assert "Traceback" not in ended.log
    assert "it joined when" not in ended.log
    assert not ended.requests


def test_without_a_mesh_a_host_off_this_machine_is_refused(tmp_path: Path) -> None:
    ended = headless(tmp_path, "-u", "2", "-t", "5s", "-H", "http://0.0.0.0", "--mesh", "off", files=(USERS,))
    assert ended.code == 3
    assert "0.0.0.0 (0.0.0.0) is not this machine, so nothing was sent" in ended.log
    assert "Traceback" not in ended.log
    assert "it joined when" not in ended.log
    assert not ended.requests


def test_a_mesh_that_is_asked_for_and_does_not_run_is_refused(tmp_path: Path) -> None:
    ended = headless(tmp_path, "-u", "2", "-t", "5s", "--mesh", "local", "--mesh-pid", "4194304", files=(USERS,))
    assert ended.code == 3
    assert "no local mesh" in ended.log


def test_a_rule_that_is_in_force_already_is_said_and_stays(mesh: Up, tmp_path: Path) -> None:
    policy = [sys.executable, "-m", "loadgen", "policy", "apply", str(SCENARIO.parent / "policies" / "user.yaml"), "--pid", str(mesh.pid)]
    subprocess.run(policy, check=True, cwd=REPOSITORY, capture_output=True)
    ended = headless(tmp_path, *mesh.options, "-u", "4", "--stage", "1s")
    assert ended.code == 3, ended.log
    assert "a rule is in force already, and a test begins without: base/user; take it out first: loadgen policy remove" in ended.log
    assert mesh.rules() == RULE


def test_a_wrong_stage_is_refused_before_anything_starts(mesh: Up, tmp_path: Path) -> None:
    ended = headless(tmp_path, *mesh.options, "-u", "4", "--stage", "2x")
    assert ended.code == 2
    assert "'2x' is no duration" in ended.log
    assert not ended.requests


@pytest.mark.parametrize(
    ("policy", "expected", "code"), [("user", "enforced", 0), ("wrong-host", "enforced", 99), ("wrong-host", "not_enforced", 0)]
)
def test_a_verdict_that_is_not_the_expected_one_ends_with_99(mesh: Up, tmp_path: Path, policy: str, expected: str, code: int) -> None:
    rule = SCENARIO.parent / "policies" / f"{policy}.yaml"
    options = ("--stage", "1s", "--rule", str(rule), "--overflow", "no failure", "--expect-verdict", expected)
    ended = headless(tmp_path, *mesh.options, "-u", "20", *options)
    assert ended.code == code, ended.log
    assert ("changes nothing at any sidecar" in ended.log) == (policy == "wrong-host")


def test_more_workers_than_clients_are_refused(tmp_path: Path) -> None:
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(SCENARIO.read_text().replace("count: 10", "count: 2").replace("policies/", f"{SCENARIO.parent}/policies/"))
    with up(scenario) as mesh:
        ended = headless(tmp_path, *mesh.options, "-u", "4", "-t", "5s", "--processes", "3", files=(USERS,))
    assert ended.code == 3
    assert "there are 3 workers, but 2 clients" in ended.log


def test_a_mistake_in_the_rule_is_shown_with_its_place(mesh: Up, tmp_path: Path) -> None:
    rule = tmp_path / "rule.yaml"
    rule.write_text((SCENARIO.parent / "policies" / "user.yaml").read_text().replace("http2MaxRequests: 1", "http2MaxRequests: many"))
    ended = headless(tmp_path, *mesh.options, "-u", "4", "--stage", "1s", "--rule", str(rule))
    assert ended.code == 2
    assert "error: " in ended.log
    assert "many" in ended.log
    assert mesh.rules() == {None}


@pytest.mark.thorough
@pytest.mark.timeout(240)
def test_a_sidecar_that_hangs_keeps_nobody_from_ending_and_the_rule_is_taken_out_when_it_goes_on(mesh: Up, tmp_path: Path) -> None:
    with running(tmp_path, *mesh.options, "--overflow", "no failure", files=HELD) as (process, log):
        until(lambda: "the rule is in force" in log.read_text(), "it is said")
        desk, envoy = desk_of(process.pid), sidecar_of(mesh)
        os.kill(envoy, signal.SIGSTOP)
        try:
            process.send_signal(signal.SIGINT)
            assert process.wait(END_S) == 5
            os.kill(desk, 0)
        finally:
            os.kill(envoy, signal.SIGCONT)
        until(lambda: mesh.rules() == {None}, "the rule is gone")
        until(lambda: not Path(f"/proc/{desk}").exists(), "the desk ends")
    assert f"its process {desk} goes on" in log.read_text()
    assert "what the test had left in force is gone" in log.read_text()


def sidecar_of(mesh: Up) -> int:
    """Give the process of one of the mesh's sidecars."""
    return next(each for each in children(mesh.pid) if b"envoy" in Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")[0])
