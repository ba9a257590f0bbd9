"""Do phases begin and end with toggles, and what if one fails, or comes at the wrong moment?"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen.engine.edge import Edge, Reading
from loadgen.engine.load import Sight, clock
from loadgen.errors import MeshError, RefusedError
from loadgen.ledger import Counters, ServiceCount, ServiceReading
from loadgen.outcome import Outcome
from loadgen.policy.limits import Limits
from loadgen.policy.rule import Rule
from loadgen.policy.state import SidecarState
from loadgen.recorder import Tally
from loadgen.runner import session as sessions
from loadgen.runner.session import Peeked, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from anyio.abc import TaskGroup

    from loadgen.runner.window import Window

pytestmark = pytest.mark.anyio
RULE = Rule("user", "base", "user")
REFUSED = Rule("refused", "base", "user")
NAME = "client-1"


class Users:
    """One client's users; they have sent nothing."""

    name = NAME
    sight = Sight(dict.fromkeys(Outcome, 0), 0, 0, 0, 1, 0.0)

    def __init__(self) -> None:
        self.last_tally = Tally()

    def hold(self) -> None: ...
    def release(self) -> None: ...

    async def begin_tally(self, *, if_overflow: int | None = None) -> Tally:
        ended, self.last_tally = self.last_tally, Tally(self.last_tally.number + 1)
        return ended

    async def prepare(self) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def abort(self) -> None: ...
    def ask(self, tell: object) -> None: ...

    async def look(self) -> Sight:
        return self.sight

    async def snapshot(self) -> Tally:
        return self.last_tally

    async def all_done_since(self, moment: float) -> bool:
        return True


class Mesh:
    """One sidecar that takes every rule but one, at once; ``slow`` holds it back, and ``blind`` the look at a load that goes on counting."""

    converge_s = 5.0
    hurry_s = 2.0

    def __init__(self) -> None:
        self.clients = (Users(),)
        self.rules: Sequence[Rule] = ()
        self.put_before: list[tuple[str, ...]] = []
        self.slow: anyio.Event | None = None
        self.blind: anyio.Event | None = None
        self.looks = 0

    async def put(self, rules: Sequence[Rule]) -> dict[str, float]:
        self.rules = rules
        self.put_before.append(tuple(rule.name for rule in rules))
        return {NAME: clock()}

    def wanted(self, rules: Sequence[Rule]) -> SidecarState:
        return SidecarState(Limits(max_requests=1), f"base/{rules[0].name}") if rules else SidecarState(Limits(), None)

    async def state(self, client: Users) -> SidecarState:
        return self.wanted(self.rules)

    async def reach(self, client: Users, wanted: SidecarState) -> None:
        if self.slow is not None:
            await self.slow.wait()
        if REFUSED in self.rules:
            raise MeshError("the sidecar rejected the configuration")

    async def counters(self, client: Users) -> Counters:
        return Counters(pending_overflow=7)  # from before: the sidecar is not new

    async def edge(self, client: Users, load: Any, *, offset: int) -> Edge:
        assert offset == -7, "what the sidecar had counted before is not the users'"
        if isinstance(load, Peeked) and self.blind is not None:
            self.looks += 1
            await self.blind.wait()
        tally = await load.begin_tally()
        return Edge(clock(), Reading(Counters(pending_overflow=7)), tally, 0)

    async def count(self, *, restart_peak: bool = False) -> ServiceReading:
        return ServiceReading(ServiceCount(), {})

    async def phase(self, name: str | None) -> None: ...

    def deaths(self) -> list[MeshError]:
        return []

    def gone(self) -> frozenset[str]:
        return frozenset()

    async def watch(self) -> MeshError:
        await anyio.sleep_forever()
        raise AssertionError


