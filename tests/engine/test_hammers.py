"""Do loads in further processes count what loads in this one would, and does nothing of them outlive their owner?"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from loadgen.engine import hammers as hammers_module
from loadgen.engine.channel import Channel
from loadgen.engine.hammers import HammerProcess, Hammers, Load, RemoteLoad, default_processes, drain, hammers
from loadgen.engine.lanes import Shot
from loadgen.engine.load import ClientLoad, clock
from loadgen.engine.spec import LoadSpec
from loadgen.errors import HammerError, RefusedError
from loadgen.outcome import Answer, Expected, Outcome
from loadgen.pacing import Burst, Closed, Interval, Open, RateCourse, Stage
from loadgen.recorder import Tally, merged

from .driven_load import OK, REQUEST, outcomes
from .scripted_server import PATIENCE_S, forever, receive, send, serving, wait
from .test_outcomes import OVERFLOW

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from loadgen.pacing import Pacing

pytestmark = pytest.mark.anyio

TWO_USERS = Closed(2)
ALWAYS_OK = [forever(receive, send(OK))]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The further processes run on uvloop whatever the owner runs on; one test is enough for an owner on asyncio's own loop."""
    return "asyncio", {"use_uvloop": True}


def specs_of(
    address: tuple[str, int], count: int = 2, pacing: Pacing = TWO_USERS, *, limit: int | None = None, max_in_flight: int = 100
) -> list[LoadSpec]:
    """Specify the loads of some clients."""
    shot = Shot(address, REQUEST, Expected(200, b"Kevin"), PATIENCE_S)
    return [LoadSpec(f"client-{number}", shot, pacing, f"1-{number}", max_in_flight, limit) for number in range(1, count + 1)]


@contextlib.asynccontextmanager
async def crew_of(specs: Sequence[LoadSpec], processes: int = 2) -> AsyncIterator[Hammers]:
    """Make the loads in so many processes. At the end none of the processes may be left."""
    pids: list[int] = []
    with anyio.fail_after(2 * PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            async with hammers(specs, tasks, processes) as crew:
                pids += [process.pid for process in crew._processes]
                yield crew
            tasks.cancel_scope.cancel()
    assert not [pid for pid in pids if lives(pid)]


def lives(pid: int) -> bool:
    """Tell whether a process is there and has not ended; one that nobody has taken leave of yet has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


async def until(reached: Callable[[], bool]) -> None:
    """Wait for something of another process's, which tells nobody."""
    with anyio.fail_after(PATIENCE_S):
        while not reached():  # noqa: ASYNC110
            await anyio.sleep(0.005)


async def each(crew: Hammers, verb: str) -> list[Any]:
    """Ask all loads the same."""
    return [await getattr(load, verb)() for load in crew.loads.values()]


# Loads in other processes do what loads in this one do.


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": True}), ("asyncio", {"use_uvloop": False})], ids=["uvloop", "asyncio"]
)
async def test_what_the_clients_of_two_processes_count_together_is_what_the_server_counts() -> None:
    async with serving(ALWAYS_OK) as server:
        async with crew_of(specs_of(server.address, 3, limit=50)) as crew:
            assert crew.processes == 2
            assert list(crew.loads) == ["client-1", "client-2", "client-3"]
            for load in crew.loads.values():
                load.start()
            await each(crew, "wait_finished")
            tallies = await each(crew, "snapshot")
            assert [tally.requests for tally in tallies] == [50, 50, 50]
            total = merged(tallies)
            assert outcomes(total) == {Outcome.OK: 150}
            assert server.requests == total.requests == total.lag.count == total.statuses[200]
            sights = await each(crew, "look")
            assert {sight.pid for sight in sights} == {process.pid for process in crew._processes}
            assert os.getpid() not in {sight.pid for sight in sights}
            assert all(sight.cpu_s > 0 for sight in sights)
        await server.until(lambda: server.open == 0)


