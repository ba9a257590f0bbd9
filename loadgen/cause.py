"""Why did a request fail, and who said so? One table of what Envoy and a service answer, and the first row that an answer fits is its cause.

The bytes are Envoy 1.40's own; each row is provoked on it in ``tests/mesh/test_cause.py``. An answer is looked at for its status, the header
lines named in ``TELLING``, and its body. The own sidecar puts ``x-envoy-upstream-service-time`` on every answer that it only passes on, so
one without it is the own sidecar's. Nothing of an answer goes into a cause: causes are a closed set, and fit to be counted and shown.

What cannot be told apart, by anybody who sees the answer only:

* which of the limits an overflow is of: the words are the same (the proxy's counters tell);
* another proxy's answer and that of a service which says the same, with the same header lines: both are called the server's side;
* a service that says ``reset reason: overflow`` without ``x-envoy-overloaded`` and a server's sidecar whose debug headers are suppressed: it
  is called the service's, for few suppress them on one side only;
* with the own sidecar's debug headers suppressed nobody's answer has a service time. An overflow without any mark is then of an unknown maker
  (``overflow_unmarked``); one that another proxy marked looks like the own sidecar's, and only the ledger shows it; what else another proxy or
  the service says in Envoy's words is taken for the own sidecar's;
* no such cluster and a refusal by admission control: both are a 503 without a body. If the server's side answers so, it is the service's 503,
  and where there is no sidecar in the way at all, a service's empty 503 or 404 is taken for the sidecar's;
* gRPC's 200 with status 14 that is no overflow from any other 200 by its outcome: it is a wrong body, and where any body will do it is ok and has no cause;
* answers to HEAD have no body: an overflow and maintenance mode are both ``overloaded``, all others ``unexplained``;
* a failed TLS handshake and a refused connection, where Envoy does not say more than ``remote connection failure``;
* words of another author: a rate limit, a fault or an authorization that was configured to answer with a body of its own is ``unexplained``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from loadgen.outcome import GRPC_MESSAGE, GRPC_STATUS, OVERFLOW_TAIL, OVERLOADED, Outcome, grpc_unavailable, is_marked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.outcome import Response


class MadeBy(StrEnum):
    """Who made an answer. The server's side is another proxy than the own sidecar, or a service that speaks as one."""

    OWN_SIDECAR = "own_sidecar"
    SERVER_SIDE = "server_side"
    SERVICE = "service"
    UNKNOWN = "unknown"


class Cause(StrEnum):
    """Why a request was not answered as expected. Closed, and therefore fit to be counted."""

    OVERFLOW = "overflow"
    OVERFLOW_UNMARKED = "overflow_unmarked"
    OVERFLOW_CLAIMED = "overflow_claimed"
    GRPC_UNAVAILABLE = "grpc_unavailable"
    MAINTENANCE = "maintenance"
    OVERLOADED = "overloaded"
    NO_HEALTHY_UPSTREAM = "no_healthy_upstream"
    NO_CLUSTER = "no_cluster"
    NO_ROUTE = "no_route"
    CONNECT_FAILURE = "connect_failure"
    RESET = "reset"
    PROTOCOL_ERROR = "protocol_error"
    ROUTE_TIMEOUT = "route_timeout"
    OVERLOAD_MANAGER = "overload_manager"
    FAULT_INJECTION = "fault_injection"
    RATE_LIMIT = "rate_limit"
    DROP = "drop"
    SERVICE_503 = "service_503"
    SERVICE_OTHER = "service_other"
    UNEXPLAINED = "unexplained"
    NO_ANSWER = "no_answer"
    NO_CONNECTION = "no_connection"
    CLOSED = "closed"
    NO_HTTP = "no_http"
    UNSENT = "unsent"


class Found(NamedTuple):
    """A cause, and who made the answer; written as ``cause:made_by``."""

    cause: Cause
    made_by: MadeBy

    def __str__(self) -> str:
        return f"{self.cause}:{self.made_by}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what was written; raises ValueError if it is none."""
        cause, _, made_by = text.partition(":")
        return cls(Cause(cause), MadeBy(made_by))


LENGTH: Final = b"content-length"
TELLING: Final = frozenset({OVERLOADED, GRPC_STATUS, GRPC_MESSAGE})
"""The header lines that tell a cause, by their lowered names. Of the answer to HEAD so does ``LENGTH``: whether another method had got a body."""
TELLING_LINES: Final = 4
TELLING_BYTES: Final = 256
"""So many such lines of an answer are kept, each with so much of its value; the longest of Envoy's own is half as long."""


