"""Who changes a rule, and by which marks are its objects known?

Everything that a run makes in a cluster has a name that follows from the service's host, a label with the run, and annotations that say
who holds it and when it expires: what is left over can be found, and undone, from the cluster alone.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import secrets
import shlex
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from loadgen.errors import printable

Json = dict[str, Any]
"""An object as the API server gives it; what we do not know in it stays in it."""

FIELD_MANAGER = "loadgen"
DOMAIN = "loadgen.dev/"
MANAGED_BY = "app.kubernetes.io/managed-by"
RUN = f"{DOMAIN}run"
HOLDER = f"{DOMAIN}holder"
HOST = f"{DOMAIN}host"
HOME = f"{DOMAIN}home"
EXPIRES_AT = f"{DOMAIN}expires-at"
UNDO = f"{DOMAIN}undo"
"""How the object was before, or a fingerprint of what was made: enough to undo it when the journal is lost."""
RESTORED = ("test", "base")
"""Where ``loadgen restore`` looks if nobody says where: the tutorial's namespaces."""
MAX_DEPTH = 64
"""What is nested deeper is nothing that we or Istio wrote, and not everything that works on it later would end well."""
_UNSAFE = re.compile(r"[^A-Za-z0-9@._-]+")


@dataclass(frozen=True, slots=True)
class Run:
    """One run that changes the rule of one host. ``namespace`` is the clients': there its lease, its journal and its guard live.

    ``id`` is valid as a label; ``holder`` says who and where, for people; ``expires_at`` is a moment on the API server's clock.
    """

    id: str
    holder: str
    host: str
    namespace: str
    expires_at: datetime

    @property
    def identity(self) -> str:
        """The holder of the lease: unique, and telling."""
        return f"{self.holder}/{self.id}"

    @property
    def labels(self) -> dict[str, str]:
        """The labels of everything that the run makes."""
        return {MANAGED_BY: FIELD_MANAGER, RUN: self.id}

    @property
    def annotations(self) -> dict[str, str]:
        """The annotations of everything that the run makes."""
        return {HOLDER: self.holder, HOST: self.host, HOME: self.namespace, EXPIRES_AT: rfc3339(self.expires_at)}

    def metadata(self, name: str) -> Json:
        """Give the metadata of an object that the run makes in its own namespace."""
        return {"name": name, "namespace": self.namespace, "labels": self.labels, "annotations": self.annotations}


def new_run_id(now: datetime) -> str:
    """Make an id that sorts by time and that no other run has."""
    return f"{now.astimezone(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def this_holder() -> str:
    """Say who runs this process, where: ``user@machine/pid``."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        user = str(os.getuid())
    return f"{_UNSAFE.sub('-', user)}@{_UNSAFE.sub('-', socket.gethostname())}/{os.getpid()}"


def lease_name(host: str) -> str:
    """Name the lease of a host."""
    return f"loadgen-{_digest(host)}"


def overlay_name(host: str) -> str:
    """Name our own rule of a host."""
    return f"loadgen-{_digest(host)}"


def journal_name(host: str) -> str:
    """Name the journal of a host."""
    return f"loadgen-journal-{_digest(host)}"


def guard_name(host: str) -> str:
    """Name the guard of a host."""
    return f"loadgen-guard-{_digest(host)}"


def _digest(host: str) -> str:
    return hashlib.sha1(host.encode(), usedforsecurity=False).hexdigest()[:10]


def annotation(thing: Json, key: str) -> str:
    """Give an object's annotation, empty without one."""
    return str((thing["metadata"].get("annotations") or {}).get(key, ""))


def run_of(thing: Json) -> str:
    """Say which run an object belongs to: by the label of what a run made, or the annotation of what it changed; empty for neither."""
    return str((thing["metadata"].get("labels") or {}).get(RUN, "")) or annotation(thing, RUN)


def whose(thing: Json) -> str:
    """Say which run's the marks on an object are, for people: who holds it, and until when."""
    expires_at = moment_of(annotation(thing, EXPIRES_AT))
    until = f" until {rfc3339(expires_at)}" if expires_at else ""
    return f"run {printable(run_of(thing))} of {printable(annotation(thing, HOLDER)) or 'nobody known'}{until}"


def namespaces_of(host: str) -> tuple[str, ...]:
    """Give the namespace that a service's host names, if it names one."""
    return tuple(host.split(".")[1:2])


def restore_command(*namespaces: str, run_id: str = "") -> str:
    """Give the command that puts back what was left in these namespaces. It can be typed as it stands, whatever others have written into the names."""
    named = () if set(namespaces) <= {"", *RESTORED} else dict.fromkeys(namespaces)
    words = ["loadgen", "restore", *(word for each in named if each for word in ("--namespace", each))]
    return shlex.join(printable(word) for word in (*words, *(("--run-id", run_id) if run_id else ())))


def wait_or_restore(thing: Json) -> str:
    """Say what to do about the marks of a run on an object."""
    command = restore_command(thing["metadata"].get("namespace", ""), annotation(thing, HOME))
    return f"wait for it to end; if it is dead, {command} undoes what it left"


def key_of(thing: Json) -> str:
    """Name an object as ``namespace/name``."""
    return f"{thing['metadata'].get('namespace', '')}/{thing['metadata']['name']}"


def rfc3339(moment: datetime) -> str:
    """Write a moment as Kubernetes does."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def micro_time(moment: datetime) -> str:
    """Write a moment as a Lease wants it."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def moment_of(text: object) -> datetime | None:
    """Read either; None for anything else."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)


def json_of(text: str | bytes) -> Any:
    """Read JSON that anybody may have written.

    Raises ValueError if it is none, or nested more than ``MAX_DEPTH`` levels deep.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for each in level if isinstance(each, dict | list) for inner in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return value
    raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
