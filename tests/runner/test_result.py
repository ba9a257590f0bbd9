"""What the measurements of a run are made into: validity, verdict and expectations, from windows made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from loadgen.cause import Cause, Found, MadeBy
from loadgen.cli.run import exit_code
from loadgen.engine.edge import Edge, Reading
from loadgen.inputs import Plan, load_plan
from loadgen.ledger import Counters, ServiceCount, ServiceReading
from loadgen.outcome import Outcome
from loadgen.policy.limits import Limits
from loadgen.policy.rule import Rule
from loadgen.policy.state import SidecarState
from loadgen.recorder import Histogram, Tally
from loadgen.report import BurstsPart, Environment, Report, SeenPart
from loadgen.runner.result import make_report
from loadgen.runner.window import Measured, Window
from loadgen.series import BETWEEN, Moment, Series
from tests.policy.examples import manifest, rules_of
from tests.story.command import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ENVIRONMENT = Environment(loadgen="0", python="3", platform="p", cpus=2, envoy="1.40.0", hammer_cpu_share=0, ready_s=0)
FREE = SidecarState(Limits(), None)
LIMITED = SidecarState(Limits(max_requests=1), "base/user")
OK, OVERFLOWS = 100, 40


def plan() -> Plan:
    return load_plan(SCENARIOS / "connection-pool.yaml")


def tally(ok: int = OK, overflow: int = 0, **others: int) -> Tally:
    made = Tally()
    for outcome, count in {Outcome.OK: ok, Outcome.OVERFLOW: overflow, **{Outcome(name): count for name, count in others.items()}}.items():
        for _ in range(count):
            made.record(outcome, 0.01)
    return made


def window(index: int, *, overflow: int = 0) -> Window:
    """Make the window of one of the scenario's phases in which two clients sent what the witnesses agree about."""
    phase = plan().scenario.phases[index]
    state = LIMITED if phase.policy == "applied" else FREE
    names = ("client-1", "client-2")
    starts = {name: Edge(10.0, Reading(Counters(), 0), Tally(), 0) for name in names}
    ends = {
        name: Edge(18.0, Reading(Counters(active_overflow=overflow, total=OK), OK), tally(overflow=overflow), overflow) for name in names
    }
    before = ServiceReading(ServiceCount(20, 0, 2), {**dict.fromkeys(names, ServiceCount(5, 0, 1)), "dead": ServiceCount(10, 0, 1)})
    made = Window(phase, starts, {}, dict.fromkeys(names, 0.01), dict.fromkeys(names, state), before, cpu_start_s={1: 1.0}, began=10.0)
    made.ends, made.cpu_end_s, made.ended = ends, {1: 2.0}, 18.0
    made.tallies = {name: edge.tally for name, edge in ends.items()}
    made.service = served()
    return made


def served(others: Mapping[str, int] = {}, *, more: int = 0, peak: int = 1, unseen: str = "") -> ServiceReading:
    """Give what the service says at the end of a phase: what the clients sent, what ``others`` did, and ``more`` requests than that."""
    clients = {**dict.fromkeys(("client-1", "client-2"), ServiceCount(5 + OK, 0, peak)), "dead": ServiceCount(10, 0, 1)}
    clients |= {name: ServiceCount(count, 0, 1) for name, count in others.items()}
    return ServiceReading(ServiceCount(sum(count.requests for count in clients.values()) + more, 0, 2 * peak), clients, unseen)


def measured() -> Measured:
    return Measured(windows=[window(0), window(1, overflow=OVERFLOWS), window(2)], restored=True, restore_detail="gone")


def report_of(run: Measured) -> Report:
    return make_report(plan(), run, LIMITED, ENVIRONMENT, "2026-01-01T00:00:00+00:00")


def end(run: Measured, index: int, name: str, **changes: object) -> None:
    run.windows[index].ends[name] = replace(run.windows[index].ends[name], **changes)  # type: ignore[arg-type]


