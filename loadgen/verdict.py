"""Did the limit do what the rule says? Judged by what was admitted and by the ledger, never by a percentage.

The law for ``http2MaxRequests: L`` in a sidecar with W worker threads: at most L requests are admitted at a time, and up to L + W - 1 when
workers race (measured on Envoy 1.40: exactly L with one worker). ``http1MaxPendingRequests`` bounds a queue, not what is admitted, and
``maxConnections`` queues without ever rejecting: for those only the rejections are judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from loadgen.firing import MAX_PENDING, MAX_REQUESTS, fired
from loadgen.ledger import Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from loadgen.ledger import Ledger


class State(StrEnum):
    """What can be said about a limit."""

    ENFORCED = "enforced"
    OVERSHOOT = "overshoot"
    NOT_ENFORCED = "not_enforced"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state, and one sentence that a person understands."""

    state: State
    sentence: str


@dataclass(frozen=True, slots=True)
class ClientEvidence:
    """What one client showed while the policy was applied.

    ``admitted`` is the most that the service saw of it at a time, None if it does not say.
    """

    name: str
    requests: int
    ledger: Ledger
    counters: Counters
    admitted: int | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run showed.

    ``rule`` is the winning rule's ``namespace/name`` for the clients, None if no rule has an effect; ``limits`` the limits that it sets, by
    the DestinationRule's field names; ``reason`` why a rule has no effect, if that is known; ``recovered`` whether every request succeeded
    after the rule was removed, None if no phase shows that; ``files`` the rules that the policy file holds; ``missing``
    the clients that could not be measured to the end; ``other_failures`` the requests that ended neither ok nor in an overflow; ``unseen``
    why what the service saw at a time is only what it saw at least, or not known at all; ``policy_lost`` whether somebody else changed the
    policy during the run, or may have; ``multiplexed`` whether a connection carries more
    than one request at a time; ``bursts`` how many bursts there were, and the fewest and the most
    of their requests that a sidecar let through, None without bursts; ``crossed`` the clients of which requests reached the service by another way than their sidecar;
    ``offer`` says what load would go beyond the limit, if that is known.
    """

    applied: bool
    rule: str | None
    limits: dict[str, int]
    workers: int
    clients: Sequence[ClientEvidence]
    service_peak: int | None
    recovered: bool | None
    files: Sequence[str] = ()
    missing: Sequence[str] = ()
    other_failures: int = 0
    reason: str = ""
    unseen: str = ""
    policy_lost: bool = False
    multiplexed: bool = False
    bursts: tuple[int, int, int] | None = None
    crossed: Sequence[str] = ()
    offer: str = ""


def judge(evidence: Evidence) -> Verdict:
    """Give the verdict of a run."""
    if why := _undecided(evidence):
        return Verdict(State.INCONCLUSIVE, f"Inconclusive: {why}.")
    if not _overflow(evidence):
        return _without_overflow(evidence) if evidence.limits else Verdict(State.NOT_ENFORCED, _no_limit(evidence))
    if not any(name in evidence.limits for name in (MAX_REQUESTS, MAX_PENDING)):
        return Verdict(
            State.INCONCLUSIVE,
            f"Inconclusive: {_overflow(evidence):,} of {_requests(evidence):,} requests overflowed, but the policy sets no limit that rejects; another limit is in force.",
        )
    unseen = [client.name for client in evidence.clients if client.admitted == 0]
    if unseen and not evidence.unseen:
        return Verdict(
            State.INCONCLUSIVE,
            f"Inconclusive: {_overflow(evidence):,} of {_requests(evidence):,} requests overflowed, but the service saw none at all of {_listing(unseen)}: nothing shows what was admitted.",
        )
    return _with_overflow(evidence)


def _undecided(evidence: Evidence) -> str:
    """Say why what was measured says nothing about any limit; empty if it may."""
    if not evidence.applied or not any(client.requests for client in evidence.clients):
        return _nothing(evidence)
    if evidence.policy_lost:
        return "somebody else changed the policy during the run, or may have, so what it showed is not the limit's doing"
    if evidence.crossed:
        return f"the witnesses disagree; not everything that the service saw of {_listing(evidence.crossed)} came through the sidecar, so nothing shows what that admitted"
    differing = [client.name for client in evidence.clients if client.ledger.difference]
    if differing:
        return f"the witnesses disagree; {_listing(differing)} counted another number of overflows than the sidecar did"
    return ""


def _nothing(evidence: Evidence) -> str:
    if evidence.missing:
        return f"no client was measured to the end while a policy was applied ({_listing(evidence.missing)})"
    return "nothing was measured while a policy was applied"


def _overflow(evidence: Evidence) -> int:
    return sum(client.ledger.client for client in evidence.clients)


def _clients(evidence: Evidence) -> str:
    return "1 client" if len(evidence.clients) == 1 else f"{len(evidence.clients)} clients"


def _requests(evidence: Evidence) -> int:
    return sum(client.requests for client in evidence.clients)


def _no_limit(evidence: Evidence) -> str:
    why = f": {evidence.reason}" if evidence.reason else ""
    written = _listing(evidence.files) or "the policy"
    changes = "change" if len(evidence.files) > 1 else "changes"
    which = f"rule {evidence.rule} sets no limit" if evidence.rule else f"{written} {changes} nothing for these clients"
    clients = len(evidence.clients)
    sidecars = f"All {clients} sidecars" if clients > 1 else "The sidecar"
    return f"Not enforced: {which}{why}. {sidecars} kept the default limits, and none of {_requests(evidence):,} requests overflowed{_others(evidence)}."


def _without_overflow(evidence: Evidence) -> Verdict:
    admitted = _admitted(evidence)
    limit = evidence.limits.get(MAX_REQUESTS)
    requests = _requests(evidence)
    if limit is not None and admitted is not None and admitted > limit + evidence.workers - 1:
        return Verdict(
            State.NOT_ENFORCED,
            f"Not enforced: {MAX_REQUESTS} is {limit}, but {_at_most(evidence)} {admitted} requests of a client were admitted at a time and none of {requests:,} was rejected.",
        )
    if MAX_PENDING not in evidence.limits and (limit is None or _is_out_of_reach(limit, evidence)):
        return _quiet(evidence)
    rejecting = [f"{name} {value}" for name, value in evidence.limits.items() if name in {MAX_REQUESTS, MAX_PENDING}]
    most = "" if admitted is None or evidence.unseen else f", with at most {admitted} of a client admitted at a time"
    queue = ", and enough warm connections need no queue" if limit is None else ""
    offer = evidence.offer or "Offer more users or a higher rate."
    return Verdict(
        State.INCONCLUSIVE,
        f"Inconclusive: {_listing(rejecting)} of rule {evidence.rule} {_are(rejecting)} in force, but the load never went beyond: none of {requests:,} requests overflowed{most}{queue}{_others(evidence)}. {offer}",
    )


def _is_out_of_reach(limit: int, evidence: Evidence) -> bool:
    """Tell whether requests wait for a connection before there are as many as the limit of requests: measured, such a rule rejects nothing."""
    connections = evidence.limits.get("maxConnections")
    return connections is not None and connections + evidence.workers - 1 <= limit and not evidence.multiplexed


def _quiet(evidence: Evidence) -> Verdict:
    """Judge limits that reject nothing, each by what it does instead; the worst of them decides."""
    judged = [_QUIET[name](evidence, value) for name, value in evidence.limits.items() if name in _QUIET]
    states = {state for state, _ in judged}
    state = next((each for each in (State.NOT_ENFORCED, State.ENFORCED) if each in states), State.INCONCLUSIVE)
    said = [text for _, text in judged]
    if MAX_REQUESTS in evidence.limits:
        said.append(f"{MAX_REQUESTS} {evidence.limits[MAX_REQUESTS]} cannot be reached through so few connections")
    what = "; ".join(said)
    return Verdict(
        state,
        f"{_HEADINGS[state]}: {what}. That rejects nothing: none of {_requests(evidence):,} requests overflowed{_others(evidence)}.",
    )


def _connections(evidence: Evidence, limit: int) -> tuple[State, str]:
    """``maxConnections``: what finds none waits. Each worker may always have one, and workers race, as for requests (HTTP/1.1: one request each)."""
    name, admitted, waited = f"maxConnections {limit} of rule {evidence.rule}", _admitted(evidence), _counters(evidence).cx_overflow
    if admitted is not None and admitted > limit + evidence.workers - 1 and not evidence.multiplexed:
        return State.NOT_ENFORCED, f"{name} is in force, but {_at_most(evidence)} {admitted} requests of a client were under way at a time"
    if not waited:
        return State.INCONCLUSIVE, f"{name} is in force, but no request ever waited for a connection"
    if admitted is None or evidence.unseen or evidence.multiplexed:
        return State.INCONCLUSIVE, f"{name} made {waited:,} requests wait, but nothing shows how many were under way at a time"
    return State.ENFORCED, f"{name} made {waited:,} requests wait, and at most {admitted} of a client {_were(admitted)} under way at a time"


def _renewal(evidence: Evidence, limit: int) -> tuple[State, str]:
    name, counters = f"maxRequestsPerConnection {limit} of rule {evidence.rule}", _counters(evidence)
    if not counters.cx_max_requests:
        return State.INCONCLUSIVE, f"{name} is in force, but no connection carried so many"
    return (
        State.ENFORCED,
        f"{name} closed {counters.cx_max_requests:,} of {counters.cx_total:,} connections, for {counters.total:,} requests",
    )


def _retries(evidence: Evidence, limit: int) -> tuple[State, str]:
    name, dropped = f"maxRetries {limit} of rule {evidence.rule}", _counters(evidence).retry_overflow
    if not dropped:
        return State.INCONCLUSIVE, f"{name} is in force, but so many retries were never needed at a time"
    return State.ENFORCED, f"{name} kept {dropped:,} retries from being made"


_QUIET: dict[str, Callable[[Evidence, int], tuple[State, str]]] = {
    "maxConnections": _connections,
    "maxRequestsPerConnection": _renewal,
    "maxRetries": _retries,
}


def _counters(evidence: Evidence) -> Counters:
    return Counters.total_of(client.counters for client in evidence.clients)


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _with_overflow(evidence: Evidence) -> Verdict:
    admitted = _admitted(evidence)
    limit = evidence.limits.get(MAX_REQUESTS)
    if limit is not None and MAX_PENDING not in evidence.limits and evidence.bursts is not None and evidence.bursts[1] < limit:
        count, least, _ = evidence.bursts
        return Verdict(
            State.INCONCLUSIVE,
            f"Inconclusive: of some of {count:,} bursts only {least} requests were let through, where {MAX_REQUESTS} {limit} of rule {evidence.rule} allows more: something else limits them, too.",
        )
    state = State.ENFORCED
    if limit is not None and admitted is not None and admitted > limit:
        state = State.OVERSHOOT if admitted <= limit + evidence.workers - 1 else State.NOT_ENFORCED
    return Verdict(state, f"{_HEADINGS[state]}: {_who_fired(evidence)}; {_what_was_admitted(evidence, admitted)}; {_aftermath(evidence)}.")


_HEADINGS = {
    State.ENFORCED: "Enforced",
    State.OVERSHOOT: "Overshoot",
    State.NOT_ENFORCED: "Not enforced",
    State.INCONCLUSIVE: "Inconclusive",
}


def _who_fired(evidence: Evidence) -> str:
    overflow, requests = _overflow(evidence), _requests(evidence)
    hit = sum(1 for client in evidence.clients if client.ledger.client)
    names = _listing(fired(evidence.limits, _counters(evidence))) or "a limit"
    return f"{names} of rule {evidence.rule} rejected {overflow:,} of {requests:,} requests ({overflow / requests:.1%}) on {hit} of {_clients(evidence)}, each at its own sidecar"


def _admitted(evidence: Evidence) -> int | None:
    """Give the most that the service saw of one client at a time; None if it does not say."""
    return max((client.admitted for client in evidence.clients if client.admitted is not None), default=None)


def _at_most(evidence: Evidence) -> str:
    return "at least" if evidence.unseen else "up to"


def _what_was_admitted(evidence: Evidence, admitted: int | None) -> str:
    limit = evidence.limits.get(MAX_REQUESTS)
    clients = len(evidence.clients)
    if limit is not None and admitted is not None and admitted > limit:
        band = f", inside the race of {evidence.workers} workers" if admitted <= limit + evidence.workers - 1 else ""
        return f"{_at_most(evidence)} {admitted} requests of a client were admitted at a time{band}, where {limit} is allowed"
    if admitted is None or evidence.unseen:
        return f"clients and sidecars agree to the request, but {evidence.unseen}, so nothing shows how many were admitted at a time"
    most = f"each client had at most {admitted} request{'s' if admitted != 1 else ''} admitted at a time, and the service saw at most {evidence.service_peak} at once from all {clients}"
    return f"{_of_bursts(evidence.bursts)}{most}"


def _of_bursts(bursts: tuple[int, int, int] | None) -> str:
    if bursts is None:
        return ""
    count, least, most = bursts
    return f"of each of {count:,} bursts {least if least == most else f'{least} to {most}'} were let through; "


def _aftermath(evidence: Evidence) -> str:
    others = _others(evidence)
    if evidence.recovered is None:
        return f"no phase shows what happens after the rule is removed{others}"
    if evidence.recovered:
        return f"the rule is gone again and every request succeeds{others}"
    return f"the rule is gone again, but not every request succeeds{others}"


def _others(evidence: Evidence) -> str:
    """Name what failed in another way than by an overflow, and which clients the sentence leaves out."""
    failed = f" ({evidence.other_failures:,} requests failed otherwise)" if evidence.other_failures else ""
    left_out = f" ({_listing(evidence.missing)} left out: not measured to the end)" if evidence.missing else ""
    return failed + left_out


def _are(words: Collection[str]) -> str:
    return "is" if len(words) == 1 else "are"


def _listing(words: Sequence[str]) -> str:
    return " and ".join(words) if len(words) <= 2 else f"{', '.join(words[:-1])} and {words[-1]}"  # noqa: PLR2004
