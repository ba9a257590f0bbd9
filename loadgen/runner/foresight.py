"""Did a phase show what theory predicts? Puts the prediction beside the measurement and says where they part; no I/O, no clock.

What theory needs and a scenario does not say is the time for which a request counts in the sidecar: the service's own, and what the proxies and the connection
add. It is measured: an ``ok`` takes that time and the way between client and sidecar, an ``overflow`` the way alone. So it lies between the mean
latency of ``ok`` less that of ``overflow`` and the mean latency of ``ok``, and the prediction's interval is as wide as that leaves it. Where the service is
ours, it need not lie below what the scenario says, on average. What waited in a queue shows no service time: then the scenario's counts, if the service is ours.

In a cluster the service is not: what the scenario says of its time is no fact there. So what is predicted are laws that hold whatever the distribution, and bounds. How far
losses scatter depends on it all the same, so that is taken from what was measured, and never for less than that of exponential service.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from loadgen import report as parts
from loadgen.estimate import LATE_SHARE, NOTHING, Estimate, Law, Prediction, Stretch
from loadgen.outcome import Outcome
from loadgen.outlook import case_of
from loadgen.pacing import Open
from loadgen.prediction import predict, undetermined
from loadgen.quantity import range_text, rate_text
from loadgen.queueing import Span
from loadgen.recorder import merged, value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadgen.estimate import Case
    from loadgen.inputs import Plan
    from loadgen.recorder import Histogram, Tally
    from loadgen.runner.window import Measured, Window
    from loadgen.scenario import PhaseSpan

ENOUGH = 20
"""Fewer overflows show no mean latency."""
OTHERS_SHARE = 0.01
"""If more requests than that ended neither ok nor in an overflow of the own sidecar, theory has nothing to say of them."""

CHANGED = "Not compared: the rate changed in this phase."
ALIKE = "theory says something only of limits that are the same in all clients"
DIFFERENT = "Not compared: the clients had different limits."
NONE_OK = "Not compared: no request was ok, so nothing shows how long the service takes."
NOTHING_SENT = "Not compared: nothing was counted in this phase."


def with_predictions(report: parts.Report, plan: Plan, measured: Measured) -> parts.Report:
    """Give the report of a plan's own load with a prediction in each phase for which there is one."""
    spans = {span.phase.name: span for span in plan.scenario.spans()}
    phases = [
        phase.model_copy(
            update={"prediction": _prediction(plan, window, phase, measured.began, spans[phase.name], ours=report.mesh == "local")}
        )
        for phase, window in zip(report.phases, measured.windows, strict=True)
    ]
    return report.model_copy(update={"phases": phases})


def _prediction(
    plan: Plan, window: Window, phase: parts.PhasePart, began: float, span: PhaseSpan, *, ours: bool
) -> parts.PredictionPart | None:
    rate, tally = _rate_per_s(plan, window, began), merged(window.tallies.values())
    case = _case(plan, window, rate or 0.0, ours=ours)
    if case is None:
        limited = any(state.limits.in_force() for state in window.states.values())
        return _uncompared(Prediction(Law.UNDETERMINED, ALIKE, NOTHING), DIFFERENT) if limited else None
    if not tally.outcomes[Outcome.OK]:
        planned = _planned(case, phase, changes=rate is None)
        return _uncompared(planned, NONE_OK if tally.requests else NOTHING_SENT) if planned is not None else None
    stretch, source = _stretch(case, phase, tally)
    if isinstance(case.load, Open):
        stretch = replace(stretch, coming=span.coming(case.load.course))
    if rate is None:
        found = undetermined(case)
        return _beside(found, case, stretch, source, phase).model_copy(update={"sentence": CHANGED}) if found else None
    found = predict(case, stretch)
    if found is not None and found.law is Law.QUEUE:
        stretch, source = _after_waiting(case, stretch)
        found = predict(case, stretch)
    return None if found is None else _beside(found, case, stretch, source, phase)


def _planned(case: Case, phase: parts.PhasePart, *, changes: bool) -> Prediction | None:
    """Give what is predicted where nothing was measured: as before the load, and of a service that is not ours nothing."""
    if changes or not phase.duration_s:
        return undetermined(case)
    if case.service is not None:
        return predict(case, Stretch.planned(case.service, phase.duration_s))
    because = "how long the service takes is known from answers that are ok only"
    return Prediction(Law.UNDETERMINED, because, NOTHING) if case.limits.in_force() else None


def _uncompared(found: Prediction, sentence: str) -> parts.PredictionPart:
    """Give a prediction that nothing stands beside, and why: the figures of a plan are not those of a measured service time, so none is shown."""
    nothing = _figure(NOTHING, None)
    return parts.PredictionPart(
        law=found.law.value,
        because=found.because,
        service_time_s=(0.0, 0.0),
        service_time_from="",
        offered=None,
        admitted=nothing,
        loss=nothing,
        goodput_per_s=nothing,
        parts=None,
        sentence=sentence,
    )


def _rate_per_s(plan: Plan, window: Window, began: float) -> float | None:
    """Give the rate of an open load in the phase, 0 of another load; None if it changed."""
    pacing = plan.scenario.load.pacing
    return pacing.course.steady_rate_per_s(window.began - began, window.ended - began) if isinstance(pacing, Open) else 0.0


def _case(plan: Plan, window: Window, rate_per_s: float, *, ours: bool) -> Case | None:
    """Say what was in force in the phase; None if it was not the same at all clients."""
    limits = {state.limits for state in window.states.values()}
    if len(limits) != 1:
        return None
    case = case_of(plan.scenario, limits.pop(), rate_per_s, http2=plan.speaks_http2, ejected=plan.ejects_service)
    case = replace(case, clients=len(window.starts))
    return case if ours else replace(case, service=None, unexpected_status=None)


