"""What does Prometheus read? The metric families that a run and a load pod have in common, and the page that they are written on.

The law: a scrape must not hold the loop on which the hammer sends, nor cost it much. The text is written in pieces of half a millisecond, with
the loop's other work in between; for all who ask at the same time it is written once; and what has not changed since the last time, as most of
it has not, is neither written again nor even made into samples.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, overload

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from loadgen.engine.load import clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from prometheus_client import CollectorRegistry

    from loadgen.outcome import Outcome
    from loadgen.totals import Distribution

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PATH = "/metrics"
PIECE_SAMPLES = 50
"""So many are written in one go; some 10 µs each."""
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


@dataclass(frozen=True, slots=True)
class Group:
    """Samples that change together: the values that they are made of, and how they are made."""

    values: Sequence[object]
    make: Callable[[], list[Sample]]


class GroupedFamily(Metric):
    """A family whose samples come in groups, and are made when they are asked for: there may be 40,000."""

    def __init__(self, name: str, help_: str, kind: str, groups: Iterable[Group]) -> None:
        super().__init__(name, help_, kind)
        self.groups = list(groups)
        self.samples = _Samples(self.groups)  # type: ignore[assignment]  # a sequence is all that anybody needs


class _Samples(Sequence[Sample]):
    """The samples of some groups."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups

    def _all(self) -> list[Sample]:
        return [sample for group in self._groups for sample in group.make()]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        return self._all()[index]


def request_families(phases: Mapping[str, Mapping[Outcome, Distribution]]) -> Iterator[Metric]:
    """Give counts and latencies by phase and outcome."""
    counts, durations = list[Group](), list[Group]()
    for phase, outcomes in phases.items():
        by_outcome = [(outcome, distribution.count) for outcome, distribution in outcomes.items()]
        counts.append(Group(by_outcome, partial(_counts, "loadgen_requests_total", {"phase": phase}, "outcome", by_outcome)))
        for outcome, distribution in outcomes.items():
            durations.append(_buckets("loadgen_request_duration_seconds", {"phase": phase, "outcome": outcome}, distribution))
    yield GroupedFamily("loadgen_requests", "Requests that ended, by phase and outcome.", "counter", counts)
    yield GroupedFamily("loadgen_request_duration_seconds", "From the moment a request was due to its last byte.", "histogram", durations)


def client_requests(counts: Mapping[tuple[str, str, Outcome], int]) -> Metric:
    """Give counts by client, phase and outcome."""
    groups = []
    for (phase, outcome), found in itertools.groupby(counts.items(), key=lambda each: each[0][1:]):
        by_client = [(client, count) for (client, *_), count in found]
        for start in range(0, len(by_client), PIECE_SAMPLES):
            some, labels = by_client[start : start + PIECE_SAMPLES], {"phase": phase, "outcome": outcome}
            groups.append(Group(some, partial(_counts, "loadgen_client_requests_total", labels, "client", some)))
    return GroupedFamily("loadgen_client_requests", "Requests that ended, by client, phase and outcome.", "counter", groups)


def schedule_lag(lag: Distribution) -> Metric:
    """Give how late requests were sent."""
    name = "loadgen_schedule_lag_seconds"
    return GroupedFamily(name, "From the moment a request was due to when it was sent.", "histogram", [_buckets(name, {}, lag)])


def _counts(name: str, labels: Mapping[str, str], label: str, counts: Iterable[tuple[str, int]]) -> list[Sample]:
    return [Sample(name, {**labels, label: value}, count) for value, count in counts]


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

    return Group(values, samples)


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
        self._pieces: dict[tuple[str, int], tuple[Sequence[object], bytes]] = {}
        """By family and group: what was written last, and how."""
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
        pieces, written = list[bytes](), 0
        for family in self._registry.collect():
            samples = family.samples
            groups = family.groups if isinstance(family, GroupedFamily) else [Group(samples, partial(list, samples))]
            for number, group in enumerate(groups):
                before = self._pieces.get((family.name, number))
                if before is None or before[0] != group.values:
                    before = group.values, _text(family, group.make(), number)
                    self._pieces[family.name, number] = before
                    written += len(group.values)
                pieces.append(before[1])
                if written >= PIECE_SAMPLES:
                    written = 0
                    await asyncio.sleep(0)
        return b"".join(pieces)


def _text(family: Metric, samples: list[Sample], number: int) -> bytes:
    """Write the samples of a family's group; before the first one of all stands what the family is."""
    text = generate_latest(_Piece(family, samples))
    return text.split(b"\n", 2)[2] if number else text


class _Piece(Collector):
    """Some of the samples of a family."""

    def __init__(self, family: Metric, samples: list[Sample]) -> None:
        self._family = Metric(family.name, family.documentation, family.type)
        self._family.samples = samples

    def collect(self) -> Iterator[Metric]:
        yield self._family
