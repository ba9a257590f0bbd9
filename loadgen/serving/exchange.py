"""What does a request ask, and what is it told? Values, free of sockets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    422: "Unprocessable Content",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request; the names of its headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """What is told: a status, a body of a type, and further headers."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    def as_bytes(self, *, keep: bool, headless: bool = False) -> bytes:
        """Write the reply for the wire. ``keep`` says that the connection stays open, ``headless`` leaves the body out (HEAD)."""
        lines = [
            f"HTTP/1.1 {self.status} {_REASONS[self.status]}",
            f"content-type: {self.content_type}",
            f"content-length: {len(self.body)}",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            f"connection: {'keep-alive' if keep else 'close'}",
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if headless else self.body)


def as_json(status: int, values: Mapping[str, Any]) -> Reply:
    """Reply with a JSON object."""
    return Reply(status, json.dumps(values).encode())


def refusal(status: int, error: str, **more: Any) -> Reply:
    """Reply that a request is refused, and why."""
    return as_json(status, {"error": error, **more})


def as_text(status: int, text: str) -> Reply:
    """Reply with a line of text."""
    return Reply(status, f"{text}\n".encode("utf-8", "backslashreplace"), TEXT)


def not_allowed(methods: str) -> Reply:
    """Reply that the path is there, for other methods."""
    reply = refusal(405, f"allowed here: {methods}")
    return Reply(reply.status, reply.body, reply.content_type, {"allow": methods})
