"""What does Prometheus read of a pod? The book, and what the pod knows besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from loadgen import __version__
from loadgen.families import (
    BUILD,
    IN_FLIGHT,
    PHASE,
    POLICY_APPLIED,
    POLICY_PROPAGATION,
    gauge,
    info,
    request_families,
    schedule_lag,
)
from loadgen.metrics import Page
from loadgen.pod.book import OWN_LOAD
from loadgen.totals import BETWEEN_PHASES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from loadgen.pod.book import Book
    from loadgen.pod.hammer import Hammer
    from loadgen.pod.own_sidecar import OwnSidecar


class Metrics(Collector):
    """The pod's metrics. They are found in ``registry``, with whatever else is in it."""

    def __init__(self, registry: CollectorRegistry, book: Book, hammer: Hammer, sidecar: OwnSidecar) -> None:
        self._book = book
        self._hammer = hammer
        self._sidecar = sidecar
        self.page = Page(registry, hammer.settle)
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Give the metric families with their present values."""
        yield from request_families(self._book.phases)
        yield schedule_lag(self._book.lag)
        yield gauge(IN_FLIGHT, self._hammer.load.in_flight if self._hammer.load is not None else 0)
        yield gauge(POLICY_APPLIED, int(self._sidecar.rule is not None))
        yield gauge(POLICY_PROPAGATION, self._sidecar.propagation_s)
        hold = self._hammer.hold
        yield info(PHASE, OWN_LOAD if hold is None else hold.phase or BETWEEN_PHASES)
        yield info(BUILD, __version__)
