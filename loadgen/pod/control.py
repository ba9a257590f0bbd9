"""What may a run do with this pod? The control interface: a secret, a run, a verb, and never a target.

The laws: who does not know the secret learns nothing; only the run that holds the pod may use its load; and an order that was begun is done to
its end, whether or not the one who gave it still listens. So that an answer that got lost can be had again, a request may carry a name of its
own (``x-loadgen-call``): said twice, it is done once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
from collections import OrderedDict
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import anyio

from loadgen.engine.edge import find_edge
from loadgen.engine.load import clock
from loadgen.errors import HammerError, MeshError, RefusedError
from loadgen.pod.hammer import HeldError
from loadgen.pod.orders import (
    Converge,
    DoneSince,
    FindEdge,
    Nothing,
    OrderError,
    Phase,
    Take,
    UnreadableError,
    over_limits,
    read_order,
)
from loadgen.pod_interface import CALL_HEADER, RUN_HEADER, SECRET_HEADER
from loadgen.serving.exchange import Reply, as_json, refusal
from loadgen.totals import BETWEEN_PHASES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from loadgen.engine.edge import Edge
    from loadgen.engine.load import Sight
    from loadgen.pod.hammer import Hammer
    from loadgen.pod.log import Log
    from loadgen.pod.own_sidecar import OwnSidecar
    from loadgen.pod.settings import Settings
    from loadgen.schema import Model
    from loadgen.serving.exchange import Request

Json = dict[str, Any]
ORDER_S = 15.0
"""No order takes longer: the longest wait that can be asked for is 10 s."""
MAX_SECRET_BYTES = 4096
MAX_CALL_CHARACTERS = 200
CALLS = 64
"""So many answers are kept for those who did not get them."""
_FIRST_FAILURE = 500
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True, slots=True)
class Verb:
    """What a verb's body is, and what it does. One that ``only_reads`` may be obeyed twice."""

    model: type[Model]
    do: Callable[[str, Any], Awaitable[Json]]
    only_reads: bool = False


