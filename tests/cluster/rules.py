"""Rules for the tests: what the owner of a service has, what a scenario wants, and the change that follows."""

from __future__ import annotations

import contextlib
import ssl
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio

from loadgen.cluster.access import Access
from loadgen.cluster.change import Change, Mode, plan_change
from loadgen.cluster.guard import guard_job
from loadgen.cluster.journal import Journal, Record, State
from loadgen.cluster.journal_file import JournalFile
from loadgen.cluster.lease import Lease
from loadgen.cluster.marks import Run, new_run_id, this_holder
from loadgen.cluster.paths import rules
from loadgen.cluster.toggle import RuleChange
from loadgen.cluster.turn import turn
from loadgen.document import parse_documents
from loadgen.policy.rule import parse_rules
from loadgen.policy.selection import Service, Workload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from loadgen.cluster.api import KubeApi
    from loadgen.policy.rule import Rule

Object = dict[str, Any]
LABELS = {"app": "client"}
LIMITS = {"http": {"http1MaxPendingRequests": 1, "http2MaxRequests": 1, "maxRequestsPerConnection": 1}}
SCENARIO = """
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata:
  name: user
  namespace: {namespace}
spec:
  host: {host}
  trafficPolicy:
    connectionPool:
      http:
        http1MaxPendingRequests: 1
        http2MaxRequests: 1
        maxRequestsPerConnection: 1
  exportTo:
  - '*'
"""


def access(url: str, authority: Path | str, token: str) -> Access:
    """Give a user's access to an API server; ``http`` needs no authority."""
    tls = ssl.create_default_context(cafile=str(authority)) if url.startswith("https") else None
    return Access(url, tls, lambda: f"Bearer {token}")


def host(base: str) -> str:
    return f"user.{base}.svc.cluster.local"


def service(base: str) -> Service:
    return Service("user", base, (7000,))


def client(home: str) -> Workload:
    return Workload(home, LABELS)


def wanted(base: str, text: str = SCENARIO) -> list[Rule]:
    """Give the scenario's rule for the service in a namespace."""
    found, problems = parse_rules(parse_documents(text.format(namespace=base, host=host(base)), "policy.yaml"), "policy.yaml")
    assert not problems, problems
    return found


def owners_rule(base: str, **metadata: Any) -> Object:
    """Give a rule that somebody has for the service, with everything that must survive."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {
            "name": "owners",
            "namespace": base,
            "labels": {"team": "a", "app.kubernetes.io/managed-by": "kustomize"},
            "annotations": {"note": "ä 'quoted' \"twice\" \\ \n two lines", "empty": ""},
            **metadata,
        },
        "spec": {
            "host": host(base),
            "subsets": [{"name": "v1", "labels": {"version": "v1"}}],
            "trafficPolicy": {
                "connectionPool": {"tcp": {"maxConnections": 100, "connectTimeout": "1.5s"}, "http": {"http1MaxPendingRequests": 10}},
                "outlierDetection": {"consecutive5xxErrors": 5},
                "tls": {"mode": "ISTIO_MUTUAL"},
            },
        },
    }


def new_run(api: KubeApi, base: str, home: str, *, run_id: str = "", lasts_s: float = 300.0) -> Run:
    moment = api.server_time()
    return Run(run_id or new_run_id(moment), this_holder(), host(base), home, moment + timedelta(seconds=lasts_s))


@contextlib.asynccontextmanager
async def taking_turn(
    api: KubeApi, base: str, home: str, mode: Mode, state: Path, *, guarded: bool = False, run_id: str = "", **options: Any
) -> AsyncIterator[RuleChange]:
    """Take the turn to change the rule of a service, as a run does; ``guarded`` makes the guard's Job, which nobody here need run."""
    change = await planned(api, base, home, mode)
    run = new_run(api, base, home, run_id=run_id)
    async with anyio.create_task_group() as tasks:
        guard = guard_job(run, "loadgen:1", lasts_s=60.0) if guarded else None
        options = {"guard": guard, "guard_s": 0.0, "file": JournalFile(run.id, state), **options}
        async with turn(api, run, change, tasks, version="v1", **options) as toggle:
            yield toggle
        tasks.cancel_scope.cancel()


async def abandoned(
    api: KubeApi, base: str, home: str, mode: Mode, state: Path, *, lasts_s: float = 300.0, lease_s: float = 1.0
) -> RuleChange:
    """Do what a run does until its change is in force, and no more; give what it would have gone on with."""
    change = await planned(api, base, home, mode)
    run = new_run(api, base, home, lasts_s=lasts_s)
    lease = await Lease.acquire(api, run, lasts_s=lease_s)
    record = Record(run, change.mode.value, State.INTENT, api.url, "v1")
    toggle = RuleChange(api, lease, await Journal.begin(api, record, JournalFile(run.id, state)), change)
    await toggle.apply()
    return toggle


async def planned(api: KubeApi, base: str, home: str, mode: Mode | None = None) -> Change:
    """Plan the change that the scenario's rule makes among the rules that are there."""
    found = [rule for namespace in (home, base) for rule in await api.list(rules("v1", namespace))]
    change = plan_change(found, wanted(base), service(base), client(home), mode=mode)
    change.check()
    return change
