"""A run, or a restore, that dies where it is told to: the whole sequence from the lease to its release, killed before or after a write.

``python -m tests.cluster.undo_process`` reads orders from stdin, one a line, as JSON: ``{"job", "place", "state", "mode", "url", ...}``. Each
becomes a process, which prints every place that it passes, and is killed at its own (0 is none). What it printed and how it ended goes to
stdout.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from loadgen.cluster.api import PLAIN_JSON, KubeApi
from loadgen.cluster.change import Mode
from loadgen.cluster.guard import guard_job
from loadgen.cluster.journal_file import JournalFile
from loadgen.cluster.paths import Call
from loadgen.cluster.restore import restore
from loadgen.cluster.turn import turn
from tests.cluster.rules import access, host, new_run, planned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.cluster.way import Answer


class Mortal(KubeApi):
    """An API client whose process is killed at one of its writes: before it is sent, or after it was answered."""

    place = 0
    passed = 0

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None, content_type: str = PLAIN_JSON
    ) -> Answer:
        call = Call(method, path)
        if not call.is_write:
            return await super().request(method, path, query=query, body=body, content_type=content_type)
        what = f"{call.verb} {call.resource.partition('.')[0]}{_state(body)}"
        self._pass(f"before {what}")
        answer = await super().request(method, path, query=query, body=body, content_type=content_type)
        self._pass(f"after {what}")
        return answer

    @classmethod
    def _pass(cls, place: str) -> None:
        cls.passed += 1
        print(f"{cls.passed} {place}", flush=True)
        if cls.passed == cls.place:
            os.kill(os.getpid(), signal.SIGKILL)


def _state(body: object) -> str:
    """Say which state a journal is brought to, and what a patch is about."""
    if isinstance(body, dict) and "data" in body:
        record = json.loads(body["data"]["journal.json"])
        return f" {record['state']}" + ("" if record["entries"] else " of nothing")
    if isinstance(body, list):
        return " owners of fields" if any(each["path"] == "/metadata/managedFields" for each in body) else " limits"
    return ""


async def run(mode: str, url: str, authority: str, token: str, base: str, home: str, run_id: str) -> None:
    async with Mortal(lambda: access(url, authority, token)) as api, anyio.create_task_group() as tasks:
        change = await planned(api, base, home, Mode(mode))
        one_run = new_run(api, base, home, run_id=run_id)
        guard = guard_job(one_run, "loadgen:test", lasts_s=60.0)
        async with turn(api, one_run, change, tasks, version="v1", guard=guard, guard_s=0.0, file=JournalFile(run_id)) as toggle:
            await toggle.apply()
            await toggle.remove()
            await toggle.apply()
            print((await toggle.restore()).sentence)
        tasks.cancel_scope.cancel()


async def put_back(mode: str, url: str, authority: str, token: str, base: str, home: str, run_id: str) -> None:
    del mode
    async with Mortal(lambda: access(url, authority, token)) as api:
        await restore(api, host(base), home, run_id=run_id, settle_s=0.0)


def live(order: dict[str, Any]) -> None:
    """Be a run or a restore, in a process of its own."""
    Mortal.place = order.pop("place")
    os.environ["XDG_STATE_HOME"] = order.pop("state")
    anyio.run(partial({"run": run, "restore": put_back}[order.pop("job")], **order))


def spawn(order: dict[str, Any]) -> dict[str, Any]:
    """Give life to one of them, and say how it ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, sys.stdout.fileno())
        try:
            live(order)
        except BaseException:  # noqa: BLE001  # whatever it was, the test shows it
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as output:  # noqa: PTH123  # a descriptor
        lines = output.read().splitlines()
    return {"lines": lines, "code": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(spawn(json.loads(line))), flush=True)
