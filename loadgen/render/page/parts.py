"""What stands on a page, from the verdict down? Every part is made of the report alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.quantity import seconds_text
from loadgen.render.columns import (
    BURST_COLUMNS,
    BURSTS,
    CLIENT_BURSTS,
    CLIENT_COLUMNS,
    FAILURE_COLUMNS,
    FAILURES,
    LEDGER_COLUMNS,
    LIMITS,
    PHASE_COLUMNS,
    PREDICTION_COLUMNS,
    Column,
    besides,
    bursts_of,
    clients_of,
    failures_of,
    said_of_phases,
    said_of_predictions,
    total_difference,
)
from loadgen.render.headline import Look, headline
from loadgen.render.page.elements import E
from loadgen.render.page.plots import limits, moments
from loadgen.scenario import load_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from xml.etree.ElementTree import Element

    from loadgen.render.columns import Row
    from loadgen.report import PhasePart, Quantiles, Report

_MARKS = {Look.GOOD: "✓", Look.DOUBTFUL: "!", Look.BAD: "✗"}
_PLOTS = (
    ("rates", "Requests that ended per second, by outcome", "per s"),
    ("latencies", "Latency by outcome from the moment a request was due: p50 dotted, p99 thick", "s, logarithmic"),
    ("in_flight", "Requests in flight, all clients together", "a point for each moment at which they were counted"),
)
_LATENCY_COLUMNS: Sequence[Column[tuple[str, str, Quantiles]]] = (
    Column("phase", lambda row: row[0]),
    Column("outcome", lambda row: row[1], words=True),
    Column("p50", lambda row: seconds_text(row[2].p50)),
    Column("p90", lambda row: seconds_text(row[2].p90)),
    Column("p99", lambda row: seconds_text(row[2].p99)),
    Column("p99.9", lambda row: seconds_text(row[2].p999)),
    Column("max", lambda row: seconds_text(row[2].max)),
)
_HAMMER_COLUMNS: Sequence[Column[PhasePart]] = (
    Column("phase", lambda phase: phase.name),
    Column("share of a core", lambda phase: f"{phase.hammer_cpu_share:.0%}"),
    Column("sent late, p50", lambda phase: seconds_text(phase.schedule_lag_s.p50)),
    Column("sent late, p99", lambda phase: seconds_text(phase.schedule_lag_s.p99)),
    Column("sent late, max", lambda phase: seconds_text(phase.schedule_lag_s.max)),
    Column("loop late, p99", lambda phase: seconds_text(phase.loop_lag_s.p99)),
    Column("held back", lambda phase: seconds_text(phase.held_s)),
)


def title_of(report: Report) -> str:
    """Give the page's title: the verdict, and what was run."""
    found = headline(report)
    return f"{_MARKS[found.look]} {found.words}: {report.scenario.name}"


def body(report: Report, *, has_plots: bool) -> Element:
    """Make the page's body. The script that draws the plots finds their places by the attribute ``data-plot``."""
    main = E("main", *_plots(report, has_plots=has_plots), *_tables(report), _about(report))
    return E("body", _verdict(report), main)


def _verdict(report: Report) -> Element:
    found = headline(report)
    title = E("h1", f"{_MARKS[found.look]} {found.words}", E("span", f" {report.scenario.name}", class_="of"))
    header = E("header", title, E("p", found.sentence, class_="sentence"), class_=found.look)
    header.extend(E("p", E("b", f"✗ {alarm}"), class_="alarm") for alarm in found.alarms)
    if report.validity.state == "VALID":
        share = f"{report.environment.hammer_cpu_share:.0%}"
        header.append(
            E(
                "p",
                E("b", "VALID"),
                f": the hammer used {share} of a core; the ledger differs by {total_difference(report)}.",
                class_="valid",
            )
        )
    if report.restore.state != "failed":
        name = "Restored" if report.restore.state == "verified" else "Nothing to restore"
        header.append(E("p", E("b", name), f": {report.restore.detail}" if report.restore.detail else "", class_="valid"))
    return header


def _plots(report: Report, *, has_plots: bool) -> Iterator[Element]:
    section = _section("The run by the second")
    yield section
    if not has_plots:
        section.append(E("p", "There was no time series beside the report, so there is nothing to draw.", class_="note"))
        return
    for name, title, unit in _PLOTS:
        caption = E("figcaption", E("b", title), f" ({unit})" if unit else "", id=f"{name}-caption")
        place = E("div", {"data-plot": name, "aria-labelledby": f"{name}-caption", "tabindex": "0", "role": "group"}, class_="plot")
        spoken = E("p", {"aria-live": "polite"}, class_="spoken")
        values = E("details", E("summary", "The same as a table"), E("div", class_="scroll"), {"data-values": name})
        section.append(E("figure", caption, place, spoken, values))
    key = E("p", E("i", "", class_="mark toggle"), " policy toggled   ", E("i", "", class_="mark convergence"), class_="note")
    key.extend(
        [E("span", " every sidecar shows it   "), E("i", "", class_="mark band"), E("span", " a phase counts (stronger: policy applied)")]
    )
    if limits(report):
        key.extend([E("i", "", class_="mark limit"), E("span", " http2MaxRequests of all sidecars together, while in force")])
    section.append(key)
    section.append(E("p", "The last second is not a whole one, so its rates are not drawn.", class_="note"))
    section.append(
        E(
            "p",
            "Drag across a plot to look closer, double-click to see all again. With the keyboard: arrow keys read a plot, Escape shows all again.",
            class_="note screen",
        )
    )
    found = moments(report)
    if found:
        section.append(E("h3", "When the policy changed"))
        section.append(E("ol", *(E("li", f"{each['at']:.3f} s: {each['what']}") for each in found)))


