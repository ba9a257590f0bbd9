"""What does this pod's own sidecar say? Is it live, which rule is in force, and when does it show what was wanted?"""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import anyio

from loadgen.engine.load import clock
from loadgen.errors import MeshError
from loadgen.sidecar import config_path, read_state

if TYPE_CHECKING:
    from loadgen.engine.edge import Reading
    from loadgen.ledger import Counters
    from loadgen.policy.limits import Limits
    from loadgen.policy.state import SidecarState
    from loadgen.sidecar import Admin

LIVE = "live"
LOOK_S = 1.0
"""How often the sidecar is asked whether it is live, once it was."""
EARLY_LOOK_S = 0.1
"""And how often before that: a pod should be ready soon after its sidecar."""
POLL_S = 0.005


class OwnSidecar:
    """The sidecar, and what it said last.

    ``state`` is ``live`` or why not, ``counts`` whether it keeps the counters of the target's cluster, ``rule`` the one in force (None without
    one), ``propagation_s`` how long was waited for the last state that a run wanted.
    """

    def __init__(self, admin: Admin) -> None:
        self.admin = admin
        self.state = "the sidecar was not asked yet"
        self.version = "unknown"
        self.workers = 0
        self.counts = False
        self.rule: str | None = None
        self.propagation_s: float | None = None

    async def watch(self) -> None:
        """Look for as long as the task lives."""
        while True:
            try:
                await self._look()
            except MeshError as error:
                self.state = error.message
            await anyio.sleep(LOOK_S if self.state == LIVE else EARLY_LOOK_S)

    async def _look(self) -> None:
        if not await self.admin.is_live():
            raise MeshError(f"{self.admin.client}'s sidecar is not live yet")
        if self.state != LIVE:
            self.version = await self.admin.version()  # another one may have come up in its place
            self.workers = await self.admin.workers()
        self.state = LIVE
        if not self.counts:
            self.counts = await self.admin.keeps_counters()
        with contextlib.suppress(MeshError):  # for people who watch; without the cluster, the requests show that there is none
            await self._configured()

    async def _configured(self) -> SidecarState:
        """Read the configuration alone: the admin page with the live thresholds is long in a large mesh."""
        found = await self.admin.ask(config_path(self.admin.cluster), read_state)
        if found is None:
            raise MeshError(f"{self.admin.client}'s sidecar has no cluster {self.admin.cluster}: is there such a Service?")
        self.rule = found.rule
        return found

    async def counters(self) -> Counters:
        """Read the counters of the target's cluster."""
        return await self.admin.counters()

    async def reading(self) -> Reading:
        """Read the counters of the target's cluster, and how many connections it has."""
        return await self.admin.reading()

    async def live_state(self) -> dict[str, Any]:
        """Give the limits and the rule in force as JSON can hold them, or the error that kept them from being read."""
        try:
            state = await self.admin.state()
        except MeshError as error:
            return {"limits": None, "rule": None, "error": error.message}
        if state is None:
            return {"limits": None, "rule": None, "error": f"the sidecar has no cluster {self.admin.cluster}"}
        self.rule = state.rule
        return {"limits": asdict(state.limits), "rule": state.rule, "updated": state.updated, "error": None}

    async def reach(self, limits: Limits, rule: str | None, *, wait_s: float) -> tuple[bool, dict[str, Any]]:
        """Wait at most ``wait_s`` until the sidecar shows these limits and this rule; tell whether it does, and what it shows."""
        wanted = asdict(limits), rule
        started = clock()
        with anyio.move_on_after(wait_s):
            while True:
                if await self._seems_to_show(limits, rule):
                    state = await self.live_state()
                    if (state["limits"], state["rule"]) == wanted:
                        self.propagation_s = clock() - started
                        return True, state
                await anyio.sleep(POLL_S)
        return False, await self.live_state()

    async def _seems_to_show(self, limits: Limits, rule: str | None) -> bool:
        try:
            found = await self._configured()
        except MeshError:
            return False
        return (found.limits, found.rule) == (limits, rule)
