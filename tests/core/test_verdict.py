"""Does the verdict follow from what was admitted and from the ledger, and does its sentence say nothing else?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.evidence import Bursts, ClientEvidence, Evidence, Failures, Gaps, Recovery, Share, State
from loadgen.ledger import Counters, Ledger
from loadgen.verdict import judge

RECOVERED = Recovery(Share(0, 100))


def client(name: str = "client-1", *, requests: int = 100, overflow: int = 0, admitted: int | None = 5, **other: Any) -> ClientEvidence:
    """Give one client's evidence; its sidecar agrees, and http2MaxRequests fired, unless ``other`` says otherwise."""
    proxy = other.pop("proxy", overflow)
    counters = other.pop("counters", Counters(active_overflow=overflow))
    assert not other
    return ClientEvidence(name, requests, Ledger(overflow, proxy), counters, admitted)


def evidence(*clients: ClientEvidence, **changes: Any) -> Evidence:
    """Give the evidence of a run with http2MaxRequests 5, applied and removed; gaps, failures and bursts by their own names."""
    gaps = Gaps(**{name: changes.pop(name) for name in ("policy_lost", "crossed", "strangers", "missing", "unseen") if name in changes})
    failures = Failures(changes.pop("server_side", 0), changes.pop("other_failures", 0))
    bursts = changes.pop("bursts", None)
    usual = Evidence(
        applied=True,
        rule="base/user",
        limits={"http2MaxRequests": 5},
        workers=1,
        clients=clients,
        service_peak=9,
        recovery=RECOVERED,
        files=["base/user"],
        bursts=None if bursts is None else Bursts(*bursts),
        failures=failures,
        gaps=gaps,
    )
    return replace(usual, **changes)


PENDING = {"http1MaxPendingRequests": 1}
CONNECTIONS = {"maxConnections": 3}
ENFORCED, OVERSHOOT, NOT_ENFORCED, INCONCLUSIVE = State.ENFORCED, State.OVERSHOOT, State.NOT_ENFORCED, State.INCONCLUSIVE
FIVE = "http2MaxRequests 5 of rule base/user"
THREE = "maxConnections 3 of rule base/user"
SEED = {"http2MaxRequests": 1, "http1MaxPendingRequests": 1, "maxRequestsPerConnection": 1}
REASON = "no known service is called usr"

