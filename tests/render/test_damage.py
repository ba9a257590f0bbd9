"""Is a file that something has changed refused with a sentence or rendered, and never the reason for a traceback?"""

from __future__ import annotations

import gzip
import json
import random
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import UsageError
from loadgen.render.formats import FORMATS
from loadgen.report import Report
from loadgen.series import Series
from tests.render.results import DATA, real

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just([]), st.just({}), st.just([1]), st.just({"a": 1})
)


def places(part: Any) -> Iterator[tuple[Any, Any]]:
    """Give every place of a document: what holds it, and under which key."""
    keys = list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
    for key in keys:
        yield part, key
        yield from places(part[key])


def damaged(document: Any, seed: int, value: object) -> str:
    """Put a value at some place of a document, or take away what is there."""
    holder, key = random.Random(seed).choice(list(places(document)))
    if value == {"a": 1}:
        del holder[key]
    else:
        holder[key] = value
    return json.dumps(document)


@given(st.integers(0, 1 << 32), VALUES)
@settings(max_examples=40, deadline=None)
def test_a_damaged_report_is_refused_or_rendered(seed: int, value: object) -> None:
    text = damaged(json.loads((DATA / "report.json").read_text(encoding="utf-8")), seed, value)
    try:
        report = Report.of_json(text)
    except UsageError:
        return
    series = real().series
    for each in FORMATS.values():
        each.render(report, series).encode()


@given(st.integers(0, 1 << 32), VALUES)
@settings(max_examples=80, deadline=None)
def test_a_damaged_series_is_refused_or_rendered(seed: int, value: object) -> None:
    document = json.loads(gzip.decompress((DATA / "series.json.gz").read_bytes()))
    try:
        series = Series.of_bytes(gzip.compress(damaged(document, seed, value).encode(), 1))
    except UsageError:
        return
    for name in ("html", "openmetrics", "csv"):
        FORMATS[name].render(real().report, series).encode()
