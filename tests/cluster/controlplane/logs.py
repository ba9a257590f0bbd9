"""How does ``kubectl logs`` come to a container's log? The API server asks the node over TLS; this is the node's answer, and all that it answers."""

from __future__ import annotations

import re
import ssl
import subprocess
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_PATH = re.compile(r"/containerLogs/(?P<namespace>[a-z0-9-]+)/(?P<pod>[a-z0-9.-]+)/(?P<container>[a-z0-9-]+)")
_DAYS = "2"


def serve_logs(pods: Path, address: str) -> int:
    """Serve the logs below ``pods`` for as long as the process lives; give the port."""

    class Handler(_Handler):
        folder = pods

    server = ThreadingHTTPServer((address, 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(pods.parent, address))
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    folder: Path

    def do_GET(self) -> None:
        """Give the log of the container's last life; with ``previous=true`` that of the one before."""
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        named = _PATH.fullmatch(unquote(url.path))
        if not named or "follow" in query:
            self.send_error(400, "this node gives the logs that there are, and does not follow them")
            return
        lives = sorted((self.folder / f"{named['namespace']}_{named['pod']}").glob(f"{named['container']}.*.log"), key=_life)
        wanted = lives[-2:-1] if "previous" in query else lives[-1:]
        if not wanted:
            self.send_error(404, "there is no such log")
            return
        lines: Iterable[bytes] = wanted[0].read_bytes().splitlines(keepends=True)
        if "tailLines" in query:
            lines = deque(lines, int(query["tailLines"][0]))
        content = b"".join(lines)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _life(log: Path) -> int:
    return int(log.suffixes[-2][1:])


def _certificate(folder: Path, address: str) -> Path:
    """Make a certificate with its key in one file; the API server does not check a node's unless it is told to."""
    file = folder / "node.pem"
    subject = ("-subj", "/CN=node", "-addext", f"subjectAltName=IP:{address}")
    options = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", _DAYS)
    made = subprocess.run(["openssl", "req", *options, *subject, "-keyout", "-", "-out", "-"], check=True, capture_output=True)
    file.touch(mode=0o600)
    file.write_bytes(made.stdout)
    return file
