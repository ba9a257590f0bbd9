"""How does our client take the API server's moods? The real server, and in front of it a proxy that plays what a server does on a bad day."""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest
from anyio.abc import SocketAttribute

from loadgen.cluster import server, way
from loadgen.cluster.access import Access, TokenFile, find_access, from_kubeconfig, from_service_account
from loadgen.cluster.api import KubeApi
from loadgen.cluster.failure import (
    ApiError,
    BusyError,
    ConflictError,
    ExistsError,
    ForbiddenError,
    GoneError,
    InvalidError,
    LostError,
    NotFoundError,
    UnauthorizedError,
    UnreachableError,
    UnusableError,
    failure_of,
)
from loadgen.cluster.paths import Call, config_maps, leases, pod_proxy, rules
from loadgen.errors import ExitCode, RefusedError
from tests.cluster.moody import Exchange, Moody, done_but, drips, hangs, late, raw, resets, says, swallows
from tests.cluster.rules import access, owners_rule

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from anyio.abc import SocketStream

    from tests.cluster.controlplane.plane import ControlPlane

pytestmark = pytest.mark.anyio
TRY_S = 0.5


@pytest.fixture
async def moody(control_plane: ControlPlane) -> AsyncIterator[Moody]:
    async with Moody.serving(control_plane.url, control_plane.authority) as proxy:
        yield proxy


@pytest.fixture
async def api(control_plane: ControlPlane, moody: Moody) -> AsyncIterator[KubeApi]:
    """A client that speaks through the proxy, with little patience."""
    token = control_plane.users.token("admin")
    async with KubeApi(lambda: access(moody.url, "", token), try_s=TRY_S) as client:
        yield client.within(8.0)


