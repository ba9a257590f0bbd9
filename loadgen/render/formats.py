"""In which forms is a report given, and what is each one's file called? Each is made from the report, and the time series where it has one, alone."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from loadgen.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from loadgen.report import Report
    from loadgen.series import Series


@dataclass(frozen=True, slots=True)
class Format:
    """One form. ``module`` of this folder has a function ``render(report, series)``; it needs the package ``needs``, which is in ``extra``."""

    name: str
    extension: str
    module: str
    needs: str = ""
    extra: str = ""

    def render(self, report: Report, series: Series | None) -> str:
        """Write the report in this form.

        Raises UsageError if it takes a time series, and there is none.
        """
        render: Callable[[Report, Series | None], str] = import_module(f"loadgen.render.{self.module}").render
        return render(report, series)

    @property
    def file(self) -> str:
        """What its file is called."""
        return f"report.{self.extension}"


FORMATS = {
    each.name: each
    for each in (
        Format("console", "txt", "console"),
        Format("html", "html", "page"),
        Format("junit", "xml", "junit"),
        Format("markdown", "md", "markdown"),
        Format("openmetrics", "openmetrics", "openmetrics", "prometheus_client", "metrics"),
        Format("csv", "csv", "spreadsheet"),
        Format("json", "json", "document"),
    )
}


def formats_of(names: Iterable[str]) -> tuple[Format, ...]:
    """Give the formats of these names, each once.

    Raises UsageError if a name is unknown, or a format's package is not installed.
    """
    chosen = []
    for name in dict.fromkeys(names):
        if name not in FORMATS:
            raise UsageError(f"there is no format {name!a}", hint=f"there are {', '.join(FORMATS)}")
        found = FORMATS[name]
        if found.needs and importlib.util.find_spec(found.needs) is None:
            raise UsageError(f"the format {name} needs the package {found.needs}", hint=f"pip install 'loadgen[{found.extra}]'")
        chosen.append(found)
    return tuple(chosen)
