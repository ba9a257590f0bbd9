"""From the options of ``loadgen hit`` to what every process is to send. All mistakes are found here, before anything is sent."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadgen.engine.hammers import default_processes
from loadgen.engine.lanes import Shot
from loadgen.engine.spec import LoadSpec
from loadgen.errors import RefusedError, UsageError, printable
from loadgen.outcome import Expected
from loadgen.pacing import Closed, Interval, Open, RateCourse, highest_closed_rate_per_s
from loadgen.runner.hit import HitPlan
from loadgen.target import check_allowed, parse_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.engine.http import HttpShot
    from loadgen.target import Target

CONNECTIONS = 50
IN_FLIGHT = 1000
"""The cap on requests in flight at a rate, unless -c says another."""
DURATION_S = 10.0
MAX_BODY_BYTES = 64 << 20
"""The cap on a request's body."""
MAX_BYTES = 64 << 20
"""The cap on an answer that httpx reads: it is held in memory as a whole."""
NO_CAP_BYTES = 1 << 50
"""The wire engine keeps the first 64 KiB of a body and counts the rest, so its deadline is bound enough."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def plan_hit(
    url: str,
    *,
    connections: int | None,
    limit: int | None,
    duration: float | None,
    rate: float | None,
    poisson: bool,
    headers: Sequence[str],
    method: str | None,
    data: str | None,
    timeout: float,
    expect_status: int | None,
    expect_body: str | None,
    http2: bool,
    insecure: bool,
    cacert: str | None,
    flow: str,
    allowed_hosts: Sequence[str],
    processes: int | None,
    seed: int,
) -> HitPlan:
    """Plan a load.

    Raises UsageError for a mistake and RefusedError for a target that may not be loaded.
    """
    if poisson and rate is None:
        raise UsageError("--poisson needs a rate", hint="add for example -r 500/s")
    if flow and (method is not None or data is not None):
        raise UsageError("-m and -d say nothing to a flow: it sends what it wants", hint="leave them out")
    target = parse_target(url)
    if (insecure or cacert) and (target.scheme != "https" or (insecure and cacert)):
        raise UsageError("--insecure or --cacert, one of them, is for https", hint="leave it out, or write https://")
    address = _resolve(target, allowed_hosts)
    method = ("GET" if data is None else "POST") if method is None else method.upper()
    body = _body(data)
    expected = Expected(expect_status, None if expect_body is None else expect_body.encode())
    shot: Shot | HttpShot
    if target.scheme == "http" and not http2 and not flow:
        request = request_bytes(target, method, headers, body)
        shot = Shot((address, target.port), request, expected, timeout, max_bytes=NO_CAP_BYTES, headless=method == "HEAD")
    else:
        shot = _http_shot(
            target,
            method,
            headers,
            body,
            expected,
            timeout,
            http2=http2,
            verify=cacert or not insecure,
            flow=flow,
            hosts=allowed_hosts,
            address=address,
        )
    most = connections or (CONNECTIONS if rate is None else IN_FLIGHT)
    if rate is None and limit is not None:
        most = min(most, limit)  # a user without a request has nothing to do
    if limit is None and duration is None:
        duration = DURATION_S
    count = _processes(processes, min(most, limit or most), rate or highest_closed_rate_per_s(most, Interval()))
    specs = _specs(count, shot, most=most, rate=rate, poisson=poisson, limit=limit, seed=seed)
    return HitPlan(url, _load(most, rate, poisson=poisson), specs, duration, limit, timeout)


def _specs(
    count: int, shot: Shot | HttpShot, *, most: int, rate: float | None, poisson: bool, limit: int | None, seed: int
) -> list[LoadSpec]:
    """Share a load out to so many processes."""
    return [
        LoadSpec(
            name=f"hammer-{number + 1}",
            shot=shot,
            pacing=Closed(part(most, count, number)) if rate is None else Open(RateCourse(rate / count), poisson=poisson),
            seed=f"{seed}-{number}",
            max_in_flight=part(most, count, number),
            limit=None if limit is None else part(limit, count, number),
        )
        for number in range(count)
    ]


def _processes(wanted: int | None, at_most: int, rate_per_s: float) -> int:
    """Give the number of hammer processes: each must have a connection and a request."""
    if wanted is None:
        return min(at_most, default_processes(rate_per_s))
    if wanted > at_most:
        raise UsageError(
            f"{wanted} processes have nothing to do: there are only {at_most} connections or requests", hint="use fewer --processes"
        )
    return wanted


def _http_shot(
    target: Target, method: str, headers: Sequence[str], body: bytes | None, expected: Expected, timeout_s: float, **how: Any
) -> HttpShot:
    """Say what the engine on httpx is to send; httpx is imported here and not before."""
    try:
        from loadgen.engine.flow import load_flow  # noqa: PLC0415
        from loadgen.engine.http import HttpShot  # noqa: PLC0415
    except ImportError as error:
        raise RefusedError(f"https, HTTP/2 and flows need the package {error.name}", hint="pip install 'loadgen[http]'") from error
    request_bytes(target, method, headers, body)  # finds the same mistakes
    if how["flow"]:
        load_flow(how["flow"])
    own = tuple((name.strip(), value.strip()) for name, _, value in (text.partition(":") for text in headers))
    shot = HttpShot(target.url, method, own, body or b"", expected, timeout_s, MAX_BYTES, **how)
    try:
        shot.check()
    except (ValueError, TypeError) as error:
        raise UsageError(f"this cannot be sent: {printable(str(error))}", hint="check the URL, -H and --allow-host") from error
    if target.scheme == "https":
        shot.tls()
    return shot


def part(whole: int, parts: int, number: int) -> int:
    """Give the size of part ``number`` (from 0) when a whole is cut as evenly as can be."""
    return whole // parts + (number < whole % parts)


def _load(most: int, rate: float | None, *, poisson: bool) -> dict[str, object]:
    if rate is None:
        return {"model": "closed", "users": most}
    return {"model": "open", "rate_per_s": rate, "arrivals": "poisson" if poisson else "constant", "max_in_flight": most}


def request_bytes(target: Target, method: str, headers: Sequence[str], body: bytes | None) -> bytes:
    """Write the request as it goes over the wire.

    Raises UsageError for what cannot be a request.
    """
    if not _TOKEN.fullmatch(method) or method.upper() == "CONNECT":
        raise UsageError(f"'{printable(method[:40])}' is no method for a load", hint="for example GET, HEAD, POST, PUT or DELETE")
    lines = {"host": f"Host: {target.authority}", "user-agent": "User-Agent: loadgen", "accept": "Accept: */*"}
    if body is not None or method in {"POST", "PUT", "PATCH"}:
        lines["content-length"] = f"Content-Length: {len(body or b'')}"
    own = [_header(text) for text in headers]
    if sum(name == "host" for name, _ in own) > 1:
        raise UsageError("-H gives Host more than once", hint="give it once")
    lines = {name: line for name, line in lines.items() if name not in {each for each, _ in own}}
    head = "\r\n".join([f"{method} {target.path} HTTP/1.1", *lines.values(), *(line for _, line in own), "", ""])
    return head.encode("latin-1") + (body or b"")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not _TOKEN.fullmatch(name):
        raise UsageError(f"-H '{printable(text[:60])}' is no header", hint="write it like -H 'Accept: text/html'")
    value = value.strip(" \t")
    if not all((" " <= char <= "\xff" and char != "\x7f") or char == "\t" for char in value):
        raise UsageError(f"-H '{printable(text[:60])}' holds a character that a header cannot hold")
    if name.lower() in {"content-length", "transfer-encoding", "connection"}:
        raise UsageError(f"{name} cannot be set: the engine decides it", hint="leave it out")
    return name.lower(), f"{name}: {value}"


def _body(data: str | None) -> bytes | None:
    if data is None or not data.startswith("@"):
        return None if data is None else data.encode()
    try:
        with Path(data[1:]).open("rb") as file:
            body = file.read(MAX_BODY_BYTES + 1)
    except OSError as error:
        raise UsageError(f"-d {printable(data)}: the file cannot be read: {error.strerror}") from error
    if len(body) > MAX_BODY_BYTES:
        raise UsageError(
            f"-d {printable(data)}: the file holds more than {MAX_BODY_BYTES >> 20} MiB", hint="every connection sends it whole"
        )
    return body


def _resolve(target: Target, allowed_hosts: Sequence[str]) -> str:
    """Give the address that the load goes to; it is looked up once, so that what was checked is what is loaded."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise RefusedError(f"the host {target.host} is not known: {error}", hint="check the name; nothing was sent") from error
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    check_allowed(target, addresses, allowed_hosts, in_cluster="KUBERNETES_SERVICE_HOST" in os.environ and _SERVICE_ACCOUNT.is_dir())
    if len(addresses) == 1:
        return addresses[0]
    return next((address for address in addresses if _listens(address, target.port)), addresses[0])


def _listens(address: str, port: int) -> bool:
    """Tell whether there is somebody at one of several addresses, as a browser does for ``localhost``."""
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except OSError:
        return False
    return True
