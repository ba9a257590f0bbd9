"""Can a person toggle the policy on the page in Locust's web UI and see what comes of it, and can nobody else?"""

from __future__ import annotations

import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.browser.hand import click, enabled, fill, press, text, waits
from tests.locust.headless import READY_S, SCENARIO, Up, up
from tests.locust.webui import USERS_COUNT, WebUi, mesh_of, web_ui
from tests.story.command import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.browser.chromium import Browser

pytestmark = pytest.mark.envoy
RULE = (SCENARIO.parent / "policies" / "user.yaml").read_text(encoding="utf-8")


def looked(browser: Browser, folder: Path, name: str) -> None:
    (folder / f"{name}.png").write_bytes(browser.look())


@pytest.mark.timeout(240)
def test_a_person_goes_through_the_tutorial(mesh: Up, ui: WebUi, browser: Browser, tmp_path: Path) -> None:
    browser.visit(f"{ui.address}/")
    click(browser, "#loadgen-mesh-policy")
    waits(browser, "verdict-title", "No test is running")
    waits(browser, "in-force", "No rule at any of the 10 sidecars")
    assert not enabled(browser, "apply")
    assert not enabled(browser, "remove")
    assert "start users first" in text(browser, "why")
    assert browser.run("return document.getElementById('rule').value") == RULE

    click(browser, "#start a")
    fill(browser, 'input[name="userCount"]', str(USERS_COUNT))
    fill(browser, 'input[name="spawnRate"]', str(USERS_COUNT))
    click(browser, 'button[type="submit"]')
    until(lambda: ui.state()["running"], "the test runs")
    browser.visit(ui.page)
    waits(browser, "now-ok", "100 %")
    waits(browser, "users", str(USERS_COUNT))
    assert "no rule is in force" in text(browser, "why")
    looked(browser, tmp_path, "baseline")

    click(browser, "#apply")
    waits(browser, "in-force", "Rule base/user at all 10 sidecars")
    waits(browser, "in-force", "http1MaxPendingRequests 1, http2MaxRequests 1, maxRequestsPerConnection 1. Converged")
    waits(browser, "verdict-title", "Enforced, until now")
    until(lambda: float(text(browser, "overflow-now").removesuffix(" %")) > 0, "there is overflow")
    assert not enabled(browser, "apply")
    assert "just this text is in force" in text(browser, "why")
    assert mesh.rules() == {"base/user"}
    looked(browser, tmp_path, "limited")

    click(browser, "#remove")
    waits(browser, "in-force", "No rule at any of the 10 sidecars. Converged")
    waits(browser, "now-ok", "100 %")
    waits(browser, "sentence", "the rule is gone again and every request succeeds", why="reasons")
    assert mesh.rules() == {None}
    rows = browser.run(
        "return [...document.querySelectorAll('#phases tbody tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
    )
    assert [row[:2] for row in rows] == [["baseline", "absent"], ["limited", "applied"], ["recovered", "removed"]]
    assert rows[1][10] == rows[1][11] == rows[1][7]
    assert rows[1][12] == "0"
    clients = browser.run("return [...document.querySelectorAll('#clients tbody tr')].map((row) => row.lastElementChild.innerText)")
    assert clients == ["0"] * 10
    looked(browser, tmp_path, "recovered")

    ui.stop_users()
    waits(browser, "verdict-title", "Enforced, in the last test")
    waits(browser, "reasons", "all 10 sidecars show that the policy is gone")
    report = browser.run("return document.querySelector('#report a').href")
    assert "connection-pool" in httpx.get(report, trust_env=False).text
    assert browser.said() == []


@pytest.mark.timeout(240)
def test_two_pages_do_not_toggle_blindly_and_a_toggle_ends_in_metrics(ui: WebUi) -> None:
    ui.start_users()
    until(lambda: ui.state()["phase"] == "baseline", "the first phase counts")
    stale = ui.state()["turn"]
    assert ui.apply(RULE).status_code == 200
    late = ui.post("remove", {"expected": stale})
    assert late.status_code == 409
    assert "toggled meanwhile" in late.json()["message"]
    state = ui.state()
    assert state["applied"]
    assert [toggle["policy"] for toggle in state["timeline"]["toggles"]] == ["applied"]
    assert all(client["confirmed"] for client in state["clients"])
    metrics = ui.get("/metrics")
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "loadgen_requests_total{" in metrics.text
    assert ui.post("remove", {"expected": state["turn"]}).status_code == 200
    assert ui.post("remove", {"expected": ui.state()["turn"]}).json()["message"] == "no rule is in force that could be removed"


