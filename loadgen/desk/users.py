"""What are Locust's users to a run? One load for each client: it is asked over the wire, and reports by itself.

A client's users all live in one of Locust's processes, which counts for them; so what is asked of a load is answered at one moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any, Self

import anyio

from loadgen.engine.load import Sight, clock
from loadgen.errors import HammerError
from loadgen.outcome import Outcome
from loadgen.recorder import Tally

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from anyio.abc import TaskGroup

    from loadgen.desk.lines import Lines
    from loadgen.outcome import Answer

ASK_S = 10.0
"""How long one of Locust's processes may take to answer; one that is so busy measures nothing of use."""


class UserLoad:
    """The users of one client."""

    def __init__(self, name: str, users: Users, number: int) -> None:
        self.name = name
        self.sight = Sight(dict.fromkeys(Outcome, 0), 0, 0, 0, -number, 0.0)
        self.last_tally = Tally()
        self._users = users
        self._number = number

    def __repr__(self) -> str:
        return f"<UserLoad {self.name}>"

    async def prepare(self) -> None:
        """Locust starts its users by itself."""

    def start(self) -> None:
        """As ``prepare``."""

    def stop(self) -> None:
        self._users.say(self.name, "stop")

    def abort(self) -> None:
        self.stop()

    def hold(self) -> None:
        self._users.say(self.name, "hold")

    def release(self) -> None:
        self._users.say(self.name, "release")

    def ask(self, tell: Callable[[Answer], None]) -> None:
        """Nobody reads samples here."""

    async def begin_tally(self, *, if_overflow: int | None = None) -> Tally | None:
        with anyio.CancelScope(shield=True):  # the other side has begun it when it is asked: a lost answer would be a lost tally
            ended = await self._users.ask(self.name, "begin_tally", if_overflow=if_overflow)
        return None if ended is None else Tally.from_snapshot(ended)

    async def look(self) -> Sight:
        self.sight = self._sight(await self._users.ask(self.name, "look"))
        return self.sight

    async def snapshot(self) -> Tally:
        """Give the present tally; if its process is gone, as it was when it last reported."""
        with contextlib.suppress(HammerError):
            self.last_tally = Tally.from_snapshot(await self._users.ask(self.name, "snapshot"))
        return self.last_tally

    async def all_done_since(self, moment: float) -> bool:
        return bool(await self._users.ask(self.name, "all_done_since", age_s=max(0.0, clock() - moment)))

    def note(self, sight: dict[str, Any], tally: dict[str, Any]) -> None:
        """Take in what was reported."""
        self.sight, self.last_tally = self._sight(sight), Tally.from_snapshot(tally)

    def _sight(self, said: dict[str, Any]) -> Sight:
        outcomes = {outcome: said["outcomes"].get(outcome.value, 0) for outcome in Outcome}
        process = -self._number if self._users.apart else said["process"]
        return Sight(outcomes, said["sidecar_overflow"], said["sent"], said["in_flight"], process, said["cpu_s"])


class Users:
    """All of Locust's users, by client. ``apart``: each client's have a process in a pod of its own, where all of them have the same number."""

    _numbers = itertools.count(1)
    """Of all questions of this process: a late answer of an earlier test's is none to a question of this one."""

    def __init__(self, names: Sequence[str], lines: Lines, *, apart: bool = False) -> None:
        self.apart = apart
        self.loads = {name: UserLoad(name, self, number + 1) for number, name in enumerate(names)}
        self._lines = lines
        self._questions: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._deaths: list[HammerError] = []
        self._died = anyio.Event()

    @contextlib.asynccontextmanager
    async def __call__(self, tasks: TaskGroup) -> AsyncIterator[Self]:
        """Give the loads. Nothing has to be done for them in the background: Locust owns its users."""
        del tasks
        yield self

    async def watch(self) -> HammerError:
        """Wait until one of Locust's processes is lost; say which."""
        await self._died.wait()
        return self._deaths[0]

    def say(self, name: str, verb: str) -> None:
        """Have something done that has no answer."""
        self._lines.send({"ask": 0, "client": name, "verb": verb, "args": {}})

    async def ask(self, name: str, verb: str, **arguments: object) -> Any:
        """Have something done and wait for the answer.

        Raises HammerError if the process is lost or silent.
        """
        if self._deaths:
            raise self._deaths[0]
        number = next(self._numbers)
        answer = asyncio.get_running_loop().create_future()
        self._questions[number] = name, answer
        self._lines.send({"ask": number, "client": name, "verb": verb, "args": arguments})
        try:
            with anyio.fail_after(ASK_S):
                return await answer
        except TimeoutError as error:
            self.lose(f"the users of {name} did not answer within {ASK_S:.0f} s")
            raise self._deaths[0] from error
        finally:
            del self._questions[number]

    def take(self, message: dict[str, Any]) -> None:
        """Take in an answer to a question; one that nobody waits for any more is stale news."""
        if (question := self._questions.get(message["answer"])) is not None and not question[1].done():
            question[1].set_result(message["value"])

    def lose(self, why: str) -> None:
        """Give the users up: their process is gone, or silent."""
        self._deaths.append(HammerError(why))
        self._died.set()
        for _, answer in self._questions.values():
            if not answer.done():
                answer.set_exception(self._deaths[0])
