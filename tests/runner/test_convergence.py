"""Does convergence ask all sidecars at the same time, and say which did not get there?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from loadgen.engine.load import clock
from loadgen.errors import MeshError
from loadgen.policy.limits import Limits
from loadgen.policy.rule import Rule
from loadgen.policy.state import SidecarState
from loadgen.runner import convergence
from loadgen.runner.convergence import converge, for_each

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.anyio

BEFORE = SidecarState(Limits(), None)
RULE = Rule("user", "base", "user")
WANTED = SidecarState(Limits(max_requests=1), "base/user")


@dataclass(frozen=True, slots=True)
class Client:
    name: str


CLIENTS = [Client(f"client-{number}") for number in range(1, 4)]


class Sidecars:
    """Three sidecars; each shows the wanted state from its given reading on."""

    def __init__(self, *readings: int, clients: Sequence[Client] = CLIENTS, converge_s: float = 10.0) -> None:
        self.clients = clients
        self.converge_s = converge_s
        self.asked = dict.fromkeys((client.name for client in clients), 0)
        self.refuses = ""
        self._from = dict(zip(self.asked, readings, strict=True))

    def wanted(self, _rules: Sequence[Rule]) -> SidecarState:
        return WANTED

    async def state(self, client: Client) -> SidecarState:
        self.asked[client.name] += 1
        await anyio.lowlevel.checkpoint()
        if client.name == self.refuses:
            raise MeshError(f"{client.name}'s sidecar rejected the configuration")
        return WANTED if self.asked[client.name] >= self._from[client.name] else BEFORE

    async def reach(self, client: Client, wanted: SidecarState) -> None:
        while await self.state(client) != wanted:  # noqa: ASYNC110  # as a real one, it tells nobody
            await anyio.sleep(0.001)


NEVER = 1 << 60


async def test_it_ends_when_every_sidecar_shows_the_wanted_state_and_tells_when_each_did() -> None:
    sidecars = Sidecars(3, 1, 2)
    started = clock()
    reached = await converge(sidecars, ())
    assert sidecars.asked == {"client-1": 3, "client-2": 1, "client-3": 2}
    assert reached.keys() == sidecars.asked.keys()
    assert started <= reached["client-2"] <= reached["client-1"] <= clock()


@pytest.mark.parametrize(("rules", "said"), [((RULE,), "not in force"), ((), "not gone")])
async def test_too_late_names_the_sidecars_that_are_missing_and_says_what_one_shows_instead(rules: tuple[Rule, ...], said: str) -> None:
    with pytest.raises(MeshError) as raised:
        await converge(Sidecars(NEVER, 1, NEVER, converge_s=0.3), rules)
    assert raised.value.message == (
        f"after 0 s the policy was {said} at 2 of 3 sidecars: client-1, client-3;"
        " the rules lead to rule base/user (http2MaxRequests 1), and client-1's sidecar shows no rule (no limit)"
    )
    assert raised.value.hint


class Hanging(Sidecars):
    """Sidecars that answer nothing, after ``hang_s`` not even with an error."""

    hang_s = 0.0

    async def state(self, client: Client) -> SidecarState:
        await anyio.sleep(self.hang_s)
        raise MeshError(f"{client.name}'s sidecar does not answer")

    async def reach(self, client: Client, wanted: SidecarState) -> None:
        await anyio.sleep_forever()


@pytest.mark.parametrize("hang_s", [0.0, NEVER])
async def test_of_a_sidecar_that_answers_nothing_it_is_said_that_it_shows_nothing(monkeypatch: pytest.MonkeyPatch, hang_s: float) -> None:
    monkeypatch.setattr(convergence, "LOOK_S", 0.1)
    sidecars = Hanging(NEVER, NEVER, NEVER, converge_s=0.1)
    sidecars.hang_s = hang_s
    with pytest.raises(MeshError, match=r"client-1's sidecar shows nothing: it does not answer$"), anyio.fail_after(20):
        await converge(sidecars, ())


class Late(Sidecars):
    """Sidecars of which the last one gets there at the moment at which time is up."""

    async def reach(self, client: Client, wanted: SidecarState) -> None:
        try:
            await super().reach(client, wanted)
        except anyio.get_cancelled_exc_class():
            if client is not CLIENTS[-1]:
                raise


async def test_a_sidecar_that_gets_there_just_as_time_is_up_is_in_time() -> None:
    reached = await converge(Late(1, 1, NEVER, converge_s=0.3), ())
    assert reached.keys() == {"client-1", "client-2", "client-3"}


async def test_a_sidecar_that_refuses_ends_the_waiting_for_the_others() -> None:
    sidecars = Sidecars(NEVER, NEVER, NEVER)
    sidecars.refuses = "client-2"
    with pytest.raises(MeshError, match=r"^client-2's sidecar rejected the configuration$"):
        await converge(sidecars, ())


async def test_a_client_that_is_left_out_is_neither_asked_nor_waited_for() -> None:
    sidecars = Sidecars(1, NEVER, 1)
    assert (await converge(sidecars, (), without={"client-2"})).keys() == {"client-1", "client-3"}
    assert sidecars.asked["client-2"] == 0


async def test_no_sidecar_is_a_state_that_is_reached() -> None:
    assert await converge(Sidecars(clients=[]), ()) == {}


async def test_a_job_is_done_for_all_clients_at_the_same_time() -> None:
    together = anyio.Event()
    begun: list[str] = []

    async def job(client: Client) -> str:
        begun.append(client.name)
        if len(begun) == len(CLIENTS):
            together.set()
        await together.wait()
        return client.name.upper()

    with anyio.fail_after(20):
        results = await for_each(CLIENTS, job)
    assert results == {client.name: client.name.upper() for client in CLIENTS}


async def test_the_first_error_of_ours_is_raised_as_itself_and_cancels_the_others() -> None:
    cancelled: list[str] = []

    async def job(client: Client) -> None:
        if client is CLIENTS[1]:
            raise MeshError("no")
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled.append(client.name)
            raise

    with pytest.raises(MeshError, match=r"^no$"), anyio.fail_after(20):
        await for_each(CLIENTS, job)
    assert sorted(cancelled) == ["client-1", "client-3"]


async def test_of_several_errors_at_once_the_first_is_raised() -> None:
    async def job(client: Client) -> None:
        raise MeshError(client.name)

    with pytest.raises(MeshError, match=r"^client-1$"):
        await for_each(CLIENTS, job)


async def test_a_bug_is_not_taken_for_an_error_of_ours() -> None:
    async def job(_client: Client) -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as raised:
        await for_each(CLIENTS, job)
    assert raised.group_contains(ZeroDivisionError)


async def test_a_cancellation_from_outside_ends_all_jobs() -> None:
    begun: list[str] = []

    async def job(client: Client) -> None:
        begun.append(client.name)
        if len(begun) == len(CLIENTS):
            scope.cancel()
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        await for_each(CLIENTS, job)
    assert scope.cancelled_caught