# what it is, evidence, state, the whole sentence
CASES = [
    (
        "the limit holds",
        evidence(client(overflow=40), client("client-2", overflow=10, admitted=4)),
        ENFORCED,
        f"Enforced: {FIVE} rejected 50 of 200 requests (25.0%) on 2 of 2 clients, each at its own sidecar; each client had at most 5 requests admitted at a time, and the service saw at most 9 at once from all 2; the rule is gone again and every request succeeds.",
    ),
    (
        "somebody else changed the policy meanwhile",
        evidence(client(overflow=40, admitted=50), policy_lost=True),
        INCONCLUSIVE,
        "Inconclusive: somebody else changed the policy during the run, or may have, so what it showed is not the limit's doing.",
    ),
    (
        "one client never reached its limit",
        evidence(client(overflow=40), client("client-2", admitted=2)),
        ENFORCED,
        f"Enforced: {FIVE} rejected 40 of 200 requests (20.0%) on 1 of 2 clients",
    ),
    (
        "two limits that fire together",
        evidence(client(overflow=9, admitted=1, counters=Counters(pending_overflow=7, active_overflow=2)), limits=SEED),
        ENFORCED,
        "Enforced: http2MaxRequests 1 and http1MaxPendingRequests 1 of rule base/user rejected 9 of 100 requests (9.0%) on 1 of 1 client, each at its own sidecar; each client had at most 1 request admitted at a time",
    ),
    (
        "of two limits only the one that fired is named",
        evidence(client(overflow=9, admitted=1, counters=Counters(pending_overflow=9)), limits=SEED),
        ENFORCED,
        "Enforced: http1MaxPendingRequests 1 of rule base/user rejected 9 of 100 requests",
    ),
    (
        "a queue's limit says nothing of what is admitted",
        evidence(client(overflow=9, admitted=80, counters=Counters(pending_overflow=9)), limits=PENDING),
        ENFORCED,
        "Enforced: http1MaxPendingRequests 1 of rule base/user rejected 9 of 100 requests",
    ),
    (
        "before Envoy 1.38 a reject counts as pending, too",
        evidence(client(overflow=9, counters=Counters(combined_overflow=9))),
        ENFORCED,
        f"Enforced: {FIVE} rejected 9 of 100 requests",
    ),
    (
        "workers that race",
        evidence(client(overflow=40, admitted=6), workers=2),
        OVERSHOOT,
        f"Overshoot: {FIVE} rejected 40 of 100 requests (40.0%) on 1 of 1 client, each at its own sidecar; http2MaxRequests 5 is in force, but up to 6 requests of a client were admitted at a time, inside the race of 2 workers; the rule is gone again and every request succeeds.",
    ),
    ("the last admission of a race", evidence(client(overflow=40, admitted=8), workers=4), OVERSHOOT, "Overshoot: "),
    (
        "more than the workers' race explains",
        evidence(client(overflow=40, admitted=9), workers=4),
        NOT_ENFORCED,
        f"Not enforced: {FIVE} rejected 40 of 100 requests (40.0%) on 1 of 1 client, each at its own sidecar; http2MaxRequests 5 is in force, but up to 9 requests of a client were admitted at a time;",
    ),
    ("one worker has no race", evidence(client(overflow=40, admitted=6)), NOT_ENFORCED, "Not enforced: "),
    (
        "the worst client decides",
        evidence(client(overflow=40), client("client-2", overflow=40, admitted=50)),
        NOT_ENFORCED,
        f"Not enforced: {FIVE} rejected 80",
    ),
    (
        "more is admitted and nothing rejected",
        evidence(client(admitted=50)),
        NOT_ENFORCED,
        f"Not enforced: {FIVE} is in force, but up to 50 requests of a client were admitted at a time; none of 100 requests overflowed.",
    ),
    (
        "the host is misspelt",
        evidence(client(admitted=50), client("client-2"), rule=None, limits={}, reason=REASON),
        NOT_ENFORCED,
        f"Not enforced: base/user changes nothing for these clients: {REASON}. All 2 sidecars kept the default limits, and none of 200 requests overflowed.",
    ),
    (
        "no rule of several has an effect",
        evidence(client(), rule=None, limits={}, files=["a/one", "b/two", "c/three"]),
        NOT_ENFORCED,
        "Not enforced: a/one, b/two and c/three change nothing for these clients. The sidecar kept the default limits",
    ),
    (
        "the rule sets no limit",
        evidence(client(), limits={}, reason="0 means unset"),
        NOT_ENFORCED,
        "Not enforced: rule base/user sets no limit: 0 means unset. The sidecar kept the default limits, and none of 100 requests overflowed.",
    ),
    (
        "the load never reached the limit",
        evidence(client(admitted=3), client("client-2", admitted=4)),
        INCONCLUSIVE,
        f"Inconclusive: {FIVE} is in force, but the load never went beyond: none of 200 requests overflowed, with at most 4 of a client admitted at a time. Offer more load.",
    ),
    (
        "the load reached the limit exactly",
        evidence(client(admitted=5)),
        INCONCLUSIVE,
        f"Inconclusive: {FIVE} is in force, but the load never went beyond: none of 100",
    ),
    (
        "a race without a single reject",
        evidence(client(admitted=6), workers=2),
        INCONCLUSIVE,
        f"Inconclusive: {FIVE} is in force, but the load never went beyond: none of 100",
    ),
    (
        "a queue that was never needed",
        evidence(client(admitted=50), limits=PENDING),
        INCONCLUSIVE,
        "Inconclusive: http1MaxPendingRequests 1 of rule base/user is in force, but the load never went beyond: none of 100 requests overflowed, with at most 50 of a client admitted at a time, and enough warm connections need no queue. Offer more load.",
    ),
    (
        "a limit that only queues",
        evidence(client(admitted=3, counters=Counters(cx_overflow=18)), limits=CONNECTIONS),
        ENFORCED,
        f"Enforced: {THREE} refused a further connection 18 times, so requests waited, and at most 3 of a client were under way at a time; none of 100 requests overflowed.",
    ),
    (
        "a queue that nobody stood in",
        evidence(client(admitted=3), limits=CONNECTIONS),
        INCONCLUSIVE,
        f"Inconclusive: {THREE} is in force, but no request ever waited for a connection; none of 100 requests overflowed. Offer more load.",
    ),
    (
        "more connections than there may be",
        evidence(client(admitted=4, counters=Counters(cx_overflow=18)), limits=CONNECTIONS),
        NOT_ENFORCED,
        f"Not enforced: {THREE} is in force, but up to 4 requests of a client were under way at a time; none of 100 requests overflowed.",
    ),
    (
        "each worker may have a connection of its own",
        evidence(client(admitted=4, counters=Counters(cx_overflow=18)), limits=CONNECTIONS, workers=2),
        OVERSHOOT,
        f"Overshoot: {THREE} refused a further connection 18 times, so requests waited, and up to 4 of a client were under way at a time, for each of 2 workers may have a connection; none",
    ),
    (
        "connections that carry many requests at a time",
        evidence(client(admitted=40, counters=Counters(cx_overflow=18)), limits=CONNECTIONS, multiplexed=True),
        INCONCLUSIVE,
        f"Inconclusive: {THREE} refused a further connection 18 times, so requests waited, but nothing shows how many were under way at a time; none of 100 requests overflowed. Offer more load.",
    ),
    (
        "a queue of which the service shows nothing",
        evidence(client(admitted=None, counters=Counters(cx_overflow=18)), limits=CONNECTIONS, unseen="this service does not count"),
        INCONCLUSIVE,
        f"Inconclusive: {THREE} refused a further connection 18 times, so requests waited, but nothing shows",
    ),
    (
        "connections that are renewed",
        evidence(client(counters=Counters(total=100, cx_total=55, cx_max_requests=50)), limits={"maxRequestsPerConnection": 2}),
        ENFORCED,
        "Enforced: maxRequestsPerConnection 2 of rule base/user had connections closed 50 times while 100 requests were let through; none of 100 requests overflowed.",
    ),
    (
        "connections that are renewed, and requests that the edges of the phase cut",
        evidence(client(counters=Counters(total=102, cx_total=55, cx_max_requests=50)), limits={"maxRequestsPerConnection": 2}),
        ENFORCED,
        "Enforced: maxRequestsPerConnection 2 of rule base/user had connections closed 50 times while 102 requests were let through, as the sidecars count them when they begin; none of 100 requests overflowed.",
    ),
    (
        "a connection for each request",
        evidence(client(counters=Counters(total=105, cx_total=105, cx_max_requests=105)), limits={"maxRequestsPerConnection": 1}),
        ENFORCED,
        "Enforced: maxRequestsPerConnection 1 of rule base/user had a connection closed after each request that was let through; none of 100 requests overflowed.",
    ),
    (
        "retries that were not made",
        evidence(client(counters=Counters(retry_overflow=7)), limits={"maxRetries": 1}, other_failures=7),
        ENFORCED,
        "Enforced: maxRetries 1 of rule base/user kept 7 retries from being made; none of 100 requests overflowed (7 requests failed otherwise).",
    ),
    (
        "retries that nothing called for",
        evidence(client(), limits={"maxRetries": 1}),
        INCONCLUSIVE,
        "Inconclusive: maxRetries 1 of rule base/user is in force, but so many retries were never needed at a time; none of 100 requests overflowed. More load alone shows nothing of it: a sidecar retries what could not be sent, so it takes connections to the service that fail.",
    ),
    (
        "limits of which one holds and the others were never reached",
        evidence(
            client(admitted=3, counters=Counters(cx_overflow=1)), limits={**CONNECTIONS, "maxRequestsPerConnection": 1000, "maxRetries": 2}
        ),
        ENFORCED,
        f"Enforced: {THREE} refused a further connection once, so requests waited, and at most 3 of a client were under way at a time; maxRequestsPerConnection 1000 is in force, but no connection was closed for it; maxRetries 2",
    ),
    (
        "bursts of which as many were let through as may be",
        evidence(client(overflow=40), bursts=(20, 5, 5)),
        ENFORCED,
        f"Enforced: {FIVE} rejected 40 of 100 requests (40.0%) on 1 of 1 client, each at its own sidecar; of each of 20 bursts 5 were let through; each client had at most 5 requests admitted at a time",
    ),
    (
        "bursts that the edges of the phase cut",
        evidence(client(overflow=40), bursts=(20, 5, 5, 3)),
        ENFORCED,
        f"Enforced: {FIVE} rejected 40 of 100 requests (40.0%) on 1 of 1 client, each at its own sidecar; of each of 20 bursts 5 were let through, and 3 more were cut by the phase's edges; each client had",
    ),
    (
        "bursts of which some have requests that timed out",
        evidence(client(overflow=40), bursts=(20, 5, 5, 3, 37)),
        ENFORCED,
        f"Enforced: {FIVE} rejected 40 of 100 requests (40.0%) on 1 of 1 client, each at its own sidecar; of each of 20 bursts 5 were let through (of 37 more that is not known: a request timed out, or who answered it is not known), and 3 more were cut",
    ),
    (
        "bursts and workers that race",
        evidence(client(overflow=40, admitted=6), bursts=(20, 5, 6), workers=2),
        OVERSHOOT,
        "Overshoot: ",
    ),
    (
        "a burst of which fewer were let through than may be",
        evidence(client(overflow=40, admitted=4), bursts=(20, 4, 5)),
        INCONCLUSIVE,
        f"Inconclusive: {FIVE} rejected 40 of 100 requests (40.0%) on 1 of 1 client, each at its own sidecar; of each of 20 bursts 4 to 5 were let through, some after others had been answered; each client had at most 4 requests admitted at a time, and the service saw at most 9 at once from all 1; http2MaxRequests 5 allows more than the 4 that were let through of some bursts: something else limits them, too; the rule is gone",
    ),
    (
        "a queue's limit may let fewer of a burst through",
        evidence(client(overflow=40, admitted=1, counters=Counters(pending_overflow=40)), bursts=(20, 1, 1), limits=SEED),
        ENFORCED,
        "Enforced: ",
    ),
    (
        "a limit of requests behind one of connections that comes first",
        evidence(client(admitted=3, counters=Counters(cx_overflow=9)), limits={"http2MaxRequests": 5, **CONNECTIONS}),
        ENFORCED,
        f"Enforced: {THREE} refused a further connection 9 times, so requests waited, and at most 3 of a client were under way at a time; http2MaxRequests 5 cannot be reached through so few connections; none",
    ),
    (
        "a limit of requests as large as that of connections, both larger than the load",
        evidence(
            client(admitted=3), limits={"http2MaxRequests": 9, "maxConnections": 9}, offer="It takes more than 9 at a time in each client."
        ),
        INCONCLUSIVE,
        "Inconclusive: http2MaxRequests 9 of rule base/user was never reached; maxConnections 9 is in force, but no request ever waited for a connection; none of 100 requests overflowed. It takes more than 9 at a time in each client.",
    ),
    (
        "a limit of requests that comes before that of connections",
        evidence(client(admitted=2), limits={"http2MaxRequests": 2, **CONNECTIONS}),
        INCONCLUSIVE,
        "Inconclusive: http2MaxRequests 2 of rule base/user was never reached; maxConnections 3 is in force, but no request ever waited for a connection; none",
    ),
    (
        "requests that went round the sidecar",
        evidence(client(overflow=40, admitted=50), crossed=["client-1"]),
        INCONCLUSIVE,
        "Inconclusive: the witnesses disagree; not everything that the service saw of client-1 came through the sidecar, so nothing shows what that admitted.",
    ),
    (
        "a load that is known to be too small",
        evidence(client(admitted=3), offer="It takes more than 5 users in each client, and there were 3."),
        INCONCLUSIVE,
        f"Inconclusive: {FIVE} is in force, but the load never went beyond: none of 100 requests overflowed, with at most 3 of a client admitted at a time. It takes more than 5 users in each client, and there were 3.",
    ),
    (
        "a service that fails by itself",
        evidence(client(admitted=3), other_failures=100),
        INCONCLUSIVE,
        f"Inconclusive: {FIVE} is in force, but half of the requests or more failed before it could show: none of 100 requests overflowed, with at most 3 of a client admitted at a time (100 requests failed otherwise).",
    ),
    (
        "a service that is ejected before the phase begins to count",
        evidence(client(admitted=0), other_failures=98),
        INCONCLUSIVE,
        f"Inconclusive: {FIVE} is in force, but half of the requests or more failed before it could show: none of 100 requests overflowed, and no request came to the service after the phase had begun to count (98 requests failed otherwise).",
    ),
    (
        "a service that is called by others, too",
        evidence(client(overflow=40), strangers=True),
        ENFORCED,
        f"Enforced: {FIVE} rejected 40 of 100 requests (40.0%) on 1 of 1 client, each at its own sidecar; each client had at most 5 requests admitted at a time, and the service saw at most 9 at once from all 1, and from others who called it; the rule",
    ),
    (
        "witnesses that disagree",
        evidence(client(overflow=40, proxy=41), client("client-2", overflow=40), client("client-3", overflow=5, proxy=0)),
        INCONCLUSIVE,
        "Inconclusive: the witnesses disagree; client-1 and client-3 counted another number of overflows than the sidecar did.",
    ),
    (
        "witnesses that disagree in opposite ways",
        evidence(client(overflow=40, proxy=41), client("client-2", overflow=41, proxy=40)),
        INCONCLUSIVE,
        "Inconclusive: the witnesses disagree; client-1 and client-2",
    ),
    (
        "witnesses that disagree about a rule without a limit",
        evidence(client(proxy=3), rule=None, limits={}),
        INCONCLUSIVE,
        "Inconclusive: the witnesses disagree; client-1",
    ),
    (
        "overflows that no rule explains",
        evidence(client(overflow=40), rule=None, limits={}),
        INCONCLUSIVE,
        "Inconclusive: 40 of 100 requests overflowed, but the policy sets no limit that rejects so; another limit is in force.",
    ),
    (
        "overflows that a queueing limit cannot explain",
        evidence(client(overflow=40), limits=CONNECTIONS),
        INCONCLUSIVE,
        "Inconclusive: 40 of 100 requests overflowed, but the policy sets no limit that rejects so",
    ),
    (
        "a service that saw nothing",
        evidence(client(overflow=40, admitted=0)),
        INCONCLUSIVE,
        "Inconclusive: 40 of 100 requests overflowed, but the service saw none at all of client-1: nothing shows what was admitted.",
    ),
    (
        "an Envoy that counts the rejects of two limits together",
        evidence(client(overflow=9, admitted=3, counters=Counters(combined_overflow=9)), limits={"http2MaxRequests": 3, **PENDING}),
        ENFORCED,
        "Enforced: http2MaxRequests 3 or http1MaxPendingRequests 1 of rule base/user, which this Envoy counts together, rejected 9 of 100",
    ),
    (
        "rejects by a limit that the policy does not set",
        evidence(client(overflow=9, counters=Counters(pending_overflow=9))),
        INCONCLUSIVE,
        "Inconclusive: 9 of 100 requests overflowed, but the policy sets no limit that rejects so; another limit is in force.",
    ),
    (
        "a limit that rejects beside one of connections that does not hold",
        evidence(client(overflow=40, admitted=50, counters=Counters(pending_overflow=40)), limits={**CONNECTIONS, **PENDING}),
        NOT_ENFORCED,
        "Not enforced: http1MaxPendingRequests 1 of rule base/user rejected 40 of 100 requests (40.0%) on 1 of 1 client, each at its own sidecar; each client had at most 50 requests admitted at a time, and the service saw at most 9 at once from all 1; maxConnections 3 is in force, but up to 50 requests of a client were under way at a time;",
    ),
    (
        "a limit of connections that does not hold beside one that was never reached",
        evidence(client(admitted=50, counters=Counters(cx_overflow=18)), limits={**CONNECTIONS, "http1MaxPendingRequests": 100}),
        NOT_ENFORCED,
        f"Not enforced: {THREE} is in force, but up to 50 requests of a client were under way at a time; http1MaxPendingRequests 100 was never reached; none",
    ),
    (
        "a limit of connections that holds beside one that was never reached",
        evidence(client(admitted=3, counters=Counters(cx_overflow=18)), limits={**CONNECTIONS, "http1MaxPendingRequests": 100}),
        ENFORCED,
        f"Enforced: {THREE} refused a further connection 18 times, so requests waited, and at most 3 of a client were under way at a time; http1MaxPendingRequests 100 was never reached; none",
    ),
    (
        "connections that carry more than they may",
        evidence(
            replace(client(requests=1000, counters=Counters(total=1000, cx_total=2, cx_max_requests=1)), connections=1),
            limits={"maxRequestsPerConnection": 2},
        ),
        NOT_ENFORCED,
        "Not enforced: maxRequestsPerConnection 2 of rule base/user is in force, but 3 connections of client-1 carried 1,000 requests; none",
    ),
    (
        "connections of which nobody knows how many there were",
        evidence(client(requests=1000, counters=Counters(total=1000, cx_total=1)), limits={"maxRequestsPerConnection": 2}),
        INCONCLUSIVE,
        "Inconclusive: maxRequestsPerConnection 2 of rule base/user is in force, but no connection was closed for it; none",
    ),
    (
        "bursts of which more were let through than may be, of a service that does not count",
        evidence(client(overflow=40, admitted=None), bursts=(20, 5, 20), unseen="this service does not count"),
        INCONCLUSIVE,
        f"Inconclusive: {FIVE} rejected 40 of 100 requests (40.0%) on 1 of 1 client, each at its own sidecar; clients and sidecars agree to the request, but this service does not count, so nothing shows how many were admitted at a time; http2MaxRequests 5 allows less than the 20 that were let through of some bursts, and nothing shows whether they were under way at a time;",
    ),
    (
        "bursts of which some requests came after others had been answered",
        evidence(client(overflow=40), bursts=(20, 5, 20)),
        ENFORCED,
        f"Enforced: {FIVE} rejected 40 of 100 requests (40.0%) on 1 of 1 client, each at its own sidecar; of each of 20 bursts 5 to 20 were let through, some after others had been answered; each client had at most 5",
    ),
    (
        "what another proxy rejected is none of the own sidecar's limit",
        evidence(client(requests=320, admitted=3), server_side=120),
        INCONCLUSIVE,
        f"Inconclusive: {FIVE} is in force, but the load never went beyond: none of 320 requests overflowed at the clients' own sidecars, with at most 3 of a client admitted at a time (120 requests were rejected on the server's side). Offer more load.",
    ),
    ("no phase applied a policy", evidence(client(overflow=40), applied=False), INCONCLUSIVE, "Inconclusive: nothing was measured"),
    ("no client", evidence(), INCONCLUSIVE, "Inconclusive: nothing was measured while a policy was applied."),
    ("no request", evidence(client(requests=0, admitted=0)), INCONCLUSIVE, "Inconclusive: nothing was measured"),
    ("no request and no limit", evidence(client(requests=0), limits={}, rule=None), INCONCLUSIVE, "Inconclusive: nothing was measured"),
    (
        "what the service saw at least is inside the limit",
        evidence(client(overflow=40, admitted=4), unseen="this service has 2 pods"),
        ENFORCED,
        f"Enforced: {FIVE} rejected 40 of 100 requests (40.0%) on 1 of 1 client, each at its own sidecar; clients and sidecars agree to the request, but this service has 2 pods, so nothing shows how many were admitted at a time; the rule is gone again and every request succeeds.",
    ),
    (
        "what the service saw at least is beyond the limit",
        evidence(client(overflow=40, admitted=6), unseen="this service has 2 pods"),
        NOT_ENFORCED,
        f"Not enforced: {FIVE} rejected 40 of 100 requests (40.0%) on 1 of 1 client, each at its own sidecar; http2MaxRequests 5 is in force, but at least 6 requests of a client were admitted at a time;",
    ),
    (
        "what the service saw at least is beyond the limit, and nothing was rejected",
        evidence(client(admitted=50), unseen="this service has 2 pods"),
        NOT_ENFORCED,
        f"Not enforced: {FIVE} is in force, but at least 50 requests of a client were admitted at a time; none of 100 requests overflowed.",
    ),
    (
        "a service that saw at least nothing",
        evidence(client(overflow=40, admitted=0), unseen="only 1 of this service's 2 pods counts requests"),
        ENFORCED,
        "Enforced: ",
    ),
    (
        "a load that may have gone beyond, for all that is known",
        evidence(client(admitted=3), unseen="this service has 2 pods"),
        INCONCLUSIVE,
        f"Inconclusive: {FIVE} is in force, but the load never went beyond: none of 100 requests overflowed. Offer more load.",
    ),
    (
        "nothing shows the recovery",
        evidence(client(overflow=40), recovery=None),
        ENFORCED,
        f"Enforced: {FIVE} rejected 40 of 100 requests (40.0%) on 1 of 1 client, each at its own sidecar; each client had at most 5 requests admitted at a time, and the service saw at most 9 at once from all 1; no phase shows what happens after the rule is removed.",
    ),
]


