"""Are the load pods what the scenario needs? Each is asked what it is, before anything is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from loadgen import __version__
from loadgen.cluster import answer
from loadgen.cluster.failure import ApiError
from loadgen.cluster.pods import AT_ONCE
from loadgen.cluster.remote import UnreachableError
from loadgen.errors import LoadgenError
from loadgen.pod_interface import SCHEMA
from loadgen.target import parse_target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from loadgen.cluster.remote import RemotePod
    from loadgen.scenario import Scenario

SAME_AT_MOST = 3
"""So many pods are named that have the same trouble; of the others it is said how many there are."""


async def roll_call(controls: Sequence[RemotePod], scenario: Scenario) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Ask all pods; give their snapshots by name, and in sentences what stands in the way."""
    snapshots: dict[str, dict[str, Any]] = {}
    troubles: dict[str, dict[str, str]] = {}
    at_once = anyio.CapacityLimiter(AT_ONCE)

    async def ask(control: RemotePod) -> None:
        async with at_once:
            try:
                snapshot = snapshots[control.name] = await control.snapshot()
                found = list(_troubles(snapshot, scenario))
                if not found:
                    found = [f"its sidecar: {error}"] if (error := (await control.tell("state"))["error"]) else []  # asked with the secret
            except UnreachableError as error:
                troubles.setdefault(_kind(error), {})[control.name] = _sentence(error, control)
                return
            except LoadgenError as error:
                found = [_sentence(error, control)]
            except (KeyError, TypeError, AttributeError, ValueError):
                found = ["answers what is no snapshot: is it the load pod of this version?"]
        for trouble in found:
            troubles.setdefault(trouble, {})[control.name] = trouble

    async with anyio.create_task_group() as tasks:
        for control in controls:
            tasks.start_soon(ask, control)
    return snapshots, [f"{_names(sorted(said))} {said[min(said)]}" for _, said in sorted(troubles.items())]


def _sentence(error: LoadgenError, control: RemotePod) -> str:
    message = error.message.removeprefix(f"pod {control.name} ")
    return f"{message}; {error.hint}" if error.hint else message


def _kind(error: UnreachableError) -> str:
    """Say what pods have in common that cannot be reached: the sentences hold their names and addresses."""
    cause = error.__cause__
    return f"cannot be reached: {type(cause).__name__} {cause.status if isinstance(cause, ApiError) else ''}"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - SAME_AT_MOST} more" if len(names) > SAME_AT_MOST else ""
    return f"pod{'s' if len(names) > 1 else ''} {', '.join(names[:SAME_AT_MOST])}{more}:"


def _troubles(snapshot: Mapping[str, Any], scenario: Scenario) -> Iterator[str]:
    if snapshot["schema"] != SCHEMA or snapshot["version"] != __version__:
        yield f"runs loadgen {snapshot['version']} ({snapshot['schema']}), and this is {__version__}: use the image of this version"
        return
    answer.count(snapshot["sidecar"]["workers"])  # the report needs both
    answer.text(snapshot["sidecar"]["version"])
    if _address(snapshot["target"]) != _address(scenario.target.url):
        yield f"calls {snapshot['target']}, the scenario's target is {scenario.target.url}: set LOADGEN_TARGET in its Deployment"
    wanted = {"status": scenario.target.expect.status, "body": scenario.target.expect.body}
    if snapshot["expect"] != wanted:
        yield f"takes {snapshot['expect']} for ok, the scenario {wanted}: set LOADGEN_EXPECT_STATUS and LOADGEN_EXPECT_BODY"
    if snapshot["run"]:
        yield f"is held by run {snapshot['run']}: wait until that one has ended"
    if snapshot["sidecar"]["state"] != "live":
        yield f"has no sidecar that answers: {snapshot['sidecar']['state']}"
    elif not snapshot["sidecar"]["counts"]:
        yield "has a sidecar that keeps no counters of the target: set proxyStatsMatcher in its annotation proxy.istio.io/config, as loadgen manifests does"
    if scenario.load.max_in_flight > snapshot["limits"]["users"] and scenario.load.model != "open":
        yield f"allows {snapshot['limits']['users']} users, the scenario wants {scenario.load.max_in_flight}: set LOADGEN_MAX_USERS"
    if scenario.load.highest_rate_per_s > snapshot["limits"]["rate"]:
        yield f"allows {snapshot['limits']['rate']:g} requests per second, the scenario may reach {scenario.load.highest_rate_per_s:,.0f}: set LOADGEN_MAX_RATE"


def _address(url: str) -> tuple[str, ...]:
    """Give service, namespace and port of a target, however it is written."""
    target = parse_target(url)
    return (*target.host.removesuffix(".cluster.local").removesuffix(".svc").split("."), str(target.port))
