"""Which figures does a table show, and how is each written? The columns that the console, Markdown and HTML share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from loadgen.cause import sentence
from loadgen.firing import MAX_PENDING
from loadgen.outcome import Outcome
from loadgen.quantity import range_text, seconds_text, share_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from loadgen.report import BurstsPart, ClientPart, FigurePart, PhasePart, PredictionPart, Quantiles, Report, SeenPart

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column of a table. On a narrow terminal those with the highest ``rank`` are left out first; 0 always stays, in forty columns.

    ``words`` are read from the left, figures from the right; the first column is of words.
    """

    title: str
    cell: Callable[[Row], str]
    rank: int = 0
    words: bool = False


PHASE_COLUMNS: Sequence[Column[PhasePart]] = (
    Column("phase", lambda phase: phase.name),
    Column("policy", lambda phase: phase.policy, 3, words=True),
    Column("requests", lambda phase: f"{phase.requests:,}", 1),
    Column("per s", lambda phase: f"{phase.rate_per_s:,.0f}", 4),
    Column("ok", lambda phase: f"{phase.outcomes.get('ok', 0):,}"),
    Column("", lambda phase: share_text(phase.outcomes.get("ok", 0), phase.requests), 2),
    Column("overflow", lambda phase: f"{phase.outcomes.get('overflow', 0):,}"),
    Column("", lambda phase: share_text(phase.outcomes.get("overflow", 0), phase.requests), 2),
    Column("other", lambda phase: f"{phase.requests - phase.outcomes.get('ok', 0) - phase.outcomes.get('overflow', 0):,}"),
    Column("p50 ok", lambda phase: quantile(phase.latency_s, "ok", "p50"), 5),
    Column("p99 ok", lambda phase: quantile(phase.latency_s, "ok", "p99"), 2),
    Column("p99 overflow", lambda phase: quantile(phase.latency_s, "overflow", "p99"), 6),
    Column("peak", lambda phase: known(phase.service.peak_in_flight), 1),
)
LEDGER_COLUMNS: Sequence[Column[PhasePart]] = (
    Column("phase", lambda phase: phase.name),
    Column("clients", lambda phase: f"{phase.ledger.client:,}"),
    Column("sidecars", lambda phase: known(phase.ledger.proxy)),
    Column("difference", lambda phase: known(phase.imbalance), 1),
    Column("by max requests", lambda phase: known(phase.ledger.active_overflow), 3),
    Column("by max pending", lambda phase: known(phase.ledger.pending_overflow), 3),
    Column("in force after", lambda phase: f"{phase.convergence_s.max * 1000:.0f} ms" if phase.convergence_s else "-", 2),
    Column("drained after", lambda phase: f"{phase.drain_s.max * 1000:.0f} ms", 4),
)
BURST_COLUMNS: Sequence[Column[PhasePart]] = (
    Column("phase", lambda phase: phase.name),
    Column("bursts", lambda phase: f"{phase.bursts.count:,}" if phase.bursts else "-", 1),
    Column("let through", lambda phase: _of_each(phase.bursts)),
    Column("not known", lambda phase: f"{phase.bursts.untold:,}" if phase.bursts else "-", 3),
    Column("service saw", lambda phase: f"{phase.bursts.seen.count:,}" if phase.bursts and phase.bursts.seen else "unknown", 2),
    Column("in flight", lambda phase: _of_each(phase.bursts.seen if phase.bursts else None)),
    Column("cut by an edge", lambda phase: f"{phase.bursts.cut:,}" if phase.bursts else "-", 3),
)
BURSTS = "Of each burst that an edge of its phase does not cut: let through by the client's sidecar, where that is known of all its requests, and in flight at the service; the peak of a phase is of all"
CLIENT_BURSTS: Sequence[Column[ClientPart]] = (
    Column("bursts", lambda client: f"{client.bursts.count:,}" if client.bursts else "-"),
    Column("let through", lambda client: _of_each(client.bursts) if client.bursts else "-"),
    Column("seen", lambda client: _of_each(client.bursts.seen) if client.bursts else "-"),
)
"""What a table of clients has beside ``CLIENT_COLUMNS`` where there were bursts."""
LIMITS: Column[ClientPart] = Column(
    "limits", lambda client: ", ".join(f"{name} {value}" for name, value in client.effective.in_force().items()) or "none", 5, words=True
)
CLIENT_COLUMNS: Sequence[Column[ClientPart]] = (
    Column("client", lambda client: client.name),
    Column("requests", lambda client: f"{client.requests:,}", 1),
    Column("ok", lambda client: f"{client.outcomes.get('ok', 0):,}"),
    Column("overflow", lambda client: f"{client.outcomes.get('overflow', 0):,}"),
    Column("", lambda client: share_text(client.outcomes.get("overflow", 0), client.requests), 3),
    Column("sidecar", lambda client: known(client.ledger.proxy)),
    Column("difference", lambda client: known(client.ledger.difference), 1),
    Column("p99 ok", lambda client: quantile(client.latency_s, "ok", "p99"), 3),
    Column("peak", lambda client: known(client.service.peak_in_flight), 2),
    Column("in force after", lambda client: "-" if client.convergence_s is None else f"{client.convergence_s * 1000:.0f} ms", 4),
    LIMITS,
)


