"""Is what is asked of a client's users true at one moment, and is nobody kept at the gate when the test is over?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gevent
import gevent.event
import pytest
from geventhttpclient.header import Headers
from locust.exception import StopUser

from loadgen.locust.book import Book
from loadgen.locust.users import _telling
from loadgen.outcome import Outcome, Response

if TYPE_CHECKING:
    from collections.abc import Callable

OVERFLOW = Response(503, b"upstream connect error or disconnect/reset before headers. reset reason: overflow")


def user(book: Book, outcome: Outcome, answered: Callable[[], object] = lambda: None, response: Response | None = None) -> gevent.Greenlet:
    def send() -> None:
        with book.request() as ended:
            answered()
            ended(outcome, 0.001, response)

    return gevent.spawn(send)


def test_a_request_is_in_flight_until_it_has_ended() -> None:
    book, answer = Book("client-1"), gevent.event.Event()
    one = user(book, Outcome.OK, answer.wait, Response(200, b"Kevin", from_upstream=True))
    gevent.sleep(0)
    assert (book.look()["in_flight"], book.sent, book.all_done_since(0.0)) == (1, 1, False)
    answer.set()
    one.get(timeout=1)
    assert (book.look()["in_flight"], book.sent, book.all_done_since(0.0)) == (0, 1, True)
    assert book.look()["outcomes"]["ok"] == 1


def test_what_was_sent_before_a_moment_is_told_from_what_was_sent_after_it() -> None:
    book, answer = Book("client-1"), gevent.event.Event()
    one = user(book, Outcome.OK, answer.wait)
    gevent.sleep(0.05)
    assert not book.all_done_since(0.01), "it was sent before that"
    assert book.all_done_since(10.0), "ten seconds ago nothing was on its way"
    answer.set()
    one.get(timeout=1)


def test_who_is_held_sends_when_the_gate_opens() -> None:
    book = Book("client-1")
    book.hold()
    one = user(book, Outcome.OK)
    gevent.sleep(0.02)
    assert book.sent == 0
    book.release()
    one.get(timeout=1)
    assert book.sent == 1


def test_who_is_held_when_the_test_ends_stops() -> None:
    book = Book("client-1")
    book.hold()
    one = user(book, Outcome.OK)
    gevent.sleep(0)
    book.stop()
    with pytest.raises(StopUser):
        one.get(timeout=1)
    assert book.sent == 0


def test_a_user_that_is_killed_takes_its_request_along() -> None:
    book = Book("client-1")
    one = user(book, Outcome.OK, gevent.event.Event().wait)
    gevent.sleep(0)
    one.kill()
    assert (book.sent, book.look()["in_flight"], book.all_done_since(0.0)) == (0, 0, True)


def test_an_overflow_of_the_own_sidecar_is_told_from_one_that_came_through_the_service() -> None:
    book = Book("client-1")
    theirs = Response(OVERFLOW.status, OVERFLOW.body, from_upstream=True)
    for response in (OVERFLOW, OVERFLOW, theirs):
        user(book, Outcome.OVERFLOW, response=response).get(timeout=1)
    assert book.look()["outcomes"]["overflow"] == 3
    assert book.sidecar_overflow == 2


def test_why_requests_failed_is_counted() -> None:
    book = Book("client-1")
    marked = Response(OVERFLOW.status, OVERFLOW.body, headers=_telling(Headers({"X-Envoy-Overloaded": "true", "Server": "envoy"})))
    assert marked.headers == ((b"x-envoy-overloaded", b"true"),)
    for response in (marked, OVERFLOW):
        user(book, Outcome.OVERFLOW, response=response).get(timeout=1)
    user(book, Outcome.UNAVAILABLE, response=Response(503, b"no healthy upstream")).get(timeout=1)
    assert book.snapshot()["causes"] == {"overflow_unmarked:unknown": 1, "no_healthy_upstream:own_sidecar": 1}


def test_a_tally_ends_only_if_no_further_overflow_came() -> None:
    book = Book("client-1")
    user(book, Outcome.OVERFLOW, response=OVERFLOW).get(timeout=1)
    assert book.begin_tally(if_overflow=0) is None
    ended = book.begin_tally(if_overflow=1)
    assert ended is not None
    assert book.snapshot()["number"] == ended["number"] + 1
    assert (book.sent, book.sidecar_overflow) == (1, 1), "these count since the beginning"
    assert book.look()["outcomes"].get("overflow", 0) == 0
