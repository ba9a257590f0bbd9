"""Is the real program, beside a real sidecar, the tutorial's client: does it call, log, serve, and say how it is?"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadgen import __version__
from loadgen.recorder import Tally
from tests.engine.driven_load import OK
from tests.engine.scripted_server import forever, receive, send, serving
from tests.metrics.prometheus import check_metrics

from .pods import PROGRAM, environment_of, tutorial_rules

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.mesh.local import LocalMesh

    from .pods import Pod

pytestmark = [pytest.mark.anyio, pytest.mark.envoy]
OK_OF_ITS_OWN = 'loadgen_requests_total{outcome="ok",phase="own_load"}'
OVERFLOW_OF_ITS_OWN = 'loadgen_requests_total{outcome="overflow",phase="own_load"}'


async def test_it_calls_the_target_by_its_own_name_and_logs_kevin(pod: Pod, unlimited: LocalMesh) -> None:
    await pod.until_logged("ok 200")
    assert re.fullmatch(r"ok 200 \d+\.\d ms Kevin( \(\d+ since the last such line\))?", await pod.until_logged("Kevin"))
    assert (await unlimited.count()).clients["client-1"].requests > 0
    await asyncio.sleep(2.5)
    assert sum("Kevin" in line for line in pod.lines) <= 5, "a line a second, however many answers"


async def test_every_page_answers(pod: Pod) -> None:
    await pod.until_ready()
    assert (await pod.get("/healthz")).text == "ok\n"
    page = await pod.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = {family.name for family in text_string_to_metric_families(page.text)}
    assert names == {
        "loadgen_requests",
        "loadgen_request_duration_seconds",
        "loadgen_schedule_lag_seconds",
        "loadgen_in_flight_requests",
        "loadgen_policy_applied",
        "loadgen_policy_propagation_seconds",
        "loadgen_phase_info",
        "loadgen_build_info",
    }
    for method, path, status in [
        ("HEAD", "/healthz", 200),
        ("HEAD", "/snapshot", 200),
        ("POST", "/metrics", 405),
        ("DELETE", "/snapshot", 405),
        ("GET", "/control/take", 405),
        ("HEAD", "/control/take", 405),
        ("OPTIONS", "/healthz", 405),
        ("GET", "/", 404),
        ("GET", "/snapshot/", 404),
        ("GET", "/healthz?x=1", 200),
    ]:
        response = await pod.client.request(method, path)
        assert response.status_code == status, (method, path)
        assert (response.status_code == 405) is ("allow" in response.headers)


async def test_the_snapshot_says_everything_that_a_runner_needs(pod: Pod, unlimited: LocalMesh) -> None:
    await pod.until_ready()
    await pod.until_logged("Kevin")
    said = await pod.snapshot()
    assert (said["schema"], said["version"]) == ("loadgen.pod/v1", __version__)
    assert (said["name"], said["namespace"], said["region"]) == ("client-1", "test", "eu-1")
    assert said["target"] == "http://{}:{}/".format(*unlimited.clients[0].address)
    assert said["expect"] == {"status": 200, "body": "Kevin"}
    assert said["limits"] == {"users": 50, "rate": 500.0}
    assert said["cluster"] == unlimited.clients[0].admin.cluster
    assert said["sidecar"] == {"version": unlimited.envoy_version, "workers": 1, "counts": True, "state": "live"}
    assert (said["run"], said["phase"], said["offset"], said["trouble"], said["stopping"]) == (None, None, None, "", False)
    assert (said["sample"]["outcome"], said["sample"]["status"], said["sample"]["body"]) == ("ok", 200, "Kevin")
    assert said["sight"]["pid"] == pod.process.pid
    assert Tally.from_snapshot(said["tally"]).requests <= sum(said["totals"].values()) <= said["sight"]["sent"]
    assert re.fullmatch(r"[0-9a-f]{16}", said["incarnation"])
    assert (await pod.snapshot())["incarnation"] == said["incarnation"]


async def test_promtool_likes_the_page(pod: Pod, tools: None) -> None:
    await pod.until_ready()
    page = (await pod.get("/metrics")).text
    assert not check_metrics(page)
    assert "_created" not in page


async def test_a_rule_shows_in_the_log_and_in_the_metrics_and_its_end_too(
    pods: Callable[..., Pod], unlimited: LocalMesh, tmp_path: Path
) -> None:
    pod = pods(environment_of(unlimited.clients[0], tmp_path, LOADGEN_USERS="5", LOADGEN_THINK_TIME="none"))
    await pod.until_logged("Kevin")
    assert (await pod.metrics())[OVERFLOW_OF_ITS_OWN] == 0
    await unlimited.put(tutorial_rules())
    line = await pod.until_logged("overflow 503")
    assert "reset reason: overflow" in line

    async def shows_the_rule() -> bool:
        return (await pod.metrics())["loadgen_policy_applied"] == 1

    await pod.until(shows_the_rule, "the policy shows")
    samples = await pod.metrics()
    counters = await unlimited.counters(unlimited.clients[0])
    assert 0 < samples[OVERFLOW_OF_ITS_OWN] <= (await unlimited.counters(unlimited.clients[0])).overflow
    assert samples[OK_OF_ITS_OWN] > 0
    assert counters.overflow > 0
    assert (await pod.get("/readyz")).status_code == 200, "a rejection is an answer"
    await unlimited.put(())

    async def shows_none() -> bool:
        return (await pod.metrics())["loadgen_policy_applied"] == 0

    await pod.until(shows_none, "the policy is gone")
    later = await pod.metrics()
    assert all(later[name] >= value for name, value in samples.items() if "_total" in name or "_count" in name), "counters never go back"


async def test_it_is_healthy_but_not_ready_while_its_sidecar_is_not_up(
    pods: Callable[..., Pod], unlimited: LocalMesh, tmp_path: Path
) -> None:
    pod = pods(environment_of(unlimited.clients[0], tmp_path, LOADGEN_ADMIN="127.0.0.1:1"))
    await pod.until_logged("Kevin")
    assert (await pod.get("/healthz")).status_code == 200
    response = await pod.get("/readyz")
    assert response.status_code == 503
    assert "client-1's sidecar does not answer" in response.text
    assert "does not answer" in (await pod.snapshot())["sidecar"]["state"]


async def test_it_keeps_trying_a_target_that_is_not_there_yet(pods: Callable[..., Pod], unlimited: LocalMesh, tmp_path: Path) -> None:
    async with serving([forever(receive, send(OK))]) as later:
        port = later.address[1]
    pod = pods(environment_of(unlimited.clients[0], tmp_path, LOADGEN_TARGET=f"http://127.0.0.1:{port}/", LOADGEN_THINK_TIME="none"))
    assert "connect - " in await pod.until_logged("connect - ")

    async def says_why() -> bool:
        response = await pod.get("/readyz")
        return response.status_code == 503 and "the target has answered no request yet (connect " in response.text

    await pod.until(says_why, "it says that nobody can be reached")
    assert await pod.requests() < 100, "it does not spin"
    server = await asyncio.start_server(_kevin, "127.0.0.1", port)
    async with server:
        await pod.until_ready()
        await pod.until_logged("Kevin")
        await pod.end()
        server.close()


async def _kevin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(OK)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def test_a_name_that_nobody_knows_is_the_reason_that_it_gives(pods: Callable[..., Pod], unlimited: LocalMesh, tmp_path: Path) -> None:
    pod = pods(environment_of(unlimited.clients[0], tmp_path, LOADGEN_TARGET="http://nobody.here:7000/"))
    await pod.until_logged("nothing is sent: the name nobody.here.svc.cluster.local cannot be looked up")

    async def says_why() -> bool:
        return "cannot be looked up" in (await pod.get("/readyz")).text

    await pod.until(says_why, "it says that the name is not known")
    said = await pod.snapshot()
    assert "cannot be looked up" in said["trouble"]
    assert (sum(said["totals"].values()), said["sight"]["sent"]) == (0, 0)
    assert (await pod.metrics())["loadgen_in_flight_requests"] == 0


def told(pod: Pod, what: str) -> str:
    """Give what the system says of the pod's process."""
    return Path(f"/proc/{pod.process.pid}/{what}").read_text(encoding="ascii")


