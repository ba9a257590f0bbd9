"""``python -m loadgen.desk FD OPTIONS``: serves the process that holds the other end of the socket FD, until that one is gone.

OPTIONS are JSON: ``pid`` names the mesh, null if there is only one; ``mend`` is the process of a desk that died, if one has: what it may have
left in force is removed before anything is read, so an end of Locust comes after it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from typing import TYPE_CHECKING, Any

import anyio

from loadgen.desk.desk import Desk
from loadgen.desk.lines import Lines
from loadgen.desk.questions import answer
from loadgen.desk.signals import leave_signals_to_locust
from loadgen.errors import LoadgenError

if TYPE_CHECKING:
    from loadgen.desk.site import Site


async def serve(descriptor: int, options: dict[str, Any]) -> None:
    """Answer until the other end is gone; then put everything back."""
    lines = await Lines.on(socket.socket(fileno=descriptor))
    async with contextlib.AsyncExitStack() as stack:
        try:
            site = await _site(options, lines, stack)
        except LoadgenError as error:
            problems = [str(problem) for problem in getattr(error, "problems", ())]
            lines.send({"event": "refused", "message": "\n".join([*problems, error.message]), "hint": error.hint})
            return
        await _answer_all(site, lines, mend=bool(options.get("mend")))


async def _site(options: dict[str, Any], lines: Lines, stack: contextlib.AsyncExitStack) -> Site:
    """Find the mesh; what it takes to reach it is imported only where it is asked for.

    Raises LoadgenError if there is none.
    """
    if options["kind"] == "cluster":
        from loadgen.desk.cluster import ClusterSite  # noqa: PLC0415

        return await stack.enter_async_context(ClusterSite.found(options, lambda said: lines.send({"event": "said", "text": said})))
    from loadgen.desk.local import LocalSite  # noqa: PLC0415

    return LocalSite.found(options["pid"], dead=options.get("mend", 0))


async def _answer_all(site: Site, lines: Lines, *, mend: bool) -> None:
    async with anyio.create_task_group() as tasks:
        desk = Desk(site, lines, tasks)
        if mend:
            await desk.mend()
        try:
            while True:
                message = await lines.receive()
                if "do" in message:
                    tasks.start_soon(answer, desk, lines, message)
                else:
                    desk.take(message)
        except EOFError:
            desk.gone()
        if came := await desk.close():
            sys.stderr.write(f"loadgen: {came}\n")
        tasks.cancel_scope.cancel()


def main() -> None:
    """Run until the parent closes its end."""
    leave_signals_to_locust()
    anyio.run(serve, int(sys.argv[1]), json.loads(sys.argv[2]), backend_options={"use_uvloop": True})


if __name__ == "__main__":
    main()
