"""Are a pod's settings read right, and is everything said at once that is wrong with them?"""

from __future__ import annotations

from pathlib import Path

import pytest

from loadgen.errors import InputError
from loadgen.outcome import Expected
from loadgen.pacing import Interval
from loadgen.pod.settings import KNOWN, read_settings


def test_an_empty_environment_makes_the_tutorials_client() -> None:
    settings = read_settings({}, host_name="client-5d9c-x2x7k")
    assert (settings.name, settings.namespace, settings.region) == ("client-5d9c-x2x7k", "unknown", "unknown")
    assert (settings.aim.url, settings.aim.authority, settings.aim.path) == ("http://user.base:7000/", "user.base:7000", "/")
    assert settings.cluster == "outbound|7000||user.base.svc.cluster.local"
    assert settings.expected == Expected(200, b"Kevin")
    assert (settings.port, settings.bind, settings.admin) == (7000, "", ("127.0.0.1", 15000))
    assert (settings.max_users, settings.max_rate_per_s, settings.users, settings.think) == (50, 500.0, 5, Interval(0.1, exponential=True))
    assert settings.secret_file is None
    assert settings.warnings == ()


def test_every_variable_is_read() -> None:
    settings = read_settings(
        {
            "POD_NAME": "client-1",
            "POD_NAMESPACE": "test",
            "REGION": "us-west",
            "LOADGEN_TARGET": "http://other.shop.svc.cluster.local:8080/path",
            "LOADGEN_EXPECT_BODY": "Bob",
            "LOADGEN_EXPECT_STATUS": "201",
            "LOADGEN_PORT": "7001",
            "LOADGEN_BIND": "127.0.0.1",
            "LOADGEN_ADMIN": "[::1]:15001",
            "LOADGEN_CLUSTER": "outbound|8080|v1|other.shop.svc.cluster.local",
            "LOADGEN_SECRET_FILE": "/var/run/loadgen/secret",
            "LOADGEN_MAX_USERS": "100",
            "LOADGEN_MAX_RATE": "2.5",
            "LOADGEN_USERS": "3",
            "LOADGEN_THINK_TIME": "exponential 30ms",
        }
    )
    assert (settings.name, settings.namespace, settings.region) == ("client-1", "test", "us-west")
    assert (settings.aim.authority, settings.aim.path, settings.aim.port) == ("other.shop:8080", "/path", 8080)
    assert settings.aim.cluster == "outbound|8080||other.shop.svc.cluster.local"
    assert settings.cluster == "outbound|8080|v1|other.shop.svc.cluster.local"
    assert settings.expected == Expected(201, b"Bob")
    assert (settings.port, settings.bind, settings.admin) == (7001, "127.0.0.1", ("::1", 15001))
    assert settings.secret_file == Path("/var/run/loadgen/secret")
    assert (settings.max_users, settings.max_rate_per_s, settings.users, settings.think) == (100, 2.5, 3, Interval(0.03, exponential=True))


def test_a_variable_that_is_empty_is_one_that_is_not_set() -> None:
    assert read_settings(dict.fromkeys([*KNOWN, "POD_NAME", "POD_NAMESPACE", "REGION"], "")) == read_settings({})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("POD_NAME", "client 1", "letters, digits"),
        ("POD_NAME", "a\r\nx-evil: 1", "letters, digits"),
        ("POD_NAME", "x" * 300, "letters, digits"),
        ("POD_NAMESPACE", "te/st", "letters, digits"),
        ("REGION", "us\nwest", "printable ASCII"),
        ("LOADGEN_TARGET", "http://example.com.evil/", "not allowed"),
        ("LOADGEN_TARGET", "ftp://user.base/", "with http"),
        ("LOADGEN_EXPECT_BODY", "x" * 2000, "at most 1,024"),
        ("LOADGEN_EXPECT_STATUS", "ok", "from 200 to 599"),
        ("LOADGEN_EXPECT_STATUS", "600", "from 200 to 599"),
        ("LOADGEN_EXPECT_STATUS", "204", "no body to compare"),
        ("LOADGEN_PORT", "70000", "from 0 to 65,535"),
        ("LOADGEN_PORT", "-1", "from 0 to 65,535"),
        ("LOADGEN_PORT", "tcp://10.0.0.7:7000", "enableServiceLinks"),
        ("LOADGEN_BIND", "\x1b[31m", "printable ASCII"),
        ("LOADGEN_ADMIN", "15000", "such as 127.0.0.1:15000"),
        ("LOADGEN_ADMIN", "127.0.0.1:0", "from 1 to 65,535"),
        ("LOADGEN_ADMIN", "a b:1", "such as 127.0.0.1:15000"),
        ("LOADGEN_CLUSTER", "a\tb", "printable ASCII"),
        ("LOADGEN_SECRET_FILE", "x" * 300, "at most 253"),
        ("LOADGEN_MAX_USERS", "0", "from 1 to 2,000"),
        ("LOADGEN_MAX_USERS", "1e3", "from 1 to 2,000"),
        ("LOADGEN_MAX_USERS", "٣", "from 1 to 2,000"),
        ("LOADGEN_MAX_RATE", "0", "more than 0"),
        ("LOADGEN_MAX_RATE", "nan", "more than 0"),
        ("LOADGEN_MAX_RATE", "500/s", "more than 0"),
        ("LOADGEN_USERS", "many", "from 1 to 2,000"),
        ("LOADGEN_THINK_TIME", "1", "no unit"),
        ("LOADGEN_THINK_TIME", "-1s", "no duration"),
    ],
)
def test_a_wrong_value_is_one_problem_that_names_the_variable(name: str, value: str, said: str) -> None:
    with pytest.raises(InputError) as raised:
        read_settings({name: value})
    (problem,) = raised.value.problems
    assert str(problem).startswith(f"{name}: error: ")
    assert said in str(problem)
    assert str(problem).replace("\n   hint: ", "").isprintable()
    assert raised.value.exit_code == 2


def test_all_wrong_values_are_said_at_once() -> None:
    wrong = {"LOADGEN_PORT": "x", "LOADGEN_USERS": "x", "LOADGEN_TARGET": "x", "LOADGEN_THINK_TIME": "x"}
    with pytest.raises(InputError) as raised:
        read_settings(wrong)
    assert {problem.file for problem in raised.value.problems} == set(wrong)


def test_a_variable_that_means_nothing_is_a_warning_with_the_nearest_name_but_not_one_that_kubernetes_makes() -> None:
    made = {"LOADGEN_SERVICE_HOST": "10.0.0.7", "LOADGEN_PORT_7000_TCP": "tcp://10.0.0.7:7000"}
    (warning,) = read_settings({"LOADGEN_THINKTIME": "1s", **made}).warnings
    assert "LOADGEN_THINKTIME" in warning
    assert "did you mean 'LOADGEN_THINK_TIME'?" in warning


def test_a_host_name_that_is_no_name_is_not_taken() -> None:
    assert read_settings({}, host_name="a_b c").name == "client"
