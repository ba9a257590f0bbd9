"""Does the tutorial's story pass in a cluster, with the image that is shipped, sidecars that istiod configures, and the rights that the manifests give?"""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.controlplane.api import path_of
from tests.cluster.tutorial import CLIENTS, PULL_SECRET, Tutorial, make_tutorial, rule_as_written
from tests.metrics.prometheus import read
from tests.story.command import AGAIN_IF_STARVED, Loadgen, finish, interrupt, until, wait_for_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.cluster.controlplane.cluster import Cluster
    from tests.cluster.controlplane.container import Program
    from tests.story.command import Ended

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(300)]
SHORT = (("duration: 8s", "duration: 2s"), ("duration: 10s", "duration: 7s"))
"""The phase with the rule is longer than an API server needs to come back."""
ROUNDS = int(os.environ.get("LOADGEN_ROUNDS", "2"))
"""How often two runners are started at once; 20 take some minutes."""
OWNERS_SPEC = {"host": "user.base.svc.cluster.local", "trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 77}}}}


@pytest.fixture(scope="module")
def tutorial(start_cluster: Callable[[Mapping[str, Program]], Cluster]) -> Tutorial:
    return make_tutorial(start_cluster)


@pytest.fixture
def command(tutorial: Tutorial, tmp_path: Path) -> Iterator[Loadgen]:
    """Give the command; whatever it did, nothing of it may be left."""
    yield tutorial.command(tmp_path)
    assert tutorial.left_overs() == []
    assert tutorial.rules("base") == []


def command_line(pid: int) -> bytes:
    """Give the program of a process with its arguments; nothing of one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def run(tutorial: Tutorial, command: Loadgen, *options: str, duration: str = "3s") -> Ended:
    scenario = tutorial.scenario(command.folder)
    return command.run_scenario(scenario, "--mesh", "cluster", "--duration", duration, *options)


@AGAIN_IF_STARVED
def test_the_tutorial_ends_enforced_and_valid_with_a_ledger_of_0_and_the_rule_gone(tutorial: Tutorial, command: Loadgen) -> None:
    ended = run(tutorial, command)
    assert ended.code == 0, ended.stdout + ended.stderr
    report = command.report()
    assert report["mesh"] == "cluster"
    assert report["validity"] == {"state": "VALID", "reasons": []}
    assert report["verdict"]["state"] == "enforced"
    assert report["restore"]["state"] == "verified"
    assert [phase["ledger"]["difference"] for phase in report["phases"]] == [0, 0, 0]
    baseline, limited, recovered = report["phases"]
    assert limited["outcomes"]["overflow"] > 0
    assert baseline["outcomes"]["overflow"] == recovered["outcomes"]["overflow"] == 0
    assert {client["name"] for client in limited["clients"]} == {pod.name for pod in tutorial.clients()}
    for client in limited["clients"]:
        assert client["effective"]["max_requests"] == 1
        assert client["service"]["peak_in_flight"] == 1
        assert 0 < client["convergence_s"] < 10
        assert client["connections"] is not None, "the manifests have the sidecars keep the gauge"
    assert limited["pool"] == "cold"
    foreseen = limited["prediction"]
    assert baseline["prediction"] is recovered["prediction"] is None
    assert (foreseen["law"], foreseen["admitted"]["high"], foreseen["admitted"]["measured"]) == ("engset", 1, 1)
    assert foreseen["service_time_from"].startswith("measured"), "the real service decides how long it takes"
    low, high, measured = (foreseen["loss"][figure] for figure in ("low", "high", "measured"))
    assert 0 < low < high <= 1
    assert abs(measured - (low + high) / 2) < high - low, "twice as far as 99 of 100 go"
    assert foreseen["parts"] is not (low <= measured <= high), "it is compared"


def test_the_metrics_of_a_run_are_the_report_s_counts_in_a_cluster_too(tutorial: Tutorial, command: Loadgen) -> None:
    scenario = tutorial.scenario(command.folder)
    process = command.start_scenario(scenario, "--mesh", "cluster", "--duration", "3s", "--metrics-port", "0", "--metrics-linger", "50s")
    url = wait_for_line(process, "metrics: ").split()[-1]
    wait_for_line(process, "--- limited")
    during = read(url).splitlines()
    assert 'loadgen_phase_info{phase="limited"} 1.0' in during
    assert "loadgen_policy_applied 1.0" in during
    assert f'loadgen_limit{{limit="http2MaxRequests"}} {float(CLIENTS)}' in during, "each pod's sidecar has its own"
    wait_for_line(process, "the metrics stay until they are scraped once more")
    page, report = read(url).splitlines(), command.report()
    for phase in report["phases"]:
        for outcome, count in phase["outcomes"].items():
            assert f'loadgen_requests_total{{outcome="{outcome}",phase="{phase["name"]}"}} {float(count)}' in page
        for client in phase["clients"]:
            labels = f'client="{client["name"]}",outcome="overflow",phase="{phase["name"]}"'
            assert f"loadgen_client_requests_total{{{labels}}} {float(client['outcomes']['overflow'])}" in page
        assert f'loadgen_ledger_difference{{phase="{phase["name"]}"}} {float(abs(phase["ledger"]["difference"]))}' in page
    ended = finish(process)
    assert ended.code in {0, 4}, ended.stdout + ended.stderr


def test_a_plan_shows_the_change_as_a_diff_and_changes_nothing(tutorial: Tutorial, command: Loadgen) -> None:
    ended = command.run("plan", tutorial.scenario(command.folder), "--mesh", "cluster")
    assert ended.code == 0, ended.stdout + ended.stderr
    assert f"{CLIENTS} clients in namespace test" in ended.stdout
    assert "How: own. No rule for user.base.svc.cluster.local is in force" in ended.stdout
    assert "+        http2MaxRequests: 1" in ended.stdout


def test_a_plan_says_which_rules_of_the_cluster_lose_and_to_which(tutorial: Tutorial, command: Loadgen) -> None:
    theirs = tutorial.add_rule(OWNERS_SPEC)
    key = f"base/{theirs['metadata']['name']}"
    try:
        ended = command.run("plan", tutorial.scenario(command.folder), "--mesh", "cluster", "--toggle", "overlay", "--json")
        plan = json.loads(ended.stdout)
    finally:
        tutorial.remove(theirs)
    fates = {each["rule"]: (each["counts"], each["limits"], each["code"]) for each in plan["rules"]}
    winner = plan["clients"][0]["rule"]
    assert fates[winner] == (True, True, None)
    assert fates[key] == (False, False, "nearer-namespace")
    assert plan["service"]["own_sidecars"]["rule"] == key
    assert plan["service"]["workers"] >= 1


@AGAIN_IF_STARVED
@pytest.mark.parametrize("mode", ["overlay", "patch"])
def test_over_a_rule_of_somebody_else_s_it_ends_the_same_and_that_rule_is_as_it_was(
    tutorial: Tutorial, command: Loadgen, mode: str
) -> None:
    theirs = tutorial.add_rule(OWNERS_SPEC, labels={"team": "shop"}, annotations={"note": "ours, hands off"})
    try:
        ended = run(tutorial, command, "--toggle", mode)
        assert ended.code == 0, ended.stdout + ended.stderr
        assert [rule_as_written(rule) for rule in tutorial.rules("base")] == [rule_as_written(theirs)]
        report = command.report()
        assert report["phases"][0]["clients"][0]["effective"]["max_requests"] == 77
        assert report["phases"][1]["clients"][0]["effective"]["max_requests"] == 1
        assert report["phases"][2]["clients"][0]["effective"]["max_requests"] == 77
    finally:
        tutorial.remove(theirs)


def test_interrupted_it_puts_the_rule_back_and_says_so(tutorial: Tutorial, command: Loadgen) -> None:
    process = command.start_scenario(tutorial.scenario(command.folder, *SHORT), "--mesh", "cluster")
    wait_for_line(process, "--- limited")
    interrupt(process)
    ended = finish(process)
    assert ended.code == 130, ended.stdout + ended.stderr
    assert command.report()["restore"]["state"] == "verified"
    reasons = command.report()["validity"]["reasons"]
    assert reasons[0] == "interrupted by SIGINT"
    assert "cut short" not in "".join(reasons)


@AGAIN_IF_STARVED
def test_an_api_server_that_is_restarted_meanwhile_spoils_nothing(tutorial: Tutorial, command: Loadgen) -> None:
    process = command.start_scenario(tutorial.scenario(command.folder, *SHORT), "--mesh", "cluster")
    wait_for_line(process, "--- limited")
    tutorial.cluster.plane.restart_apiserver()
    ended = finish(process)
    assert ended.code == 0, ended.stdout + ended.stderr
    assert [phase["ledger"]["difference"] for phase in command.report()["phases"]] == [0, 0, 0]


def test_a_rule_that_somebody_edits_meanwhile_is_left_alone_and_the_run_is_invalid(tutorial: Tutorial, command: Loadgen) -> None:
    theirs = tutorial.add_rule(OWNERS_SPEC)
    try:
        process = command.start_scenario(tutorial.scenario(command.folder, *SHORT), "--mesh", "cluster", "--toggle", "patch")
        wait_for_line(process, "--- limited")
        pool = {"spec": {"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 55}}}}}
        tutorial.cluster.plane.api.patch("/apis/networking.istio.io/v1/namespaces/base/destinationrules/theirs", pool)
        ended = finish(process)
        assert ended.code == 4, ended.stdout + ended.stderr
        assert command.report()["verdict"]["state"] == "inconclusive"
        assert "changed the rule base/theirs: spec.trafficPolicy.connectionPool.http.http2MaxRequests from 1 to 55" in ended.stdout
        [rule] = tutorial.rules("base")
        assert rule["spec"]["trafficPolicy"]["connectionPool"]["http"]["http2MaxRequests"] == 55
    finally:
        tutorial.remove(theirs)


def test_a_pod_that_is_restarted_makes_the_run_invalid_and_is_named(tutorial: Tutorial, command: Loadgen) -> None:
    process = command.start_scenario(tutorial.scenario(command.folder, *SHORT), "--mesh", "cluster")
    wait_for_line(process, "--- limited")
    victim = tutorial.clients()[1].name
    tutorial.cluster.plane.api.delete(f"/api/v1/namespaces/test/pods/{victim}", gracePeriodSeconds=0)
    ended = finish(process)
    assert ended.code == 4, ended.stdout + ended.stderr
    assert command.report()["validity"]["reasons"][0] == f"pod {victim} is gone: it was deleted or evicted"
    assert command.report()["restore"]["state"] == "verified"
    assert f"{victim} died and took it along" in command.report()["restore"]["detail"]
    tutorial.clients()


def test_a_sidecar_that_is_restarted_makes_the_run_invalid_and_is_named(tutorial: Tutorial, command: Loadgen) -> None:
    process = command.start_scenario(tutorial.scenario(command.folder, *SHORT), "--mesh", "cluster")
    wait_for_line(process, "--- limited")
    victim = tutorial.clients()[1]
    until(lambda: re.search(r"_overflow: [1-9]", victim.admin("/stats?filter=outbound.*_overflow")), "it has rejected something")
    [envoy] = [int(pid) for pid in victim.run("ip", "netns", "pids", victim.netns).split() if b"envoy" in command_line(int(pid))]
    os.kill(envoy, signal.SIGKILL)
    ended = finish(process)
    report = command.report()
    assert ended.code == 4, ended.stdout + ended.stderr
    restarted = f"the sidecar of {victim.name} was restarted"
    assert any(restarted in reason for reason in report["validity"]["reasons"]), report["validity"]["reasons"]
    assert report["verdict"]["sentence"].startswith(f"Inconclusive: {restarted} while the policy was applied")
    tutorial.clients()


@AGAIN_IF_STARVED
def test_what_the_service_s_own_sidecar_rejects_is_told_from_what_the_clients_sidecars_do(tutorial: Tutorial, command: Loadgen) -> None:
    try:
        tutorial.give_service_a_sidecar(wanted=True)
        ended = run(tutorial, command)
    finally:
        tutorial.give_service_a_sidecar(wanted=False)
    report = command.report()
    limited = report["phases"][1]
    server_side = limited["ledger"]["server_side"]
    assert ended.code == 0, ended.stdout + ended.stderr
    assert server_side > 0, "three clients let one request each through, and the service's sidecar admits one of them"
    assert limited["ledger"]["difference"] == 0
    assert limited["service"]["peak_in_flight"] in {1, 2}, "the service's sidecar has two workers, which race"
    assert f"; {server_side:,} were rejected on the server's side; " in limited["because"]
    assert report["verdict"]["state"] == "enforced"
    assert f"({server_side:,} requests were rejected on the server's side)" in report["verdict"]["sentence"]
    assert limited["prediction"]["sentence"].startswith(f"Not compared: {server_side:,} requests were rejected at the server's side")
    assert " NO\n" not in ended.stdout, "nothing is held against what is not compared"


@AGAIN_IF_STARVED
def test_a_service_of_two_pods_of_which_one_goes_is_judged_by_the_other_two_witnesses(tutorial: Tutorial, command: Loadgen) -> None:
    try:
        before = {pod.name for pod in tutorial.scale_service(2)}
        process = command.start_scenario(tutorial.scenario(command.folder, *SHORT), "--mesh", "cluster")
        wait_for_line(process, "--- limited")
        [left] = tutorial.scale_service(1)
        ended = finish(process)
    finally:
        tutorial.scale_service(1)
    report = command.report()
    assert report["validity"] == {"state": "VALID", "reasons": []}, ended.stdout + ended.stderr
    assert report["verdict"]["state"] == "enforced"
    [gone] = before - {left.name}
    changed = f"the service's pods changed during the phase ({gone} went)"
    assert f"but {changed}, so nothing shows how many were admitted at a time" in report["verdict"]["sentence"]
    assert report["findings"][-2:] == [
        "the service's peak in phase baseline is not known: this service has 2 pods, and each knows its own peak only",
        f"the service's peak in phase limited is not known: {changed}",
    ]
    assert [phase["service"]["peak_in_flight"] is None for phase in report["phases"]] == [True, True, False]


def test_fewer_pods_than_asked_for_are_refused_before_anything_is_touched(tutorial: Tutorial, command: Loadgen) -> None:
    ended = run(tutorial, command, "--clients", str(CLIENTS + 1))
    assert ended.code == 3, ended.stdout + ended.stderr
    assert f"{CLIENTS} load pods are usable in test, the scenario wants {CLIENTS + 1}" in ended.stderr


def test_an_administrator_who_gave_the_guard_no_right_to_undo_the_change_is_told_and_nothing_is_changed(
    tutorial: Tutorial, tmp_path: Path
) -> None:
    api = tutorial.cluster.plane.api
    binding = api.get("/apis/rbac.authorization.k8s.io/v1/namespaces/base/rolebindings/loadgen-guard-toggle")
    api.delete(path_of(binding))
    command = Loadgen(tmp_path, {"KUBECONFIG": str(tutorial.cluster.plane.kubeconfig("admin")), "XDG_STATE_HOME": str(tmp_path / "state")})
    try:
        ended = run(tutorial, command)
    finally:
        api.create({**binding, "metadata": {key: binding["metadata"][key] for key in ("name", "namespace", "labels")}})
    assert ended.code == 3, ended.stdout + ended.stderr
    rights = ", ".join(f"{verb} destinationrules.networking.istio.io user in base" for verb in ("patch", "delete"))
    assert f"the guard in the cluster does not start: the guard's account test/loadgen-guard may not {rights}" in ended.stderr
    assert "loadgen manifests with --toggle-in-base --rule user has the Roles for base/user" in ended.stderr
    assert (tutorial.rules("base"), tutorial.left_overs()) == ([], [])


def test_of_two_runners_that_start_at_once_one_runs_and_the_other_is_told_who_it_is(tutorial: Tutorial, tmp_path: Path) -> None:
    for number in range(ROUNDS):
        folders = [tmp_path / f"{number}-{each}" for each in "ab"]
        for folder in folders:
            folder.mkdir()
        commands = [tutorial.command(folder) for folder in folders]
        both = [each.start_scenario(tutorial.scenario(each.folder), "--mesh", "cluster") for each in commands]
        until(lambda: any(each.poll() is not None for each in both), "one of the two has ended")  # noqa: B023  # used at once
        [loser], [winner] = ([each for each in both if (each.poll() is not None) is over] for over in (True, False))
        refused = finish(loser)
        run_id = wait_for_line(winner, "load pods in test are ready, run ").partition(" run ")[2].partition(";")[0]
        interrupt(winner)
        ended = finish(winner)
        assert (refused.code, ended.code) == (3, 130), refused.stdout + refused.stderr + ended.stdout + ended.stderr
        assert run_id in refused.stderr, refused.stderr
        assert "has the lease since" in refused.stderr
    assert tutorial.rules("base") == []


# Last, for the pods wait a while for a run that was killed.


def test_a_runner_that_is_killed_leaves_the_guard_which_puts_the_rule_back(tutorial: Tutorial, command: Loadgen) -> None:
    process = command.start_scenario(tutorial.scenario(command.folder, *SHORT), "--mesh", "cluster")
    try:
        wait_for_line(process, "--- limited")
        assert tutorial.rules("base")
        [guard] = tutorial.cluster.plane.api.list("/apis/batch/v1/namespaces/test/jobs")
        assert guard["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": PULL_SECRET}]
    finally:
        process.kill()
        process.communicate()
    until(lambda: not tutorial.rules("base"), "the guard has put the rule back")
    until(lambda: not tutorial.left_overs(), "nothing is left")


def test_what_a_killed_runner_left_is_shown_and_put_back_at_once_by_restore(tutorial: Tutorial, command: Loadgen) -> None:
    process = command.start_scenario(tutorial.scenario(command.folder, *SHORT), "--mesh", "cluster")
    try:
        wait_for_line(process, "--- limited")
    finally:
        process.kill()
        process.communicate()
    shown = command.run("restore", "--dry-run")
    assert shown.code == 0, shown.stdout + shown.stderr
    assert "lease test/loadgen-" in shown.stdout
    [run_id] = {lease["metadata"]["labels"]["loadgen.dev/run"] for lease in tutorial.leases()}
    restored = command.run("restore", "--run-id", run_id)
    assert restored.code == 0, restored.stdout + restored.stderr
    assert "verified: " in restored.stdout
    assert tutorial.rules("base") == []
    until(lambda: not tutorial.left_overs(), "the guard is gone, too")
    assert "nothing was left" in command.run("restore").stdout
