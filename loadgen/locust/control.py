"""What does the process do that owns the test (the master, or the only one)? It has the desk, and carries questions to whoever has the users."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from loadgen.errors import ExitCode, LoadgenError, MeshError, RefusedError
from loadgen.locust.deal import by_pod, in_turn
from loadgen.locust.exit_code import Verdicts
from loadgen.locust.host import check_service, checked_host
from loadgen.locust.link import ASK_S, AskError, Link, explained
from loadgen.locust.node import ASSIGN, NEWS
from loadgen.locust.nodes import Nodes
from loadgen.locust.options import Given, check
from loadgen.locust.origin import why_not
from loadgen.locust.refusal import stop_refused
from loadgen.locust.wire import check as check_users
from loadgen.target import parse_target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from locust.env import Environment
    from locust.event import Events

    from loadgen.target import Target

HELLO_S = 20.0
CLOSE_S = 5.0
"""How long a desk that has found no mesh may take to end."""
TOGGLE_S = 90.0
CLUSTER_S = 180.0
"""In a cluster the guard may take a minute to start, and sidecars a minute to follow; then the last requests from before end."""
MENDS_AT_MOST = 3
QUIT_S = 40.0
"""How long Locust's end waits until everything is put back, all in all. In a pod that is within ``terminationGracePeriodSeconds``."""
log = logging.getLogger("loadgen")


