"""What can Locust ask of its desk? To begin and end a session with a test, to toggle the policy, and to show what has come of it.

The law: whatever ends first (the test, Locust, the mesh), the policy is removed and that is verified, before the desk goes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from loadgen.desk import showing
from loadgen.desk.test import Test, last_rules
from loadgen.desk.users import Users
from loadgen.engine.load import clock
from loadgen.errors import MAX_PROBLEMS, InputError, LoadgenError, Problem, RefusedError
from loadgen.inputs import rules_of
from loadgen.runner.convergence import removed
from loadgen.runner.session import Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from loadgen.desk.lines import Lines
    from loadgen.desk.site import Site
    from loadgen.policy.rule import Rule
    from loadgen.policy.state import SidecarState
    from loadgen.runner.needs import Mesh
    from loadgen.runner.window import Measured

RULE_NAME = "rule"
"""What the text of the page is called in messages."""
IDLE_S = 1.0
TOGGLING_S = 0.25
JUDGE_S = 1.0
WATCHED_S = 10.0
END_S = 15.0
"""How long the end of a test may take before it is cut short. With the mesh's ``hurry_s`` and ``UNDO_S``, that is less than Locust waits for it."""
UNDO_S = 5.0
"""How long the end of a test goes on trying to remove a policy that did not go."""
CLOSE_S = 600.0
"""How long the desk stays for that when Locust is gone: the mesh lives on, and nobody else would remove it."""
AGAIN_S = 0.25


