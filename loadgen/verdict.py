"""Did the policy do what it says? Each limit is judged by its own law, the worst of them decides, and one sentence says it all.

Nothing is judged by a percentage. Where the witnesses disagree, or where the load says nothing of any limit, nothing is judged at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadgen.evidence import Evidence, State
from loadgen.firing import MAX_REQUESTS, MAX_RETRIES, NONE_CAME, REJECTING, fired, many
from loadgen.laws import judgements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.laws import Judgement


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state, and one sentence that a person understands."""

    state: State
    sentence: str


WORST_FIRST = (State.NOT_ENFORCED, State.OVERSHOOT, State.ENFORCED)
_HEADINGS = {
    State.ENFORCED: "Enforced",
    State.OVERSHOOT: "Overshoot",
    State.NOT_ENFORCED: "Not enforced",
    State.INCONCLUSIVE: "Inconclusive",
}


def judge(evidence: Evidence) -> Verdict:
    """Give the verdict of a run."""
    if why := _undecided(evidence):
        return _verdict(State.INCONCLUSIVE, why)
    if not evidence.limits and not evidence.overflow:
        return _verdict(State.NOT_ENFORCED, _no_limit(evidence))
    if why := _unexplained(evidence):
        return _verdict(State.INCONCLUSIVE, f"{evidence.overflow:,} of {evidence.requests:,} requests overflowed, but {why}")
    judged = judgements(evidence)
    states = {each.state for each in judged}
    state = next((each for each in WORST_FIRST if each in states), State.INCONCLUSIVE)
    said = _with_overflow(evidence, judged) if evidence.overflow else _without_overflow(evidence, judged, state)
    return _verdict(state, said)


def _verdict(state: State, said: str) -> Verdict:
    return Verdict(state, f"{_HEADINGS[state]}: {said}.")


def _undecided(evidence: Evidence) -> str:
    """Say why what was measured says nothing about any limit; empty if it may."""
    gaps = evidence.gaps
    if not evidence.applied or not evidence.requests:
        missing = f"no client was measured to the end while a policy was applied ({_listing(gaps.missing)})"
        return missing if gaps.missing else "nothing was measured while a policy was applied"
    if gaps.restarted:
        return f"the sidecar of {_listing(gaps.restarted)} was restarted while the policy was applied, so nothing shows what it did before"
    if gaps.policy_lost:
        return "somebody else changed the policy during the run, or may have, so what it showed is not the limit's doing"
    if gaps.crossed:
        return f"the witnesses disagree; not everything that the service saw of {_listing(gaps.crossed)} came through the sidecar, so nothing shows what that admitted"
    differing = [client.name for client in evidence.clients if client.ledger.difference]
    if differing:
        return f"the witnesses disagree; {_listing(differing)} counted another number of overflows than the sidecar did"
    return ""


def _unexplained(evidence: Evidence) -> str:
    """Say why the overflows say nothing of the policy's limits; empty if there are none, or if they may."""
    if not evidence.overflow:
        return ""
    if fired(evidence.limits, evidence.counters).unexplained or not any(name in evidence.limits for name in REJECTING):
        return "the policy sets no limit that rejects so; another limit is in force"
    unseen = [client.name for client in evidence.clients if client.admitted == 0]
    if unseen and not evidence.gaps.unseen:
        return f"the service saw none at all of {_listing(unseen)}: nothing shows what was admitted"
    return ""


def _no_limit(evidence: Evidence) -> str:
    why = f": {evidence.reason}" if evidence.reason else ""
    written = _listing(evidence.files) or "the policy"
    changes = "change" if len(evidence.files) > 1 else "changes"
    which = f"rule {evidence.rule} sets no limit" if evidence.rule else f"{written} {changes} nothing for these clients"
    clients = len(evidence.clients)
    sidecars = f"All {clients} sidecars" if clients > 1 else "The sidecar"
    return f"{which}{why}. {sidecars} kept the default limits, and none of {evidence.requests:,} requests overflowed{_others(evidence)}"


def _without_overflow(evidence: Evidence, judged: Sequence[Judgement], state: State) -> str:
    own = " at the clients' own sidecars" if evidence.failures.server_side else ""
    none, others = f"none of {evidence.requests:,} requests overflowed{own}", _others(evidence)
    failed = 2 * (evidence.failures.others + evidence.failures.server_side) >= evidence.requests
    offer = f". {_what_would_show(evidence)}".removesuffix(".") if state is State.INCONCLUSIVE and not failed else ""
    if any(each.said for each in judged):
        decisive, *beside = sorted(judged, key=lambda each: each.state is not state)
        return f"{'; '.join([decisive.of(f' of rule {evidence.rule}'), *(each.of() for each in beside)])}; {none}{others}{offer}"
    limits = _listing([f"{each.name} {each.value}" for each in judged])
    queue = "" if MAX_REQUESTS in evidence.limits else ", and enough warm connections need no queue"
    short = "half of the requests or more failed before it could show" if failed else "the load never went beyond"
    beyond = f"{'is' if len(judged) == 1 else 'are'} in force, but {short}"
    return f"{limits} of rule {evidence.rule} {beyond}: {none}{_most_at_a_time(evidence)}{queue}{others}{offer}"


