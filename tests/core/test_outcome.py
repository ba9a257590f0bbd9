"""Is an overflow told from everything that looks like one, by the bytes that Envoy sends?"""

from __future__ import annotations

import pytest

from loadgen.outcome import Expected, Origin, Outcome, Response, classify, origin

EXPECTED = Expected(200, b"Kevin")
MARKED = ((b"x-envoy-overloaded", b"true"),)
RESET = b"upstream connect error or disconnect/reset before headers. "

# what it is, status, body, outcome
ANSWERS = [
    ("the right answer", 200, b"Kevin", Outcome.OK),
    ("the right answer with a line break", 200, b"Kevin\r\n", Outcome.OK),
    ("the right status with another body", 200, b"Kelvin", Outcome.WRONG_BODY),
    ("the right status with more", 200, b"Kevin!", Outcome.WRONG_BODY),
    ("the right status without a body", 200, b"", Outcome.WRONG_BODY),
    ("the right status with a body that speaks of an overflow", 200, RESET + b"reset reason: overflow", Outcome.WRONG_BODY),
    ("overflow", 503, RESET + b"reset reason: overflow", Outcome.OVERFLOW),
    ("overflow after an attempt that did not connect", 503, RESET + b"retried and the latest reset reason: overflow", Outcome.OVERFLOW),
    ("maintenance mode", 503, b"maintenance mode", Outcome.UNAVAILABLE),
    ("the application's own 503", 503, b"try again later", Outcome.UNAVAILABLE),
    ("a 503 that only mentions an overflow", 503, b"reset reason: overflow, they say", Outcome.UNAVAILABLE),
    ("connection refused", 503, RESET + b"retried and the latest reset reason: remote connection failure", Outcome.UNAVAILABLE),
    ("connection closed", 503, RESET + b"reset reason: connection termination", Outcome.UNAVAILABLE),
    ("no endpoints", 503, b"no healthy upstream", Outcome.UNAVAILABLE),
    ("no such cluster", 503, b"", Outcome.UNAVAILABLE),
    ("fault injection", 503, b"fault filter abort", Outcome.UNAVAILABLE),
    ("overload manager", 503, b"envoy overloaded", Outcome.UNAVAILABLE),
    ("drop_overload", 503, b"unconditional drop overload", Outcome.UNAVAILABLE),
    ("no route", 404, b"", Outcome.HTTP_ERROR),
    ("route timeout", 504, b"upstream request timeout", Outcome.HTTP_ERROR),
    ("garbage from upstream", 502, RESET + b"reset reason: protocol error", Outcome.HTTP_ERROR),
    ("another status with the words of an overflow", 504, RESET + b"reset reason: overflow", Outcome.HTTP_ERROR),
    ("local rate limit", 429, b"local_rate_limited", Outcome.HTTP_ERROR),
    ("HTTP/1.0", 426, b"Upgrade Required", Outcome.HTTP_ERROR),
    ("a redirect", 302, b"Kevin", Outcome.HTTP_ERROR),
]


@pytest.mark.parametrize(("status", "body", "outcome"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS])
@pytest.mark.parametrize("from_upstream", [False, True])
def test_an_answer_is_classified_by_its_status_and_body(status: int, body: bytes, outcome: Outcome, from_upstream: bool) -> None:
    assert classify(Response(status, body, from_upstream, MARKED if outcome is Outcome.OVERFLOW else ()), EXPECTED) is outcome


def test_the_words_of_an_overflow_without_a_mark_are_the_service_s_own_where_they_were_passed_on() -> None:
    words = RESET + b"reset reason: overflow"
    assert classify(Response(503, words), EXPECTED) is Outcome.OVERFLOW, "debug headers may be suppressed"
    assert classify(Response(503, words, from_upstream=True), EXPECTED) is Outcome.UNAVAILABLE
    assert classify(Response(503, words, True, ((b"X-Envoy-Overloaded", b"true"),)), EXPECTED) is Outcome.OVERFLOW
    assert classify(Response(503, words, True, ((b"x-envoy-overloaded", b"false"),)), EXPECTED) is Outcome.UNAVAILABLE


@pytest.mark.parametrize("expected", [EXPECTED, Expected(200)])
@pytest.mark.parametrize(
    ("status", "from_upstream", "marked", "overflow"),
    [
        (b"14", False, True, True),
        (b"14", True, True, True),
        (b"14", False, False, True),
        (b"14", True, False, False),
        (b"8", False, True, False),
    ],
)
def test_an_overflow_in_grpc_s_form_is_one(expected: Expected, status: bytes, from_upstream: bool, marked: bool, overflow: bool) -> None:
    lines = ((b"grpc-status", status), (b"grpc-message", RESET + b"reset reason: overflow"), *(MARKED if marked else ()))
    assert (classify(Response(200, b"", from_upstream, lines), expected) is Outcome.OVERFLOW) is overflow
    assert classify(Response(201, b"", from_upstream, lines), expected) is not Outcome.OVERFLOW


@pytest.mark.parametrize(
    ("expected", "response", "outcome"),
    [
        (Expected(200), Response(200, b"anything"), Outcome.OK),
        (Expected(200, b""), Response(200, b" \n"), Outcome.OK),
        (Expected(404, b""), Response(404, b""), Outcome.OK),
        (Expected(404), Response(200, b""), Outcome.HTTP_ERROR),
        (Expected(503, b"closed"), Response(503, b"closed"), Outcome.OK),
        (Expected(503), Response(503, RESET + b"reset reason: overflow"), Outcome.OVERFLOW),
        (Expected(200, b" Kevin\n"), Response(200, b"Kevin"), Outcome.OK),
    ],
)
def test_what_counts_as_ok_is_the_scenario_s_choice_but_an_overflow_never_is(
    expected: Expected, response: Response, outcome: Outcome
) -> None:
    assert classify(response, expected) is outcome


def test_an_overflow_that_passed_another_hop_was_made_at_the_server_side() -> None:
    body = RESET + b"reset reason: overflow"
    assert origin(Response(503, body)) is Origin.SIDECAR
    assert origin(Response(503, body, from_upstream=True)) is Origin.SERVER


def test_the_outcomes_are_the_published_ones() -> None:
    published = "ok overflow unavailable http_error wrong_body timeout connect reset protocol unsent"
    assert " ".join(Outcome) == published