def test_a_run_whose_witnesses_agree_is_valid_enforced_and_ends_with_0() -> None:
    report = report_of(measured())
    assert report.validity.state == "VALID", report.validity.reasons
    assert report.verdict.state == "enforced"
    assert all(expectation.held for expectation in report.expectations)
    assert exit_code(report, 0) == 0


def test_the_verdict_is_about_the_policy_that_was_in_force_last() -> None:
    run = measured()
    looser = window(1)
    looser.phase, looser.rules = looser.phase.model_copy(update={"name": "looser"}), (Rule("user", "base", "looser"),)
    looser.service = served(peak=5)
    run.windows[1].rules = plan().rules
    run.windows.insert(1, looser)
    scenario = plan().scenario.model_copy(update={"phases": [each.phase for each in run.windows], "expectations": {}})
    report = make_report(replace(plan(), scenario=scenario), run, LIMITED, ENVIRONMENT, "2026-01-01T00:00:00+00:00")
    assert report.verdict.state == "enforced", "five at a time were right while five were allowed"
    assert report.findings == ["the verdict is about the policy of limited; another one was in force in looser"]
    assert len(report.phases) == 4


def test_no_load_is_asked_for_where_one_connection_carries_everything() -> None:
    run = measured()
    run.windows[1] = window(1)
    state = SidecarState(Limits(max_connections=1), "base/user")
    sentences = {}
    for upgrade in ("DO_NOT_UPGRADE", "UPGRADE"):
        pool = f"{{tcp: {{maxConnections: 1}}, http: {{h2UpgradePolicy: {upgrade}}}}}"
        rules = tuple(rules_of(manifest(f"host: user\ntrafficPolicy: {{connectionPool: {pool}}}")))
        made = replace(plan(), rules=rules)
        sentences[upgrade] = make_report(made, run, state, ENVIRONMENT, "2026-01-01T00:00:00+00:00").verdict.sentence
    assert "It takes more than 1 of the" in sentences["DO_NOT_UPGRADE"]
    assert sentences["UPGRADE"].endswith("No load goes beyond maxConnections over HTTP/2: one connection carries every request.")


@pytest.mark.parametrize(("requests", "connections", "first"), [(7, 3, 3), (3, 7, 3), (9, 9, 9)])
def test_the_load_that_is_asked_for_goes_beyond_the_limit_that_comes_first(requests: int, connections: int, first: int) -> None:
    run = measured()
    run.windows[1] = window(1)
    state = SidecarState(Limits(max_requests=requests, max_connections=connections), "base/user")
    sentence = make_report(plan(), run, state, ENVIRONMENT, "2026-01-01T00:00:00+00:00").verdict.sentence
    assert f"It takes more than {first} " in sentence


def starve(run: Measured) -> None:
    for _ in range(10):
        run.windows[1].tallies["client-1"].loop_lag.record(0.06)


def be_late(run: Measured) -> None:
    for _ in range(10):
        run.windows[1].tallies["client-1"].lag.record(0.06)


def burn(run: Measured) -> None:
    run.windows[1].cpu_end_s = {1: 1.0 + 8 * 0.91}


def burn_elsewhere(run: Measured) -> None:
    run.windows[1].cpu_start_s = {1: 1.0, 2: 5.0, 3: 0.0}
    run.windows[1].cpu_end_s = {1: 2.0, 2: 5.0 + 8 * 0.93, 3: 8 * 0.5}


def run_out_of_descriptors(run: Measured) -> None:
    run.windows[1].tallies["client-2"].connect_errors["EMFILE"] += 3


def drop(run: Measured) -> None:
    run.windows[0].tallies["client-1"].add(tally(ok=0, unsent=5))


def lose_an_overflow(run: Measured) -> None:
    end(run, 1, "client-1", reading=Reading(Counters(active_overflow=OVERFLOWS + 1, total=OK), OK))


def go_round(run: Measured) -> None:
    end(run, 1, "client-1", reading=Reading(Counters(active_overflow=OVERFLOWS, total=OK), OK + 6))


