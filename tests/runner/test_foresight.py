"""Is a phase said to be as predicted if it is, and to part if it does, and is nothing compared that cannot be?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pytest

from loadgen.cause import Cause, Found, MadeBy
from loadgen.engine.edge import Edge, Reading
from loadgen.inputs import Plan, load_plan
from loadgen.ledger import Counters, ServiceCount, ServiceReading
from loadgen.outcome import Outcome
from loadgen.pacing import Interval
from loadgen.policy.limits import Limits
from loadgen.policy.state import SidecarState
from loadgen.queueing import constant_arrivals
from loadgen.recorder import Tally
from loadgen.report import PredictionPart, Report
from loadgen.runner.foresight import with_predictions
from loadgen.runner.result import make_report
from loadgen.runner.window import Measured, Window
from tests.runner.test_result import ENVIRONMENT
from tests.story.command import SCENARIOS

if TYPE_CHECKING:
    from pathlib import Path

FIVE = Limits(max_requests=5)
FREE = SidecarState(Limits(), None)
SECONDS = 20.0


def plan(text: str = "", folder: Path | None = None) -> Plan:
    """Give the scenario with Poisson arrivals at 50/s against a service of 100 ms and a limit of five, with other lines if there are any."""
    path = SCENARIOS / "http2-max-requests.yaml"
    if folder is None:
        return load_plan(path)
    old, new = text.split(" -> ")
    changed = folder / "changed.yaml"
    changed.write_text(path.read_text().replace(old, new).replace("policies/", f"{SCENARIOS}/policies/"))
    return load_plan(changed)


def tally(ok: int, overflow: int, *, timeout: int = 0, way_s: float = 0.001, server_side: int = 0) -> Tally:
    made = Tally()
    for _ in range(server_side):
        made.record(Outcome.OVERFLOW, 2 * way_s, 503, Found(Cause.OVERFLOW, MadeBy.SERVER_SIDE))
    made.server_overflow += server_side
    for outcome, count, seconds in ((Outcome.OK, ok, 0.1 + way_s), (Outcome.OVERFLOW, overflow, way_s), (Outcome.TIMEOUT, timeout, 3.0)):
        for _ in range(count):
            made.record(outcome, seconds)
    return made


def prediction(
    made: Plan,
    each: Tally,
    limits: Limits = FIVE,
    *,
    peak: int = 5,
    pending: int = 0,
    states: tuple[Limits, ...] = (),
    mesh: Literal["local", "cluster"] = "local",
) -> PredictionPart | None:
    """Give what is said of a phase in which each of two clients saw the same."""
    names = ("client-1", "client-2")
    seen = dict(zip(names, states or (limits, limits), strict=True))
    overflow = each.sidecar_overflow
    counted = Counters(active_overflow=overflow - pending, pending_overflow=pending, total=each.outcomes[Outcome.OK] + each.server_overflow)
    starts = {name: Edge(100.0, Reading(Counters(), 0), Tally(), 0) for name in names}
    ends = {name: Edge(100.0 + SECONDS, Reading(counted, each.outcomes[Outcome.OK]), each, overflow) for name in names}
    window = Window(
        made.scenario.phases[1],
        starts,
        {},
        dict.fromkeys(names, 0.0),
        {name: SidecarState(limit, "base/user") for name, limit in seen.items()},
        ServiceReading(ServiceCount(), {}),
        {1: 0.0},
        began=100.0,
        rules=made.rules,
    )
    window.ends, window.tallies, window.cpu_end_s, window.ended = ends, dict.fromkeys(names, each), {1: 1.0}, 100.0 + SECONDS
    counts = dict.fromkeys(names, ServiceCount(each.outcomes[Outcome.OK], 0, peak))
    window.service = ServiceReading(ServiceCount(2 * each.outcomes[Outcome.OK], 0, 2 * peak), counts)
    measured = Measured(windows=[window], restored=True, began=90.0)
    report = make_report(made, measured, SidecarState(limits, "base/user"), ENVIRONMENT, "2026-01-01T00:00:00+00:00", mesh)
    found = with_predictions(report, made, measured)
    assert Report.of_json(found.to_json()) == found
    return found.phases[0].prediction


def said(*arguments: object, **more: object) -> PredictionPart:
    found = prediction(*arguments, **more)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_what_erlang_says_is_as_predicted_and_the_service_time_is_the_measured_one() -> None:
    found = said(plan(), tally(715, 285))
    assert (found.law, found.parts) == ("erlang", False)
    assert found.service_time_s == pytest.approx((0.1, 0.101), abs=1e-5)
    assert found.offered == pytest.approx((5.0, 5.05), abs=1e-3)
    assert found.loss.predicted == pytest.approx(0.287, abs=1e-3)
    assert found.goodput_per_s.measured == pytest.approx(2 * 715 / SECONDS)
    assert found.sentence.startswith("As predicted: 28.5% lost, ")
    assert found.sentence.endswith(" predicted; 5 of a client admitted at a time, at most 5 predicted.")


@pytest.mark.parametrize("overflow", [100, 450])
def test_another_loss_parts_from_it_and_says_where(overflow: int) -> None:
    found = said(plan(), tally(1000 - overflow, overflow))
    assert found.parts is True
    assert found.sentence.startswith(f"Parts from the prediction: {overflow / 10:.1f}% lost, ")
    assert "admitted" not in found.sentence, "that is as predicted"


def test_more_than_the_limit_admitted_parts_from_it() -> None:
    found = said(plan(), tally(715, 285), peak=6)
    assert found.sentence == "Parts from the prediction: 6 of a client admitted at a time, at most 5 predicted."


def test_a_slower_service_than_the_scenario_says_is_no_parting() -> None:
    slow = Tally()
    for outcome, count, seconds in ((Outcome.OK, 544, 0.181), (Outcome.OVERFLOW, 456, 0.001)):  # Erlang's B(5, 9) is 0.457
        for _ in range(count):
            slow.record(outcome, seconds)
    found = said(plan(), slow)
    assert found.parts is False


def test_requests_that_ended_otherwise_are_no_business_of_theory() -> None:
    found = said(plan(), tally(500, 100, timeout=30))
    assert found.parts is None
    assert found.sentence == "Not compared: 60 requests ended in another way, of which theory says nothing."
    assert found.service_time_from.endswith("; of answers that came in time only, and 60 did not")
    assert "in time" not in said(plan(), tally(500, 100, timeout=3)).service_time_from


def test_what_the_server_s_side_rejected_is_no_business_of_theory_either() -> None:
    found = said(plan(), tally(500, 100, server_side=400), mesh="cluster")
    assert found.parts is None
    assert found.sentence == "Not compared: 800 requests were rejected at the server's side, of which theory says nothing."
    assert said(plan(), tally(500, 100, server_side=400, timeout=30)).sentence == (
        "Not compared: 60 requests ended in another way and 800 requests were rejected at the server's side, of which theory says nothing."
    )
    assert said(plan(), tally(715, 284, server_side=1), mesh="cluster").parts is False, "too few to move a figure"


@pytest.mark.parametrize("limit", [5, 7])
def test_in_a_cluster_the_scenario_s_service_time_is_no_fact(tmp_path: Path, limit: int) -> None:
    constant = plan("arrivals: poisson -> arrivals: constant", tmp_path)
    service = constant.scenario.service.model_copy(update={"time": Interval(0.02)})
    constant = replace(constant, scenario=constant.scenario.model_copy(update={"service": service}))
    lost = round(1000 * constant_arrivals(limit, 5.0))
    found = said(constant, tally(1000 - lost, lost), Limits(max_requests=limit), peak=limit, mesh="cluster")
    assert (found.law, found.parts) == ("bound", False), "the real service is exponential, of 100 ms"
    assert "nothing is known of how the service time is distributed" in found.because
    assert found.service_time_s == pytest.approx((0.1, 0.101), abs=1e-5)


def test_of_constant_arrivals_of_which_one_was_held_up_nothing_is_compared_however_that_one_ended() -> None:
    made, six = plan(), Limits(max_requests=6)
    load = made.scenario.load.model_copy(update={"arrivals": "constant"})
    service = made.scenario.service.model_copy(update={"time": Interval(0.1)})
    made = replace(made, scenario=made.scenario.model_copy(update={"load": load, "service": service}))
    assert said(made, tally(1000, 0), six).loss.inside is True
    found = said(made, tally(1000, 0, timeout=1), six)
    assert (found.loss.inside, found.parts) == (None, False)
    assert "a request ended 3.00 s after it was due, so of this run that is not true" in found.because


def test_a_queue_that_goes_on_from_the_phase_before_may_let_through_more_than_comes(tmp_path: Path) -> None:
    made, twenty = (
        plan("rate: 50/s -> rate: 500/s\n  stages: [{rate: 500/s, hold: 5s}, {rate: 50/s}]", tmp_path),
        Limits(max_connections=20),
    )
    first, *others = made.scenario.phases
    for policy, rate in (("absent", 100), ("applied", 400)):
        phases = [first.model_copy(update={"policy": policy}), *others]
        going_on = replace(made, scenario=made.scenario.model_copy(update={"phases": phases}))
        assert said(going_on, tally(1000, 0), twenty).goodput_per_s.predicted == pytest.approx(rate)


def test_in_a_cluster_poisson_arrivals_lose_erlangs_share_of_the_measured_service_time() -> None:
    found = said(plan(), tally(715, 285), mesh="cluster")
    assert (found.law, found.parts) == ("erlang", False)
    assert said(plan(), tally(600, 400), mesh="cluster").parts is True


def test_in_a_cluster_losses_may_scatter_more_than_those_of_exponential_service() -> None:
    wild = Tally()
    for outcome, count, seconds in ((Outcome.OK, 650, 0.001), (Outcome.OK, 65, 1.111), (Outcome.OVERFLOW, 285, 0.0)):
        for _ in range(count):
            wild.record(outcome, seconds)
    calm, found = said(plan(), tally(715, 285), mesh="cluster"), said(plan(), wild, mesh="cluster")
    assert found.service_time_s[1] == pytest.approx(0.102, abs=1e-3)
    widths = [(each.loss.high or 0) - (each.loss.low or 0) for each in (calm, found)]
    assert widths[1] > 2 * widths[0], "the mean square is some eleven times the mean's"


def test_nothing_is_said_without_a_limit() -> None:
    assert prediction(plan(), tally(715, 285), Limits()) is None
    assert prediction(plan(), tally(0, 285), Limits()) is None


def test_why_a_phase_with_a_limit_is_not_compared_is_said(tmp_path: Path) -> None:
    different = said(plan(), tally(715, 285), states=(FIVE, Limits(max_requests=6)))
    rejected, empty, elsewhere = said(plan(), tally(0, 285)), said(plan(), tally(0, 0)), said(plan(), tally(0, 285), mesh="cluster")
    assert different.sentence == "Not compared: the clients had different limits."
    assert rejected.sentence == "Not compared: no request was ok, so nothing shows how long the service takes."
    assert empty.sentence == "Not compared: nothing was counted in this phase."
    for each in (different, rejected, empty, elsewhere):
        assert (each.parts, each.loss.predicted, each.service_time_from) == (None, None, "")
    assert (rejected.law, elsewhere.law) == ("erlang", "undetermined")
    late = said(plan("rate: 50/s -> rate: 50/s\n  timeout: 100ms", tmp_path), tally(0, 285, timeout=700))
    assert late.because == "nothing is predicted: 36.8% of the answers take longer than the timeout of 100ms"


def test_a_phase_in_which_the_rate_changes_is_not_compared_and_that_is_said(tmp_path: Path) -> None:
    changing = plan("rate: 50/s -> rate: 50/s\n  stages: [{rate: 50/s, hold: 15s}, {rate: 90/s}]", tmp_path)
    found = said(changing, tally(715, 285))
    assert (found.law, found.parts, found.sentence) == ("undetermined", None, "Not compared: the rate changed in this phase.")
    assert (found.loss.inside, found.admitted.inside, found.offered) == (None, None, None)
    assert prediction(changing, tally(715, 285), Limits()) is None, "nothing is limited"
    steady = plan("rate: 50/s -> rate: 90/s\n  stages: [{rate: 50/s, ramp: 5s}]", tmp_path)
    assert said(steady, tally(715, 285)).parts is False, "the phase begins after the ramp"


def test_what_the_pending_limit_rejected_is_counted_and_makes_room_above() -> None:
    both = replace(FIVE, max_pending_requests=1)
    assert said(plan(), tally(600, 400), both).parts is True
    found = said(plan(), tally(600, 400), both, pending=130)
    assert (found.parts, found.goodput_per_s.low) == (False, None)


def test_too_few_overflows_show_no_way_to_the_sidecar_and_what_is_known_counts() -> None:
    found = said(plan(), tally(1000, 3), replace(FIVE, max_requests=12))
    assert found.service_time_s[0] == pytest.approx(0.1)
    assert found.parts is False


def test_without_think_time_only_the_goodput_is_compared(tmp_path: Path) -> None:
    closed = plan("model: open\n  arrivals: poisson\n  rate: 50/s -> model: closed\n  users: 20", tmp_path)
    found = said(closed, tally(950, 40_000))
    assert (found.law, found.parts, found.loss.low) == ("saturated", False, None)
    assert "95.0/s let through, at most" in found.sentence
    assert said(closed, tally(1200, 40_000)).parts is True


def test_a_queue_shows_no_service_time_so_the_scenarios_counts() -> None:
    found = said(plan(), tally(1000, 0), Limits(max_connections=3), peak=3)
    assert (found.law, found.service_time_from, found.service_time_s) == ("queue", "the scenario", (0.1, 0.1))
    assert found.parts is False


@pytest.mark.parametrize(("ok", "parts"), [(590, False), (635, False), (680, True)])
def test_of_a_full_queue_a_little_more_gets_through_by_chance(ok: int, parts: bool) -> None:
    found = said(plan(), tally(ok, 200), Limits(max_connections=3, max_pending_requests=2), pending=200, peak=3)
    assert (found.law, found.loss.high, found.parts) == ("queue", None, parts), "30/s in each of two clients, on average"


def test_a_queue_before_a_service_that_is_not_ours_has_no_bound_for_what_gets_through(tmp_path: Path) -> None:
    closed = plan("model: open\n  arrivals: poisson\n  rate: 50/s -> model: closed\n  users: 20", tmp_path)
    found = said(closed, tally(32_000, 0), Limits(max_connections=2), peak=2, mesh="cluster")
    assert (found.law, found.service_time_s[0], found.goodput_per_s.high) == ("queue", 0, None)
    assert found.service_time_from.startswith("the mean latency of ok at most")
    assert found.sentence == "As predicted: 0.0% lost, 0.0% predicted."
    waiting = said(closed, tally(16_000, 9_000), Limits(max_connections=2, max_pending_requests=4), peak=2, mesh="cluster")
    assert waiting.sentence == "Nothing is predicted that could be compared."
