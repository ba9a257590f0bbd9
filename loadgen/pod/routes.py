"""Which path leads where? Four pages for everybody who may reach the port, and the control interface for who knows the secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.families import CONTENT_TYPE, PATH
from loadgen.outcome import Outcome
from loadgen.pod.own_sidecar import LIVE
from loadgen.pod_interface import RUN_HEADER
from loadgen.serving.exchange import Reply, as_json, as_text, not_allowed, refusal

if TYPE_CHECKING:
    from loadgen.pod.control import Control
    from loadgen.pod.hammer import Hammer
    from loadgen.pod.metrics import Metrics
    from loadgen.pod.own_sidecar import OwnSidecar
    from loadgen.pod.snapshot import Snapshots
    from loadgen.serving.exchange import Request

CONTROL = "/control/"
_READ = frozenset({"GET", "HEAD"})
_ANSWERED = (Outcome.OK, Outcome.OVERFLOW, Outcome.WRONG_BODY, Outcome.HTTP_ERROR)
"""A request that ended so has reached the target, or was rejected by a limit: the way there is open."""


class Routes:
    """Answers every request that there can be."""

    def __init__(self, hammer: Hammer, sidecar: OwnSidecar, metrics: Metrics, snapshots: Snapshots, control: Control) -> None:
        self._hammer = hammer
        self._sidecar = sidecar
        self._metrics = metrics
        self._snapshots = snapshots
        self._control = control
        self._pages = {"/healthz": self._healthz, "/readyz": self._readyz, PATH: self._scrape, "/snapshot": self._snapshot}

    async def answer(self, request: Request) -> Reply:
        """Find the page or the control interface."""
        if request.path.startswith(CONTROL):
            if request.method != "POST":
                return not_allowed("POST")
            return await self._control.answer(request, request.path.removeprefix(CONTROL))
        page = self._pages.get(request.path)
        if page is None:
            return refusal(404, f"there is no such page; there are {', '.join(self._pages)} and POST {CONTROL}<verb>")
        if request.method not in _READ:
            return not_allowed("GET, HEAD")
        return await page(request)

    async def _healthz(self, _request: Request) -> Reply:
        return as_text(200, "ok")

    async def _readyz(self, _request: Request) -> Reply:
        reason = self._not_ready()
        return as_text(503, reason) if reason else as_text(200, "ok")

    def _not_ready(self) -> str:
        """Say why this pod is no client of the target yet, or any more; nothing if it is one."""
        if self._hammer.stopping:
            return "this pod is ending"
        if self._sidecar.state != LIVE:
            return self._sidecar.state
        if self._hammer.trouble:
            return self._hammer.trouble
        outcomes = self._hammer.outcomes()
        if any(outcomes[outcome] for outcome in _ANSWERED):
            return ""
        ended = ", ".join(f"{outcome} {count:,}" for outcome, count in outcomes.items() if count)
        return f"the target has answered no request yet ({ended or 'none has ended'})"

    async def _scrape(self, _request: Request) -> Reply:
        return Reply(200, await self._metrics.page.read(), CONTENT_TYPE)

    async def _snapshot(self, request: Request) -> Reply:
        """Give the snapshot; a run that names itself, and knows the secret, is heard of."""
        hold = self._hammer.hold
        if hold is not None and request.headers.get(RUN_HEADER) == hold.run and self._control.knows_secret(request):
            with hold.heard():
                return as_json(200, await self._snapshots.take())
        return as_json(200, await self._snapshots.take())
