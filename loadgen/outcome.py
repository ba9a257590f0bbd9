"""What became of one request? A closed set, decided from the response alone.

The bytes of Envoy's own answers were measured on Envoy 1.40: an overflow is a 503 whose body ends with ``reset reason: overflow``,
whichever breaker fired and whether or not an earlier attempt failed to connect. Neither the status nor the header
``x-envoy-overloaded`` alone tells: maintenance mode sends that header too, and a mesh can suppress it. Of what the own sidecar only passed on,
the words without the mark are the service's own. A gRPC request is answered the same in gRPC's form: a 200 with ``grpc-status`` 14 and the words in ``grpc-message``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What became of one request. Closed, and therefore fit to be a metric label."""

    OK = "ok"
    OVERFLOW = "overflow"
    UNAVAILABLE = "unavailable"
    HTTP_ERROR = "http_error"
    WRONG_BODY = "wrong_body"
    TIMEOUT = "timeout"
    CONNECT = "connect"
    RESET = "reset"
    PROTOCOL = "protocol"
    UNSENT = "unsent"


class Origin(StrEnum):
    """Who rejected an overflowed request."""

    SIDECAR = "sidecar"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Expected:
    """The answer that counts as ``ok``.

    ``body`` is compared byte for byte without the white space at both ends, None means any; the ``status`` None means any below 400.
    """

    status: int | None = 200
    body: bytes | None = None

    def __post_init__(self) -> None:
        if self.body is not None:
            object.__setattr__(self, "body", self.body.strip())


@dataclass(frozen=True, slots=True)
class Response:
    """What the wire brought back. ``from_upstream``: it has the header ``x-envoy-upstream-service-time``, so it was not made by the own sidecar. ``headers`` are all of them if they were asked for, else at least those that tell a cause (``cause.TELLING``), if there are some.

    ``whole`` is false if the body went on beyond what was kept of it.
    """

    status: int
    body: bytes
    from_upstream: bool = False
    headers: tuple[tuple[bytes, bytes], ...] = ()
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's end, as a person may read it in the client's log."""

    client: str
    outcome: Outcome
    latency_s: float
    response: Response | None


OVERFLOW_TAIL = b"reset reason: overflow"
OVERLOADED = b"x-envoy-overloaded"
GRPC_STATUS = b"grpc-status"
GRPC_MESSAGE = b"grpc-message"
_GRPC_HTTP_STATUS = 200
_GRPC_UNAVAILABLE = b"14"
_UNAVAILABLE_STATUS = 503
_FIRST_ERROR_STATUS = 400


def classify(response: Response, expected: Expected) -> Outcome:
    """Decide what a complete response means."""
    if _says_overflow(response) and (not response.from_upstream or is_marked(response)):
        return Outcome.OVERFLOW
    if response.status == expected.status or (expected.status is None and response.status < _FIRST_ERROR_STATUS):
        as_expected = expected.body is None or (response.whole and response.body.strip() == expected.body)
        return Outcome.OK if as_expected else Outcome.WRONG_BODY
    return Outcome.UNAVAILABLE if response.status == _UNAVAILABLE_STATUS else Outcome.HTTP_ERROR


def _says_overflow(response: Response) -> bool:
    if response.status == _UNAVAILABLE_STATUS:
        return response.body.endswith(OVERFLOW_TAIL)
    return (grpc_unavailable(response) or b"").endswith(OVERFLOW_TAIL)


def grpc_unavailable(response: Response) -> bytes | None:
    """Give the message of an answer with gRPC's status 14, unavailable, which is a 200; None of another answer."""
    if response.status != _GRPC_HTTP_STATUS or not response.headers:
        return None
    lines = {lowered: value for name, value in response.headers if (lowered := name.lower()) in {GRPC_STATUS, GRPC_MESSAGE}}
    return lines.get(GRPC_MESSAGE, b"") if lines.get(GRPC_STATUS) == _GRPC_UNAVAILABLE else None


def is_marked(response: Response) -> bool:
    """Tell whether a proxy marked an answer as made because of too much load."""
    return any(name.lower() == OVERLOADED and value == b"true" for name, value in response.headers)


def origin(response: Response) -> Origin:
    """Tell who rejected an overflowed request: the own sidecar never sets ``x-envoy-upstream-service-time`` on its own replies."""
    return Origin.SERVER if response.from_upstream else Origin.SIDECAR
