"""Does every answer have one cause, the right one, and never one that its outcome contradicts?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.cause import TABLE, TELLING, UNANSWERED, Cause, Found, MadeBy, Row, cause_of, find, fitting, sentence
from loadgen.outcome import Expected, Origin, Outcome, Response, classify, origin
from loadgen.recorder import Tally

EXPECTED = Expected(200, b"Kevin")
RESET = b"upstream connect error or disconnect/reset before headers. "
RETRIED = RESET + b"retried and the latest "
OVERFLOW = RESET + b"reset reason: overflow"
MARKED = ((b"x-envoy-overloaded", b"true"),)
GRPC = ((b"grpc-status", b"14"),)
OWN, SERVER, SERVICE, UNKNOWN = MadeBy.OWN_SIDECAR, MadeBy.SERVER_SIDE, MadeBy.SERVICE, MadeBy.UNKNOWN


def own(status: int, body: bytes, *headers: tuple[bytes, bytes]) -> Response:
    """Give an answer that the own sidecar made, or one of which nobody says who passed it on."""
    return Response(status, body, from_upstream=False, headers=headers)


def passed(status: int, body: bytes, *headers: tuple[bytes, bytes]) -> Response:
    """Give an answer that the own sidecar passed on."""
    return Response(status, body, from_upstream=True, headers=headers)


# what it is, the answer, its cause, who made it
ANSWERS: list[tuple[str, Response, Cause, MadeBy]] = [
    ("an overflow", own(503, OVERFLOW, *MARKED), Cause.OVERFLOW, OWN),
    ("an overflow after an attempt", own(503, RETRIED + b"reset reason: overflow", *MARKED), Cause.OVERFLOW, OWN),
    ("an overflow with a name in capitals", own(503, OVERFLOW, (b"X-Envoy-Overloaded", b"true")), Cause.OVERFLOW, OWN),
    ("an overflow at the server's side", passed(503, OVERFLOW, *MARKED), Cause.OVERFLOW, SERVER),
    ("an overflow without debug headers", own(503, OVERFLOW), Cause.OVERFLOW_UNMARKED, UNKNOWN),
    ("an overflow that is marked as none", own(503, OVERFLOW, (b"x-envoy-overloaded", b"false")), Cause.OVERFLOW_UNMARKED, UNKNOWN),
    ("a service that speaks of an overflow", passed(503, OVERFLOW), Cause.OVERFLOW_CLAIMED, SERVICE),
    ("a service that mentions one", passed(503, OVERFLOW + b", they say"), Cause.SERVICE_503, SERVICE),
    ("gRPC's overflow", own(200, b"", *MARKED, *GRPC, (b"grpc-message", OVERFLOW)), Cause.OVERFLOW, OWN),
    ("gRPC's overflow at the server's side", passed(200, b"", *MARKED, *GRPC, (b"grpc-message", OVERFLOW)), Cause.OVERFLOW, SERVER),
    ("gRPC's overflow without a mark", own(200, b"", *GRPC, (b"grpc-message", OVERFLOW)), Cause.OVERFLOW_UNMARKED, UNKNOWN),
    ("gRPC's overflow as the service says it", passed(200, b"", *GRPC, (b"grpc-message", OVERFLOW)), Cause.GRPC_UNAVAILABLE, SERVER),
    ("gRPC without endpoints", own(200, b"", *GRPC, (b"grpc-message", b"no healthy upstream")), Cause.GRPC_UNAVAILABLE, OWN),
    ("gRPC without a message", passed(200, b"", *GRPC), Cause.GRPC_UNAVAILABLE, SERVER),
    ("another status of gRPC's", passed(200, b"", (b"grpc-status", b"13")), Cause.SERVICE_OTHER, SERVICE),
    ("gRPC's status in an answer that is none", own(503, b"no healthy upstream", *GRPC), Cause.NO_HEALTHY_UPSTREAM, OWN),
    ("maintenance mode", own(503, b"maintenance mode", *MARKED), Cause.MAINTENANCE, OWN),
    ("maintenance mode at the server's side", passed(503, b"maintenance mode", *MARKED), Cause.MAINTENANCE, SERVER),
    ("maintenance mode without debug headers", own(503, b"maintenance mode"), Cause.MAINTENANCE, OWN),
    ("a service under maintenance", passed(503, b"maintenance mode"), Cause.SERVICE_503, SERVICE),
    ("HEAD of an overflow", own(503, b"", *MARKED, (b"content-length", b"81")), Cause.OVERLOADED, OWN),
    ("no endpoints", own(503, b"no healthy upstream"), Cause.NO_HEALTHY_UPSTREAM, OWN),
    ("no endpoints at the server's side", passed(503, b"no healthy upstream"), Cause.NO_HEALTHY_UPSTREAM, SERVER),
    ("refused", own(503, RESET + b"reset reason: remote connection failure"), Cause.CONNECT_FAILURE, OWN),
    ("refused again", own(503, RETRIED + b"reset reason: remote connection failure"), Cause.CONNECT_FAILURE, OWN),
    ("refused, by an older Envoy", own(503, RESET + b"reset reason: connection failure, transport failure reason: x"), Cause.CONNECT_FAILURE, OWN),
    ("unreachable", own(503, RESET + b"reset reason: local connection failure"), Cause.CONNECT_FAILURE, OWN),
    ("not answered", own(503, RESET + b"reset reason: connection timeout"), Cause.CONNECT_FAILURE, OWN),
    ("refused at the server's side", passed(503, RESET + b"reset reason: remote connection failure"), Cause.CONNECT_FAILURE, SERVER),
    ("closed", own(503, RESET + b"reset reason: connection termination"), Cause.RESET, OWN),
    ("reset", own(503, RESET + b"reset reason: remote reset"), Cause.RESET, OWN),
    ("a reason that is not known", own(503, RESET + b"reset reason: something new"), Cause.RESET, OWN),
    ("a reason that is none", own(503, RESET + b"reset reason: \xff"), Cause.UNEXPLAINED, UNKNOWN),
    ("no HTTP", own(502, RESET + b"reset reason: protocol error"), Cause.PROTOCOL_ERROR, OWN),
    ("too late", own(504, b"upstream request timeout"), Cause.ROUTE_TIMEOUT, OWN),
    ("too late at the server's side", passed(504, b"upstream request timeout"), Cause.ROUTE_TIMEOUT, SERVER),
    ("overload manager", own(503, b"envoy overloaded"), Cause.OVERLOAD_MANAGER, OWN),
    ("a fault", own(503, b"fault filter abort"), Cause.FAULT_INJECTION, OWN),
    ("a fault of another status", own(418, b"fault filter abort"), Cause.FAULT_INJECTION, OWN),
    ("a local rate limit", own(429, b"local_rate_limited"), Cause.RATE_LIMIT, OWN),
    ("dropped", own(503, b"unconditional drop overload"), Cause.DROP, OWN),
    ("dropped by chance", own(503, b"drop overload"), Cause.DROP, OWN),
    ("no cluster", own(503, b""), Cause.NO_CLUSTER, OWN),
    ("no cluster, with a length", own(503, b"", (b"content-length", b"0")), Cause.NO_CLUSTER, OWN),
    ("HEAD of something", own(503, b"", (b"content-length", b"19")), Cause.UNEXPLAINED, UNKNOWN),
    ("no route", own(404, b""), Cause.NO_ROUTE, OWN),
    ("HEAD of a 404 with a body", own(404, b"", (b"content-length", b"9")), Cause.UNEXPLAINED, UNKNOWN),
    ("the service's 503", passed(503, b"busy"), Cause.SERVICE_503, SERVICE),
    ("the service's 503 without a body", passed(503, b""), Cause.SERVICE_503, SERVICE),
    ("the service's 500", passed(500, b"oops"), Cause.SERVICE_OTHER, SERVICE),
    ("the service's own rate limit", passed(429, b"slow down"), Cause.SERVICE_OTHER, SERVICE),
    ("another body of the service", passed(200, b"Bob"), Cause.SERVICE_OTHER, SERVICE),
    ("a 503 that says nothing", own(503, b"go away"), Cause.UNEXPLAINED, UNKNOWN),
    ("a body from somewhere", own(200, b"Bob"), Cause.UNEXPLAINED, UNKNOWN),
    ("words of an overflow in another status", own(504, OVERFLOW, *MARKED), Cause.UNEXPLAINED, UNKNOWN),
]  # fmt: skip
TABLE_OF_ANSWERS = pytest.mark.parametrize(("response", "cause", "made_by"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS])
OVERFLOWS = {row.cause for row in TABLE if row.outcome is Outcome.OVERFLOW}

PIECES = st.sampled_from(
    [OVERFLOW, RESET, b"reset reason: overflow", b"maintenance mode", b"no healthy upstream", b"", b"\x00\xff\n", b"Kevin"]
)
BODIES = st.lists(PIECES | st.binary(max_size=8), max_size=3).map(b"".join)
LINES = st.tuples(
    st.sampled_from([*sorted(TELLING), b"Grpc-Status", b"content-length", b"server"]) | st.binary(max_size=4),
    st.sampled_from([b"true", b"14", b"0", b"81", OVERFLOW]) | st.binary(max_size=4),
)
RESPONSES = st.builds(
    Response,
    st.sampled_from([200, 404, 429, 502, 503, 504]) | st.integers(100, 599),
    BODIES,
    st.booleans(),
    st.lists(LINES, max_size=4).map(tuple),
    st.booleans(),
)


@TABLE_OF_ANSWERS
def test_an_answer_has_the_cause_that_its_status_its_headers_and_its_body_tell(response: Response, cause: Cause, made_by: MadeBy) -> None:
    assert find(response) == (cause, made_by)


def test_every_row_of_the_table_is_the_cause_of_some_answer() -> None:
    reached = [fitting(response) for _, response, _, _ in ANSWERS]
    assert [row for row in TABLE if row not in reached] == []


def agrees(row: Row, response: Response) -> bool:
    """Tell whether the outcome of an answer is one that the row which it fits allows."""
    outcome = classify(response, EXPECTED)
    overflow = (outcome is Outcome.OVERFLOW) is (row.cause in OVERFLOWS)
    server = outcome is not Outcome.OVERFLOW or (origin(response) is Origin.SERVER) is (row.passed_on is True)
    return overflow and server and row.outcome in {None, outcome}


@TABLE_OF_ANSWERS
def test_the_outcome_of_an_answer_is_that_of_its_row(response: Response, cause: Cause, made_by: MadeBy) -> None:
    assert agrees(fitting(response), response)


@given(response=RESPONSES)
def test_whatever_bytes_come_have_a_cause_that_agrees_with_their_outcome(response: Response) -> None:
    outcome, row, found = classify(response, EXPECTED), fitting(response), find(response)
    if outcome is Outcome.OK:
        assert cause_of(outcome, response) is None
        return
    assert agrees(row, response)
    assert cause_of(outcome, response) == (None if found == (Cause.OVERFLOW, OWN) else found)
    assert Found.parse(str(found)) == found
    assert sentence(*found) == row.sentence


@pytest.mark.parametrize("text", ["", "overflow", "overflow:", "overflow:nobody", ":own_sidecar", "overflow:own_sidecar:x", "overflow own_sidecar"])  # fmt: skip
def test_what_is_no_cause_is_not_read_as_one(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid"):
        Found.parse(text)


def test_every_cause_has_one_sentence_and_one_that_is_not_known_has_none() -> None:
    known = {*(row.cause for row in TABLE), *UNANSWERED.values()}
    assert known == set(Cause)
    assert all(sentence(cause, UNKNOWN) for cause in UNANSWERED.values())
    assert sentence("of a newer version", "nobody") == ""


def test_a_tally_explains_all_that_was_neither_ok_nor_the_own_sidecar_s_overflow() -> None:
    tally = Tally()
    for _, response, _, _ in ANSWERS:
        outcome = classify(response, EXPECTED)
        for _ in range(2):
            tally.record(outcome, 0.01, response.status, cause_of(outcome, response))
            tally.server_overflow += outcome is Outcome.OVERFLOW and origin(response) is Origin.SERVER
    for outcome in [Outcome.OK, *UNANSWERED, Outcome.TIMEOUT]:
        tally.record(outcome, 0.01)
    explained = tally.causes
    assert explained[Found(Cause.NO_ANSWER, UNKNOWN)] == 2
    assert explained[Found(Cause.UNSENT, UNKNOWN)] == 1
    assert explained[Found(Cause.OVERFLOW, SERVER)] == 4, "in gRPC's form, too"
    unmarked = explained[Found(Cause.OVERFLOW_UNMARKED, UNKNOWN)]
    assert unmarked == 6
    assert explained.total() == tally.requests - tally.outcomes[Outcome.OK] - tally.sidecar_overflow + unmarked
