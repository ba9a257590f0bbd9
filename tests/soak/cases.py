"""Which short runs does the soak make? Drawn at random from a seed: limits that must be found to hold, and controls in which something is amiss.

Each case says which verdicts are right, and what the sentence or the reasons must say. A verdict that is none of these is wrong, whatever the machine
was doing meanwhile: a hammer that was late spoils figures, not what was admitted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loadgen.evidence import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

MAX_LIMIT = 20
WORKERS = (1, 2, 4)
HELD = frozenset({State.ENFORCED})
RACED = HELD | {State.OVERSHOOT}
LEFT_OPEN = frozenset({State.INCONCLUSIVE})
REFUTED = frozenset({State.NOT_ENFORCED})
HOST = "user.base.svc.cluster.local"


@dataclass(frozen=True)
class Case:
    """One run: its files, what is done to it from outside (``sabotage``, if anything), and what it must come to.

    ``says`` is a regular expression that the verdict's sentence or one of the reasons must match. ``valid``: whether it must be VALID, but for the
    machine's noise; None if either will do.
    """

    title: str
    scenario: str
    policy: str
    right: frozenset[State]
    says: str = ""
    valid: bool | None = True
    sabotage: str = ""
    options: tuple[str, ...] = field(default=())


def draw(rng: Random) -> Case:
    """Draw a case; every second one is a control."""
    return rng.choice(CONTROLS)(rng) if rng.random() < 0.5 else limited(rng)


def rule(pool: str, *, host: str = HOST, more: str = "") -> str:
    return (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: user, namespace: base}\nspec:\n"
        f"  host: {host}\n  trafficPolicy: {{connectionPool: {{{pool}}}}}\n{more}"
    )


def max_requests(limit: int) -> str:
    return rule(f"http: {{http2MaxRequests: {limit}}}")


def scenario(load: str, *, service: str, workers: int = 1, clients: int = 2, seed: int = 1, limited_s: float = 1.5) -> str:
    return f"""\
