"""Does the guard let only the web UI's own pages change something, under its own names, and does no answer allow another origin anything?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from loadgen.locust.origin import Guard, hosts_of, why_not

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

OWN = "127.0.0.1:8089"
UNFRAMED = {"X-Frame-Options": "DENY", "Content-Security-Policy": "frame-ancestors 'none'"}


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer like Locust behind flask-cors."""
    headers = [
        ("Content-Type", "text/plain"),
        ("Access-Control-Allow-Origin", environ.get("HTTP_ORIGIN", "*")),
        ("access-control-allow-headers", "x-loadgen-token"),
        ("ACCESS-CONTROL-ALLOW-METHODS", "POST"),
        ("Vary", "Origin"),
    ]
    start_response("200 OK", headers)
    return [b"reached"]


def ask(
    method: str = "GET", path: str = "/", *, hosts: frozenset[str] = hosts_of("127.0.0.1", ()), **headers: str
) -> tuple[str, dict[str, str], bytes]:
    got: list[Any] = []
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "HTTP_HOST": OWN,
        **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
    }
    body = b"".join(Guard(app, hosts)(environ, lambda status, fields, exc_info=None: got.extend([status, dict(fields)])))
    return got[0], got[1], body


def passes(*arguments: Any, **headers: Any) -> bool:
    status, _, body = ask(*arguments, **headers)
    assert (status, body == b"reached") in {("200 OK", True), ("403 Forbidden", False)}
    return body == b"reached"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST"])
def test_no_answer_allows_another_origin_anything(method: str) -> None:
    _, headers, _ = ask(method, origin=f"http://{OWN}")
    assert headers == {"Content-Type": "text/plain", "Vary": "Origin", **UNFRAMED}


@pytest.mark.parametrize("host", [OWN, "evil.example"])
def test_no_answer_may_be_framed_be_it_a_refusal(host: str) -> None:
    _, headers, _ = ask(host=host)
    assert headers.items() >= UNFRAMED.items()


def test_what_an_answer_says_of_frames_itself_is_left() -> None:
    own = {"content-security-policy": "default-src 'none'", "x-frame-options": "SAMEORIGIN"}

    def strict(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", list(own.items()))
        return []

    got: list[Any] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_HOST": OWN}
    Guard(strict, hosts_of("127.0.0.1", ()))(environ, lambda status, fields, exc_info=None: got.extend(fields))
    assert dict(got) == own


def test_a_preflight_of_another_origin_does_not_succeed() -> None:
    _, headers, _ = ask("OPTIONS", "/mesh-policy/apply", origin="http://evil.example", access_control_request_method="POST")
    assert not [name for name in headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, True),  # a program, not a page
        ({"origin": f"http://{OWN}"}, True),
        ({"origin": f"http://{OWN}", "sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "none"}, True),
        ({"origin": f"HTTP://{OWN}"}, True),
        ({"origin": f"https://{OWN}"}, True),  # a proxy speaks TLS
        ({"origin": "http://127.0.0.1:8090"}, False),
        ({"origin": "http://127.0.0.1"}, False),
        ({"origin": "http://localhost:8089"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://127.0.0.1:8089.evil.example"}, False),
        ({"origin": "http://evil.example@127.0.0.1:8089"}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"origin": "http://[::1"}, False),
        ({"origin": f"http://{OWN}", "sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_site": "made-up"}, False),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "post", "MADEUP"])
def test_only_its_own_pages_change_something(method: str, headers: dict[str, str], expected: bool) -> None:
    assert passes(method, "/swarm", **headers) is expected


@pytest.mark.parametrize("path", ["/stop", "/swarm", "/stats/reset", "/user", "/locust/stop", "/stop/"])
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, True),  # a browser would say its site to this machine's own name
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"referer": f"http://{OWN}/?tab=stats"}, True),
        ({"referer": "http://evil.example/"}, False),
        ({"host": "load.example"}, False),  # where a browser does not say it
        ({"host": "load.example", "referer": "http://load.example/locust/"}, True),
        ({"host": "load.example", "origin": "http://load.example"}, True),
        ({"host": "load.example", "sec_fetch_site": "same-origin"}, True),
        ({"host": "load.example", "referer": "http://evil.example/http://load.example/"}, False),
    ],
)
def test_a_get_that_changes_something_must_come_from_its_own_page(path: str, headers: dict[str, str], expected: bool) -> None:
    assert (ask("GET", path, hosts=hosts_of("", ["load.example"]), **headers)[2] == b"reached") is expected


@pytest.mark.parametrize("path", ["/", "/stats/requests", "/mesh-policy", "/mesh-policy/static/page.js", "/metrics"])
def test_a_link_from_elsewhere_may_be_followed(path: str) -> None:
    assert passes("GET", path, sec_fetch_site="cross-site")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:8089", True),
        ("127.0.0.1", True),
        ("localhost:8089", True),
        ("LocalHost:1", True),
        ("localhost.:8089", True),
        ("[::1]:8089", True),
        ("[::1]", True),
        ("evil.example", False),
        ("evil.example:8089", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:8089", False),
        ("localhost@evil.example", False),
        ("localhost:8089:8089", False),
        ("localhost:x", False),
        ("localhost, evil.example", False),
        ("localhost\tevil", False),
        ("::1", False),
        ("192.0.2.7:8089", False),
        ("0.0.0.0:8089", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_that_is_not_known_here_is_refused(method: str, host: str, expected: bool) -> None:
    assert passes(method, "/", host=host) is expected


def test_a_request_without_a_name_is_refused_in_a_sentence() -> None:
    status, headers, body = ask(host="evil.example")
    assert status == "403 Forbidden"
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert int(headers["Content-Length"]) == len(body)
    assert b"--web-allow-host" in body


@pytest.mark.parametrize(
    ("bound", "allowed", "display", "further"),
    [
        ("127.0.0.1", (), "", set()),
        ("", (), "", {"0.0.0.0", "[::]"}),
        ("0.0.0.0", (), "", {"0.0.0.0", "[::]"}),
        ("192.0.2.7", (), "", {"192.0.2.7"}),
        ("fd00::7", (), "", {"[fd00::7]"}),
        ("127.0.0.1", ("Load.Example", "other.example:8089", " "), "", {"load.example", "other.example"}),
        ("127.0.0.1", (), "https://shown.example:443/locust", {"shown.example"}),
    ],
)
def test_its_names_are_this_machines_and_those_that_it_was_given(
    bound: str, allowed: tuple[str, ...], display: str, further: set[str]
) -> None:
    assert hosts_of(bound, allowed, display) == {"localhost", "127.0.0.1", "[::1]"} | further


@pytest.mark.parametrize(
    ("bound", "login", "anywhere", "expected"),
    [
        ("127.0.0.1", False, False, True),
        ("127.8.9.10", False, False, True),
        ("localhost", False, False, True),
        ("::1", False, False, True),
        ("", False, False, False),
        ("0.0.0.0", False, False, False),
        ("192.0.2.7", False, False, False),
        ("127.0.0.1.evil.example", False, False, False),
        ("", True, False, True),
        ("", False, True, True),
    ],
)
def test_the_policy_is_toggled_only_where_no_stranger_gets_to(bound: str, login: bool, anywhere: bool, expected: bool) -> None:
    assert (why_not(bound, login=login, anywhere=anywhere) == "") is expected


def test_the_guard_says_what_it_guards() -> None:
    assert repr(Guard(app, ["b", "a"])) == "<Guard of a, b>"