def be_answered_by_another(run: Measured) -> None:
    end(run, 1, "client-1", reading=Reading(Counters(active_overflow=OVERFLOWS, total=OK), OK - 6))


def restart_a_sidecar(run: Measured) -> None:
    end(run, 1, "client-1", reading=Reading(Counters(active_overflow=OVERFLOWS, total=-50), OK))


def call_from_outside(run: Measured) -> None:
    run.windows[1].service = served(more=1)


def call_under_a_name_that_is_no_client_s(run: Measured) -> None:
    run.windows[1].service = served({"client-99": 1})


def call_without_a_name(run: Measured) -> None:
    run.windows[1].service = served({"": 1, "zoe": 2, "client-99": 3})


def call_under_many_names(run: Measured) -> None:
    run.windows[1].service = served({"": 1, "a": 2, "b": 3, "c": 4})


def not_settle(run: Measured) -> None:
    end(run, 1, "client-2", settled=False)


def stop_early(run: Measured) -> None:
    run.windows.pop()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (starve, "the hammer was starved in phase limited"),
        (be_late, "the hammer was late in phase limited"),
        (burn, "the hammer was the bottleneck in phase limited: it used 91% of a core"),
        (burn_elsewhere, "the hammer was the bottleneck in phase limited: it used 93% of a core"),
        (run_out_of_descriptors, "in phase limited: 3 connections could not be opened (EMFILE)"),
        (drop, "5 of 205 requests in phase baseline were not sent"),
        (lose_an_overflow, "the ledger of phase limited does not balance"),
        (
            go_round,
            "in phase limited 6 more requests of client-1 reached the service than its sidecar let through: it goes round its sidecar",
        ),
        (be_answered_by_another, "in phase limited 6 requests of client-1 were answered, but not by a service that counts them"),
        (restart_a_sidecar, "in phase limited the sidecar of client-1 was restarted: its counters went back"),
        (
            call_under_a_name_that_is_no_client_s,
            "somebody else calls the service: requests in phase limited that no client sent: 1 (some are of client-99)",
        ),
        (call_without_a_name, "that no client sent: 6 (some are of client-99, zoe, callers that give no name)"),
        (call_under_many_names, "that no client sent: 10 (some are of a, b, c and 1 more)"),
        (call_from_outside, "somebody else calls the service: requests in phase limited that no client sent: 1"),
        (not_settle, "client-2 and its sidecar could not be brought to agree"),
        (stop_early, "phase recovered was not measured"),
    ],
)
def test_a_run_that_cannot_be_trusted_is_invalid_and_says_why(spoil: Callable[[Measured], None], reason: str) -> None:
    run = measured()
    spoil(run)
    report = report_of(run)
    assert [each for each in report.validity.reasons if reason in each], report.validity.reasons
    assert exit_code(report, 0) == 4


def test_what_another_proxy_rejected_need_not_have_come_to_the_service() -> None:
    run = measured()
    for name, tally_of in run.windows[1].tallies.items():
        for _ in range(60):
            tally_of.record(Outcome.OVERFLOW, 0.01, 503, Found(Cause.OVERFLOW, MadeBy.SERVER_SIDE))
        tally_of.server_overflow += 60
        end(run, 1, name, reading=Reading(Counters(active_overflow=OVERFLOWS, total=OK + 60), OK))
    report = report_of(run)
    assert report.validity.state == "VALID", report.validity.reasons
    assert report.verdict.state == "enforced"
    assert "(120 requests were rejected on the server's side)" in report.verdict.sentence
    assert "120 were rejected on the server's side" in report.phases[1].because


def test_of_a_sidecar_that_was_restarted_nothing_is_judged() -> None:
    run = measured()
    restart_a_sidecar(run)
    assert report_of(run).verdict.sentence.startswith("Inconclusive: the sidecar of client-1 was restarted while the policy was applied")


