"""What a run showed, as one versioned object: the only thing that any output is made from, now or later.

Times are seconds, shares are 0 to 1. Fields may be added in a version; none is renamed or taken away. So an older report lacks what has a default
here, and a newer one has more than is known here: both are read.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loadgen.errors import UsageError, printable, repeated
from loadgen.evidence import State
from loadgen.policy.limits import Limits
from loadgen.recorder import LONGEST_S, MOST
from loadgen.scenario import MAX_CLIENTS, MAX_PHASES

SCHEMA: Final = "loadgen.report/v1"
Count = Annotated[int, Field(ge=0, le=MOST)]
Difference = Annotated[int, Field(ge=-MOST, le=MOST)]
"""How much more one witness counted than another, or than before: less, if it began anew."""
Seconds = Annotated[float, Field(ge=0, le=LONGEST_S)]


class Part(BaseModel):
    """Base of all parts: what stands there is what the schema names, and nothing else is made into it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True, defer_build=True, allow_inf_nan=False)


class Validity(Part):
    """Whether the figures may be trusted, and if not, why."""

    state: Literal["VALID", "INVALID"]
    reasons: list[str]


class VerdictPart(Part):
    """What the run says about the limit."""

    state: State
    sentence: str


class Quantiles(Part):
    """A latency distribution in seconds, counted from the moment a request was due."""

    p50: Seconds
    p90: Seconds
    p99: Seconds
    p999: Seconds
    max: Seconds


class Lag(Part):
    """How late the hammer got round to sending, in seconds."""

    p50: Seconds
    p99: Seconds
    max: Seconds


class LedgerPart(Part):
    """The client's overflow count, the proxy's overflow counters (both kinds), and the difference.

    ``pending_overflow`` and ``active_overflow`` are the proxy's two kinds; ``server_side`` the overflows that another proxy made.
    What the proxy counted is null if the proxy could not be read when the phase ended.
    """

    client: Difference
    proxy: Difference | None
    difference: Difference | None
    pending_overflow: Difference | None = 0
    active_overflow: Difference | None = 0
    server_side: Count = 0


class ServicePart(Part):
    """What the service itself counted: requests that arrived in the phase, and the most in flight at a time; null if it could not be asked."""

    requests: Difference | None
    peak_in_flight: Count | None


class SeenPart(Part):
    """What the service saw of bursts: in how many periods it had something in flight of one client, and the fewest and the most that it had at a time."""

    count: Count
    least: Count
    most: Count


class BurstsPart(Part):
    """The bursts that began and ended in a phase: how many, and the fewest and the most of their requests that the client's sidecar let through.

    Let through is what somebody beyond the sidecar answered. ``untold`` are those with a request of which that is not known, as of one that timed
    out, ``cut`` those that an edge of the phase cut, so that a part only lies in it; neither are in ``count``. ``least`` and ``most`` are null without a count. ``seen`` is the service's side; null if it does not say. Where a phase begins or ends, one side may count a burst that the other does not.
    """

    count: Count
    least: Count | None
    most: Count | None
    untold: Count = 0
    cut: Count = 0
    seen: SeenPart | None


class Spread(Part):
    """The fastest, middle and slowest client, in seconds."""

    min: Seconds
    p50: Seconds
    max: Seconds


class Effective(Part):
    """The limits in force as a sidecar's admin interface shows them; 4294967295 means no limit, as does 0 for the last."""

    max_connections: Count
    max_pending_requests: Count
    max_requests: Count
    max_retries: Count
    max_requests_per_connection: Count

    def in_force(self) -> dict[str, int]:
        """Give the limits that are set, by the names of the DestinationRule's fields."""
        return Limits(**self.model_dump()).in_force()


class CausePart(Part):
    """How many requests failed for a cause, and who made the answers; one is named in ``loadgen.cause`` and in the README."""

    cause: Annotated[str, Field(max_length=40)]
    made_by: Annotated[str, Field(max_length=40)]
    requests: Count