def test_a_mistake_is_shown_beside_the_text_and_leads_to_its_place(ui: WebUi, browser: Browser, tmp_path: Path) -> None:
    hostile = '<img src=x onerror="document.title=1">'
    browser.visit(ui.page)
    fill(browser, "#rule", RULE.replace("http2MaxRequests: 1", "http2MaxRequests: many").replace("  name: user", f"  name: '{hostile}'"))
    waits(browser, "checked", "2 mistakes")
    said = text(browser, "problems")
    assert "line 4, column 9" in said
    assert "line 12, column 27" in said
    assert hostile.split(" ", maxsplit=1)[0] in said
    assert browser.run("return document.querySelectorAll('#problems img').length") == 0
    click(browser, "#problems li:last-child button")
    selected = "const rule = document.activeElement; return [rule.id, rule.value.slice(rule.selectionStart, rule.selectionEnd)]"
    assert browser.run(selected) == ["rule", "many"]
    assert browser.run("return [...document.querySelectorAll('#gutter b')].map((each) => each.textContent)") == ["▸ 4", "▸ 12"]
    looked(browser, tmp_path, "mistakes")

    ui.start_users()
    waits(browser, "why", "the rule has 2 mistakes")
    assert not enabled(browser, "apply")
    assert ui.post("apply", {"rule": "kind: [", "expected": ui.state()["turn"]}).status_code == 422
    click(browser, "#reset")
    waits(browser, "checked", "No mistake")
    until(lambda: enabled(browser, "apply"), "the rule can be applied")
    assert browser.run("return document.title") != "1"


def test_a_text_of_nothing_but_mistakes_is_answered_with_some_of_them(ui: WebUi) -> None:
    found = ui.post("check", {"rule": "a: 1\n" * 100_000}).json()["findings"]
    assert len(found) == 101
    assert found[-1]["message"] == "there are 99,900 further mistakes"


def test_the_tab_in_locusts_page_shows_each_client(ui: WebUi, browser: Browser, tmp_path: Path) -> None:
    ui.start_users()
    until(lambda: ui.state()["phase"] == "baseline", "the first phase counts")
    assert ui.apply(RULE).status_code == 200
    browser.visit(f"{ui.address}/?tab=meshPolicy")
    until(lambda: browser.run("return document.body.innerText").count("http1MaxPendingRequests 1") == 10, "ten clients are shown")
    looked(browser, tmp_path, "tab")
    stats = ui.get("/stats/requests").json()
    assert [each["key"] for each in stats["extended_stats"]] == ["meshPolicy"]
    assert stats["stats"]


