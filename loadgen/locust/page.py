"""What does Locust's web UI have beside Locust's own? The mesh-policy page with what its script asks, and the figures for Prometheus.

The law: nothing changes by GET, and what changes something is asked for in JSON, with the token of the page that this start served, by whom has
seen the present state. Options are read once, at the start: Locust's start page can rewrite them later.
"""

from __future__ import annotations

import functools
import hmac
import json
import logging
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request
from locust.runners import MasterRunner

from loadgen.document import MAX_CHARACTERS
from loadgen.errors import ExitCode, LoadgenError
from loadgen.families import CONTENT_TYPE, PATH
from loadgen.locust import tab, view
from loadgen.locust.link import AskError
from loadgen.locust.origin import Guard, hosts_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from locust.env import Environment
    from locust.web import WebUI

    from loadgen.locust.control import Control

MAX_BODY_BYTES = 6 * MAX_CHARACTERS + (64 << 10)
r"""JSON may write a character as ``\u1234``."""
MAX_SECOND = 1 << 31
MAX_TURN = 100
"""Characters of what names a turn."""
ROOT = f"/{view.NAME}"
log = logging.getLogger("loadgen")


def install(environment: Environment, web_ui: WebUI, control: Control) -> None:
    """Put the page into the web UI, and the guard in front of all of it."""
    options, app = environment.parsed_options, web_ui.app
    assert options is not None, "locust -f has parsed its options"
    assert app is not None, "it is made with the web UI"
    if control.forbidden:
        log.warning("the policy cannot be toggled on the page: %s", control.forbidden)
    app.register_blueprint(Page(environment, web_ui, control).blueprint(options.web_base_path or None))
    app.after_request(_link)
    app.after_request(functools.partial(_extend, control))
    app.wsgi_app = Guard(app.wsgi_app, hosts_of(web_ui.host, options.web_allow_host, options.web_host_display_name or ""))  # type: ignore[method-assign]
    files = [*(web_ui.template_args.get("extended_csv_files") or ()), {"href": f".{ROOT}", "title": tab.TITLE}]
    web_ui.template_args["extended_csv_files"] = files  # its list of downloads is the only place where Locust's UI shows a link
    tab.add(web_ui.template_args)


def _link(response: Response) -> Response:
    is_page = response.status_code == HTTPStatus.OK and response.mimetype == "text/html" and not response.direct_passthrough
    if request.endpoint == "locust.index" and is_page:
        response.set_data(view.linked(response.get_data(as_text=True)))
    return response


def _extend(control: Control, response: Response) -> Response:
    if request.endpoint != "locust.request_stats" or response.status_code != HTTPStatus.OK or not response.is_json:
        return response
    stats: dict[str, Any] = response.get_json()
    return _json(tab.extended(stats, control))  # another response: Locust keeps its own, and gives it again


