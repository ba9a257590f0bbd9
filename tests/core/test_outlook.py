"""Does a plan say what a scenario's phases will show, and what in load and limits does not fit together?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loadgen.estimate import NOTHING
from loadgen.inputs import load_plan, overridden
from loadgen.outlook import outlooks
from loadgen.preview import state_of
from loadgen.queueing import erlang_b
from tests.core.examples import OPEN, RULE, SCENARIO, changed, marked, write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loadgen.errors import Problem
    from loadgen.inputs import Plan
    from loadgen.outlook import Outlook

CODES = {"limit-never-reached", "limit-is-per-client", "service-ejected"}


def plan(folder: Path, text: str, rule: str = RULE, *, in_cluster: bool = False) -> Plan:
    return overridden(load_plan(write(folder, text, rule), in_cluster=in_cluster), {})


def foreseen(folder: Path, text: str, rule: str = RULE) -> list[Outlook]:
    made = plan(folder, text, rule)
    return list(outlooks(made.scenario, state_of(made.rules, made.service, made.client).limits, http2=made.speaks_http2))


def unfit(folder: Path, text: str, rule: str = RULE, *, in_cluster: bool = False) -> Sequence[Problem]:
    return [finding for finding in plan(folder, text, rule, in_cluster=in_cluster).findings if finding.code in CODES]


def test_only_phases_with_the_policy_have_an_outlook(tmp_path: Path) -> None:
    (found,) = foreseen(tmp_path, OPEN)
    assert (found.phase, found.duration_s, found.clients, found.service_time) == (
        "limited",
        10.0,
        10,
        "exponential 20ms, and up to 2ms more on the way",
    )
    assert found.prediction.lost.value == pytest.approx(erlang_b(5, 1.05))
    assert found.rate_per_s is None


def test_an_answer_that_is_not_expected_is_no_goodput(tmp_path: Path) -> None:
    fails = OPEN.replace("service:\n", "service:\n  status: 503\n")
    assert "the service answers 503" in foreseen(tmp_path, fails)[0].prediction.because
    assert foreseen(tmp_path, fails.replace("status: 200", "status: 503"))[0].prediction == foreseen(tmp_path, OPEN)[0].prediction
    assert "timeout of 20ms" in foreseen(tmp_path, OPEN.replace("timeout: 3s", "timeout: 20ms"))[0].prediction.because


def staged(folder: Path, stages: str) -> list[Outlook]:
    return foreseen(folder, changed("rate: 50/s", f"rate: 50/s\n  stages: [{stages}]", OPEN))


def test_each_rate_at_which_a_load_stays_has_one_for_as_long_as_it_does_in_the_phase(tmp_path: Path) -> None:
    found = staged(tmp_path, "{rate: 100/s, ramp: 2s}, {rate: 250/s, ramp: 2s, hold: 8s}, {rate: 500/s}")  # the phase is from 8 to 18 s
    assert [(each.rate_per_s, each.duration_s) for each in found] == [(250, 4), (500, 6)]
    assert [each.prediction.lost.value for each in found] == pytest.approx([erlang_b(5, 0.021 * rate) for rate in (250, 500)])
    short, whole = staged(tmp_path, "{rate: 500/s, hold: 9s}, {rate: 50/s}")[0], foreseen(tmp_path, OPEN.replace("50/s", "500/s"))[0]
    assert (short.duration_s, whole.duration_s) == (1, 10)
    ends = [each.prediction.lost for each in (short, whole)]
    widths = [(each.high or 0) - (each.low or 0) for each in ends]
    assert widths[0] > 1.5 * widths[1], "a tenth of the time leaves more to chance"


def test_a_ramp_to_the_same_rate_is_none(tmp_path: Path) -> None:
    found = staged(tmp_path, "{rate: 50/s, ramp: 12s}, {rate: 500/s}")
    assert [(each.rate_per_s, each.duration_s) for each in found] == [(50, 4), (500, 6)]


def test_a_rate_that_never_stays_in_the_phase_has_none_and_that_is_said(tmp_path: Path) -> None:
    (found,) = staged(tmp_path, "{rate: 500/s, ramp: 60s}")
    assert (found.prediction.law, found.prediction.lost, found.rate_per_s, found.duration_s) == ("undetermined", NOTHING, None, 10)
    assert "the rate of arrivals changes in this phase" in found.prediction.because


def test_the_service_sees_the_sum_of_all_clients(tmp_path: Path) -> None:
    (found,) = foreseen(tmp_path, OPEN)
    shown = found.to_json()
    assert (shown["client"]["admitted"]["high"], shown["service"]["admitted"]["high"]) == (5, 50)
    assert shown["service"]["goodput_per_s"]["predicted"] == pytest.approx(10 * shown["client"]["goodput_per_s"]["predicted"])
    assert shown["service"]["loss"] == shown["client"]["loss"]


def test_http2_is_seen_in_the_rule(tmp_path: Path) -> None:
    rule = f"{RULE}        h2UpgradePolicy: UPGRADE\n      tcp:\n        maxConnections: 1\n"
    (found,) = foreseen(tmp_path, OPEN, rule)
    assert found.prediction.law == "erlang"
    (found,) = foreseen(tmp_path, OPEN, rule.replace("UPGRADE", "DO_NOT_UPGRADE"))
    assert found.prediction.law == "queue"


def test_a_queue_that_outgrows_the_timeout_within_the_phase_is_seen_before(tmp_path: Path) -> None:
    queue = RULE.replace("      http:\n        http2MaxRequests: 5", "      tcp:\n        maxConnections: 1")
    (found,) = foreseen(tmp_path, OPEN.replace("50/s", "100/s"), queue)
    assert "what comes after about 3.0 s waits longer than the timeout of 3s" in found.prediction.because
    (found,) = foreseen(tmp_path, OPEN.replace("50/s", "55/s"), queue)
    assert found.prediction.because.endswith("can be served"), "it would take 30 s"


@pytest.mark.parametrize(
    ("rate", "timeout", "arrivals", "said"),
    [
        ("49/s", "500ms", "constant", "; if each takes 22ms, what comes after about 6.2 s waits longer than the timeout of 500ms"),
        ("45/s", "500ms", "constant", ""),  # that can be served
        ("49/s", "3s", "constant", ""),  # nobody waits for so long within the phase
        ("49/s", "500ms", "poisson", ""),
    ],
)
def test_constant_arrivals_at_what_can_be_served_may_be_more_than_that(
    tmp_path: Path, rate: str, timeout: str, arrivals: str, said: str
) -> None:
    near = OPEN.replace("50/s", rate).replace("3s", timeout).replace("poisson", arrivals).replace("exponential 20ms", "20ms")
    queue = RULE.replace("      http:\n        http2MaxRequests: 5", "      tcp:\n        maxConnections: 1")
    (found,) = foreseen(tmp_path, near, queue)
    assert "".join(found.prediction.because.partition("; if each takes")[1:]) == said
    bounded = queue.replace("maxConnections: 1", "maxConnections: 1\n      http: {http1MaxPendingRequests: 3}")
    assert "if each takes" not in foreseen(tmp_path, near, bounded)[0].prediction.because


PENDING = RULE.replace("http2MaxRequests: 5", "http1MaxPendingRequests: 7\n        http2MaxRequests: 3")
BURST = changed("closed\n  users: 5\n  think_time: exponential 30ms", "burst\n  size: 4")

UNREACHED = [
    (SCENARIO, RULE, "http2MaxRequests: 5", "each client has 5 users, so a client has at most 5 in flight"),
    (SCENARIO, PENDING, "http1MaxPendingRequests: 7", "each client has 5 users"),
    (BURST, RULE, "http2MaxRequests: 5", "a burst has 4 requests"),
    (changed("timeout: 3s", "max_in_flight: 4", OPEN), RULE, "http2MaxRequests: 5", "max_in_flight is 4"),
    (
        changed("rate: 50/s", "rate: 1/m", OPEN),
        RULE,
        "http2MaxRequests: 5",
        "0.00037 in service on average, and no rejection is to be expected",
    ),
    (
        changed("poisson", "constant", changed("time: exponential 20ms", "time: 78ms", OPEN)),
        RULE,
        "http2MaxRequests: 5",
        "4 in service on average",
    ),
]


@pytest.mark.parametrize(("text", "rule", "where", "message"), UNREACHED)
def test_a_limit_that_the_load_cannot_reach_is_pointed_at(tmp_path: Path, text: str, rule: str, where: str, message: str) -> None:
    (found,) = unfit(tmp_path, text, rule)
    assert found.code == "limit-never-reached"
    assert message in found.message
    do = "raise max_in_flight" if "max_in_flight" in message else "offer more load"
    assert found.hint == f"{do} or lower the limit, or the run shows nothing of it"
    assert marked(found) == where.split(": ")[1]
    assert found.excerpt.strip() == where


def test_nobody_is_told_to_lower_a_limit_of_1(tmp_path: Path) -> None:
    (found,) = unfit(tmp_path, SCENARIO.replace("users: 5", "users: 1"), RULE.replace("5\n", "1\n"))
    assert found.hint == "offer more load, or the run shows nothing of it"


def test_a_limit_whose_places_are_always_free_again_is_pointed_at(tmp_path: Path) -> None:
    text = OPEN.replace("poisson", "constant").replace("50/s", "10/s").replace("exponential 20ms", "90ms")
    (found,) = unfit(tmp_path, text, RULE.replace("5\n", "1\n"))
    assert found.code == "limit-never-reached"
    assert unfit(tmp_path, text.replace("90ms", "98ms"), RULE.replace("5\n", "1\n")) == []


def test_a_limit_that_the_time_on_the_way_reaches_is_not_pointed_at(tmp_path: Path) -> None:
    assert unfit(tmp_path, OPEN.replace("exponential 20ms", "none"), RULE.replace("5\n", "1\n")) == []


@pytest.mark.parametrize(
    "text",
    [
        changed("users: 5", "users: 6"),
        OPEN,
        changed("rate: 50/s", "rate: 1/s\n  stages: [{rate: 50/s, hold: 1s}, {rate: 1/s}]", OPEN),
        changed("size: 4", "size: 6", BURST),
        SCENARIO.replace("policy: applied", "policy: absent").replace("policy: removed", "policy: absent"),
    ],
    ids=["users", "rate", "highest rate", "burst", "no phase with it"],
)
def test_a_load_that_may_reach_the_limit_is_not_warned_of(tmp_path: Path, text: str) -> None:
    assert unfit(tmp_path, text) == []


MANY = changed("users: 5", "users: 20")
RARE = changed("users: 5\n  think_time: exponential 30ms", "users: 100\n  think_time: exponential 60s").replace("exponential 20ms", "1ms")
FEW_CONNECTIONS = RULE.replace(
    "      http:\n        http2MaxRequests: 5",
    "      tcp:\n        maxConnections: 3\n      http:\n        http1MaxPendingRequests: 4\n        http2MaxRequests: 10",
)


def test_users_who_think_for_long_do_not_reach_a_limit_that_is_lower_than_their_number(tmp_path: Path) -> None:
    (found,) = unfit(tmp_path, RARE, RULE.replace("5\n", "50\n"))
    assert marked(found) == "50"
    assert (
        "of 100 users who think 60s on average, and with a service time of constant 1ms and up to 2ms on the way, 0.005 are in service on average"
        in found.message
    )
    assert unfit(tmp_path, RARE.replace("think_time: exponential", "think_time:"), RULE.replace("5\n", "50\n")) == [], (
        "all at once, perhaps"
    )
    assert unfit(tmp_path, RARE, RULE.replace("5\n", "1\n")) == []


@pytest.mark.parametrize(
    ("rule", "mark", "message", "hint"),
    [
        (
            RULE.replace("http2MaxRequests: 5", "maxRetries: 3"),
            "3",
            "retries what could not be sent, never an overflow",
            "try it in a cluster",
        ),
        (
            RULE.replace("http2MaxRequests: 5", "maxRequestsPerConnection: 1000000"),
            "1000000",
            "at most some 4,000 requests while the rule is applied, over all its connections",
            "offer more load",
        ),
        (FEW_CONNECTIONS, "10", "has at most 3 connections, and each carries one request at a time", "make maxConnections larger"),
    ],
)
def test_every_kind_of_limit_that_is_not_reached_is_pointed_at(tmp_path: Path, rule: str, mark: str, message: str, hint: str) -> None:
    (found,) = unfit(tmp_path, MANY, rule)
    assert (found.code, marked(found)) == ("limit-never-reached", mark)
    assert message in found.message
    assert hint in found.hint


def test_a_connection_may_carry_as_many_requests_as_a_client_has(tmp_path: Path) -> None:
    assert unfit(tmp_path, MANY, RULE.replace("http2MaxRequests: 5", "maxRequestsPerConnection: 4000")) == []
    burst = changed("size: 4", "size: 6\n  pause: 1s", BURST)
    few = RULE.replace("http2MaxRequests: 5", "maxRequestsPerConnection: 200")
    assert "at most some 60 requests" in unfit(tmp_path, burst, few)[0].message


@pytest.mark.parametrize(("workers", "codes"), [(8, ["limit-never-reached"]), (9, [])])
def test_each_worker_may_have_a_connection_more(tmp_path: Path, workers: int, codes: list[str]) -> None:
    found = unfit(tmp_path, MANY.replace("count: 10", f"count: 10\n  workers: {workers}"), FEW_CONNECTIONS)
    assert [each.code for each in found] == codes


def test_over_http2_few_connections_carry_many_requests(tmp_path: Path) -> None:
    assert unfit(tmp_path, MANY, f"{FEW_CONNECTIONS}        h2UpgradePolicy: UPGRADE\n") == []


def test_in_a_cluster_nothing_is_concluded_from_what_nobody_has_said_of_its_service(tmp_path: Path) -> None:
    slow = changed("rate: 50/s", "rate: 1/m", OPEN)
    silent = slow.replace("service:\n  time: exponential 20ms\n", "")
    assert silent != slow
    assert [each.code for each in unfit(tmp_path, slow, in_cluster=True)] == ["limit-never-reached"]
    assert [each.code for each in unfit(tmp_path, silent)] == ["limit-never-reached"]
    assert unfit(tmp_path, silent, in_cluster=True) == []


def test_in_a_cluster_connections_fail_and_sidecars_have_workers_of_their_own(tmp_path: Path) -> None:
    assert unfit(tmp_path, MANY, RULE.replace("http2MaxRequests: 5", "maxRetries: 3"), in_cluster=True) == []
    assert unfit(tmp_path, MANY, FEW_CONNECTIONS, in_cluster=True) == []


def test_in_a_cluster_the_scenario_s_workers_are_nobody_s(tmp_path: Path) -> None:
    rule = RULE.replace("      http:\n", "      tcp: {maxConnections: 2}\n      http:\n")
    text = SCENARIO.replace("count: 10", "count: 10\n  workers: 16")
    assert "endless-queue" not in {each.code for each in plan(tmp_path, text, rule).findings}
    (found,) = (each for each in plan(tmp_path, text, rule, in_cluster=True).findings if each.code == "endless-queue")
    assert "16" not in found.message


def test_the_limit_of_a_port_is_pointed_at_where_it_stands(tmp_path: Path) -> None:
    rule = RULE.replace("    connectionPool:\n", "    portLevelSettings:\n    - port: {number: 7000}\n      connectionPool:\n")
    rule = rule.replace("      http:\n        http2", "        http:\n          http2")
    (found,) = unfit(tmp_path, SCENARIO, rule)
    assert (found.line, marked(found)) == (13, "5")
    second = rule.partition("    portLevelSettings:\n")[2].replace("5\n", "6\n")
    (found,) = unfit(tmp_path, SCENARIO, rule + second)
    assert (found.line, marked(found)) == (13, "5"), "of two entries for one port Istio takes the first one"


TOO_FEW = changed("timeout: 3s", "max_in_flight: 4", OPEN)


def held_back(folder: Path, text: str, rule: str = RULE, *, in_cluster: bool = False) -> list[Problem]:
    return [finding for finding in plan(folder, text, rule, in_cluster=in_cluster).findings if finding.code == "max-in-flight-too-low"]


@pytest.mark.parametrize(
    ("text", "share", "enough"),
    [
        (TOO_FEW, "1.5%", 6),  # Erlang's B(4, 1)
        (TOO_FEW.replace("50/s", "500/s").replace("poisson", "constant").replace("exponential 20ms", "20ms"), "60.0%", 11),
        (TOO_FEW.replace("50/s", "250/s").replace("poisson", "constant"), "33.3%", 11),
        (TOO_FEW.replace("rate: 50/s", "rate: 1/s\n  stages: [{rate: 1/s, hold: 13s}, {rate: 500/s, hold: 5s}, {rate: 1/s}]"), "64.5%", 23),
    ],
)
def test_a_max_in_flight_that_makes_a_run_invalid_before_the_limit_is_reached_is_pointed_at(
    tmp_path: Path, text: str, share: str, enough: int
) -> None:
    (found,) = held_back(tmp_path, text)
    assert f"max_in_flight 4 comes before http2MaxRequests 5: some {share} of all requests of phase limited are not sent" in found.message
    assert found.hint == f"raise max_in_flight to {enough} or more, or offer less load"
    assert marked(found) == "5"


@pytest.mark.parametrize(
    "text",
    [
        TOO_FEW.replace("max_in_flight: 4", "max_in_flight: 6"),
        TOO_FEW.replace("50/s", "40/s"),
        TOO_FEW.replace("poisson", "constant").replace("exponential 20ms", "79ms"),
        TOO_FEW.replace("exponential 20ms", "none").replace("poisson", "constant"),
        SCENARIO,
    ],
    ids=["above the limit", "few", "constant", "no time", "users"],
)
def test_a_max_in_flight_that_holds_back_next_to_nothing_is_not(tmp_path: Path, text: str) -> None:
    assert held_back(tmp_path, text) == []


def test_a_max_in_flight_that_is_too_low_for_a_phase_without_the_rule_is_pointed_at(tmp_path: Path) -> None:
    above = TOO_FEW.replace("max_in_flight: 4", "max_in_flight: 6").replace("50/s", "250/s")  # Erlang's B(6, 5)
    (found,) = held_back(tmp_path, above)
    assert "max_in_flight 6 is too low for what no limit rejects: some 19.2% of all requests of phase " in found.message
    assert "limited" not in found.message
    assert found.hint == "raise max_in_flight to 15 or more, or offer less load"
    assert held_back(tmp_path, above.replace("max_in_flight: 6", "max_in_flight: 15")) == []
    assert len(held_back(tmp_path, TOO_FEW.replace("rate: 50/s", "rate: 500/s\n  stages: [{rate: 500/s, hold: 8s}, {rate: 1/s}]"))) == 1


CONNECTIONS = RULE.replace("http:\n        http2MaxRequests: 5", "tcp:\n        maxConnections: 1")


def test_a_queue_that_grows_until_max_in_flight_is_reached_is_pointed_at(tmp_path: Path) -> None:
    text = TOO_FEW.replace("50/s", "100/s").replace("max_in_flight: 4", "max_in_flight: 51")  # 50 a second are served
    (found,) = held_back(tmp_path, text, CONNECTIONS)
    assert (
        "the queue before maxConnections 1 grows, for no more than 50.0/s can be served: after about 1.0 s of phase limited, when 100.0/s come,"
        in found.message
    )
    assert found.hint.endswith(", or raise max_in_flight to 612: no more come within the timeout")  # 500 in 5 s, and what is beyond chance
    for enough in (
        text.replace("51", "612"),
        text.replace("51", "1000"),
        text.replace("100/s", "40/s"),
        text.replace("\n  arrivals", "\n  timeout: 500ms\n  arrivals"),
    ):
        assert held_back(tmp_path, enough, CONNECTIONS) == []
    assert held_back(tmp_path, text, RULE) == []


@pytest.mark.parametrize(
    ("stages", "after"),
    [
        ("{rate: 100/s, hold: 700ms}, {rate: 1/s, hold: 5s}, {rate: 100/s, hold: 700ms}, {rate: 1/s}", None),  # 35 wait, none, 35
        ("{rate: 100/s, hold: 700ms}, {rate: 50/s, hold: 3s}, {rate: 100/s, hold: 700ms}, {rate: 1/s}", "4.0"),  # 35, 35, 50
        ("{rate: 1/s, hold: 1s}, {rate: 100/s, ramp: 5s}, {rate: 1/s}", "5.7"),  # beyond 50/s from 3.5 s on, 19.8/s more each second
        ("{rate: 200/s, hold: 200ms}, {rate: 1/s}", None),
        ("{rate: 1/s, hold: 9900ms}, {rate: 1000/s, hold: 200ms}, {rate: 1/s}", "10.0"),
    ],
)
def test_a_queue_that_drains_meanwhile_is_not_added_up(tmp_path: Path, stages: str, after: str | None) -> None:
    staged = f"rate: 1/s\n  stages: [{{rate: 1/s, hold: 8s}}, {stages}]"  # the phase with the rule begins at 8 s
    text = TOO_FEW.replace("rate: 50/s", staged).replace("max_in_flight: 4", "max_in_flight: 51").replace("exponential 20ms", "20ms")
    found = held_back(tmp_path, text.replace("poisson", "constant"), CONNECTIONS)
    assert [f"after about {after} s of phase limited" in each.message for each in found] == ([] if after is None else [True]), found


def test_a_queue_ends_with_the_rule_and_every_worker_drains_it(tmp_path: Path) -> None:
    text = TOO_FEW.replace("50/s", "100/s").replace("max_in_flight: 4", "max_in_flight: 51").replace("duration: 10s", "duration: 900ms")
    assert held_back(tmp_path, text, CONNECTIONS) == [], "45 wait"
    longer = text.replace("  - name: recovered\n", "  - {name: still, policy: applied, duration: 900ms}\n  - name: recovered\n")
    assert "after about 0.1 s of phase still, when 100.0/s come," in held_back(tmp_path, longer, CONNECTIONS)[0].message
    apart = text.replace(
        "  - name: recovered\n",
        "  - {name: gone, policy: removed, duration: 1s}\n  - {name: still, policy: applied, duration: 900ms}\n  - name: recovered\n",
    )
    assert held_back(tmp_path, apart, CONNECTIONS) == []
    assert held_back(tmp_path, text.replace("900ms", "10s").replace("count: 10", "count: 10\n  workers: 2"), CONNECTIONS) == []


def test_each_rate_of_a_phase_is_told_of_what_was_there_before(tmp_path: Path) -> None:
    staged = "rate: 1/s\n  stages: [{rate: 1/s, hold: 8s}, {rate: 100/s, hold: 1900ms}, {rate: 60/s, hold: 4s}, {rate: 1/s}]"
    made = plan(
        tmp_path, OPEN.replace("rate: 50/s", staged).replace("timeout: 3s", "timeout: 2s").replace("exponential 20ms", "20ms"), CONNECTIONS
    )
    seen = list(outlooks(made.scenario, state_of(made.rules, made.service, made.client).limits))
    late = ["waits longer than the timeout of 2s" in each.prediction.because for each in seen]
    assert dict(zip((each.rate_per_s for each in seen), late, strict=True)) == {100.0: True, 60.0: True, 1.0: False}


LATE = "what comes after about {} of phase limited waits longer than the timeout of 1s"
OPENED = OPEN.replace("timeout: 3s", "timeout: 1s").replace("exponential 20ms", "20ms")  # 50 a second are served


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OPENED.replace("50/s", "100/s"), LATE.format("1.0 s")),
        (
            OPENED.replace("50/s", "1/s\n  stages: [{rate: 1/s, hold: 8s}, {rate: 200/s, ramp: 5s}, {rate: 1/s, ramp: 5s}]"),
            LATE.format("2.8 s"),
        ),
        (OPENED.replace("50/s", "49/s"), ""),
        (
            SCENARIO.replace("users: 5", "users: 100").replace("30ms", "30ms\n  timeout: 1s"),
            "the last would be answered after about 2.0 s, and the timeout is 1s",
        ),
        (SCENARIO.replace("users: 5", "users: 50").replace("30ms", "30ms\n  timeout: 1s"), ""),  # one or two of them think
        (BURST.replace("size: 4", "size: 60\n  timeout: 1s"), "the last would be answered after about 1.2 s, and the timeout is 1s"),
        (BURST.replace("size: 4", "size: 40\n  timeout: 1s"), ""),
    ],
)
def test_a_queue_in_which_requests_wait_for_longer_than_the_timeout_is_pointed_at(tmp_path: Path, text: str, said: str) -> None:
    found = [each for each in plan(tmp_path, text, CONNECTIONS).findings if each.code == "queue-outgrows-timeout"]
    assert [said in each.message for each in found] == ([True] if said else []), found
    assert not found or marked(found[0]) == "1"
    assert "queue-outgrows-timeout" not in {each.code for each in plan(tmp_path, text, CONNECTIONS, in_cluster=True).findings}
    assert "queue-outgrows-timeout" not in {each.code for each in plan(tmp_path, text, RULE).findings}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OPEN.replace("timeout: 3s", "timeout: 20ms"), "36.8% of what http2MaxRequests 5 lets through fails"),
        (
            changed("exponential 30ms", "exponential 30ms\n  timeout: 15ms").replace("exponential 20ms", "20ms"),
            "100.0% of what http2MaxRequests 5",
        ),
        (OPEN.replace("timeout: 3s", "timeout: 93ms"), ""),  # 0.96 %
        (OPEN.replace("timeout: 3s", "timeout: 92ms"), "1.0% of what"),
    ],
)
def test_a_timeout_that_the_service_itself_outlasts_is_pointed_at(tmp_path: Path, text: str, said: str) -> None:
    found = [each for each in plan(tmp_path, text).findings if each.code == "timeout-too-short"]
    assert [said in each.message for each in found] == ([True] if said else []), found
    assert not found or marked(found[0]) == "5"


@pytest.mark.parametrize(("pending", "late"), [(60, True), (40, False)])
def test_a_queue_with_an_end_is_as_long_as_that(tmp_path: Path, pending: int, late: bool) -> None:
    bounded = f"{CONNECTIONS}      http:\n        http1MaxPendingRequests: {pending}\n"
    for text in (OPENED.replace("50/s", "100/s"), SCENARIO.replace("users: 5", "users: 500").replace("30ms", "30ms\n  timeout: 1s")):
        assert ("queue-outgrows-timeout" in {each.code for each in plan(tmp_path, text, bounded).findings}) is late


def test_a_queue_with_an_end_that_max_in_flight_fills_first_is_as_one_without(tmp_path: Path) -> None:
    text = TOO_FEW.replace("50/s", "100/s").replace("max_in_flight: 4", "max_in_flight: 51")
    bounded = f"{CONNECTIONS}      http:\n        http1MaxPendingRequests: 50\n"
    assert len(held_back(tmp_path, text, bounded)) == 1
    assert [each for each in held_back(tmp_path, text, bounded.replace("50\n", "49\n")) if "grows" in each.message] == []


def test_of_a_service_that_is_too_slow_by_itself_no_queue_is_blamed(tmp_path: Path) -> None:
    slow = OPENED.replace("20ms", "2s").replace("50/s", "6/s")
    rule = CONNECTIONS.replace("maxConnections: 1", "maxConnections: 10")
    assert "queue-outgrows-timeout" not in {each.code for each in plan(tmp_path, slow, rule).findings}


def test_what_comes_while_the_rate_changes_is_said_not_to_be_predicted(tmp_path: Path) -> None:
    ramps = "rate: 5/s\n  stages: [{rate: 5/s, hold: 10s}, {rate: 60/s, ramp: 2s}, {rate: 5/s, ramp: 2s}]"
    made = plan(tmp_path, OPEN.replace("rate: 50/s", ramps))
    seen = list(outlooks(made.scenario, state_of(made.rules, made.service, made.client).limits))
    assert [(each.rate_per_s, round(each.duration_s, 6)) for each in seen] == [(5.0, 6.0), (None, 4.0)]
    assert "the rate of arrivals changes in this phase" in seen[1].prediction.because


def test_what_another_limit_rejects_before_is_in_flight_no_longer(tmp_path: Path) -> None:
    assert "phase limited" not in held_back(tmp_path, TOO_FEW, PENDING)[0].message
    assert "phase limited" in held_back(tmp_path, TOO_FEW, PENDING.replace("Requests: 3", "Requests: 4"))[0].message
    assert held_back(tmp_path, TOO_FEW.replace("service:\n  time: exponential 20ms\n", ""), in_cluster=True) == []


def expecting(text: str, clients: int = 10) -> str:
    more = changed("users: 5", "users: 20", changed("count: 10", f"count: {clients}"))
    return changed("limited: [ok > 0, overflow > 0]", f"limited: [ok > 0, '{text}']", more)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("peak_in_flight <= 5", "expect peak_in_flight <= 50"),
        ("peak_in_flight < 6", "expect peak_in_flight <= 50"),
        ("peak_in_flight == 20", "expect peak_in_flight <= 50, or give each client its share: http2MaxRequests 2"),
    ],
)
def test_an_expectation_that_takes_a_sidecars_limit_for_the_services_is_found(tmp_path: Path, text: str, hint: str) -> None:
    (found,) = unfit(tmp_path, expecting(text))
    assert (found.code, found.hint, marked(found)) == ("limit-is-per-client", hint, "5")
    assert f"holds in each of 10 sidecars, so the service may see 50 at a time; '{text}' of phase limited" in found.message


@pytest.mark.parametrize(
    ("text", "clients"), [("peak_in_flight <= 50", 10), ("peak_in_flight > 5", 10), ("peak_in_flight <= 3", 10), ("peak_in_flight <= 5", 1)]
)
def test_nobody_is_warned_of_what_may_be_meant_so(tmp_path: Path, text: str, clients: int) -> None:
    assert unfit(tmp_path, expecting(text, clients)) == []


def ejecting(outlier: str, port: str = "") -> str:
    block = f"outlierDetection: {{{outlier}}}"
    return f"{RULE}    portLevelSettings: [{{port: {{number: {port}}}, {block}}}]\n" if port else f"{RULE}    {block}\n"


def failing(status: int) -> str:
    return changed("time: exponential 20ms", f"time: exponential 20ms\n  status: {status}", changed("users: 5", "users: 20"))


ALL = "maxEjectionPercent: 100"


@pytest.mark.parametrize(
    ("outlier", "status", "answers"),
    [
        (ALL, 503, "5 such answers"),
        (f"{ALL}, minHealthPercent: 0, splitExternalLocalOriginErrors: true", 500, "5 such answers"),
        (f"{ALL}, consecutive5xxErrors: 1", 599, "1 such answer "),
        (f"{ALL}, consecutive5xxErrors: 0, consecutiveGatewayErrors: 7", 502, "7 such answers"),
        (f"{ALL}, consecutiveGatewayErrors: 3", 504, "3 such answers"),
    ],
)
def test_a_rule_that_ejects_a_service_for_what_the_scenario_has_it_answer_is_found(
    tmp_path: Path, outlier: str, status: int, answers: str
) -> None:
    (found,) = unfit(tmp_path, failing(status), ejecting(outlier))
    assert (found.code, found.line, marked(found)) == ("service-ejected", 12, "100")
    assert f"the scenario's service answers {status}, and after {answers}" in found.message
    assert "its default 10 ejects none" in found.hint
    assert unfit(tmp_path, failing(status), ejecting(outlier), in_cluster=True) == [], "its endpoints and answers are what they are"


@pytest.mark.parametrize(
    ("outlier", "status"),
    [
        (ALL, 200),
        (ALL, 404),
        ("", 503),
        ("consecutive5xxErrors: 1, maxEjectionPercent: 99", 503),
        (f"{ALL}, minHealthPercent: 1", 503),
        (f"{ALL}, consecutive5xxErrors: 0", 503),
        (f"{ALL}, consecutive5xxErrors: 0, consecutiveGatewayErrors: 5", 500),
        (f"{ALL}, consecutive5xxErrors: 0, consecutiveGatewayErrors: 5", 505),
        (f"{ALL}, consecutive5xxErrors: 100000", 503),
    ],
)
def test_of_a_service_that_stays_nobody_is_warned(tmp_path: Path, outlier: str, status: int) -> None:
    assert unfit(tmp_path, failing(status), ejecting(outlier)) == []


def test_the_ejection_that_counts_is_the_one_of_the_port(tmp_path: Path) -> None:
    (found,) = unfit(tmp_path, failing(503), ejecting(ALL, "7000"))
    assert (found.code, marked(found)) == ("service-ejected", "100")
    assert unfit(tmp_path, failing(503), ejecting(ALL, "7001")) == []


def test_few_connections_fill_max_in_flight_whatever_limit_of_requests_they_never_reach(tmp_path: Path) -> None:
    text = TOO_FEW.replace("50/s", "100/s").replace("max_in_flight: 4", "max_in_flight: 51")
    both = CONNECTIONS + "      http:\n        http2MaxRequests: 5\n"
    assert [each.code for each in plan(tmp_path, text, both).findings] == ["endless-queue", "max-in-flight-too-low"]
    assert held_back(tmp_path, text, both.replace("maxConnections: 1", "maxConnections: 6")) == [], "these reject first"


def test_a_queue_that_fills_for_a_moment_of_a_long_phase_is_not_pointed_at(tmp_path: Path) -> None:
    stages = "rate: 100/s\n  stages: [{rate: 100/s, hold: %ss}, {rate: 49/s}]"  # the phase with the rule begins after 8 s
    text = TOO_FEW.replace("max_in_flight: 4", "max_in_flight: 51")
    assert held_back(tmp_path, text.replace("rate: 50/s", stages % 9.05), CONNECTIONS) == []
    assert len(held_back(tmp_path, text.replace("rate: 50/s", stages % 11), CONNECTIONS)) == 1


@pytest.mark.parametrize(("arrivals", "time"), [("constant", "20s"), ("poisson", "exponential 20s")])
def test_nothing_is_in_flight_for_longer_than_the_timeout(tmp_path: Path, arrivals: str, time: str) -> None:
    text = TOO_FEW.replace("poisson", arrivals).replace("exponential 20ms", time).replace("\n  arrivals", "\n  timeout: 1s\n  arrivals")
    assert held_back(tmp_path, text.replace("max_in_flight: 4", "max_in_flight: 80")) == []
    assert len(held_back(tmp_path, text.replace("max_in_flight: 4", "max_in_flight: 40"))) == 1


def test_no_max_in_flight_is_advised_that_a_scenario_may_not_have(tmp_path: Path) -> None:
    (found,) = held_back(tmp_path, TOO_FEW.replace("50/s", "25000/s").replace("exponential 20ms", "exponential 1s"))
    assert found.hint == "offer less load"
