"""How does one reach a port of a pod that listens to the pod itself only? As with kubectl's port-forward: a process in the pod's network passes it on."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_CODE = """
import socket, sys, threading

def pass_on(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        sink.close()

listener = socket.socket(fileno=int(sys.argv[1]))
while True:
    near, _ = listener.accept()
    try:
        far = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
    except OSError:
        near.close()
        continue
    for ends in ((near, far), (far, near)):
        threading.Thread(target=pass_on, args=ends, daemon=True).start()
"""


@contextlib.contextmanager
def port_forward(netns: str, port: int) -> Iterator[int]:
    """Give a port of this machine's loopback that leads to one of a pod's while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:  # made here: a socket stays in the network that it was made in
        near: int = listener.getsockname()[1]
        line = ["ip", "netns", "exec", netns, sys.executable, "-S", "-c", _CODE, str(listener.fileno()), str(port)]
        process = subprocess.Popen(line, pass_fds=[listener.fileno()])
    try:
        yield near
    finally:
        process.kill()
        process.wait()