@dataclass(frozen=True, slots=True)
class Row:
    """What an answer must be to have a cause. None means that it does not matter.

    ``says`` is searched for in the body, and in the message of ``grpc`` answers (a 200 with gRPC's status 14). ``overloaded`` is the header
    ``x-envoy-overloaded: true``; ``passed_on`` says whether the own sidecar only passed it on; ``headless`` whether it is one to HEAD that has
    the length of the body that another method had got. ``made_by`` None: the own sidecar, or the server's side if it was passed on.
    ``outcome`` is what ``classify`` makes of it where a 200 with a body is expected; None if there are several.
    """

    cause: Cause
    sentence: str
    status: int | None
    says: re.Pattern[bytes] | None
    outcome: Outcome | None
    overloaded: bool | None = None
    passed_on: bool | None = None
    headless: bool | None = None
    grpc: bool = False
    made_by: MadeBy | None = None


_OVERFLOW = re.compile(re.escape(OVERFLOW_TAIL) + rb"\Z")
_MAINTENANCE = re.compile(rb"\Amaintenance mode\Z")
_EMPTY = re.compile(rb"\A\Z")


def _before_headers(reason: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"\Aupstream connect error or disconnect/reset before headers\. (?:retried and the latest )?reset reason: " + reason)


_REJECTED: tuple[Row, ...] = (
    Row(
        Cause.OVERFLOW,
        "a connection-pool limit of the client's own sidecar rejected it",
        503,
        _OVERFLOW,
        Outcome.OVERFLOW,
        overloaded=True,
        passed_on=False,
        made_by=MadeBy.OWN_SIDECAR,
    ),
    Row(
        Cause.OVERFLOW,
        "a connection-pool limit at the server's side rejected it, or the service says so in a proxy's words",
        503,
        _OVERFLOW,
        Outcome.OVERFLOW,
        overloaded=True,
        passed_on=True,
        made_by=MadeBy.SERVER_SIDE,
    ),
    Row(
        Cause.OVERFLOW_UNMARKED,
        "a connection-pool limit rejected it; debug headers are suppressed, so whose limit is not known",
        503,
        _OVERFLOW,
        Outcome.OVERFLOW,
        passed_on=False,
        made_by=MadeBy.UNKNOWN,
    ),
)
"""What a connection-pool limit rejected."""

TABLE: tuple[Row, ...] = (
    *_REJECTED,
    *(replace(row, status=200, grpc=True) for row in _REJECTED),
    Row(
        Cause.OVERFLOW_CLAIMED,
        "the service itself answered 503 in the words of an overflow, without a proxy's mark",
        503,
        _OVERFLOW,
        Outcome.UNAVAILABLE,
        passed_on=True,
        made_by=MadeBy.SERVICE,
    ),
    Row(Cause.GRPC_UNAVAILABLE, "gRPC's status 14, unavailable, in a 200", 200, None, Outcome.WRONG_BODY, grpc=True),
    # What else is marked as overload.
    Row(Cause.MAINTENANCE, "the service's cluster is in maintenance mode", 503, _MAINTENANCE, Outcome.UNAVAILABLE, overloaded=True),
    Row(Cause.MAINTENANCE, "the service's cluster is in maintenance mode", 503, _MAINTENANCE, Outcome.UNAVAILABLE, passed_on=False),
    Row(
        Cause.OVERLOADED,
        "an overflow or maintenance mode: the body says which, and an answer to HEAD has none",
        503,
        _EMPTY,
        Outcome.UNAVAILABLE,
        overloaded=True,
    ),
    # What a proxy says in words of its own.
    Row(
        Cause.NO_HEALTHY_UPSTREAM,
        "the service has no endpoint that is fit to be asked",
        503,
        re.compile(rb"\Ano healthy upstream\Z"),
        Outcome.UNAVAILABLE,
    ),
    Row(
        Cause.CONNECT_FAILURE,
        "no connection to the service's endpoint could be opened",
        503,
        _before_headers(rb"(?:(?:local |remote )?connection failure|connection timeout)"),
        Outcome.UNAVAILABLE,
    ),
    Row(Cause.PROTOCOL_ERROR, "what the service answered is no HTTP", 502, _before_headers(rb"protocol error"), Outcome.HTTP_ERROR),
    Row(
        Cause.RESET,
        "the service's endpoint closed or reset the connection before it answered",
        503,
        _before_headers(rb"[\w ]+\Z"),
        Outcome.UNAVAILABLE,
    ),
    Row(
        Cause.ROUTE_TIMEOUT,
        "the service took longer than its route allows",
        504,
        re.compile(rb"\Aupstream request timeout\Z"),
        Outcome.HTTP_ERROR,
    ),
    Row(
        Cause.OVERLOAD_MANAGER,
        "the proxy itself is overloaded: its overload manager takes no requests",
        503,
        re.compile(rb"\Aenvoy overloaded\Z"),
        Outcome.UNAVAILABLE,
    ),
    Row(Cause.FAULT_INJECTION, "a fault that was configured to be injected", None, re.compile(rb"\Afault filter abort\Z"), None),
    Row(Cause.RATE_LIMIT, "a local rate limit", 429, re.compile(rb"\Alocal_rate_limited\Z"), Outcome.HTTP_ERROR),
    Row(
        Cause.DROP,
        "the control plane had it dropped (drop_overload)",
        503,
        re.compile(rb"\A(?:unconditional )?drop overload\Z"),
        Outcome.UNAVAILABLE,
    ),
    Row(
        Cause.NO_CLUSTER,
        "the sidecar has no such cluster, as of a subset that does not exist, or admission control refused it",
        503,
        _EMPTY,
        Outcome.UNAVAILABLE,
        passed_on=False,
        headless=False,
    ),
    Row(Cause.NO_ROUTE, "the sidecar has no route for it", 404, _EMPTY, Outcome.HTTP_ERROR, passed_on=False, headless=False),
    # What the service says.
    Row(Cause.SERVICE_503, "the service itself answered 503", 503, None, Outcome.UNAVAILABLE, passed_on=True, made_by=MadeBy.SERVICE),
    Row(
        Cause.SERVICE_OTHER,
        "the service answered, but not as was expected",
        None,
        None,
        None,
        passed_on=True,
        made_by=MadeBy.SERVICE,
    ),
    Row(Cause.UNEXPLAINED, "an answer that says neither who made it nor why", None, None, None, made_by=MadeBy.UNKNOWN),
)
"""The last row fits everything."""

