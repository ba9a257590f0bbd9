"""How does the tutorial's story run by itself? As a load shape: the users stay, and the rule comes and goes under them."""

from __future__ import annotations

import logging
from argparse import ArgumentTypeError
from typing import TYPE_CHECKING, Any

import gevent
from locust import LoadTestShape, events

from loadgen.errors import LoadgenError, RefusedError, UsageError
from loadgen.locust.link import explained
from loadgen.quantity import positive_duration_s

if TYPE_CHECKING:
    from loadgen.locust.control import Control

USERS = 50
LOOK_S = 0.05
log = logging.getLogger("loadgen")


def add_options(parser: Any) -> None:
    """Add the story's options to Locust's parser."""
    parser.add_argument("--stage", type=_duration, default="10s", env_var="LOADGEN_STAGE", help="How long each stage of the story lasts.")
    parser.add_argument(
        "--rule", default="", env_var="LOADGEN_RULE", include_in_web_ui=False, help="The rule's file; default: that of the mesh's scenario."
    )


class StoryShape(LoadTestShape):
    """Three stages with the same users, as many as ``-u`` says or ``users``; the rule is in force in the second one.

    A stage lasts from when every sidecar has confirmed. The law: the story ends with its test, and it toggles only what a person at the web
    UI, if there is one, might toggle. The rule is that of the command line: what the start page has sent is not read.
    """

    abstract = True
    use_common_options = True
    users = USERS
    _told: gevent.Greenlet | None = None

    def __init__(self) -> None:
        super().__init__()
        events.test_stopping.add_listener(self._stop)  # now: Control, which comes later, has the desk end, and that would refuse us

    def reset_time(self) -> None:
        """Begin the story anew."""
        super().reset_time()
        self._stop()  # a master resets it twice
        self._told = gevent.spawn(self._tell)

    def tick(self) -> tuple[int, float] | None:
        """Say how many users there are now; None when the story is told."""
        if self._told is not None and self._told.ready():
            return None
        users = self._environment().parsed_options.num_users or self.users
        return users, float(users)

    def _stop(self, **_: object) -> None:
        """Tell no more. There is no story then: ``tick`` would take one that is told for the end, and Locust would stop twice."""
        told, self._told = self._told, None
        if told is not None:
            told.kill()

    def _tell(self) -> None:
        environment = self._environment()
        options, control = environment.parsed_options, environment.loadgen
        try:
            while control.mesh and not control.testing:  # it takes seconds in a cluster; a test that is refused stops the shape
                gevent.sleep(LOOK_S)
            stage_s = _stage_s(options.stage)
            if control.forbidden:
                raise RefusedError(f"the story cannot toggle the policy: {control.forbidden}")
            rule = _rule(control)
            gevent.sleep(stage_s)
            done = control.apply(rule)
            for finding in done["findings"]:
                log.warning("%s", finding["text"])
            log.info("the rule is in force at every sidecar" if done["rule"] else "the rule is there, and changes nothing at any sidecar")
            gevent.sleep(stage_s)
            control.remove()
            log.info("the rule is gone from every sidecar")
            gevent.sleep(stage_s)
        except LoadgenError as error:
            for line in explained(error):
                log.error("%s", line)
            control.verdicts.test(error.exit_code)

    def _environment(self) -> Any:
        assert self.runner is not None, "Locust sets it before the first tick"
        return self.runner.environment


def _duration(text: str) -> str:
    """Take a duration on the command line as it is, if it is one.

    Raises ArgumentTypeError, which argparse shows, if it is not.
    """
    try:
        _stage_s(text)
    except UsageError as error:
        raise ArgumentTypeError(error.message) from error
    return text


def _stage_s(text: str) -> float:
    try:
        return positive_duration_s(text)
    except ValueError as error:
        raise UsageError(f"--stage: {error}") from error


def _rule(control: Control) -> str:
    """Give the rule's text."""
    rule: str = control.given.rule or (control.mesh["mesh"]["rule"] if control.mesh else "")
    if not rule:
        raise UsageError("there is no rule to apply", hint="name its file with --rule, and have a mesh")
    return rule
