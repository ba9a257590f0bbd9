"""How is a load pod set up? Environment variables in, one frozen value out; everything that is wrong is said at once."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from loadgen.errors import InputError, Problem, Severity
from loadgen.outcome import Expected
from loadgen.pod.aim import Aim, aim_at, is_outside
from loadgen.pod_interface import PORT
from loadgen.quantity import interval
from loadgen.scenario import MAX_RATE_PER_S, MAX_USERS, Expect
from loadgen.schema import nearest, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loadgen.pacing import Interval

T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,251}[A-Za-z0-9])?")
_MAX_PORT = 65_535
_MAX_TEXT = 253
_INTERVAL_HINT = "write it like 1s, 250ms, exponential 30ms or none"
KNOWN = (
    "LOADGEN_TARGET",
    "LOADGEN_EXPECT_BODY",
    "LOADGEN_EXPECT_STATUS",
    "LOADGEN_PORT",
    "LOADGEN_BIND",
    "LOADGEN_ADMIN",
    "LOADGEN_CLUSTER",
    "LOADGEN_SECRET_FILE",
    "LOADGEN_MAX_USERS",
    "LOADGEN_MAX_RATE",
    "LOADGEN_USERS",
    "LOADGEN_THINK_TIME",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is fixed while the pod runs.

    ``bind`` is the address that it listens at, empty for all. ``admin`` is its sidecar's admin interface, ``cluster`` the sidecar's name of the
    target. ``max_users`` and ``max_rate_per_s`` bound what a run may ask for; ``users`` and ``think`` are its own load.
    """

    name: str
    namespace: str
    region: str
    aim: Aim
    expected: Expected
    port: int
    bind: str
    admin: tuple[str, int]
    cluster: str
    secret_file: Path | None
    max_users: int
    max_rate_per_s: float
    users: int
    think: Interval
    warnings: tuple[str, ...] = ()


def read_settings(environment: Mapping[str, str], *, host_name: str = "") -> Settings:
    """Read the environment. ``host_name`` is this machine's, which in a container is the pod's name.

    Raises InputError with one problem for each variable that is wrong.
    """
    read = _Reader(environment)
    aim = read.value("LOADGEN_TARGET", "http://user.base:7000/", _aim_for(environment))
    status = read.value("LOADGEN_EXPECT_STATUS", "200", _status)
    body = read.value("LOADGEN_EXPECT_BODY", "Kevin", _body)
    cluster = read.value("LOADGEN_CLUSTER", "", _text)
    secret_file = read.value("LOADGEN_SECRET_FILE", "", _text)
    settings = Settings(
        name=read.value("POD_NAME", host_name if _NAME.fullmatch(host_name) else "client", _name),
        namespace=read.value("POD_NAMESPACE", "unknown", _name),
        region=read.value("REGION", "unknown", _text),
        aim=aim,
        expected=Expected(status, body),
        port=read.value("LOADGEN_PORT", str(PORT), _whole(0, _MAX_PORT), hint=_service_link(environment)),
        bind=read.value("LOADGEN_BIND", "", _text),
        admin=read.value("LOADGEN_ADMIN", "127.0.0.1:15000", _address),
        cluster=cluster or aim.cluster,
        secret_file=Path(secret_file) if secret_file else None,
        max_users=read.value("LOADGEN_MAX_USERS", "50", _whole(1, MAX_USERS)),
        max_rate_per_s=read.value("LOADGEN_MAX_RATE", "500", _rate),
        users=read.value("LOADGEN_USERS", "5", _whole(1, MAX_USERS)),
        think=read.value("LOADGEN_THINK_TIME", "exponential 100ms", interval, hint=_INTERVAL_HINT),
        warnings=tuple(_unknown(environment)),
    )
    if read.problems:
        raise InputError(read.problems)
    return settings


class _Reader:
    """Reads one variable after the other, and goes on after a mistake with the default, so that all mistakes are found."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.problems: list[Problem] = []
        self._environment = environment

    def value(self, name: str, default: str, convert: Callable[[str], T], *, hint: str = "") -> T:
        """Give a variable's value; one that is empty counts as not set."""
        text = self._environment.get(name) or default
        try:
            return convert(text)
        except ValueError as error:
            self.problems.append(Problem(name, 0, 0, str(error), hint, "setting", Severity.ERROR))
            return convert(default)


def _aim_for(environment: Mapping[str, str]) -> Callable[[str], Aim]:
    return lambda url: aim_at(url, outside=is_outside(environment.get("KUBERNETES_SERVICE_HOST", "")))


def _whole(least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"it must be a whole number from {least} to {most:,}, not {shown(text)}")
        return int(text)

    return convert


def _rate(text: str) -> float:
    number = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) else math.nan
    if not 0 < number <= MAX_RATE_PER_S:
        raise ValueError(f"it must be a number of requests per second, more than 0 and at most {MAX_RATE_PER_S:,.0f}, not {shown(text)}")
    return number


def _status(text: str) -> int:
    number = _whole(200, 599)(text)
    try:
        return Expect(status=number, body="").status
    except ValidationError as error:
        raise ValueError(str(error.errors()[0].get("ctx", {}).get("error", error))) from error


def _body(text: str) -> bytes:
    try:
        return Expect(status=200, body=text).body.encode()
    except (ValidationError, UnicodeEncodeError) as error:
        raise ValueError("it must be text of at most 1,024 characters") from error


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"it must be a name of letters, digits, '-' and '.', as Kubernetes gives them, not {shown(text)}")
    return text


def _text(text: str) -> str:
    if len(text) > _MAX_TEXT or not text.isprintable() or not text.isascii():
        raise ValueError(f"it must be at most {_MAX_TEXT} printable ASCII characters long, not {shown(text)}")
    return text


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not re.fullmatch(r"[-A-Za-z0-9_.:]+", host):
        raise ValueError(f"it must be an address with a port, such as 127.0.0.1:15000, not {shown(text)}")
    return host, _whole(1, _MAX_PORT)(port)


def _service_link(environment: Mapping[str, str]) -> str:
    """Explain the one way in which Kubernetes itself sets this variable."""
    if not environment.get("LOADGEN_PORT", "").startswith("tcp://"):
        return ""
    return "a Service named 'loadgen' makes Kubernetes set it: say enableServiceLinks: false in the pod's spec"


def _unknown(environment: Mapping[str, str]) -> list[str]:
    linked = re.compile(r"LOADGEN_(SERVICE_|PORT_).*")
    names = sorted(name for name in environment if name.startswith("LOADGEN_") and name not in KNOWN and not linked.fullmatch(name))
    return [f"the variable {name} means nothing to a load pod; {nearest(name, KNOWN)}" for name in names]