class Desk:
    """Answers what Locust asks; ``tasks`` own the session."""

    def __init__(self, site: Site, lines: Lines, tasks: TaskGroup) -> None:
        self._site = site
        self._lines = lines
        self._tasks = tasks
        self._test = Test(0, Users((), lines))
        """The test that goes on, or the last one."""
        self._left = False
        """Whether a policy may be in force that this desk, or one that died, did not get out."""
        self._turns = anyio.Lock()
        """Of whoever begins or ends a session, or restores: there is one session at most."""
        self._mesh = self._about()
        self._watched_at = 0.0
        self._idle: tuple[float, dict[str, SidecarState]] = (0.0, {})

    # What Locust asks.

    async def hello(self) -> dict[str, Any]:
        """Say what there is now."""
        await self._site.look()
        self._mesh = self._about()
        return {"clients": list(self._site.clients), "mesh": self._mesh}

    async def begin(self, test: int = 0) -> None:
        """Begin a session: users are being started. ``test`` is the number by which its end is told.

        Raises LoadgenError if there can be none.
        """
        async with self._turns:
            await self._end_if_any()
            await self._begin(test)

    async def _begin(self, test: int) -> None:
        users = Users([client["name"] for client in self._site.clients], self._lines, apart=self._site.kind != "local")
        self._test = Test(self._test.number + 1, users)
        await self._tasks.start(self._hold, self._test, test)

    async def end(self) -> dict[str, Any]:
        """End the session: leave the phase that counts, remove the policy, and say how the test ended."""
        async with self._turns:
            await self._end_if_any()
            return showing.judged(self._test.result)

    async def check(self, rule: str) -> dict[str, Any]:
        """Say what is noteworthy of the rules of a text; nothing is changed.

        Raises InputError with every mistake of the text.
        """
        return {"findings": (await self._read(rule))[1]}

    async def apply(self, rule: str, expected: str | None = None) -> dict[str, Any]:
        """Put the rules of a text in force, and return when the phase with them counts.

        Gives what is noteworthy of them, and which of them the sidecars show, None if they change nothing there.

        ``expected`` is the turn at which this was decided, if that matters. Raises InputError with every mistake of the text, LoadgenError
        if it cannot be done.
        """
        rules, findings = await self._read(rule)
        self._running(expected)
        async with self._site.prepared(rules) as notes:
            session = self._running(expected)  # to prepare it may have taken long
            test = self._test
            await test.toggle(session, rules, rule)
        test.expired = False
        if self._site.hold_s is not None:
            self._tasks.start_soon(self._remove_after, test, session, test.toggles, self._site.hold_s)
        return {"findings": [*findings, *(showing.problem(each) for each in notes)], "rule": session.wanted(rules).rule}

    async def remove(self, expected: str | None = None) -> None:
        """Remove the policy, and return when the phase without it counts; ``expected`` as for ``apply``."""
        session = self._running(expected)
        if not session.rules:
            over = f": its {self._site.hold_s:g} s were over" if self._test.expired and self._site.hold_s else ""
            raise RefusedError(f"no rule is in force that could be removed{over}")
        await self._test.toggle(session, ())

    async def _remove_after(self, test: Test, session: Session[Any, Any], toggles: int, seconds: float) -> None:
        """Remove what was put with the toggle of this number when its time is over, if nobody else has."""
        with anyio.move_on_after(seconds):
            await test.over.wait()
            return
        if test is self._test and test.toggles == toggles:
            test.expired = True
            with contextlib.suppress(LoadgenError):  # then the session has ended, and has removed it
                await test.toggle(session, ())

    async def restore(self) -> None:
        """Remove what a desk that died may have left in force, and verify it.

        Raises LoadgenError if that cannot be.
        """
        async with self._turns:
            await self._end_if_any()
            self._left = True
            await self._site.restore()
            self._left = False

    async def state(self, since: int = 0, *, turn: str = "", watched: bool = True) -> dict[str, Any]:
        """Say what is to be shown now; of the plot, what came from a second on. If it is ``watched``, it is judged from now on.

        ``turn`` is the turn of which whoever asks has the text of the rule.
        """
        test, live = self._test, self._test.live
        if watched:
            self._watched_at = clock()
        began = test.session.began if test.session is not None else 0.0
        windows = list(test.windows)  # those of now: others go on while the sidecars are looked at
        toggled = [*windows, test.window] if test.window is not None else windows
        return {
            "mesh": {key: value for key, value in self._mesh.items() if key != "rule"},  # which may be long
            "gone": self._site.gone(),
            "turn": test.turn,
            **({} if turn == test.turn or test.toggling() else {"text": test.text_in_force}),
            "running": test.goes_on,
            "toggling": test.toggling(),
            "phase": live.phase,
            "phase_began_s": None if test.window is None else round(test.window.began - began, 3),
            "applied": live.applied,
            "in_flight": live.in_flight,
            "limits": live.limits,
            "clients": await self._clients(),
            "phases": [showing.phase(window, began) for window in windows],
            "timeline": {**test.timeline.since(since), "toggles": showing.toggles(toggled, began)},
            "said": test.said,
            **showing.judged(test.result),
        }

    async def metrics(self) -> str:
        """Give what Prometheus reads."""
        return (await self._test.page.read()).decode()

    async def report(self) -> str:
        """Give the report of the last test that is over, as a page.

        Raises RefusedError if there is none.
        """
        from loadgen.render.formats import FORMATS  # noqa: PLC0415  # few ask for it

        result = self._test.result
        if result is None or self._test.goes_on:
            raise RefusedError("there is no report yet", hint="it is made when the test ends")
        return await anyio.to_thread.run_sync(FORMATS["html"].render, result.report, result.series)

    def take(self, message: dict[str, Any]) -> None:
        """Take in what Locust's processes report by themselves."""
        users = self._test.users
        if "answer" in message:
            users.take(message)
        elif "seen" in message and (load := users.loads.get(message["seen"])) is not None:
            load.note(message["sight"], message["tally"])
        elif "lost" in message:
            users.lose(message["lost"])

    def gone(self) -> None:
        """Locust is gone: nobody answers for its users any more."""
        self._test.users.lose("Locust is gone")

    async def close(self) -> str:
        """End the session, and remove what may still be in force, again and again until that is verified, the mesh is gone or time is up.

        Gives what came of that if the session had left something, for nobody may be there any more who asks.
        """
        async with self._turns:
            await self._end_if_any()
            if not self._left:
                return ""
            why = await self._again(self._site.restore, CLOSE_S)
            gone = "what the test had left in force is gone"
            return gone if why is None else self._site.gone() or f"what the test had left may still be in force: {why}"

    async def mend(self) -> None:
        """Restore before anything else; if that cannot be, ``restore`` says why, and ``close`` tries again."""
        with contextlib.suppress(LoadgenError):
            await self.restore()

    # The session.

    async def _hold(self, test: Test, told_as: int, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Hold the session of a test, whose end is told by the number ``told_as``."""
        started_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        try:
            async with self._site.session() as mesh:
                await self._site.check(mesh)
                timeout_s = self._site.plan.scenario.load.timeout
                session: Session[Any, Any] = Session(mesh, test.users, test.live, timeout_s=timeout_s, told=self._tell)
                test.session = session
                task_status.started()
                async with anyio.create_task_group() as beside:
                    beside.start_soon(test.plot, session)
                    beside.start_soon(self._judge_now_and_then, test, session, started_at)
                    measured = await session.run()
                    beside.cancel_scope.cancel()
                await self._site.judge(mesh, measured, session.wanted(last_rules(measured)))
                if measured.restored is False:
                    self._left = True
                    if self._site.kind == "local":  # in a cluster the guard is at it
                        await self._undo(mesh, measured)
                test.said = "; ".join(measured.reasons)
                test.judge(session, measured, self._site, started_at)
        except LoadgenError as error:
            if test.session is None:
                raise
            test.said = error.message
        finally:
            test.over.set()
            self._tell()
            if test.session is not None:  # otherwise it is refused, which whoever has asked hears
                self._lines.send({"event": "ended", "test": told_as, "said": test.said, **showing.judged(test.result)})

    async def _undo(self, mesh: Mesh[Any, Any], measured: Measured) -> None:
        """Try again to remove the policy, which a mesh that is about to end takes along: its sidecars are silent before it is gone."""
        if await self._again(partial(removed, mesh), UNDO_S) is None:
            self._left = False
            measured.restored, measured.restore_detail = True, "all sidecars show that the policy is gone, at a second attempt"
        elif self._site.gone():
            self._left, measured.restored, measured.restore_detail = False, True, "the mesh is gone and took the policy along"

    async def _again(self, job: Callable[[], Awaitable[None]], seconds: float) -> str | None:
        """Do a job again and again until it is done, the mesh is gone or time is up; give why it is not done, None if it is."""
        why = ""
        with anyio.move_on_after(seconds):
            while not self._site.gone():
                try:
                    await job()
                except LoadgenError as error:
                    why = error.in_a_line
                else:
                    return None
                await anyio.sleep(AGAIN_S)
        return why

    async def _judge_now_and_then(self, test: Test, session: Session[Any, Any], started_at: str) -> None:
        """While somebody watches, judge what was measured until then."""
        while True:
            await anyio.sleep(JUDGE_S)
            if session.confirmed is None and clock() - self._watched_at < WATCHED_S:
                with contextlib.suppress(LoadgenError):  # what is amiss ends the session, and is said then
                    test.judge(session, await session.interim(), self._site, started_at)

    async def _end_if_any(self) -> None:
        test = self._test
        if not test.goes_on or test.session is None:
            return
        test.session.end()
        with anyio.move_on_after(END_S, shield=True) as scope:
            await test.over.wait()
        if scope.cancelled_caught:
            test.session.stop("the end of the test took too long")
            await test.over.wait()

    def _running(self, expected: str | None) -> Session[Any, Any]:
        test = self._test
        if not test.goes_on or test.session is None:
            raise RefusedError("no test is running", hint="start users first: the policy is toggled under load")
        if expected not in {None, test.turn}:
            raise RefusedError(
                "the policy was toggled meanwhile, or another test began", hint="look at what is in force now, then decide again"
            )
        return test.session

    async def _read(self, rule: str) -> tuple[tuple[Rule, ...], list[dict[str, Any]]]:
        """Read the rules of a text, and what is noteworthy of them. A long text takes seconds, in which others go on."""
        try:
            rules, findings = await anyio.to_thread.run_sync(rules_of, rule, RULE_NAME)
        except InputError as error:
            further = len(error.problems) - MAX_PROBLEMS
            if further <= 0:
                raise
            rest = Problem(RULE_NAME, 0, 0, f"there are {further:,} further mistakes", code="further")
            raise InputError([*error.problems[:MAX_PROBLEMS], rest]) from error
        noted = dict.fromkeys([*findings, *self._site.findings(rules)])
        return tuple(rules), [showing.problem(each) for each in noted]

    def _tell(self) -> None:
        """Let Locust's processes know whether a rule may be in force, and the page that there is news."""
        self._lines.send({"event": "news", "ruled": self._test.ruled})

    # What is shown.

    def _about(self) -> dict[str, Any]:
        return {"kind": self._site.kind, "service": self._site.plan.scenario.target.url, **self._site.about()}

    async def _clients(self) -> list[dict[str, Any]]:
        test = self._test
        if test.session is None:
            return showing.clients(await self._idle_states(), None, {}, (), None)
        states = test.window.states if test.window is not None else await self._idle_states()
        return showing.clients(states, test.window, test.tallies(), test.windows, test.wanted)

    async def _idle_states(self) -> dict[str, SidecarState]:
        """Look what is in force, at most once a second: nobody else has to notice while no phase counts."""
        at, states = self._idle
        if clock() - at > (TOGGLING_S if self._test.toggling() else IDLE_S):
            with contextlib.suppress(LoadgenError):
                states = await self._site.states()
            self._idle = clock(), states
        return states