def test_why_most_requests_failed_is_said_in_the_verdict() -> None:
    run = measured()
    for name, each in run.windows[1].tallies.items():
        each.add(tally(ok=0, http_error=3))
        for _ in range(200):
            each.record(Outcome.UNAVAILABLE, 0.01, 503, Found(Cause.NO_HEALTHY_UPSTREAM, MadeBy.OWN_SIDECAR))
        assert name in run.windows[1].ends
    sentence = report_of(run).verdict.sentence
    assert "(406 requests failed otherwise, most because the service has no endpoint that is fit to be asked)" in sentence


def test_of_a_phase_whose_policy_was_changed_no_limit_is_named() -> None:
    run = measured()
    run.windows[1].changed = True
    assert [bool(phase.because) for phase in report_of(run).phases] == [False, False, False]
    assert report_of(measured()).phases[1].because


def test_what_the_service_saw_of_others_is_no_peak_of_the_clients() -> None:
    run = measured()
    call_from_outside(run)
    assert "the service never saw" not in report_of(run).phases[1].because
    assert "the service never saw" in report_of(measured()).phases[1].because


def test_what_failed_before_the_policy_was_applied_is_not_said_of_it() -> None:
    run = measured()
    run.windows[0].tallies["client-1"].add(tally(ok=0, unavailable=500))
    assert "failed otherwise" not in report_of(run).verdict.sentence


def test_who_called_before_the_phase_and_not_in_it_is_no_stranger_of_it() -> None:
    run = measured()
    run.windows[1].service = served({"client-99": 1})
    assert "dead" not in "".join(report_of(run).validity.reasons)
    assert report_of(measured()).validity.state == "VALID"


TWO_PODS = "this service has 2 pods, and each knows its own peak only"


def test_peaks_of_several_pods_are_no_witness_against_the_limit_and_it_is_said() -> None:
    run = measured()
    for each in run.windows:
        each.service = served(unseen=TWO_PODS)
    report = report_of(run)
    assert (report.validity.state, report.verdict.state) == ("VALID", "enforced"), report.validity.reasons
    said = f"clients and sidecars agree to the request, but {TWO_PODS}, so nothing shows how many were admitted at a time"
    assert said in report.verdict.sentence
    assert [phase.service.peak_in_flight for phase in report.phases] == [None, None, None]
    assert {client.service.peak_in_flight for phase in report.phases for client in phase.clients} == {None}
    assert report.findings[-1] == f"the service's peak in phase baseline, limited, recovered is not known: {TWO_PODS}"


def test_what_one_of_several_pods_alone_saw_is_a_witness_against_the_limit() -> None:
    run = measured()
    run.windows[1].service = served(peak=7, unseen=TWO_PODS)
    verdict = report_of(run).verdict
    assert verdict.state == "not_enforced"
    assert "http2MaxRequests 1 is in force, but at least 7 requests of a client were admitted at a time" in verdict.sentence


@pytest.mark.parametrize(
    ("reading", "said"),
    [
        (
            ServiceReading(None, {}, "the service's pods changed during the phase (user-2 came)"),
            "pods changed during the phase (user-2 came)",
        ),
        (None, "the service could not be asked any more"),
    ],
)
def test_where_the_count_of_a_phase_is_lost_the_other_two_witnesses_remain_and_it_is_said(
    reading: ServiceReading | None, said: str
) -> None:
    run = measured()
    run.windows[1].service = reading
    report = report_of(run)
    assert (report.validity.state, report.verdict.state) == ("VALID", "enforced"), report.validity.reasons
    assert f"{said}, so nothing shows how many were admitted at a time" in report.verdict.sentence
    assert [phase.service.peak_in_flight for phase in report.phases] == [2, None, 2]
    assert [
        finding
        for finding in report.findings
        if finding.startswith("the service's peak in phase limited is not known: ") and said in finding
    ]


def test_a_service_that_does_not_count_is_no_finding_of_every_phase() -> None:
    run = measured()
    for each in run.windows:
        each.service_before = each.service = ServiceReading(None, {}, "this service does not count")
    report = report_of(run)
    assert report.findings == report_of(measured()).findings
    assert "but this service does not count, so nothing shows how many" in report.verdict.sentence