def _tables(report: Report) -> Iterator[Element]:
    if report.expectations:
        yield _expectations(report)
    if not report.phases:
        return
    yield _section("Phases", _table("Requests by outcome", PHASE_COLUMNS, report.phases))
    because = [E("li", E("b", name), f": {sentence}") for name, sentence in said_of_phases(report)]
    ledger = _table("Overflows as the clients saw them and as their sidecars counted them", LEDGER_COLUMNS, report.phases)
    yield _section("Ledger", ledger, *([E("ul", *because)] if because else []))
    if bursts := bursts_of(report):
        yield _section("Bursts", _table(BURSTS, BURST_COLUMNS, bursts))
    if failures := failures_of(report):
        yield _section("Failures", _table(FAILURES, FAILURE_COLUMNS, failures))
    if said := said_of_predictions(report):
        rows = besides(report)
        table = [_table("What was predicted of each figure, and what was measured", PREDICTION_COLUMNS, rows)] if rows else []
        yield _section("Prediction beside measurement", *table, E("ul", *(E("li", each) for each in said)))
    latencies = [(phase.name, outcome, quantiles) for phase in report.phases for outcome, quantiles in phase.latency_s.items()]
    yield _section("Latency", _table("From the moment a request was due to its last byte, by outcome", _LATENCY_COLUMNS, latencies))
    yield _section("Clients", *map(_clients, report.phases))
    yield _section("The hammer itself", _table("How busy and how late it was", _HAMMER_COLUMNS, report.phases))


def _clients(phase: PhasePart) -> Element:
    """Make the table of a phase's clients. Limits that are the same in all sidecars stand once, above it."""
    found = {LIMITS.cell(client) for client in phase.clients}
    title, columns = f"Phase {phase.name}", [*CLIENT_COLUMNS[:-1], *(CLIENT_BURSTS if phase.bursts else ()), LIMITS]
    if len(found) == 1:
        title, columns = f"{title}; limits in each sidecar: {found.pop()}", columns[:-1]
    return _table(title, columns, clients_of(phase), kind="clients")


def _expectations(report: Report) -> Element:
    rows = [
        E(
            "tr",
            E("td", "✓ held" if each.held else "✗ FAILED", class_="good" if each.held else "bad"),
            E("th", each.phase, scope="row"),
            E("td", each.wanted),
            E("td", each.got),
        )
        for each in report.expectations
    ]
    table = E(
        "table",
        _caption(f"{sum(each.held for each in report.expectations)} of {len(rows)} held"),
        E("thead", E("tr", *(E("th", title, scope="col") for title in ("result", "phase", "wanted", "got")))),
        E("tbody", *rows),
        class_="words",
    )
    return _section("Expectations", _scrolled(table, "Expectations"))


def _table(title: str, columns: Sequence[Column[Row]], rows: Sequence[Row], *, kind: str = "figures") -> Element:
    looks = [{"class": "text"} if column.words else {} for column in columns]
    head = E("tr", *(E("th", column.title or "share", look, scope="col") for column, look in zip(columns, looks, strict=True)))
    lines = [
        E(
            "tr",
            E("th", columns[0].cell(row), scope="row"),
            *(E("td", column.cell(row), look) for column, look in zip(columns[1:], looks[1:], strict=True)),
        )
        for row in rows
    ]
    return _scrolled(E("table", _caption(title), E("thead", head), E("tbody", *lines), class_=kind), title)


def _caption(title: str) -> Element:
    """Make a caption whose text stays in sight when its table is scrolled."""
    return E("caption", E("span", title))


def _scrolled(table: Element, title: str) -> Element:
    return E("div", table, {"tabindex": "0", "role": "region", "aria-label": title}, class_="scroll")


def _about(report: Report) -> Element:
    scenario, about = report.scenario, report.environment
    what = {
        "scenario": scenario.name,
        "target": scenario.target,
        "mesh": report.mesh,
        "clients": f"{scenario.clients}, each with {scenario.workers} worker thread(s) in its sidecar",
        "load in each": load_text(scenario.load),
        "service time": scenario.service_time,
        "rule": scenario.rule or "none",
        "limits": _listed(scenario.limits) or "none",
        "seed": str(scenario.seed),
        "started": report.started_at,
        "took": seconds_text(report.duration_s),
    }
    where = {
        "loadgen": about.loadgen,
        "Envoy": about.envoy,
        "Python": about.python,
        "platform": about.platform,
        "CPUs": str(about.cpus),
        "hammer": f"{about.processes} process(es), the busiest used {about.hammer_cpu_share:.0%} of a core",
        "ready after": seconds_text(about.ready_s),
    }
    section = _section("What was run, and where", _pairs(what), _pairs(where))
    if report.findings:
        section.extend([E("h3", "Warnings"), E("ul", *map(_warning, report.findings))])
    return section


def _warning(finding: str) -> Element:
    """Make an item of a list; what follows its first line, an excerpt with carets, stays as it is."""
    first, *rest = finding.split("\n")
    return E("li", first, *([E("pre", *(E("span", line) for line in rest))] if rest else []))


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _pairs(pairs: Mapping[str, str]) -> Element:
    return E("dl", *(E("div", E("dt", name), E("dd", value)) for name, value in pairs.items()))


def _section(title: str, *parts: Element) -> Element:
    return E("section", E("h2", title), *parts)
