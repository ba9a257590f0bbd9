"""What does Prometheus read of a run? Its present state, with the names that the load pods use, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from loadgen import __version__
from loadgen.families import (
    BUILD,
    IN_FLIGHT,
    LEDGER,
    PHASE,
    POLICY_APPLIED,
    POLICY_PROPAGATION,
    Name,
    client_requests,
    gauge,
    info,
    request_families,
    schedule_lag,
)
from loadgen.metrics import Page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from loadgen.runner.live import Live

LIMIT = Name(
    "loadgen_limit", "The limits in force by the rule's names, the sidecars of all clients together; none where there is no limit.", "limit"
)


class RunMetrics(Collector):
    """The metrics of a run. They are found in ``registry``, with whatever else is in it."""

    def __init__(self, registry: CollectorRegistry, live: Live) -> None:
        self._live = live
        self.page = Page(registry, live.settle)
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Give the metric families with their present values."""
        live = self._live
        figures = live.totals.figures()
        yield from request_families(figures.latency)
        yield client_requests(figures.clients)
        yield schedule_lag(figures.lag)
        yield gauge(IN_FLIGHT, live.in_flight)
        yield gauge(LIMIT, live.limits)
        yield gauge(POLICY_APPLIED, int(live.applied))
        yield gauge(POLICY_PROPAGATION, live.propagation_s)
        yield gauge(LEDGER, live.differences)
        yield info(PHASE, live.phase)
        yield info(BUILD, __version__)
