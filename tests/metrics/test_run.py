"""Does Prometheus know of a run what its report says, to the request?"""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import anyio
import pytest

from loadgen.cli.metrics import MetricsPort
from loadgen.cli.signals import HeldBack, Interruption, attended
from loadgen.totals import BETWEEN_PHASES
from tests.metrics.prometheus import check_metrics, read
from tests.story.command import NOHUP, SCENARIOS, Loadgen, finish, interrupt, wait_for_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.metrics.conftest import Watched

pytestmark = pytest.mark.envoy
SCENARIO = SCENARIOS / "connection-pool.yaml"
LAST = "last_over_time({}[10m])"


@pytest.fixture
def loadgen(tmp_path: Path) -> Loadgen:
    return Loadgen(tmp_path)


def test_promql_gives_the_counts_of_the_report_for_every_phase_and_outcome(watched: Watched) -> None:
    wanted = {
        frozenset({("phase", phase["name"]), ("outcome", outcome)}): count
        for phase in watched.report["phases"]
        for outcome, count in phase["outcomes"].items()
    }
    query = f'sum by (phase, outcome) ({LAST.format(f"""loadgen_requests_total{{phase!="{BETWEEN_PHASES}"}}""")})'
    assert watched.prometheus.instant(query) == wanted
    assert wanted[frozenset({("phase", "limited"), ("outcome", "overflow")})] > 0


def test_promql_gives_the_counts_of_the_report_for_every_client(watched: Watched) -> None:
    wanted = {
        frozenset({("phase", phase["name"]), ("client", client["name"]), ("outcome", outcome)}): count
        for phase in watched.report["phases"]
        for client in phase["clients"]
        for outcome, count in client["outcomes"].items()
    }
    series = LAST.format(f'loadgen_client_requests_total{{phase!="{BETWEEN_PHASES}"}}')
    assert watched.prometheus.instant(f"sum by (client, phase, outcome) ({series})") == wanted


def test_the_distribution_of_latencies_holds_every_request_that_was_sent(watched: Watched) -> None:
    ask = watched.prometheus.instant
    sent = LAST.format("""loadgen_requests_total{outcome!="unsent"}""")
    measured = LAST.format("loadgen_request_duration_seconds_count")
    assert ask(f"sum by (phase, outcome) ({measured})") == ask(f"sum by (phase, outcome) ({sent})")
    limited = next(phase for phase in watched.report["phases"] if phase["name"] == "limited")
    below = ask(f'sum({LAST.format("""loadgen_request_duration_seconds_bucket{phase="limited",outcome="overflow",le=~"5|5.0"}""")})')
    assert below == {frozenset(): limited["outcomes"]["overflow"]}


def test_the_first_overflow_is_not_lost_for_the_series_begins_at_0_and_never_goes_back(watched: Watched) -> None:
    overflow = 'loadgen_requests_total{phase="limited",outcome="overflow"}'
    limited = next(phase for phase in watched.report["phases"] if phase["name"] == "limited")
    assert set(watched.prometheus.instant(f"min_over_time({overflow}[10m])").values()) == {0}
    assert set(watched.prometheus.instant(f"max_over_time({overflow}[10m])").values()) == {limited["outcomes"]["overflow"]}
    assert set(watched.prometheus.instant("max(resets(loadgen_requests_total[10m]))").values()) == {0}


def test_the_phases_the_policy_and_the_limits_were_seen_while_they_were_on(watched: Watched) -> None:
    ask = watched.prometheus.instant
    phases = {dict(labels)["phase"] for labels in ask("count_over_time(loadgen_phase_info[10m])")}
    assert {"baseline", "limited", "recovered"} <= phases
    assert set(ask("max_over_time(loadgen_policy_applied[10m])").values()) == {1}
    assert set(ask(LAST.format("loadgen_policy_applied")).values()) == {0}
    limits = {dict(labels)["limit"]: value for labels, value in ask("max_over_time(loadgen_limit[10m])").items()}
    assert limits == {"http1MaxPendingRequests": 3, "http2MaxRequests": 3}, "one for each of three sidecars"
    differences = {dict(labels)["phase"]: value for labels, value in ask(LAST.format("loadgen_ledger_difference")).items()}
    assert differences == {
        phase["name"]: sum(abs(client["ledger"]["difference"]) for client in phase["clients"]) for phase in watched.report["phases"]
    }
    took = max(phase["convergence_s"]["max"] for phase in watched.report["phases"] if phase["convergence_s"])
    assert list(ask("max_over_time(loadgen_policy_propagation_seconds[10m])").values()) == [pytest.approx(took, abs=1e-4)]
    assert set(ask("max_over_time(loadgen_in_flight_requests[10m])").values()).pop() > 0


def test_no_label_can_grow_beyond_the_scenario(watched: Watched) -> None:
    series = watched.prometheus.ask("series", **{"match[]": '{__name__=~"loadgen_.*"}'})
    assert {name for each in series for name in each} <= {
        *("__name__", "job", "instance"),
        *("phase", "outcome", "client", "limit", "le", "version"),
    }


def test_promtool_likes_the_page_before_the_first_request_and_in_the_middle_of_the_run(loadgen: Loadgen, tools: None) -> None:
    run = loadgen.start_scenario(SCENARIO, "--duration", "3s", "--clients", "2", "--metrics-port", "0", "--metrics-linger", "0s")
    url = wait_for_line(run, "metrics: ").split()[-1]
    first = read(url)
    assert 'loadgen_requests_total{outcome="overflow",phase="limited"} 0.0' in first.splitlines()
    assert not check_metrics(first)
    wait_for_line(run, "--- limited")
    page = read(url)
    assert 'loadgen_phase_info{phase="limited"} 1.0' in page.splitlines()
    assert not check_metrics(page)
    assert "_created" not in page
    assert finish(run).code in {0, 4}


