"""What does a pod say of itself? Everything that a runner needs to merge it with others, as JSON can hold it."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from loadgen import __version__
from loadgen.pod_interface import SCHEMA

if TYPE_CHECKING:
    from loadgen.pod.answers import Answers
    from loadgen.pod.hammer import Hammer
    from loadgen.pod.own_sidecar import OwnSidecar
    from loadgen.pod.settings import Settings

INCARNATION_BYTES = 8


class Snapshots:
    """Makes snapshots of the pod. ``incarnation`` is another one after each restart, for then all counts have begun anew."""

    def __init__(self, settings: Settings, hammer: Hammer, sidecar: OwnSidecar, answers: Answers) -> None:
        self.incarnation = secrets.token_hex(INCARNATION_BYTES)
        self._settings = settings
        self._hammer = hammer
        self._sidecar = sidecar
        self._answers = answers

    async def take(self) -> dict[str, Any]:
        """Say how the pod is now.

        ``sight`` and ``tally`` are the present load's: the tally since its last edge. ``totals`` are the outcomes since the start of the process.
        ``offset`` is by how much the run's load and the sidecar are known to differ (load less sidecar), None without a run.
        """
        settings, hammer = self._settings, self._hammer
        hold = hammer.hold
        expected = settings.expected
        return {
            "schema": SCHEMA,
            "version": __version__,
            "name": settings.name,
            "namespace": settings.namespace,
            "region": settings.region,
            "incarnation": self.incarnation,
            "target": settings.aim.url,
            "expect": {"status": expected.status, "body": (expected.body or b"").decode()},
            "limits": {"users": settings.max_users, "rate": settings.max_rate_per_s},
            "cluster": settings.cluster,
            "sidecar": {
                "version": self._sidecar.version,
                "workers": self._sidecar.workers,
                "counts": self._sidecar.counts,
                "state": self._sidecar.state,
            },
            "run": hold.run if hold is not None else None,
            "phase": hold.phase if hold is not None else None,
            "offset": hold.offset if hold is not None else None,
            "trouble": hammer.trouble,
            "stopping": hammer.stopping,
            "sight": asdict(hammer.sight()),
            "tally": (await hammer.tally()).snapshot(),
            "totals": hammer.outcomes(),
            "sample": self._answers.last,
        }
