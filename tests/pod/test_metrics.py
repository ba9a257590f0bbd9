"""Is the page for Prometheus whole, and is it written without holding the loop?"""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from loadgen.outcome import Outcome
from loadgen.pod.book import MAX_PHASES, OWN_LOAD, Book
from loadgen.pod.metrics import Metrics

from .test_book import tally_of

pytestmark = pytest.mark.anyio


def metrics_of(book: Book, *, phase: str | None = None, rule: str | None = None, propagation_s: float | None = None) -> tuple[Any, Metrics]:
    """Make the metrics of a pod that does nothing but keep this book."""

    async def settle() -> None:
        await asyncio.sleep(0)

    hold = SimpleNamespace(phase=phase) if phase else None
    hammer: Any = SimpleNamespace(load=None, hold=hold, settle=settle)
    sidecar: Any = SimpleNamespace(rule=rule, propagation_s=propagation_s)
    registry = CollectorRegistry()
    return registry, Metrics(registry, book, hammer, sidecar)


def value(page: bytes, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


async def test_the_page_that_is_written_in_pieces_is_the_page_of_the_registry() -> None:
    book = Book()
    for number in range(MAX_PHASES + 2):
        book.enter(f"phase-{number}", tally_of(ok=number, overflow=3))
    registry, metrics = metrics_of(book, phase="phase-1", rule="base/user", propagation_s=0.132)
    page = await metrics.page.read()
    assert page == generate_latest(registry)
    assert page.count(b"# TYPE") == len(set(page.split(b"\n")) & {line for line in page.split(b"\n") if line.startswith(b"# TYPE")})


async def test_every_outcome_is_there_from_the_start_with_nothing() -> None:
    _, metrics = metrics_of(Book())
    page = await metrics.page.read()
    for outcome in Outcome:
        assert value(page, "loadgen_requests_total", phase=OWN_LOAD, outcome=outcome) == 0
        durations = value(page, "loadgen_request_duration_seconds_count", phase=OWN_LOAD, outcome=outcome)
        assert durations == (None if outcome is Outcome.UNSENT else 0), "what was not sent has no latency"
    assert value(page, "loadgen_phase_info", phase=OWN_LOAD) == 1
    assert value(page, "loadgen_policy_applied") == 0
    assert value(page, "loadgen_policy_propagation_seconds") is None, "nobody has waited for one yet"
    assert value(page, "loadgen_in_flight_requests") == 0
    assert b"_created" not in page


async def test_counts_distributions_and_the_policy_are_what_was_seen() -> None:
    book = Book()
    book.enter("limited", tally_of(ok=2, overflow=3))
    _, metrics = metrics_of(book, phase="limited", rule="base/user", propagation_s=0.132)
    page = await metrics.page.read()
    labels = {"phase": "limited", "outcome": "overflow"}
    assert value(page, "loadgen_requests_total", **labels) == 3
    assert value(page, "loadgen_request_duration_seconds_bucket", le="0.0025", **labels) == 0
    assert value(page, "loadgen_request_duration_seconds_bucket", le="0.005", **labels) == 3
    assert value(page, "loadgen_request_duration_seconds_bucket", le="+Inf", **labels) == 3
    assert value(page, "loadgen_request_duration_seconds_sum", **labels) == pytest.approx(0.009)
    assert value(page, "loadgen_schedule_lag_seconds_count") == 5
    assert value(page, "loadgen_phase_info", phase="limited") == 1
    assert value(page, "loadgen_policy_applied") == 1
    assert value(page, "loadgen_policy_propagation_seconds") == 0.132


async def test_the_largest_page_holds_the_loop_for_milliseconds_only_and_is_written_once_for_all_who_ask() -> None:
    book = Book()
    for number in range(MAX_PHASES + 2):
        book.enter(f"phase-{number}", tally_of(ok=1))
    _, metrics = metrics_of(book)
    await metrics.page.read()
    for phase in list(book.phases):  # everything changes: what has not is not written again
        book.enter(phase, tally_of(**dict.fromkeys(Outcome, 1)))
    await asyncio.sleep(0.2)
    turns: list[float] = []

    async def turn() -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            turns.append(time.thread_time() - before)

    turning = asyncio.create_task(turn())
    pages = await asyncio.gather(*(metrics.page.read() for _ in range(10)))
    turning.cancel()
    assert all(page is pages[0] for page in pages)
    assert sorted(turns)[-2] < 0.02, "of CPU, on a slow machine; the collection itself is the longest"
    assert len(turns) > 20
