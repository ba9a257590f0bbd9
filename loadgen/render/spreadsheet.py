"""What does a spreadsheet read? The time series as CSV: one row for each second, phase, client and outcome."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from loadgen.errors import UsageError, printable
from loadgen.outcome import Outcome

if TYPE_CHECKING:
    from loadgen.report import Report
    from loadgen.series import Series

HEADER = ("second", "phase", "client", "outcome", "count", "p50_s", "p99_s")
_FORMULA = ("=", "+", "-", "@")


def render(_report: Report, series: Series | None) -> str:
    """Write the time series. The phase is empty for what ended between two phases; what was not sent has no latencies.

    Raises UsageError if there is no time series.
    """
    if series is None:
        raise UsageError("there is no time series beside the report", hint="runs write it to series.json.gz; keep it with its report.json")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADER)
    for row in series.rows:
        latencies = ("", "") if row.outcome is Outcome.UNSENT else (f"{row.p50_s:g}", f"{row.p99_s:g}")
        writer.writerow((row.second, _cell(row.phase), _cell(row.client), row.outcome.value, row.count, *latencies))
    return file.getvalue()


def _cell(text: str) -> str:
    """Write a text so that no spreadsheet takes it for a formula: an apostrophe in front says that it is none."""
    shown = printable(text)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown
