"""Is each row of the table of causes what a real Envoy answers?

One Envoy with a route for each row, in front of a service that obeys the path. Its listener ``out`` is the own sidecar, ``quiet`` one whose
debug headers are suppressed, and ``in`` the server's side. Every row can be provoked. What the table says of these it says unproven:

* ``local connection failure`` and Envoy's older ``connection failure`` with a transport failure reason: a loopback address can always be
  tried, and this is Envoy 1.40;
* admission control, whose answer is that of a missing cluster: it refuses by chance and only after a window of failures.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen.cause import TABLE, Cause, Found, MadeBy, fitting
from loadgen.engine.http import HttpShot
from loadgen.engine.lanes import Shot
from loadgen.engine.spec import LoadSpec
from loadgen.engine.wire import fetch
from loadgen.errors import MeshError
from loadgen.mesh.boot import envoy_binary
from loadgen.mesh.children import Children
from loadgen.outcome import Answer, Expected, Outcome
from loadgen.pacing import Closed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from loadgen.recorder import Tally

pytestmark = [pytest.mark.anyio, pytest.mark.envoy]

MOST_S = 25.0
"""All rows together may take so long."""
REPEATED = 3
"""The wire engine reads the first of equal answers only."""
EXPECTED = Expected(200, b"Kevin")
OVERFLOW = b"upstream connect error or disconnect/reset before headers. reset reason: overflow"
TYPE = "type.googleapis.com/envoy.extensions"
ALWAYS = {"numerator": 100}
NEARLY_ALWAYS = {"numerator": 999_999, "denominator": "MILLION"}
OWN, SERVER, SERVICE, UNKNOWN = MadeBy.OWN_SIDECAR, MadeBy.SERVER_SIDE, MadeBy.SERVICE, MadeBy.UNKNOWN


@dataclass(frozen=True, slots=True)
class Provocation:
    """A request, and the cause for which it must fail. ``primed``: it fails from the second time on."""

    path: str
    cause: Cause
    made_by: MadeBy
    method: str = "GET"
    grpc: bool = False
    listener: str = "out"
    primed: bool = False


PROVOCATIONS = [
    Provocation("/full", Cause.OVERFLOW, OWN),
    Provocation("/in/full", Cause.OVERFLOW, SERVER),
    Provocation("/service/forge-all", Cause.OVERFLOW, SERVER),  # nobody can tell it from the one before
    Provocation("/full", Cause.OVERFLOW_UNMARKED, UNKNOWN, listener="quiet"),
    Provocation("/service/forge", Cause.OVERFLOW_CLAIMED, SERVICE),
    Provocation("/full", Cause.OVERFLOW, OWN, "POST", grpc=True),
    Provocation("/in/full", Cause.OVERFLOW, SERVER, "POST", grpc=True),
    Provocation("/full", Cause.OVERFLOW_UNMARKED, UNKNOWN, "POST", grpc=True, listener="quiet"),
    Provocation("/empty", Cause.GRPC_UNAVAILABLE, OWN, "POST", grpc=True),
    Provocation("/maintained", Cause.MAINTENANCE, OWN),
    Provocation("/in/maintained", Cause.MAINTENANCE, SERVER),
    Provocation("/maintained", Cause.MAINTENANCE, OWN, listener="quiet"),
    Provocation("/full", Cause.OVERLOADED, OWN, "HEAD"),
    Provocation("/maintained", Cause.OVERLOADED, OWN, "HEAD"),
    Provocation("/empty", Cause.NO_HEALTHY_UPSTREAM, OWN),
    Provocation("/in/empty", Cause.NO_HEALTHY_UPSTREAM, SERVER),
    Provocation("/dead", Cause.CONNECT_FAILURE, OWN),
    Provocation("/retried", Cause.CONNECT_FAILURE, OWN),
    Provocation("/mute", Cause.CONNECT_FAILURE, OWN),
    Provocation("/in/dead", Cause.CONNECT_FAILURE, SERVER),
    Provocation("/service/garbage", Cause.PROTOCOL_ERROR, OWN),
    Provocation("/service/close", Cause.RESET, OWN),
    Provocation("/slow/silence", Cause.ROUTE_TIMEOUT, OWN),
    Provocation("/faulty", Cause.FAULT_INJECTION, OWN),
    Provocation("/limited", Cause.RATE_LIMIT, OWN, primed=True),
    Provocation("/dropped", Cause.DROP, OWN),
    Provocation("/sometimes-dropped", Cause.DROP, OWN),
    Provocation("/nowhere", Cause.NO_CLUSTER, OWN),
    Provocation("/unrouted", Cause.NO_ROUTE, OWN),
    Provocation("/service/busy", Cause.SERVICE_503, SERVICE),
    Provocation("/service/oops", Cause.SERVICE_OTHER, SERVICE),
    Provocation("/service/Bob", Cause.SERVICE_OTHER, SERVICE),
    Provocation("/direct", Cause.UNEXPLAINED, UNKNOWN),
    Provocation("/empty", Cause.UNEXPLAINED, UNKNOWN, "HEAD"),
    Provocation("/service/busy", Cause.UNEXPLAINED, UNKNOWN, listener="quiet"),
    Provocation("/service/half", Cause.NO_HTTP, UNKNOWN),
]
UNDER_PRESSURE = [
    Provocation("/service", Cause.OVERLOAD_MANAGER, OWN),
    Provocation("/service", Cause.GRPC_UNAVAILABLE, OWN, "POST", grpc=True),
]


# The service.


def answer_to(path: str) -> bytes | None:
    """Give what the service answers; None if it closes the connection, nothing if it says nothing."""
    said = {
        "busy": (b"503 Service Unavailable", b"busy", b""),
        "forge": (b"503 Service Unavailable", OVERFLOW, b"content-type: text/plain\r\n"),
        "forge-all": (b"503 Service Unavailable", OVERFLOW, b"content-type: text/plain\r\nx-envoy-overloaded: true\r\n"),
        "oops": (b"500 Internal Server Error", b"oops", b""),
        "Bob": (b"200 OK", b"Bob", b""),
    }
    word = path.rpartition("/")[2]
    if word in {"close", "half"}:
        return None
    if word in {"silence", "garbage"}:
        return b"" if word == "silence" else b"garbage\r\n\r\n"
    status, body, more = said.get(word, (b"200 OK", b"Kevin", b""))
    return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, more, len(body), body)


class Service(asyncio.Protocol):
    """A service that obeys the path."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        path = data.split(b" ")[1].decode("ascii") if b" " in data else "/close"
        answer = answer_to(path)
        if answer is not None:
            self.transport.write(answer)
            return
        if path.endswith("half"):
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nKev")
        self.transport.close()