def test_processes_that_are_each_half_busy_are_no_bottleneck() -> None:
    run = measured()
    run.windows[1].cpu_start_s = {1: 0.0, 2: 0.0}
    run.windows[1].cpu_end_s = {1: 8 * 0.6, 2: 8 * 0.5}
    report = report_of(run)
    assert report.validity.state == "VALID"
    assert report.phases[1].hammer_cpu_share == 0.6, "of the busiest process"


def test_refused_connections_are_the_target_s_doing_and_spoil_nothing() -> None:
    run = measured()
    run.windows[1].tallies["client-1"].connect_errors["ECONNREFUSED"] += 3
    assert report_of(run).validity.state == "VALID"


def test_why_requests_failed_is_counted_by_phase_and_by_client_the_most_frequent_cause_first() -> None:
    run = measured()
    dead, silent = Found(Cause.NO_HEALTHY_UPSTREAM, MadeBy.OWN_SIDECAR), (Cause.NO_ANSWER, MadeBy.UNKNOWN)
    for name, count in (("client-1", 1), ("client-2", 2)):
        for _ in range(count):
            run.windows[1].tallies[name].record(Outcome.UNAVAILABLE, 0.001, 503, dead)
    run.windows[1].tallies["client-2"].record(Outcome.TIMEOUT, 5.0)
    report = report_of(run)
    assert report.phases[0].causes == []
    assert [(each.cause, each.made_by, each.requests) for each in report.phases[1].causes] == [(*dead, 3), (*silent, 1)]
    by_client = {client.name: [(each.cause, each.requests) for each in client.causes] for client in report.phases[1].clients}
    assert by_client["client-1"] == [(Cause.NO_HEALTHY_UPSTREAM, 1)]
    assert by_client["client-2"] == [(Cause.NO_HEALTHY_UPSTREAM, 2), (Cause.NO_ANSWER, 1)]


def test_a_few_requests_on_their_way_at_an_edge_are_no_disagreement() -> None:
    run = measured()
    end(run, 1, "client-1", reading=Reading(Counters(active_overflow=OVERFLOWS, total=OK), OK + 6), on_the_way=1)
    assert report_of(run).validity.state == "VALID"


def test_two_differences_of_opposite_sign_do_not_cancel() -> None:
    run = measured()
    end(run, 1, "client-1", reading=Reading(Counters(active_overflow=OVERFLOWS + 1, total=OK), OK))
    end(run, 1, "client-2", reading=Reading(Counters(active_overflow=OVERFLOWS - 1, total=OK), OK))
    report = report_of(run)
    ledger = next(expectation for expectation in report.expectations if expectation.metric == "ledger")
    assert (ledger.got, ledger.held) == ("2", False)
    assert report.validity.state == "INVALID"
    assert report.verdict.state == "inconclusive"


def fail_once_more(run: Measured) -> None:
    run.windows[2].tallies["client-1"].add(tally(ok=0, timeout=1))


def fail_before_and_after(run: Measured) -> None:
    for index in (0, 2):
        run.windows[index].tallies = {name: tally(ok=0, timeout=OK) for name in run.windows[index].tallies}


def say_nothing(run: Measured) -> None:
    run.windows[2].tallies = {name: Tally() for name in run.windows[2].tallies}


def not_restore(run: Measured) -> None:
    run.restored = False


def cut_short(run: Measured) -> None:
    run.windows[2].ends.clear()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (fail_once_more, "the rule is gone again, but 1 of 201 requests did not succeed."),
        (fail_before_and_after, "the rule is gone again, but 200 of 200 requests did not succeed, as before the rule (200 of 200)."),
        (say_nothing, "no phase shows what happens after the rule is removed"),
        (not_restore, "no phase shows what happens after the rule is removed"),
        (cut_short, "no phase shows what happens after the rule is removed"),
        (stop_early, "no phase shows what happens after the rule is removed"),
    ],
)
def test_recovery_is_claimed_only_where_it_was_seen(spoil: Callable[[Measured], None], said: str) -> None:
    run = measured()
    spoil(run)
    assert said in report_of(run).verdict.sentence