@pytest.mark.parametrize(
    "pacing",
    [Closed(2, Interval(0.001, exponential=True)), Open(RateCourse(500, [Stage(900, ramp_s=0.1)]), poisson=True), Burst(5, 0.001)],
    ids=["closed", "open", "burst"],
)
async def test_every_load_model_can_be_sent_to_another_process(pacing: Pacing) -> None:
    async with serving(ALWAYS_OK) as server, crew_of(specs_of(server.address, 2, pacing, limit=20)) as crew:
        await each(crew, "prepare")
        await server.until(lambda: server.connections == 2 * pacing.at_once)
        for load in crew.loads.values():
            load.start()
        await each(crew, "wait_finished")
        assert outcomes(merged(await each(crew, "snapshot"))) == {Outcome.OK: 40}
        assert server.requests == 40


async def test_a_new_tally_begins_in_another_process_only_if_no_overflow_was_seen_since_its_owner_looked() -> None:
    gate = asyncio.Event()
    script = [receive, send(OVERFLOW), receive, wait(gate), send(OVERFLOW), receive]
    async with serving(script) as server, crew_of(specs_of(server.address, 2, Closed(1))) as crew:
        load = crew.loads["client-2"]
        load.start()
        await server.until(lambda: server.requests == 2)
        before = await load.look()
        assert (before.sidecar_overflow, before.in_flight) == (1, 1)
        gate.set()
        await server.until(lambda: server.requests == 3)
        assert await load.begin_tally(if_overflow=before.sidecar_overflow) is None
        assert outcomes(await load.snapshot()) == {Outcome.OVERFLOW: 2}, "nothing has changed"
        ended = await load.begin_tally(if_overflow=2)
        assert ended is not None
        assert outcomes(ended) == {Outcome.OVERFLOW: 2}
        assert outcomes(await load.snapshot()) == {}
        assert (await load.look()).sidecar_overflow == 2
        assert (await crew.loads["client-1"].look()).sidecar_overflow == 0


async def test_a_load_in_another_process_is_held_released_drained_and_stopped() -> None:
    async with serving(ALWAYS_OK) as server, crew_of(specs_of(server.address, 2)) as crew:
        load = crew.loads["client-1"]
        load.start()
        await server.until(lambda: server.requests >= 20)
        load.hold()
        await drain(load)
        held = server.requests
        assert await load.all_done_since(clock())
        await anyio.sleep(0.02)
        assert server.requests == held == (await load.snapshot()).requests
        load.release()
        await server.until(lambda: server.requests >= held + 20)
        load.stop()
        await drain(load)
        assert server.requests == (await load.snapshot()).requests


async def test_one_who_asks_a_load_in_another_process_is_told_exactly_one_answer() -> None:
    seen: list[Answer] = []
    async with serving(ALWAYS_OK) as server, crew_of(specs_of(server.address, 2, limit=100)) as crew:
        crew.loads["client-2"].ask(seen.append)
        for load in crew.loads.values():
            load.start()
        await each(crew, "wait_finished")
        await each(crew, "look")  # what was told before this answer has arrived
        ((client, outcome, body),) = [(answer.client, answer.outcome, answer.response and answer.response.body) for answer in seen]
        assert (client, outcome, body) == ("client-2", Outcome.OK, b"Kevin")


async def test_what_was_seen_is_reported_without_being_asked_for() -> None:
    async with serving(ALWAYS_OK) as server, crew_of(specs_of(server.address, 2, limit=30)) as crew:
        assert [load.sight.outcomes[Outcome.OK] for load in crew.loads.values()] == [0, 0]
        for load in crew.loads.values():
            load.start()
        await until(lambda: all(load.sight.outcomes[Outcome.OK] == 30 for load in crew.loads.values()))


async def test_loads_that_are_dropped_leave_no_connection() -> None:
    async with serving([receive]) as server:
        async with crew_of(specs_of(server.address, 2)) as crew:
            for load in crew.loads.values():
                load.start()
            await server.until(lambda: server.requests == 4)
        await server.until(lambda: server.open == 0)


async def test_one_process_is_this_one() -> None:
    async with serving(ALWAYS_OK) as server:
        async with crew_of(specs_of(server.address, 2, limit=10), processes=1) as crew:
            assert crew.processes == 1
            assert {load.sight.pid for load in crew.loads.values()} == {os.getpid()}
            for load in crew.loads.values():
                load.start()
            await each(crew, "wait_finished")
            assert server.requests == merged(await each(crew, "snapshot")).requests == 20
        await server.until(lambda: server.open == 0)


