"""What does a machine read? The report, as ``report.json`` holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadgen.report import Report
    from loadgen.series import Series


def render(report: Report, _series: Series | None) -> str:
    """Write the report as JSON."""
    return report.to_json()
