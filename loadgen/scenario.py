"""What shall happen? The scenario file as values: target, clients, load, service, policy, phases, expectations."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from loadgen.expectation import Expectation, parse_expectation
from loadgen.pacing import Burst, Closed, Coming, Interval, Open, Pacing, RateCourse, Stage, highest_closed_rate_per_s
from loadgen.quantity import (
    MAX_DURATION_S,
    MIN_RATE_PER_S,
    duration_s,
    duration_text,
    interval,
    interval_text,
    positive_duration_s,
    rate_per_s,
)
from loadgen.schema import Model, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_CLIENTS = 200
MAX_USERS = MAX_IN_FLIGHT = 2_000
MAX_RATE_PER_S = 50_000.0
MAX_WORKERS = 16
MAX_PHASES = 20
MAX_STAGES = 50

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
_DNS_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_SERVICE_HOST = re.compile(rf"(?P<name>{_DNS_LABEL})\.(?P<namespace>{_DNS_LABEL})\.svc(\.cluster\.local)?")
"""The ``svc`` is required: ``example.com`` could be a service of the namespace ``com``, or the outside."""
_HTTP_PORT = 80


def _is_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


def _label(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ValueError(
            f"{shown(text)} is no valid name; it may hold lower-case letters, digits and, between them, '-', at most 40 characters"
        )
    return text


def _bounded_rate(text: object) -> float:
    rate = rate_per_s(text)
    if rate > MAX_RATE_PER_S:
        raise ValueError(f"the rate may be at most {MAX_RATE_PER_S:.0f}/s in each client")
    return rate


Duration = Annotated[float, BeforeValidator(positive_duration_s)]
OptionalDuration = Annotated[float, BeforeValidator(duration_s)]
Rate = Annotated[float, BeforeValidator(_bounded_rate)]
IntervalField = Annotated[Interval, BeforeValidator(interval)]
Label = Annotated[str, AfterValidator(_label)]


class Expect(Model):
    """The answer that counts as ok."""

    status: int = Field(200, ge=200, le=599)
    body: str = Field(max_length=1024)

    @field_validator("status")
    @classmethod
    def _has_a_body(cls, status: int) -> int:
        if status in {204, 205, 304}:
            raise ValueError(f"an answer with status {status} has no body to compare")
        return status

    @field_validator("body")
    @classmethod
    def _is_text(cls, body: str) -> str:
        if "\0" in body:
            raise ValueError("the expected body cannot hold a NUL character")
        return body


class Target(Model):
    """The service of the mesh that the clients call. Only a service of the cluster can be named, so no scenario can aim at the outside."""

    url: str
    expect: Expect

    @field_validator("url")
    @classmethod
    def _is_a_service(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise ValueError(f"{shown(url)} is no URL: {error}") from error
        if parts.scheme != "http" or "@" in parts.netloc or "?" in url or "#" in url:
            raise ValueError(
                "the target must look like http://user.base.svc.cluster.local:7000/, with http (sidecars encrypt by themselves), no user name and no query"
            )
        if not re.fullmatch(r"[!-~]+", url):  # urlsplit silently takes out line breaks and tabs
            raise ValueError("the target may hold printable ASCII characters only, and no blanks")
        if not _SERVICE_HOST.fullmatch(parts.hostname or ""):
            raise ValueError(
                f"the target '{parts.netloc[:80]}' is not allowed; allowed is a service of the mesh, <service>.<namespace>.svc.cluster.local:<port>"
            )
        if not _is_port(parts):
            raise ValueError("the port of the target must be a number from 1 to 65535")
        return url

    @property
    def service(self) -> tuple[str, str]:
        """Name and namespace of the service."""
        match = _SERVICE_HOST.fullmatch(urlsplit(self.url).hostname or "")
        assert match, "validated above"
        return match["name"], match["namespace"]

    @property
    def port(self) -> int:
        """The service's port."""
        return urlsplit(self.url).port or _HTTP_PORT

    @property
    def path(self) -> str:
        """The path that is asked for."""
        return urlsplit(self.url).path or "/"


