"""What do the measurements say? From windows and tallies to the one report; no I/O, no clock."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Literal

from loadgen import report as parts
from loadgen.expectation import RUN
from loadgen.firing import why
from loadgen.ledger import Counters, Ledger, ServiceCount
from loadgen.outcome import Outcome
from loadgen.recorder import Tally, merged
from loadgen.runner.figures import NOTHING, PhaseFigures
from loadgen.runner.showing import evidence_of, judged_windows
from loadgen.runner.window import connections, counters_of, pool
from loadgen.runner.witnesses import arrived_of, blind_spots, count_of, disagreements, imbalance_of, strangers, unseen
from loadgen.series import BETWEEN
from loadgen.summary import lags, quantiles
from loadgen.validity import Health, busiest_share, doubts
from loadgen.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loadgen.expectation import Expectation, Figures
    from loadgen.inputs import Plan
    from loadgen.policy.state import SidecarState
    from loadgen.runner.window import Measured, Window
    from loadgen.series import Series


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What a run leaves behind: its report, and the run by the second."""

    report: parts.Report
    series: Series


def make_report(
    plan: Plan,
    measured: Measured,
    wanted: SidecarState,
    environment: parts.Environment,
    started_at: str,
    mesh: Literal["local", "cluster"] = "local",
    *,
    scripted: bool = True,
) -> parts.Report:
    """Assemble the report. ``wanted`` is the state that the rules should lead to in every sidecar; ``scripted``: the load was the scenario's."""
    phases = [_phase(window, measured.began) for window in measured.windows]
    verdict = judge(evidence_of(plan, measured, wanted, scripted=scripted))
    reasons = [
        *measured.reasons,
        *(reason for window, phase in zip(measured.windows, phases, strict=True) for reason in _doubts(window, phase)),
    ]
    reasons += [reason for window in measured.windows for reason in disagreements(window)]
    reasons += [f"phase {phase.name} was not measured" for phase in plan.scenario.phases[len(phases) :]] if not measured.reasons else []
    validity = parts.Validity(state="INVALID" if reasons else "VALID", reasons=reasons)
    figures: dict[str, Figures] = {
        RUN: {"verdict": verdict.state.value, "validity": validity.state},
        **{phase.name: PhaseFigures(phase, window.tallies) for phase, window in zip(phases, measured.windows, strict=True)},
    }
    return parts.Report(
        scenario=_scenario(plan, wanted),
        mesh=mesh,
        started_at=started_at,
        duration_s=round(measured.ended_s, 3),
        environment=environment.model_copy(update={"hammer_cpu_share": _cpu_share(measured.windows)}),
        validity=validity,
        verdict=parts.VerdictPart(state=verdict.state, sentence=verdict.sentence),
        phases=phases,
        between_phases=measured.series.requests_of(BETWEEN),
        expectations=[_expectation(each, figures.get(each.phase, NOTHING)) for each in plan.scenario.expected()],
        findings=[*(str(finding) for finding in plan.findings), *_not_judged(measured), *blind_spots(measured.windows)],
        restore=_restore(measured),
    )


def _scenario(plan: Plan, wanted: SidecarState) -> parts.ScenarioPart:
    scenario = plan.scenario
    service = scenario.service.time
    return parts.ScenarioPart(
        name=scenario.name,
        target=scenario.target.url,
        load=scenario.load.model_dump(mode="json"),
        clients=scenario.clients.count,
        workers=scenario.clients.workers,
        service_time=f"{'exponential' if service.exponential else 'constant'} {service.mean_s:g} s",
        rule=wanted.named,
        limits=wanted.limits.in_force(),
        seed=scenario.seed,
    )


def _restore(measured: Measured) -> parts.RestorePart:
    states = {None: "not_needed", True: "verified", False: "failed"}
    return parts.RestorePart.model_validate({"state": states[measured.restored], "detail": measured.restore_detail})