class Page:
    """Answers the page."""

    def __init__(self, environment: Environment, web_ui: WebUI, control: Control) -> None:
        self._environment = environment
        self._web_ui = web_ui
        self._control = control
        self._token = secrets.token_urlsafe(32)

    def blueprint(self, base_path: str | None) -> Blueprint:
        """Give the routes, all of them behind Locust's login if it has one."""
        blueprint = Blueprint("loadgen", __name__, url_prefix=base_path)
        for path, answer, method in (
            (ROOT, self._page, "GET"),
            (f"{ROOT}/static/<name>", self._file, "GET"),
            (f"{ROOT}/state", self._state, "GET"),
            (f"{ROOT}/report", self._report, "GET"),
            (PATH, self._metrics, "GET"),
            (f"{ROOT}/check", self._check, "POST"),
            (f"{ROOT}/apply", self._apply, "POST"),
            (f"{ROOT}/remove", self._remove, "POST"),
        ):
            guarded = self._web_ui.auth_required_if_enabled(answer)
            blueprint.add_url_rule(path, answer.__name__.strip("_"), guarded, methods=[method], provide_automatic_options=False)
        blueprint.after_request(_sealed)
        return blueprint

    # What is read.

    def _page(self) -> Response:
        rule = self._control.mesh.get("mesh", {}).get("rule", "")
        return Response(view.page(rule, self._token), mimetype="text/html")

    def _file(self, name: str) -> Response:
        found = view.file(name)
        if found is None:
            return _plain("there is no such file", 404)
        return Response(found[0], content_type=found[1], headers={"Cache-Control": "no-cache"})

    def _state(self) -> Response:
        since = request.args.get("since", "0")
        second = int(since) if since.isascii() and since.isdigit() and int(since[:12]) < MAX_SECOND else 0
        runner, link = self._environment.runner, self._control.link
        workers = len(self._control.nodes.names()) if isinstance(runner, MasterRunner) else None
        about = {
            "locust": {"state": runner.state if runner else "", "users": runner.user_count if runner else 0, "workers": workers},
            "refused": self._control.refused,
            "forbidden": self._control.forbidden,
        }
        if link is None:
            return _json({**about, "missing": "desk" if self._control.mesh else "mesh", "why": self._control.unmeshed})
        try:
            return _json({**about, "missing": "", **self._control.ask("state", since=second, turn=request.args.get("turn", "")[:MAX_TURN])})
        except LoadgenError as error:
            return _json({**about, "missing": "desk", "why": error.in_a_line})

    def _report(self) -> Response:
        try:
            text = self._control.ask("report")
        except LoadgenError as error:
            return _plain(error.in_a_line, 404)
        return Response(text, mimetype="text/html", headers={"Content-Security-Policy": "frame-ancestors 'none'"})

    def _metrics(self) -> Response:
        try:
            return Response(self._control.ask("metrics"), content_type=CONTENT_TYPE)
        except LoadgenError as error:
            return _plain(error.in_a_line, 503)

    # What changes something, or could.

    def _check(self) -> Response:
        return self._obey(lambda said: {"findings": self._findings(_text(said, "rule"))})

    def _apply(self) -> Response:
        return self._toggle(lambda said: self._control.apply(_text(said, "rule"), _text(said, "expected")))

    def _remove(self) -> Response:
        return self._toggle(lambda said: self._control.remove(_text(said, "expected")))

    def _findings(self, rule: str) -> list[dict[str, Any]]:
        """Give what is to be said of a rule; that it has mistakes is an answer here."""
        try:
            found: list[dict[str, Any]] = self._control.ask("check", rule=rule)["findings"]
        except AskError as error:
            if error.problems:
                return error.problems
            raise
        return found

    def _toggle(self, job: Callable[[dict[str, Any]], Any]) -> Response:
        if self._control.forbidden:
            return _failed(403, self._control.forbidden)
        return self._obey(job)

    def _obey(self, job: Callable[[dict[str, Any]], Any]) -> Response:
        try:
            said = self._asked()
            if isinstance(said, Response):
                return said
            return _json(job(said) or {})
        except _MalformedError as error:
            return _failed(error.status, error.message)
        except AskError as error:
            status = 422 if error.problems else 409 if error.exit_code is ExitCode.REFUSED else 502
            return _failed(status, error.in_a_line, error.problems)
        except LoadgenError as error:
            return _failed(503, error.in_a_line)

    def _asked(self) -> dict[str, Any] | Response:
        """Read what is asked, if it comes from the page that this start served."""
        token = request.headers.get(view.TOKEN_HEADER, "")
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            if not token:
                return _failed(
                    403, "this is for the page of Locust's web UI only; a locustfile can call environment.loadgen.apply(text) and remove()"
                )
            return _failed(403, "this page is of an earlier start of Locust; load it again")
        if request.mimetype != "application/json":
            return _failed(415, "what is asked must be application/json")
        if request.content_length is None:
            return _failed(411, "what is asked must say how long it is")
        if request.content_length > MAX_BODY_BYTES:
            return _failed(413, f"the rule has more than {MAX_CHARACTERS:,} characters")
        said = request.get_json(silent=True)
        return said if isinstance(said, dict) else _failed(400, "what is asked must be a JSON object")


class _MalformedError(LoadgenError):
    """What is asked is not what can be asked."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str):
        raise _MalformedError(400, f"the field {name} is missing, or is no text")
    if len(value) > MAX_CHARACTERS:
        raise _MalformedError(413, f"the rule has more than {MAX_CHARACTERS:,} characters")
    return value


def _failed(status: int, message: str, problems: list[dict[str, Any]] | None = None) -> Response:
    return _json({"message": message, "problems": problems or []}, status)


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value, separators=(",", ":")), status, mimetype="application/json")


def _plain(text: str, status: int) -> Response:
    return Response(f"{text}\n", status, content_type="text/plain; charset=utf-8")


def _sealed(response: Response) -> Response:
    """Tell the browser what it may do with an answer, unless that was said."""
    for name, value in view.HEADERS.items():
        response.headers.setdefault(name, value)
    return response
