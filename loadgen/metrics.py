"""On which page does Prometheus read the figures of a run and of a load pod?

The law: a scrape must not hold the loop on which the hammer sends, nor cost it much. The text is written in pieces of half a millisecond, with
the loop's other work in between; for all who ask at the same time it is written once; and what has not changed since the last time, as most of
it has not, is neither written again nor even made into samples.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from loadgen.engine.load import clock
from loadgen.families import Group, GroupedFamily

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.samples import Sample

PIECE_SAMPLES = 50
"""So many are written in one go; some 10 µs each."""
LOOK = 2
"""To look whether a group has changed is as much work as to write so many samples."""
FRESH_S = 0.1


class Page:
    """The page of a registry. ``settle`` is awaited before its values are read."""

    def __init__(self, registry: CollectorRegistry, settle: Callable[[], Awaitable[None]]) -> None:
        self._registry = registry
        self._settle = settle
        self._text = b""
        self._pieces: dict[tuple[str, ...], tuple[Sequence[object], bytes]] = {}
        """By family and labels: what was written last, and how."""
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
        pieces, work = list[bytes](), 0
        for family in self._registry.collect():
            pieces.append(_head(family))
            for group in _groups(family):
                key, work = (family.name, *group.labels), work + LOOK
                before = self._pieces.get(key)
                if before is None or before[0] != group.values:
                    before = self._pieces[key] = group.values, _text(family, group.make())
                    work += len(group.values)
                pieces.append(before[1])
                if work >= PIECE_SAMPLES:
                    work = 0
                    await asyncio.sleep(0)
        return b"".join(pieces)


def _groups(family: Metric) -> Iterator[Group]:
    if isinstance(family, GroupedFamily):
        return family.groups()
    samples = list(family.samples)
    return iter([Group((), samples, lambda: samples)])


def _head(family: Metric) -> bytes:
    """Write the two lines that say what a family is."""
    return generate_latest(_Piece(family, []))


def _text(family: Metric, samples: list[Sample]) -> bytes:
    """Write samples of a family, without its head."""
    return generate_latest(_Piece(family, samples)).split(b"\n", 2)[2]


class _Piece(Collector):
    """Some of the samples of a family."""

    def __init__(self, family: Metric, samples: list[Sample]) -> None:
        self._family = Metric(family.name, family.documentation, family.type)
        self._family.samples = samples

    def collect(self) -> Iterator[Metric]:
        yield self._family