def _phase(window: Window, began: float) -> parts.PhasePart:
    def since_start(moment: float | None) -> float | None:
        return None if moment is None else round(max(0.0, moment - began), 3)

    converged = window.toggled + max(window.convergence_s.values()) if window.toggled is not None and window.convergence_s else None
    total = merged(window.tallies.values())
    duration = _duration_s(window)
    counters = [found for name in window.starts if (found := counters_of(window, name)) is not None]
    arrived = [came for name in window.starts if (came := arrived_of(window, name)) is not None]
    return parts.PhasePart(
        name=window.phase.name,
        policy=window.phase.policy,
        because="" if window.changed else _because(window, total, Counters.total_of(counters)),
        pool=pool(window),
        connections=connections(window),
        bursts=_bursts(window, total),
        duration_s=round(duration, 4),
        requests=total.requests,
        rate_per_s=round(total.requests / duration, 2) if duration else 0.0,
        outcomes=_outcomes(total),
        latency_s=_latencies(total),
        schedule_lag_s=parts.Lag(**lags(total.lag)),
        loop_lag_s=parts.Lag(**lags(total.loop_lag)),
        ledger=_ledger(total, Counters.total_of(counters) if len(counters) == len(window.starts) else None),
        service=_service(window, count_of(window), sum(arrived) if len(arrived) == len(window.starts) else None),
        convergence_s=_spread(window.convergence_s.values()),
        drain_s=_spread(window.drain_s.values()) or parts.Spread(min=0, p50=0, max=0),
        began_s=since_start(window.began),
        ended_s=since_start(window.ended),
        toggled_s=since_start(window.toggled),
        converged_s=since_start(converged),
        held_s=round(max((edge.held_s for edge in [*window.starts.values(), *window.ends.values()]), default=0.0), 4),
        hammer_cpu_share=_cpu_share([window]),
        causes=_causes(total),
        clients=[_client(window, name) for name in window.starts],
    )


def _because(window: Window, total: Tally, counters: Counters) -> str:
    """Say which limit fired in a phase and why; what the service saw of others than the clients is no peak of theirs."""
    counted = None if unseen(window) or strangers(window) else count_of(window)
    return why(
        next(iter(window.states.values())).limits.in_force() if window.states else {},
        counters,
        requests=total.requests,
        overflow=total.sidecar_overflow,
        server_side=total.server_overflow,
        clients=len(window.starts),
        peak=None if counted is None else counted.peak_in_flight,
    )


def _bursts(window: Window, tally: Tally, *names: str) -> parts.BurstsPart | None:
    """Say what became of the bursts of some clients, or of all, as they and as the service saw them; None if there were none."""
    bursts = tally.bursts
    if not bursts and not tally.untold_bursts:
        return None
    periods: Counter[int] = Counter()
    for name in names or window.ends:
        if not unseen(window) and (counted := count_of(window, name)) is not None:
            periods.update(counted.periods)
    seen = parts.SeenPart(count=periods.total(), least=min(periods), most=max(periods)) if periods else None
    return parts.BurstsPart(
        count=bursts.total(),
        least=min(bursts, default=None),
        most=max(bursts, default=None),
        untold=tally.untold_bursts,
        cut=tally.cut_bursts,
        seen=seen,
    )


def _client(window: Window, name: str) -> parts.ClientPart:
    tally = window.tallies[name]
    convergence = window.convergence_s.get(name)
    return parts.ClientPart(
        name=name,
        requests=tally.requests,
        outcomes=_outcomes(tally),
        latency_s=_latencies(tally),
        ledger=_ledger(tally, counters_of(window, name)),
        service=_service(window, count_of(window, name), arrived_of(window, name)),
        convergence_s=None if convergence is None else round(convergence, 4),
        drain_s=round(window.drain_s[name], 4),
        effective=parts.Effective(**dataclasses.asdict(window.states[name].limits)),
        causes=_causes(tally),
        connections=window.starts[name].reading.connections,
        bursts=_bursts(window, tally, name),
    )