def config_map(name: str = "mine", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def holds(**data: str) -> Callable[[dict[str, Any]], bool]:
    return lambda found: found.get("data") == data


# Straight to the server.


@pytest.fixture
async def straight(control_plane: ControlPlane) -> AsyncIterator[KubeApi]:
    token = control_plane.users.token("admin")
    async with KubeApi(lambda: access(control_plane.url, control_plane.authority, token)) as client:
        yield client


async def test_objects_go_in_and_out_with_all_that_is_in_them(straight: KubeApi, namespace: str) -> None:
    made = await straight.create(config_maps(namespace), config_map(a="1"))
    path = config_maps(namespace, "mine")
    assert await straight.get(path) == made
    assert json.loads(await straight.text(path)) == made
    changed = await straight.replace(path, {**made, "data": {"a": "2"}}, ours=holds(a="2"))
    assert changed["data"] == {"a": "2"}
    assert {each["manager"] for each in changed["metadata"]["managedFields"]} == {"loadgen"}
    await straight.delete(path, uid=made["metadata"]["uid"], version=changed["metadata"]["resourceVersion"])
    assert await straight.find(path) is None
    await straight.delete(path, uid=made["metadata"]["uid"])  # gone already: well, too


async def test_a_list_of_more_than_a_page_is_read_to_its_end(straight: KubeApi, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.cluster.api.PAGE", 3)
    names = [f"map-{number}" for number in range(8)]
    for name in names:
        await straight.create(config_maps(namespace), config_map(name))
    assert [each["metadata"]["name"] for each in await straight.list(config_maps(namespace))] == names
    assert await straight.list(config_maps(namespace), labelSelector="no=body") == []


async def test_the_best_version_of_the_rules_that_is_served_is_found(straight: KubeApi) -> None:
    assert await straight.rule_version() == "v1"


async def test_the_clock_of_the_server_is_known_to_a_second_or_so(straight: KubeApi, namespace: str) -> None:
    await straight.list(config_maps(namespace))
    assert abs((straight.server_time() - datetime.now(UTC)).total_seconds()) < 2.0


async def test_an_account_without_rights_hears_which_right_it_needs(control_plane: ControlPlane, namespace: str) -> None:
    token = control_plane.users.token("guest")
    async with KubeApi(lambda: access(control_plane.url, control_plane.authority, token)) as guest:
        with pytest.raises(ForbiddenError) as caught:
            await guest.create(rules("v1", namespace), owners_rule(namespace))
    assert caught.value.exit_code is ExitCode.REFUSED
    assert caught.value.message.startswith(f"cannot create destinationrules in namespace {namespace}: the API server answered 403: ")
    assert "create destinationrules.networking.istio.io in namespace" in caught.value.hint
    assert caught.value.late().exit_code is ExitCode.INVALID


async def test_what_is_not_there_and_what_is_there_already_are_told_apart(straight: KubeApi, namespace: str) -> None:
    with pytest.raises(NotFoundError):
        await straight.get(leases(namespace, "nobody"))
    with pytest.raises(NotFoundError, match="not found"):
        await straight.create(config_maps("no-such-namespace"), config_map())
    await straight.create(config_maps(namespace), config_map(a="1"))
    with pytest.raises(ExistsError):
        await straight.create(config_maps(namespace), config_map(a="1"), ours=holds(a="1"))  # the answer was not lost: it is not ours


async def test_a_change_of_something_that_somebody_else_changed_meanwhile_is_a_conflict(straight: KubeApi, namespace: str) -> None:
    made = await straight.create(rules("v1", namespace), owners_rule(namespace))
    path, metadata = rules("v1", namespace, "owners"), made["metadata"]
    await straight.replace(path, {**made, "metadata": {**metadata, "labels": {"x": "y"}}}, ours=lambda _: False)
    tests = [{"op": "test", "path": f"/metadata/{key}", "value": metadata[key]} for key in ("uid", "resourceVersion")]
    with pytest.raises(ConflictError):
        await straight.patch(path, [*tests, {"op": "add", "path": "/spec/exportTo", "value": ["."]}], ours=lambda _: False)
    with pytest.raises(ConflictError):
        await straight.replace(path, made, ours=lambda _: False)
    with pytest.raises(ConflictError):
        await straight.delete(path, uid=metadata["uid"], version=metadata["resourceVersion"])
    with pytest.raises(ConflictError):
        await straight.delete(path, uid="another")
    assert (await straight.get(path))["metadata"]["labels"] == {"x": "y"}


async def test_an_object_that_is_not_valid_is_refused_in_the_servers_own_words(straight: KubeApi, namespace: str) -> None:
    rule = owners_rule(namespace)
    rule["spec"]["trafficPolicy"]["connectionPool"]["tcp"]["maxConnections"] = "many\x1b[31m"
    with pytest.raises(InvalidError) as caught:
        await straight.create(rules("v1", namespace), rule)
    assert "spec.trafficPolicy.connectionPool.tcp.maxConnections" in caught.value.message
    assert "\x1b" not in caught.value.message


async def test_a_namespace_that_is_being_deleted_takes_nothing_new(control_plane: ControlPlane, straight: KubeApi, namespace: str) -> None:
    await straight.create(config_maps(namespace), config_map())
    control_plane.api.delete(f"/api/v1/namespaces/{namespace}")
    with pytest.raises(ForbiddenError, match="being terminated"):
        await straight.create(config_maps(namespace), config_map("other"))


async def test_a_pod_that_is_not_there_is_the_api_servers_answer_not_the_pods(straight: KubeApi, namespace: str) -> None:
    with pytest.raises(NotFoundError, match=r'pods "nobody" not found'):
        await straight.proxy(namespace, "nobody", 7000, "/healthz")


async def test_an_expired_token_is_renewed_once_and_then_it_is_over(control_plane: ControlPlane) -> None:
    asked: list[str] = []

    def log_in() -> Access:
        asked.append(control_plane.users.token("guest") if len(asked) % 2 else "expired")
        return access(control_plane.url, control_plane.authority, asked[-1])

    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "metadata": {"name": ""},
        "spec": {"resourceAttributes": {}},
    }
    async with KubeApi(log_in) as guest:
        assert (await guest.create(path, review))["status"]["allowed"] is False
    assert len(asked) == 2
    async with KubeApi(lambda: access(control_plane.url, control_plane.authority, "expired")) as nobody:
        with pytest.raises(UnauthorizedError) as caught:
            await nobody.list(config_maps("default"))
    assert "log in again" in caught.value.hint


def test_a_server_that_is_restarted_is_waited_for(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.api.create({**config_map(), "metadata": {"name": "mine", "namespace": namespace}})
    token = control_plane.users.token("admin")

    async def ask() -> dict[str, Any]:
        async with KubeApi(lambda: access(control_plane.url, control_plane.authority, token)) as api:
            return await api.get(config_maps(namespace, "mine"))

    control_plane.stop_apiserver()
    with ThreadPoolExecutor() as others:
        found = others.submit(anyio.run, ask)
        control_plane.start_apiserver()  # by this thread: what a thread starts ends with it
        assert found.result()["metadata"]["name"] == "mine"


# Through the proxy.


async def test_reads_are_repeated_until_they_are_answered(moody: Moody, api: KubeApi, namespace: str) -> None:
    for mood in (says(500), says(503), resets, hangs, raw(502, b"<html>bad gateway</html>")):
        moody.play("GET", "/configmaps", mood)
    assert await api.list(config_maps(namespace)) == []
    assert moody.count("GET", "/configmaps") == 6


async def test_the_deadline_ends_it_and_says_how_often_it_was_tried(moody: Moody, api: KubeApi, namespace: str) -> None:
    moody.play("GET", "/configmaps", says(503, "etcd has no leader\x07"), times=99)
    with anyio.fail_after(20.0), pytest.raises(LostError, match=r"503: etcd has no leader\\x07 \(tried \d+ times in [01]\.\d s\)"):
        await api.within(1.0).list(config_maps(namespace))


async def test_every_try_has_a_deadline_of_its_own_even_if_bytes_keep_coming(moody: Moody, api: KubeApi, namespace: str) -> None:
    moody.play("GET", "/configmaps", drips(0.1), times=99)
    with pytest.raises(LostError, match=r"nothing came within|did not answer"):
        await api.within(1.6).list(config_maps(namespace))
    assert moody.count("GET", "/configmaps") >= 2


async def test_the_server_is_told_to_give_up_when_we_do(moody: Moody, api: KubeApi, namespace: str) -> None:
    await api.list(config_maps(namespace))
    assert "timeout=500ms" in moody.seen[-1]


async def test_429_waits_as_long_as_the_server_says(moody: Moody, api: KubeApi, namespace: str) -> None:
    moody.play("POST", "/configmaps", says(429, "too many", retry_after="1"), times=2)
    began = time.monotonic()
    await api.create(config_maps(namespace), config_map())
    assert time.monotonic() - began >= 2.0
    assert moody.count("POST", "/configmaps") == 3
    moody.play("GET", "/configmaps", says(429, "too many", retry_after="3600"))
    with pytest.raises(BusyError):
        await api.list(config_maps(namespace))


@pytest.mark.parametrize("mood", [swallows, done_but(500), done_but(504), done_but(201, b"<html>"), done_but(200, b"")])
async def test_a_write_that_happened_though_its_answer_was_lost_is_seen_and_not_repeated(
    mood: Any, moody: Moody, api: KubeApi, namespace: str
) -> None:
    path = config_maps(namespace, "mine")
    moody.play("POST", "/configmaps", mood)
    made = await api.create(config_maps(namespace), config_map(a="1"), ours=holds(a="1"))
    moody.play("PUT", "/configmaps", mood)
    changed = await api.replace(path, {**made, "data": {"a": "2"}}, ours=holds(a="2"))
    tests = [{"op": "test", "path": f"/metadata/{key}", "value": changed["metadata"][key]} for key in ("uid", "resourceVersion")]
    moody.play("PATCH", "/configmaps", mood)
    patched = await api.patch(path, [*tests, {"op": "add", "path": "/data/b", "value": "3"}], ours=holds(a="2", b="3"))
    assert patched["data"] == {"a": "2", "b": "3"}
    moody.play("DELETE", "/configmaps", mood)
    await api.delete(path, uid=patched["metadata"]["uid"], version=patched["metadata"]["resourceVersion"])
    assert await api.find(path) is None
    assert [moody.count(method, "/configmaps") for method in ("POST", "PUT", "PATCH", "DELETE")] == [1, 1, 1, 1]


@pytest.mark.parametrize("mood", [resets, hangs, says(500), says(503), raw(200, b"<html>")])
async def test_a_write_that_did_not_happen_is_repeated_after_a_look(mood: Any, moody: Moody, api: KubeApi, namespace: str) -> None:
    path = config_maps(namespace, "mine")
    for method in ("POST", "PUT", "DELETE"):
        moody.play(method, "/configmaps", mood)
    made = await api.create(config_maps(namespace), config_map(a="1"), ours=holds(a="1"))
    changed = await api.replace(path, {**made, "data": {"a": "2"}}, ours=holds(a="2"))
    await api.delete(path, uid=changed["metadata"]["uid"], version=changed["metadata"]["resourceVersion"])
    assert [moody.count(method, "/configmaps") for method in ("POST", "PUT", "DELETE")] == [2, 2, 2]
    assert moody.count("GET", "/configmaps/mine") >= 3


async def test_what_somebody_else_made_while_our_answer_was_lost_is_not_taken_for_ours(moody: Moody, api: KubeApi, namespace: str) -> None:
    async def overtakes(exchange: Any) -> None:
        exchange.body = json.dumps(config_map(a="theirs")).encode()
        await swallows(exchange)

    moody.play("POST", "/configmaps", overtakes)
    with pytest.raises(ExistsError):
        await api.create(config_maps(namespace), config_map(a="ours"), ours=holds(a="ours"))
    assert (await api.get(config_maps(namespace, "mine")))["data"] == {"a": "theirs"}


async def test_a_write_that_arrives_late_is_found_by_the_next_one(moody: Moody, api: KubeApi, namespace: str) -> None:
    moody.play("POST", "/configmaps", late(1.0))
    moody.play("POST", "/configmaps", hangs)
    made = await api.create(config_maps(namespace), config_map(a="1"), ours=holds(a="1"))
    assert made["data"] == {"a": "1"}


async def test_a_write_of_which_nothing_can_be_known_is_lost_and_says_so(moody: Moody, api: KubeApi, namespace: str) -> None:
    for method in ("POST", "GET"):
        moody.play(method, "/configmaps", resets, times=99)
    with pytest.raises(LostError, match=f"cannot create configmaps in namespace {namespace}: the API server did not answer"):
        await api.within(1.0).create(config_maps(namespace), config_map(), ours=holds())
    assert moody.count("POST", "/configmaps") == 1


async def test_a_list_whose_rest_was_forgotten_is_begun_anew_but_not_for_ever(
    moody: Moody, api: KubeApi, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadgen.cluster.api.PAGE", 2)
    for number in range(5):
        await api.create(config_maps(namespace), config_map(f"map-{number}"))
    moody.play("GET", "continue=", says(410, "too old", reason="Expired"), times=2)
    assert len(await api.list(config_maps(namespace))) == 5
    moody.play("GET", "continue=", says(410, "too old", reason="Expired"), times=3)
    with pytest.raises(GoneError):
        await api.list(config_maps(namespace))


async def test_what_is_no_api_server_is_given_up_at_once(
    moody: Moody, api: KubeApi, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moody.play("GET", "/configmaps", raw(200, b"<html>please log in</html>"))
    with pytest.raises(UnusableError, match="no JSON"):
        await api.list(config_maps(namespace))
    moody.play("GET", "/configmaps", raw(200, b"[1, 2]"))
    with pytest.raises(UnusableError, match="no object"):
        await api.list(config_maps(namespace))
    moody.play("GET", "/configmaps", raw(302, b"", location="http://elsewhere/"))
    with pytest.raises(UnusableError, match="302"):
        await api.list(config_maps(namespace))
    monkeypatch.setattr(way, "MAX_BODY_BYTES", 1000)
    moody.play("GET", "/configmaps", raw(200, b"x" * 2000))
    with pytest.raises(UnusableError, match="larger than 1,000 bytes"):
        await api.list(config_maps(namespace))
    assert moody.count("GET", "/configmaps") == 4


async def test_a_cluster_without_istio_is_told_from_one_whose_version_is_unknown(moody: Moody, api: KubeApi) -> None:
    moody.play("GET", "/apis/networking.istio.io", says(404, "the server could not find the requested resource"))
    with pytest.raises(RefusedError, match="the cluster has no DestinationRules") as caught:
        await api.rule_version()
    assert "istioctl install" in caught.value.hint
    group = json.dumps({"kind": "APIGroup", "versions": [{"version": "v1alpha3"}, {"version": "v9"}]}).encode()
    moody.play("GET", "/apis/networking.istio.io?", raw(200, group))
    assert await api.rule_version() == "v1alpha3"
    moody.play("GET", "/apis/networking.istio.io?", raw(200, b'{"kind": "APIGroup", "versions": null}'))  # as Go writes an empty list
    with pytest.raises(RefusedError, match="the cluster has no DestinationRules"):
        await api.rule_version()
    moody.play("GET", "/apis/networking.istio.io/v1?", raw(200, b'{"kind": "APIResourceList", "resources": null}'))  # just installed
    assert await api.rule_version() == "v1beta1"


async def test_a_401_in_between_logs_in_again_and_goes_on(moody: Moody, api: KubeApi, namespace: str) -> None:
    moody.play("POST", "/configmaps", says(401, "Unauthorized"))
    await api.create(config_maps(namespace), config_map())
    moody.play("POST", "/configmaps", says(401, "Unauthorized"), times=9)
    with pytest.raises(UnauthorizedError):
        await api.create(config_maps(namespace), config_map("other"))
    assert moody.count("POST", "/configmaps") == 4


async def test_however_often_it_logs_in_again_only_the_last_connections_and_those_in_use_are_open(
    moody: Moody, api: KubeApi, namespace: str
) -> None:
    begun, end = anyio.Event(), anyio.Event()

    async def takes_its_time(exchange: Exchange) -> None:
        begun.set()
        await end.wait()
        await exchange.answer(200, {}, b"still here")

    async def ask_pod() -> None:
        assert await api.proxy(namespace, "client-1", 7000, "/snapshot", timeout_s=30.0) == (200, b"still here")

    async with anyio.create_task_group() as tasks:
        moody.play("GET", "/proxy/", takes_its_time)
        tasks.start_soon(ask_pod)
        await begun.wait()
        for _ in range(5):
            moody.play("GET", "/configmaps", says(401, "Unauthorized"))
            await api.list(config_maps(namespace))
        with anyio.fail_after(5.0):
            while moody.open > 3:  # noqa: ASYNC110  # the other end tells nobody; both of the first login, one of the last
                await anyio.sleep(0.01)
        end.set()
    with anyio.fail_after(5.0):
        while moody.open > 1:  # noqa: ASYNC110  # as above
            await anyio.sleep(0.01)


async def test_a_login_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LOGIN_S", 0.2)
    asleep = time.monotonic() + 1.0

    def plugin() -> Access:
        time.sleep(max(0.0, asleep - time.monotonic()))
        raise AssertionError("nobody waits for this")

    with pytest.raises(RefusedError, match="logging in to the cluster took more than"):
        await KubeApi(plugin).__aenter__()


async def test_a_plugin_that_hangs_is_ended_so_that_nobody_waits_for_it_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LOGIN_S", 0.5)
    codes: queue.Queue[int] = queue.Queue()

    def plugin() -> Access:
        codes.put(subprocess.run(["sleep", "60"], check=False).returncode)
        raise RuntimeError("nobody hears of this")

    with pytest.raises(RefusedError, match="logging in to the cluster took more than"):
        await KubeApi(plugin).__aenter__()
    assert await anyio.to_thread.run_sync(partial(codes.get, timeout=5)) == -signal.SIGTERM


async def test_a_port_where_nobody_listens_is_tried_until_the_deadline() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    async with KubeApi(lambda: access(url, "", "token")) as api:
        with pytest.raises(UnreachableError, match=r"the API server cannot be reached: .*\(tried \d+ times"):
            await api.within(0.5).get("/version")


class Relay:
    """Passes bytes on to a server, as a proxy (``CONNECT``) if it is asked to be one; ``left`` is set when the first client is gone."""

    def __init__(self, host: str, port: int) -> None:
        self._where = (host, port)
        self.left = anyio.Event()

    async def serve(self, client: SocketStream) -> None:
        async with client:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):  # it left without a word
                await self._connect(client, await client.receive())
        self.left.set()

    async def _connect(self, client: SocketStream, first: bytes) -> None:
        async with await anyio.connect_tcp(*self._where) as server, anyio.create_task_group() as tasks:
            if first.startswith(b"CONNECT"):
                await client.send(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                await server.send(first)
            tasks.start_soon(self._pass_on, server, client)
            await self._pass_on(client, server)
            tasks.cancel_scope.cancel()

    @staticmethod
    async def _pass_on(source: SocketStream, target: SocketStream) -> None:
        with contextlib.suppress(anyio.BrokenResourceError):
            async for part in source:
                await target.send(part)


@pytest.mark.parametrize("proxied", [False, True])
async def test_wherever_a_request_is_cancelled_it_leaves_no_open_socket(
    proxied: bool, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, hear = control_plane.users.token("admin"), way._Opening.hear

    async def ask(cancel_at: int | None) -> list[str]:
        """Ask once, cancel at the event of that number, and wait until the socket is closed; give the events."""
        events: list[str] = []

        async def note(opening: way._Opening, event: str, about: Any) -> None:
            await hear(opening, event, about)
            if len(events) == cancel_at:
                scope.cancel()
            events.append(event)

        monkeypatch.setattr(way._Opening, "hear", note)
        relay = Relay(control_plane.address, control_plane.port)
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, relay.serve)
            here = f"127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
            there = access(control_plane.url if proxied else f"https://{here}", control_plane.authority, token)
            async with KubeApi(lambda: replace(there, proxy=f"http://{here}" if proxied else None)) as api:
                with anyio.CancelScope() as scope:
                    await api.get("/version")
                if cancel_at is not None:
                    with anyio.fail_after(5):
                        await relay.left.wait()
            tasks.cancel_scope.cancel()
        return events

    events = await ask(None)
    assert sum(event.endswith("start_tls.complete") for event in events) == 1, events
    last = max(number for number, event in enumerate(events) if event == "http11.send_request_body.complete")
    for cancel_at in range(events.index("connection.connect_tcp.complete"), last + 1):
        await ask(cancel_at)


async def test_a_certificate_that_is_not_trusted_is_final(control_plane: ControlPlane) -> None:
    async with KubeApi(lambda: Access(control_plane.url, ssl.create_default_context(), lambda: "Bearer x")) as api:
        with pytest.raises(UnusableError, match="certificate is not trusted") as caught:
            await api.get("/version")
    assert "certificate-authority" in caught.value.hint


async def test_a_pod_that_answers_nonsense_or_an_error_of_its_own_is_passed_on_and_asked_once(
    moody: Moody, api: KubeApi, namespace: str
) -> None:
    part = pod_proxy(namespace, "client-1", 7000, "/control/take")
    moody.play("POST", part, raw(409, b'{"error": "held", "holder": "run-1"}'))
    status, body = await api.proxy(namespace, "client-1", 7000, "/control/take", body=b"{}", headers={"x-loadgen-run": "run-2"})
    assert (status, json.loads(body)["holder"]) == (409, "run-1")
    moody.play("POST", part, hangs)
    with pytest.raises(LostError, match="nothing came within"):
        await api.proxy(namespace, "client-1", 7000, "/control/take", body=b"{}", timeout_s=0.2)
    assert moody.count("POST", part) == 2


async def test_a_pod_that_answers_without_end_is_cut_off_long_before_an_api_server_would_be(
    moody: Moody, api: KubeApi, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way, "MAX_POD_BYTES", 1000)
    moody.play("GET", "/proxy/", raw(200, b"x" * 2000))
    with pytest.raises(UnusableError, match="larger than 1,000 bytes"):
        await api.proxy(namespace, "client-1", 7000, "/snapshot")


async def test_pods_that_do_not_answer_keep_nobody_else_waiting(moody: Moody, api: KubeApi, namespace: str) -> None:
    moody.play("GET", "/proxy/", hangs, times=99)

    async def ask(number: int) -> None:
        with pytest.raises(ApiError, match="nothing came within"):
            await api.proxy(namespace, f"client-{number}", 7000, "/snapshot", timeout_s=1.0)

    async with anyio.create_task_group() as tasks:
        for number in range(2 * way.POD_CONNECTIONS):
            tasks.start_soon(ask, number)
        await anyio.sleep(0.2)
        with anyio.fail_after(0.5):
            await api.list(config_maps(namespace))


# Where the access comes from.


async def test_a_kubeconfig_is_read_with_its_certificate_and_token(control_plane: ControlPlane, namespace: str) -> None:
    file = control_plane.kubeconfig("admin", namespace)
    async with KubeApi(find_access(kubeconfig=file)) as api:
        assert await api.list(config_maps(namespace)) == []
        assert api.url == control_plane.url


async def test_an_exec_plugin_gives_the_token_and_is_asked_again_when_it_expires(control_plane: ControlPlane, tmp_path: Path) -> None:
    plugin, asked = tmp_path / "plugin", tmp_path / "asked"
    good = control_plane.users.token("admin")
    credential = '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}'
    plugin.write_text(
        f"#!/bin/sh\necho >> {asked}\n[ $(wc -l < {asked}) = 1 ] && echo '{credential % 'expired'}' || echo '{credential % good}'\n"
    )
    plugin.chmod(0o700)
    config = json.loads(control_plane.kubeconfig("admin").read_text(encoding="utf-8"))
    config["users"][0]["user"] = {
        "exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}
    }
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config), encoding="utf-8")
    async with KubeApi(find_access(kubeconfig=file)) as api:
        assert await api.rule_version() == "v1"
    assert asked.read_text(encoding="ascii").count("\n") == 2


def test_a_plugin_that_fails_a_missing_file_and_an_unknown_context_are_refused_with_the_reason(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match="cannot be used: there is no such file"):
        from_kubeconfig(str(tmp_path / "missing"))
    with pytest.raises(RefusedError, match="cannot be used"):
        from_kubeconfig(str(control_plane.kubeconfig("admin")), "no-such-context")
    config = json.loads(control_plane.kubeconfig("admin").read_text(encoding="utf-8"))
    config["users"][0]["user"] = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "false", "interactiveMode": "Never"}}
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(RefusedError, match=r"logging in as the kubeconfig .* says failed"):
        from_kubeconfig(str(file))


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
clusters: [{name: here, cluster: {server: SERVER}}]
users: [{name: me, user: {token: TOKEN}}]
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("garbage: [s3cret", "it is no YAML, see line"),
        ("[s3cret]", "it is no kubeconfig"),
        ("s3cret", "it is no kubeconfig"),
        ("\x00\xffs3cret", "cannot be used"),
        ("", "cannot be used"),
        (KUBECONFIG.replace("SERVER", "5").replace("TOKEN", "s3cret"), "cannot be used|names no API server"),
        (KUBECONFIG.replace("{server: SERVER}", "{}").replace("TOKEN", "s3cret"), "cannot be used|names no API server"),
        (KUBECONFIG.replace("SERVER", "http://127.0.0.1:1").replace("TOKEN", '"s3cret\\nmore"'), "cannot be a token"),
        (KUBECONFIG.replace("SERVER", "http://127.0.0.1:1").replace("TOKEN", '"s3cret-\\xe4"'), "cannot be a token"),
        (KUBECONFIG.replace("SERVER", "http://127.0.0.1:1").replace("{token: TOKEN}", "{tokenFile: /nowhere/token}"), "/nowhere/token"),
    ],
)
def test_a_kubeconfig_that_is_damaged_is_refused_without_repeating_what_it_holds(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(RefusedError, match=said) as refused:
        from_kubeconfig(str(file))
    assert "s3cret" not in refused.value.message
    assert str(file) in refused.value.message


def test_a_token_may_end_in_a_line_break_as_files_do(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(KUBECONFIG.replace("SERVER", "http://127.0.0.1:1").replace("TOKEN", '"s3cret\\n"'), encoding="utf-8")
    assert from_kubeconfig(str(file)).authorization() == "Bearer s3cret"


def test_nothing_of_a_kubeconfig_stays_in_the_temporary_folder(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads(control_plane.kubeconfig("admin").read_text(encoding="utf-8"))
    cluster = config["clusters"][0]["cluster"]
    cluster.pop("certificate-authority", None)
    cluster["certificate-authority-data"] = base64.b64encode(control_plane.authority.read_bytes()).decode()
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    assert from_kubeconfig(str(file)).tls is not None
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_in_a_pod_the_service_accounts_token_is_read_again_when_it_is_renewed(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    control_plane.api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "pod", "namespace": namespace}})
    (tmp_path / "ca.crt").write_bytes(control_plane.authority.read_bytes())
    (tmp_path / "token").write_text(control_plane.service_account_token(namespace, "pod") + "\n", encoding="ascii")
    environment = {"KUBERNETES_SERVICE_HOST": control_plane.address, "KUBERNETES_SERVICE_PORT": str(control_plane.port)}
    async with KubeApi(lambda: from_service_account(tmp_path, environment)) as api:
        with pytest.raises(ForbiddenError, match=f"system:serviceaccount:{namespace}:pod"):
            await api.list(config_maps(namespace))
    token = TokenFile(tmp_path / "token")
    before = token()
    (tmp_path / "token").write_text("renewed", encoding="ascii")
    assert token() == "Bearer renewed" != before
    (tmp_path / "token").unlink()
    with pytest.raises(RefusedError, match="service account cannot be used"):
        from_service_account(tmp_path, environment)


# What it says.


@pytest.mark.parametrize(
    ("method", "path", "said", "resource"),
    [
        ("POST", rules("v1", "base"), "create destinationrules in namespace base", "destinationrules.networking.istio.io"),
        ("PATCH", rules("v1", "base", "user"), "patch destinationrules base/user", "destinationrules.networking.istio.io"),
        ("PUT", leases("test", "x"), "update leases test/x", "leases.coordination.k8s.io"),
        ("GET", config_maps("test"), "list configmaps in namespace test", "configmaps"),
        ("GET", pod_proxy("test", "client-1", 7000, "/snapshot"), "get pods test/client-1:7000", "pods/proxy"),
        ("GET", "/apis/networking.istio.io", "get /apis/networking.istio.io", "/apis/networking.istio.io"),
    ],
)
def test_a_request_is_called_by_its_verb_and_what_it_is_about(method: str, path: str, said: str, resource: str) -> None:
    assert str(Call(method, path)) == said
    assert Call(method, path).resource == resource


def test_what_a_server_says_is_shortened_and_harmless_to_a_terminal() -> None:
    body = json.dumps({"kind": "Status", "message": "no\x1b]0;owned\x07" + "x" * 5000}).encode()
    failure = failure_of(Call("GET", config_maps("test")), 422, {}, body)
    assert isinstance(failure, InvalidError)
    assert "\x1b" not in failure.message
    assert len(failure.message) < 1200
