"""What are the figures called that Prometheus reads? The metric families that a run, a load pod and a report have in common."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from loadgen.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from loadgen.totals import Distribution

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PATH = "/metrics"
"""Where they are, and what that page is."""
GROUP_SAMPLES = 50
"""A group holds so many at most."""


@dataclass(frozen=True, slots=True)
class Name:
    """A family's name and its help; ``label`` is the one that all of its samples differ in, if they do."""

    name: str
    help: str
    label: str = ""


IN_FLIGHT = Name("loadgen_in_flight_requests", "Requests that were sent and have not ended.")
POLICY_APPLIED = Name("loadgen_policy_applied", "Whether the sidecar (of a run: every sidecar) shows a rule for the target.")
POLICY_PROPAGATION = Name(
    "loadgen_policy_propagation_seconds", "How long was waited for the last policy that a run wanted (of a run: for the slowest sidecar)."
)
LEDGER = Name("loadgen_ledger_difference", "Overflows that clients and sidecars count differently, by the phases that are over.", "phase")
PHASE = Name("loadgen_phase_info", "The phase that is on, as its label.", "phase")
BUILD = Name("loadgen_build_info", "The version, as its label.", "version")


@dataclass(frozen=True, slots=True)
class Group:
    """Samples that change together: the labels that they have in common, the values that they are made of, and how they are made."""

    labels: tuple[str, ...]
    values: Sequence[object]
    make: Callable[[], list[Sample]]


class GroupedFamily(Metric):
    """A family whose samples come in groups. Groups and samples are made when they are asked for: there may be 40,000."""

    def __init__(self, name: str, help_: str, kind: str, groups: Callable[[], Iterator[Group]]) -> None:
        super().__init__(name, help_, kind)
        self.groups = groups
        self.samples = _Samples(groups)  # type: ignore[assignment]  # it can be iterated, and nobody does more


class _Samples:
    """The samples of some groups."""

    def __init__(self, groups: Callable[[], Iterator[Group]]) -> None:
        self._groups = groups

    def __iter__(self) -> Iterator[Sample]:
        for group in self._groups():
            yield from group.make()


def request_families(phases: Mapping[str, Mapping[Outcome, Distribution]]) -> Iterator[Metric]:
    """Give counts and latencies by phase and outcome. What was not sent has no latency."""

    def counts() -> Iterator[Group]:
        for phase, outcomes in phases.items():
            by_outcome = [(outcome, distribution.count) for outcome, distribution in outcomes.items()]
            yield _counts("loadgen_requests_total", {"phase": phase}, "outcome", by_outcome)

    def durations() -> Iterator[Group]:
        for phase, outcomes in phases.items():
            for outcome, distribution in outcomes.items():
                if outcome is not Outcome.UNSENT:
                    yield _buckets("loadgen_request_duration_seconds", {"phase": phase, "outcome": outcome}, distribution)

    yield GroupedFamily("loadgen_requests", "Requests that ended, by phase and outcome.", "counter", counts)
    yield GroupedFamily("loadgen_request_duration_seconds", "From the moment a request was due to its last byte.", "histogram", durations)


def client_requests(counts: Mapping[tuple[str, str, Outcome], int]) -> Metric:
    """Give counts by client, phase and outcome."""

    def groups() -> Iterator[Group]:
        for (phase, outcome), found in itertools.groupby(counts.items(), key=lambda each: each[0][1:]):
            by_client = [(client, count) for (client, *_), count in found]
            for start in range(0, len(by_client), GROUP_SAMPLES):
                some = by_client[start : start + GROUP_SAMPLES]
                yield _counts("loadgen_client_requests_total", {"phase": phase, "outcome": outcome}, "client", some)

    return GroupedFamily("loadgen_client_requests", "Requests that ended, by client, phase and outcome.", "counter", groups)


def schedule_lag(lag: Distribution) -> Metric:
    """Give how late requests were sent."""
    name = "loadgen_schedule_lag_seconds"
    return GroupedFamily(
        name, "From the moment a request was due to when it was sent.", "histogram", lambda: iter([_buckets(name, {}, lag)])
    )


def _counts(name: str, labels: Mapping[str, str], label: str, counts: Sequence[tuple[str, int]]) -> Group:
    """Give counters that differ in one label."""

    def samples() -> list[Sample]:
        return [Sample(name, {**labels, label: value}, count) for value, count in counts]

    return Group((*labels.values(), counts[0][0]), counts, samples)


def _buckets(name: str, labels: Mapping[str, str], distribution: Distribution) -> Group:
    """Give a histogram's samples, as Prometheus wants them."""
    values = [*distribution.counts, distribution.sum_s]

    def samples() -> list[Sample]:
        buckets = [Sample(f"{name}_bucket", {**labels, "le": bound}, count) for bound, count in distribution.cumulative]
        return [
            *buckets,
            Sample(f"{name}_count", dict(labels), distribution.count),
            Sample(f"{name}_sum", dict(labels), distribution.sum_s),
        ]

    return Group(tuple(labels.values()), values, samples)


def gauge(name: Name, value: float | Mapping[str, float] | None) -> Metric:
    """Give a gauge with its value, or with those by its label; without a sample where nothing is known."""
    family = GaugeMetricFamily(name.name, name.help, labels=[name.label] if name.label else [])
    values = value if not isinstance(value, (int, float)) and value is not None else {} if value is None else {"": value}
    for label, each in values.items():
        family.add_metric([label] if name.label else [], each)
    return family


def info(name: Name, text: str) -> Metric:
    """Give a gauge that says 1 of a text."""
    return gauge(name, {text: 1})