class Mute(asyncio.Protocol):
    """Somebody who takes connections and never shakes hands."""


# Envoy.


def cluster(name: str, *ports: int, **more: Any) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}} for port in ports]
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}], **more.pop("assignment", {})}
    return {"name": name, "type": "STATIC", "connect_timeout": "0.1s", "load_assignment": assignment, **more}


def dropping(share: dict[str, Any]) -> dict[str, Any]:
    return {"policy": {"drop_overloads": [{"category": "test", "drop_percentage": share}]}}


def clusters(service: int, mute: int, dead: int, inner: str) -> list[dict[str, Any]]:
    tls = {"name": "tls", "typed_config": {"@type": f"{TYPE}.transport_sockets.tls.v3.UpstreamTlsContext"}}
    to_inner = cluster("in")
    to_inner["load_assignment"]["endpoints"][0]["lb_endpoints"] = [{"endpoint": {"address": {"pipe": {"path": inner}}}}]
    return [
        cluster("service", service),
        cluster("full", service, circuit_breakers={"thresholds": [{"max_requests": 0, "max_pending_requests": 0}]}),
        cluster("empty"),
        cluster("dead", dead),
        cluster("mute", mute, transport_socket=tls),
        cluster("maintained", service),
        cluster("dropped", service, assignment=dropping(ALWAYS)),
        cluster("sometimes-dropped", service, assignment=dropping(NEARLY_ALWAYS)),
        to_inner,
    ]


def route(path: str, to: str, *, timeout: str = "0s", retries: int = 0, filters: dict[str, Any] | None = None) -> dict[str, Any]:
    action: dict[str, Any] = {"cluster": to, "timeout": timeout}
    if retries:
        action["retry_policy"] = {"retry_on": "connect-failure", "num_retries": retries}
    return {"match": {"prefix": path}, "route": action, "typed_per_filter_config": filters or {}}