def _most_at_a_time(evidence: Evidence) -> str:
    if evidence.admitted is None or evidence.gaps.unseen:
        return ""
    return f", with at most {evidence.admitted} of a client admitted at a time" if evidence.admitted else f", and {NONE_CAME}"


def _what_would_show(evidence: Evidence) -> str:
    """Say what would show the limits. More load alone makes no retries: an overflow is never tried again."""
    if set(evidence.limits) == {MAX_RETRIES}:
        return "More load alone shows nothing of it: a sidecar retries what could not be sent, so it takes connections to the service that fail."
    return evidence.offer or "Offer more load."


def _with_overflow(evidence: Evidence, judged: Sequence[Judgement]) -> str:
    beyond = any(each.name == MAX_REQUESTS and each.state in {State.OVERSHOOT, State.NOT_ENFORCED} for each in judged)
    admitted = [] if beyond else [_what_was_admitted(evidence)]
    beside = [each.of() for each in judged if each.said or each.state is State.INCONCLUSIVE]
    return "; ".join([f"{_who_fired(evidence)}{_others(evidence)}", *admitted, *beside, _aftermath(evidence)])


def _who_fired(evidence: Evidence) -> str:
    overflow, requests, clients = evidence.overflow, evidence.requests, len(evidence.clients)
    hit = sum(1 for client in evidence.clients if client.ledger.client)
    found = fired(evidence.limits, evidence.counters)
    together = "" if found.known else ", which this Envoy counts together,"
    of_clients = "1 client" if clients == 1 else f"{clients} clients"
    return f"{found} of rule {evidence.rule}{together} rejected {overflow:,} of {requests:,} requests ({overflow / requests:.1%}) on {hit} of {of_clients}, each at its own sidecar"


def _what_was_admitted(evidence: Evidence) -> str:
    admitted, unseen = evidence.admitted, evidence.gaps.unseen
    if admitted is None or unseen:
        return f"clients and sidecars agree to the request, but {unseen}, so nothing shows how many were admitted at a time"
    others = ", and from others who called it" if evidence.gaps.strangers else ""
    all_clients = f"the service saw at most {evidence.service_peak} at once from all {len(evidence.clients)}{others}"
    return f"{_of_bursts(evidence)}each client had at most {admitted} request{'s' if admitted != 1 else ''} admitted at a time, and {all_clients}"


def _of_bursts(evidence: Evidence) -> str:
    bursts = evidence.bursts
    if bursts is None:
        return ""
    span = f"{bursts.least}" if bursts.least == bursts.most else f"{bursts.least} to {bursts.most}"
    cut = f", and {bursts.cut:,} more {'was' if bursts.cut == 1 else 'were'} cut by the phase's edges" if bursts.cut else ""
    early = ", some after others had been answered" if bursts.most > (evidence.admitted or 0) else ""
    untold = (
        f" (of {bursts.untold:,} more that is not known: a request timed out, or who answered it is not known)" if bursts.untold else ""
    )
    return f"of each of {bursts.count:,} bursts {span} were let through{early}{untold}{cut}; "


def _aftermath(evidence: Evidence) -> str:
    recovery = evidence.recovery
    if recovery is None:
        return "no phase shows what happens after the rule is removed"
    if not recovery.after.failed:
        return "the rule is gone again and every request succeeds"
    before = recovery.before
    as_before = f", as before the rule ({before})" if before and before.explains(recovery.after) else ""
    return f"the rule is gone again, but {recovery.after} requests did not succeed{as_before}"


def _others(evidence: Evidence) -> str:
    """Name what failed in another way than by an overflow while the policy was applied, and which clients the sentence leaves out."""
    failures, missing = evidence.failures, evidence.gaps.missing
    server_side = f" ({many(failures.server_side, 'request')} rejected on the server's side)" if failures.server_side else ""
    why = f", most because {failures.mostly}" if failures.mostly else ""
    failed = f" ({failures.others:,} request{'s' if failures.others != 1 else ''} failed otherwise{why})" if failures.others else ""
    left_out = f" ({_listing(missing)} left out: not measured to the end)" if missing else ""
    return server_side + failed + left_out


def _listing(words: Sequence[str]) -> str:
    return " and ".join(words) if len(words) <= 2 else f"{', '.join(words[:-1])} and {words[-1]}"  # noqa: PLR2004
