"""Who may ask the web UI for something? Only pages of its own, under a name that is its own.

The law: Locust lets every origin read everything and start anything, and does not look at the name that it is called by. So this stands in front
of all of it, outermost. What allows another origin something is taken out of every answer, so that no preflight succeeds; what changes something
is refused if a page of another origin asks for it; and a name that is not known here is refused, for it may be one that somebody else points here.
No answer is shown in a frame: a page of another origin could lay its own over the buttons and have a person click them.
It imports nothing of Locust's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_ANY = frozenset({"", "*", "0.0.0.0", "::", "[::]"})  # noqa: S104  # asked about, not bound
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_ACTING = ("/swarm", "/stop", "/stats/reset", "/user")
"""What changes something in Locust, however it is asked: in 2.44 two of them are GET."""
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?P<port>:[0-9]{1,5})?")
STRANGER = "This was asked by a page of another origin. Only the web UI's own pages may change something."
FAR = (
    "the web UI can be reached from other machines, and everybody may use it; start Locust with --web-host 127.0.0.1 or with --web-login, "
    "or allow it with --mesh-control-anywhere"
)
_UNFRAMED = (("X-Frame-Options", "DENY"), ("Content-Security-Policy", "frame-ancestors 'none'"))
_PORTS = {"http": ":80", "https": ":443"}
_OWN = frozenset({"", "same-origin", "none"})
"""What a browser says of a request by the UI's own page, or by a person; older ones and other programs say nothing."""


class Guard:
    """A WSGI application in front of another; ``hosts`` are the names, without ports, by which it may be called."""

    def __init__(self, app: Callable[..., Any], hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    def __repr__(self) -> str:
        return f"<Guard of {', '.join(sorted(self._hosts))}>"

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request, or have it answered."""
        why = refusal(environ, self._hosts)
        if why:
            return _refuse(start_response, why)

        def begin(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            kept = [(name, value) for name, value in headers if not name.lower().startswith("access-control-")]
            return start_response(status, _unframed(kept), exc_info)

        answer: Iterable[bytes] = self._app(environ, begin)
        return answer


def refusal(environ: Mapping[str, Any], hosts: frozenset[str]) -> str:
    """Say why a request is refused; nothing if it is not."""
    host = _HOST.fullmatch(environ.get("HTTP_HOST", "").lower())
    if host is None or host["name"].rstrip(".") not in hosts:
        return "This web UI is not called by this name. Call it by localhost or 127.0.0.1, or name the host with --web-allow-host."
    method = environ.get("REQUEST_METHOD", "").upper()
    acts = environ.get("PATH_INFO", "").rstrip("/").endswith(_ACTING)
    if method in _READING and not acts:
        return ""
    site = environ.get("HTTP_SEC_FETCH_SITE", "").lower()
    if site not in _OWN or not _same(environ.get("HTTP_ORIGIN"), host):
        return STRANGER
    if method in _READING and not site and not _shown(environ, host):
        return STRANGER
    return ""


def _shown(environ: Mapping[str, Any], host: re.Match[str]) -> bool:
    """Tell whether a GET that changes something may come from the UI's own page.

    A browser says nothing of its origin, and where the name is not this machine's nothing of its site either: then there must be a referrer.
    """
    said = environ.get("HTTP_ORIGIN") or environ.get("HTTP_REFERER")
    return host["name"] in LOOPBACK if said is None else _same(said, host)


def hosts_of(bound: str, allowed: Iterable[str], display: str = "") -> frozenset[str]:
    """Give the names of a web UI that is bound to a host: this machine's own, that host, and others that are allowed."""
    own = ("0.0.0.0", "[::]") if bound in _ANY else (bound,)  # noqa: S104  # what Locust prints if it is bound to all
    names = (_bare(each.strip().lower()) for each in (*LOOPBACK, *own, *allowed, display))
    return frozenset(name for name in names if name)


def why_not(bound: str, *, login: bool, anywhere: bool) -> str:
    """Say why nobody may toggle the policy in a web UI that is bound to a host; nothing if it may be done."""
    loopback = bound.lower() in {"localhost", "::1", "[::1]"} or re.fullmatch(r"127(\.[0-9]{1,3}){3}", bound) is not None
    return "" if loopback or login or anywhere else FAR


def _same(origin: str | None, host: re.Match[str]) -> bool:
    """Tell whether an Origin, if there is one, has the Host's name and port; the scheme is a proxy's business."""
    if origin is None:
        return True
    try:
        found = urlsplit(origin.lower())
    except ValueError:
        return False
    asked = _HOST.fullmatch(found.netloc)
    default = _PORTS.get(found.scheme)
    if asked is None or default is None:  # "null" among others
        return False
    return (asked["name"], asked["port"] or default) == (host["name"], host["port"] or default)


def _bare(name: str) -> str:
    """Take the scheme and the port off a name, and put an IPv6 address into brackets, as in the header."""
    name = name.rpartition("//")[2].partition("/")[0]
    if name.count(":") > 1 and not name.startswith("["):
        return f"[{name}]"
    return re.sub(r":[0-9]*$", "", name).rstrip(".")


def _unframed(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Forbid to frame an answer, in the old way and in the new one, where it says nothing of that itself."""
    said = {name.lower() for name, _ in headers}
    return [*headers, *((name, value) for name, value in _UNFRAMED if name.lower() not in said)]


def _refuse(start_response: Callable[..., Any], why: str) -> list[bytes]:
    body = f"{why}\n".encode()
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    start_response("403 Forbidden", _unframed(headers))
    return [body]