def test_what_is_no_page_of_this_start_is_refused(ui: WebUi) -> None:
    body = {"rule": RULE, "expected": ui.state()["turn"]}
    assert ui.post("apply", body, token="wrong").status_code == 403
    assert ui.post("apply", body, Host="evil.example").status_code == 403
    assert ui.post("apply", body, Origin="http://evil.example").status_code == 403
    assert ui.post("apply", body, **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert ui.post("apply", ["no", "object"]).status_code == 400
    assert ui.post("apply", {"rule": RULE}).status_code == 400
    assert ui.post("apply", {**body, "rule": "#" * ((1 << 20) + 1)}).status_code == 413
    assert ui.post("apply", {**body, "rule": "#" * (8 << 20)}).status_code == 413
    token = {"X-Loadgen-Token": ui.token()}
    assert ui.wire.post(f"{ui.page}/apply", data={"rule": RULE}, headers=token).status_code == 415
    assert ui.wire.post(f"{ui.page}/apply", content=iter([b"{}"]), headers={**token, "Content-Type": "application/json"}).status_code == 411
    assert ui.post("apply", body).json()["message"] == "no test is running; start users first: the policy is toggled under load"


def test_nothing_changes_by_get_and_no_name_but_its_own_is_answered(ui: WebUi) -> None:
    for what in ("apply", "remove", "check"):
        assert ui.get(f"/mesh-policy/{what}").status_code in {404, 405}
    assert ui.get("/mesh-policy/static/..%2fpage.py").status_code == 404
    for path in ("/", "/mesh-policy", "/mesh-policy/state", "/stats/requests", "/metrics"):
        assert ui.get(path, Host="evil.example:8089").status_code == 403
        headers = ui.get(path, Origin="http://evil.example").headers
        assert not [name for name in headers if name.startswith("access-control")]
    assert "script-src 'self';" in ui.get("/mesh-policy").headers["content-security-policy"]


class Elsewhere(BaseHTTPRequestHandler):
    """A page on another origin."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!DOCTYPE html><title>elsewhere</title>")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    yield from serving(Elsewhere)


def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


STEAL = """
const [address, token, rule, turn] = arguments;
const tried = [
  fetch(`${address}/swarm`, { method: "POST", body: new URLSearchParams({ user_count: "1", spawn_rate: "1" }) }),
  fetch(`${address}/`),
  fetch(`${address}/mesh-policy`),
  fetch(`${address}/mesh-policy/apply`, { method: "POST", headers: { "Content-Type": "application/json", "X-Loadgen-Token": token },
    body: JSON.stringify({ rule, expected: turn }) }),
];
return Promise.all(tried.map((each) => each.then(() => "read", () => "refused")));
"""


def test_a_page_of_another_origin_can_neither_start_nor_read_nor_toggle(ui: WebUi, browser: Browser, elsewhere: str) -> None:
    browser.visit(elsewhere)
    assert browser.run(STEAL, ui.address, ui.token(), RULE, ui.state()["turn"]) == ["refused"] * 4
    browser.run(
        "const form = document.body.appendChild(document.createElement('form')); form.method = 'POST'; form.action = arguments[0];"
        "form.innerHTML = '<input name=user_count value=1><input name=spawn_rate value=1>'; form.submit()",
        f"{ui.address}/swarm",
    )
    until(lambda: "another origin" in browser.run("return document.body?.innerText ?? ''"), "the form is refused")
    state = ui.state()
    assert state["locust"]["state"] in {"ready", "stopped"}
    assert (state["locust"]["users"], state["running"]) == (0, False)


def test_a_start_that_is_refused_is_said_with_its_reason(ui: WebUi, browser: Browser) -> None:
    ui.start_users("http://0.0.0.0")
    until(lambda: ui.state()["refused"], "it is refused")
    browser.visit(ui.page)
    waits(browser, "notices", "The last test was refused, or broken off: the host http://0.0.0.0 is not the mesh's service")


@pytest.mark.timeout(240)
def test_below_a_base_path_everything_is_there(mesh: Up, browser: Browser, tmp_path: Path) -> None:
    with web_ui(tmp_path, *mesh_of(mesh), base="/locust") as ui:
        assert ui.address.endswith("/locust")
        browser.visit(f"{ui.address}/")
        click(browser, "#loadgen-mesh-policy")
        waits(browser, "service", "user.base.svc.cluster.local")
        assert browser.run("return location.pathname") == "/locust/mesh-policy"
        assert browser.run("return document.querySelector('.home').pathname") == "/locust/"
        assert ui.get("/metrics").status_code == 200
        assert browser.said() == []


@pytest.mark.timeout(240)
def test_a_locust_that_is_killed_takes_its_rule_along_and_the_page_says_that_it_is_gone(mesh: Up, browser: Browser, tmp_path: Path) -> None:
    with web_ui(tmp_path, *mesh_of(mesh)) as ui:
        ui.start_users()
        until(lambda: ui.state()["phase"] == "baseline", "the first phase counts")
        assert ui.apply(RULE).status_code == 200
        assert mesh.rules() == {"base/user"}
        browser.visit(ui.page)
        waits(browser, "in-force", "Rule base/user")
        os.kill(ui.process.pid, signal.SIGKILL)
        until(lambda: mesh.rules() == {None}, "the rule is gone")
        waits(browser, "notices", "Locust does not answer")
        assert not enabled(browser, "apply")


@pytest.mark.timeout(240)
def test_a_mesh_that_ends_is_said_to_be_gone(browser: Browser, tmp_path: Path) -> None:
    with up() as mesh, web_ui(tmp_path, *mesh_of(mesh)) as ui:
        ui.start_users()
        until(lambda: ui.state()["phase"] == "baseline", "the first phase counts")
        os.kill(mesh.pid, signal.SIGINT)
        browser.visit(ui.page)
        waits(browser, "notices", "The mesh is gone: the local mesh is gone")
        assert not enabled(browser, "apply")


LOGIN = """
from flask_login import UserMixin, login_user
from locust import events

import loadgen.locust.plugin
from loadgen.locust.users import SidecarUser


class Somebody(UserMixin):
    id = "somebody"


class Caller(SidecarUser):
    tasks = [lambda self: None]


@events.init.add_listener
def _login(environment, **_):
    environment.web_ui.app.config["SECRET_KEY"] = "for this test only"
    environment.web_ui.login_manager.user_loader(lambda name: Somebody())
    environment.web_ui.app.add_url_rule("/let-me-in", "let_me_in", lambda: str(login_user(Somebody())))
"""


def test_behind_locusts_login_nothing_is_given_away(tmp_path: Path) -> None:
    file = tmp_path / "with_login.py"
    file.write_text(LOGIN, encoding="utf-8")
    with web_ui(tmp_path, "--mesh", "off", "--web-login", host="127.1", file=file) as ui:
        for path in ("/mesh-policy", "/mesh-policy/state", "/mesh-policy/report", "/metrics"):
            answer = ui.get(path)
            assert answer.status_code == 302
            assert "/login" in answer.headers["location"]
        assert ui.post("apply", {"rule": RULE, "expected": "1.0"}, token="any").status_code == 302
        ui.get("/let-me-in")
        assert ui.state()["forbidden"] == ""
        refused = ui.post("apply", {"rule": RULE, "expected": "1.0"})
        assert refused.status_code == 503
        assert "there is no mesh" in refused.json()["message"]


def test_without_a_mesh_the_page_says_why_and_where_others_reach_it_nobody_toggles(browser: Browser, tmp_path: Path) -> None:
    with web_ui(
        tmp_path, "--mesh", "off", "--allow-host", "127.0.0.9", host="127.1"
    ) as ui:  # loopback, though not by a name that is known for it
        browser.visit(ui.page)
        waits(browser, "notices", "There is no mesh: it was switched off with --mesh off")
        waits(browser, "notices", "The policy cannot be toggled here: the web UI can be reached from other machines")
        for what in ("apply", "remove"):
            refused = ui.post(what, {"rule": RULE, "expected": "1.0"})
            assert refused.status_code == 403
            assert "--mesh-control-anywhere" in refused.json()["message"]
        assert "the policy cannot be toggled on the page" in ui.log.read_text(encoding="utf-8")
        assert ui.get("/metrics").status_code == 503
        form = {"user_count": "1", "spawn_rate": "1", "host": "http://0.0.0.0", "allow_host": "0.0.0.0"}
        ui.wire.post(f"{ui.address}/swarm", data=form)
        until(lambda: "0.0.0.0" in ui.state()["refused"], "whom it may load is not up to whoever starts a test")


def test_the_page_follows_locusts_choice_of_light_and_dark_and_fits_a_phone(ui: WebUi, browser: Browser, tmp_path: Path) -> None:
    back = "return getComputedStyle(document.body).backgroundColor"
    browser.visit(ui.page)
    assert browser.run(back) == "rgb(255, 255, 255)"
    click(browser, "#theme")
    assert browser.run(back) == "rgb(18, 18, 18)"
    browser.visit(f"{ui.address}/")
    until(lambda: browser.run(back) == "rgb(18, 18, 18)", "Locust's own page is dark, too")
    browser.visit(ui.page)
    assert browser.run(back) == "rgb(18, 18, 18)"
    browser.width(360)
    browser.visit(ui.page)
    waits(browser, "in-force", "No rule at any")
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    looked(browser, tmp_path, "phone")


@pytest.mark.timeout(READY_S * 5)
def test_only_a_keyboard_is_needed_and_everything_has_a_name(ui: WebUi, browser: Browser) -> None:
    ui.start_users()
    browser.visit(ui.page)
    until(lambda: enabled(browser, "apply"), "the rule can be applied")
    unnamed = browser.run(
        "return [...document.querySelectorAll('button, a, textarea, progress')].filter((each) =>"
        "!(each.textContent.trim() || each.ariaLabel || each.labels?.length)).map((each) => each.outerHTML)"
    )
    assert unnamed == []
    browser.run("document.getElementById('rule').focus()")
    tab = "return document.activeElement.id"
    press(browser, "Tab")
    assert browser.run(tab) == "apply"
    press(browser, "Enter")
    waits(browser, "in-force", "Rule base/user")
