"""Does Locust's story pass in a cluster, with workers behind sidecars that istiod configures, and does everything come back however it ends?"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.browser.hand import click, fill, waits
from tests.cluster.controlplane.forward import port_forward
from tests.cluster.controlplane.network import run
from tests.cluster.locusts import END_S, STORY, WORKERS, Locusts, Master, make_locusts, overflows
from tests.cluster.tutorial import HOST, rule_as_written
from tests.story.command import AGAIN_IF_STARVED, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.browser.chromium import Browser
    from tests.cluster.controlplane.cluster import Cluster
    from tests.cluster.controlplane.container import Program

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(300)]
PAGE_PORT = 8089
POOL = {"connectionPool": {"http": {"http2MaxRequests": 77}}}


@pytest.fixture(scope="module")
def locusts(start_cluster: Callable[[Mapping[str, Program]], Cluster]) -> Locusts:
    return make_locusts(start_cluster)


@pytest.fixture
def start(locusts: Locusts, request: pytest.FixtureRequest) -> Iterator[Callable[..., Master]]:
    """Start masters; whatever they did, nothing of it may be left."""
    started: list[Master] = []

    def begin(*arguments: str, **options: Any) -> Master:
        started.append(locusts.start(f"master-{len(started)}", *arguments, **options))
        return started[-1]

    yield begin
    for master in started:
        print(master.log())
        master.delete()
    assert locusts.left_overs() == []
    assert locusts.rules("base") == []


@AGAIN_IF_STARVED
def test_the_story_ends_enforced_and_valid_and_the_rule_is_gone(locusts: Locusts, start: Callable[..., Master]) -> None:
    before = locusts.overflows()
    master = start(*STORY)
    code, log = master.code(), master.log()
    assert code == 0, log
    assert "the rule is in force at every sidecar" in log
    assert "Enforced: http2MaxRequests 1 and http1MaxPendingRequests 1 of rule base/user" in log
    assert re.search(r"loadgen: VALID$", log, re.MULTILINE), log
    counted = locusts.overflows() - before
    print(f"Locust {overflows(log)}, Envoy {counted}")
    assert overflows(log) == counted > 0


def desk_of(master: Master) -> int:
    """Give the process id, on this machine, of the master's desk."""
    pod = master.view()
    pids = [int(pid) for pid in run(f"ip netns pids {pod.netns}").split()]
    return next(pid for pid in pids if b"loadgen.desk\0" in Path(f"/proc/{pid}/cmdline").read_bytes())