@pytest.mark.parametrize("real", [ClientLoad, RemoteLoad])
def test_a_load_is_asked_the_same_wherever_it_lives(real: type) -> None:
    for name, method in inspect.getmembers(Load, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.iscoroutinefunction(getattr(real, name)) == inspect.iscoroutinefunction(method), name
            assert inspect.signature(getattr(real, name)).parameters.keys() == inspect.signature(method).parameters.keys(), name


# A process that dies, or is silent.


async def test_a_process_that_is_killed_is_noticed_and_what_it_had_reported_is_kept() -> None:
    async with serving(ALWAYS_OK) as server, crew_of(specs_of(server.address, 4, limit=40)) as crew:
        for load in crew.loads.values():
            load.start()
        await each(crew, "wait_finished")
        await until(lambda: all(load.sight.outcomes[Outcome.OK] == 40 for load in crew.loads.values()))
        victim = crew.loads["client-1"].sight.pid
        os.kill(victim, signal.SIGKILL)
        with anyio.fail_after(PATIENCE_S):
            death = await crew.watch()
        assert isinstance(death, HammerError)
        assert f"process {victim}) died" in death.message
        dead = [load for load in crew.loads.values() if load.sight.pid == victim]
        alive = [load for load in crew.loads.values() if load.sight.pid != victim]
        assert (len(dead), len(alive)) == (2, 2)
        started = clock()
        for load in dead:
            with pytest.raises(HammerError, match="died"):
                await load.look()
            with pytest.raises(HammerError, match="died"):
                await load.begin_tally()
            with pytest.raises(HammerError, match="died"):
                await load.wait_finished()
            load.stop()
            load.abort()
            assert outcomes(await load.snapshot()) == {Outcome.OK: 40}, "as it had reported"
        for load in alive:
            assert (await load.look()).pid != victim
            ended = await load.begin_tally()
            assert ended is not None
            assert outcomes(ended) == {Outcome.OK: 40}
        assert clock() - started < hammers_module.ANSWER_S / 2, "nobody waits in vain"


async def test_a_process_that_dies_while_it_is_asked_lets_nobody_wait() -> None:
    async with serving([receive]) as server, crew_of(specs_of(server.address, 2, limit=1)) as crew:
        load = crew.loads["client-1"]
        load.start()
        await server.until(lambda: server.requests == 1)
        raised: list[HammerError] = []

        async def be_told() -> None:
            with pytest.raises(HammerError, match="died") as caught:
                await load.wait_finished()
            raised.append(caught.value)

        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(be_told)
                await anyio.sleep(0.02)
                os.kill((await load.look()).pid, signal.SIGKILL)
        assert len(raised) == 1


async def test_a_process_that_was_silent_once_is_asked_nothing_more_and_its_late_answer_confuses_nobody() -> None:
    async with serving(ALWAYS_OK) as server, crew_of(specs_of(server.address, 2, limit=10)) as crew:
        process = crew._processes[0]
        (name, *_) = process.loads
        await process.ask(name, "look")
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(HammerError, match="did not answer"):
            await process.ask(name, "begin_tally", answer_s=0.1, if_overflow=None)
        os.kill(process.pid, signal.SIGCONT)
        with pytest.raises(HammerError, match="did not answer"):
            await crew.loads[name].look()
        assert isinstance(await crew.loads[name].snapshot(), Tally), "what it reported last"


async def test_a_process_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hammers_module, "STOP_S", 0.1)
    async with serving(ALWAYS_OK) as server, crew_of(specs_of(server.address, 2)) as crew:
        await each(crew, "look")
        os.kill(crew._processes[1].pid, signal.SIGSTOP)


async def test_a_c_at_the_terminal_is_for_the_owner_alone() -> None:
    async with serving(ALWAYS_OK) as server, crew_of(specs_of(server.address, 2)) as crew:
        await each(crew, "look")
        for process in crew._processes:
            assert os.getsid(process.pid) != os.getsid(0)
            os.kill(process.pid, signal.SIGINT)
        assert len(await each(crew, "look")) == 2


async def test_a_machine_that_can_start_no_process_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    async with anyio.create_task_group() as tasks:
        with pytest.raises(RefusedError, match="cannot be started") as caught:
            await hammers(specs_of(("127.0.0.1", 1)), tasks, 2).__aenter__()
    assert caught.value.hint == "try --processes 1"


