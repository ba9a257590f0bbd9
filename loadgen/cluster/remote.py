"""How is a load pod spoken to? Its control interface, reached through the API server: one order, one answer, each obeyed once."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio

from loadgen.cluster.failure import ApiError, NotFoundError
from loadgen.cluster.marks import restore_command
from loadgen.engine.load import clock
from loadgen.errors import MeshError, printable
from loadgen.pod_interface import CALL_HEADER, PORT, RUN_HEADER, SECRET_HEADER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

T = TypeVar("T")
ASK_S = 5.0
SILENT_S = 15.0
"""An API server that is restarted is back sooner; a run that lost a pod for longer has lost its count."""
AGAIN_S = 0.3
SAID_BYTES = 200
"""How much of what is no answer a message repeats."""


class UnreachableError(MeshError):
    """Nothing came back from a pod, or only from what lies between."""


class PodGoneError(MeshError):
    """There is no such pod any more."""


class NotOursError(MeshError):
    """The pod does not work for this run."""


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again for as long as the pod cannot be reached, but not longer than ``SILENT_S``."""
    until = clock() + SILENT_S
    while True:
        try:
            return await ask()
        except UnreachableError:
            if clock() > until:
                raise
        await anyio.sleep(AGAIN_S)


class Proxy(Protocol):
    """What reaches a pod's port."""

    async def proxy(
        self,
        namespace: str,
        pod: str,
        port: int,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] = {},
        timeout_s: float,
    ) -> tuple[int, bytes]:
        """GET a path of a pod, or POST a body there; gives status and body."""


@dataclass(frozen=True, slots=True)
class RemotePod:
    """The control interface of one pod, for one run. ``secret`` is what the pods were given, too."""

    api: Proxy
    namespace: str
    name: str
    run: str
    secret: str = dataclasses.field(repr=False)

    async def snapshot(self) -> dict[str, Any]:
        """Give the pod's snapshot."""
        return await self._ask("/snapshot", None, ASK_S)

    async def tell(self, verb: str, *, timeout_s: float = ASK_S, **arguments: object) -> dict[str, Any]:
        """Have the pod do something once, and give its answer. If the answer is lost it is asked for again, for ``SILENT_S``.

        Raises MeshError if it does not answer, or refuses.
        """
        body, call = json.dumps(arguments).encode(), secrets.token_hex(8)
        return await patiently(lambda: self._ask(f"/control/{verb}", body, timeout_s, call))

    async def _ask(self, path: str, body: bytes | None, timeout_s: float, call: str = "") -> dict[str, Any]:
        headers = {SECRET_HEADER: self.secret, RUN_HEADER: self.run, CALL_HEADER: call, "content-type": "application/json"}
        try:
            status, answer = await self.api.proxy(self.namespace, self.name, PORT, path, body=body, headers=headers, timeout_s=timeout_s)
        except NotFoundError as error:
            raise PodGoneError(f"pod {self.name} is gone: it was deleted or evicted") from error
        except ApiError as error:
            raise UnreachableError(f"pod {self.name} cannot be reached: {error.message}", hint=error.hint) from error
        try:
            values = json.loads(answer)
        except (ValueError, RecursionError):
            values = None
        if status != 200 or not isinstance(values, dict):  # noqa: PLR2004
            said = str(values.get("error", "")) if isinstance(values, dict) else answer[:SAID_BYTES].decode("utf-8", "replace")
            kind = NotOursError if status == 409 else MeshError  # noqa: PLR2004
            raise kind(f"pod {self.name} answered {status} to {path}: {printable(said) or 'nothing'}", hint=self._hint(status))
        return values

    def _hint(self, status: int) -> str:
        who = f"; {restore_command(self.namespace)} --dry-run shows which one" if status == 409 else ""  # noqa: PLR2004
        return _HINTS.get(status, "") + who

    @contextlib.contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """Take an answer apart. One that is not what was asked for is the pod's fault, and no bug of ours: a MeshError."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            said = printable(repr(error))[:SAID_BYTES]
            raise MeshError(f"pod {self.name} answered to {what} what is no such answer ({said})", hint=_HINTS[404]) from error


_HINTS = {
    403: "its secret is another one than the runner's; see the Secret loadgen-control",
    404: "is this pod the load pod of this version of loadgen?",
    409: "another run has this pod; wait for it to end",
    503: "the pod does not listen yet, or has just ended",
}
