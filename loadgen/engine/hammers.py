"""In how many processes is the load made? One client's load always lives in one process; its owner does not see in which.

A process of one's own costs some 0.2 s of CPU to start, and its control a fraction of a millisecond per question. One process is enough
until the event loop is busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from loadgen.engine.channel import Channel
from loadgen.engine.load import Sight, clock
from loadgen.errors import HammerError, RefusedError
from loadgen.outcome import Outcome
from loadgen.recorder import Tally

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from anyio.abc import TaskGroup

    from loadgen.engine.spec import LoadSpec
    from loadgen.outcome import Answer

ANSWER_S = 10.0
"""How long a hammer process may take to answer; a loop that is so busy measures nothing of use."""
STOP_S = 2.0
DRAIN_POLL_S = 0.003
RATE_EACH_PER_S = 20_000.0
"""What one process is good for, with a margin."""


class Load(Protocol):
    """One client's load as its owner sees it, wherever it lives. ``ClientLoad`` says what each of these does."""

    @property
    def sight(self) -> Sight:
        """What was seen until some tenths of a second ago, or until now."""

    @property
    def last_tally(self) -> Tally:
        """The present tally, as it was some tenths of a second ago, or is now."""

    async def prepare(self) -> None: ...
    def start(self, *, for_s: float | None = None) -> None: ...
    def stop(self) -> None: ...
    def abort(self) -> None: ...
    def hold(self) -> None: ...
    def release(self) -> None: ...
    def ask(self, tell: Callable[[Answer], None]) -> None: ...
    async def begin_tally(self, *, if_overflow: int | None = None) -> Tally | None: ...
    async def look(self) -> Sight: ...
    async def snapshot(self) -> Tally: ...
    async def wait_finished(self) -> None: ...
    async def all_done_since(self, moment: float) -> bool: ...


class Done(Protocol):
    """Whatever knows which of its requests have ended."""

    async def all_done_since(self, moment: float) -> bool: ...


async def drain(load: Done) -> None:
    """Wait until everything that the load has sent until now has ended."""
    sent_until = clock()
    while not await load.all_done_since(sent_until):  # noqa: ASYNC110  # the hot path signals nothing: it would cost every request
        await anyio.sleep(DRAIN_POLL_S)


class RemoteLoad:
    """A load in another process. What is said to it arrives in the order in which it was said."""

    def __init__(self, name: str, hammer: HammerProcess) -> None:
        self.name = name
        self.sight = Sight(dict.fromkeys(Outcome, 0), 0, 0, 0, hammer.pid, 0.0)
        self.last_tally = Tally()
        self.tell: Callable[[Answer], None] | None = None
        self._hammer = hammer

    def __repr__(self) -> str:
        return f"<RemoteLoad {self.name} in process {self._hammer.pid}>"

    async def prepare(self) -> None:
        await self._hammer.ask(self.name, "prepare", answer_s=None)

    def start(self, *, for_s: float | None = None) -> None:
        self._hammer.say(self.name, "start", for_s=for_s)

    def stop(self) -> None:
        self._hammer.say(self.name, "stop")

    def abort(self) -> None:
        self._hammer.say(self.name, "abort")

    def hold(self) -> None:
        self._hammer.say(self.name, "hold")

    def release(self) -> None:
        self._hammer.say(self.name, "release")

    def ask(self, tell: Callable[[Answer], None]) -> None:
        self.tell = tell
        self._hammer.say(self.name, "ask")

    async def begin_tally(self, *, if_overflow: int | None = None) -> Tally | None:
        with anyio.CancelScope(shield=True):  # the other side has begun it when it is asked: a lost answer would be a lost tally
            ended: Tally | None = await self._hammer.ask(self.name, "begin_tally", if_overflow=if_overflow)
        return ended

    async def look(self) -> Sight:
        self.sight = await self._hammer.ask(self.name, "look")
        return self.sight

    async def snapshot(self) -> Tally:
        """Give the present tally; if the process is gone, as it was when it last reported."""
        with contextlib.suppress(HammerError):
            self.last_tally = await self._hammer.ask(self.name, "snapshot")
        return self.last_tally

    async def wait_finished(self) -> None:
        await self._hammer.ask(self.name, "wait_finished", answer_s=None)

    async def all_done_since(self, moment: float) -> bool:
        return bool(await self._hammer.ask(self.name, "all_done_since", moment=moment))


