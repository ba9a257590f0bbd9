"""What does the process do that owns the test (the master, or the only one)? It has the desk, and carries questions to whoever has the users."""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event
from locust.exception import RPCError
from locust.runners import STATE_MISSING, MasterRunner

from loadgen.errors import ExitCode, LoadgenError, MeshError, RefusedError
from loadgen.locust.link import ASK_S, CLOSE_S, Link
from loadgen.locust.node import ANSWER, ASK, ASSIGN, LOST, NEWS, SEEN
from loadgen.locust.options import check, mesh_options, rule_of
from loadgen.locust.origin import why_not
from loadgen.locust.wire import check as check_users
from loadgen.target import check_allowed, parse_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from locust.env import Environment

    from loadgen.target import Target

HELLO_S = 20.0
TOGGLE_S = 90.0
CLUSTER_S = 180.0
"""In a cluster the guard may take a minute to start, and sidecars a minute to follow; then the last requests from before end."""
LOOK_S = 1.0
MENDS_AT_MOST = 3
_MATTERS: dict[int, int] = {ExitCode.RESTORE_FAILED: 3, ExitCode.INVALID: 2, ExitCode.REFUSED: 1, ExitCode.USAGE: 1}
"""Which exit code wins if several apply, as everywhere: 5, then 4."""
HOST_CHARACTERS = 63
"""A pod's host name is its name, cut to what a host name may have."""
SHOWN = 5
"""So many workers are named that are in the way."""
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
        self._mends = 0
        self._mended = Event()
        self._mended.set()
        self.refused = ""
        """Why the last test was not begun."""
        self.unmeshed = "it was switched off with --mesh off"
        """Why there is no mesh, if there is none."""
        options = environment.parsed_options
        assert options is not None, "locust -f has parsed its options"
        self._allowed = tuple(options.allow_host)  # now: the start page can rewrite every option
        self._mesh_options = mesh_options(options)  # as above
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
            self._connect(needed=options.mesh != "auto")
        assert environment.runner is not None, "the event init comes after the runner"
        environment.runner.register_message(ANSWER, self._answered)
        environment.runner.register_message(SEEN, self._seen)
        environment.runner.register_message(LOST, self._lost)
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
        findings: list[dict[str, Any]] = self.ask("apply", timeout_s=self._patience_s, rule=rule, expected=expected)["findings"]
        return findings

    def remove(self, expected: str | None = None) -> None:
        """Remove the policy, and return when every sidecar has confirmed; ``expected`` as for ``apply``.

        Raises LoadgenError if that cannot be.
        """
        self.ask("remove", timeout_s=self._patience_s, expected=expected)

    @property
    def testing(self) -> bool:
        """Whether a test has begun, and has not ended."""
        return self._running

    @property
    def _patience_s(self) -> float:
        """How long whatever changes the mesh may take."""
        return CLUSTER_S if self._in_cluster else TOGGLE_S

    @property
    def _in_cluster(self) -> bool:
        return bool(self.mesh) and self.mesh["mesh"]["kind"] == "cluster"

    def _connect(self, *, needed: bool, **again: object) -> None:
        """Start the desk. If it is ``needed``, Locust ends without one. ``again`` is said to one that takes another one's place."""
        link = Link({**self._mesh_options, **again}, self._heard, self._mend)
        try:
            self.mesh = link.ask("hello", timeout_s=self._patience_s if again else HELLO_S)
        except LoadgenError as error:
            link.close()
            if needed:
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
        lost, self._running = self._running, False
        dead = self.link.pid if self.link is not None else 0
        self.link, self._mends = None, self._mends + 1
        if self._mends > MENDS_AT_MOST:
            self._ends_with(ExitCode.RESTORE_FAILED)
            log.error("the desk has died %d times; what it may have left in force is there", self._mends)
            return
        log.error("the desk died; a new one takes out what it may have left in force")
        self._mended.clear()
        try:
            about = self.mesh["mesh"]
            self._connect(needed=False, kind=about["kind"], pid=about.get("pid"), mend=dead)
            self.ask("restore", timeout_s=self._patience_s)
        except LoadgenError as error:
            log.error("%s", error.message)
            self._ends_with(ExitCode.RESTORE_FAILED)
            return
        finally:
            self._mended.set()
        log.warning("no rule is in force")
        if lost:
            self._refuse(MeshError("the desk died in the test; what it had counted is lost", hint="start the test again"))

    def _ends_with(self, code: ExitCode) -> None:
        """Have Locust end with a code, unless it is to end with one that matters more."""
        now = self._environment.process_exit_code
        if now is None or _MATTERS.get(now, 0) < _MATTERS.get(code, 0) or not now:
            self._environment.process_exit_code = code

    # The test.

    def _begin(self, environment: Environment, **_: object) -> None:
        self.refused = ""
        if environment.process_exit_code != ExitCode.RESTORE_FAILED:
            environment.process_exit_code = None  # of an earlier test
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
        self.mesh = self.ask("hello")
        clients = self.mesh["clients"]
        nodes = self._nodes()
        self._workers = (by_pod if self._in_cluster else in_turn)([client["name"] for client in clients], nodes)
        for node in nodes:
            own = [client for client in clients if self._workers[client["name"]] == node]
            self._assign(node, own, service, self.mesh["mesh"]["expect"])
        self._running = True  # from now on there may be something to end
        try:
            self.ask("begin", timeout_s=self._patience_s)
        except LoadgenError:
            self._running = False
            for node in nodes:
                self._assign(node, [], service, self.mesh["mesh"]["expect"])
            raise
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
        named = target.scheme == "https" or target.host in self._allowed
        at = target.host if named else addresses[0]  # what was checked: a name may mean another address the next time
        for node in self._nodes():
            self._assign(node, [{"name": node, "host": at, "port": target.port}], target, {"status": 200, "body": ""})

    def _assign(self, node: str, clients: Sequence[dict[str, Any]], target: Target, expect: dict[str, Any]) -> None:
        """Tell a Locust process which clients it has, and what their users send and expect."""
        options = self._environment.parsed_options
        body = (options.expect_body if options is not None else "") or expect["body"]
        users = [user.__name__ for user in self._environment.user_classes]  # a worker has those, too, that were not picked
        about = {"users": users, "scheme": target.scheme, "authority": target.authority, "status": expect["status"], "body": body}
        self._send(ASSIGN, {"clients": list(clients), **about}, node)

    def _end(self, environment: Environment, **_: object) -> None:
        del environment
        if self.link is None or not self._running:
            return
        self._running = False  # from now on the desk is asked to end
        try:
            ended = self.link.ask("end", timeout_s=CLOSE_S)
        except LoadgenError as error:
            log.error("%s", error.message)
            self._ends_with(ExitCode.RESTORE_FAILED)
            return
        finally:
            if self._watcher is not None:  # until now: a worker that is lost meanwhile is not waited for
                self._watcher.kill()
        self._tell(ended)
        self._judge(ended)

    def _judge(self, ended: dict[str, Any]) -> None:
        """Let what has come of a test in which a rule was in force be seen in the exit code; without one it is Locust's alone."""
        restored = (ended.get("restore") or {}).get("state", "not_needed")
        if restored == "failed":
            log.error("the rule may still be in force: %s", ended["restore"]["detail"])
            self._ends_with(ExitCode.RESTORE_FAILED)
        elif restored != "not_needed" and ended["validity"]["state"] == "INVALID":
            self._ends_with(ExitCode.INVALID)

    def _tell(self, ended: dict[str, Any]) -> None:
        if ended["verdict"] is not None:
            log.info("%s", ended["verdict"]["sentence"])
            log.info("%s", "; ".join([ended["validity"]["state"], *ended["validity"]["reasons"]]))

    def _quit(self, environment: Environment, **_: object) -> None:
        self._end(environment)
        self._mended.wait(CLOSE_S)
        if self.link is not None and not self.link.close():
            log.error(
                "the desk has not ended within %.0f s: a rule may be in force, and its process %d goes on taking it out for some minutes",
                CLOSE_S,
                self.link.pid,
            )
            self._ends_with(ExitCode.RESTORE_FAILED)

    def _refuse(self, error: LoadgenError) -> None:
        """End a test that may not be."""
        self.refused = error.in_a_line
        log.error("%s", self.refused)
        runner, options = self._environment.runner, self._environment.parsed_options
        assert runner is not None, "there is one while a test begins"
        self._ends_with(error.exit_code)
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
        elif message.get("event") == "said":
            log.info("%s", message["text"])
        elif message.get("event") == "ended" and self._running:  # nobody asked for it
            self._running = False
            self._judge(message)
            self._refuse(MeshError(f"the measurement ended: {message['said']}"))

    def _send(self, kind: str, data: dict[str, Any], node: str) -> None:
        runner = self._environment.runner
        if isinstance(runner, MasterRunner):
            with contextlib.suppress(RPCError):  # a worker that is gone is missed by ``_watch``
                runner.send_message(kind, data, client_id=node)
        elif runner is not None:
            runner.send_message(kind, data)

    def _answered(self, environment: Environment, msg: Any, **_: object) -> None:
        del environment
        if self.link is not None:
            self.link.send({"answer": msg.data["number"], "value": msg.data["value"]})

    def _lost(self, environment: Environment, msg: Any, **_: object) -> None:
        """Hear that an engine's process is gone: its users send nothing more."""
        del environment
        if self.link is not None:
            self.link.send({"lost": msg.data["why"]})
        else:
            self._refuse(MeshError(msg.data["why"]))

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


