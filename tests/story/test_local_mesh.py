"""The local mesh itself: what a real Envoy does with what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen.document import parse_documents
from loadgen.errors import MeshError
from loadgen.mesh import boot
from loadgen.mesh.boot import LocalSpec
from loadgen.mesh.envoy import CDS_FILE
from loadgen.mesh.local import ready
from loadgen.mesh.run_folder import write_atomically
from loadgen.pacing import Interval
from loadgen.policy import translation
from loadgen.policy.rule import Rule, parse_rules
from loadgen.policy.selection import Service, Workload
from loadgen.runner.convergence import converge
from tests.story.command import SCENARIOS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.envoy, pytest.mark.anyio]
SPEC = LocalSpec(Service("user", "base", (7000,)), 7000, Workload("test", {"app": "client"}), 2, 1, 200, "Kevin", Interval(0.001))


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def rules_of(text: str) -> list[Rule]:
    rules, problems = parse_rules(parse_documents(text, "rule.yaml"), "rule.yaml")
    assert not problems
    return rules


async def test_a_sidecar_that_rejects_the_configuration_says_so_and_recovers_with_the_next_good_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = rules_of((SCENARIOS / "policies" / "user.yaml").read_text())
    translate = translation.clusters

    def nonsense(*arguments: Any) -> dict[str, dict[str, Any]]:
        return {
            name: {**cluster, "circuit_breakers": {"thresholds": [{"max_requests": -1}]}} for name, cluster in translate(*arguments).items()
        }

    with boot.boot(SPEC) as booting:
        mesh = await ready(booting)
        with monkeypatch.context() as broken:
            broken.setattr(boot, "clusters", nonsense)
            await mesh.put(rules)
        with pytest.raises(MeshError, match="sidecar rejected the configuration"):
            await converge(mesh, rules)
        await mesh.put(rules)
        assert len(await converge(mesh, rules)) == 2


@pytest.mark.parametrize("garbage", ["garbage", '{"resources": [{"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster"}]}'])
@pytest.mark.parametrize("put_back", [False, True])
async def test_somebody_s_garbage_in_a_sidecar_s_folder_is_not_blamed_on_the_rule(garbage: str, *, put_back: bool) -> None:
    rules = rules_of((SCENARIOS / "policies" / "user.yaml").read_text())
    with boot.boot(SPEC) as booting:
        mesh = await ready(booting)
        await mesh.put(rules)
        await converge(mesh, rules)
        client = mesh.clients[0]
        ours = (client.folder / CDS_FILE).read_text()
        write_atomically(client.folder / CDS_FILE, garbage)
        with anyio.fail_after(5):
            while not await client.admin.rejected():  # noqa: ASYNC110  # a sidecar tells nobody
                await anyio.sleep(0.01)
        if put_back:
            write_atomically(client.folder / CDS_FILE, ours)
        with pytest.raises(MeshError, match="rejected a configuration that somebody else wrote into its folder") as caught:
            await mesh.state(client)
        assert f"{client.name}/cds.json must be left alone" in caught.value.hint
        assert (await mesh.state(mesh.clients[1])).rule == "base/user"


@pytest.mark.parametrize(
    "pool",
    [
        "tcp: {maxConnections: 3, connectTimeout: 250ms, tcpKeepalive: {probes: 3, time: 10s, interval: 1s}, maxConnectionDuration: 10s}",
        "http: {http1MaxPendingRequests: 2147483647, http2MaxRequests: 2147483647, maxRetries: 2147483647}",
        "http: {maxRequestsPerConnection: 7, idleTimeout: 30s, useClientProtocol: true}",
        "http: {http1MaxPendingRequests: 0}",
    ],
)
async def test_a_real_envoy_takes_what_a_rule_is_translated_to_and_shows_the_same_limits(pool: str) -> None:
    text = f"{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: r, namespace: base}}, spec: {{host: user, trafficPolicy: {{connectionPool: {{{pool}}}}}}}}}"
    rules = rules_of(text)
    with boot.boot(SPEC) as booting:
        mesh = await ready(booting)
        await mesh.put(rules)
        await converge(mesh, rules)
        assert await mesh.state(mesh.clients[0]) == mesh.wanted(rules)
        await mesh.put(())
        await converge(mesh, ())
        assert (await mesh.state(mesh.clients[1])).rule is None
