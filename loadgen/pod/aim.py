"""Whom does this pod call? A service of its own cluster, or this machine; decided once, at the start, and no request can change it.

The law: a name with two parts is a service and its namespace, and is only ever looked up below ``svc``, which does not exist outside of a
cluster: ``example.com`` would be the service ``example`` in the namespace ``com``. What the name stands for is checked, too.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
from pydantic import ValidationError

from loadgen.errors import RefusedError
from loadgen.policy.state import outbound_cluster
from loadgen.scenario import Target
from loadgen.target import is_never_a_target, plain_address

if TYPE_CHECKING:
    from collections.abc import Sequence

LOOK_UP_S = 3.0
_SHORT_HOST = re.compile(r"(?P<scheme>http://)(?P<host>[^/.:@]+\.[^/.:@]+)(?P<rest>[:/].*)?", re.DOTALL)
_LOOPBACK_HOST = re.compile(r"127(\.\d{1,3}){3}|localhost|::1")
_TUTORIAL = outbound_cluster("user.base.svc.cluster.local", 7000)


@dataclass(frozen=True, slots=True)
class Aim:
    """The target: its URL as it was given, the names to look it up by, port and path, and the value of the Host header.

    ``cluster`` is the name that Istio's sidecars have for it. ``outside`` says whether a service may have an address of the open Internet.
    """

    url: str
    names: tuple[str, ...]
    port: int
    path: str
    authority: str
    cluster: str
    outside: bool = False

    async def look_up(self) -> tuple[str, int]:
        """Find the address to call.

        Raises RefusedError if the name is not known, or stands for something that no service can be.
        """
        loop = asyncio.get_running_loop()
        failure: Exception = TimeoutError(f"no answer within {LOOK_UP_S:g} s")
        with anyio.move_on_after(LOOK_UP_S):
            for name in self.names:
                try:
                    found = await loop.getaddrinfo(name, self.port, type=socket.SOCK_STREAM)
                except (OSError, UnicodeError) as error:
                    failure = error
                    continue
                return check_addresses(self.names[0], [str(each[4][0]) for each in found], outside=self.outside), self.port
        message = f"the name {self.names[0]} cannot be looked up: {failure}"
        raise RefusedError(message, hint="is there such a Service, and does the cluster's DNS answer?") from failure


def aim_at(url: str, *, outside: bool = False) -> Aim:
    """Read the target's URL.

    Raises ValueError with a sentence for a person if it is anything but a service of the cluster or this machine.
    """
    short = _SHORT_HOST.fullmatch(url)
    full = f"{short['scheme']}{short['host']}.svc{short['rest'] or ''}" if short else url
    own = _own_machine(url)
    if own is not None:
        return own
    try:
        target = Target.model_validate({"url": full, "expect": {"body": ""}})
    except ValidationError as error:
        raise ValueError(str(error.errors()[0].get("ctx", {}).get("error", "it is no URL"))) from error
    name, namespace = target.service
    host = f"{name}.{namespace}.svc.cluster.local"
    names = (host, f"{name}.{namespace}.svc")  # the second one where the cluster's domain is another
    cluster = outbound_cluster(host, target.port)
    return Aim(url, names, target.port, target.path, f"{name}.{namespace}:{target.port}", cluster, outside)


def _own_machine(url: str) -> Aim | None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
    except ValueError:
        return None
    plain = parts.scheme == "http" and "@" not in parts.netloc and re.fullmatch(r"[!-~]+", url) and "?" not in url and "#" not in url
    if not plain or not _LOOPBACK_HOST.fullmatch(host):
        return None
    name = "127.0.0.1" if host == "localhost" else host
    return Aim(url, (name,), port, parts.path or "/", parts.netloc, _TUTORIAL)


def check_addresses(name: str, addresses: Sequence[str], *, outside: bool) -> str:
    """Give the first address of a service.

    Raises RefusedError if one of them cannot be a service's: the way to a cloud's secrets, nobody's, everybody's, or the open Internet (unless
    ``outside``: some clusters give their services addresses that look like that).
    """
    for address in addresses:
        plain = plain_address(address)
        if is_never_a_target(plain) or (plain.is_global and not outside):
            raise RefusedError(
                f"{name} stands for {address}, which is no address of a service in this cluster, so nothing is sent to it",
                hint="an ExternalName Service leads out of the cluster; aim at one with pods",
            )
    return addresses[0]


def is_outside(address: str) -> bool:
    """Tell whether an address (here: of the cluster's API service, which is a service like others) looks like one of the open Internet."""
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