class Control:
    """Obeys control requests. ``snapshot`` gives what ``take`` answers with."""

    def __init__(self, settings: Settings, hammer: Hammer, sidecar: OwnSidecar, snapshot: Callable[[], Awaitable[Json]], log: Log) -> None:
        self._settings = settings
        self._hammer = hammer
        self._sidecar = sidecar
        self._snapshot = snapshot
        self._log = log
        self._calls: OrderedDict[tuple[str, str, str], asyncio.Future[Reply]] = OrderedDict()
        self._verbs = {
            "take": Verb(Take, self._take),
            "leave": Verb(Nothing, self._leave),
            "phase": Verb(Phase, self._phase),
            "start": Verb(Nothing, self._start),
            "stop": Verb(Nothing, partial(self._tell, "stop")),
            "abort": Verb(Nothing, partial(self._tell, "abort")),
            "look": Verb(Nothing, self._look, only_reads=True),
            "done_since": Verb(DoneSince, self._done_since, only_reads=True),
            "edge": Verb(FindEdge, self._edge),
            "counters": Verb(Nothing, self._counters, only_reads=True),
            "state": Verb(Nothing, self._state, only_reads=True),
            "converge": Verb(Converge, self._converge, only_reads=True),
        }

    async def answer(self, request: Request, verb: str) -> Reply:
        """Check who asks, and obey."""
        if not self.knows_secret(request):
            self._log.say("a control request without the right secret was refused", kind="secret")
            return refusal(403, f"the control interface demands the shared secret in the header {SECRET_HEADER}")
        run = request.headers.get(RUN_HEADER, "")
        if not _RUN.fullmatch(run):
            return refusal(400, f"the header {RUN_HEADER} must name the run: letters, digits, '.', '_' and '-', at most 80")
        if verb not in self._verbs:
            return refusal(404, f"there is no such verb; there are {', '.join(self._verbs)}")
        call = request.headers.get(CALL_HEADER, "")[:MAX_CALL_CHARACTERS]
        if not call or self._verbs[verb].only_reads:
            return await self._obey(run, verb, request.body)
        return await self._once((run, verb, call), request.body)

    def knows_secret(self, request: Request) -> bool:
        """Compare in constant time. The file is read each time: it may come later than the pod, and change."""
        secret = _read_secret(self._settings.secret_file)
        given = request.headers.get(SECRET_HEADER, "").encode("latin-1", "replace")
        return bool(secret) and hmac.compare_digest(secret, given)

    async def _once(self, call: tuple[str, str, str], body: bytes) -> Reply:
        """Obey, or give the answer of the first time. What failed was not done, and may be tried again."""
        if call in self._calls:
            return await asyncio.shield(self._calls[call])
        answer = self._calls[call] = asyncio.get_running_loop().create_future()
        while len(self._calls) > CALLS:
            self._calls.popitem(last=False)
        reply = refusal(503, "this pod is ending")
        try:
            reply = await self._obey(*call[:2], body)
        finally:
            answer.set_result(reply)
            if reply.status >= _FIRST_FAILURE:
                self._calls.pop(call, None)
        return reply

    async def _obey(self, run: str, name: str, body: bytes) -> Reply:
        verb = self._verbs[name]
        try:
            order = read_order(verb.model, body)
            with anyio.fail_after(ORDER_S):
                return as_json(200, await self._heard(run, verb, order))
        except UnreadableError as error:
            return refusal(400, error.message)
        except OrderError as error:
            return refusal(422, error.message)
        except HeldError as error:
            return refusal(409, error.message, holder=error.holder)
        except (RefusedError, MeshError, HammerError) as error:
            return refusal(503, error.in_a_line)
        except TimeoutError:
            return refusal(503, f"'{name}' was not done within {ORDER_S:g} s")

    async def _heard(self, run: str, verb: Verb, order: Model) -> Json:
        """Do it; meanwhile, and from then on, the run was heard of."""
        hold = self._hammer.hold
        with hold.heard() if hold is not None and hold.run == run else contextlib.nullcontext():
            return await verb.do(run, order)

    # The verbs.

    async def _take(self, run: str, order: Take) -> Json:
        too_much = over_limits(order, max_users=self._settings.max_users, max_rate_per_s=self._settings.max_rate_per_s)
        if too_much:
            raise OrderError(too_much)
        await self._hammer.take(run, order)
        self._log.say(f"run {run} has taken this pod over")
        return await self._snapshot()

    async def _leave(self, run: str, _order: Nothing) -> Json:
        hold = self._hammer.hold
        if hold is not None and hold.run != run:
            raise HeldError(hold.run)
        if hold is not None:
            await self._hammer.leave(hold)
            self._log.say(f"run {run} has left: this pod goes back to its own load")
        return {}

    async def _phase(self, run: str, order: Phase) -> Json:
        hold, load = self._hammer.held_by(run)
        hold.phase = order.name
        await load.begin_phase(order.name or BETWEEN_PHASES)
        return {}

    async def _start(self, run: str, _order: Nothing) -> Json:
        _, load = self._hammer.held_by(run)
        if self._hammer.stopping:
            raise RefusedError("this pod is ending")
        if load.stopped:
            raise OrderError("the load was stopped; take the pod again for a new one")
        load.start()
        return {}

    async def _tell(self, what: Literal["stop", "abort"], run: str, _order: Nothing) -> Json:
        _, load = self._hammer.held_by(run)
        getattr(load, what)()
        return {}

    async def _look(self, run: str, _order: Nothing) -> Json:
        _, load = self._hammer.held_by(run)
        return as_sight(await load.look())

    async def _done_since(self, run: str, order: DoneSince) -> Json:
        _, load = self._hammer.held_by(run)
        return {"done": await load.all_done_since(clock() - order.age_s)}

    async def _edge(self, run: str, order: FindEdge) -> Json:
        hold, load = self._hammer.held_by(run)
        async with hold.edges:  # two at once would take each other's tally
            edge = await find_edge(load, self._sidecar.reading, offset=hold.offset if order.offset is None else order.offset)
            hold.offset = edge.overflow - edge.reading.counters.overflow
        return _as_edge(edge)

    async def _counters(self, run: str, _order: Nothing) -> Json:
        self._hammer.held_by(run)
        return {"counters": asdict(await self._sidecar.counters())}

    async def _state(self, _run: str, _order: Nothing) -> Json:
        return await self._sidecar.live_state()

    async def _converge(self, _run: str, order: Converge) -> Json:
        reached, state = await self._sidecar.reach(order.limits.limits, order.rule, wait_s=order.wait_s)
        return {"reached": reached, "state": state}


def as_sight(sight: Sight) -> Json:
    """Give what a load has seen as JSON can hold it."""
    return asdict(sight)


def _as_edge(edge: Edge) -> Json:
    return {
        "counters": asdict(edge.reading.counters),
        "connections": edge.reading.connections,
        "overflow": edge.overflow,
        "held_s": edge.held_s,
        "on_the_way": edge.on_the_way,
        "settled": edge.settled,
        "tally": edge.tally.snapshot(),
    }


def _read_secret(file: Path | None) -> bytes:
    """Give the secret, or nothing if there is none that can be read."""
    if file is None:
        return b""
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_SECRET_BYTES).strip()
    except OSError:
        return b""