Causes = Annotated[list[CausePart], Field(default_factory=list, max_length=64)]
"""The most frequent one first."""


class ClientPart(Part):
    """One client in one phase. ``drain_s`` is the time from convergence until all earlier requests had ended.

    ``causes`` are those of all requests that were neither ok nor marked by the own sidecar as its overflows. ``connections`` to the service were open
    in its sidecar when the phase began to count; null if it does not say.
    """

    name: str
    requests: Count
    outcomes: dict[str, Count]
    latency_s: dict[str, Quantiles]
    ledger: LedgerPart
    service: ServicePart
    convergence_s: Seconds | None
    drain_s: Seconds
    effective: Effective
    causes: Causes
    connections: Count | None = None
    bursts: BurstsPart | None = None


class FigurePart(Part):
    """One figure beside its prediction: what theory gives (null if it gives bounds only), from where to where it should lie, and what was measured."""

    predicted: float | None
    low: float | None
    high: float | None
    measured: float | None

    @property
    def inside(self) -> bool | None:
        """Whether the measurement lies where it should; None if nothing was measured, or there is no bound."""
        if self.measured is None or (self.low is None and self.high is None):
            return None
        return (self.low is None or self.low <= self.measured) and (self.high is None or self.measured <= self.high)


class PredictionPart(Part):
    """What theory says of a phase, beside what was measured. The intervals are those of 99 in 100 measurements.

    ``law`` says which theory, ``because`` gives it in a sentence. ``service_time_s`` is between what and what a request's time in the sidecar lies on average, as measured: the
    mean latency of ``ok``, with and without that of ``overflow``; ``service_time_from`` says so. ``offered`` is in Erlang, for each client; null of a load that is not open.
    ``admitted`` is of one client, at a time; ``loss`` of all requests; ``goodput_per_s`` of all clients.
    ``parts`` tells whether the measurement lies outside the interval; null if nothing is judged. ``sentence`` says where.
    """

    law: str
    because: str
    service_time_s: tuple[Seconds, Seconds]
    service_time_from: str
    offered: tuple[float, float] | None
    admitted: FigurePart
    loss: FigurePart
    goodput_per_s: FigurePart
    parts: bool | None
    sentence: str


class PhasePart(Part):
    """One phase, all clients together and one by one.

    ``began_s``, ``ended_s``, ``toggled_s`` and ``converged_s`` are seconds since the load began: when the phase began and ended to count, when the
    policy was put or removed for it, and when the last sidecar showed that; null if nothing was toggled, or in reports from before they were kept.
    ``because`` says which limit fired and why; empty if none was in force. ``pool``: whether a request could find an open connection in the clients'
    sidecars when the phase began to count: in each of them (warm), in none (cold; with ``maxRequestsPerConnection`` 1 always), or in some of them
    (mixed); empty if that is not known. How much ``http1MaxPendingRequests`` rejects depends on it. ``connections`` is how many were open then in all.
    ``prediction`` is null of a phase in which nothing is limited, of a load that nobody described, and in reports from before there was one.
    ``schedule_lag_s`` is how late requests were sent, ``loop_lag_s`` how late the hammer's own loop got to run. ``held_s`` is the longest that a client was held back, between the phases, to read its busy proxy's counters.
    """

    name: str
    policy: Literal["absent", "applied", "removed"]
    because: str = ""
    pool: Literal["", "cold", "warm", "mixed"] = ""
    connections: Count | None = None
    duration_s: Seconds
    requests: Count
    rate_per_s: float
    outcomes: dict[str, Count]
    latency_s: dict[str, Quantiles]
    schedule_lag_s: Lag
    loop_lag_s: Lag
    ledger: LedgerPart
    service: ServicePart
    convergence_s: Spread | None
    drain_s: Spread
    began_s: Seconds | None = None
    ended_s: Seconds | None = None
    toggled_s: Seconds | None = None
    converged_s: Seconds | None = None
    held_s: Seconds
    hammer_cpu_share: float
    causes: Causes
    bursts: BurstsPart | None = None
    clients: Annotated[list[ClientPart], Field(max_length=MAX_CLIENTS)]
    prediction: PredictionPart | None = None

    @property
    def imbalance(self) -> int | None:
        """The clients' differences added up without their signs, so that two cannot cancel; None if one is unknown."""
        differences = [client.ledger.difference for client in self.clients]
        known = [abs(difference) for difference in differences if difference is not None]
        return sum(known) if len(known) == len(differences) else None


