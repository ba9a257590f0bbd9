"""Is a URL taken apart as a browser would, and is nobody's host loaded by mistake?"""

from __future__ import annotations

import pytest

from loadgen.errors import RefusedError, UsageError
from loadgen.target import Target, check_allowed, parse_target


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080/a?b=c", ("127.0.0.1", 8080, "/a?b=c", "127.0.0.1:8080")),
        ("http://localhost", ("localhost", 80, "/", "localhost")),
        ("http://localhost?b", ("localhost", 80, "/?b", "localhost")),
        ("https://user.base/", ("user.base", 443, "/", "user.base")),
        ("http://[::1]:81/#part", ("::1", 81, "/", "[::1]:81")),
        ("HTTP://USER.Base:80/X", ("user.base", 80, "/X", "user.base")),
    ],
)
def test_a_url_is_taken_apart(url: str, expected: tuple[str, int, str, str]) -> None:
    target = parse_target(url)
    assert (target.host, target.port, target.path, target.authority) == expected


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:8080", "did you mean http://127.0.0.1:8080?"),
        ("localhost/x", "did you mean http://localhost/x?"),
        ("ftp://127.0.0.1/", "no http URL"),
        ("http:///x", "no http URL"),
        ("http://a b/", "no blanks"),
        ("http://a/\r\nX: y", "no blanks"),
        ("http://kevin:secret@127.0.0.1/", "user name or password"),
        ("http://127.0.0.1:99999/", "no URL"),
        ("http://127.0.0.1:0/", "from 1 to 65535"),
        ("http://[::1/", "no URL"),
        ("", "printable ASCII"),
    ],
)
def test_what_is_no_http_url_is_refused_with_a_sentence(url: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_target(url)
    assert said in f"{raised.value.message} {raised.value.hint}"
    assert "secret" not in raised.value.message


def target(host: str) -> Target:
    return parse_target(f"http://{host}/")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("in_cluster", [False, True])
def test_this_machine_may_be_loaded_by_any_name(address: str, in_cluster: bool) -> None:
    check_allowed(target("any.name"), [address], [], in_cluster=in_cluster)


@pytest.mark.parametrize("address", ["10.0.0.7", "192.168.1.1", "fd00::7", "172.20.3.4"])
def test_a_private_address_may_be_loaded_inside_a_cluster_only(address: str) -> None:
    check_allowed(target("user.base"), [address], [], in_cluster=True)
    with pytest.raises(RefusedError, match="not this machine"):
        check_allowed(target("user.base"), [address], [], in_cluster=False)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "0.0.0.0", "::", "169.254.169.254", "fe80::1%eth0"])
@pytest.mark.parametrize("in_cluster", [False, True])
def test_any_other_address_is_refused_and_the_message_says_how_to_allow_it(address: str, in_cluster: bool) -> None:
    with pytest.raises(RefusedError) as raised:
        check_allowed(target("example.com"), [address], ["example.org"], in_cluster=in_cluster)
    assert "--allow-host example.com" in raised.value.hint
    assert raised.value.exit_code == 3


def test_one_foreign_address_among_several_is_enough_to_refuse() -> None:
    with pytest.raises(RefusedError):
        check_allowed(target("both.example"), ["127.0.0.1", "93.184.216.34"], [], in_cluster=False)


@pytest.mark.parametrize("named", ["example.com", "EXAMPLE.com"])
def test_a_host_that_is_named_may_be_loaded(named: str) -> None:
    check_allowed(target("example.com"), ["93.184.216.34"], [named], in_cluster=False)


def test_an_address_of_version_6_may_be_named_with_brackets() -> None:
    check_allowed(target("[2606:2800:220:1::1]"), ["2606:2800:220:1::1"], ["[2606:2800:220:1::1]"], in_cluster=False)