@pytest.mark.parametrize(
    ("restored", "interrupted", "valid", "held", "code"),
    [
        (False, 130, False, False, 5),
        (False, 0, True, True, 5),
        (True, 130, False, False, 130),
        (True, 143, False, True, 143),
        (True, 0, False, False, 4),
        (True, 0, True, False, 99),
        (True, 0, True, True, 0),
    ],
)
def test_of_several_exit_codes_the_gravest_counts(*, restored: bool, interrupted: int, valid: bool, held: bool, code: int) -> None:
    run = measured()
    run.restored = restored
    if not valid:
        starve(run)
    report = report_of(run)
    if not held:
        report = report.model_copy(update={"expectations": [each.model_copy(update={"held": False}) for each in report.expectations]})
    assert exit_code(report, interrupted) == code


def expected(run: Measured, *texts: str, phase: str = "limited") -> list[tuple[str, bool]]:
    """Judge a run by expectations of one of its phases: what was got, and whether it held."""
    made = plan()
    scenario = made.scenario.model_copy(update={"expectations": {phase: list(texts)}})
    report = make_report(replace(made, scenario=scenario), run, LIMITED, ENVIRONMENT, "2026-01-01T00:00:00+00:00")
    return [(each.got, each.held) for each in report.expectations]


def test_a_percentile_that_the_report_does_not_hold_comes_from_what_the_clients_counted() -> None:
    run = measured()
    for number, made in enumerate(run.windows[1].tallies.values()):
        for step in range(100):
            made.record(Outcome.TIMEOUT, (step + 1) / 100 + number)
    texts = ("p(75)(timeout) < 1.6s", "p75(timeout) < 1.4s", "p0(timeout) < 11ms", "p100(timeout) == 2s", "max(timeout) == 2s")
    assert expected(run, *texts) == [("1.50 s", True), ("1.50 s", False), ("10.0 ms", True), ("2.00 s", True), ("2.00 s", True)]
    more = ("avg(timeout) < 1006ms", "avg(timeout) > 1004ms", "min(timeout) < 11ms", "med(timeout) > 990ms", "p95(overflow) < 11ms")
    assert [held for _, held in expected(run, *more)] == [True] * 5


def test_a_percentile_of_no_request_holds_nothing() -> None:
    texts = ("p95(timeout) < 1s", "avg(timeout) >= 0ms", "max(timeout) != 1s")
    assert expected(measured(), *texts) == [("nothing", False)] * 3


def test_a_rate_is_of_all_requests_or_of_one_outcome_and_of_the_time_that_counted() -> None:
    texts = ("rate == 35/s", "rate(ok) == 25/s", "rate(overflow) < 10/s", "rate(timeout) == 0/s")
    assert expected(measured(), *texts) == [("35/s", True), ("25/s", True), ("10/s", False), ("0/s", True)]


def test_a_rate_over_no_time_is_nothing_and_not_infinite() -> None:
    run = measured()
    for name in ("client-1", "client-2"):
        end(run, 1, name, at=10.0)
    assert expected(run, "rate > 1/s", "rate(ok) >= 0/s", "rate == 0/s") == [("nothing", False)] * 3


def test_the_validity_can_be_expected_of_the_run() -> None:
    run = measured()
    assert expected(run, "validity == VALID", phase="run") == [("VALID", True)]
    run.reasons.append("interrupted")
    assert expected(run, "validity == VALID", phase="run") == [("INVALID", False)]


def burst(run: Measured, name: str, admitted: Mapping[int, int], seen: Mapping[int, int]) -> None:
    """Let a client's sidecar have let through so many of each burst, and the service have seen so many at a time."""
    limited = run.windows[1]
    limited.tallies[name].bursts.update(admitted)
    assert limited.service is not None
    clients = {**limited.service.clients, name: replace(limited.service.clients[name], periods=seen)}
    limited.service = replace(limited.service, clients=clients)


