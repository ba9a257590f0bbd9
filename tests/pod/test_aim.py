"""Can a pod be made to call anybody but a service of its cluster, or this machine?"""

from __future__ import annotations

import socket
from typing import Any

import pytest

from loadgen.errors import RefusedError
from loadgen.pod.aim import aim_at, check_addresses, is_outside
from loadgen.policy.selection import Service
from loadgen.policy.translation import cluster_name


@pytest.mark.parametrize(
    ("url", "authority", "names"),
    [
        ("http://user.base:7000/", "user.base:7000", ("user.base.svc.cluster.local", "user.base.svc")),
        ("http://user.base", "user.base:80", ("user.base.svc.cluster.local", "user.base.svc")),
        ("http://user.base/a/b", "user.base:80", ("user.base.svc.cluster.local", "user.base.svc")),
        ("http://user.base.svc:7000/", "user.base:7000", ("user.base.svc.cluster.local", "user.base.svc")),
        ("http://user.base.svc.cluster.local:7000/", "user.base:7000", ("user.base.svc.cluster.local", "user.base.svc")),
        ("http://example.com/", "example.com:80", ("example.com.svc.cluster.local", "example.com.svc")),
        ("http://127.1/", "127.1:80", ("127.1.svc.cluster.local", "127.1.svc")),
        ("http://127.0.0.1:8080/", "127.0.0.1:8080", ("127.0.0.1",)),
        ("http://localhost:8080/", "localhost:8080", ("127.0.0.1",)),
        ("http://[::1]:8080/x", "[::1]:8080", ("::1",)),
    ],
)
def test_a_service_is_looked_up_where_only_a_cluster_has_names(url: str, authority: str, names: tuple[str, ...]) -> None:
    aim = aim_at(url)
    assert (aim.url, aim.authority, aim.names) == (url, authority, names)


def test_the_cluster_is_the_one_that_istio_has_for_the_service() -> None:
    assert aim_at("http://user.base:7000/").cluster == cluster_name(Service("user", "base", (7000,)), 7000)
    assert aim_at("http://127.0.0.1:1/").cluster == cluster_name(Service("user", "base", (7000,)), 7000), "the tutorial's"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "user.base:7000",
        "https://user.base:7000/",
        "http://kubernetes/",
        "http://www.example.com/",
        "http://user.base.svc.cluster.local.evil.org/",
        "http://10.0.0.1:7000/",
        "http://169.254.169.254/latest/meta-data",
        "http://[fd00:ec2::254]/",
        "http://0.0.0.0:7000/",
        "http://2130706433/",
        "http://me:secret@user.base:7000/",
        "http://me@127.0.0.1:7000/",
        "http://user.base:7000@evil.org/",
        "http://user.base:0/",
        "http://user.base:99999/",
        "http://127.0.0.1:99999/",
        "http://user.base/?x=1",
        "http://user.base/#x",
        "http://user.base/a b",
        "http://user.base/a\r\nx: y",
        "http://127.0.0.1/a\r\nx: y",
        "http://User_.base/",
        "http://user..base/",
        "http://[::1/",
        "http://127.0.0.1:x/",
    ],
)
def test_nothing_else_can_be_named(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        aim_at(url)


@pytest.mark.parametrize("address", ["10.96.0.7", "192.168.1.1", "100.64.0.9", "240.0.0.1", "fd12::7", "127.0.0.1", "::ffff:10.0.0.1"])
def test_a_service_has_an_address_of_the_inside(address: str) -> None:
    assert check_addresses("user.base.svc", [address], outside=False) == address


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1%eth0", "fd00:ec2::254", "0.0.0.0", "::", "224.0.0.1", "::ffff:169.254.169.254"]
)
@pytest.mark.parametrize("outside", [True, False])
def test_no_service_has_an_address_of_a_clouds_secrets_or_of_nobody(address: str, outside: bool) -> None:
    with pytest.raises(RefusedError, match="no address of a service"):
        check_addresses("user.base.svc", ["10.0.0.1", address], outside=outside)


def test_an_address_of_the_internet_is_a_services_only_where_the_clusters_own_service_has_one() -> None:
    with pytest.raises(RefusedError, match=r"8\.8\.8\.8"):
        check_addresses("user.base.svc", ["8.8.8.8"], outside=is_outside("10.96.0.1"))
    assert check_addresses("user.base.svc", ["34.118.224.9"], outside=is_outside("34.118.224.1")) == "34.118.224.9"
    assert not is_outside("")


@pytest.mark.anyio
async def test_the_name_is_looked_up_as_the_clusters_first_and_then_without_its_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(host: str, *arguments: Any, **more: Any) -> list[Any]:
        asked.append(host)
        if host == "user.base.svc":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.7", 7000))]
        raise socket.gaierror(-2, "Name or service not known")

    class Loop:
        async def getaddrinfo(self, host: str, *arguments: Any, **more: Any) -> list[Any]:
            return answer(host)

    monkeypatch.setattr("asyncio.get_running_loop", Loop)
    assert await aim_at("http://user.base:7000/").look_up() == ("10.0.0.7", 7000)
    assert asked == ["user.base.svc.cluster.local", "user.base.svc"]
    with pytest.raises(RefusedError, match=r"the name other.base.svc.cluster.local cannot be looked up: .*not known"):
        await aim_at("http://other.base:7000/").look_up()