async def test_it_is_up_soon_and_small(pod: Pod) -> None:
    assert (await pod.get("/healthz")).status_code == 200
    taken_s = time.monotonic() - pod.started
    stat = told(pod, "stat").rpartition(")")[2].split()
    cpu_s = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    await pod.until_ready()
    await pod.get("/metrics")
    found = re.search(r"VmRSS:\s+(\d+) kB", told(pod, "status"))
    assert found
    print(f"healthy after {taken_s:.2f} s, {cpu_s:.2f} s of CPU; {int(found[1]) / 1024:.0f} MiB")
    assert cpu_s < 2.0, "of CPU: what else the machine does at the time is not ours"
    assert int(found[1]) < 70 * 1024


async def test_what_is_wrong_with_the_environment_is_said_at_once_with_exit_code_2() -> None:
    environment = {"PATH": os.environ["PATH"], "LOADGEN_PORT": "x", "LOADGEN_USERS": "0", "LOADGEN_TARGET": "http://example.org.uk/"}
    process = await asyncio.create_subprocess_exec(sys.executable, *PROGRAM, env=environment, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 2
    assert all(name.encode() in said for name in environment if name != "PATH")
    assert b"Traceback" not in said


async def test_a_port_that_is_taken_ends_it_with_exit_code_3(pod: Pod) -> None:
    environment = {"PATH": os.environ["PATH"], "LOADGEN_PORT": str(pod.port), "LOADGEN_BIND": "127.0.0.1"}
    process = await asyncio.create_subprocess_exec(sys.executable, *PROGRAM, env=environment, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 3, said
    assert f"port {pod.port} of 127.0.0.1 cannot be listened at".encode() in said