class Control:
    """The test's side of a Locust that has the web UI, if there is one. Without a mesh it only sees to it that the target is allowed."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._running = False
        self._test = 0
        """The number of the test; what the desk says of another one is late."""
        self._ending = 0
        """How many are having the test end now."""
        self._begins = 0
        """How often a test was begun, or refused."""
        self._gave_up = self._quitting = False
        """Whether the end of a test was waited for in vain; whether Locust ends."""
        self._mends = 0
        self._still = Event()
        """Set while nothing is being ended or mended."""
        self._still.set()
        self.verdicts = Verdicts(environment)
        """What Locust's exit code is to say."""
        self.refused = ""
        """Why the last test was not begun, or broken off."""
        self.unmeshed = "it was switched off with --mesh off; start one (loadgen up scenarios/connection-pool.yaml), and Locust after it"
        """Why there is no mesh, or no desk, if so, and what to do."""
        options = environment.parsed_options
        assert options is not None, "locust -f has parsed its options"
        try:
            self.given = Given.of(options)
        except LoadgenError as error:
            log.error("%s", error.message)
            raise SystemExit(error.exit_code) from error
        ui, login, anywhere = environment.web_ui, options.web_login, options.mesh_control_anywhere
        self.forbidden = why_not(ui.host, login=login, anywhere=anywhere) if ui is not None else ""
        """Why nobody may toggle, if so."""
        self.nodes = Nodes(environment, self._say, self._lost)
        self.link: Link | None = None
        self.mesh: dict[str, Any] = {}
        if options.mesh != "off":
            self._connect(needed=options.mesh != "auto" or options.mesh_pid is not None)
        self.nodes.listen()
        self._listen(environment.events)
        if self.given.rule and self.link is not None:
            self._check_rule(self.given.rule)

    def _listen(self, events: Events) -> None:
        events.test_start.add_listener(self._begin)
        events.test_stopping.add_listener(self._end)
        events.quitting.add_listener(self._quit)
        events.worker_connect.add_listener(self._worker_came)

    def ask(self, do: str, *, timeout_s: float = ASK_S, **arguments: object) -> Any:
        """Have the desk do something.

        Raises LoadgenError with what the desk says, or that there is none.
        """
        if self.link is None:
            raise RefusedError("there is no mesh", hint="start one (loadgen up scenarios/connection-pool.yaml), and Locust after it")
        return self.link.ask(do, timeout_s=timeout_s, **arguments)

    def apply(self, rule: str, expected: str | None = None) -> dict[str, Any]:
        """Put the rules of a text in force, and return when every sidecar has confirmed.

        Gives what is noteworthy of them (``findings``), and which of them the sidecars show (``rule``), None if they change nothing there.

        ``expected`` is the state's ``turn`` at which this was decided, if that matters. Raises LoadgenError if that cannot be; AskError has
        the mistakes in the text.
        """
        done: dict[str, Any] = self.ask("apply", timeout_s=self._patience_s, rule=rule, expected=expected)
        return done

    def remove(self, expected: str | None = None) -> None:
        """Remove the policy, and return when every sidecar has confirmed; ``expected`` as for ``apply``.

        Raises LoadgenError if that cannot be.
        """
        self.ask("remove", timeout_s=self._patience_s, expected=expected)

    def _check_rule(self, rule: str) -> None:
        """Have Locust end before it begins if the rule of the command line has mistakes."""
        try:
            self.ask("check", rule=rule)
        except LoadgenError as error:
            for line in explained(error):
                log.error("--rule: %s", line)
            raise SystemExit(error.exit_code) from error

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
        link = Link({**self.given.mesh, **again}, self._heard, self._mend)
        try:
            self.mesh = link.ask("hello", timeout_s=self._patience_s if again else HELLO_S)
        except LoadgenError as error:
            link.close(CLOSE_S)
            if needed:
                log.error("%s", error.message)
                raise SystemExit(ExitCode.REFUSED) from error
            self.unmeshed = error.in_a_line
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
        self.unmeshed = "the desk died, and a new one takes out what it may have left in force; wait for it"
        self.nodes.stop_users()  # nobody else lets those go on that it was holding
        log.error("the desk died; a new one takes out what it may have left in force")
        if lost:
            self._refuse(MeshError("the desk died in the test; what it had counted is lost", hint="start the test again"))
        try:
            with self._busy():
                self._replace(dead)
        except LoadgenError as error:
            log.error("%s", error.message)
            self.unmeshed = f"{error.message}; a rule may be in force: {self._by_hand}, then start Locust again"
            self.verdicts.restored(False)
        else:
            log.warning("nothing that it had put is in force any more")
            self.verdicts.restored(True)

    def _replace(self, dead: int) -> None:
        """Start a desk in the place of one that died, and let it restore.

        Raises LoadgenError if it cannot, or they die too often.
        """
        if self._mends > MENDS_AT_MOST:
            raise MeshError(f"the desk has died {self._mends} times")
        about = self.mesh["mesh"]
        self._connect(needed=False, kind=about["kind"], pid=about.get("pid"), mend=dead)
        if self.link is None:
            raise MeshError(self.unmeshed)
        self.ask("restore", timeout_s=self._patience_s)

    @property
    def _by_hand(self) -> str:
        """What takes a rule out if nobody here does."""
        return f"take it out with: loadgen {'restore' if self._in_cluster else 'policy remove'}"

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        """Say meanwhile that something is being ended or mended."""
        self._ending += 1
        self._still.clear()
        try:
            yield
        finally:
            self._ending -= 1
            if not self._ending:
                self._still.set()

    # The test.

    def _begin(self, environment: Environment, **_: object) -> None:
        self._begins += 1
        self._still.wait(self._patience_s)  # what is being ended, or mended, is not this test's
        self.refused = ""
        self.verdicts.begin()
        try:
            assert environment.parsed_options is not None, "see above"
            check(environment.parsed_options)
            check_users(environment.user_classes, environment.host or "")
            if self.mesh:
                self._begin_with(environment)
            else:
                self._begin_without(environment)
        except LoadgenError as error:
            self._refuse(error)
        except Exception as error:  # Locust would log it, and go on with users that nobody has checked
            log.exception("the test could not begin")
            self._refuse(LoadgenError(f"the test could not begin: {error!r}", hint="please report this"))

    def _begin_with(self, environment: Environment) -> None:
        if (link := self.link) is None:
            raise RefusedError(self.unmeshed)
        service = parse_target(self.mesh["mesh"]["service"])
        check_service(environment.host or "", service)
        self.mesh = link.ask("hello")
        clients = self.mesh["clients"]
        nodes = self.nodes.names()
        node_of = (by_pod if self._in_cluster else in_turn)([client["name"] for client in clients], nodes)
        self.nodes.deal(node_of)
        for node in nodes:
            own = [client for client in clients if node_of[client["name"]] == node]
            self._assign(node, own, service, self.mesh["mesh"]["expect"])
        self._gave_up = False
        self._test, self._running = self._test + 1, True  # from now on there may be something to end
        try:
            link.ask("begin", timeout_s=self._patience_s, test=self._test)
        except BaseException as error:
            self._running = False
            for node in nodes:
                self._assign(node, [], service, self.mesh["mesh"]["expect"])
            if not isinstance(error, AskError):  # a stop came meanwhile, or there was no answer: it may begin all the same
                gevent.spawn(self._have_ended, self._patience_s)
            raise
        self.nodes.watch()

    def _begin_without(self, environment: Environment) -> None:
        """Send the users to the host itself, in a cluster through the pod's own sidecar, if that may be loaded."""
        host = environment.host or next((user.host for user in environment.user_classes if user.host), None) or ""
        target, at = checked_host(host, self.given, self.unmeshed)
        if self.given.expect_verdict:
            raise RefusedError("--expect-verdict needs a mesh", hint=self.unmeshed)
        nodes = self.nodes.names()
        self.nodes.deal({node: node for node in nodes})
        for node in nodes:
            self._assign(node, [{"name": node, "host": at, "port": target.port}], target, {"status": 200, "body": ""})

    def _assign(self, node: str, clients: Sequence[dict[str, Any]], target: Target, expect: dict[str, Any]) -> None:
        """Tell a Locust process which clients it has, and what their users send and expect."""
        body = self.given.expect_body or expect["body"]
        users = [user.__name__ for user in self._environment.user_classes]  # a worker has those, too, that were not picked
        about = {"users": users, "scheme": target.scheme, "authority": target.authority, "status": expect["status"], "body": body}
        self.nodes.send(ASSIGN, {"clients": list(clients), **about}, node)

    def _end(self, environment: Environment, **_: object) -> None:
        del environment
        if not self._quitting:  # then everything that can be done in time was done
            self._end_within(self._patience_s)

    def _end_within(self, seconds: float) -> None:
        """End the test; if somebody else is at that, wait for him: Locust must not say that it is over before it is."""
        if self.link is None or not self._running:
            self._still.wait(seconds)
            return
        self._running = False  # from now on the desk is asked to end
        self._have_ended(seconds)

    def _have_ended(self, seconds: float) -> None:
        """Let the desk end what it has begun, and let what has come of it be seen."""
        link = self.link
        if link is None:
            return
        with self._busy():
            try:
                ended = link.ask("end", timeout_s=seconds)
            except LoadgenError as error:
                log.error("%s", error.message)
                self.refused = f"what was measured is lost: {error.in_a_line}"
                self._gave_up = True
                self.verdicts.restored(False)
                self.verdicts.test(ExitCode.INVALID)
                return
            finally:
                self.nodes.unwatch()  # not before: a worker that is lost meanwhile is not waited for
        self._tell(ended)
        self.verdicts.judge(ended, self.given.expect_verdict)

    def _tell(self, ended: dict[str, Any]) -> None:
        if ended["verdict"] is not None:
            log.info("%s", ended["verdict"]["sentence"])
            log.info("%s", "; ".join([ended["validity"]["state"], *ended["validity"]["reasons"]]))

    def _quit(self, environment: Environment, **_: object) -> None:
        """End everything in ``QUIT_S``, whatever of it is to be done; who has waited for it before, and in vain, does not wait again."""
        del environment
        self._quitting = True
        until = time.monotonic() + (0.0 if self._gave_up else QUIT_S)
        self._end_within(max(1.0, until - time.monotonic()))
        still = self._still.wait(max(0.0, until - time.monotonic()))
        link = self.link
        if link is not None and not link.close(max(1.0, until - time.monotonic())):
            log.error(
                "the desk has not ended within %.0f s: a rule may be in force, and its process %d goes on taking it out for some minutes",
                QUIT_S,
                link.pid,
            )
            still = False
        if not still:
            self.verdicts.restored(False)

    def _refuse(self, error: LoadgenError) -> None:
        """End a test that may not be."""
        self.refused = error.in_a_line
        log.error("%s", self.refused)
        runner = self._environment.runner
        assert runner is not None, "there is one while a test begins"
        self.verdicts.test(error.exit_code)
        begins = self._begins
        if self.given.headless:
            gevent.spawn(runner.quit)
        else:
            gevent.spawn(stop_refused, runner, lambda: self._begins == begins)

    # Between the desk and the users.

    def _say(self, message: dict[str, Any]) -> bool:
        """Tell the desk something; give whether there is one."""
        if self.link is None:
            return False
        self.link.send(message)
        return True

    def _heard(self, message: dict[str, Any]) -> None:
        if "ask" in message:
            self.nodes.ask(message)
        elif message.get("event") == "news":
            for node in self.nodes.names():
                self.nodes.send(NEWS, {"ruled": message["ruled"]}, node)
        elif message.get("event") == "said":
            log.info("%s", message["text"])
        elif message.get("event") == "ended" and message["test"] == self._test:
            self._hear_the_end(message)

    def _hear_the_end(self, ended: dict[str, Any]) -> None:
        """Hear that the test has ended; who has asked for that gets an answer, too."""
        if self._running:
            self._running = False
            self.nodes.unwatch()
            self.verdicts.judge(ended, self.given.expect_verdict)
            self._refuse(MeshError(f"the measurement ended: {ended['said']}"))
        elif not self._ending:  # who has asked has given up waiting, and taken the worst for granted
            self.verdicts.begin()
            self.verdicts.restored(True)
            self.refused = ""
            self.verdicts.judge(ended, self.given.expect_verdict)

    def _worker_came(self, client_id: str, **_: object) -> None:
        """Hear that a worker has joined. Locust moves users to it, which have no client there and end."""
        if self._running and not self.nodes.has_clients(client_id):
            self._say(
                {"lost": f"worker {client_id} joined while the test ran, and took users that have no client there; start the test again"}
            )

    def _lost(self, why: str) -> None:
        """Hear that users are lost: without a desk, nobody else ends the test."""
        if not self._say({"lost": why}):
            self._refuse(MeshError(why))