def _duration_s(window: Window) -> float:
    """Give how long the phase counted: the mean over the clients, whose edges lie some milliseconds apart."""
    spans = [end.at - window.starts[name].at for name, end in window.ends.items()]
    return statistics.mean(spans) if spans else window.ended - window.began


def _ledger(tally: Tally, counters: Counters | None) -> parts.LedgerPart:
    seen = tally.sidecar_overflow
    if counters is None:
        return parts.LedgerPart(
            client=seen, proxy=None, difference=None, pending_overflow=None, active_overflow=None, server_side=tally.server_overflow
        )
    return parts.LedgerPart(
        client=seen,
        proxy=counters.overflow,
        difference=Ledger(seen, counters.overflow).difference,
        pending_overflow=None if counters.combined_overflow else counters.pending_overflow,
        active_overflow=None if counters.combined_overflow else counters.active_overflow,
        server_side=tally.server_overflow,
    )


def _service(window: Window, count: ServiceCount | None, arrived: int | None) -> parts.ServicePart:
    return parts.ServicePart(requests=arrived, peak_in_flight=count.peak_in_flight if count and not unseen(window) else None)


def _not_judged(measured: Measured) -> list[str]:
    """Say in which phases another policy was applied than the one that the verdict is about."""
    judged = [window.phase.name for window in judged_windows(measured)]
    others = [window.phase.name for window in measured.windows if window.phase.policy == "applied" and window.phase.name not in judged]
    return [f"the verdict is about the policy of {', '.join(judged)}; another one was in force in {', '.join(others)}"] if others else []


def _outcomes(tally: Tally) -> dict[str, int]:
    return {outcome.value: count for outcome, count in tally.outcomes.items()}


def _causes(tally: Tally) -> list[parts.CausePart]:
    found = sorted(tally.causes.items(), key=lambda each: (-each[1], each[0]))
    return [parts.CausePart(cause=cause.value, made_by=made_by.value, requests=count) for (cause, made_by), count in found]


def _latencies(tally: Tally) -> dict[str, parts.Quantiles]:
    return {
        outcome.value: parts.Quantiles(**quantiles(histogram))
        for outcome, histogram in tally.latency.items()
        if histogram.count and outcome is not Outcome.UNSENT
    }


def _spread(values: Iterable[float]) -> parts.Spread | None:
    numbers = [round(value, 4) for value in values]
    return parts.Spread(min=min(numbers), p50=statistics.median(numbers), max=max(numbers)) if numbers else None


def _cpu_share(windows: Sequence[Window]) -> float:
    spans = [(window.cpu_start_s, window.cpu_end_s) for window in windows]
    return round(busiest_share(spans, sum(window.ended - window.began for window in windows)), 3)


def _doubts(window: Window, phase: parts.PhasePart) -> list[str]:
    """Say why a phase is spoilt."""
    found = doubts(_health(window, phase), f" in phase {phase.name}")
    if not phase.requests:
        found.append(f"phase {phase.name} measured no request: it is shorter than an answer takes, or the rate is too low")
    return found + imbalance_of(window, phase)


def _health(window: Window, phase: parts.PhasePart) -> Health:
    return Health(
        requests=phase.requests,
        unsent=phase.outcomes[Outcome.UNSENT],
        cpu_share=phase.hammer_cpu_share,
        lag_p99_s=phase.schedule_lag_s.p99,
        loop_lag_p99_s=phase.loop_lag_s.p99,
        connect_errors=merged(window.tallies.values()).connect_errors,
    )


def _expectation(expectation: Expectation, figures: Figures) -> parts.ExpectationPart:
    got = expectation.got(figures)
    return parts.ExpectationPart(
        phase=expectation.phase,
        metric=expectation.metric,
        wanted=str(expectation),
        got="nothing" if got is None else expectation.show(got),
        held=expectation.holds(got),
    )