@pytest.mark.parametrize(("run", "state", "sentence"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_run_is_judged_by_what_it_showed(run: Evidence, state: State, sentence: str) -> None:
    verdict = judge(run)
    assert verdict.sentence[: len(sentence)] == sentence
    assert verdict.state is state


@pytest.mark.parametrize(
    ("recovery", "end"),
    [
        (RECOVERED, "; the rule is gone again and every request succeeds."),
        (Recovery(Share(1, 1379), Share(0, 376)), "; the rule is gone again, but 1 of 1,379 requests did not succeed."),
        (Recovery(Share(379, 379)), "; the rule is gone again, but 379 of 379 requests did not succeed."),
        (
            Recovery(Share(379, 379), Share(376, 376)),
            "; the rule is gone again, but 379 of 379 requests did not succeed, as before the rule (376 of 376).",
        ),
        (Recovery(Share(6, 20), Share(1, 20)), "; the rule is gone again, but 6 of 20 requests did not succeed."),
        (
            Recovery(Share(200, 379), Share(180, 376)),
            "; the rule is gone again, but 200 of 379 requests did not succeed, as before the rule (180 of 376).",
        ),
        (Recovery(Share(379, 379), Share(180, 376)), "; the rule is gone again, but 379 of 379 requests did not succeed."),
        (None, "; no phase shows what happens after the rule is removed."),
    ],
)
def test_the_sentence_ends_with_what_came_after(recovery: Recovery | None, end: str) -> None:
    assert judge(evidence(client(overflow=40), recovery=recovery)).sentence.endswith(end)


def test_what_failed_with_the_rule_is_said_of_its_phase() -> None:
    sentence = judge(evidence(client(overflow=40), other_failures=7)).sentence
    assert "on 1 of 1 client, each at its own sidecar (7 requests failed otherwise); each client" in sentence
    assert sentence.endswith("; the rule is gone again and every request succeeds.")


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 20), st.booleans()), max_size=4),
    st.dictionaries(st.sampled_from(["http2MaxRequests", "http1MaxPendingRequests", "maxConnections", "maxRetries"]), st.integers(1, 10)),
    st.integers(1, 4),
)
def test_whatever_was_measured_there_is_a_verdict_that_follows_the_law(
    rows: list[tuple[int, int, int, bool]], limits: dict[str, int], workers: int
) -> None:
    clients = [
        client(f"client-{index}", requests=requests + overflow, overflow=overflow, admitted=admitted, proxy=overflow + lost)
        for index, (requests, overflow, admitted, lost) in enumerate(rows)
    ]
    verdict = judge(evidence(*clients, limits=limits, workers=workers, rule="base/user" if limits else None))
    heading = {ENFORCED: "Enforced", OVERSHOOT: "Overshoot", NOT_ENFORCED: "Not enforced", INCONCLUSIVE: "Inconclusive"}[verdict.state]
    assert verdict.sentence.startswith(f"{heading}: ")
    assert verdict.sentence.endswith(".")
    if verdict.state is INCONCLUSIVE:
        return
    assert not any(each.ledger.difference for each in clients)
    most, limit = max(each.admitted or 0 for each in clients), limits.get("http2MaxRequests")
    if verdict.state is ENFORCED:
        assert any(each.ledger.client for each in clients)
        assert limit is None or most <= limit
    elif verdict.state is OVERSHOOT:
        assert limit is not None
        assert limit < most < limit + workers
    elif limits:
        assert most >= min(limits[name] for name in ("http2MaxRequests", "maxConnections") if name in limits) + workers


def test_of_a_service_that_does_not_count_nothing_is_said_about_what_was_admitted() -> None:
    unseen = "this service does not count"
    verdict = judge(evidence(client(overflow=40, admitted=None), service_peak=None, unseen=unseen))
    assert verdict.state is ENFORCED
    assert "40 of 100 requests" in verdict.sentence
    assert "but this service does not count, so nothing shows how many were admitted at a time" in verdict.sentence
    idle = judge(evidence(client(admitted=None), service_peak=None, unseen=unseen))
    assert idle.state is INCONCLUSIVE
    assert "none of 100 requests overflowed. Offer more load" in idle.sentence


def test_counters_are_compared_between_two_readings_and_added_up() -> None:
    earlier, later = Counters(1, 2, 3, 4), Counters(11, 22, 33, 44)
    assert later.since(earlier) == Counters(10, 20, 30, 40)
    assert later.since(earlier).plus(earlier) == later
    assert later.overflow == 33  # a connection that was not opened is no reject
    assert (Ledger(5, 5).difference, Ledger(5, 7).difference) == (0, -2)