class ExpectationPart(Part):
    """One expectation: what was wanted, what was got, and whether it held."""

    phase: str
    metric: str
    wanted: str
    got: str
    held: bool


class RestorePart(Part):
    """Whether the mesh is again as it was found."""

    state: Literal["verified", "not_needed", "failed"]
    detail: str


class ScenarioPart(Part):
    """What was run."""

    name: str
    target: str
    load: dict[str, object]
    clients: Count
    workers: Count
    service_time: str
    rule: str | None
    limits: dict[str, Count]
    seed: Count


class Environment(Part):
    """Where it was run. ``hammer_cpu_share`` is the share of one core that the busiest of the ``processes`` used, over all phases."""

    loadgen: str
    python: str
    platform: str
    cpus: Count
    envoy: str
    processes: Count = 1
    hammer_cpu_share: float
    ready_s: Seconds


class Report(Part):
    """A whole run. ``between_phases`` are the outcomes of the requests that ended between two phases, before the first or after the last: they count in none."""

    schema_: Literal["loadgen.report/v1"] = Field(SCHEMA, alias="schema")
    scenario: ScenarioPart
    mesh: Literal["local", "cluster"]
    started_at: str
    duration_s: Seconds
    environment: Environment
    validity: Validity
    verdict: VerdictPart
    phases: Annotated[list[PhasePart], Field(max_length=MAX_PHASES)]
    between_phases: dict[str, Count] = {}
    expectations: list[ExpectationPart]
    findings: list[str]
    restore: RestorePart

    def to_json(self) -> str:
        """Write the report as ``report.json`` holds it."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"

    @classmethod
    def of_json(cls, data: bytes | str) -> Self:
        """Read what ``to_json`` wrote, in this version or an earlier one.

        Raises UsageError that says why if it is no report, one of a version that is not known here, or a damaged one.
        """
        _check_version(data)
        try:
            return cls.model_validate_json(data, extra="ignore")
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            said = printable(": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"]))))
            raise UsageError(f"the report is damaged: {said}", hint="take the file as the run wrote it") from error


def _check_version(data: bytes | str) -> None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError("this is no report of a run: it is no JSON, or it is cut off", hint="name the report.json of a run") from error
    version = document.get("schema") if isinstance(document, dict) else None
    if version == SCHEMA:
        return
    if not isinstance(version, str) or not version.startswith("loadgen.report/"):
        what = f"its schema is {repeated(version)}, not {SCHEMA}" if version is not None else "it does not say its schema"
        raise UsageError(f"this is no report of a run: {what}", hint="name the report.json of a run")
    environment = document.get("environment")
    writer = environment.get("loadgen") if isinstance(environment, dict) else None
    by = f", written by loadgen {repeated(writer)}" if writer is not None else ""
    raise UsageError(
        f"the report is of version {repeated(version)}{by}; this loadgen knows {SCHEMA} only", hint="use the loadgen that wrote it"
    )


def json_schema() -> dict[str, Any]:
    """Give the JSON Schema of a report: what every report of this version has, and what it may have. Further fields are allowed."""
    schema = Report.model_json_schema()
    for part in [schema, *schema["$defs"].values()]:
        part.pop("additionalProperties", None)
    schema["required"] = ["schema", *schema["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": SCHEMA}
