"""What does a sidecar say of itself? Asks the admin interface of an Envoy, wherever it runs, and reads its pages.

Facts measured on Envoy 1.40: ``/stats`` names a cluster by its ``alt_stat_name``, with Istio's trailing semicolon; ``config_dump`` shows
the limits that are in force on the main thread, the workers follow in well under a millisecond; ``/clusters`` shows the live thresholds.
``last_updated`` of a cluster in ``config_dump`` moves when the cluster becomes another one, and neither with the same one again nor with others.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from loadgen.engine.edge import Reading
from loadgen.engine.wire import fetch
from loadgen.errors import MeshError
from loadgen.ledger import Counters
from loadgen.policy.state import SidecarState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Admin:
    """The admin interface of one client's sidecar: its host and port. ``cluster`` is the sidecar's name of the target."""

    client: str
    address: tuple[str, int]
    cluster: str

    async def ask(self, path: str, read: Callable[[bytes], T]) -> T:
        """Fetch an admin page and read it.

        Raises MeshError if there is no answer, or one that cannot be understood.
        """
        try:
            page = await fetch(*self.address, path)
        except MeshError as error:
            raise MeshError(f"{sidecar_name(self.client)} does not answer: {error.message}") from error
        try:
            return read(page)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise MeshError(f"the answer of {sidecar_name(self.client)} to {path} cannot be understood: {error!r}") from error

    async def is_live(self) -> bool:
        """Tell whether the sidecar takes requests."""
        return await self.ask(READY_PATH, bytes) == LIVE

    async def version(self) -> str:
        """Give Envoy's version."""
        return await self.ask(SERVER_PATH, read_version)

    async def workers(self) -> int:
        """Give the number of Envoy's worker threads."""
        return await self.ask(SERVER_PATH, read_workers)

    async def rejected(self) -> int:
        """Give how many configurations the sidecar has refused since its start."""
        return await self.ask(REJECTED_PATH, read_rejected)

    async def counters(self) -> Counters:
        """Read the counters of the target's cluster."""
        return await self.ask(counters_path(self.cluster), read_counters)

    async def reading(self) -> Reading:
        """Read the counters of the target's cluster and how many connections it has, from one page."""
        return await self.ask(counters_path(self.cluster), lambda page: Reading(read_counters(page), None, read_connections(page)))

    async def keeps_counters(self) -> bool:
        """Tell whether the sidecar keeps the counters of the target's cluster: by Istio's default it does not."""
        return await self.ask(counters_path(self.cluster), lambda page: b"upstream_rq_total:" in page)

    async def state(self) -> SidecarState | None:
        """Give what is in force: the cluster's configuration, and the live thresholds from ``/clusters``. None without such a cluster."""
        state = await self.ask(config_path(self.cluster), read_state)
        if state is None:
            return None
        live = await self.ask(thresholds_path(self.cluster), lambda page: read_thresholds(page, self.cluster))
        return replace(state, limits=replace(state.limits, **live))


def sidecar_name(client: str) -> str:
    """Give the name that people know a client's sidecar by."""
    return f"{client}'s sidecar"


_COUNTER_NAMES = {
    "upstream_rq_pending_overflow": "pending_overflow",
    "upstream_rq_active_overflow": "active_overflow",
    "upstream_cx_overflow": "cx_overflow",
    "upstream_rq_total": "total",
    "upstream_cx_total": "cx_total",
    "upstream_cx_max_requests": "cx_max_requests",
    "upstream_rq_retry_overflow": "retry_overflow",
    "upstream_rq_retry": "retried",
}
_CONNECTIONS = "upstream_cx_active"
"""A gauge."""


def counters_path(cluster: str) -> str:
    """Give the admin path of the counters of one cluster, and of its connections."""
    pattern = r"^cluster\.{cluster};?\.({names})$".format(cluster=re.escape(cluster), names="|".join([*_COUNTER_NAMES, _CONNECTIONS]))
    return f"/stats?filter={quote(pattern)}"


def read_counters(page: bytes) -> Counters:
    """Read the counters on the page that ``counters_path`` names. Before 1.38 Envoy has no counter of its own for rejects by the limit of requests."""
    values = {_COUNTER_NAMES[name]: value for name, value in _figures(page) if name in _COUNTER_NAMES}
    if "active_overflow" not in values:
        values["combined_overflow"] = values.pop("pending_overflow", 0)
    return Counters(**values)


def read_connections(page: bytes) -> int | None:
    """Read from the page that ``counters_path`` names how many connections are open; None if the sidecar does not keep that."""
    return dict(_figures(page)).get(_CONNECTIONS)


def _figures(page: bytes) -> Iterator[tuple[str, int]]:
    for line in page.decode("utf-8", "replace").splitlines():
        name, _, value = line.rpartition(": ")
        if value.isdigit():
            yield name.rpartition(".")[2], int(value)


def config_path(cluster: str) -> str:
    """Give the admin path of the configuration of one cluster that is in force."""
    return f"/config_dump?resource=dynamic_active_clusters&name_regex={quote(f'^{re.escape(cluster)}$')}"


def read_state(page: bytes) -> SidecarState | None:
    """Read the page that ``config_path`` names: what the cluster's configuration says, or None if the sidecar has none of that name."""
    configs: Sequence[Any] = json.loads(page).get("configs", [])
    return replace(SidecarState.of_cluster(configs[0]["cluster"]), updated=configs[0].get("last_updated", "")) if configs else None


def thresholds_path(cluster: str) -> str:
    """Give the admin path of the live thresholds of one cluster. A sidecar that knows no filter shows all its clusters; that is read, too."""
    return f"/clusters?filter={quote(f'^{re.escape(cluster)}$')}"


def read_thresholds(page: bytes, cluster: str) -> dict[str, int]:
    """Read the live thresholds of one cluster from the admin page ``/clusters``.

    Raises LookupError if the page does not show all four.
    """
    prefix = f"{cluster}::default_priority::"
    lines = [line.removeprefix(prefix) for line in page.decode("utf-8", "replace").splitlines() if line.startswith(prefix)]
    found = {name: value for name, _, value in (line.partition("::") for line in lines)}
    return {name: int(found[name]) for name in ("max_connections", "max_pending_requests", "max_requests", "max_retries")}


REJECTED_PATH = "/stats?filter=" + quote(r"^cluster_manager\.cds\.update_(rejected|failure)$")


def read_rejected(page: bytes) -> int:
    """Read how many configurations the sidecar has refused since its start."""
    return sum(int(line.rpartition(": ")[2]) for line in page.decode().splitlines() if ": " in line)


LISTENERS_PATH = "/listeners?format=json"
READY_PATH = "/ready"
LIVE = b"LIVE\n"


def read_address(page: bytes) -> tuple[str, int]:
    """Read the listener's address from the admin page ``/listeners?format=json``.

    Raises LookupError while the listener is not up yet.
    """
    for listener in json.loads(page).get("listener_statuses", []):
        address = listener["local_address"]["socket_address"]
        return address["address"], address["port_value"]
    raise LookupError("the listener is not up yet")


SERVER_PATH = "/server_info"


def read_version(page: bytes) -> str:
    """Read Envoy's version, such as ``1.40.0``, from the admin page ``/server_info``; it stands between two slashes after the commit."""
    parts = str(json.loads(page).get("version", "")).split("/")
    return parts[1] if len(parts) > 1 else "unknown"


def read_workers(page: bytes) -> int:
    """Read the number of worker threads from the admin page ``/server_info``.

    Raises LookupError if it is not there.
    """
    return int(json.loads(page)["command_line_options"]["concurrency"])
