"""What does Prometheus read? The book, written in Prometheus' text format when it is asked for.

The law: a scrape must not hold the loop on which the hammer sends. The text is written in pieces of a millisecond or two, with the loop's other
work in between, and for all who ask at the same time it is written once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from loadgen import __version__
from loadgen.engine.load import clock
from loadgen.pod.book import BETWEEN_PHASES, BOUNDS_S, OWN_LOAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry

    from loadgen.pod.book import Book, Distribution
    from loadgen.pod.hammer import Hammer
    from loadgen.pod.own_sidecar import OwnSidecar

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PIECE_SAMPLES = 100
"""Some 10 µs each."""
FRESH_S = 0.1
_LABELS = ("phase", "outcome")
_BOUNDS = (*map(str, BOUNDS_S), "+Inf")


class Metrics(Collector):
    """The pod's metrics. They are found in ``registry``, with whatever else is in it."""

    def __init__(self, registry: CollectorRegistry, book: Book, hammer: Hammer, sidecar: OwnSidecar) -> None:
        self._registry = registry
        self._book = book
        self._hammer = hammer
        self._sidecar = sidecar
        self._page = b""
        self._written_at = 0.0
        self._lock = asyncio.Lock()
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Give the metric families with their present values."""
        yield from self._requests()
        lag = HistogramMetricFamily("loadgen_schedule_lag_seconds", "From the moment a request was due to when it was sent.")
        lag.add_metric([], *_histogram(self._book.lag))
        yield lag
        in_flight = self._hammer.load.in_flight if self._hammer.load is not None else 0
        yield GaugeMetricFamily("loadgen_in_flight_requests", "Requests that were sent and have not ended.", value=in_flight)
        yield from self._policy()
        phase = GaugeMetricFamily("loadgen_phase_info", "The phase that is on, as its label.", labels=["phase"])
        hold = self._hammer.hold
        phase.add_metric([OWN_LOAD if hold is None else hold.phase or BETWEEN_PHASES], 1)
        yield phase
        build = GaugeMetricFamily("loadgen_build_info", "The version, as its label.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("loadgen_requests", "Requests that ended, by phase and outcome.", labels=_LABELS)
        durations = HistogramMetricFamily(
            "loadgen_request_duration_seconds", "From the moment a request was due to its last byte.", labels=_LABELS
        )
        for phase, outcomes in self._book.phases.items():
            for outcome, distribution in outcomes.items():
                requests.add_metric([phase, outcome], distribution.count)
                durations.add_metric([phase, outcome], *_histogram(distribution))
        yield requests
        yield durations

    def _policy(self) -> Iterator[Metric]:
        applied = int(self._sidecar.rule is not None)
        yield GaugeMetricFamily("loadgen_policy_applied", "Whether this pod's sidecar shows a rule for the target.", value=applied)
        took = GaugeMetricFamily("loadgen_policy_propagation_seconds", "How long was waited for the last policy that a run wanted.")
        if self._sidecar.propagation_s is not None:
            took.add_metric([], self._sidecar.propagation_s)
        yield took

    async def page(self) -> bytes:
        """Give the page, as fresh as a tenth of a second."""
        async with self._lock:
            if not self._page or clock() - self._written_at > FRESH_S:
                await self._hammer.settle()
                self._page = await self._write()
                self._written_at = clock()
            return self._page

    async def _write(self) -> bytes:
        pieces = []
        for family in self._registry.collect():
            for start in range(0, max(1, len(family.samples)), PIECE_SAMPLES):
                text = generate_latest(_Piece(family, start))
                pieces.append(text if not start else text.split(b"\n", 2)[2])  # without the two lines that say what it is
                await asyncio.sleep(0)
        return b"".join(pieces)


class _Piece(Collector):
    """Some of the samples of a family."""

    def __init__(self, family: Metric, start: int) -> None:
        self._family = Metric(family.name, family.documentation, family.type)
        self._family.samples = family.samples[start : start + PIECE_SAMPLES]

    def collect(self) -> Iterator[Metric]:
        yield self._family


def _histogram(distribution: Distribution) -> tuple[list[Any], float]:
    """Give the cumulative counts by upper bound, and the sum."""
    buckets = []
    below = 0
    for bound, count in zip(_BOUNDS, distribution.counts, strict=True):
        below += count
        buckets.append((bound, below))
    return buckets, distribution.sum_s
