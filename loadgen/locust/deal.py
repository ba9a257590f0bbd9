"""Which Locust process has the users of which client? Each client's are in one process, so that whatever is asked about them is true at one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.errors import RefusedError
from loadgen.locust.options import STOP_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST_CHARACTERS = 63
"""A pod's host name is its name, cut to what a host name may have."""
SHOWN = 5
"""So many workers are named that are in the way."""
LOCAL = "local"
"""How Locust calls the only process when there are no workers."""


def in_turn(clients: Sequence[str], nodes: Sequence[str]) -> dict[str, str]:
    """Deal the clients of a local mesh out to Locust's processes.

    Raises RefusedError if there are too few of them.
    """
    if len(nodes) > len(clients):
        message = f"there are {len(nodes)} workers, but {len(clients)} clients: each worker needs a client of its own"
        raise RefusedError(message, hint="start fewer workers, or a mesh with more clients: loadgen up --clients N")
    return {client: nodes[number % len(nodes)] for number, client in enumerate(clients)}


def by_pod(clients: Sequence[str], nodes: Sequence[str]) -> dict[str, str]:
    """Give each pod the worker that lives in it: only that one sends through the pod's sidecar. A worker's id begins with its host's name.

    Raises RefusedError with every worker that is in none of the pods or not alone in one, and every pod without a worker.
    """
    if list(nodes) == [LOCAL]:
        raise RefusedError(
            "in a cluster users live in workers, each in a pod of its own", hint="start Locust with --master, and the workers"
        )
    pods = {client[:HOST_CHARACTERS].rstrip("-."): client for client in clients}
    found: dict[str, str] = {}
    wrong: list[str] = []
    for node in nodes:
        host = node.rpartition("_")[0]
        client = pods.get(host)
        if client is None:
            wrong.append(f"worker {host} is not in a ready pod that the scenario's labels select")
        elif client in found:
            wrong.append(f"pod {client} has two workers: one of them has just died, or it was started with --processes")
        else:
            found[client] = node
    wrong += [f"pod {client} has no worker that is connected" for client in clients if client not in found]
    if wrong or not found:
        hint = (
            f"kubectl get pods --show-labels shows them; after a test, workers are away for --stop-timeout seconds ({STOP_TIMEOUT_S:.0f})"
        )
        raise RefusedError("; ".join(wrong[:SHOWN]) or "there are no workers", hint=hint)
    return found
