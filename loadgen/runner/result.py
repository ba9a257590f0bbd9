"""What do the measurements say? From windows and tallies to the one report; no I/O, no clock."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Literal

from loadgen import report as parts
from loadgen.discrepancy import why_apart
from loadgen.errors import printable
from loadgen.expectation import RUN
from loadgen.firing import MAX_REQUESTS, why
from loadgen.ledger import Counters, Ledger, ServiceCount
from loadgen.outcome import Outcome
from loadgen.reach import what_it_takes
from loadgen.recorder import Tally, merged
from loadgen.runner.figures import NOTHING, PhaseFigures
from loadgen.runner.window import connections, pool
from loadgen.summary import lags, quantiles
from loadgen.validity import Health, busiest_share, doubts
from loadgen.verdict import ClientEvidence, Evidence, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loadgen.errors import Problem
    from loadgen.expectation import Expectation, Figures
    from loadgen.inputs import Plan
    from loadgen.policy.state import SidecarState
    from loadgen.runner.window import Measured, Window
    from loadgen.series import Series

SHOWN_STRANGERS = 3
SHOWN_APART = 3
NAMELESS = "callers that give no name"
LOST_AT_MOST = 5
"""So many requests of a client may be lost on connections that are closed between its sidecar and the service."""


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
    verdict = judge(_evidence(plan, measured, wanted, scripted=scripted))
    reasons = [
        *measured.reasons,
        *(reason for window, phase in zip(measured.windows, phases, strict=True) for reason in _doubts(window, phase)),
    ]
    reasons += [reason for window in measured.windows for reason in _disagreements(window)]
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
        expectations=[_expectation(each, figures.get(each.phase, NOTHING)) for each in plan.scenario.expected()],
        findings=[*(str(finding) for finding in plan.findings), *_not_judged(measured), *_blind_spots(measured.windows)],
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
        rule=wanted.rule,
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
    counters = [found for name in window.starts if (found := _counters(window, name)) is not None]
    arrived = [came for name in window.starts if (came := _arrived(window, name)) is not None]
    limits = next(iter(window.states.values())).limits.in_force() if window.states else {}
    return parts.PhasePart(
        name=window.phase.name,
        policy=window.phase.policy,
        because=why(
            limits,
            Counters.total_of(counters),
            requests=total.requests,
            overflow=total.sidecar_overflow,
            server_side=total.server_overflow,
            clients=len(window.starts),
            peak=None if _unseen(window) or (counted := _counted(window)) is None else counted.peak_in_flight,
        ),
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
        service=_service(window, _counted(window), sum(arrived) if len(arrived) == len(window.starts) else None),
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


def _bursts(window: Window, tally: Tally, *names: str) -> parts.BurstsPart | None:
    """Say what became of the bursts of some clients, or of all, as they and as the service saw them; None if there were none."""
    bursts = tally.bursts
    if not bursts:
        return None
    periods: Counter[int] = Counter()
    for name in names or window.ends:
        if not _unseen(window) and (counted := _counted(window, name)) is not None:
            periods.update(counted.periods)
    seen = parts.SeenPart(count=periods.total(), least=min(periods), most=max(periods)) if periods else None
    return parts.BurstsPart(count=bursts.total(), least=min(bursts), most=max(bursts), seen=seen)


def _client(window: Window, name: str) -> parts.ClientPart:
    tally = window.tallies[name]
    convergence = window.convergence_s.get(name)
    return parts.ClientPart(
        name=name,
        requests=tally.requests,
        outcomes=_outcomes(tally),
        latency_s=_latencies(tally),
        ledger=_ledger(tally, _counters(window, name)),
        service=_service(window, _counted(window, name), _arrived(window, name)),
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


def _arrived(window: Window, name: str) -> int | None:
    end, before = window.ends.get(name), window.starts[name].reading.arrived
    return None if end is None or end.reading.arrived is None or before is None else end.reading.arrived - before


def _counters(window: Window, name: str) -> Counters | None:
    end = window.ends.get(name)
    return None if end is None else end.reading.counters.since(window.starts[name].reading.counters)


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
        pending_overflow=counters.pending_overflow,
        active_overflow=counters.active_overflow,
        server_side=tally.server_overflow,
    )


def _service(window: Window, count: ServiceCount | None, arrived: int | None) -> parts.ServicePart:
    return parts.ServicePart(requests=arrived, peak_in_flight=count.peak_in_flight if count and not _unseen(window) else None)


def _counted(window: Window, name: str | None = None) -> ServiceCount | None:
    """Give what the service had counted in the end, in all or of one client; None if that is not known."""
    if window.service is None or window.service.total is None or window.service_before.total is None:
        return None
    return window.service.total if name is None else window.service.clients.get(name, ServiceCount())


def _unseen(window: Window) -> str:
    """Say why the service's peaks in a phase are no more than bounds from below, or not known; nothing if they are exact."""
    if window.service_before.total is None:
        return window.service_before.unseen
    return window.service.unseen if window.service else "the service could not be asked any more"