def routes() -> list[dict[str, Any]]:
    fault = {"@type": f"{TYPE}.filters.http.fault.v3.HTTPFault", "abort": {"http_status": 503, "percentage": ALWAYS}}
    limit = {
        "@type": f"{TYPE}.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "limited",
        "token_bucket": {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"},
        "filter_enabled": {"default_value": ALWAYS},
        "filter_enforced": {"default_value": ALWAYS},
    }
    plain = ("full", "empty", "dead", "mute", "maintained", "dropped", "sometimes-dropped", "nowhere", "in", "service")
    return [
        *(route(f"/{name}", name) for name in plain),
        route("/retried", "dead", retries=1),
        route("/slow", "service", timeout="0.05s"),
        route("/faulty", "service", filters={"envoy.filters.http.fault": fault}),
        route("/limited", "service", filters={"envoy.filters.http.local_ratelimit": limit}),
        {"match": {"prefix": "/direct"}, "direct_response": {"status": 503, "body": {"inline_string": "go away"}}},
    ]


def listener(name: str, address: dict[str, Any], there: list[dict[str, Any]], **router: Any) -> dict[str, Any]:
    filters = [
        {"name": "envoy.filters.http.fault", "typed_config": {"@type": f"{TYPE}.filters.http.fault.v3.HTTPFault"}},
        {
            "name": "envoy.filters.http.local_ratelimit",
            "typed_config": {"@type": f"{TYPE}.filters.http.local_ratelimit.v3.LocalRateLimit", "stat_prefix": "all"},
        },
        {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router", **router}},
    ]
    hosts = [{"name": "all", "domains": ["*"], "routes": there}]
    manager = {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"name": name, "validate_clusters": False, "virtual_hosts": hosts},
        "http_filters": filters,
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": name, "address": address, "filter_chains": [chain]}


def bootstrap(service: int, mute: int, dead: int, pressure: Path) -> dict[str, Any]:
    loopback = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    inner = f"@loadgen-causes-{os.getpid()}"
    inside = [route(f"/in/{name}", name) for name in ("full", "empty", "dead", "maintained")]
    monitor = "envoy.resource_monitors.injected_resource"
    injected = {"@type": f"{TYPE}.resource_monitors.injected_resource.v3.InjectedResourceConfig", "filename": str(pressure)}
    stop = {
        "name": "envoy.overload_actions.stop_accepting_requests",
        "triggers": [{"name": monitor, "threshold": {"value": 0.9}}],
    }
    return {
        "admin": {"address": loopback},
        "static_resources": {
            "clusters": clusters(service, mute, dead, inner),
            "listeners": [
                listener("out", loopback, routes()),
                listener("quiet", loopback, routes(), suppress_envoy_headers=True),
                listener("in", {"pipe": {"path": inner}}, inside),
            ],
        },
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {"upstream.maintenance_mode.maintained": 100}}]},
        "overload_manager": {
            "refresh_interval": "0.05s",
            "resource_monitors": [{"name": monitor, "typed_config": injected}],
            "actions": [stop],
        },
    }


Ports = dict[str, int]


