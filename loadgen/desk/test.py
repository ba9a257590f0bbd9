"""What is known of one test? Its session, the rules that its sidecars are to show, and what has come of it until now."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
from prometheus_client import CollectorRegistry

from loadgen.desk.timeline import Timeline
from loadgen.engine.load import clock
from loadgen.runner.live import Live
from loadgen.runner.metrics import RunMetrics
from loadgen.runner.result import Result, make_report
from loadgen.runner.session import PHASES, Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.desk.site import Site
    from loadgen.desk.users import Users
    from loadgen.policy.rule import Rule
    from loadgen.policy.state import SidecarState
    from loadgen.recorder import Tally
    from loadgen.runner.window import Measured, Window

SECOND_S = 1.0
FOLLOW_S = 0.01


class Test:
    """A test of Locust's. Number 0 is none: it stands for the time before the first, has no clients and never goes on."""

    def __init__(self, number: int, users: Users) -> None:
        self.number = number
        self.users = users
        self.session: Session[Any, Any] | None = None
        self.over = anyio.Event()
        """Set when the test goes on no more: none has ever gone on."""
        if not number:
            self.over.set()
        self.live = Live(PHASES)
        self.page = RunMetrics(CollectorRegistry(), self.live).page
        """What Prometheus reads."""
        self.timeline = Timeline()
        self.said = ""
        """Why the session ended, if that was not in good order."""
        self.result: Result | None = None
        """What was measured until now."""
        self.expired = False
        """Whether the rule was removed because its time was over."""
        self.toggles = 0
        self._text = ""
        """What was applied last."""
        self._wanted: tuple[Rule, ...] = ()
        """What the sidecars are to show now, or while a toggle goes on: afterwards."""

    @property
    def goes_on(self) -> bool:
        """Whether it has not ended."""
        return not self.over.is_set()

    @property
    def turn(self) -> str:
        """What changes whenever a test begins or the policy is toggled; before the dot is what names the test, of whatever desk."""
        return f"{os.getpid()}-{self.number}.{self.toggles}"

    @property
    def windows(self) -> Sequence[Window]:
        """The phases that are over."""
        return self.session.measured.windows if self.session is not None else ()

    @property
    def window(self) -> Window | None:
        """The phase that counts now, if one does."""
        return self.session.window if self.session is not None else None

    @property
    def ruled(self) -> bool:
        """Whether a rule may be in force."""
        return self.goes_on and self.session is not None and self.session.ruled

    @property
    def text_in_force(self) -> str:
        """The text of the rules that are in force; empty if none are."""
        return self._text if self.goes_on and self.session is not None and self.session.rules else ""

    @property
    def wanted(self) -> SidecarState | None:
        """What the sidecars are to show; None if nobody wants anything of them."""
        return self.session.wanted(self._wanted) if self.goes_on and self.session is not None else None

    async def toggle(self, session: Session[Any, Any], rules: tuple[Rule, ...], text: str = "") -> None:
        """Put rules in force in the session, or remove them if there are none; return when the phase after that counts.

        Raises LoadgenError if that cannot be.
        """

        def taken() -> None:
            self._wanted, self._text, self.toggles = rules, text, self.toggles + 1

        try:
            await session.toggle(rules, taken)
        finally:
            if session.confirmed is None:
                self._wanted = tuple(session.rules)

    def toggling(self) -> dict[str, Any] | None:
        """Say how many sidecars have confirmed what is being put or removed."""
        session = self.session
        if session is None or session.confirmed is None:
            return None
        return {"confirmed": session.confirmed, "of": len(self.users.loads), "policy": "applied" if self._wanted else "removed"}

    def tallies(self) -> dict[str, list[Tally]]:
        """Give each client's tallies of the phase that counts; when the test is over, of all its phases."""
        if self.goes_on:
            return {name: [load.last_tally] for name, load in self.users.loads.items()}
        return {name: [window.tallies[name] for window in self.windows if name in window.tallies] for name in self.users.loads}

    async def plot(self, session: Session[Any, Any]) -> None:
        """Enter every second in the timeline, until cancelled."""
        while not session.began:  # noqa: ASYNC110  # once; the plot's seconds are those of the phases
            await anyio.sleep(FOLLOW_S)
        began, second = session.began, 0
        while True:
            second += 1
            await anyio.sleep(max(0.0, began + second * SECOND_S - clock()))
            await self.live.settle()
            totals: Counter[Any] = Counter()
            for outcomes in self.live.totals.figures().latency.values():
                for outcome, distribution in outcomes.items():
                    totals[outcome] += distribution.count
            self.timeline.second(totals)

    def judge(self, session: Session[Any, Any], measured: Measured, site: Site, started_at: str) -> None:
        """Make the report: what the scenario says of phases and load is not what was done. It is about the rules that were in force last."""
        plan = site.plan
        phases = [window.phase for window in measured.windows]
        scenario = plan.scenario.model_copy(update={"phases": phases, "expectations": {}})
        rules = last_rules(measured)
        done = type(plan)(scenario, rules, ())
        report = make_report(done, measured, session.wanted(rules), site.environment(), started_at, site.kind, scripted=False)  # type: ignore[arg-type]
        shown = report.scenario.model_copy(update={"load": {"model": "locust"}})
        self.result = Result(report.model_copy(update={"scenario": shown}), measured.series)


def last_rules(measured: Measured) -> tuple[Rule, ...]:
    """Give the rules that were in force last, none if none were."""
    return next((tuple(window.rules) for window in reversed(measured.windows) if window.rules), ())