async def test_if_the_second_process_cannot_be_started_the_first_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    spawn = HammerProcess.spawn
    spawned: list[HammerProcess] = []

    async def start_one(number: int, specs: Sequence[LoadSpec]) -> HammerProcess:
        if spawned:
            raise RefusedError("one is enough")
        spawned.append(await spawn(number, specs))
        return spawned[0]

    monkeypatch.setattr(HammerProcess, "spawn", start_one)
    async with anyio.create_task_group() as tasks:
        with pytest.raises(RefusedError, match="one is enough"):
            await hammers(specs_of(("127.0.0.1", 1)), tasks, 2).__aenter__()
    assert [lives(process.pid) for process in spawned] == [False]


OWNER = """
import anyio, sys
from tests.engine.test_hammers import specs_of
from loadgen.engine.hammers import hammers

async def own(port):
    async with anyio.create_task_group() as tasks, hammers(specs_of(("127.0.0.1", port)), tasks, 2) as crew:
        for load in crew.loads.values():
            load.start()
            await load.look()
        print(*(process.pid for process in crew._processes), flush=True)
        await anyio.sleep_forever()

anyio.run(own, int(sys.argv[1]), backend_options={"use_uvloop": True})
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_no_process_outlives_an_owner_that_is_killed(end: signal.Signals) -> None:
    async with serving(ALWAYS_OK) as server:
        async with await anyio.open_process([sys.executable, "-c", OWNER, str(server.address[1])], stderr=None) as owner:
            try:
                assert owner.stdout is not None
                with anyio.fail_after(3 * PATIENCE_S):  # three interpreters have to start
                    line = await BufferedByteReceiveStream(owner.stdout).receive_until(b"\n", 100)
                pids = [int(pid) for pid in line.split()]
                assert len(pids) == 2
                assert all(lives(pid) for pid in pids)
                await server.until(lambda: server.requests > 100)
                owner.send_signal(end)
                await until(lambda: not any(lives(pid) for pid in pids))
            finally:
                with contextlib.suppress(ProcessLookupError):
                    owner.kill()  # it ends by itself only when it is told to, and is waited for
        await server.until(lambda: server.open == 0)


# How many, and how they talk.


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 64])
def test_the_default_is_one_process_for_a_low_rate_and_never_more_than_half_of_the_cores(cpus: int) -> None:
    assert default_processes(1.0, cpus=cpus) == 1
    assert default_processes(1e9, cpus=cpus) == max(1, cpus // 2)
    counts = [default_processes(10.0**power, cpus=cpus) for power in range(9)]
    assert counts == sorted(counts)


@contextlib.asynccontextmanager
async def channels() -> AsyncIterator[tuple[Channel, Channel]]:
    """Make both ends of a channel."""
    ends = socket.socketpair()
    made = []
    for end in ends:
        end.setblocking(False)
        made.append(await Channel.on(end))
    yield made[0], made[1]
    for channel in made:
        channel.close()
    await asyncio.sleep(0)


async def test_values_of_any_size_arrive_in_the_order_in_which_they_were_sent() -> None:
    values = [0, "", b"a" * 100_000, {"tally": "t" * 3_000_000}, None, [1.5] * 1000]
    async with channels() as (one, other):
        for value in values:
            one.send(value)
        with anyio.fail_after(PATIENCE_S):
            assert [await other.receive() for _ in values] == values
        other.send("back")
        assert await one.receive() == "back"


async def test_the_end_of_a_channel_is_heard_and_what_is_said_afterwards_is_dropped() -> None:
    async with channels() as (one, other):
        one.send("last words")
        one.close()
        assert await other.receive() == "last words"
        with pytest.raises(EOFError):
            await other.receive()
        for _ in range(3):
            other.send("is anybody there?")
            await asyncio.sleep(0)


async def test_a_value_that_was_cut_off_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    channel = await Channel.on(ours)
    theirs.sendall(b"\x10\x00\x00\x00half")
    theirs.close()
    with pytest.raises(EOFError):
        await channel.receive()
    channel.close()
    await asyncio.sleep(0)