def in_turn(clients: Sequence[str], nodes: Sequence[str]) -> dict[str, str]:
    """Deal the clients of a local mesh out to Locust's processes.

    Raises RefusedError if there are too few of them.
    """
    if len(nodes) > len(clients):
        message = f"there are {len(nodes)} workers, but {len(clients)} clients: each worker needs a client of its own"
        raise RefusedError(message, hint="start fewer workers, or a mesh with more clients: loadgen up --clients N")
    return {client: nodes[number % len(nodes)] for number, client in enumerate(clients)}


def by_pod(clients: Sequence[str], nodes: Sequence[str]) -> dict[str, str]:
    """Give each pod the worker that lives in it: only that one sends through the pod's sidecar. A worker's id begins with its host's name.

    Raises RefusedError with every worker that is in none of the pods or not alone in one, and every pod without a worker.
    """
    if list(nodes) == [LOCAL]:
        raise RefusedError(
            "in a cluster users live in workers, each in a pod of its own", hint="start Locust with --master, and the workers"
        )
    pods = {client[:HOST_CHARACTERS].rstrip("-."): client for client in clients}
    found: dict[str, str] = {}
    wrong: list[str] = []
    for node in nodes:
        host = node.rpartition("_")[0]
        client = pods.get(host)
        if client is None:
            wrong.append(f"worker {host} is not in a ready pod that the scenario's labels select")
        elif client in found:
            wrong.append(f"pod {client} has two workers: one of them has just died, or it was started with --processes")
        else:
            found[client] = node
    wrong += [f"pod {client} has no worker that is connected" for client in clients if client not in found]
    if wrong or not found:
        hint = "kubectl get pods --show-labels shows them; start the test when all of them are ready"
        raise RefusedError("; ".join(wrong[:SHOWN]) or "there are no workers", hint=hint)
    return found
