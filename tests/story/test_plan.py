"""Does a plan say which rule wins and what it does to the clients, without starting or changing anything?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.story.command import SCENARIOS, Loadgen, variant

if TYPE_CHECKING:
    from pathlib import Path

TUTORIAL = SCENARIOS / "connection-pool.yaml"


def test_it_names_the_winning_rule_and_what_ten_sidecars_with_its_limits_let_through(loadgen: Loadgen) -> None:
    ended = loadgen.run("plan", TUTORIAL)
    assert ended.code == 0
    assert "10 clients in namespace test call user.base.svc.cluster.local:7000" in ended.stdout
    assert "now:       no rule has an effect, so nothing is limited" in ended.stdout
    assert "with it:   rule base/user: http1MaxPendingRequests 1, http2MaxRequests 1, maxRequestsPerConnection 1" in ended.stdout
    assert "the service may see up to 10 times that: http1MaxPendingRequests 10, http2MaxRequests 10" in ended.stdout
    assert ended.stdout.endswith("Nothing was changed.\n")
    assert not loadgen.processes()
    assert not loadgen.run_folders()


SEEN = """
What will be seen in phase limited, if the service takes exponential 100ms, and up to 2ms more on the way
   offered:   5 to 5.1 Erlang in each client, on average so many would be in service at a time without a limit
   admitted:  at most 5 at a time in each client, at most 50 of all 10 together
   lost:      28.9%; measured in 12s: 26.2% to 31.6% in 99 of 100 runs
   goodput:   355.5/s; measured in 12s: 343.2/s to 367.9/s in 99 of 100 runs (35.6/s in each client)
   because Poisson arrivals that find 5 in service are lost, which is Erlang's B(5, 5.05), whatever the distribution of the service time.

Nothing was changed.
"""


def test_it_says_what_will_be_seen_of_each_client_and_of_the_service(loadgen: Loadgen) -> None:
    ended = loadgen.run("plan", SCENARIOS / "http2-max-requests.yaml")
    assert ended.stdout.endswith(SEEN)
    assert "What will be seen" not in loadgen.run("plan", SCENARIOS / "wrong-host.yaml").stdout


def test_its_json_has_the_prediction_of_each_client_and_of_each_phase(loadgen: Loadgen) -> None:
    plan = json.loads(loadgen.run("plan", SCENARIOS / "http2-max-requests.yaml", "--json").stdout)
    (phase,) = plan["phases"]
    assert (phase["phase"], phase["law"], phase["offered"], phase["duration_s"]) == ("limited", "erlang", 5.1, 12.0)
    assert phase["client"]["admitted"] == {"predicted": 5, "low": None, "high": 5}
    assert phase["service"]["admitted"] == {"predicted": 50, "low": None, "high": 50}
    assert round(phase["service"]["loss"]["predicted"], 4) == 0.2889
    assert {client["predicted"]["loss"]["predicted"] for client in plan["clients"]} == {phase["client"]["loss"]["predicted"]}
    assert plan["rules"] == [{"rule": "base/user", "counts": True, "limits": True, "code": None, "reason": None}]


def test_it_says_of_each_rule_of_the_file_why_it_does_not_count(loadgen: Loadgen, tmp_path: Path) -> None:
    rule = (SCENARIOS / "policies" / "five-requests.yaml").read_text()
    (tmp_path / "two.yaml").write_text(f"{rule}---\n{rule.replace('name: user', 'name: younger')}")
    scenario = variant(tmp_path / "two-rules.yaml", TUTORIAL, (str(SCENARIOS / "policies" / "user.yaml"), str(tmp_path / "two.yaml")))
    ended = loadgen.run("plan", scenario)
    assert "rules:     base/user counts\n              base/younger does not: this trafficPolicy has no effect" in ended.stdout


def test_its_json_has_every_client_with_its_limits_now_and_then(loadgen: Loadgen) -> None:
    ended = loadgen.run("plan", TUTORIAL, "--json", "--clients", "3")
    plan = json.loads(ended.stdout)
    assert [client["name"] for client in plan["clients"]] == ["client-1", "client-2", "client-3"]
    for client in plan["clients"]:
        assert (client["namespace"], client["rule"], client["now"]["rule"]) == ("test", "base/user", None)
        assert client["effective"]["max_requests"] == 1
        assert client["now"]["effective"]["max_requests"] == 2**32 - 1
    assert plan["change"] is None


def test_a_rule_that_has_no_effect_is_seen_before_any_load(loadgen: Loadgen) -> None:
    ended = loadgen.run("plan", SCENARIOS / "wrong-host.yaml", "--json")
    plan = json.loads(ended.stdout)
    assert {client["rule"] for client in plan["clients"]} == {None}
    [finding] = plan["findings"]
    assert (finding["severity"], finding["line"], finding["column"]) == ("warning", 7, 9)
    assert finding["file"].endswith("policies/wrong-host.yaml")
    assert finding["hint"] == "did you mean user.base.svc.cluster.local?"
    assert "did you mean user.base.svc.cluster.local" in loadgen.run("plan", SCENARIOS / "wrong-host.yaml").stderr


def test_options_stand_in_the_place_of_the_scenario_s_values_as_they_do_in_a_run(loadgen: Loadgen) -> None:
    ended = loadgen.run(
        "plan", SCENARIOS / "http2-max-requests.yaml", "--rate", "20/s", "--duration", "3s", "--clients", "2", "--seed", "4"
    )
    assert "offered:   2 to 2.04 Erlang in each client" in ended.stdout
    assert "measured in 3s" in ended.stdout
    assert "at most 10 of all 2 together" in ended.stdout
    fewer = loadgen.run("plan", TUTORIAL, "--users", "1")
    assert "each client has 1 user, so a client has at most 1 in flight" in fewer.stderr
    assert loadgen.run("plan", TUTORIAL, "--rate", "9/s").code == 2


def test_options_of_a_cluster_are_refused_without_one(loadgen: Loadgen) -> None:
    ended = loadgen.run("plan", TUTORIAL, "--toggle", "patch")
    assert ended.code == 2
    assert "--toggle does not fit --mesh local" in ended.stderr
    run = loadgen.run("run", TUTORIAL, "--mesh", "cluster", "--processes", "2")
    assert run.code == 2
    assert "--processes does not fit --mesh cluster" in run.stderr


def test_a_scenario_with_mistakes_has_no_plan(loadgen: Loadgen, tmp_path: Path) -> None:
    ended = loadgen.run("plan", variant(tmp_path / "wrong.yaml", TUTORIAL, ("model: closed", "model: clsed")))
    assert ended.code == 2
    assert "wrong.yaml:" in ended.stderr
    assert not ended.stdout
