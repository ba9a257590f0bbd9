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
_METADATA = {ipaddress.ip_address("fd00:ec2::254")}
"""Where a cloud tells a machine its secrets; the others are link-local."""


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
        parsed = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(parsed, "ipv4_mapped", None) or parsed
        inside = in_cluster and mapped.is_private and not mapped.is_unspecified and not mapped.is_link_local and mapped not in _METADATA
        if not mapped.is_loopback and not inside:
            raise RefusedError(
                f"{target.host} ({address}) is not this machine, so nothing was sent: a load on a host of somebody else's is an attack",
                hint=f"if the host is yours, say so: --allow-host {target.host}",
            )


def _shown(url: str) -> str:
    return f"'{printable(url[:_SHOWN])}'"