def test_the_page_of_a_run_that_is_over_stays_until_it_was_read_once_more(loadgen: Loadgen) -> None:
    run = loadgen.start_scenario(SCENARIO, "--duration", "1s", "--clients", "1", "--metrics-port", "0", "--metrics-linger", "50s")
    url = wait_for_line(run, "metrics: ").split()[-1]
    read(url)
    wait_for_line(run, "the metrics stay until they are scraped once more, at most 50 s")
    report = loadgen.report()  # it is there already
    page = read(url).splitlines()
    for phase in report["phases"]:
        for outcome, count in phase["outcomes"].items():
            assert f'loadgen_requests_total{{outcome="{outcome}",phase="{phase["name"]}"}} {float(count)}' in page
    assert "loadgen_in_flight_requests 0.0" in page
    ended = finish(run)
    assert ended.code in {0, 4}
    assert ended.seconds < 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_wait_for_a_last_scrape_and_does_not_change_how_the_run_ended(loadgen: Loadgen, number: signal.Signals) -> None:
    run = loadgen.start_scenario(SCENARIO, "--duration", "1s", "--clients", "1", "--metrics-port", "0", "--metrics-linger", "50s")
    read(wait_for_line(run, "metrics: ").split()[-1])
    wait_for_line(run, "the metrics stay")
    interrupt(run, number)  # at once: it said that this ends it
    ended = finish(run)
    assert ended.code in {0, 4, 99}
    assert ended.seconds < 10


def test_under_nohup_a_closed_terminal_does_not_end_the_wait_for_a_last_scrape(loadgen: Loadgen) -> None:
    options = ("--duration", "1s", "--clients", "1", "--metrics-port", "0", "--metrics-linger", "50s")
    run = loadgen.start("run", SCENARIO, "--out", loadgen.results, *options, program=NOHUP)
    url = wait_for_line(run, "metrics: ").split()[-1]
    read(url)
    wait_for_line(run, "the metrics stay")
    interrupt(run, signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        run.wait(0.5)
    read(url)
    assert finish(run).code in {0, 4, 99}


@pytest.fixture
def handlers() -> Iterator[tuple[signal.Signals, ...]]:
    """Give the signals that ask to end; what handles them is put back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield tuple(before)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("use_uvloop", [False, True])
def test_what_comes_after_the_load_is_held_back_whatever_the_event_loop_puts_in_its_place(
    handlers: tuple[signal.Signals, ...], use_uvloop: bool
) -> None:
    held = HeldBack()

    async def job(_: Interruption) -> str:
        return "done"

    assert anyio.run(attended, job, held, backend_options={"use_uvloop": use_uvloop}) == ("done", 0)
    assert all(signal.getsignal(number) == held._note for number in handlers)


def test_a_signal_that_came_while_the_report_was_written_ends_the_wait_and_later_ones_are_held_back(
    handlers: tuple[signal.Signals, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with MetricsPort("127.0.0.1", 0, 50.0) as port:
        port._scrapes, port._last = 1, b"page"
        held = HeldBack()
        held.hold()
        signal.raise_signal(signal.SIGTERM)
        port.linger(held, quiet=False)
    assert "the metrics stay" not in capsys.readouterr().err
    assert all(signal.getsignal(number) == held._note for number in handlers)


def test_a_run_that_nobody_scraped_waits_for_nobody_and_one_that_was_interrupted_neither(loadgen: Loadgen) -> None:
    ended = loadgen.run_scenario(SCENARIO, "--duration", "1s", "--clients", "1", "--metrics-port", "0", "-q")
    assert "metrics: http://127.0.0.1:" in ended.stderr, "nobody else can know which port was taken"
    assert "the metrics stay" not in ended.stderr
    run = loadgen.start_scenario(SCENARIO, "--duration", "20s", "--clients", "1", "--metrics-port", "0")
    read(wait_for_line(run, "metrics: ").split()[-1])
    wait_for_line(run, "--- baseline")
    interrupt(run)
    interrupted = finish(run)
    assert interrupted.code == 130
    assert interrupted.seconds < 10


def test_a_port_in_use_is_refused_before_anything_is_started(loadgen: Loadgen) -> None:
    run = loadgen.start_scenario(SCENARIO, "--duration", "5s", "--clients", "1", "--metrics-port", "0")
    url = wait_for_line(run, "metrics: ").split()[-1]
    port = url.rpartition(":")[2].partition("/")[0]
    other = Loadgen(loadgen.folder / "other")
    other.folder.mkdir()
    refused = other.run_scenario(SCENARIO, "--metrics-port", port)
    assert refused.code == 3
    assert f"port {port} of 127.0.0.1 cannot be listened at" in refused.stderr
    assert "--metrics-port names another" in refused.stderr
    assert not other.results.exists()
    interrupt(run)
    finish(run)


@pytest.mark.parametrize("options", [("--metrics-linger", "5s"), ("--metrics-bind", "::1")])
def test_what_says_nothing_without_a_port_is_a_mistake(loadgen: Loadgen, options: tuple[str, str]) -> None:
    ended = loadgen.run_scenario(SCENARIO, *options)
    assert ended.code == 2
    assert f"{options[0]} says nothing without --metrics-port" in ended.stderr