def _blind_spots(windows: Iterable[Window]) -> list[str]:
    """Say in which phases a service that counts was no full witness, and why."""
    phases: dict[str, list[str]] = {}
    for window in windows:
        if window.service_before.total is not None and (why := _unseen(window)):
            phases.setdefault(why, []).append(window.phase.name)
    return [f"the service's peak in phase {', '.join(names)} is not known: {why}" for why, names in phases.items()]


def _not_judged(measured: Measured) -> list[str]:
    """Say in which phases another policy was applied than the one that the verdict is about."""
    judged = [window.phase.name for window in _judged(measured)]
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
    if apart := [client for client in phase.clients if client.ledger.difference]:
        found.append(
            f"the ledger of phase {phase.name} does not balance: clients counted {phase.ledger.client:,} overflows, their sidecars {_shown(phase.ledger.proxy)}: "
            + "; ".join(_imbalance(window, client) for client in apart[:SHOWN_APART])
            + (f"; and {len(apart) - SHOWN_APART:,} clients more" if len(apart) > SHOWN_APART else "")
        )
    return found


def _shown(count: int | None) -> str:
    return "an unknown number" if count is None else f"{count:,}"


def _imbalance(window: Window, client: parts.ClientPart) -> str:
    counters = _counters(window, client.name)
    assert counters is not None, "there is no difference without them"
    why = why_apart(window.tallies[client.name], counters, _on_the_way(window, client.name))
    return f"{client.name} {client.ledger.client:,}, its sidecar {client.ledger.proxy:,}, because {why}"


def _on_the_way(window: Window, name: str) -> int:
    """Bound how many requests of a client one witness may have counted in the phase and another outside it."""
    end = window.ends.get(name)
    return window.starts[name].on_the_way + (end.on_the_way if end else 0)


def _health(window: Window, phase: parts.PhasePart) -> Health:
    return Health(
        requests=phase.requests,
        unsent=phase.outcomes[Outcome.UNSENT],
        cpu_share=phase.hammer_cpu_share,
        lag_p99_s=phase.schedule_lag_s.p99,
        loop_lag_p99_s=phase.loop_lag_s.p99,
        connect_errors=merged(window.tallies.values()).connect_errors,
    )


def _disagreements(window: Window) -> list[str]:
    """Compare the service with the sidecars: every request that a sidecar let through must have arrived, and no other."""
    found = []
    for name, end in window.ends.items():
        if not end.settled:
            found.append(f"{name} and its sidecar could not be brought to agree at the end of phase {window.phase.name}")
        if (both := _goes_round(window, name)) is not None:
            let_through, arrived = both
            found.append(
                f"in phase {window.phase.name} the sidecar of {name} let {let_through:,} requests through, but {arrived:,} of this client reached the service: it goes round its sidecar"
            )
    return found + _strangers(window)


def _goes_round(window: Window, name: str) -> tuple[int, int] | None:
    """Give what a client's sidecar let through and what of the client reached the service, if these are not the same requests."""
    counters, arrived = _counters(window, name), _arrived(window, name)
    if counters is None or arrived is None:
        return None
    apart = abs(arrived - counters.total) > _on_the_way(window, name) + LOST_AT_MOST
    return (counters.total, arrived) if apart else None


def _offer(plan: Plan, tally: Tally, limits: Mapping[str, int]) -> str:
    """Say what load it would take to go beyond the limit of requests in each client; nothing if that is not known."""
    limit, ok = limits.get(MAX_REQUESTS), tally.latency[Outcome.OK]
    return "" if limit is None else what_it_takes(plan.scenario, limit, ok.sum_s / ok.count if ok.count else None)


