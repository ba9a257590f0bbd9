"""Whom may a load be sent at? This machine, the inside of a cluster, and what the user names each time; nothing else by mistake."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from loadgen.errors import RefusedError, UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_PORTS = {"http": 80, "https": 443}
_SHOWN = 80
_METADATA = ipaddress.ip_address("fd00:ec2::254")
"""Where a cloud tells a machine its secrets; the other such address is link-local."""

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Target:
    """An absolute URL taken apart. ``host`` is a name or an address (IPv6 without brackets), ``path`` has the query, too."""

    url: str
    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def parse_target(url: str) -> Target:
    """Take a URL apart.

    Raises UsageError with a sentence for a person.
    """
    if not re.fullmatch(r"[!-~]+", url):
        raise UsageError(f"the URL {_shown(url)} may hold printable ASCII characters only, and no blanks", hint="percent-encode the others")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{_shown(url)} is no URL: {error}", hint="write it like http://127.0.0.1:8080/path") from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise UsageError(
            f"{_shown(url)} is no http URL", hint=f"did you mean http://{printable(url[:_SHOWN])}?" if "://" not in url else ""
        )
    if "@" in parts.netloc:
        raise UsageError("the URL holds a user name or password", hint="send it with -H 'Authorization: ...'")
    if port == 0:
        raise UsageError(f"{_shown(url)}: the port must be from 1 to 65535")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(url, parts.scheme, parts.hostname, port or _PORTS[parts.scheme], path)


def check_allowed(target: Target, addresses: Sequence[str], allowed_hosts: Collection[str], *, in_cluster: bool) -> None:
    """Check that every address the target's host has may be sent a load.

    Raises RefusedError if one may not.
    """
    if target.host in {host.strip("[]").lower() for host in allowed_hosts}:
        return
    for address in addresses:
        plain = plain_address(address)
        inside = in_cluster and plain.is_private and not is_never_a_target(plain)
        if not plain.is_loopback and not inside:
            raise RefusedError(
                f"{target.host} ({address}) is not this machine, so nothing was sent: a load on a host of somebody else's is an attack",
                hint=f"if the host is yours, say so: --allow-host {target.host}",
            )


def plain_address(address: str) -> IpAddress:
    """Read an address without its zone; an IPv4 address in the clothes of an IPv6 one counts as what it is."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return getattr(parsed, "ipv4_mapped", None) or parsed


def is_never_a_target(address: IpAddress) -> bool:
    """Tell whether nobody may be found at an address: the way to a cloud's secrets, nobody's, or everybody's."""
    return address.is_link_local or address.is_unspecified or address.is_multicast or address == _METADATA


def _shown(url: str) -> str:
    return f"'{printable(url[:_SHOWN])}'"