class Clients(Model):
    """The load sources, each behind its own sidecar. ``workers`` is the number of Envoy's worker threads in each."""

    count: int = Field(10, ge=1, le=MAX_CLIENTS)
    namespace: Label = "test"
    labels: dict[str, str] = Field(default_factory=lambda: {"app": "client"})
    workers: int = Field(1, ge=1, le=MAX_WORKERS)


class ClosedLoad(Model):
    """``users`` users in each client; each waits for its answer, thinks, and sends again."""

    model: Literal["closed"]
    users: int = Field(ge=1, le=MAX_USERS)
    think_time: IntervalField = Interval()
    timeout: Duration = 5.0

    @property
    def pacing(self) -> Pacing:
        """One client's pacing."""
        return Closed(self.users, self.think_time)

    @property
    def max_in_flight(self) -> int:
        """A user has at most one request in flight."""
        return self.users

    @property
    def highest_rate_per_s(self) -> float:
        """The rate if the answers come at once."""
        return highest_closed_rate_per_s(self.users, self.think_time)


class StageModel(Model):
    """A part of a rate's course: ``ramp`` to the rate in a straight line, then ``hold`` it."""

    rate: Rate
    ramp: OptionalDuration = 0.0
    hold: OptionalDuration = 0.0


class OpenLoad(Model):
    """Arrivals at ``rate`` in each client, whatever the answers do; what would exceed ``max_in_flight`` counts as unsent.

    The rate then goes through the ``stages``, counted from the first request of the run, and stays at the last one's.
    """

    model: Literal["open"]
    rate: Rate
    stages: list[StageModel] = Field(default_factory=list, max_length=MAX_STAGES)
    arrivals: Literal["constant", "poisson"] = "poisson"
    max_in_flight: int = Field(1000, ge=1, le=MAX_IN_FLIGHT)
    timeout: Duration = 5.0

    @property
    def course(self) -> RateCourse:
        """The rate over time."""
        return RateCourse(self.rate, [Stage(stage.rate, stage.ramp, stage.hold) for stage in self.stages])

    @property
    def pacing(self) -> Pacing:
        """One client's pacing."""
        return Open(self.course, poisson=self.arrivals == "poisson")

    @property
    def highest_rate_per_s(self) -> float:
        """The highest rate of the course."""
        return max([self.rate, *(stage.rate for stage in self.stages)])


class BurstLoad(Model):
    """``size`` requests at the same moment in each client, and again ``pause`` after the last of them was answered."""

    model: Literal["burst"]
    size: int = Field(ge=1, le=MAX_USERS)
    pause: Duration = 1.0
    timeout: Duration = 5.0

    @property
    def pacing(self) -> Pacing:
        """One client's pacing."""
        return Burst(self.size, self.pause)

    @property
    def max_in_flight(self) -> int:
        """A burst begins when the one before has ended."""
        return self.size

    @property
    def highest_rate_per_s(self) -> float:
        """One burst a pause, if the answers come at once."""
        return self.size / self.pause


def load_text(load: Mapping[str, object]) -> str:
    """Write a load as a report has it the way that its author wrote it: ``model closed, users 5, think_time exponential 30ms, timeout 5s``.

    What no load model has is shown as it is: a report may come from elsewhere.
    """
    return ", ".join(f"{name} {_load_value_text(name, value)}" for name, value in load.items() if value != [])


def _load_value_text(name: str, value: object) -> str:
    match value:
        case {"mean_s": int() | float() as mean_s, "exponential": bool() as exponential}:
            return interval_text(mean_s, exponential=exponential)
        case [*items]:
            return f"[{', '.join(_load_value_text(name, item) for item in items)}]"
        case dict():
            return f"{{{', '.join(f'{key}: {_load_value_text(key, each)}' for key, each in value.items())}}}"
        case int() | float() if name in _DURATIONS:
            return duration_text(value)
        case int() | float() if name == "rate":
            return f"{value:.10g}/s"
    return str(value)


