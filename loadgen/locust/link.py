"""How does Locust ask its desk? A question has a number, and who asked waits for its answer. If Locust dies, the desk sees it and undoes."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import AsyncResult

from loadgen.errors import ExitCode, LoadgenError, MeshError, RefusedError
from loadgen.locust.child import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ASK_S = 20.0
WAITING_AT_MOST = 2000
"""So many messages may wait for a desk that is busy; after that what is only news is dropped."""


class AskError(LoadgenError):
    """The desk says that something cannot be done; ``problems`` are the mistakes in a rule."""

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__(said["message"], hint=said["hint"])
        self.problems: list[dict[str, Any]] = said["problems"]
        self.exit_code = ExitCode(said["exit_code"])


def explained(error: LoadgenError) -> list[str]:
    """Give what there is to say of an error: each mistake of a rule, then what follows from it."""
    problems = error.problems if isinstance(error, AskError) else ()
    return [*(str(problem["text"]) for problem in problems), error.in_a_line]


class Link:
    """The desk, as Locust sees it. ``heard`` takes what it says by itself; ``died`` hears that it is gone unasked."""

    def __init__(
        self, options: Mapping[str, object], heard: Callable[[dict[str, Any]], None], died: Callable[[], None] = lambda: None
    ) -> None:
        self._heard = heard
        self._died = died
        self._questions: dict[int, AsyncResult] = {}
        self._numbers = itertools.count(1)
        self._greeted = False
        """Whether it has ever answered: one that has not is not there to be missed."""
        self.death = ""
        """Why the desk is gone; empty while it is there."""
        self._child = Child("loadgen.desk", json.dumps(dict(options)), heard=self._take, gone=self._gone)

    @property
    def pid(self) -> int:
        """The id of the desk's process."""
        return self._child.pid

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; it is dropped if the desk is gone, and news are if it is far behind."""
        if not self.death and ("seen" not in message or self._child.waiting < WAITING_AT_MOST):
            self._child.send(message)

    def ask(self, do: str, *, timeout_s: float = ASK_S, **arguments: object) -> Any:
        """Have the desk do something, and wait for what comes of it; other greenlets go on.

        Raises AskError with what the desk says if it cannot be done, MeshError if it is gone or silent, RefusedError if it has refused to start.
        """
        if self.death:
            raise self._dead()
        number, answer = next(self._numbers), AsyncResult()
        self._questions[number] = answer
        try:
            self.send({"do": do, "number": number, "args": arguments})
            return answer.get(timeout=timeout_s)
        except gevent.Timeout as error:
            raise MeshError(f"the desk did not answer within {timeout_s:.0f} s") from error
        finally:
            del self._questions[number]

    def close(self, patience_s: float) -> bool:
        """Let the desk put everything back and end; tell whether it has. One that has not goes on trying, without us."""
        self.death = self.death or "Locust ends"
        return self._child.close(patience_s)

    def _gone(self) -> None:
        missed = self._greeted and not self.death
        self._bury("the desk is gone: its process ended")
        if missed:
            self._died()

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("event") == "refused":
            self._bury(f"{message['message']}; {message['hint']}" if message["hint"] else message["message"])
            return
        if "done" not in message:
            self._heard(message)
            return
        question = self._questions.get(message["done"])
        if question is None or question.ready():
            return
        self._greeted = True
        if (error := message.get("error")) is not None:
            question.set_exception(AskError(error))
        else:
            question.set(message["value"])

    def _bury(self, death: str) -> None:
        self.death = self.death or death
        for question in list(self._questions.values()):
            if not question.ready():
                question.set_exception(self._dead())

    def _dead(self) -> LoadgenError:
        """One that has never answered has touched nothing."""
        return MeshError(self.death) if self._greeted else RefusedError(self.death)
