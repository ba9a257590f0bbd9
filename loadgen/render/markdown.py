"""What does the summary of a CI job show? The verdict first, then tables, in the Markdown that GitHub and GitLab show.

All text from outside is escaped: it can be no link, no mention, no HTML and no further column.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from loadgen.errors import printable
from loadgen.render.columns import (
    BURST_COLUMNS,
    BURSTS,
    CLIENT_COLUMNS,
    FAILURE_COLUMNS,
    FAILURES,
    LEDGER_COLUMNS,
    PHASE_COLUMNS,
    PREDICTION_COLUMNS,
    besides,
    bursts_of,
    clients_of,
    failures_of,
    said_of_phases,
    said_of_predictions,
    total_difference,
)
from loadgen.render.headline import Look, headline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.render.columns import Column, Row
    from loadgen.report import Report
    from loadgen.series import Series

MAX_BYTES = 900_000
"""GitHub takes 1 MiB for a step and shows nothing of one that is longer."""
_MARKS = {Look.GOOD: "✅", Look.DOUBTFUL: "⚠️", Look.BAD: "❌"}
_SYNTAX = re.compile(r"([\\`*_\[\]#|~])")
_LINK = re.compile(r"(?<=://)|(?<=www)(?=\.)|(?=@)", re.IGNORECASE)
_BREAK = "<!-- -->"
"""Shows as nothing, and what it parts is no link and no mention."""


def render(report: Report, _series: Series | None) -> str:
    """Write the summary, at most ``MAX_BYTES`` long."""
    return summary(report, MAX_BYTES)


def summary(report: Report, max_bytes: int) -> str:
    """Write as much of the summary as fits, in whole parts: the verdict, what was expected, the phases, the ledger, the bursts, the failures, the predictions, the clients of each phase.

    Where there is no room to say that something is left out, nothing is written.
    """
    text, left_out = "", False
    reserve = len(_LEFT_OUT.encode())
    if reserve > max_bytes:
        return ""
    for part in _parts(report):
        if len((text + part).encode()) + reserve > max_bytes:
            left_out = True
        else:
            text += part
    return text + (_LEFT_OUT if left_out else "")


_LEFT_OUT = "\n*Some of it is too long to be shown here; all is in `report.json`.*\n"


def _parts(report: Report) -> list[str]:
    parts = [_conclusion(report)]
    if report.expectations:
        rows = [
            ("✅ held" if each.held else "❌ **failed**", escaped(each.phase), escaped(each.wanted), escaped(each.got))
            for each in report.expectations
        ]
        parts.append("\n### Expectations\n\n" + _lines(("", "phase", "wanted", "got"), ("left",) * 4, rows))
    if report.phases:
        parts.append("\n### Phases\n\n" + _table(PHASE_COLUMNS, report.phases))
        parts.append(
            "\n### Ledger\n\nOverflows as the clients saw them and as their sidecars counted them.\n\n"
            + _table(LEDGER_COLUMNS, report.phases)
        )
        if because := said_of_phases(report):
            parts.append("\n" + "".join(f"- **{escaped(name)}**: {escaped(sentence)}\n" for name, sentence in because))
    if bursts := bursts_of(report):
        parts.append(f"\n### Bursts\n\n{BURSTS}.\n\n" + _table(BURST_COLUMNS, bursts))
    if failures := failures_of(report):
        parts.append(f"\n### Failures\n\n{FAILURES}.\n\n" + _table(FAILURE_COLUMNS, failures))
    if said := said_of_predictions(report):
        figures = besides(report)
        table = f"{_table(PREDICTION_COLUMNS, figures)}\n" if figures else ""
        parts.append(f"\n### Prediction beside measurement\n\n{table}" + "".join(f"- {escaped(each)}\n" for each in said))
    if report.findings:
        parts.append("\n### Warnings\n\n" + "".join(map(_warning, report.findings)))
    for phase in report.phases:
        table = _table(CLIENT_COLUMNS, clients_of(phase))
        parts.append(f"\n<details><summary>Clients in phase {_in_html(phase.name)}</summary>\n\n{table}\n</details>\n")
    about = report.environment
    parts.append(
        f"\n<sub>loadgen {escaped(about.loadgen)}, Envoy {escaped(about.envoy)}, Python {escaped(about.python)}, {escaped(about.platform)},"
        f" {about.cpus} CPUs, {report.mesh} mesh, {escaped(report.started_at)}</sub>\n"
    )
    return parts


def _warning(finding: str) -> str:
    """Write a warning as an item of a list; what follows its first line, an excerpt with carets, stays as it is."""
    first, *rest = finding.split("\n")
    excerpt = "\n".join(f"  {_in_html(line)}" for line in rest)
    return f"- {escaped(first)}\n" + (f"\n  <pre>\n{excerpt}\n  </pre>\n" if rest else "")


def _conclusion(report: Report) -> str:
    found = headline(report)
    lines = [f"## {_MARKS[found.look]} {found.words}: {escaped(report.scenario.name)}", "", escaped(found.sentence), ""]
    lines += [line for alarm in found.alarms for line in (f"❌ **{escaped(alarm)}**", "")]
    if report.validity.state == "VALID":
        share = f"{report.environment.hammer_cpu_share:.0%}"
        lines += [f"**VALID**: the hammer used {share} of a core; the ledger differs by {total_difference(report)}.", ""]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Write a text that Markdown leaves as it is."""
    plain = _SYNTAX.sub(r"\\\1", html.escape(printable(text), quote=False))
    return _LINK.sub(_BREAK, plain)


def _in_html(text: str) -> str:
    """Write a text that stands in HTML, where Markdown has no say."""
    return _LINK.sub(_BREAK, html.escape(printable(text)))


def _table(columns: Sequence[Column[Row]], rows: Sequence[Row]) -> str:
    aligned = ["left" if column is columns[0] or column.words else "right" for column in columns]
    cells = [[escaped(column.cell(row)) for column in columns] for row in rows]
    return _lines([column.title for column in columns], aligned, cells)


def _lines(titles: Sequence[str], aligned: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---" if side == "left" else "---:" for side in aligned]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (titles, rule, *rows))