def locust_of(desk: int) -> int:
    """Give the process that a desk belongs to."""
    return int(Path(f"/proc/{desk}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])


@pytest.mark.thorough
def test_a_master_that_is_killed_with_its_desk_leaves_the_guard_which_puts_the_rule_back(
    locusts: Locusts, start: Callable[..., Master]
) -> None:
    master = start("-u", "9", "--stage", "8s")
    master.says("the rule is in force at every sidecar")
    assert [each["metadata"]["name"] for each in locusts.rules("base")] == ["user"]
    os.kill(locust_of(desk_of(master)), signal.SIGKILL)  # the container's first process: no other outlives it
    until(lambda: not locusts.rules("base"), "the guard has put the rule back")
    until(lambda: not locusts.left_overs(), "nothing is left")


@pytest.mark.thorough
def test_a_master_that_is_asked_to_end_takes_the_rule_out_before(locusts: Locusts, start: Callable[..., Master]) -> None:
    master = start("-u", "9", "--stage", "8s")
    master.says("the rule is in force at every sidecar")
    os.kill(locust_of(desk_of(master)), signal.SIGTERM)
    log = master.log() if master.code() else ""
    assert (locusts.rules("base"), locusts.left_overs()) == ([], []), log


@pytest.mark.thorough
def test_a_desk_that_is_killed_is_replaced_by_one_that_takes_the_rule_out_at_once(locusts: Locusts, start: Callable[..., Master]) -> None:
    master = start("-u", "9", "--stage", "8s")
    master.says("the rule is in force at every sidecar")
    os.kill(desk_of(master), signal.SIGKILL)
    code, log = master.code(), master.log()
    assert code == 4, log
    assert "no rule is in force" in log
    assert "the desk died in the test; what it had counted is lost" in log


def test_a_rule_that_may_not_be_changed_is_refused_with_the_reason_and_nothing_is_touched(
    locusts: Locusts, start: Callable[..., Master]
) -> None:
    theirs = locusts.add_rule({"host": HOST, "trafficPolicy": POOL}, annotations={"meta.helm.sh/release-name": "shop"})
    try:
        master = start("-u", "3", "--stage", "1s", "--toggle", "patch")
        code, log = master.code(), master.log()
        assert [rule_as_written(rule) for rule in locusts.rules("base")] == [rule_as_written(theirs)]
    finally:
        locusts.remove(theirs)
    assert code == 3, log
    assert "the rule base/theirs is kept by Helm" in log
    assert "the rule is in force" not in log
    assert locusts.left_overs() == []


@pytest.mark.thorough
def test_over_somebody_s_rule_a_rule_of_our_own_is_laid_and_theirs_is_as_it_was(locusts: Locusts, start: Callable[..., Master]) -> None:
    theirs = locusts.add_rule({"host": HOST, "trafficPolicy": POOL})
    try:
        master = start(*STORY)
        code, log = master.code(), master.log()
        assert [rule_as_written(rule) for rule in locusts.rules("base")] == [rule_as_written(theirs)]
    finally:
        locusts.remove(theirs)
    assert code == 0, log
    assert "overlay: a rule test/loadgen-" in log
    assert "Enforced: " in log


@pytest.mark.thorough
def test_a_rule_that_is_in_force_for_as_long_as_it_may_be_is_removed_and_the_test_goes_on(
    locusts: Locusts, start: Callable[..., Master]
) -> None:
    master = start("-u", "9", "--stage", "8s", "--mesh-hold", "3s")
    master.says("the rule is in force at every sidecar")
    until(lambda: not locusts.rules("base"), "its time is over")
    code, log = master.code(), master.log()
    assert "no rule is in force that could be removed: its 3 s were over" in log
    assert "Enforced: " in log
    assert code == 3, log


@pytest.mark.thorough
def test_a_worker_that_dies_ends_the_measurement_and_the_rule(locusts: Locusts, start: Callable[..., Master]) -> None:
    master = start("-u", "9", "--stage", "8s")
    master.says("the rule is in force at every sidecar")
    victim = locusts.workers()[0].name
    locusts.cluster.plane.api.delete(f"/api/v1/namespaces/test/pods/{victim}", gracePeriodSeconds=0)
    until(lambda: not locusts.rules("base"), "the rule is gone")
    code, log = master.code(), master.log()
    assert code == 4, log
    assert f"pod {victim} is gone: it was deleted or evicted" in log or f"the users of {victim}" in log


@pytest.mark.thorough
def test_workers_that_are_no_clients_of_the_mesh_are_refused_and_named(locusts: Locusts, start: Callable[..., Master]) -> None:
    victim = locusts.workers()[0].name
    path = f"/api/v1/namespaces/test/pods/{victim}"
    locusts.cluster.plane.api.patch(path, {"metadata": {"labels": {"app": "another"}}})  # its Deployment makes one more in its place
    try:
        master = start("-u", "3", "--stage", "1s", expect=WORKERS + 1)
        code, log = master.code(), master.log()
    finally:
        locusts.cluster.plane.api.delete(path, gracePeriodSeconds=0)
    assert code == 3, log
    assert f"worker {victim} is not in a ready pod that the scenario's labels select" in log
    assert "GET      user" not in log


@pytest.mark.thorough
def test_a_test_goes_on_while_the_api_server_is_away(locusts: Locusts, start: Callable[..., Master]) -> None:
    master = start(*STORY, "--stage", "10s")
    master.says("the rule is in force at every sidecar")
    with locusts.cluster.plane.apiserver_away():
        time.sleep(6)
    code, log = master.code(), master.log()
    assert code == 0, log
    assert "Enforced: " in log


@pytest.mark.thorough
def test_a_rule_is_taken_out_late_if_the_api_server_is_away_when_it_is_to_go(locusts: Locusts, start: Callable[..., Master]) -> None:
    master = start(*STORY)
    master.says("the rule is in force at every sidecar")
    with locusts.cluster.plane.apiserver_away():
        time.sleep(8)
    code, log = master.code(), master.log()
    assert locusts.rules("base") == []
    assert code == 0, log
    assert "the rule is gone from every sidecar" in log


def answers(wire: httpx.Client) -> bool:
    try:
        return wire.get("/").is_success
    except httpx.TransportError:
        return False


def entry(wire: httpx.Client, name: str) -> int:
    """Give the requests of an entry in Locust's statistics; workers tell theirs every three seconds."""
    return next((each["num_requests"] for each in wire.get("/stats/requests").json()["stats"] if each["name"] == name), 0)


@pytest.mark.thorough
def test_a_person_goes_through_the_tutorial_on_the_page(
    locusts: Locusts, start: Callable[..., Master], browser: Browser, tmp_path: Path
) -> None:
    master = start("--overflow", "failure without a rule", page=True)
    before = locusts.overflows()
    with port_forward(master.view().netns, PAGE_PORT) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=END_S) as wire:
        until(lambda: f"{WORKERS} workers connected" in master.log(), "the workers are there")
        until(lambda: answers(wire), "the page is there")
        browser.visit(f"http://127.0.0.1:{port}/")
        fill(browser, 'input[name="userCount"]', "30")
        fill(browser, 'input[name="spawnRate"]', "30")
        click(browser, 'button[type="submit"]')
        until(lambda: wire.get("/mesh-policy/state").json()["running"], "the test runs", patience_s=END_S)
        browser.visit(f"http://127.0.0.1:{port}/mesh-policy")
        waits(browser, "now-ok", "100 %", END_S)
        click(browser, "#apply")
        waits(browser, "in-force", f"Rule base/user at all {WORKERS} sidecars", END_S)
        waits(browser, "verdict-title", "Enforced, until now", END_S)
        (tmp_path / "limited.png").write_bytes(browser.look())
        click(browser, "#remove")
        waits(browser, "in-force", f"No rule at any of the {WORKERS} sidecars. Converged", END_S)
        waits(browser, "sentence", "the rule is gone again and every request succeeds", END_S)
        (tmp_path / "recovered.png").write_bytes(browser.look())
        ledgers = browser.run("return [...document.querySelectorAll('#clients tbody tr')].map((row) => row.lastElementChild.innerText)")
        assert ledgers == ["0"] * WORKERS
        wire.post("/stop")
        until(lambda: not wire.get("/mesh-policy/state").json()["running"], "the test is over", patience_s=END_S)
        assert browser.said() == []
        counted = locusts.overflows() - before
        until(lambda: entry(wire, "user (overflow)") == counted, lambda: f"Locust's {entry(wire, 'user (overflow)')} are Envoy's {counted}")
    print(f"Locust and Envoy {counted}")
    assert counted > 0
