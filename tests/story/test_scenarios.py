"""The shipped scenarios, run for real: ten Envoys, the tutorial's rule letter for letter, and the verdict."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from loadgen.outcome import Outcome
from loadgen.report import Report
from tests.story.command import AGAIN_IF_STARVED, SCENARIOS, Ended, Loadgen, finish, variant

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.envoy, AGAIN_IF_STARVED]
NO_LIMIT = 4294967295


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Any]:
    """Run the tutorial's scenario once, a little shortened, with a secret of nobody's in the environment."""
    loadgen = Loadgen(tmp_path_factory.mktemp("tutorial"))
    ended = loadgen.run_scenario(SCENARIOS / "connection-pool.yaml", "--duration", "2s", "-v")
    assert ended.code == 0, ended.stderr + ended.stdout
    return ended, loadgen.report()


def phase(report: Any, name: str) -> Any:
    return next(each for each in report["phases"] if each["name"] == name)


def test_the_tutorial_ends_enforced_and_valid_and_restored(tutorial: tuple[Ended, Any]) -> None:
    _, report = tutorial
    assert report["schema"] == "loadgen.report/v1"
    assert report["validity"] == {"state": "VALID", "reasons": []}
    assert report["verdict"]["state"] == "enforced"
    assert report["restore"]["state"] == "verified"
    assert all(expectation["held"] for expectation in report["expectations"])


def test_a_pool_whose_connections_carry_one_request_each_is_cold_whatever_is_open(tutorial: tuple[Ended, Any]) -> None:
    ended, report = tutorial
    assert phase(report, "limited")["pool"] == "cold"
    assert phase(report, "limited")["connections"] == sum(client["connections"] for client in phase(report, "limited")["clients"])
    assert phase(report, "baseline")["connections"] > 0, "the load goes on when the phase begins to count"
    assert "The pool of connections is always cold: maxRequestsPerConnection is 1" in ended.stdout


def test_every_request_succeeds_without_the_rule_and_a_part_overflows_with_it(tutorial: tuple[Ended, Any]) -> None:
    _, report = tutorial
    for name in ("baseline", "recovered"):
        assert phase(report, name)["outcomes"][Outcome.OK] == phase(report, name)["requests"] > 0
    limited = phase(report, "limited")["outcomes"]
    assert limited[Outcome.OK] > 0
    assert limited[Outcome.OVERFLOW] > 0
    assert sum(limited.values()) == limited[Outcome.OK] + limited[Outcome.OVERFLOW]


def test_the_ledger_of_every_client_and_phase_balances(tutorial: tuple[Ended, Any]) -> None:
    _, report = tutorial
    for each in report["phases"]:
        assert len(each["clients"]) == 10
        for client in each["clients"]:
            assert client["ledger"]["client"] == client["ledger"]["proxy"] == client["outcomes"][Outcome.OVERFLOW]
            assert client["ledger"]["difference"] == 0
    assert phase(report, "limited")["ledger"]["active_overflow"] > 0


def test_the_service_saw_one_request_of_each_client_at_a_time_while_the_rule_was_in_force(tutorial: tuple[Ended, Any]) -> None:
    _, report = tutorial
    limited = phase(report, "limited")
    assert [client["service"]["peak_in_flight"] for client in limited["clients"]] == [1] * 10
    assert limited["service"]["peak_in_flight"] <= 10
    assert phase(report, "baseline")["service"]["peak_in_flight"] > 10


def test_every_sidecar_confirmed_the_limits_and_that_they_are_gone(tutorial: tuple[Ended, Any]) -> None:
    _, report = tutorial
    free = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), NO_LIMIT) | {
        "max_requests_per_connection": 0
    }
    limited = free | {"max_pending_requests": 1, "max_requests": 1, "max_requests_per_connection": 1}
    for name, wanted in (("baseline", free), ("limited", limited), ("recovered", free)):
        assert [client["effective"] for client in phase(report, name)["clients"]] == [wanted] * 10
    assert phase(report, "baseline")["convergence_s"] is None
    for name in ("limited", "recovered"):
        assert all(client["convergence_s"] > 0 for client in phase(report, name)["clients"])


def test_latency_is_kept_by_outcome_so_that_instant_rejections_do_not_flatter_it(tutorial: tuple[Ended, Any]) -> None:
    _, report = tutorial
    latency = phase(report, "limited")["latency_s"]
    assert set(latency) == {Outcome.OK, Outcome.OVERFLOW}
    assert latency[Outcome.OVERFLOW]["p50"] < latency[Outcome.OK]["p50"]
    for quantiles in latency.values():
        assert quantiles["p50"] <= quantiles["p90"] <= quantiles["p99"] <= quantiles["p999"] <= quantiles["max"]


def test_the_report_reads_back_as_the_same_report(tutorial: tuple[Ended, Any]) -> None:
    _, report = tutorial
    again = Report.of_json(json.dumps(report))
    assert again.model_dump(mode="json", by_alias=True) == report


def test_the_client_log_shows_kevin_and_the_rejection_and_no_control_codes(tutorial: tuple[Ended, Any]) -> None:
    ended, _ = tutorial
    assert " 200 " in ended.stderr
    assert "Kevin" in ended.stderr
    assert "reset reason: overflow" in ended.stderr
    assert "\x1b" not in ended.stderr + ended.stdout


def test_the_result_names_limit_clients_and_aftermath_in_one_sentence(tutorial: tuple[Ended, Any]) -> None:
    ended, report = tutorial
    sentence = report["verdict"]["sentence"]
    assert sentence in ended.stdout
    for part in (
        "http2MaxRequests 1",
        "rule base/user",
        "10 of 10 clients",
        "at most 1 request admitted",
        "the rule is gone again and every request succeeds",
    ):
        assert part in sentence
    assert "Clients in phase limited" in ended.stdout


def test_a_rule_for_the_wrong_host_is_found_not_enforced_and_the_reason_is_named(loadgen: Loadgen) -> None:
    ended = loadgen.run_scenario(SCENARIOS / "wrong-host.yaml", "--duration", "2s")
    report = loadgen.report()
    assert ended.code == 0, ended.stdout[-2000:]
    assert report["verdict"]["state"] == "not_enforced"
    assert "usr.base.svc.cluster.local" in report["verdict"]["sentence"]
    assert "did you mean user.base.svc.cluster.local" in ended.stderr
    assert phase(report, "limited")["outcomes"][Outcome.OVERFLOW] == 0
    assert "no rule has an effect" in ended.stderr


def test_an_open_load_against_five_requests_admits_at_most_five_of_each_client(loadgen: Loadgen) -> None:
    ended = loadgen.run_scenario(SCENARIOS / "http2-max-requests.yaml", "--duration", "3s")
    limited = phase(loadgen.report(), "limited")
    assert ended.code == 0, ended.stdout
    assert max(client["service"]["peak_in_flight"] for client in limited["clients"]) == 5
    assert limited["ledger"]["difference"] == 0
    assert limited["ledger"]["pending_overflow"] == 0


def test_a_rule_that_upgrades_to_http2_is_enforced_on_http2_connections(loadgen: Loadgen, tmp_path: Path) -> None:
    rule = tmp_path / "upgrade.yaml"
    rule.write_text((SCENARIOS / "policies" / "five-requests.yaml").read_text() + "        h2UpgradePolicy: UPGRADE\n")
    scenario = variant(
        tmp_path / "upgrade-scenario.yaml", SCENARIOS / "http2-max-requests.yaml", (f"{SCENARIOS}/policies/five-requests.yaml", str(rule))
    )
    ended = loadgen.run_scenario(scenario, "--duration", "2s", "--clients", "3")
    limited = phase(loadgen.report(), "limited")
    assert ended.code == 0, ended.stdout
    assert limited["outcomes"][Outcome.OK] + limited["outcomes"][Outcome.OVERFLOW] == limited["requests"]
    assert max(client["service"]["peak_in_flight"] for client in limited["clients"]) == 5


def test_a_storm_without_think_time_still_balances_to_the_request(loadgen: Loadgen, tmp_path: Path) -> None:
    storm = variant(tmp_path / "storm.yaml", SCENARIOS / "connection-pool.yaml", ("think_time: exponential 30ms", "think_time: none"))
    loadgen.run_scenario(storm, "--duration", "1s", "--clients", "4")
    report = loadgen.report()
    limited = phase(report, "limited")
    assert limited["ledger"]["client"] > 1000
    assert [client["ledger"]["difference"] for client in limited["clients"]] == [0] * 4


def test_a_failed_expectation_ends_with_99(loadgen: Loadgen, tmp_path: Path) -> None:
    scenario = variant(tmp_path / "hopeful.yaml", SCENARIOS / "connection-pool.yaml", ("overflow > 0", "overflow == 0"))
    ended = loadgen.run_scenario(scenario, "--duration", "1s", "--clients", "2")
    assert ended.code == 99
    assert "FAILED  limited: overflow == 0 (got " in ended.stdout


def test_a_hammer_that_cannot_keep_up_makes_the_run_invalid(loadgen: Loadgen, tmp_path: Path) -> None:
    flood = variant(tmp_path / "flood.yaml", SCENARIOS / "http2-max-requests.yaml", ("rate: 50/s", "rate: 40000/s\n  max_in_flight: 2000"))
    ended = loadgen.run_scenario(flood, "--duration", "1s", "--clients", "1")
    assert ended.code == 4
    assert loadgen.report()["validity"]["state"] == "INVALID"
    assert "INVALID: " in ended.stdout


def test_two_runs_side_by_side_do_not_meet(loadgen: Loadgen, tmp_path: Path) -> None:
    other = Loadgen(tmp_path / "other")
    other.folder.mkdir()
    other.temporary.symlink_to(loadgen.temporary)
    first = loadgen.start_scenario(SCENARIOS / "connection-pool.yaml", "--duration", "1s", "--clients", "2")
    second = other.start_scenario(SCENARIOS / "wrong-host.yaml", "--duration", "1s", "--clients", "2")
    ended = finish(first), finish(second)
    assert [each.code for each in ended] == [0, 0], "".join(each.stdout for each in ended)
    assert [loadgen.report()["verdict"]["state"], other.report()["verdict"]["state"]] == ["enforced", "not_enforced"]
    assert not loadgen.leftovers()
    assert not loadgen.run_folders()


def test_of_every_burst_exactly_as_many_are_admitted_as_the_limit_allows(loadgen: Loadgen) -> None:
    ended = loadgen.run_scenario(SCENARIOS / "bursts.yaml", "--duration", "2s")
    report = loadgen.report()
    limited = phase(report, "limited")
    assert ended.code == 0, ended.stdout + ended.stderr
    assert [client["service"]["peak_in_flight"] for client in limited["clients"]] == [5] * 10
    assert [client["service"]["peak_in_flight"] for client in phase(report, "baseline")["clients"]] == [20] * 10
    for client in limited["clients"]:
        ok, rejected = client["outcomes"][Outcome.OK], client["outcomes"][Outcome.OVERFLOW]
        assert abs(ok - rejected / 3) <= 5, "5 of 20 are admitted and 15 rejected; an edge may part one burst's rejects from its answers"
    assert limited["ledger"]["difference"] == 0
    for name, admitted in {"baseline": 20, "limited": 5, "recovered": 20}.items():
        for client in phase(report, name)["clients"]:
            bursts = client["bursts"]
            assert (bursts["least"], bursts["most"]) == (bursts["seen"]["least"], bursts["seen"]["most"]) == (admitted, admitted)
            assert bursts["count"] >= 4
            assert abs(bursts["count"] - bursts["seen"]["count"]) <= 2, "each of the two edges may part a burst's arrival from its answers"
        whole = phase(report, name)["bursts"]
        assert (whole["least"], whole["most"]) == (whole["seen"]["least"], whole["seen"]["most"]) == (admitted, admitted)
        assert whole["count"] == sum(client["bursts"]["count"] for client in phase(report, name)["clients"])
    cut = phase(report, "limited")["bursts"]["cut"]
    assert re.search(rf"limited +\d+ +5 +0 +\d+ +5 +{cut}\n", ended.stdout), "both sides are shown, and how many an edge cut"


def test_a_ramp_ends_with_more_requests_than_it_begins_with(loadgen: Loadgen, tmp_path: Path) -> None:
    ramp = variant(
        tmp_path / "ramp.yaml", SCENARIOS / "http2-max-requests.yaml", ("rate: 50/s", "rate: 10/s\n  stages: [{rate: 100/s, ramp: 4s}]")
    )
    ended = loadgen.run_scenario(ramp, "--duration", "2s", "--clients", "4")
    report = loadgen.report()
    assert report["validity"]["state"] == "VALID", ended.stdout
    assert phase(report, "recovered")["requests"] > 2 * phase(report, "baseline")["requests"]


def test_the_load_of_several_processes_balances_to_the_request_as_well(loadgen: Loadgen) -> None:
    ended = loadgen.run_scenario(SCENARIOS / "connection-pool.yaml", "--duration", "2s", "--processes", "3")
    report = loadgen.report()
    assert ended.code == 0, ended.stdout + ended.stderr
    assert "first request from 3 processes" in ended.stderr
    assert report["environment"]["processes"] == 3
    assert phase(report, "limited")["ledger"]["client"] > 0
    for each in report["phases"]:
        assert [client["ledger"]["difference"] for client in each["clients"]] == [0] * 10
    assert not loadgen.leftovers()
