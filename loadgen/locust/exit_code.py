"""With which code does Locust end? With the worst of what this test and the mesh have come to, unless a locustfile says otherwise."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from loadgen.errors import ExitCode

if TYPE_CHECKING:
    from locust.env import Environment

_MATTERS: dict[int, int] = {ExitCode.RESTORE_FAILED: 4, ExitCode.INVALID: 3, ExitCode.EXPECTATIONS_FAILED: 2}
"""As everywhere: 5, then 4, then 99. Other codes of ours matter as much as Locust's own."""
log = logging.getLogger("loadgen")


class Verdicts:
    """What has come of the test and of the mesh, each of which may still change: a rule that could not be taken out may be gone later.

    Locust takes its code from ``process_exit_code`` when it ends. What a locustfile writes there holds, unless ours matters more.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._test: int | None = None
        self._restore: int | None = None
        self._said: int | None = None

    def begin(self) -> None:
        """Forget the test before; what is in force is."""
        self._test = None
        self.say()

    def test(self, code: int) -> None:
        """Take in what has come of the test."""
        if self._test is None or _matters(self._test) < _matters(code):
            self._test = code
        self.say()

    def restored(self, done: bool) -> None:
        """Take in whether the mesh is as it was."""
        self._restore = None if done else ExitCode.RESTORE_FAILED
        self.say()

    def judge(self, ended: dict[str, Any], expected: str) -> None:
        """Take in what the desk says of a test that ended; without a rule in it the code is Locust's alone. ``expected`` is its verdict, empty for any."""
        restored = (ended.get("restore") or {}).get("state", "not_needed")
        if restored == "failed":
            log.error("the rule may still be in force: %s", ended["restore"]["detail"])
        if restored != "not_needed":
            self.restored(restored != "failed")
        if restored != "not_needed" and ended["validity"]["state"] == "INVALID":
            self.test(ExitCode.INVALID)
        if expected and (got := (ended["verdict"] or {}).get("state", "none")) != expected:
            log.error("the verdict is %s, and --expect-verdict says %s", got, expected)
            self.test(ExitCode.EXPECTATIONS_FAILED)

    def say(self) -> None:
        """Write the code for Locust; again when the locustfile has had its say."""
        ours = max((code for code in (self._test, self._restore) if code is not None), key=_matters, default=None)
        now = self._environment.process_exit_code
        if now == self._said or not now or (ours is not None and _matters(now) < _matters(ours)):
            self._environment.process_exit_code = self._said = ours


def _matters(code: int) -> int:
    return _MATTERS.get(code, 1 if code else 0)
