"""Does the control interface obey who may use the pod, and nobody else, to the request?"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen.metrics import FRESH_S
from loadgen.outcome import Outcome
from loadgen.recorder import Tally
from loadgen.serving.connection import MAX_BODY_BYTES

from .pods import LIMITED, LOAD, PATIENCE_S, RUN, SECRET, UNLIMITED, environment_of, tutorial_rules
from .waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loadgen.ledger import Counters
    from loadgen.mesh.local import LocalMesh

    from .pods import Pod

pytestmark = [pytest.mark.anyio, pytest.mark.envoy]
VERBS = [
    "take",
    "leave",
    "phase",
    "start",
    "stop",
    "abort",
    "look",
    "done_since",
    "edge",
    "counters",
    "state",
    "converge",
]


async def drained(pod: Pod) -> None:
    """Wait until everything that was sent until now has ended."""
    sent_until = asyncio.get_running_loop().time()

    async def done() -> bool:
        age_s = asyncio.get_running_loop().time() - sent_until
        return bool((await pod.do("done_since", age_s=age_s))["done"])

    await pod.until(done, "everything has ended")


async def sidecar_of(mesh: LocalMesh) -> Counters:
    return await mesh.counters(mesh.clients[0])


async def until_overflows(pod: Pod, count: int) -> None:
    async def enough() -> bool:
        return int((await pod.do("look"))["outcomes"]["overflow"]) >= count

    await pod.until(enough, f"{count} overflows")


async def test_a_phase_from_edge_to_edge_has_a_ledger_without_a_difference(pod: Pod, unlimited: LocalMesh) -> None:
    taken = await pod.do("take", load=LOAD, seed="1-0", path="/", hold_s=30)
    assert (taken["run"], taken["phase"], taken["name"]) == (RUN, None, "client-1")
    assert taken["offset"] == -(await sidecar_of(unlimited)).overflow, "what the sidecar counted before is none of the run's"
    assert await pod.do("start") == {}
    await unlimited.put(tutorial_rules())
    said = await pod.do("converge", limits=LIMITED, rule="base/user", wait_s=5)
    updated = said["state"].pop("updated")
    assert said == {"reached": True, "state": {"limits": LIMITED, "rule": "base/user", "error": None}}
    assert await pod.do("state") == {**said["state"], "updated": updated}
    await drained(pod)
    begun = await pod.do("edge")
    assert begun["settled"]
    assert await pod.do("phase", name="limited") == {}
    await until_overflows(pod, 100)
    await pod.metrics()
    assert (await pod.snapshot())["phase"] == "limited"
    ended = await pod.do("edge", offset=begun["overflow"] - begun["counters"]["pending_overflow"] - begun["counters"]["active_overflow"])
    assert ended["settled"]
    await pod.do("phase", name=None)
    tally = Tally.from_snapshot(ended["tally"])
    counted = [each["counters"]["pending_overflow"] + each["counters"]["active_overflow"] for each in (begun, ended)]
    assert tally.sidecar_overflow == counted[1] - counted[0] >= 100, "the ledger's difference is 0"
    assert ended["overflow"] - begun["overflow"] == tally.sidecar_overflow
    assert 0 <= ended["on_the_way"] <= LOAD["users"]
    assert tally.requests == sum(tally.outcomes.values()) > 100
    await unlimited.put(())
    assert (await pod.do("converge", limits=UNLIMITED, rule=None, wait_s=5))["reached"]
    await pod.do("stop")
    await drained(pod)
    last = await pod.do("edge")
    assert last["settled"]
    assert last["overflow"] - taken["offset"] == (await sidecar_of(unlimited)).overflow, "over the whole run, too"
    assert await pod.do("leave") == {}
    assert (await pod.snapshot())["run"] is None
    await pod.until_logged(f"run {RUN} has left")
    await asyncio.sleep(FRESH_S)
    samples = await pod.metrics()
    overflows = {name: count for name, count in samples.items() if name.startswith('loadgen_requests_total{outcome="overflow"')}
    assert sum(overflows.values()) == last["overflow"], "Prometheus is told of the same requests"
    assert overflows['loadgen_requests_total{outcome="overflow",phase="limited"}'] > 0
    assert samples["loadgen_policy_propagation_seconds"] > 0


async def test_who_does_not_know_the_secret_learns_nothing(pod: Pod, tmp_path: Path) -> None:
    for verb in [*VERBS, "nonsense", ""]:
        for secret in ["", "wrong", SECRET[:-1], f"{SECRET}x", "\xe9"]:
            headers = {b"x-loadgen-secret": secret.encode("latin-1"), b"x-loadgen-run": RUN.encode()}
            response = await pod.client.post(f"/control/{verb}", headers=headers)
            assert response.status_code == 403, (verb, secret)
    assert (await pod.client.post("/control/state")).status_code == 403
    await pod.until_logged("without the right secret")
    assert (await pod.snapshot())["run"] is None
    (tmp_path / "secret").write_text("another one")
    assert (await pod.control("state")).status_code == 403
    assert (await pod.control("state", secret="another one")).status_code == 200
    (tmp_path / "secret").write_text(" \n")
    assert (await pod.control("state", secret="")).status_code == 403, "an empty secret is none"
    (tmp_path / "secret").unlink()
    assert (await pod.control("state", secret="another one")).status_code == 403
    assert SECRET not in pod.log.read_text()


async def test_every_request_that_is_wrong_has_a_status_and_a_sentence(pod: Pod) -> None:
    wrong: list[tuple[str, dict[str, Any], int]] = [
        ("nonsense", {}, 404),
        ("", {}, 404),
        ("state/", {}, 404),
        ("take", {}, 422),
        ("take", {"load": {**LOAD, "users": 51}}, 422),
        ("take", {"load": {"model": "open", "rate": "501/s"}}, 422),
        ("take", {"load": LOAD, "target": "http://example.com/"}, 422),
        ("take", {"load": LOAD, "path": "http://example.com/"}, 422),
        ("start", {}, 409),
        ("stop", {}, 409),
        ("abort", {}, 409),
        ("look", {}, 409),
        ("edge", {}, 409),
        ("counters", {}, 409),
        ("done_since", {"age_s": 1}, 409),
        ("phase", {"name": "baseline"}, 409),
        ("phase", {"name": "A Phase"}, 422),
        ("leave", {}, 200),
        ("leave", {"x": 1}, 422),
        ("state", {}, 200),
        ("converge", {"limits": UNLIMITED, "rule": None, "wait_s": 11}, 422),
        ("converge", {"limits": UNLIMITED, "rule": None, "wait_s": 2}, 200),
    ]
    for verb, order, status in wrong:
        response = await pod.control(verb, **order)
        assert response.status_code == status, (verb, order, response.text)
        if status != 200:
            assert response.json()["error"]
        if status == 409:
            assert response.json()["holder"] is None
    for headers, body, status in [
        ({}, b"{}", 400),
        ({"x-loadgen-run": "a b"}, b"{}", 400),
        ({"x-loadgen-run": "x" * 81}, b"{}", 400),
        ({"x-loadgen-run": RUN}, b"no JSON", 400),
        ({"x-loadgen-run": RUN}, b"[1]", 400),
        ({"x-loadgen-run": RUN}, b"[" * 60_000, 400),
        ({"x-loadgen-run": RUN}, b" " * (MAX_BODY_BYTES + 1), 413),
    ]:
        response = await pod.client.post("/control/state", content=body, headers={"x-loadgen-secret": SECRET, **headers})
        assert response.status_code == status, (headers, response.text)
    assert (await pod.get("/healthz")).status_code == 200
    assert (await pod.snapshot())["run"] is None


async def test_a_second_run_is_told_who_has_the_pod(pod: Pod) -> None:
    await pod.do("take", load=LOAD)
    orders: list[tuple[str, dict[str, Any]]] = [
        ("take", {"load": LOAD}),
        ("leave", {}),
        ("start", {}),
        ("edge", {}),
        ("phase", {"name": None}),
    ]
    for verb, order in orders:
        response = await pod.control(verb, run="run-2", **order)
        assert response.status_code == 409, verb
        assert response.json()["holder"] == RUN
    assert (await pod.control("state", run="run-2")).status_code == 200, "to look at the sidecar changes nothing"
    together = await asyncio.gather(*(pod.control("take", run=f"run-{number}", load=LOAD) for number in range(2, 8)))
    assert {response.status_code for response in together} == {409}
    await pod.do("leave")
    together = await asyncio.gather(*(pod.control("take", run=f"run-{number}", load=LOAD) for number in range(2, 8)))
    assert sorted(response.status_code for response in together) == [200, *[409] * 5]


async def test_a_run_that_is_not_heard_of_loses_the_pod_and_one_that_only_reads_the_snapshot_keeps_it(pod: Pod) -> None:
    await pod.do("take", load=LOAD, hold_s=1)
    await pod.do("start")
    for _ in range(4):
        await asyncio.sleep(0.4)
        assert (await pod.snapshot(**{"x-loadgen-run": RUN, "x-loadgen-secret": SECRET}))["run"] == RUN
    before = (await pod.snapshot())["totals"]["ok"]
    assert before > 0
    await pod.until_logged(f"run {RUN} was not heard of for 1 s")

    async def is_itself() -> bool:
        said = await pod.snapshot(**{"x-loadgen-run": "another"})
        return said["run"] is None and said["sight"]["outcomes"]["ok"] > 0

    await pod.until(is_itself, "the own load is back")
    assert (await pod.snapshot())["totals"]["ok"] > before, "and what the run's load counted is still there"
    assert (await pod.control("edge")).status_code == 409
    assert "loadgen_phase_info" in str(await pod.metrics())


async def test_what_is_begun_for_a_run_keeps_its_hold_and_is_done_though_nobody_listens(pod: Pod, unlimited: LocalMesh) -> None:
    await pod.do("take", load=LOAD, hold_s=1)
    await pod.do("start")
    said = await pod.do("converge", limits=LIMITED, rule="base/user", wait_s=2.5)
    assert said["reached"] is False
    assert said["state"]["limits"] == UNLIMITED
    assert (await pod.snapshot())["run"] == RUN

    async def some() -> bool:
        return bool((await pod.do("look"))["outcomes"]["ok"] > 10)

    await pod.until(some, "some requests have ended")
    reader, writer = await asyncio.open_connection(*pod.address)
    body = json.dumps({}).encode()
    head = f"POST /control/edge HTTP/1.1\r\nx-loadgen-secret: {SECRET}\r\nx-loadgen-run: {RUN}\r\nx-loadgen-call: edge-1\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    writer.transport.abort()
    del reader

    async def is_done() -> bool:
        return bool((await pod.do("look"))["outcomes"]["ok"] < 10)

    await pod.until(is_done, "the edge was found for the one who had gone")
    again = (await pod.control("edge", call="edge-1")).json()
    assert Tally.from_snapshot(again["tally"]).outcomes[Outcome.OK] > 10, "the tally that ended there is not lost"
    assert (await pod.control("edge", call="edge-1")).json() == again
    following = (await pod.control("edge", call="edge-2")).json()
    assert following["tally"] != again["tally"]


async def test_a_load_is_started_held_released_and_stopped_as_it_is_told(pod: Pod) -> None:
    said = await pod.do("take", load={"model": "open", "rate": 200.0, "arrivals": "constant", "max_in_flight": 50, "stages": []})
    assert said["sight"]["sent"] == 0
    await asyncio.sleep(0.2)
    assert (await pod.do("look"))["sent"] == 0, "a load that was taken waits for its start"
    await asyncio.gather(pod.do("start"), pod.do("start"))

    async def sent_more_than(count: int) -> bool:
        return bool((await pod.do("look"))["sent"] > count)

    await pod.until(lambda: sent_more_than(20), "it sends")
    await pod.do("stop")
    await drained(pod)
    stopped = await pod.do("look")
    assert stopped["in_flight"] == 0
    await asyncio.sleep(0.2)
    assert (await pod.do("look"))["sent"] == stopped["sent"]
    response = await pod.control("start")
    assert response.status_code == 422
    assert "take the pod again" in response.json()["error"]
    said = await pod.do("take", load={"model": "burst", "size": 5, "pause": "200ms"})
    assert (said["run"], said["sight"]["sent"]) == (RUN, 0)
    await pod.do("start")
    await pod.until(lambda: sent_more_than(4), "the burst is sent")
    await pod.do("abort")
    assert (await pod.do("look"))["in_flight"] == 0
    totals = (await pod.snapshot())["totals"]
    assert totals["ok"] >= stopped["sent"], "nothing that was counted is lost when a load ends"


async def test_the_request_goes_to_the_path_that_the_run_names_and_nowhere_else(
    pods: Callable[..., Pod], unlimited: LocalMesh, tmp_path: Path
) -> None:
    asked: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nKevin")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pod = pods(environment_of(unlimited.clients[0], tmp_path, LOADGEN_TARGET=f"http://localhost:{port}/own"))
    await until(lambda: asked)
    assert asked[0] == f"GET /own HTTP/1.1\r\nhost: localhost:{port}\r\nuser-agent: loadgen\r\nx-loadgen-client: client-1\r\n\r\n".encode()
    await pod.do("take", load=LOAD, path="/a?b=c")
    asked.clear()
    await pod.do("start")
    await until(lambda: len(asked) > 3)
    assert {line.split(b"\r\n")[0] for line in asked} == {b"GET /a?b=c HTTP/1.1"}
    await pod.do("leave")
    asked.clear()
    await until(lambda: len(asked) > 1)
    assert asked[-1].startswith(b"GET /own ")
    await pod.end()
    server.close()


async def test_without_a_sidecar_a_run_cannot_take_the_pod_and_is_told_why(
    pods: Callable[..., Pod], unlimited: LocalMesh, tmp_path: Path
) -> None:
    pod = pods(environment_of(unlimited.clients[0], tmp_path, LOADGEN_ADMIN="127.0.0.1:1"))
    await pod.until_logged("Kevin")
    response = await pod.control("take", load=LOAD, call="1")
    assert response.status_code == 503
    assert "client-1's sidecar does not answer" in response.json()["error"]
    said = await pod.do("state")
    assert (said["limits"], said["rule"]) == (None, None)
    assert "does not answer" in said["error"]
    said = await pod.do("converge", limits=UNLIMITED, rule=None, wait_s=0.1)
    assert said["reached"] is False
    assert "does not answer" in said["state"]["error"]
    before = await pod.requests()

    async def goes_on() -> bool:
        snapshot = await pod.snapshot()
        return snapshot["run"] is None and sum(snapshot["totals"].values()) > before

    await pod.until(goes_on, "the own load goes on")


async def test_scrapes_and_snapshots_from_many_at_once_leave_the_ledger_as_it_is(pod: Pod, unlimited: LocalMesh) -> None:
    await unlimited.put(tutorial_rules())
    await pod.do("take", load=LOAD)
    await pod.do("start")
    first = edge = await pod.do("edge")
    tallies = []
    with anyio.fail_after(PATIENCE_S):
        for _ in range(5):
            await asyncio.gather(*(pod.get(path) for path in ("/metrics", "/snapshot", "/readyz") for _ in range(4)))
            edge = await pod.do("edge")
            tallies.append(Tally.from_snapshot(edge["tally"]))
            assert edge["settled"]
    assert sum(tally.sidecar_overflow for tally in tallies) == edge["overflow"] - first["overflow"] > 0
    counted = [each["counters"]["pending_overflow"] + each["counters"]["active_overflow"] for each in (first, edge)]
    assert counted[1] - counted[0] == edge["overflow"] - first["overflow"]
