"""What becomes of one container of a pod? A process with the container's environment and files, restarted as the pod's policy says."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from loadgen.mesh.children import Children

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.mesh.children import Child
    from tests.cluster.controlplane.api import Object

MAX_BACKOFF_S = 10.0
FAILURE_THRESHOLD = 3
PROBE_TIMEOUT_S = 0.5
MESSAGE_BYTES, MESSAGE_LINES = 2048, 80
"""So much of its log's end a container that failed leaves as its last message, if its manifest wants that."""


@dataclass(frozen=True, slots=True)
class Container:
    """What a program is told of the container that it shall be.

    ``files`` are those of the mounted secrets and config maps and of the service account, by their path in the container.
    """

    pod: Object
    spec: Object
    environment: Mapping[str, str]
    files: Mapping[str, Path]


Program = Callable[[Container], Sequence[str]]
"""Gives the command that a container runs. It must be something that pickle can name, for the kubelet is a process of its own."""

_WITH_FILES = 'mount -t tmpfs tmpfs /run; while [ "$1" != -- ]; do mkdir -p "${1%/*}"; cp "$2" "$1"; shift 2; done; shift; exec "$@"'


@dataclass(frozen=True, slots=True)
class Plain:
    """A program of this machine, with the container's arguments, environment and files and nothing else of ours.

    Its files must lie below /run or /var/run: these are the pod's own.
    """

    command: tuple[str, ...]

    def __call__(self, container: Container) -> list[str]:
        """Give the command."""
        variables = [f"{name}={value}" for name, value in {"PATH": os.environ["PATH"], **container.environment}.items()]
        command = ["env", "-i", *variables, *self.command, *container.spec.get("args", [])]
        if not container.files:
            return command
        files = [part for path, source in container.files.items() for part in (path, str(source))]
        return ["sh", "-ec", _WITH_FILES, "sh", *files, "--", *command]


class Role(Enum):
    """What a container is to its pod. A sidecar is an init container that goes on running."""

    INIT = "init"
    SIDECAR = "sidecar"
    MAIN = "main"


@dataclass
class Running:
    """One container and the process that it is now, if any.

    ``restart_policy`` is Always, OnFailure or Never; ``probe_url`` begins with http or tcp; ``previous`` is how its last life ended.
    """

    spec: Object
    role: Role
    restart_policy: str
    probe_url: str
    log: Path
    restarts: int = 0
    exit_code: int | None = None
    is_ready: bool = False
    started_at: str = ""
    ended_at: str = ""
    previous: Object | None = None
    _children: Children = field(default_factory=Children)
    _child: Child | None = None
    _group: int | None = None
    _not_before: float = 0.0
    _next_probe: float = 0.0
    _failures: int = 0

    @property
    def is_alive(self) -> bool:
        """Tell whether its process runs."""
        return self._child is not None and self.exit_code is None

    @property
    def is_over(self) -> bool:
        """Tell whether it has ended and is not to be started again."""
        return self.exit_code is not None and not self._shall_restart()

    def is_due(self) -> bool:
        """Tell whether it is to be started now, for the first time or again."""
        return self._child is None or (self.exit_code is not None and self._shall_restart() and time.monotonic() >= self._not_before)

    def start(self, command: Sequence[str]) -> None:
        """Start its process."""
        if self.exit_code is not None:
            self.previous = self.end()
            self.restarts += 1
        self.exit_code, self.is_ready, self._failures, self._next_probe = None, False, 0, 0.0
        self.started_at = timestamp()
        self._child = self._children.start(self.spec["name"], command, self._log)
        self._group = self._child.process.pid

    def look(self) -> None:
        """See whether its process has ended, and if not whether it is ready."""
        if self._child is None or self.exit_code is not None:
            return
        code = self._child.process.poll()
        if code is None:
            self._probe()
            return
        self.kill()
        self.exit_code, self.is_ready, self.ended_at = (code if code >= 0 else 128 - code), False, timestamp()
        self._not_before = time.monotonic() + min(MAX_BACKOFF_S, self.restarts)

    def end(self) -> Object:
        """Say how its process ended, as the status of a pod does."""
        reason = "Completed" if self.exit_code == 0 else "Error"
        ended: Object = {"exitCode": self.exit_code, "reason": reason, "startedAt": self.started_at, "finishedAt": self.ended_at}
        if self.exit_code and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            ended["message"] = _end_of(self._log)
        return ended

    def terminate(self) -> None:
        """Ask it to end, and what it has started, too."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, and what it has started, too."""
        self._signal(signal.SIGKILL)
        self._children.stop()
        self._group = None

    @property
    def _log(self) -> Path:
        return self.log.with_suffix(f".{self.restarts}.log")

    def _signal(self, number: signal.Signals) -> None:
        """Signal the whole process group: a program may stand behind another that ignores signals."""
        if self._group is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._group, number)

    def _shall_restart(self) -> bool:
        return self.restart_policy == "Always" or (self.restart_policy == "OnFailure" and self.exit_code != 0)

    def _probe(self) -> None:
        """Ask for its readiness: always until it is ready, then as often as its probe says."""
        if not self.probe_url:
            self.is_ready = True
            return
        probe, now = self.spec.get("readinessProbe", {}), time.monotonic()
        if self.is_ready and now < self._next_probe:
            return
        self._next_probe = now + probe.get("periodSeconds", 10)
        self._failures = 0 if _answers(self.probe_url) else self._failures + 1
        self.is_ready = self._failures < probe.get("failureThreshold", FAILURE_THRESHOLD) if self.is_ready else self._failures == 0


def timestamp() -> str:
    """Give the time as the API server writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _end_of(log: Path) -> str:
    text = log.read_bytes()[-MESSAGE_BYTES:].decode("utf-8", "replace")
    return "".join(text.splitlines(keepends=True)[-MESSAGE_LINES:])


def _answers(url: str) -> bool:
    place = urlsplit(url)
    try:
        if place.scheme == "tcp":
            socket.create_connection((place.hostname, place.port), PROBE_TIMEOUT_S).close()
            return True
        with build_opener(ProxyHandler({})).open(url, timeout=PROBE_TIMEOUT_S):
            return True
    except (OSError, HTTPException):
        return False
