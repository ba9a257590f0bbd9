"""Is Envoy told what istiod would tell it?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from loadgen.mesh import envoy

USER = "outbound|7000||user.base.svc.cluster.local"


def every_address(value: Any) -> list[dict[str, Any]]:
    """Find all socket addresses in a configuration."""
    if isinstance(value, dict):
        own = [value["socket_address"]] if "socket_address" in value else []
        return own + [found for each in value.values() for found in every_address(each)]
    return [found for each in value for found in every_address(each)] if isinstance(value, list) else []


def test_a_sidecar_binds_free_loopback_ports_only() -> None:
    addresses = every_address(envoy.bootstrap(node_id="n", cluster=USER, folder=Path("/run/x")))
    assert len(addresses) == 2
    assert all(address == {"address": "127.0.0.1", "port_value": 0} for address in addresses)


def test_a_sidecar_routes_everything_to_the_one_cluster_and_takes_it_from_its_folder() -> None:
    config = envoy.bootstrap(node_id="n", cluster=USER, folder=Path("/run/x"))
    (listener,) = config["static_resources"]["listeners"]
    (chain,) = listener["filter_chains"]
    routes = chain["filters"][0]["typed_config"]["route_config"]
    (route,) = routes["virtual_hosts"][0]["routes"]
    assert route["match"] == {"prefix": "/"}
    assert route["route"]["cluster"] == USER
    assert route["route"]["timeout"] == "0s"
    assert route["route"]["retry_policy"] == envoy.RETRY_POLICY
    assert routes["validate_clusters"] is False, "the cluster comes by CDS, after the route"
    source = config["dynamic_resources"]["cds_config"]["path_config_source"]
    assert source == {"path": "/run/x/cds.json", "watched_directory": {"path": "/run/x"}}
    assert config["node"]["id"] == "n"
    assert "clusters" not in config["static_resources"]


def test_a_dotted_cluster_name_stays_in_one_piece_in_prometheus() -> None:
    (tag,) = envoy.bootstrap(node_id="n", cluster=USER, folder=Path("/x"))["stats_config"]["stats_tags"]
    found = re.search(tag["regex"], f"cluster.{USER};.upstream_rq_total")
    assert found
    assert found[2] == USER


def test_a_bootstrap_is_json() -> None:
    config = envoy.bootstrap(node_id="n", cluster=USER, folder=Path("/x"))
    assert json.loads(json.dumps(config)) == config


def test_clusters_keep_what_istiod_wrote_and_get_the_service_s_loopback_address() -> None:
    policy: dict[str, Any] = {
        "circuit_breakers": {"thresholds": [{"max_requests": 1}]},
        "lb_policy": "LEAST_REQUEST",
        "alt_stat_name": f"{USER};",
    }
    other = USER.replace("7000", "7001")
    given: dict[str, dict[str, Any]] = {USER: {"name": USER, "type": "EDS", **policy}, other: {"name": other, "type": "EDS"}}
    one, two = json.loads(envoy.cds(given, 44157))["resources"]
    assert {key: one[key] for key in policy} == policy
    assert [each["name"] for each in (one, two)] == [USER, other]
    assert [each["type"] for each in (one, two)] == ["STATIC", "STATIC"]
    assert [each["load_assignment"]["cluster_name"] for each in (one, two)] == [USER, other]
    assert every_address([one, two]) == [{"address": "127.0.0.1", "port_value": 44157}] * 2
    assert given[USER]["type"] == "EDS", "what was given is not changed"


@pytest.mark.parametrize(("policy", "kept"), [("CLUSTER_PROVIDED", None), ("ROUND_ROBIN", "ROUND_ROBIN")])
def test_only_a_load_balancer_that_a_static_cluster_refuses_is_left_out(policy: str, kept: str | None) -> None:
    (cluster,) = json.loads(envoy.cds({USER: {"name": USER, "lb_policy": policy}}, 1))["resources"]
    assert cluster.get("lb_policy") == kept
