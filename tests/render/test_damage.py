"""Is a file that something has changed refused with a sentence or rendered, and never the reason for a traceback?"""

from __future__ import annotations

import gzip
import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import UsageError
from loadgen.render.formats import FORMATS
from loadgen.report import Report
from loadgen.series import Series
from tests.render.results import DATA, real

if TYPE_CHECKING:
    from collections.abc import Iterator

HUGE = st.sampled_from([10**400, -(10**400), 2**63, 2**53 + 1, 2**53, 10**12, 1e300, -1])
"""Numbers that JSON can hold and no run has; ``st.integers`` hardly ever makes one."""
VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), HUGE, st.floats(), st.text(max_size=20)),
    *map(st.just, ([], {}, [1], {"a": 1})),
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


@pytest.mark.parametrize("value", [10**400, 10**12, -1])
def test_a_number_that_no_run_has_is_refused_wherever_a_count_or_a_time_stands(value: int) -> None:
    for name in ("began_s", "ended_s", "duration_s", "requests"):
        document = json.loads((DATA / "report.json").read_text(encoding="utf-8"))
        document["phases"][1][name] = value if name != "requests" else value * 10**6
        with pytest.raises(UsageError, match=rf"the report is damaged: phases\.1\.{name}: "):
            Report.of_json(json.dumps(document))
    for path in (
        ("rows", "second", 3),
        ("rows", "count", 3),
        ("rows", "phase", 3),
        ("moments", 3, 0),
        ("moments", 3, 1),
        ("in_flight", 1, 0),
    ):
        series = json.loads(gzip.decompress((DATA / "series.json.gz").read_bytes()))
        part = series
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = value * 10**6
        with pytest.raises(UsageError, match="no series of loadgen's, or it is damaged"):
            Series.of_bytes(gzip.compress(json.dumps(series).encode(), 1))


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
