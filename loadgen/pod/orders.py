"""What may a control request ask for? One model for each verb; what is wrong with a request is said as for a scenario file.

A load is written as in a scenario (``think_time: exponential 30ms``), or as such a load is dumped to JSON: a bare number is then in base
units, seconds or requests per second.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field

from loadgen.document import parse_documents
from loadgen.errors import LoadgenError
from loadgen.policy.limits import Limits
from loadgen.scenario import BurstLoad, ClosedLoad, Label, OpenLoad
from loadgen.schema import Model, validate

if TYPE_CHECKING:
    from collections.abc import Mapping

O = TypeVar("O", bound=Model)  # noqa: E741  # an order
MAX_HOLD_S = 600
MAX_WAIT_S = 10
MAX_AGE_S = 3600
MAX_LIMIT = 2**32 - 1
MAX_PATH = 1024
MAX_SHOWN = 5
_EXACT = ".25f"
"""So many digits that a number is the same when it is read again, without an exponent."""
_DURATIONS = ("timeout", "pause", "ramp", "hold")


class OrderError(LoadgenError):
    """A control request asks for something that cannot be, or may not be."""


class UnreadableError(LoadgenError):
    """The body of a control request is no JSON object."""


class Take(Model):
    """Take the pod over with this load; let it go when nothing was heard for ``hold_s`` seconds."""

    load: Annotated[ClosedLoad | OpenLoad | BurstLoad, Field(discriminator="model")]
    seed: str = Field("1", max_length=200)
    path: str = Field("", max_length=MAX_PATH, pattern=r"^(/[!-~]*)?$")
    hold_s: float = Field(30, ge=1, le=MAX_HOLD_S)


class Nothing(Model):
    """A verb that says everything."""


class Phase(Model):
    """The phase that begins, or none."""

    name: Label | None


class DoneSince(Model):
    """How long ago the moment was, in seconds."""

    age_s: float = Field(ge=0, le=MAX_AGE_S)


class WantedLimits(Model):
    """All limits of a cluster, by Envoy's names."""

    max_connections: int = Field(ge=0, le=MAX_LIMIT)
    max_pending_requests: int = Field(ge=0, le=MAX_LIMIT)
    max_requests: int = Field(ge=0, le=MAX_LIMIT)
    max_retries: int = Field(ge=0, le=MAX_LIMIT)
    max_requests_per_connection: int = Field(ge=0, le=MAX_LIMIT)

    @property
    def limits(self) -> Limits:
        """The same as the policy's value."""
        return Limits(**self.model_dump())


class Converge(Model):
    """The state that is wanted: limits, and the rule (``namespace/name``) that they come from, None without one."""

    limits: WantedLimits
    rule: str | None = Field(max_length=600)
    wait_s: float = Field(5, ge=0, le=MAX_WAIT_S)


class FindEdge(Model):
    """By how much load and sidecar are known to differ (load less sidecar); None leaves that to the pod."""

    offset: int | None = None


def read_order(model: type[O], body: bytes) -> O:
    """Read the body of a control request; an empty one is ``{}``.

    Raises UnreadableError if it is no JSON object, and OrderError with a sentence if its values are wrong.
    """
    try:
        values = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise UnreadableError("the body is no JSON") from error
    if not isinstance(values, dict):
        raise UnreadableError("the body is no JSON object")
    if isinstance(values.get("load"), dict):
        values["load"] = _as_written(values["load"])
    document = parse_documents("{}", "the request")[0]  # only its values are looked at: nobody wants line and column here
    document.data = values
    order, problems = validate(model, document)
    if order is None:
        raise OrderError("; ".join(problem.message for problem in problems[:MAX_SHOWN]))
    return order


def over_limits(order: Take, *, max_users: int, max_rate_per_s: float) -> str:
    """Say by what a load exceeds what this pod may be asked for; nothing if it does not."""
    load = order.load
    if not isinstance(load, OpenLoad) and load.max_in_flight > max_users:
        return f"the load has {load.max_in_flight:,} users, but this pod allows {max_users:,}; raise LOADGEN_MAX_USERS"
    if load.highest_rate_per_s > max_rate_per_s:
        rate = f"may reach {load.highest_rate_per_s:,.0f} requests per second"
        return f"the load {rate}, but this pod allows {max_rate_per_s:,.0f}; raise LOADGEN_MAX_RATE, or add think time"
    return ""


def _as_written(load: Mapping[str, Any]) -> dict[str, Any]:
    """Write a load that was dumped as it stands in a scenario file."""
    values = {name: _quantity(name, value) for name, value in load.items()}
    if isinstance(values.get("stages"), list):
        values["stages"] = [_as_written(stage) if isinstance(stage, dict) else stage for stage in values["stages"]]
    return values


def _quantity(name: str, value: Any) -> Any:
    if name == "think_time" and isinstance(value, dict) and set(value) == {"mean_s", "exponential"} and _is_number(value["mean_s"]):
        kind = "exponential" if value["exponential"] is True else "constant"
        return f"{kind} {value['mean_s']:{_EXACT}}s"
    if name in _DURATIONS and _is_number(value):
        return f"{value:{_EXACT}}s"
    if name == "rate" and _is_number(value):
        return f"{value:{_EXACT}}/s"
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