UNANSWERED: Mapping[Outcome, Cause] = MappingProxyType(
    {
        Outcome.TIMEOUT: Cause.NO_ANSWER,
        Outcome.CONNECT: Cause.NO_CONNECTION,
        Outcome.RESET: Cause.CLOSED,
        Outcome.PROTOCOL: Cause.NO_HTTP,
        Outcome.UNSENT: Cause.UNSENT,
    }
)
"""The causes of what got no complete answer: nobody made one, so the outcome says all that is known."""
_SENTENCES = {
    Cause.NO_ANSWER: "no whole answer came within the client's own timeout",
    Cause.NO_CONNECTION: "the client could open no connection",
    Cause.CLOSED: "the client's connection was closed or reset before the answer",
    Cause.NO_HTTP: "what came to the client is no HTTP, too large or cut off",
    Cause.UNSENT: "it was due and not sent: too many were in flight",
}


def find(response: Response) -> Found:
    """Find the cause of an answer, and who made it."""
    row = fitting(response)
    nearest = MadeBy.SERVER_SIDE if response.from_upstream else MadeBy.OWN_SIDECAR
    return Found(row.cause, nearest if row.made_by is None else row.made_by)


def fitting(response: Response) -> Row:
    """Give the first row of the table that an answer fits."""
    message, overloaded = grpc_unavailable(response), is_marked(response)
    length = next((value for name, value in response.headers if name.lower() == LENGTH), b"0")
    headless = not response.body and length.strip(b"0") != b""
    said = response.body if message is None else message
    return next(
        row
        for row in TABLE
        if (row.status is None or row.status == response.status)
        and (message is not None or not row.grpc)
        and row.overloaded in {None, overloaded}
        and row.passed_on in {None, response.from_upstream}
        and row.headless in {None, headless}
        and (row.says is None or row.says.search(said))
    )


def cause_of(outcome: Outcome, response: Response) -> Found | None:
    """Give the cause of an answer that had an outcome; None if it is ok, or an overflow that the own sidecar marked as such."""
    if outcome is Outcome.OK or (outcome is Outcome.OVERFLOW and not response.from_upstream and _MARK in response.headers):
        return None
    found = find(response)
    return None if found == _OWN_OVERFLOW else found


_MARK = (OVERLOADED, b"true")
_OWN_OVERFLOW = Found(Cause.OVERFLOW, MadeBy.OWN_SIDECAR)


_PERHAPS_PASSED_ON = frozenset({Cause.RESET, Cause.PROTOCOL_ERROR, Cause.ROUTE_TIMEOUT})
"""The own sidecar's words for what went wrong behind it, or while the request waited in it: a route's timeout runs in the queue, too."""


def let_through(found: Found) -> bool | None:
    """Tell whether the own sidecar passed a request on that failed for a cause; None if nobody can say.

    An answer from beyond the sidecar shows that it did. An overflow without a mark counts as the sidecar's own, as in the ledger.
    """
    if found.made_by in {MadeBy.SERVER_SIDE, MadeBy.SERVICE}:
        return True
    if found.cause in {Cause.UNSENT, Cause.NO_CONNECTION, Cause.OVERFLOW_UNMARKED}:
        return False
    return False if found.made_by is MadeBy.OWN_SIDECAR and found.cause not in _PERHAPS_PASSED_ON else None


def sentence(cause: str, made_by: str) -> str:
    """Say for a person what a cause is; of one that is not known here, as from a newer report, nothing."""
    for row in TABLE:
        if row.cause == cause and row.made_by in {None, made_by}:
            return row.sentence
    return _SENTENCES[Cause(cause)] if cause in _SENTENCES else ""
