"""Is Envoy told what istiod would tell it, and are its admin pages read right? The pages are Envoy 1.40's own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from loadgen.ledger import Counters
from loadgen.mesh import envoy

USER = "outbound|7000||user.base.svc.cluster.local"


def stats(**values: int) -> bytes:
    return "".join(f"cluster.{USER};.{name}: {value}\n" for name, value in values.items()).encode()


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        (b"", Counters()),
        (stats(upstream_rq_total=7), Counters(total=7)),
        (
            stats(upstream_cx_overflow=18, upstream_rq_active_overflow=9, upstream_rq_pending_overflow=4, upstream_rq_total=100),
            Counters(pending_overflow=4, active_overflow=9, cx_overflow=18, total=100),
        ),
        (stats(upstream_rq_pending_overflow=2**40), Counters(pending_overflow=2**40)),
        (stats(upstream_rq_503=5, upstream_rq_pending_total=3, upstream_rq_timeout=1), Counters()),
        (stats(upstream_rq_total=1).replace(b";", b""), Counters(total=1)),
        (b"\xff\xfe\nupstream_rq_total: No recorded values\nupstream_rq_total\n: \n", Counters()),
    ],
    ids=["empty", "one", "all", "large", "others", "before Istio 1.24", "garbage"],
)
def test_counters_are_read_by_name_and_what_is_missing_is_zero(page: bytes, wanted: Counters) -> None:
    assert envoy.read_counters(page) == wanted


def test_an_overflow_is_counted_alike_before_and_since_envoy_1_38() -> None:
    older, newer = stats(upstream_rq_pending_overflow=9), stats(upstream_rq_active_overflow=9, upstream_cx_overflow=50)
    assert envoy.read_counters(older).overflow == envoy.read_counters(newer).overflow == 9


@pytest.mark.parametrize(
    ("name", "asked_for"),
    [
        (f"cluster.{USER};.upstream_rq_total", True),
        (f"cluster.{USER}.upstream_rq_pending_overflow", True),
        (f"cluster.{USER};.upstream_rq_total_time", False),
        (f"cluster.{USER.replace('.', 'x')};.upstream_rq_total", False),
        ("cluster.outbound|7000|v1|user.base.svc.cluster.local;.upstream_rq_total", False),
        (f"cluster.x{USER};.upstream_rq_total", False),
    ],
)
def test_only_the_counters_of_the_one_cluster_are_asked_for(name: str, asked_for: bool) -> None:
    path = envoy.counters_path(USER)
    assert re.fullmatch(r"/stats\?filter=[\w%.-]+", path), "nothing that has a meaning in an address stands there bare"
    assert bool(re.search(unquote(path).partition("filter=")[2], name)) is asked_for


def test_only_the_configuration_of_the_one_cluster_is_asked_for() -> None:
    pattern = unquote(envoy.config_path(USER)).partition("name_regex=")[2]
    assert re.search(pattern, USER)
    assert not any(re.search(pattern, name) for name in (USER + "x", "x" + USER, USER.replace(".", "-")))


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        ({}, None),
        ({"configs": []}, None),
        ({"configs": [{"cluster": {"name": USER, "type": "STATIC"}, "last_updated": "now"}]}, {"name": USER, "type": "STATIC"}),
    ],
)
def test_a_configuration_is_read_or_is_not_there(page: object, wanted: dict[str, Any] | None) -> None:
    assert envoy.read_config(json.dumps(page).encode()) == wanted


def test_thresholds_are_those_of_the_cluster_and_of_the_priority_that_istio_uses() -> None:
    other = USER.replace("user", "other")
    page = "\n".join(
        [
            f"{USER}::observability_name::{USER};",
            f"{other}::default_priority::max_connections::7",
            f"{USER}::default_priority::max_connections::4294967295",
            f"{USER}::default_priority::max_pending_requests::1",
            f"{USER}::default_priority::max_requests::5",
            f"{USER}::default_priority::max_retries::3",
            f"{USER}::high_priority::max_requests::1024",
            f"{USER}::added_via_api::true",
            f"{USER}::127.0.0.1:44157::cx_active::0",
        ]
    )
    assert envoy.read_thresholds(page.encode(), USER) == {
        "max_connections": 4294967295,
        "max_pending_requests": 1,
        "max_requests": 5,
        "max_retries": 3,
    }
    with pytest.raises(LookupError):
        envoy.read_thresholds(page.encode(), "outbound|7001||user.base.svc.cluster.local")


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        (b"", 0),
        (b"cluster_manager.cds.update_failure: 0\ncluster_manager.cds.update_rejected: 0\n", 0),
        (b"cluster_manager.cds.update_failure: 1\ncluster_manager.cds.update_rejected: 2\n", 3),
    ],
)
def test_refused_configurations_are_added_up(page: bytes, wanted: int) -> None:
    assert envoy.read_rejected(page) == wanted


def test_the_listener_s_address_is_read() -> None:
    status = {"name": "outbound", "local_address": {"socket_address": {"address": "127.0.0.1", "port_value": 37555}}}
    assert envoy.read_address(json.dumps({"listener_statuses": [status]}).encode()) == ("127.0.0.1", 37555)


@pytest.mark.parametrize("page", [{}, {"listener_statuses": []}])
def test_a_listener_that_is_not_up_yet_is_a_lookup_error(page: object) -> None:
    with pytest.raises(LookupError):
        envoy.read_address(json.dumps(page).encode())


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        ({"version": "9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL"}, "1.40.0"),
        ({"version": "1.40.0"}, "unknown"),
        ({"version": ""}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_the_version_is_read_or_unknown(page: object, wanted: str) -> None:
    assert envoy.read_version(json.dumps(page).encode()) == wanted


# What Envoy is told.


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
