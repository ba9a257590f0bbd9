"""What is one client to send? A value that can be sent to another process, and the load that is made of it there."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadgen.engine.lanes import Lanes, Shot
from loadgen.engine.load import ClientLoad

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from loadgen.engine.http import HttpShot
    from loadgen.engine.load import Carrier
    from loadgen.pacing import Pacing


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """One client's load; ``seed`` makes its random choices, ``limit`` ends it after so many requests."""

    name: str
    shot: Shot | HttpShot
    pacing: Pacing
    seed: str
    max_in_flight: int
    limit: int | None = None

    def make(self, tasks: TaskGroup) -> ClientLoad:
        """Make the load in this process; ``tasks`` own what it does in the background."""
        return ClientLoad(
            self.name,
            lambda load: _carrier(load, self.shot, tasks),
            self.pacing,
            random.Random(self.seed),
            max_in_flight=self.max_in_flight,
            limit=self.limit,
        )


def mesh_request(client: str, authority: str, path: str) -> bytes:
    """Give the request of a mesh's client; a service that counts tells the clients apart by their names in it."""
    return f"GET {path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: loadgen\r\nx-loadgen-client: {client}\r\n\r\n".encode("ascii")


def _carrier(load: ClientLoad, shot: Shot | HttpShot, tasks: TaskGroup) -> Carrier:
    if isinstance(shot, Shot):
        return Lanes(load, shot, tasks)
    from loadgen.engine.http import HttpCarrier  # noqa: PLC0415  # httpx takes a quarter of a second to import

    return HttpCarrier(load, shot, tasks)