@contextlib.contextmanager
def unheard() -> Iterator[int]:
    """Give a port on which nobody listens, and on which nobody else can begin to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextlib.asynccontextmanager
async def serving(protocol: type[asyncio.Protocol]) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextlib.asynccontextmanager
async def envoy(folder: Path) -> AsyncIterator[Ports]:
    """Give the ports of the listeners of a running Envoy."""
    squeeze(folder, "0")
    async with serving(Service) as service, serving(Mute) as mute:
        with unheard() as dead, Children() as children:
            config, admin = folder / "bootstrap.json", folder / "admin"
            config.write_text(json.dumps(bootstrap(service, mute, dead, folder / "pressure")), encoding="utf-8")
            command = [str(envoy_binary()), "--config-path", str(config), "--concurrency", "1", "--disable-hot-restart"]
            children.start("Envoy", [*command, "--admin-address-path", str(admin), "--log-level", "warning"], folder / "envoy.log")
            with anyio.fail_after(15):
                while not (ports := await listening(admin)):  # a process tells nobody that it is up
                    assert children.deaths() == []
                    await anyio.sleep(0.01)
            yield ports


async def listening(admin: Path) -> Ports:
    """Give the ports of the listeners, or nothing as long as they are not there."""
    try:
        port = int((await anyio.Path(admin).read_text(encoding="ascii")).rpartition(":")[2])
        await fetch("127.0.0.1", port, "/ready")
        statuses = json.loads(await fetch("127.0.0.1", port, "/listeners?format=json"))["listener_statuses"]
        addresses = {each["name"]: each["local_address"].get("socket_address") for each in statuses}
        return {name: address["port_value"] for name, address in addresses.items() if address}
    except (OSError, ValueError, LookupError, MeshError):
        return {}


def squeeze(folder: Path, pressure: str) -> None:
    """Say how much of an invented resource Envoy has used up; it looks at files that are renamed into place."""
    (folder / "next").write_text(pressure, encoding="ascii")
    (folder / "next").replace(folder / "pressure")


# Asking.


def on_the_wire(provoked: Provocation, port: int) -> Shot:
    lines = [f"{provoked.method} {provoked.path} HTTP/1.1", "host: user", "content-length: 0"]
    lines += ["content-type: application/grpc"] if provoked.grpc else []
    request = "\r\n".join([*lines, "", ""]).encode("ascii")
    return Shot(("127.0.0.1", port), request, EXPECTED, 5.0, headless=provoked.method == "HEAD")


def with_httpx(provoked: Provocation, port: int) -> HttpShot:
    headers = (("content-type", "application/grpc"),) if provoked.grpc else ()
    return HttpShot(f"http://127.0.0.1:{port}{provoked.path}", provoked.method, headers, expected=EXPECTED, timeout_s=5.0)


async def asked(shot: Shot | HttpShot, times: int = REPEATED) -> tuple[Tally, Answer]:
    """Send a request several times; give what was counted, and the first answer."""
    answers: list[Answer] = []
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            load = LoadSpec("client-1", shot, Closed(1), "seed", max_in_flight=1, limit=times).make(tasks)
            load.ask(answers.append)
            load.start()
            await load.wait_finished()
            load.abort()
    load.fold()
    return load.tally, answers[0]


def told(provoked: Provocation, tally: Tally) -> str:
    """Say what is wrong with what was counted; nothing if all is right."""
    wanted = {Found(provoked.cause, provoked.made_by): REPEATED}
    if (provoked.cause, provoked.made_by) == (Cause.OVERFLOW, OWN):
        return "" if tally.sidecar_overflow == REPEATED and not tally.causes else f"{tally.outcomes}, {tally.causes}"
    return "" if tally.causes == wanted else f"{dict(tally.causes)} instead of {wanted}"


async def wrong(provocations: list[Provocation], ports: Ports, reached: list[object]) -> dict[str, str]:
    """Provoke, with both engines, and say what went wrong; the rows that were reached are added."""
    found = {}
    for provoked in provocations:
        for make in (on_the_wire, with_httpx):
            shot = make(provoked, ports[provoked.listener])
            if provoked.primed:
                await asked(shot, 1)
            tally, first = await asked(shot)
            if problem := told(provoked, tally):
                found[f"{make.__name__} {provoked}"] = f"{problem}: {first.response}"
            if first.response is not None and make is on_the_wire:
                row = fitting(first.response)
                reached.append(row)
                if row.outcome not in {None, first.outcome}:
                    found[f"{provoked}"] = f"its outcome is {first.outcome}, its row says {row.outcome}"
    return found


async def test_every_row_of_the_table_is_what_a_real_envoy_answers(tmp_path: Path) -> None:
    reached: list[object] = []
    began = time.monotonic()
    async with envoy(tmp_path) as ports:
        assert await wrong(PROVOCATIONS, ports, reached) == {}
        squeeze(tmp_path, "1")
        with anyio.fail_after(10):
            while (await asked(on_the_wire(UNDER_PRESSURE[0], ports["out"]), 1))[1].outcome is Outcome.OK:  # noqa: ASYNC110  # it looks now and then
                await anyio.sleep(0.02)
        assert await wrong(UNDER_PRESSURE, ports, reached) == {}
    assert [row.cause for row in TABLE if row not in reached] == []
    assert time.monotonic() - began < MOST_S
