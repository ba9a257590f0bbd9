"""What do the options of ``loadgen hit`` make every process send?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from loadgen.cli.hit_plan import part, plan_hit, request_bytes
from loadgen.errors import RefusedError, UsageError
from loadgen.outcome import Expected
from loadgen.pacing import Closed, Open
from loadgen.target import parse_target

if TYPE_CHECKING:
    from pathlib import Path

URL = "http://127.0.0.1:8080/a"
OPTIONS: dict[str, Any] = {
    "connections": None,
    "limit": None,
    "duration": None,
    "rate": None,
    "poisson": False,
    "headers": (),
    "method": None,
    "data": None,
    "timeout": 5.0,
    "expect_status": None,
    "expect_body": None,
    "http2": False,
    "insecure": False,
    "cacert": None,
    "flow": "",
    "allowed_hosts": (),
    "processes": 1,
    "seed": 1,
}


def plan(url: str = URL, **options: Any) -> Any:
    return plan_hit(url, **{**OPTIONS, **options})


def test_without_options_fifty_users_send_for_ten_seconds() -> None:
    made = plan()
    (spec,) = made.specs
    assert (spec.pacing, spec.max_in_flight, spec.limit) == (Closed(50), 50, None)
    assert (made.duration_s, made.limit) == (10.0, None)
    assert spec.shot.address == ("127.0.0.1", 8080)
    assert spec.shot.request == b"GET /a HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: loadgen\r\nAccept: */*\r\n\r\n"
    assert spec.shot.expected == Expected(None, None)


@pytest.mark.parametrize("options", [{"http2": True}, {"flow": "tests.hit.test_plan:nothing"}], ids=["http2", "flow"])
def test_the_address_that_was_checked_is_the_one_that_httpx_goes_to(options: dict[str, Any]) -> None:
    assert plan("http://localhost:8080/", **options).specs[0].shot.address in {"127.0.0.1", "::1"}


async def nothing(_client: Any) -> None:
    """A flow."""


def test_a_number_of_requests_alone_sets_no_end_in_time() -> None:
    made = plan(limit=7)
    assert (made.duration_s, made.limit, made.specs[0].limit) == (None, 7, 7)


def test_a_rate_makes_an_open_load_with_a_cap_on_what_is_in_flight() -> None:
    made = plan(rate=500.0, poisson=True)
    assert isinstance(made.specs[0].pacing, Open)
    assert made.specs[0].pacing.poisson
    assert made.specs[0].max_in_flight == 1000
    assert made.load == {"model": "open", "rate_per_s": 500.0, "arrivals": "poisson", "max_in_flight": 1000}
    assert plan(rate=500.0, connections=9).specs[0].max_in_flight == 9


@pytest.mark.parametrize(("whole", "parts"), [(50, 1), (50, 3), (7, 7), (1, 3)])
def test_a_whole_is_cut_into_parts_as_even_as_can_be(whole: int, parts: int) -> None:
    cut = [part(whole, parts, number) for number in range(parts)]
    assert sum(cut) == whole
    assert max(cut) - min(cut) <= 1


def test_several_processes_share_users_requests_and_rate_and_draw_other_numbers() -> None:
    made = plan(connections=50, limit=100, processes=3)
    assert [spec.pacing.users for spec in made.specs] == [17, 17, 16]
    assert [spec.limit for spec in made.specs] == [34, 33, 33]
    assert len({spec.seed for spec in made.specs}) == len({spec.name for spec in made.specs}) == 3
    (first, second) = plan(rate=100.0, processes=2).specs
    assert first.pacing.course.arrived(10.0) == second.pacing.course.arrived(10.0) == 500


def test_more_processes_than_work_are_refused() -> None:
    with pytest.raises(UsageError, match="3 processes have nothing to do"):
        plan(connections=2, processes=3)


def test_a_body_makes_a_post_with_its_length(tmp_path: Path) -> None:
    assert plan(data="name=Kevin").specs[0].shot.request.endswith(b"\r\nContent-Length: 10\r\n\r\nname=Kevin")
    assert plan(data="x").specs[0].shot.request.startswith(b"POST /a ")
    file = tmp_path / "body"
    file.write_bytes(bytes(range(256)))
    assert plan(data=f"@{file}", method="PUT").specs[0].shot.request.endswith(b"Content-Length: 256\r\n\r\n" + bytes(range(256)))
    assert b"Content-Length: 0\r\n" in plan(method="POST").specs[0].shot.request


def test_headers_are_sent_as_they_are_and_may_replace_ours() -> None:
    request = plan(headers=("Host: user.base:7000", "X-A: 1", "x-a:2 ", "Empty:")).specs[0].shot.request
    assert request == (
        b"GET /a HTTP/1.1\r\nUser-Agent: loadgen\r\nAccept: */*\r\nHost: user.base:7000\r\nX-A: 1\r\nx-a: 2\r\nEmpty: \r\n\r\n"
    )


def test_the_answer_to_head_is_known_to_have_no_body() -> None:
    assert plan(method="HEAD").specs[0].shot.headless
    assert not plan(method="GET").specs[0].shot.headless


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"headers": ("no colon",)}, "is no header"),
        ({"headers": ("bad name: x",)}, "is no header"),
        ({"headers": ("a: b\r\nc: d",)}, "cannot hold"),
        ({"headers": ("a: \N{SNOWMAN}",)}, "cannot hold"),
        ({"headers": ("Content-Length: 5",)}, "the engine decides it"),
        ({"headers": ("Transfer-Encoding: chunked",)}, "the engine decides it"),
        ({"headers": ("Connection: close",)}, "the engine decides it"),
        ({"method": "GE T"}, "is no method"),
        ({"method": "CONNECT"}, "is no method"),
        ({"data": "@/no/such/file"}, "cannot be read"),
        ({"poisson": True}, "--poisson needs a rate"),
    ],
)
def test_what_cannot_be_a_request_is_refused_before_anything_is_sent(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan(**options)


def test_a_host_that_is_not_known_is_refused() -> None:
    with pytest.raises(RefusedError, match="is not known"):
        plan("http://no-such-host.invalid/")


def test_a_foreign_address_is_refused_unless_it_is_named() -> None:
    with pytest.raises(RefusedError, match="is not this machine"):
        plan("http://192.0.2.1/")
    assert plan("http://192.0.2.1/", allowed_hosts=("192.0.2.1",)).specs[0].shot.address == ("192.0.2.1", 80)


def test_a_version_6_address_is_named_with_brackets_in_the_host_header() -> None:
    assert b"\r\nHost: [::1]:8080\r\n" in request_bytes(parse_target("http://[::1]:8080/"), "GET", [], None)
