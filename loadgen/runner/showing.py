"""What did a run show of the limits? From its windows to the evidence that is judged; no I/O, no clock."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from loadgen.cause import Cause, sentence
from loadgen.evidence import Bursts, ClientEvidence, Evidence, Failures, Gaps, Recovery, Share
from loadgen.firing import MAX_CONNECTIONS, MAX_REQUESTS
from loadgen.ledger import Counters, Ledger
from loadgen.outcome import Outcome
from loadgen.policy.limits import connections_come_first
from loadgen.reach import what_it_takes
from loadgen.recorder import Tally, merged
from loadgen.runner.window import counters_of
from loadgen.runner.witnesses import beside, count_of, restarted, strangers, unseen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loadgen.errors import Problem
    from loadgen.inputs import Plan
    from loadgen.policy.state import SidecarState
    from loadgen.runner.window import Measured, Window


def evidence_of(plan: Plan, measured: Measured, wanted: SidecarState, *, scripted: bool) -> Evidence:
    """Gather what is judged: ``wanted`` is the state that the rules should lead to; ``scripted`` says that the load was the scenario's."""
    begun = judged_windows(measured)
    applied = [window for window in begun if window.ends]
    whole = [name for name in applied[0].starts if all(name in window.ends for window in applied)] if applied else []
    together = merged(tally for window in applied for tally in window.tallies.values())
    bursts, limits = together.bursts, wanted.limits.in_force()
    return Evidence(
        offer=_offer(plan, together, limits) if scripted else "",
        applied=bool(applied),
        rule=wanted.named,
        limits=limits,
        workers=plan.scenario.clients.workers,
        clients=[_client_evidence(applied, name) for name in whole],
        service_peak=_peak(applied),
        recovery=_recovery(measured),
        files=[rule.key for rule in plan.rules],
        reason="" if limits else "; ".join(_with_hint(finding) for finding in plan.findings),
        bursts=Bursts(bursts.total(), min(bursts), max(bursts), together.cut_bursts, together.untold_bursts) if bursts else None,
        multiplexed=plan.speaks_http2,
        failures=Failures(
            server_side=together.server_overflow,
            others=together.requests - sum(together.outcomes[each] for each in (Outcome.OK, Outcome.OVERFLOW, Outcome.UNSENT)),
            mostly=_mostly(together),
        ),
        gaps=Gaps(
            policy_lost=measured.policy_lost,
            crossed=[name for name in whole if any(beside(window, name) > 0 for window in applied)],
            strangers=any(map(strangers, applied)),
            restarted=[name for name in whole if any(restarted(window, name) for window in applied)],
            missing=[name for window in begun[:1] for name in window.starts if name not in whole],
            unseen=" and ".join(dict.fromkeys(why for window in applied if (why := unseen(window)))),
        ),
    )


def _mostly(tally: Tally) -> str:
    """Say why most requests failed that failed otherwise than by a limit, if one cause has more than half of them."""
    causes = {
        found: count for found, count in tally.causes.items() if found.cause not in {Cause.OVERFLOW, Cause.OVERFLOW_UNMARKED, Cause.UNSENT}
    }
    found = max(causes, key=causes.__getitem__, default=None)
    return "" if found is None or 2 * causes[found] <= sum(causes.values()) else sentence(found.cause, found.made_by)


def judged_windows(measured: Measured) -> list[Window]:
    """Give the phases that the verdict is about: those with the policy that was applied last. What another one let through says nothing of it."""
    applied = [window for window in measured.windows if window.phase.policy == "applied"]
    return [window for window in applied if window.rules == applied[-1].rules]


def _peak(windows: Iterable[Window], name: str | None = None) -> int | None:
    """Give the most that the service saw at a time in some phases, in all or of one client; None if it does not say."""
    return max((count.peak_in_flight for window in windows if (count := count_of(window, name)) is not None), default=None)


def _recovery(measured: Measured) -> Recovery | None:
    """Say what did not end ok after the rule was removed; None if the run does not end with a phase that shows it."""
    last = measured.windows[-1] if measured.windows else None
    if last is None or last.phase.policy != "removed" or not last.ends or not measured.restored:
        return None
    after = _failed(last)
    free = itertools.takewhile(lambda window: window.phase.policy == "absent", measured.windows)
    return Recovery(after, _failed(*free)) if after else None


def _failed(*windows: Window) -> Share | None:
    total = merged(tally for window in windows for tally in window.tallies.values())
    return Share(total.requests - total.outcomes[Outcome.OK], total.requests) if total.requests else None


def _with_hint(finding: Problem) -> str:
    return f"{finding.message} ({finding.hint})" if finding.hint else finding.message


def _client_evidence(windows: list[Window], name: str) -> ClientEvidence:
    """Take all phases that are judged together."""
    counters = Counters.total_of(found for window in windows if (found := counters_of(window, name)) is not None)
    tally = merged(window.tallies[name] for window in windows)
    opened = [window.starts[name].reading.connections for window in windows]
    connections = sum(filter(None, opened)) if None not in opened else None
    ledger = Ledger(tally.sidecar_overflow, counters.overflow)
    return ClientEvidence(name, tally.requests, ledger, counters, _peak(windows, name), connections)


def _offer(plan: Plan, tally: Tally, limits: Mapping[str, int]) -> str:
    """Say what load it would take to go beyond the limit of requests or of connections, whichever comes first, in each client; nothing if that is not known."""
    if MAX_REQUESTS not in limits and MAX_CONNECTIONS in limits and plan.speaks_http2:
        return f"No load goes beyond {MAX_CONNECTIONS} over HTTP/2: one connection carries every request."
    first = MAX_CONNECTIONS if connections_come_first(limits, plan.scenario.clients.workers) and not plan.speaks_http2 else MAX_REQUESTS
    limit, ok = limits.get(first, limits.get(MAX_CONNECTIONS)), tally.latency[Outcome.OK]
    return "" if limit is None else what_it_takes(plan.scenario, limit, ok.sum_s / ok.count if ok.count else None)