class HammerProcess:
    """Another process that makes some of the loads."""

    def __init__(self, number: int, process: subprocess.Popen[bytes], channel: Channel, specs: Sequence[LoadSpec]) -> None:
        self._number = number
        self._process = process
        self._channel = channel
        self._questions: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._death: HammerError | None = None
        self.loads = {spec.name: RemoteLoad(spec.name, self) for spec in specs}
        channel.send(specs)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @classmethod
    async def spawn(cls, number: int, specs: Sequence[LoadSpec]) -> HammerProcess:
        """Start a process for these loads.

        Raises RefusedError if there can be none.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(  # noqa: ASYNC220  # some milliseconds, before anything is measured
                    [sys.executable, "-P", "-m", "loadgen.engine.process", str(theirs.fileno())],  # -P: nothing of the current folder
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise RefusedError(f"a further hammer process cannot be started: {error}", hint="try --processes 1") from error
        ours.setblocking(False)
        return cls(number, process, await Channel.on(ours), specs)

    def say(self, name: str, verb: str, **arguments: object) -> None:
        """Have something done that has no answer."""
        self._channel.send((0, name, verb, arguments))

    async def ask(self, name: str, verb: str, *, answer_s: float | None = ANSWER_S, **arguments: object) -> Any:
        """Have something done and wait for the answer, as long as ``answer_s``.

        Raises HammerError if the process is dead or silent.
        """
        if self._death is not None:
            raise self._death
        number = next(self._numbers)
        answer = self._questions[number] = asyncio.get_running_loop().create_future()
        self._channel.send((number, name, verb, arguments))
        try:
            with anyio.fail_after(answer_s):
                return await answer
        except TimeoutError as error:
            self._death = HammerError(f"hammer process {self._number} (process {self.pid}) did not answer within {answer_s:.0f} s")
            raise self._death from error  # and from now on it is asked nothing more
        finally:
            del self._questions[number]

    async def listen(self, died: Callable[[HammerError], None]) -> None:
        """Take in what the process reports until it is gone, and tell that it ``died``."""
        with contextlib.suppress(EOFError):
            while True:
                kind, key, value = await self._channel.receive()
                if kind == "result":
                    if key in self._questions and not self._questions[key].done():
                        self._questions[key].set_result(value)
                elif kind == "seen":
                    load = self.loads[key]
                    load.sight, load.last_tally = value
                elif (tell := self.loads[key].tell) is not None:
                    self.loads[key].tell = None
                    tell(value)
        self._death = HammerError(f"hammer process {self._number} (process {self.pid}) died; what it had not reported is lost")
        for question in self._questions.values():
            if not question.done():
                question.set_exception(self._death)
        died(self._death)

    async def close(self) -> None:
        """Let the process end, and end it if it does not."""
        self._channel.close()
        with anyio.move_on_after(STOP_S):
            while self._process.poll() is None:  # noqa: ASYNC110  # a process that ends wakes nobody
                await anyio.sleep(0.005)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Hammers:
    """All loads of a run, by client, and the processes that they live in."""

    def __init__(self, loads: Mapping[str, Load], processes: Sequence[HammerProcess]) -> None:
        self.loads = loads
        self._processes = processes
        self._deaths: list[HammerError] = []
        self._died = anyio.Event()

    @property
    def processes(self) -> int:
        """In how many processes the load is made."""
        return len(self._processes) or 1

    def listen(self, tasks: TaskGroup) -> None:
        """Take in what the processes report, each in a task of its own: that one is dead must not make the others mute."""
        for process in self._processes:
            tasks.start_soon(process.listen, self._bury)

    async def watch(self) -> HammerError:
        """Wait until a process dies; say which."""
        await self._died.wait()
        return self._deaths[0]

    def _bury(self, death: HammerError) -> None:
        self._deaths.append(death)
        self._died.set()


@contextlib.asynccontextmanager
async def hammers(specs: Sequence[LoadSpec], tasks: TaskGroup, processes: int = 1) -> AsyncIterator[Hammers]:
    """Make the loads: in this process, or spread over so many others. At the end what is in flight is dropped and the processes end."""
    if processes == 1:
        with contextlib.ExitStack() as made:
            loads: dict[str, Load] = {}
            for spec in specs:
                load = loads[spec.name] = spec.make(tasks)
                made.callback(load.abort)
            yield Hammers(loads, [])
        return
    async with contextlib.AsyncExitStack() as stack:
        spawned = []
        for number in range(processes):
            process = await HammerProcess.spawn(number + 1, specs[number::processes])
            stack.push_async_callback(_close, process)
            spawned.append(process)
        by_name: dict[str, Load] = {name: load for process in spawned for name, load in process.loads.items()}
        crew = Hammers({spec.name: by_name[spec.name] for spec in specs}, spawned)
        crew.listen(tasks)
        yield crew


async def _close(process: HammerProcess) -> None:
    with anyio.CancelScope(shield=True):
        await process.close()


def default_processes(rate_per_s: float, *, cpus: int | None = None) -> int:
    """Give how many processes are sensible for a load that reaches such a rate at most: on half of the cores, for the target needs some."""
    cores = cpus or len(os.sched_getaffinity(0))
    return max(1, min(math.ceil(rate_per_s / RATE_EACH_PER_S), cores // 2))
