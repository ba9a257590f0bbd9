"""What does Prometheus read of a run that is over? Its figures as OpenMetrics; what has a name that a run shows while it goes on is the same, with the same labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector

from loadgen.errors import printable
from loadgen.evidence import State
from loadgen.families import BUILD, LEDGER, gauge, info
from loadgen.outcome import Outcome
from loadgen.totals import Distribution

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loadgen.report import PhasePart, Report
    from loadgen.series import Series

_QUANTILES = {"p50": "0.5", "p90": "0.9", "p99": "0.99", "p999": "0.999"}
_LABELS = ("phase", "outcome")


def render(report: Report, series: Series | None) -> str:
    """Write the figures. The distribution of the latencies in buckets is there if there is a time series."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures(report, series))
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]  # the library's own has no types
    return text.decode()


class Figures(Collector):
    """A report's figures as metric families."""

    def __init__(self, report: Report, series: Series | None) -> None:
        self._report = report
        self._series = series

    def collect(self) -> Iterator[Metric]:
        """Give the metric families."""
        yield from self._run()
        requests = CounterMetricFamily("loadgen_requests", "Requests that ended, by phase and outcome.", labels=_LABELS)
        for phase in self._report.phases:
            for outcome, count in phase.outcomes.items():
                requests.add_metric([printable(phase.name), printable(outcome)], count)
        yield requests
        if self._series is not None:
            yield _durations(self._report, self._series)
        yield _latencies(self._report)
        yield _lags(self._report)
        yield gauge(LEDGER, {printable(phase.name): phase.imbalance for phase in self._report.phases if phase.imbalance is not None})
        for name, text, figure in _PHASE_FIGURES:
            family = GaugeMetricFamily(f"loadgen_{name}", text, labels=["phase"])
            for phase in self._report.phases:
                value = figure(phase)
                if value is not None:
                    family.add_metric([printable(phase.name)], value)
            yield family

    def _run(self) -> Iterator[Metric]:
        report = self._report
        verdict = GaugeMetricFamily("loadgen_run_verdict", "1 for the state that the verdict is, 0 for the others.", labels=["state"])
        for state in State:
            verdict.add_metric([state.value], int(report.verdict.state is state))
        yield verdict
        valid, restored = int(report.validity.state == "VALID"), int(report.restore.state != "failed")
        yield GaugeMetricFamily("loadgen_run_valid", "Whether the run's figures may be trusted.", value=valid)
        yield GaugeMetricFamily("loadgen_run_restored", "Whether the mesh is as it was found.", value=restored)
        held = GaugeMetricFamily("loadgen_expectations", "Expectations, by whether they held.", labels=["held"])
        for state_held in (True, False):
            held.add_metric([str(state_held).lower()], sum(each.held is state_held for each in report.expectations))
        yield held
        about = report.environment
        labels = ["scenario", "mesh", "started_at", "python", "envoy"]
        run = GaugeMetricFamily("loadgen_run_info", "What was run and with what, as labels.", labels=labels)
        run.add_metric([*map(printable, (report.scenario.name, report.mesh, report.started_at, about.python, about.envoy))], 1)
        yield run
        yield info(BUILD, printable(about.loadgen))


_PHASE_FIGURES: tuple[tuple[str, str, Callable[[PhasePart], float | None]], ...] = (
    ("phase_duration_seconds", "How long the phase counted.", lambda phase: phase.duration_s),
    ("ledger_client_overflow_requests", "Overflows as the clients saw them.", lambda phase: phase.ledger.client),
    ("ledger_proxy_overflow_requests", "Overflows as the sidecars counted them.", lambda phase: phase.ledger.proxy),
    ("service_peak_in_flight_requests", "The most that the service saw in flight at a time.", lambda phase: phase.service.peak_in_flight),
    (
        "phase_policy_propagation_seconds",
        "From the toggle until the slowest sidecar showed it.",
        lambda phase: phase.convergence_s.max if phase.convergence_s else None,
    ),
)


def _durations(report: Report, series: Series) -> Metric:
    family = HistogramMetricFamily(
        "loadgen_request_duration_seconds", "From the moment a request was due to its last byte.", labels=_LABELS
    )
    whole: dict[tuple[str, Outcome], Distribution] = {
        (phase.name, outcome): Distribution() for phase in report.phases for outcome in Outcome if outcome is not Outcome.UNSENT
    }
    for moment in series.moments:
        if (moment.phase, moment.outcome) in whole:
            whole[moment.phase, moment.outcome].add(moment.latency)
    for (phase, outcome), distribution in whole.items():
        family.add_metric([printable(phase), outcome.value], distribution.cumulative, distribution.sum_s)
    return family


def _latencies(report: Report) -> Metric:
    family = Metric("loadgen_request_latency_seconds", "Latencies as the report has them, exact to 0.8 %.", "summary")
    for phase in report.phases:
        for outcome, quantiles in phase.latency_s.items():
            labels = {"phase": printable(phase.name), "outcome": printable(outcome)}
            for name, quantile in _QUANTILES.items():
                family.add_sample(family.name, {**labels, "quantile": quantile}, getattr(quantiles, name))
            family.add_sample(f"{family.name}_count", labels, _count(phase, outcome))
    return family


def _lags(report: Report) -> Metric:
    family = Metric("loadgen_phase_schedule_lag_seconds", "From the moment a request was due to when it was sent.", "summary")
    for phase in report.phases:
        for quantile, value in (("0.5", phase.schedule_lag_s.p50), ("0.99", phase.schedule_lag_s.p99)):
            family.add_sample(family.name, {"phase": printable(phase.name), "quantile": quantile}, value)
    return family


def _count(phase: PhasePart, outcome: str) -> int:
    return phase.outcomes.get(outcome, 0)
