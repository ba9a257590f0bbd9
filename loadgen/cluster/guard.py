"""Who puts the rules back if the run cannot? A Job in the cluster, made before anything is changed, that watches the run's lease.

The law: a run changes nothing before the guard is ready, and it is ready when it may undo the change and has seen the cluster. A run is dead
if its lease was not renewed for its whole time, by the guard's own clock, or if it is past the moment at which its change expires. Then the
guard restores. When the journal is gone, its work is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from loadgen.cluster.api import RESTORE_S, SETTLE_S
from loadgen.cluster.failure import ForbiddenError
from loadgen.cluster.finding import Fate
from loadgen.cluster.journal import expired, record_of
from loadgen.cluster.lease import LEASE_S, Hold, Watch
from loadgen.cluster.marks import guard_name, journal_name, lease_name
from loadgen.cluster.paths import config_maps, leases
from loadgen.cluster.restore import restore
from loadgen.cluster.rights import GUARD_ACCOUNT, missing_rights, rights_to_restore
from loadgen.cluster.undo import Undone
from loadgen.errors import LoadgenError, RefusedError, printable
from loadgen.pod_interface import PORT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anyio.abc import SocketStream

    from loadgen.cluster.api import KubeApi
    from loadgen.cluster.marks import Json, Run
    from loadgen.cluster.rights import Touched
    from loadgen.cluster.undo import Tell

LOOK_S = 2.0
MARGIN_S = 300.0
"""How long after the change has expired the Job may still try."""
TRIES = 6
_RESOURCES = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}


class CannotUndoError(RefusedError):
    """The guard lacks a right that undoing takes, while nothing is in force yet."""


async def guard(
    api: KubeApi,
    host: str,
    namespace: str,
    *,
    touched: Sequence[Touched] = (),
    ready: Callable[[], None] = lambda: None,
    tell: Tell = lambda _: None,
    look_s: float = LOOK_S,
    lease_s: float = LEASE_S,
    settle_s: float = SETTLE_S,
    folder: Path | None = None,
) -> Undone:
    """Watch over a change until it is undone; undo it if its run is dead. ``look_s`` is the time between two looks.

    ``touched`` are the rules that the run will write; ``ready`` is called once we may put them back, and have seen the cluster. What cannot be
    read or done now is tried again, for as long as the Job lives.

    Raises CannotUndoError if we may not put them back, and need not yet.
    """
    watch = Watch()
    told = ""
    is_asked = is_ready = False
    while True:
        try:
            if not is_asked:
                await _ask_for_rights(api, host, namespace, touched, tell)
                is_asked = True
            run_id = await _dead_run(api, host, namespace, watch)
            if not is_ready:
                ready()
                is_ready = True
            if run_id is None:
                return Undone(Fate.VERIFIED, f"the journal of {host} is gone: nothing is left to be undone")
            if run_id:
                tell(f"run {printable(run_id)} is dead or its time is over; its change is undone")
                undone = await restore(
                    api, host, namespace, run_id=run_id, tell=tell, within_s=RESTORE_S, lease_s=lease_s, settle_s=settle_s, folder=folder
                )
                if undone.fate is not Fate.FAILED:
                    return undone
                tell(undone.sentence)
        except CannotUndoError:
            raise
        except LoadgenError as error:
            if error.message != told:
                tell(error.message)
            told = error.message
        await anyio.sleep(look_s)


async def _ask_for_rights(api: KubeApi, host: str, namespace: str, touched: Sequence[Touched], tell: Tell) -> None:
    """Ask whether we may undo what the run will do. Where something is in force already, it is tried whatever the answer."""
    missing = await missing_rights(api, rights_to_restore(touched, host, namespace) if touched else ())
    if not missing:
        return
    sentence = f"the guard's account {namespace}/{GUARD_ACCOUNT} may not {', '.join(missing)}"
    try:
        found = await api.find(config_maps(namespace, journal_name(host)))
        in_force = found is not None and record_of(found, f"the journal of {host}").entries
    except ForbiddenError:
        in_force = ()
    if not in_force:
        raise CannotUndoError(sentence)
    tell(sentence)


async def open_port(port: int) -> None:
    """Accept connections, and close them: so a node learns that we are ready. Goes on for ever."""

    async def close(stream: SocketStream) -> None:
        await stream.aclose()

    async with await anyio.create_tcp_listener(local_port=port) as listener:
        await listener.serve(close)


async def _dead_run(api: KubeApi, host: str, namespace: str, watch: Watch) -> str | None:
    """Give the run that must be restored, nothing while it is alive, None if there is no journal any more."""
    found = await api.find(config_maps(namespace, journal_name(host)))
    if found is None:
        return None
    record = record_of(found, f"the journal of {host}")
    lease = await api.find(leases(namespace, lease_name(host)))
    hold = Hold.of(lease) if lease else None
    watch.see(hold)
    if expired(record, api.server_time()):
        return record.run.id  # whoever else has the lease by now restores, and is left alone
    is_dead = watch.still_s >= (hold.lasts_s if hold else LEASE_S)
    return (hold.run if hold else record.run.id) if is_dead else ""


def guard_job(run: Run, image: str, *, lasts_s: float, touched: Sequence[Touched] = (), pull_secrets: Sequence[str] = ()) -> Json:
    """Make the Job that watches over a run's change: what is created before anything is changed. Its pod is ready when the guard is.

    ``lasts_s`` is how long the run will take at most; the Job ends some minutes later, and goes when it has ended: with it, the rules that it
    owns. ``touched`` are the rules that the run will write; ``pull_secrets`` names the Secrets with which a node gets the image.
    """
    pod = {
        "serviceAccountName": GUARD_ACCOUNT,
        "automountServiceAccountToken": True,
        "restartPolicy": "OnFailure",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 10,
        "containers": [_container(run, image, touched)],
        **({"imagePullSecrets": [{"name": each} for each in pull_secrets]} if pull_secrets else {}),
    }
    labels = {**run.labels, "sidecar.istio.io/inject": "false"}  # a sidecar would outlive it, and the Job would never end
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": run.metadata(guard_name(run.host)),
        "spec": {
            "activeDeadlineSeconds": round(lasts_s + MARGIN_S),
            "backoffLimit": TRIES,
            "completions": 1,
            "parallelism": 1,
            "ttlSecondsAfterFinished": 0,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _container(run: Run, image: str, touched: Sequence[Touched]) -> Json:
    arguments = ["guard", "--host", run.host, "--namespace", run.namespace, "--ready-port", str(PORT)]  # the image begins with loadgen
    arguments += [word for each in touched for word in ("--creates" if each.creates else "--changes", each.key)]
    return {
        "name": "guard",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": arguments,
        "env": [{"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "resources": _RESOURCES,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