def _strangers(window: Window) -> list[str]:
    """Say how many requests reached the service in a phase that no client sent, and what their senders call themselves, as far as they do."""
    before, after = window.service_before, window.service
    if after is None or after.total is None or before.total is None:
        return []
    sent = {name: count.requests - before.clients.get(name, ServiceCount()).requests for name, count in after.clients.items()}
    strangers = after.total.requests - before.total.requests - sum(count for name, count in sent.items() if name in window.starts)
    if not strangers:
        return []
    names = sorted((name for name, count in sent.items() if count and name not in window.starts), key=lambda name: (not name, name))
    shown = ", ".join(printable(name) or NAMELESS for name in names[:SHOWN_STRANGERS])
    more = f" and {len(names) - SHOWN_STRANGERS} more" if len(names) > SHOWN_STRANGERS else ""
    who = f" (some are of {shown}{more})" if names else ""
    return [f"somebody else calls the service: requests in phase {window.phase.name} that no client sent: {strangers:,}{who}"]


def _evidence(plan: Plan, measured: Measured, wanted: SidecarState, *, scripted: bool) -> Evidence:
    begun = _judged(measured)
    applied = [window for window in begun if window.ends]
    whole = [name for name in applied[0].starts if all(name in window.ends for window in applied)] if applied else []
    together = merged(tally for window in applied for tally in window.tallies.values())
    others = sum(
        tally.requests - tally.outcomes[Outcome.OK] - tally.outcomes[Outcome.OVERFLOW]
        for window in measured.windows
        for tally in window.tallies.values()
    )
    return Evidence(
        offer=_offer(plan, together, wanted.limits.in_force()) if scripted else "",
        crossed=[name for name in whole if any(_goes_round(window, name) for window in applied)],
        applied=bool(applied),
        rule=wanted.rule,
        limits=wanted.limits.in_force(),
        workers=plan.scenario.clients.workers,
        clients=[_client_evidence(applied, name) for name in whole],
        missing=[name for window in begun[:1] for name in window.starts if name not in whole],
        service_peak=_peak(applied),
        recovered=_recovered(measured),
        other_failures=others,
        files=[rule.key for rule in plan.rules],
        reason="; ".join(_with_hint(finding) for finding in plan.findings) if not wanted.limits.in_force() else "",
        policy_lost=measured.policy_lost,
        bursts=(together.bursts.total(), min(together.bursts), max(together.bursts)) if together.bursts else None,
        multiplexed=plan.speaks_http2,
        unseen=" and ".join(dict.fromkeys(why for window in applied if (why := _unseen(window)))),
    )


def _judged(measured: Measured) -> list[Window]:
    """Give the phases that the verdict is about: those with the policy that was applied last. What another one let through says nothing of it."""
    applied = [window for window in measured.windows if window.phase.policy == "applied"]
    return [window for window in applied if window.rules == applied[-1].rules]


def _peak(windows: Iterable[Window], name: str | None = None) -> int | None:
    """Give the most that the service saw at a time in some phases, in all or of one client; None if it does not say."""
    return max((count.peak_in_flight for window in windows if (count := _counted(window, name)) is not None), default=None)


def _recovered(measured: Measured) -> bool | None:
    """Tell whether every request succeeded after the rule was removed; None if the run does not end with a phase that shows it."""
    last = measured.windows[-1] if measured.windows else None
    if last is None or last.phase.policy != "removed" or not last.ends or not measured.restored:
        return None
    total = merged(last.tallies.values())
    return total.outcomes[Outcome.OK] == total.requests if total.requests else None


def _with_hint(finding: Problem) -> str:
    return f"{finding.message} ({finding.hint})" if finding.hint else finding.message


def _client_evidence(windows: list[Window], name: str) -> ClientEvidence:
    """Take all phases that are judged together."""
    counters = Counters.total_of(found for window in windows if (found := _counters(window, name)) is not None)
    tally = merged(window.tallies[name] for window in windows)
    return ClientEvidence(name, tally.requests, Ledger(tally.sidecar_overflow, counters.overflow), counters, _peak(windows, name))


def _expectation(expectation: Expectation, figures: Figures) -> parts.ExpectationPart:
    got = expectation.got(figures)
    return parts.ExpectationPart(
        phase=expectation.phase,
        metric=expectation.metric,
        wanted=str(expectation),
        got="nothing was measured" if got is None else expectation.show(got),
        held=expectation.holds(got),
    )
