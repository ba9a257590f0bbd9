"""Does the page stay small and fast for hours, whatever it is told, and is hostile text nothing but text? Its desk is played here."""

from __future__ import annotations

import itertools
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from loadgen.locust import view
from tests.browser.hand import click, fill, text, waits
from tests.story.command import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.browser.chromium import Browser

HOUR_S = 3600
HOSTILE = "</textarea><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"


LATE_S = 5.0
AFTER_S = 0.3


class Played:
    """What the desk says: a test that is ``seconds`` old, with ten clients and a toggle a minute for as long as they are allowed."""

    def __init__(self) -> None:
        self.seconds = 0
        self.rule = "kind: DestinationRule\n"
        self.change: dict[str, Any] = {}
        self.asked: list[int] = []
        self.turns: list[str] = []
        """The turns of which the page had the text when it asked."""
        self.refusal = ""
        self.posted: threading.Event | None = None
        """If it is there: an answer to what was asked before a POST comes after that."""

    def state(self, since: int) -> dict[str, Any]:
        self.asked.append(since)
        seconds = range(since, self.seconds)
        toggles = [
            {"policy": "applied" if number % 2 == 0 else "removed", "at_s": 30.0 * number + 5, "converged_s": 30.0 * number + 5.1}
            for number in range(min(100, self.seconds // 30))
        ]
        counts = {"ok": [900] * len(seconds), "overflow": [100 + each % 7 for each in seconds], "other": [0] * len(seconds)}
        ledger = {"client": 5, "proxy": 5, "difference": 0}
        split = {"ok": self.seconds * 90, "overflow": self.seconds * 10, "other": 0}
        client = {
            "rule": "base/user",
            "limits": {"http2MaxRequests": 1},
            "confirmed": True,
            "converged_ms": 30.0,
            **split,
            "ledger": ledger,
        }
        phase = {"policy": "applied", "rule": "base/user", "began_s": 1.0, "ended_s": 2.0, "converged_ms": 9.0, **split, "ledger": ledger}
        return {
            "locust": {"state": "running", "users": 50},
            "refused": "",
            "forbidden": "",
            "missing": "",
            "mesh": {"service": "http://user.base:7000/"},
            "gone": "",
            "turn": "1-1.1",
            "running": True,
            "toggling": None,
            "phase": "limited",
            "phase_began_s": 5.0,
            "applied": True,
            "clients": [{"name": f"client-{number}", **client} for number in range(1, 11)],
            "phases": [{"name": f"phase-{number}", **phase} for number in range(len(toggles))],
            "timeline": {"from": since, **counts, "toggles": toggles},
            "said": "",
            "verdict": {"state": "enforced", "sentence": "Enforced."},
            "validity": {"state": "VALID", "reasons": []},
            "restore": {"state": "not_needed", "detail": ""},
            **self.change,
        }


def handler(played: Played) -> type[BaseHTTPRequestHandler]:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            name = asked.path.rpartition("/")[2]
            if name == "state":
                about = parse_qs(asked.query)
                played.turns.append(about.get("turn", [""])[0])
                state = json.dumps(played.state(int(about["since"][0]))).encode()
                if played.posted is not None and not played.posted.is_set():
                    played.posted.wait(LATE_S)
                    time.sleep(AFTER_S)
                self.answer(state, "application/json")
            elif (found := view.file(name)) is not None:
                self.answer(*found)
            else:
                self.answer(view.page(played.rule, "token").encode(), "text/html; charset=utf-8")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if played.refusal and not self.path.endswith("/check"):
                played.change = {"turn": "1-1.2"}  # it was begun, and has failed
                self.answer(json.dumps({"message": played.refusal, "problems": []}).encode(), "application/json", 502)
                if played.posted is not None:
                    played.posted.set()
            else:
                self.answer(b'{"findings": []}', "application/json")

        def answer(self, body: bytes, kind: str, status: int = 200) -> None:
            self.send_response(status)
            for header, value in {**view.HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Answers


@pytest.fixture
def played() -> Played:
    return Played()


@pytest.fixture
def address(played: Played) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(played)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/mesh-policy"
        server.shutdown()
        thread.join()


def heap_bytes(browser: Browser) -> float:
    browser.command("HeapProfiler.collectGarbage")
    metrics = {each["name"]: each["value"] for each in browser.command("Performance.getMetrics")["metrics"]}
    return float(metrics["JSHeapUsedSize"])


def drawn(browser: Browser) -> int:
    found: int = browser.run("return document.querySelectorAll('*').length")
    return found


@pytest.mark.timeout(240)
def test_hours_of_ten_clients_cost_no_more_than_minutes(played: Played, address: str, browser: Browser) -> None:
    browser.command("Performance.enable")
    played.seconds = HOUR_S
    browser.visit(address)
    until(lambda: "1,1" in text(browser, "phases") or "limited" in text(browser, "phases"), "an hour is shown")
    elements, heap = drawn(browser), heap_bytes(browser)
    for hours in range(2, 10):
        played.seconds = HOUR_S * hours
        until(lambda: played.asked[-1] == played.seconds, "the next hour was shown: only what comes after it is asked for")
    assert len(set(played.asked)) == 10, "nothing was asked for twice"
    assert drawn(browser) <= elements
    after = heap_bytes(browser)
    print(f"{heap:,.0f} bytes after an hour, {after:,.0f} after nine")
    assert after - heap < 5_000_000
    assert after < 50_000_000
    began = browser.run("return performance.now()")
    assert browser.run("document.dispatchEvent(new Event('visibilitychange')); return performance.now()") - began < 1000


@pytest.mark.parametrize(
    ("change", "most_ms", "least_ms"), [({}, 1500, 900), ({"toggling": {"confirmed": 1, "of": 10, "policy": "applied"}}, 700, 200)]
)
def test_it_asks_once_a_second_and_more_often_while_the_policy_is_toggled(
    played: Played, address: str, browser: Browser, change: dict[str, Any], most_ms: float, least_ms: float
) -> None:
    played.change = change
    browser.visit(address)
    until(lambda: len(played.asked) >= 8, "it has asked")
    times = browser.run(
        "return performance.getEntriesByType('resource').filter(({ name }) => name.includes('/state')).map(({ startTime }) => startTime)"
    )
    pauses = sorted(later - earlier for earlier, later in itertools.pairwise(times[1:]))
    assert pauses[0] > least_ms, times
    assert pauses[len(pauses) // 2] < most_ms, times


def test_what_nobody_says_any_more_does_not_stay_as_if_it_were(played: Played, address: str, browser: Browser) -> None:
    browser.visit(address)
    until(lambda: "Rule" in text(browser, "in-force") or "No rule" in text(browser, "in-force"), "it is shown")
    played.change = {"missing": "desk", "why": "it died"}
    until(lambda: text(browser, "in-force") == "Not known.", "it is not known any more")
    assert text(browser, "verdict-title") == "What is in force is not known: the desk is gone"
    assert "it died" in text(browser, "notices")
    assert not text(browser, "sentence")
    assert not browser.run("return document.querySelectorAll('#clients tbody tr, #phases tbody tr').length")
    played.change = {}
    until(lambda: "Not known" not in text(browser, "in-force"), "it is shown again")


def test_the_editor_shows_the_rule_that_is_in_force_unless_somebody_has_written_in_it(
    played: Played, address: str, browser: Browser
) -> None:
    browser.visit(address)
    editor = "return document.getElementById('rule').value"
    until(lambda: browser.run(editor) == played.rule, "the scenario's rule is there")
    played.change = {"turn": "1-1.2", "text": "kind: Other\n"}
    until(lambda: browser.run(editor) == "kind: Other\n", "what somebody has applied is shown")
    fill(browser, "#rule", "kind: Mine")
    played.change = {"turn": "1-1.3", "text": "kind: Third\n"}
    until(lambda: len(played.asked) > 3 and played.turns[-1] == "1-1.3", "the page has learnt it")
    assert browser.run(editor) == "kind: Mine"


@pytest.mark.parametrize("late", [False, True])
def test_a_toggle_that_failed_is_said_until_somebody_decides_anew(played: Played, address: str, browser: Browser, late: bool) -> None:
    browser.visit(address)
    until(lambda: "Rule" in text(browser, "in-force"), "it is shown")
    played.posted = threading.Event() if late else None
    played.refusal = "the sidecar rejected the configuration"
    click(browser, "#remove")
    waits(browser, "notices", "The rule was not removed: the sidecar rejected the configuration")
    asked = len(played.asked)
    until(lambda: len(played.asked) > asked + 2, "it has asked again")
    assert "The rule was not removed" in text(browser, "notices"), "the turn that moved is that of the toggle itself"
    played.change = {"turn": "1-1.3"}
    until(lambda: "The rule was not removed" not in text(browser, "notices"), "it is gone")


def test_hostile_text_is_only_text(played: Played, address: str, browser: Browser) -> None:
    played.rule = f"\n{HOSTILE}"
    state = played.state(0)
    played.change = {
        "refused": HOSTILE,
        "gone": HOSTILE,
        "said": HOSTILE,
        "mesh": {"service": HOSTILE},
        "verdict": {"state": HOSTILE, "sentence": HOSTILE},
        "validity": {"state": "INVALID", "reasons": [HOSTILE]},
        "clients": [{**client, "name": HOSTILE, "rule": HOSTILE, "limits": {HOSTILE: 1}} for client in state["clients"]],
    }
    browser.visit(address)
    until(lambda: HOSTILE in text(browser, "notices"), "it is shown")
    assert browser.run("return document.getElementById('rule').value") == played.rule
    assert HOSTILE in text(browser, "clients")
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.run("return document.title") == "Locust: mesh policy"


@pytest.mark.parametrize(
    ("change", "name", "part"),
    [
        ({"missing": "desk", "why": "its process ended"}, "notices", "does not answer: its process ended"),
        ({"toggling": {"confirmed": 3, "of": 10, "policy": "applied"}}, "confirming", "3 of 10 sidecars have confirmed"),
        ({"toggling": {"confirmed": 3, "of": 10, "policy": "applied"}}, "why", "Wait until every sidecar has confirmed"),
        ({"running": False, "restore": {"state": "failed", "detail": "x"}}, "verdict-title", "NOT restored"),
        ({"validity": {"state": "INVALID", "reasons": ["a worker is lost"]}}, "reasons", "a worker is lost"),
        ({"forbidden": "others reach it"}, "notices", "cannot be toggled here: others reach it"),
        ({"running": False, "verdict": None, "validity": None, "restore": None}, "start", "Start users first"),
    ],
)
def test_what_the_desk_says_is_shown(played: Played, address: str, browser: Browser, change: dict[str, Any], name: str, part: str) -> None:
    played.change = change
    browser.visit(address)
    until(lambda: part in text(browser, name), f"#{name} says '{part}'")


def test_each_client_is_shown_as_it_confirms(played: Played, address: str, browser: Browser) -> None:
    clients = played.state(0)["clients"]
    waiting = [{**client, "confirmed": number < 3, "converged_ms": None} for number, client in enumerate(clients)]
    played.change = {"toggling": {"confirmed": 3, "of": 10, "policy": "applied"}, "clients": waiting}
    browser.visit(address)
    until(lambda: text(browser, "clients").count("not yet") == 7, "seven have not confirmed")


def test_the_link_in_locusts_page_does_without_anything_that_is_not_there() -> None:
    assert view.linked("<body>x</body>\n") == f"<body>x{view.LINK}</body>\n"
    assert view.linked("another page") == "another page"


def test_no_file_but_the_pages_own_is_given() -> None:
    assert {name for name in view.FILES if view.file(name) is None} == set()
    assert view.file("../page.py") is None
    assert view.file("page.html") is None