SHOWN_CAUSES = 8
"""So many causes of a phase are shown, the most frequent ones; the report holds all."""
FAILURES = "Requests that were neither ok nor rejected by the limits of the client's own sidecar, and why"


@dataclass(frozen=True, slots=True)
class Failure:
    """A cause for which requests of a phase failed."""

    phase: str
    requests: int
    cause: str
    made_by: str
    sentence: str


FAILURE_COLUMNS: Sequence[Column[Failure]] = (
    Column("phase", lambda failure: failure.phase),
    Column("requests", lambda failure: f"{failure.requests:,}"),
    Column("cause", lambda failure: failure.cause, words=True),
    Column("made by", lambda failure: failure.made_by, 1, words=True),
    Column("which means", lambda failure: failure.sentence, 2, words=True),
)


def failures_of(report: Report) -> list[Failure]:
    """Give why requests failed, by phase; what goes beyond ``SHOWN_CAUSES`` stands together in one line."""
    rows = []
    for phase in report.phases:
        for each in phase.causes[:SHOWN_CAUSES]:
            made_by = each.made_by.replace("_", " ")
            rows.append(Failure(phase.name, each.requests, each.cause, made_by, sentence(each.cause, each.made_by)))
        if rest := phase.causes[SHOWN_CAUSES:]:
            rows.append(
                Failure(phase.name, sum(each.requests for each in rest), "others", "", f"{len(rest)} more causes are in report.json")
            )
    return rows


@dataclass(frozen=True, slots=True)
class Beside:
    """One figure of a phase, predicted and measured; ``judged`` whether it is held against the prediction."""

    phase: str
    what: str
    figure: FigurePart
    text: Callable[[float], str]
    judged: bool

    @property
    def inside(self) -> str:
        """Tell whether the measurement lies where it should; a dash where that is not said, as of a goodput that follows from the loss."""
        return {None: "-", True: "yes", False: "NO"}[self.figure.inside if self.judged else None]

    def written(self, value: float | None) -> str:
        """Write a value of this figure; a dash stands for none."""
        return "-" if value is None else self.text(value)


PREDICTION_COLUMNS: Sequence[Column[Beside]] = (
    Column("phase", lambda row: row.phase),
    Column("figure", lambda row: row.what, words=True),
    Column("predicted", lambda row: row.written(row.figure.predicted), 2),
    Column("to be measured", lambda row: range_text(row.figure.low, row.figure.high, row.text)),
    Column("measured", lambda row: row.written(row.figure.measured)),
    Column("inside", lambda row: row.inside, 1),
)
PREDICTIONS = "Prediction beside measurement"