def test_what_ended_between_the_phases_is_in_the_report() -> None:
    run = measured()
    late = Histogram()
    late.record(5.0)
    late.record(5.0)
    run.series = Series([], [Moment(3, BETWEEN, Outcome.TIMEOUT, late), Moment(3, "limited", Outcome.OK, late)], {})
    assert report_of(run).between_phases == {"timeout": 2}


def test_bursts_of_which_nothing_is_known_are_said_to_have_been() -> None:
    run = measured()
    burst(run, "client-1", {}, {5: 9})
    run.windows[1].tallies["client-1"].untold_bursts = 9
    burst(run, "client-2", {5: 2}, {5: 9})
    run.windows[1].tallies["client-2"].untold_bursts = 7
    phase = report_of(run).phases[1]
    assert phase.bursts == BurstsPart(count=2, least=5, most=5, untold=16, seen=SeenPart(count=18, least=5, most=5))
    assert phase.clients[0].bursts == BurstsPart(count=0, least=None, most=None, untold=9, seen=SeenPart(count=9, least=5, most=5))


def test_bursts_are_counted_by_client_and_in_all_by_the_clients_and_by_the_service() -> None:
    run = measured()
    burst(run, "client-1", {5: 7}, {5: 6})
    burst(run, "client-2", {4: 1, 5: 6}, {4: 1, 6: 7})
    run.windows[1].tallies["client-1"].cut_bursts = 2
    phase = report_of(run).phases[1]
    assert phase.bursts == BurstsPart(count=14, least=4, most=5, cut=2, seen=SeenPart(count=14, least=4, most=6))
    assert [client.bursts for client in phase.clients] == [
        BurstsPart(count=7, least=5, most=5, cut=2, seen=SeenPart(count=6, least=5, most=5)),
        BurstsPart(count=7, least=4, most=5, seen=SeenPart(count=8, least=4, most=6)),
    ]
    assert [each.bursts for each in report_of(run).phases] == [None, phase.bursts, None]
    assert (
        "of each of 14 bursts 4 to 5 were let through, some after others had been answered, and 2 more were cut"
        in report_of(run).verdict.sentence
    )


def test_what_the_service_saw_of_bursts_is_not_known_where_its_peaks_are_not() -> None:
    run = measured()
    burst(run, "client-1", {5: 7}, {3: 7})
    assert run.windows[1].service is not None
    run.windows[1].service = replace(run.windows[1].service, unseen="two pods")
    phase = report_of(run).phases[1]
    assert phase.bursts == phase.clients[0].bursts == BurstsPart(count=7, least=5, most=5, seen=None)
    assert phase.clients[1].bursts is None


@pytest.mark.parametrize(
    ("connections", "per_connection", "pool", "in_all"),
    [
        ((3, 1), 0, "warm", 4),
        ((0, 0), 0, "cold", 0),
        ((3, 0), 0, "mixed", 3),
        ((3, 1), 1, "cold", 4),
        ((3, 1), 2, "warm", 4),
        ((3, None), 0, "", None),
        ((None, None), 1, "cold", None),
    ],
)
def test_a_pool_is_as_warm_as_the_sidecars_said_when_the_phase_began(
    connections: tuple[int | None, ...], per_connection: int, pool: str, in_all: int | None
) -> None:
    run = measured()
    for window, toggled in zip(run.windows, (None, 9.0, None), strict=True):
        window.toggled = toggled
        state = replace(LIMITED, limits=replace(LIMITED.limits, max_requests_per_connection=per_connection))
        window.states = dict.fromkeys(window.starts, state)
        for (name, edge), count in zip(window.starts.items(), connections, strict=True):
            window.starts[name] = replace(edge, reading=replace(edge.reading, connections=count))
    for phase in report_of(run).phases:
        assert (phase.pool, phase.connections) == (pool, in_all)
        assert tuple(client.connections for client in phase.clients) == connections