name: soak
target: {{url: http://{HOST}:7000/, expect: {{status: 200, body: Kevin}}}}
clients: {{count: {clients}, workers: {workers}}}
load: {{{load}}}
service: {{{service}}}
policy: policy.yaml
seed: {seed}
phases:
- {{name: baseline, policy: absent, duration: 300ms}}
- {{name: limited, policy: applied, duration: {limited_s * 1000:.0f}ms}}
- {{name: recovered, policy: removed, duration: 400ms}}
"""


def service(rng: Random, least_ms: int = 20, most_ms: int = 100) -> tuple[str, float]:
    """Draw how long the service takes; give the scenario's words, and the seconds."""
    milliseconds = rng.randint(least_ms, most_ms)
    kind = rng.choice(["", "exponential "])
    return f"time: {kind}{milliseconds}ms", milliseconds / 1000


def beyond(rng: Random, limit: int, workers: int, service_s: float) -> str:
    """Draw a load that goes beyond a limit in every client, for certain."""
    most = limit + workers
    match rng.choice(["burst", "closed", "constant", "poisson"]):
        case "burst":
            return f"model: burst, size: {most + rng.randint(1, 20)}, pause: {rng.randint(20, 80)}ms"
        case "closed":
            return (
                f"model: closed, users: {most + rng.randint(3, 15)}, think_time: {rng.choice(['', 'exponential '])}{rng.randint(5, 15)}ms"
            )
        case arrivals:
            return f"model: open, arrivals: {arrivals}, rate: {most / service_s * rng.uniform(1.5, 2.5):.1f}/s"


def within(rng: Random, limit: int) -> str:
    """Draw a load that cannot go beyond a limit: so many at a time there never are."""
    users = rng.randint(1, min(limit, 10))
    return rng.choice(
        [
            f"model: closed, users: {users}, think_time: {rng.randint(2, 20)}ms",
            f"model: burst, size: {users}, pause: {rng.randint(20, 80)}ms",
        ]
    )


def limited(rng: Random) -> Case:
    limit, workers = rng.randint(1, MAX_LIMIT), rng.choice(WORKERS)
    words, seconds = service(rng)
    load = beyond(rng, limit, workers, seconds)
    return Case(
        f"http2MaxRequests {limit}, {workers} workers, {load}, {words}",
        scenario(load, service=words, workers=workers, seed=rng.randint(1, 1 << 30)),
        max_requests(limit),
        HELD if workers == 1 else RACED,
        rf"http2MaxRequests {limit} of rule base/user rejected",
    )


# The controls.


def _tutorial(rng: Random, **more: int) -> str:
    words, _ = service(rng, 15, 40)
    return scenario(
        f"model: closed, users: {rng.randint(4, 8)}, think_time: exponential 10ms", service=words, seed=rng.randint(1, 1 << 30), **more
    )


def no_limit(rng: Random) -> Case:
    pool = rng.choice(["tcp: {connectTimeout: 5s}", "http: {idleTimeout: 30s}"])
    return Case("a rule without a limit", _tutorial(rng), rule(pool), REFUTED, "sets no limit")


def zero(rng: Random) -> Case:
    return Case("a limit of 0", _tutorial(rng), max_requests(0), REFUTED, "0 does not mean none")


def wrong_host(rng: Random) -> Case:
    host = rng.choice(["user.base", "user", "usr.base.svc.cluster.local", "user.test.svc.cluster.local"])
    namespace = "base" if host != "user" else "test"
    text = rule("http: {http2MaxRequests: 1}", host=host).replace("namespace: base", f"namespace: {namespace}")
    return Case(f"the host {host}", _tutorial(rng), text, REFUTED, "the host|is for|no known service is called")


def hidden(rng: Random) -> Case:
    text = rule("http: {http2MaxRequests: 1}", more="  exportTo: [other]\n")
    return Case("hidden by exportTo", _tutorial(rng), text, REFUTED, "exportTo hides")


def other_workload(rng: Random) -> Case:
    text = rule("http: {http2MaxRequests: 1}", more="  workloadSelector: {matchLabels: {app: another}}\n")
    text = text.replace("namespace: base", "namespace: test")
    return Case("another workload's", _tutorial(rng), text, REFUTED, "workloadSelector")


def far_above(rng: Random) -> Case:
    limit = rng.randint(500, 5000)
    return Case(f"a limit of {limit}", _tutorial(rng), max_requests(limit), LEFT_OPEN, "never went beyond")


def too_little(rng: Random) -> Case:
    limit, workers = rng.randint(1, MAX_LIMIT), rng.choice(WORKERS)
    load = within(rng, limit)
    words = f"time: {rng.choice([0, 1, 5])}ms"
    text = scenario(load, service=words, workers=workers, seed=rng.randint(1, 1 << 30))
    return Case(f"a load within {limit}: {load}", text, max_requests(limit), LEFT_OPEN, "never went beyond")


def quick_service(rng: Random) -> Case:
    limit = rng.randint(5, MAX_LIMIT)
    load = f"model: open, arrivals: {rng.choice(['constant', 'poisson'])}, rate: {rng.randint(10, 40)}/s"
    text = scenario(load, service="time: 0ms", seed=rng.randint(1, 1 << 30))
    return Case(f"a service too quick for {limit}: {load}", text, max_requests(limit), LEFT_OPEN, "never went beyond")


def unhealthy(rng: Random) -> Case:
    text = scenario("model: closed, users: 4, think_time: 10ms", service="time: 20ms, status: 503", seed=rng.randint(1, 1 << 30))
    return Case("a service that answers 503", text, max_requests(rng.randint(4, 20)), LEFT_OPEN, r"requests failed otherwise")


def rejects_itself(rng: Random) -> Case:
    text = scenario("model: closed, users: 6, think_time: 5ms", service="time: 20ms, status: 503", seed=rng.randint(1, 1 << 30))
    return Case("a service that answers 503 behind a limit", text, max_requests(1), HELD, r"requests failed otherwise")


def changed(rng: Random) -> Case:
    sabotage = rng.choice(["remove-one", "remove-all", "raise-one", "put-back"])
    return Case(
        f"{sabotage} in mid-phase",
        _tutorial(rng),
        max_requests(1),
        LEFT_OPEN,
        "changed by somebody else|somebody else changed",
        valid=False,
        sabotage=sabotage,
    )


def bypassed(rng: Random) -> Case:
    return Case(
        "a client that goes round its sidecar",
        _tutorial(rng),
        max_requests(1),
        LEFT_OPEN,
        "goes round its sidecar",
        valid=False,
        sabotage="bypass",
    )


def shared(rng: Random) -> Case:
    return Case(
        "a sidecar that somebody else uses",
        _tutorial(rng),
        max_requests(1),
        HELD | LEFT_OPEN,
        "does not balance.*because somebody else uses the sidecar",
        valid=False,
        sabotage="share",
    )


def stranger(rng: Random) -> Case:
    return Case(
        "a stranger", _tutorial(rng), max_requests(1), HELD | LEFT_OPEN, "somebody else calls the service", valid=False, sabotage="stranger"
    )


def dead_sidecar(rng: Random) -> Case:
    return Case(
        "a sidecar that dies", _tutorial(rng), max_requests(1), HELD | LEFT_OPEN, "client-1's sidecar", valid=False, sabotage="kill-sidecar"
    )


def slow_hammer(rng: Random) -> Case:
    load = f"model: open, arrivals: poisson, rate: {rng.randint(40, 50)}000/s, max_in_flight: 400"
    text = scenario(load, service="time: 1ms", clients=1, seed=rng.randint(1, 1 << 30))
    return Case(
        "a hammer that is too slow",
        text,
        max_requests(5000),
        LEFT_OPEN,
        "the hammer was the bottleneck|the hammer was late|were not sent",
        valid=False,
    )


def queues(rng: Random) -> Case:
    limit = rng.randint(1, 5)
    words, _ = service(rng, 15, 40)
    text = scenario(f"model: closed, users: {limit + rng.randint(3, 6)}, think_time: 10ms", service=words, seed=rng.randint(1, 1 << 30))
    return Case(
        f"maxConnections {limit} alone",
        text,
        rule(f"tcp: {{maxConnections: {limit}}}"),
        HELD,
        "refused a further connection .* so requests waited",
    )


CONTROLS: tuple[Callable[[Random], Case], ...] = (
    no_limit,
    zero,
    wrong_host,
    hidden,
    other_workload,
    far_above,
    too_little,
    quick_service,
    unhealthy,
    rejects_itself,
    changed,
    bypassed,
    shared,
    stranger,
    dead_sidecar,
    slow_hammer,
    queues,
)
