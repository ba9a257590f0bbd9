"""What did the API server mean, and may it be asked again?

The law: what surely did not happen may be tried again; a write whose answer was lost may have happened, so nobody tries it again before
having looked; everything else is final and becomes one sentence.
"""

from __future__ import annotations

import json
from enum import Enum, auto
from typing import TYPE_CHECKING, Self

from loadgen.errors import ExitCode, RefusedError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.cluster.paths import Call

SAID_CHARACTERS = 1000
"""How much of what a server says a message repeats."""


class Advice(Enum):
    """What to do after a failure."""

    RETRY = auto()
    RELOAD = auto()
    LOOK = auto()
    STOP = auto()


class ApiError(RefusedError):
    """The API server did not do what it was asked, and it is final. ``status`` is 0 if there was no answer."""

    advice = Advice.STOP
    advises = ""

    def __init__(self, call: Call, status: int, said: str, *, hint: str = "", retry_after_s: float = 0.0) -> None:
        answer = f"the API server answered {status}" if status else ""
        super().__init__(f"cannot {call}: {': '.join(part for part in (answer, _shown(said)) if part)}", hint=hint or self.advises)
        self.call = call
        self.status = status
        self.said = said
        self.retry_after_s = retry_after_s

    def late(self) -> Self:
        """Give the same failure for a run that has begun: no longer a refusal."""
        self.exit_code = ExitCode.INVALID
        return self

    def after(self, tries: int, seconds: float) -> Self:
        """Say how long it was tried."""
        if tries > 1:
            self.message = f"{self.message} (tried {tries} times in {seconds:.1f} s)"
            self.args = (self.message,)
        return self


class UnauthorizedError(ApiError):
    """401: who we are is not accepted, or no longer."""

    advice = Advice.RELOAD
    advises = "log in again (the token may have expired), or choose another context"


class ForbiddenError(ApiError):
    """403: we may not."""

    def __init__(self, call: Call, status: int, said: str) -> None:
        where = f" in namespace {call.namespace}" if call.namespace else ""
        hint = f"the account needs the right to {call.verb} {call.resource}{where}; loadgen manifests has the Roles for the namespaces that its options name"
        super().__init__(call, status, said, hint=hint)


class NotFoundError(ApiError):
    """404: there is no such object, no such namespace, or no such kind of object."""

    advises = "check the name, the namespace and that what should serve it is installed"


class ConflictError(ApiError):
    """409: it is not (any more) as we said that it is."""

    advises = "somebody else changed it at the same time; look at it and try again"


class ExistsError(ConflictError):
    """409 on create: there is one of that name."""

    advises = "look who made it, and remove it if it is not needed"


class GoneError(ApiError):
    """410: the rest of a list is no longer kept."""

    advises = "too much changes while it is read; try again"


class InvalidError(ApiError):
    """400, 413, 422: the object is refused, by the server or by a webhook."""

    advises = "the server's own words say what it does not accept"


class BusyError(ApiError):
    """429: not now; nothing was done."""

    advice = Advice.RETRY
    advises = "the API server is overloaded; try again later"


class UnreachableError(ApiError):
    """The request surely did not arrive."""

    advice = Advice.RETRY
    advises = "check the network and the address in the kubeconfig"


class LostError(ApiError):
    """No usable answer came, or one of trouble inside the server: what was asked may have happened."""

    advice = Advice.LOOK
    advises = "the API server is in trouble, or the way to it; try again later"


class UnusableError(ApiError):
    """What came is no answer of an API server; asking again would not help."""

    advises = "is this the address of an API server, and nothing in between that answers in its place?"


_KINDS: dict[int, type[ApiError]] = {
    400: InvalidError,
    401: UnauthorizedError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    413: InvalidError,
    422: InvalidError,
}
_BUSY, _FORBIDDEN, _SERVER = 429, 403, 500


def failure_of(call: Call, status: int, headers: Mapping[str, str], body: bytes) -> ApiError | None:
    """Say what an answer's status means; None if it is well."""
    if 200 <= status < 300:  # noqa: PLR2004
        return None
    reason, said = _status(body)
    if status == _FORBIDDEN:
        return ForbiddenError(call, status, said)
    if status == _BUSY or status >= _SERVER:
        kind = BusyError if status == _BUSY else LostError
        return kind(call, status, said, retry_after_s=_seconds(headers.get("retry-after", "")))
    if reason == "AlreadyExists":
        return ExistsError(call, status, said)
    return _KINDS.get(status, UnusableError)(call, status, said)


def is_status(body: bytes) -> bool:
    """Tell whether an answer is the API server's own, and not what it passed on."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("kind") == "Status" and values.get("apiVersion") == "v1"


def _status(body: bytes) -> tuple[str, str]:
    """Read reason and message of a ``Status``; of anything else, its beginning."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if isinstance(values, dict):
        return str(values.get("reason") or ""), str(values.get("message") or values.get("reason") or "")
    return "", body[:SAID_CHARACTERS].decode("utf-8", "replace").strip()


def _seconds(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 3600.0)
    except ValueError:
        return 0.0


def _shown(said: str) -> str:
    return printable(said if len(said) <= SAID_CHARACTERS else f"{said[:SAID_CHARACTERS]}…")
