"""Which host may the users load? With a mesh its service and no other; without one what the command line allows."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from loadgen.errors import RefusedError
from loadgen.target import check_allowed, parse_target

if TYPE_CHECKING:
    from loadgen.locust.options import Given
    from loadgen.target import Target

SHOWN = 100
"""So many characters of a host are quoted."""


def check_service(host: str, service: Target) -> None:
    """Check that a host, if one is given, is the mesh's service.

    Raises RefusedError if it is not, LoadgenError if it is no host.
    """
    if host and parse_target(host).authority != service.authority:
        message = f"the host {host[:SHOWN]} is not the mesh's service"
        raise RefusedError(message, hint=f"leave the host empty, or write http://{service.authority}")


def checked_host(host: str, given: Given, unmeshed: str) -> tuple[Target, str]:
    """Give the target that a host is, and the address or name to connect to, if it may be loaded. ``unmeshed`` is why there is no mesh.

    Raises LoadgenError if it may not be, or is no host.
    """
    target = parse_target(host)
    try:
        addresses = sorted({str(found[4][0]) for found in socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError) as error:
        no_mesh = "" if given.mesh["kind"] == "off" else f"; and there is no mesh: {unmeshed}"
        message = f"the host {target.host[:SHOWN]} has no address: {error}"
        raise RefusedError(message, hint=f"give another with --host{no_mesh}") from error
    check_allowed(target, addresses, given.allowed, in_cluster=False)
    named = target.host in given.allowed
    at = target.host if named else addresses[0]  # what was checked: a name may mean another address the next time
    if target.scheme == "https" and at != target.host:  # a certificate is for the name
        raise RefusedError(f"over https {target.host} is called by its name", hint=f"allow that with --allow-host {target.host}")
    return target, at
