"""Are a sidecar's admin pages read right? The pages are Envoy 1.40's own."""

from __future__ import annotations

import json
import re
from urllib.parse import unquote

import pytest

from loadgen import sidecar
from loadgen.ledger import Counters
from loadgen.policy.state import SidecarState

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
        (stats(upstream_rq_pending_overflow=2**40), Counters(combined_overflow=2**40)),
        (stats(upstream_rq_503=5, upstream_rq_pending_total=3, upstream_rq_timeout=1), Counters()),
        (stats(upstream_rq_total=1).replace(b";", b""), Counters(total=1)),
        (b"\xff\xfe\nupstream_rq_total: No recorded values\nupstream_rq_total\n: \n", Counters()),
    ],
    ids=["empty", "one", "all", "large", "others", "before Istio 1.24", "garbage"],
)
def test_counters_are_read_by_name_and_what_is_missing_is_zero(page: bytes, wanted: Counters) -> None:
    assert sidecar.read_counters(page) == wanted


@pytest.mark.parametrize(
    ("page", "wanted"),
    [(stats(upstream_cx_active=3, upstream_cx_total=9), 3), (stats(upstream_cx_active=0), 0), (stats(upstream_cx_total=9), None)],
    ids=["some", "none", "not kept"],
)
def test_open_connections_are_a_gauge_beside_the_counters_and_not_known_where_they_are_not_kept(page: bytes, wanted: int | None) -> None:
    assert sidecar.read_connections(page) == wanted
    assert not hasattr(sidecar.read_counters(page), "cx_active")


def test_an_overflow_is_counted_alike_before_and_since_envoy_1_38() -> None:
    older, newer = stats(upstream_rq_pending_overflow=9), stats(upstream_rq_active_overflow=9, upstream_cx_overflow=50)
    assert sidecar.read_counters(older).overflow == sidecar.read_counters(newer).overflow == 9


@pytest.mark.parametrize(
    ("name", "asked_for"),
    [
        (f"cluster.{USER};.upstream_rq_total", True),
        (f"cluster.{USER}.upstream_rq_pending_overflow", True),
        (f"cluster.{USER};.upstream_cx_active", True),
        (f"cluster.{USER};.upstream_rq_total_time", False),
        (f"cluster.{USER.replace('.', 'x')};.upstream_rq_total", False),
        ("cluster.outbound|7000|v1|user.base.svc.cluster.local;.upstream_rq_total", False),
        (f"cluster.x{USER};.upstream_rq_total", False),
    ],
)
def test_only_the_counters_of_the_one_cluster_are_asked_for(name: str, asked_for: bool) -> None:
    path = sidecar.counters_path(USER)
    assert re.fullmatch(r"/stats\?filter=[\w%.-]+", path), "nothing that has a meaning in an address stands there bare"
    assert bool(re.search(unquote(path).partition("filter=")[2], name)) is asked_for


@pytest.mark.parametrize("path", [sidecar.config_path(USER), sidecar.thresholds_path(USER)])
def test_only_the_state_of_the_one_cluster_is_asked_for(path: str) -> None:
    pattern = unquote(path).rpartition("=")[2]
    assert re.search(pattern, USER)
    assert not any(re.search(pattern, name) for name in (USER + "x", "x" + USER, USER.replace(".", "-")))


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        ({}, None),
        ({"configs": []}, None),
        ({"configs": [{"cluster": {"name": USER, "type": "STATIC"}, "last_updated": "now"}]}, (SidecarState.of_cluster({}), "now")),
        ({"configs": [{"cluster": {"name": USER, "type": "STATIC"}}]}, (SidecarState.of_cluster({}), "")),
    ],
)
def test_a_configuration_is_read_or_is_not_there(page: object, wanted: tuple[SidecarState, str] | None) -> None:
    state = sidecar.read_state(json.dumps(page).encode())
    assert (state and (state, state.updated)) == wanted


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
    assert sidecar.read_thresholds(page.encode(), USER) == {
        "max_connections": 4294967295,
        "max_pending_requests": 1,
        "max_requests": 5,
        "max_retries": 3,
    }
    with pytest.raises(LookupError):
        sidecar.read_thresholds(page.encode(), "outbound|7001||user.base.svc.cluster.local")


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        (b"", 0),
        (b"cluster_manager.cds.update_failure: 0\ncluster_manager.cds.update_rejected: 0\n", 0),
        (b"cluster_manager.cds.update_failure: 1\ncluster_manager.cds.update_rejected: 2\n", 3),
    ],
)
def test_refused_configurations_are_added_up(page: bytes, wanted: int) -> None:
    assert sidecar.read_rejected(page) == wanted


def test_the_listener_s_address_is_read() -> None:
    status = {"name": "outbound", "local_address": {"socket_address": {"address": "127.0.0.1", "port_value": 37555}}}
    assert sidecar.read_address(json.dumps({"listener_statuses": [status]}).encode()) == ("127.0.0.1", 37555)


@pytest.mark.parametrize("page", [{}, {"listener_statuses": []}])
def test_a_listener_that_is_not_up_yet_is_a_lookup_error(page: object) -> None:
    with pytest.raises(LookupError):
        sidecar.read_address(json.dumps(page).encode())


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
    assert sidecar.read_version(json.dumps(page).encode()) == wanted


def test_the_number_of_workers_is_read() -> None:
    assert sidecar.read_workers(json.dumps({"command_line_options": {"concurrency": 2}}).encode()) == 2
    with pytest.raises(LookupError):
        sidecar.read_workers(b"{}")
