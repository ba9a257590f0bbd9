"""What does the process do that owns the test (the master, or the only one)? It has the desk, and carries questions to whoever has the users."""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any

import gevent
from locust.runners import STATE_MISSING, MasterRunner

from loadgen.errors import ExitCode, LoadgenError, MeshError, RefusedError
from loadgen.locust.link import ASK_S, CLOSE_S, Link
from loadgen.locust.node import ANSWER, ASK, ASSIGN, NEWS, SEEN
from loadgen.locust.options import check, rule_of
from loadgen.locust.origin import why_not
from loadgen.locust.wire import check as check_users
from loadgen.target import check_allowed, parse_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from locust.env import Environment

    from loadgen.target import Target

HELLO_S = 20.0
TOGGLE_S = 90.0
"""Sidecars may take a minute to follow in a cluster; then the last requests from before end."""
LOOK_S = 1.0
LOCAL = "local"
"""How Locust calls the only process when there are no workers."""
log = logging.getLogger("loadgen")


class Control:
    """The test's side of a Locust that has the web UI, if there is one. Without a mesh it only sees to it that the target is allowed."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._workers: dict[str, str] = {}
        """By client: the Locust process that has its users."""
        self._watcher: gevent.Greenlet | None = None
        self._running = False
        self.refused = ""
        """Why the last test was not begun."""
        self.unmeshed = "it was switched off with --mesh off"
        """Why there is no mesh, if there is none."""
        options = environment.parsed_options
        assert options is not None, "locust -f has parsed its options"
        self._allowed = tuple(options.allow_host)  # now: the start page can rewrite every option
        try:
            self.rule = rule_of(options)
        except LoadgenError as error:
            log.error("%s", error.message)
            raise SystemExit(error.exit_code) from error
        ui, login, anywhere = environment.web_ui, options.web_login, options.mesh_control_anywhere
        self.forbidden = why_not(ui.host, login=login, anywhere=anywhere) if ui is not None else ""
        """Why nobody may toggle, if so."""
        self.link: Link | None = None
        self.mesh: dict[str, Any] = {}
        if options.mesh != "off":
            self._connect(options.mesh, options.mesh_pid)
        assert environment.runner is not None, "the event init comes after the runner"
        environment.runner.register_message(ANSWER, self._answered)
        environment.runner.register_message(SEEN, self._seen)
        environment.events.test_start.add_listener(self._begin)
        environment.events.test_stopping.add_listener(self._end)
        environment.events.quitting.add_listener(self._quit)

    def ask(self, do: str, *, timeout_s: float = ASK_S, **arguments: object) -> Any:
        """Have the desk do something.

        Raises LoadgenError with what the desk says, or that there is none.
        """
        if self.link is None:
            raise RefusedError("there is no mesh", hint="start one (loadgen up scenarios/connection-pool.yaml), and Locust after it")
        return self.link.ask(do, timeout_s=timeout_s, **arguments)

    def apply(self, rule: str, expected: str | None = None) -> list[dict[str, Any]]:
        """Put the rules of a text in force, and return when every sidecar has confirmed; gives what is noteworthy of them.

        ``expected`` is the state's ``turn`` at which this was decided, if that matters. Raises LoadgenError if that cannot be; AskError has
        the mistakes in the text.
        """
        findings: list[dict[str, Any]] = self.ask("apply", timeout_s=TOGGLE_S, rule=rule, expected=expected)["findings"]
        return findings

    def remove(self, expected: str | None = None) -> None:
        """Remove the policy, and return when every sidecar has confirmed; ``expected`` as for ``apply``.

        Raises LoadgenError if that cannot be.
        """
        self.ask("remove", timeout_s=TOGGLE_S, expected=expected)

    def _connect(self, kind: str, pid: int | None) -> None:
        link = Link({"kind": kind, "pid": pid}, self._heard, self._mend)
        try:
            self.mesh = link.ask("hello", timeout_s=HELLO_S)
        except LoadgenError as error:
            link.close()
            if kind != "auto":
                log.error("%s", error.message)
                raise SystemExit(ExitCode.REFUSED) from error
            self.unmeshed = error.message
            log.warning("no mesh: %s", error.message)
            return
        self.link = link
        about = self.mesh["mesh"]
        log.info("mesh %s with %d clients; its service is %s", about["kind"], len(self.mesh["clients"]), about["service"])

    def _mend(self) -> None:
        """Have a new desk undo what one that died may have left in force. Its test is lost: nobody knows what was counted."""
        options = self._environment.parsed_options
        assert options is not None, "see above"
        lost, self._running = self._running, False
        log.error("the desk died; a new one takes out what it may have left in force")
        self.link = None
        self._connect("auto", options.mesh_pid)
        try:
            self.ask("restore", timeout_s=TOGGLE_S)
        except LoadgenError as error:
            log.error("%s", error.message)
            self._environment.process_exit_code = ExitCode.RESTORE_FAILED
            return
        log.warning("no rule is in force")
        if lost:
            self._refuse(MeshError("the desk died in the test; what it had counted is lost", hint="start the test again"))

    # The test.

    def _begin(self, environment: Environment, **_: object) -> None:
        self.refused = ""
        try:
            assert environment.parsed_options is not None, "see above"
            check(environment.parsed_options)
            check_users(environment.user_classes, environment.host or "")
            if self.link is None:
                self._begin_without(environment)
            else:
                self._begin_with(environment)
        except LoadgenError as error:
            self._refuse(error)

    def _begin_with(self, environment: Environment) -> None:
        service = parse_target(self.mesh["mesh"]["service"])
        host = environment.host
        if host and parse_target(host).authority != service.authority:
            message = f"the host {host[:100]} is not the mesh's service"
            raise RefusedError(message, hint=f"leave the host empty, or write http://{service.authority}")
        clients = self.mesh["clients"]
        nodes = self._nodes()
        if len(nodes) > len(clients):
            message = f"there are {len(nodes)} workers, but {len(clients)} clients: each worker needs a client of its own"
            raise RefusedError(message, hint="start fewer workers, or a mesh with more clients: loadgen up --clients N")
        self._workers = {client["name"]: nodes[number % len(nodes)] for number, client in enumerate(clients)}
        for node in nodes:
            own = [client for client in clients if self._workers[client["name"]] == node]
            self._assign(node, own, service, self.mesh["mesh"]["expect"])
        self.ask("begin")
        self._running = True
        if isinstance(environment.runner, MasterRunner):
            self._watcher = gevent.spawn(self._watch, environment.runner)

    def _begin_without(self, environment: Environment) -> None:
        """Send the users to the host itself, in a cluster through the pod's own sidecar, if that may be loaded."""
        host = environment.host or next((user.host for user in environment.user_classes if user.host), None) or ""
        target = parse_target(host)
        try:
            addresses = sorted({str(found[4][0]) for found in socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)})
        except OSError as error:
            raise RefusedError(f"the host {target.host} has no address: {error}", hint="give another with --host") from error
        check_allowed(target, addresses, self._allowed, in_cluster=False)
        for node in self._nodes():
            self._assign(node, [{"name": node, "host": target.host, "port": target.port}], target, {"status": 200, "body": ""})

    def _assign(self, node: str, clients: Sequence[dict[str, Any]], target: Target, expect: dict[str, Any]) -> None:
        """Tell a Locust process which clients it has, and what their users send and expect."""
        options = self._environment.parsed_options
        body = (options.expect_body if options is not None else "") or expect["body"]
        users = [user.__name__ for user in self._environment.user_classes]  # a worker has those, too, that were not picked
        about = {"users": users, "scheme": target.scheme, "authority": target.authority, "status": expect["status"], "body": body}
        self._send(ASSIGN, {"clients": list(clients), **about}, node)

    def _end(self, environment: Environment, **_: object) -> None:
        if self.link is None or not self._running:
            return
        self._running = False  # from now on the desk is asked to end
        if self._watcher is not None:
            self._watcher.kill()
        try:
            ended = self.link.ask("end", timeout_s=CLOSE_S)
        except LoadgenError as error:
            log.error("%s", error.message)
            environment.process_exit_code = ExitCode.RESTORE_FAILED
            return
        self._tell(ended)
        if (ended["restore"] or {}).get("state") == "failed":
            environment.process_exit_code = ExitCode.RESTORE_FAILED

    def _tell(self, ended: dict[str, Any]) -> None:
        if ended["verdict"] is not None:
            log.info("%s", ended["verdict"]["sentence"])
            log.info("%s", "; ".join([ended["validity"]["state"], *ended["validity"]["reasons"]]))

    def _quit(self, environment: Environment, **_: object) -> None:
        self._end(environment)
        if self.link is not None:
            self.link.close()

    def _refuse(self, error: LoadgenError) -> None:
        """End a test that may not be."""
        self.refused = f"{error.message}; {error.hint}" if error.hint else error.message
        log.error("%s", self.refused)
        runner, options = self._environment.runner, self._environment.parsed_options
        assert runner is not None, "there is one while a test begins"
        self._environment.process_exit_code = error.exit_code
        gevent.spawn(runner.quit if options is not None and options.headless else runner.stop)

    # Between the desk and the users.

    def _nodes(self) -> list[str]:
        runner = self._environment.runner
        if not isinstance(runner, MasterRunner):
            return [LOCAL]
        return sorted((node.id for node in runner.clients.all if node.state != STATE_MISSING), key=runner.get_worker_index)

    def _heard(self, message: dict[str, Any]) -> None:
        if "ask" in message:
            said = {"number": message["ask"], "client": message["client"], "verb": message["verb"], "args": message["args"]}
            self._send(ASK, said, self._workers.get(message["client"], LOCAL))
        elif message.get("event") == "news":
            for node in self._nodes():
                self._send(NEWS, {"ruled": message["ruled"]}, node)
        elif message.get("event") == "ended" and self._running:  # nobody asked for it
            self._running = False
            self._refuse(MeshError(f"the measurement ended: {message['said']}"))

    def _send(self, kind: str, data: dict[str, Any], node: str) -> None:
        runner = self._environment.runner
        if runner is not None:
            with contextlib.suppress(Exception):  # a worker that is gone is missed by ``_watch``
                runner.send_message(kind, data, client_id=node)

    def _answered(self, environment: Environment, msg: Any, **_: object) -> None:
        del environment
        if self.link is not None:
            self.link.send({"answer": msg.data["number"], "value": msg.data["value"]})

    def _seen(self, environment: Environment, msg: Any, **_: object) -> None:
        del environment
        if self.link is not None:
            self.link.send({"seen": msg.data["client"], "sight": msg.data["sight"], "tally": msg.data["tally"]})

    def _watch(self, runner: MasterRunner) -> None:
        """Tell the desk when a worker is lost that has users."""
        while True:
            gevent.sleep(LOOK_S)
            there = {node.id for node in runner.clients.all if node.state != STATE_MISSING}
            for name, node in self._workers.items():
                if node not in there and self.link is not None:
                    self.link.send({"lost": f"worker {node}, which has the users of {name}, is lost"})
                    return
