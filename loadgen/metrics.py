"""What does Prometheus read? The metric families that a run and a load pod have in common, and the page that they are written on.

The law: a scrape must not hold the loop on which the hammer sends, nor cost it much. The text is written in pieces of a millisecond or two, with
the loop's other work in between; for all who ask at the same time it is written once; and a piece in which nothing has changed since the last
time, as in most of them, is not written again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from loadgen.engine.load import clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from prometheus_client import CollectorRegistry

    from loadgen.outcome import Outcome
    from loadgen.totals import Distribution

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PATH = "/metrics"
PIECE_SAMPLES = 50
"""Some 10 µs each."""
FRESH_S = 0.1


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
PHASE = Name("loadgen_phase_info", "The phase that is on, as its label.", "phase")
BUILD = Name("loadgen_build_info", "The version, as its label.", "version")


def request_families(phases: Mapping[str, Mapping[Outcome, Distribution]]) -> Iterator[Metric]:
    """Give counts and latencies by phase and outcome."""
    labels = ("phase", "outcome")
    requests = CounterMetricFamily("loadgen_requests", "Requests that ended, by phase and outcome.", labels=labels)
    durations = HistogramMetricFamily(
        "loadgen_request_duration_seconds", "From the moment a request was due to its last byte.", labels=labels
    )
    for phase, outcomes in phases.items():
        for outcome, distribution in outcomes.items():
            requests.add_metric([phase, outcome], distribution.count)
            durations.add_metric([phase, outcome], distribution.cumulative, distribution.sum_s)
    yield requests
    yield durations


def client_requests(counts: Mapping[tuple[str, str, Outcome], int]) -> Metric:
    """Give counts by client, phase and outcome."""
    requests = CounterMetricFamily("loadgen_client_requests", "Requests that ended, by client, phase and outcome.")
    requests.samples = _ClientSamples(counts)  # type: ignore[assignment]  # a sequence is all that anybody needs
    return requests


class _ClientSamples(Sequence[Sample]):
    """The samples of all clients, made when they are asked for: there may be 40,000."""

    def __init__(self, counts: Mapping[tuple[str, str, Outcome], int]) -> None:
        self._counts = list(counts.items())

    def __len__(self) -> int:
        return len(self._counts)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [_client_sample(*each) for each in self._counts[index]]
        return _client_sample(*self._counts[index])


def _client_sample(labels: tuple[str, str, Outcome], count: int) -> Sample:
    client, phase, outcome = labels
    return Sample("loadgen_client_requests_total", {"client": client, "phase": phase, "outcome": outcome}, count)


def schedule_lag(lag: Distribution) -> Metric:
    """Give how late requests were sent."""
    family = HistogramMetricFamily("loadgen_schedule_lag_seconds", "From the moment a request was due to when it was sent.")
    family.add_metric([], lag.cumulative, lag.sum_s)
    return family


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


class Page:
    """The page of a registry. ``settle`` is awaited before its values are read."""

    def __init__(self, registry: CollectorRegistry, settle: Callable[[], Awaitable[None]]) -> None:
        self._registry = registry
        self._settle = settle
        self._text = b""
        self._pieces: dict[tuple[str, int], tuple[list[Sample], bytes]] = {}
        """By family and first sample: what was written last, and how."""
        self._written_at = 0.0
        self._lock = asyncio.Lock()

    async def read(self, *, fresh_s: float = FRESH_S) -> bytes:
        """Give the page, at most ``fresh_s`` old."""
        async with self._lock:
            if not self._text or clock() - self._written_at > fresh_s:
                await self._settle()
                self._text = await self._write()
                self._written_at = clock()
            return self._text

    async def _write(self) -> bytes:
        pieces = []
        for family in self._registry.collect():
            for start in range(0, max(1, len(family.samples)), PIECE_SAMPLES):
                pieces.append(self._piece(family, start))
                await asyncio.sleep(0)
        return b"".join(pieces)

    def _piece(self, family: Metric, start: int) -> bytes:
        samples = family.samples[start : start + PIECE_SAMPLES]
        before = self._pieces.get((family.name, start))
        if before is not None and before[0] == samples:
            return before[1]
        text = generate_latest(_Piece(family, samples))
        if start:
            text = text.split(b"\n", 2)[2]  # without the two lines that say what it is
        self._pieces[family.name, start] = samples, text
        return text


class _Piece(Collector):
    """Some of the samples of a family."""

    def __init__(self, family: Metric, samples: list[Sample]) -> None:
        self._family = Metric(family.name, family.documentation, family.type)
        self._family.samples = samples

    def collect(self) -> Iterator[Metric]:
        yield self._family