def _stretch(case: Case, phase: parts.PhasePart, tally: Tally) -> tuple[Stretch, str]:
    """Say what is known of a phase after it, and where the service time is from."""
    answered, rejected = _mean_s(tally.latency[Outcome.OK]), _mean_s(tally.latency[Outcome.OVERFLOW])
    shown = tally.outcomes[Outcome.OVERFLOW] >= ENOUGH
    least, source = answered - rejected, "measured: the mean latency of ok, less that of overflow at least"
    if case.service is not None and (case.service.mean_s < least or not shown):
        least, source = min(answered, case.service.mean_s), "the scenario at least, the mean latency of ok at most"
    elif not shown:
        least, source = 0.0, "the mean latency of ok at most; too few overflows show how much of it is the way to the sidecar"
    late = tally.outcomes[Outcome.TIMEOUT]
    if late > LATE_SHARE * tally.requests:
        source += f"; of answers that came in time only, and {late:,} did not"
    pending = phase.ledger.pending_overflow
    stretch = Stretch(
        phase.duration_s,
        Span(max(0.0, least), answered),
        overhead_s=rejected,
        scatter=1.0 if case.service is not None else _scatter(tally.latency[Outcome.OK], max(0.0, least)),
        attempts=tally.requests,
        pending_share=None if pending is None else min(1.0, max(0, pending) / tally.requests),
        longest_s=max(histogram.max_s for outcome, histogram in tally.latency.items() if outcome is not Outcome.UNSENT),
    )
    return stretch, source


def _after_waiting(case: Case, stretch: Stretch) -> tuple[Stretch, str]:
    """Say what is known of the service time where requests waited for a connection, and their latency shows both."""
    if case.service is not None:
        return replace(stretch, service_s=Span(case.service.mean_s, case.service.mean_s)), "the scenario"
    most = stretch.service_s.high
    return replace(stretch, service_s=Span(0.0, most)), "the mean latency of ok at most; how much of it was waiting is not known"


def _scatter(answered: Histogram, service_s: float) -> float:
    """Give by how much losses vary more than those of exponential service: about by its mean square, over 2 x mean^2, for what stays long makes many fail."""
    mean = _mean_s(answered)
    spread = sum(count * (value_of(bucket) - mean) ** 2 for bucket, count in answered.buckets.items()) / answered.count
    return max(1.0, (1 + spread / service_s**2) / 2) if service_s else 1.0


def _mean_s(histogram: Histogram) -> float:
    return histogram.sum_s / histogram.count if histogram.count else 0.0


def _beside(found: Prediction, case: Case, stretch: Stretch, source: str, phase: parts.PhasePart) -> parts.PredictionPart:
    peaks = [client.service.peak_in_flight for client in phase.clients]
    known = [peak for peak in peaks if peak is not None]
    admitted = _figure(found.admitted, max(known) if known and len(known) == len(peaks) else None)
    loss = _figure(found.lost, (phase.outcomes[Outcome.OVERFLOW] - phase.ledger.server_side) / phase.requests)
    goodput = _figure(found.through_per_s.times(case.clients), phase.outcomes[Outcome.OK] / phase.duration_s)
    others = phase.requests - phase.outcomes[Outcome.OK] - phase.outcomes[Outcome.OVERFLOW]
    elsewhere = phase.ledger.server_side
    judged = [(loss, _share_text, "lost"), (admitted, _count_text, "of a client admitted at a time")]
    if loss.low is None and loss.high is None:
        judged.append((goodput, rate_text, "let through"))
    verdicts = [_comparison(*each) for each in judged if each[0].inside is not None]
    certain = bool(verdicts) and others + elsewhere <= OTHERS_SHARE * phase.requests
    misses = [sentence for inside, sentence in verdicts if not inside]
    return parts.PredictionPart(
        law=found.law.value,
        because=found.because,
        service_time_s=(round(stretch.service_s.low, 6), round(stretch.service_s.high, 6)),
        service_time_from=source,
        offered=None if found.offered is None else (round(found.offered.low, 4), round(found.offered.high, 4)),
        admitted=admitted,
        loss=loss,
        goodput_per_s=goodput,
        parts=bool(misses) if certain else None,
        sentence=_sentence(certain, misses, [sentence for _, sentence in verdicts], others, elsewhere),
    )


def _figure(estimate: Estimate, measured: float | None) -> parts.FigurePart:
    return parts.FigurePart(**estimate.to_json(), measured=None if measured is None else round(measured, 6))


def _comparison(figure: parts.FigurePart, text: Callable[[float], str], what: str) -> tuple[bool, str]:
    """Tell whether a figure lies where it should, and say so."""
    assert figure.measured is not None, "only what was measured is compared"
    return figure.inside is True, f"{text(figure.measured)} {what}, {range_text(figure.low, figure.high, text)} predicted"


def _sentence(certain: bool, misses: Sequence[str], found: Sequence[str], others: int, elsewhere: int) -> str:
    if not found:
        return "Nothing is predicted that could be compared."
    if not certain:
        ended = [f"{others:,} requests ended in another way"] if others else []
        ended += [f"{elsewhere:,} requests were rejected at the server's side"] if elsewhere else []
        return f"Not compared: {' and '.join(ended)}, of which theory says nothing."
    return f"Parts from the prediction: {'; '.join(misses)}." if misses else f"As predicted: {'; '.join(found)}."


def _share_text(share: float) -> str:
    return f"{share:.1%}"


def _count_text(count: float) -> str:
    return f"{count:.0f}"