def besides(report: Report) -> list[Beside]:
    """Give what is predicted in a report, figure by figure."""
    return [
        Beside(phase.name, what, figure, text, judged=found.parts is not None and judged)
        for phase in report.phases
        if (found := phase.prediction) is not None
        for what, figure, text, judged in (
            ("at a time", found.admitted, "{:.0f}".format, True),
            ("lost", found.loss, "{:.1%}".format, True),
            ("goodput/s", found.goodput_per_s, "{:,.1f}".format, found.loss.low is None and found.loss.high is None),
        )
        if (figure.predicted, figure.low, figure.high) != (None, None, None)
    ]


def bursts_of(report: Report) -> list[PhasePart]:
    """Give the phases in which there were bursts."""
    return [phase for phase in report.phases if phase.bursts]


def _of_each(found: BurstsPart | SeenPart | None) -> str:
    """Write how many requests of each burst there were, from the fewest to the most."""
    return "unknown" if found is None or not found.count else range_text(found.least, found.most, "{:,.0f}".format)


def said_of_phases(report: Report) -> list[tuple[str, str]]:
    """Give the phases in which a limit was in force, each with the sentence that says what it did, and what failed between the phases."""
    said = [(phase.name, f"{phase.because}.{_said_of_pool(phase)}") for phase in report.phases if phase.because]
    ended = report.between_phases
    if failed := {outcome: count for outcome, count in ended.items() if outcome not in {Outcome.OK, Outcome.OVERFLOW}}:
        how = ", ".join(f"{outcome} {count:,}" for outcome, count in failed.items())
        said.append(
            ("between the phases", f"{sum(failed.values()):,} of {sum(ended.values()):,} requests failed ({how}); they count in no phase.")
        )
    return said


def _said_of_pool(phase: PhasePart) -> str:
    """Say how warm the pool was where it matters: a request that finds an open connection is never pending."""
    if not phase.pool or not any(MAX_PENDING in client.effective.in_force() for client in phase.clients):
        return ""
    if all(client.effective.max_requests_per_connection == 1 for client in phase.clients):
        return " The pool of connections is always cold: maxRequestsPerConnection is 1, so none carries a second request."
    each = [client.connections or 0 for client in phase.clients]
    return f" The pool of connections was {phase.pool} when the phase began to count: {range_text(min(each), max(each), '{:,.0f}'.format)} open in each sidecar."


def said_of_predictions(report: Report) -> list[str]:
    """Say of each phase with a prediction whether it holds, and what it is made from."""
    return [
        f"{phase.name}: {found.sentence} {found.because[:1].upper()}{found.because[1:]}.{_service_time(found)}"
        for phase in report.phases
        if (found := phase.prediction) is not None
    ]


def _service_time(found: PredictionPart) -> str:
    """Say what service time a prediction is made from; nothing where none was measured."""
    if not found.service_time_from:
        return ""
    return f" Service time in the sidecar: {range_text(*found.service_time_s, seconds_text)} ({found.service_time_from})."


def clients_of(phase: PhasePart) -> list[ClientPart]:
    """Give a phase's clients in the order in which a person counts."""
    return sorted(phase.clients, key=lambda client: (len(client.name), client.name))


def total_difference(report: Report) -> int:
    """Give by how much clients and sidecars differ in all, as far as it is known."""
    return sum(phase.imbalance or 0 for phase in report.phases)


def quantile(latencies: Mapping[str, Quantiles], outcome: str, name: str) -> str:
    """Write a latency; a dash stands for that of no request."""
    quantiles = latencies.get(outcome)
    return seconds_text(getattr(quantiles, name)) if quantiles else "-"


def known(count: int | None) -> str:
    """Write a count, or that it is not known."""
    return "unknown" if count is None else f"{count:,}"