class Counted(Mesh):
    """A mesh whose sidecar counts: ``counted`` since its start."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = Counters(pending_overflow=7, total=100)

    async def counters(self, client: Users) -> Counters:
        return self.counted

    async def edge(self, client: Users, load: Any, *, offset: int) -> Edge:
        return Edge(clock(), Reading(self.counted), await load.begin_tally(), 0)


class Crew:
    def __init__(self, mesh: Mesh) -> None:
        self.loads = {NAME: mesh.clients[0]}

    @contextlib.asynccontextmanager
    async def __call__(self, tasks: TaskGroup) -> AsyncIterator[Crew]:
        yield self

    async def watch(self) -> MeshError:
        await anyio.sleep_forever()
        raise AssertionError


@contextlib.asynccontextmanager
async def running(mesh: Mesh) -> AsyncIterator[Session[Any, Any]]:
    session: Session[Any, Any] = Session(mesh, Crew(mesh), timeout_s=1.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(session.run)
        with anyio.fail_after(10):
            while session.window is None:  # noqa: ASYNC110  # once
                await anyio.sleep(0.001)
            yield session
            session.end()


def phases(session: Session[Any, Any]) -> list[str]:
    return [window.phase.name for window in session.measured.windows]


async def test_each_toggle_ends_a_phase_and_one_that_comes_again_has_a_number() -> None:
    mesh = Mesh()
    async with running(mesh) as session:
        for rules in ((RULE,), (), (RULE,), ()):
            await session.toggle(rules)
            assert session.window is not None
            assert session.ruled is bool(rules)
    assert phases(session) == ["baseline", "limited", "recovered", "limited-2", "recovered-2"]
    assert not session.measured.reasons
    assert session.measured.restored is True
    assert mesh.put_before == [("user",), (), ("user",), ()]


async def test_the_end_takes_a_rule_out_that_is_in_force() -> None:
    mesh = Mesh()
    async with running(mesh) as session:
        await session.toggle((RULE,))
    assert mesh.put_before[-1] == ()
    assert session.measured.restored is True
    assert not session.measured.reasons


async def test_a_rule_that_the_sidecars_do_not_take_is_taken_back_and_the_session_goes_on() -> None:
    mesh = Mesh()
    async with running(mesh) as session:
        with pytest.raises(MeshError, match="rejected the configuration"):
            await session.toggle((REFUSED,))
        assert mesh.put_before == [("refused",), ()]
        assert session.window is not None
        assert not session.ruled
        await session.toggle((RULE,))
    assert phases(session) == ["baseline", "recovered", "limited"]
    assert not session.measured.reasons


async def test_while_the_sidecars_confirm_no_other_toggle_is_taken() -> None:
    mesh = Mesh()
    async with running(mesh) as session:
        mesh.slow = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.toggle, (RULE,))
            while session.confirmed is None:  # noqa: ASYNC110  # once
                await anyio.sleep(0.001)
            assert session.ruled, "some of the sidecars may have the rule"
            with pytest.raises(RefusedError, match="the policy is being toggled"):
                await session.toggle(())
            mesh.slow.set()
        assert session.confirmed is None


async def test_a_session_that_is_over_takes_no_toggle(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Mesh()
    monkeypatch.setattr(sessions, "MAX_TOGGLES", 1)
    async with running(mesh) as session:
        await session.toggle((RULE,))
        with pytest.raises(RefusedError, match="toggled 1 times"):
            await session.toggle(())
    with pytest.raises(RefusedError, match="no test is running"):
        await session.toggle(())


async def test_an_interim_look_ends_nothing() -> None:
    mesh = Mesh()
    async with running(mesh) as session:
        await session.toggle((RULE,))
        looked = await session.interim()
        assert [window.phase.name for window in looked.windows] == ["baseline", "limited"]
        assert looked.windows[-1].ends
        assert phases(session) == ["baseline"]
        assert session.window is not None
        assert not session.window.ends
        assert mesh.clients[0].last_tally.number == session.window.starts[NAME].tally.number + 1, "it goes on counting"


async def test_a_look_at_a_phase_that_is_left_meanwhile_says_nothing_of_it() -> None:
    mesh = Mesh()
    async with running(mesh) as session:
        mesh.blind = anyio.Event()
        looked: list[Window] = []

        async def look() -> None:
            looked.extend((await session.interim()).windows)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            while not mesh.looks:  # noqa: ASYNC110  # once
                await anyio.sleep(0.001)
            await session.toggle((RULE,))
            mesh.blind.set()
        (baseline,) = session.measured.windows
        assert len(looked) == 1
        assert looked[0] is baseline, "as it was when it ended: what was seen of the load afterwards is of another tally"


@pytest.mark.parametrize(
    ("counted", "why"),
    [
        (Counters(pending_overflow=9, total=130), "0 overflows, its sidecar 2, because somebody else uses the sidecar"),
        (Counters(total=3), "0 overflows, its sidecar -7, because the sidecar's counters went back: it was restarted"),
    ],
)
async def test_what_is_counted_while_no_phase_is_open_has_a_ledger_of_its_own(counted: Counters, why: str) -> None:
    mesh = Counted()
    async with running(mesh) as session:
        mesh.slow = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.toggle, (RULE,))
            while not phases(session):  # noqa: ASYNC110  # once
                await anyio.sleep(0.001)
            mesh.counted = counted
            mesh.slow.set()
    (reason,) = session.measured.reasons
    assert reason.startswith(f"outside the ledgers of the phases {NAME} counted {why}")


async def test_a_sidecar_that_is_restarted_in_a_phase_is_that_phase_s_business_alone() -> None:
    mesh = Counted()
    async with running(mesh) as session:
        await session.toggle((RULE,))
        mesh.counted = Counters(total=3)
    assert not session.measured.reasons