_DURATIONS = frozenset({"ramp", "hold", "timeout", "pause"})
"""The fields of load models that are seconds in a report."""


class ServiceModel(Model):
    """How the user service behaves on a laptop; in a cluster the real service decides.

    ``status`` is what it answers with, the expected one if there is none: a service that fails by itself must not pass for a limit.
    """

    time: IntervalField = Interval(0.02)
    status: int | None = Field(None, ge=200, le=599)


PolicyState = Literal["absent", "applied", "removed"]


class Phase(Model):
    """A named stretch of the scenario with the policy on or off."""

    name: Label
    policy: PolicyState
    duration: Duration


class PhaseSpan(NamedTuple):
    """A phase, from when to when it goes, and since when its policy is what it is in it; in seconds since the load began, without what passes between two phases."""

    phase: Phase
    since_s: float
    begins_s: float
    ends_s: float

    def coming(self, course: RateCourse) -> Coming:
        """Say what comes in it."""
        return Coming(course, self.since_s, self.begins_s, self.ends_s)


class Overrides(Model):
    """What the command line may put in the place of the file's values; None leaves them. ``duration`` (seconds) is that of every phase."""

    clients: int | None = Field(None, ge=1, le=MAX_CLIENTS)
    users: int | None = Field(None, ge=1, le=MAX_USERS)
    rate: float | None = Field(None, ge=MIN_RATE_PER_S, le=MAX_RATE_PER_S)
    duration: float | None = Field(None, gt=0, le=MAX_DURATION_S)
    seed: int | None = Field(None, ge=0, le=2**31 - 1)


class Scenario(Model):
    """A whole scenario file. ``policy`` is the path of the rule's file, relative to the scenario."""

    name: Label
    description: str = ""
    target: Target
    clients: Clients = Field(default_factory=lambda: Clients.model_validate({}))
    load: Annotated[ClosedLoad | OpenLoad | BurstLoad, Field(discriminator="model")]
    service: ServiceModel = ServiceModel()
    policy: str | None = Field(None, min_length=1)
    phases: list[Phase] = Field(min_length=1, max_length=MAX_PHASES)
    expectations: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(1, ge=0, le=2**31 - 1)

    def overridden(self, overrides: Overrides) -> Scenario:
        """Give the scenario with other values for this run.

        Raises ValueError if the load model has no such value.
        """
        load = {name: value for name in ("users", "rate") if (value := getattr(overrides, name)) is not None}
        for name in load:
            if name not in type(self.load).model_fields:
                raise ValueError(f"--{name} does not fit: the scenario's load model is {self.load.model}")
        if "rate" in load and isinstance(self.load, OpenLoad) and self.load.stages:
            raise ValueError("--rate does not fit: the scenario's rate has stages")
        phase = {} if overrides.duration is None else {"duration": overrides.duration}
        clients = {} if overrides.clients is None else {"count": overrides.clients}
        return self.model_copy(
            update={
                "load": self.load.model_copy(update=load),
                "clients": self.clients.model_copy(update=clients),
                "phases": [each.model_copy(update=phase) for each in self.phases],
                "seed": self.seed if overrides.seed is None else overrides.seed,
            }
        )

    def spans(self) -> Iterator[PhaseSpan]:
        """Give each phase with its times."""
        since_s = ends_s = 0.0
        before: PolicyState | None = None
        for phase in self.phases:
            begins_s, ends_s = ends_s, ends_s + phase.duration
            since_s = since_s if phase.policy == before else begins_s
            before = phase.policy
            yield PhaseSpan(phase, since_s, begins_s, ends_s)

    def expected(self) -> list[Expectation]:
        """Give the expectations in the order of the file."""
        return [parse_expectation(phase, text) for phase, texts in self.expectations.items() for text in listed(texts)]


def listed(texts: object) -> list[object]:
    """Give a phase's expectations as the file has them: a list, or a single one."""
    return texts if isinstance(texts, list) else [texts]
