"""How much does a limit reject, and how far from that may a measurement be? Loss systems; no I/O, no clock.

The law: requests that find ``c`` others in service are lost. For Poisson arrivals the share that is lost is Erlang's B, for users who think an
exponential time it is Engset's, and both depend on the mean service time only, whatever its distribution. The losses are no coin flips: one
request that stays long makes many of the next ones fail. How far the share of a finite stretch scatters is exact here for exponential service, from the birth-death
chain: with the increments d of the solution of Poisson's equation, the count plus g(state) is a martingale, and its quadratic variation is the variance.
Constant service scatters less (a busy server forgets at once when it began), so the interval is then too wide, never too narrow.

Sources: A. K. Erlang 1917; T. Engset 1918, J. W. Cohen, The generalized Engset formulae, 1957 (insensitivity); L. Takács, Introduction to the Theory of
Queues, 1962 (arrivals at constant intervals); W. Whitt, Asymptotic formulas for Markov processes, Operations Research 1992 (the variance).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loadgen.pacing import Coming

CONFIDENCE = 0.99
_Z = 2.5758293035489004
"""The normal distribution's quantile for it; ``statistics`` would take longer to import than everything here takes."""
_TINY_S = 1e-9
_MANY = 10_000.0
"""A binomial variance from which on the normal distribution is as good as the exact one."""


def erlang_b(servers: int, offered: float) -> float:
    """Give the share of Poisson arrivals that find all servers busy; ``offered`` is arrivals times mean service time, in Erlang.

    The recursion adds positive terms only, so nothing cancels and nothing overflows.
    """
    if offered <= 0:
        return 0.0 if servers else 1.0
    inverse = 1.0
    for server in range(1, servers + 1):
        inverse = 1.0 + inverse * server / offered
        if inverse == math.inf:
            return 0.0
    return 1.0 / inverse


def constant_arrivals(servers: int, offered: float) -> float:
    """Give the share of arrivals at constant intervals that find all servers busy, for exponential service (Takács)."""
    if offered <= 0:
        return 0.0 if servers else 1.0
    total = term = 1.0
    for server in range(1, servers + 1):
        exponent = server / offered
        if exponent > _LARGEST_EXPONENT:
            return 0.0
        term *= math.expm1(exponent) * (servers - server + 1) / server
        total += term
        if total == math.inf:
            return 0.0
    return 1.0 / total


_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True, slots=True)
class Loss:
    """What a loss system does in the long run.

    ``share`` of the attempts is lost, ``attempts_per_s`` come, ``through_per_s`` get through, ``busy`` servers are busy on average.
    ``variance`` is that of the lost share times the number of attempts, ``through_variance_per_s`` that of the number that gets through in a stretch, by its length.
    """

    share: float
    attempts_per_s: float
    through_per_s: float
    busy: float
    variance: float
    through_variance_per_s: float


def poisson_loss(servers: int, rate_per_s: float, service_s: float) -> Loss:
    """Poisson arrivals; the shares hold for any service time with this mean, the variances for an exponential one."""
    return birth_death([rate_per_s] * (servers + 1), _ends(range(servers + 1), service_s))


def finite_loss(servers: int, users: int, think_s: float, service_s: float) -> Loss:
    """``users`` users who think, try, and think again when they were served, or lost at once."""
    servers = min(servers, users)
    return birth_death([(users - busy) / think_s for busy in range(servers + 1)], _ends(range(servers + 1), service_s))


def waiting_share(servers: int, places: int, rate_per_s: float, service_s: float, before: float) -> float:
    """Give the share of Poisson arrivals that find so many waiting ``before`` them, of at most ``places`` (M/M/c/c+K)."""
    states = range(servers + places + 1)
    chances = _stationary([rate_per_s for _ in states], _ends([min(state, servers) for state in states], service_s))
    return math.fsum(chances[math.ceil(servers + before) :])


def queue_loss(servers: int, places: int, rate_per_s: float, service_s: float) -> Loss:
    """Poisson arrivals, exponential service, and ``places`` to wait in (M/M/c/c+K)."""
    states = range(servers + places + 1)
    return birth_death([rate_per_s for _ in states], _ends([min(state, servers) for state in states], service_s))


def _ends(busy: Iterable[int], service_s: float) -> list[float]:
    """Give how many requests end a second, for each number of busy servers; no service is quicker than ``_TINY_S``."""
    return [each / max(_TINY_S, service_s) for each in busy]


def busy_rate_per_s(servers: float, service_s: float, variation: float, seconds: float) -> float:
    """Give how many requests a second so many servers end at most in 99 of 100 stretches of so many seconds (or so many of one, by several clients).

    The law: no more than by servers that are never idle, which are renewals. ``variation`` is the variance of the service time by the square of its
    mean (0 of constant, 1 of exponential service).
    """
    service_s = max(_TINY_S, service_s)
    return servers / service_s + chance_per_s(servers, service_s, variation * service_s**2, seconds)


def chance_per_s(sources: float, mean_s: float, variance: float, seconds: float) -> float:
    """Give how far the rate of so many renewals, with rounds of this mean and ``variance`` (in s^2), lies from its mean in 99 of 100 stretches of so many seconds."""
    return _Z * math.sqrt(sources * variance / mean_s**3 / seconds)


@dataclass(frozen=True, slots=True)
class Filling:
    """What became of a queue in a stretch of time; times are in seconds since that began.

    ``full_s`` is when as many were there as may be, and ``full_rate_per_s`` what came then; ``late_s`` is from when on what came waited for too long; None if that did not happen.
    ``late`` came from then on while that was so, ``unsent`` found it full.
    """

    full_s: float | None
    full_rate_per_s: float | None
    late_s: float | None
    late: float
    unsent: float


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits before ``places``, as a fluid: it says how a queue grows and drains, and nothing of one that is there by chance.

    The law: first come, first served, ``places`` at a time, for ``service_s`` each on average; nobody stays longer than ``timeout_s``, service included; who finds ``most``
    others there, waiting or in service, is not sent.
    """

    places: float
    service_s: float
    most: float = math.inf
    timeout_s: float = math.inf

    @property
    def served_per_s(self) -> float:
        """How many a second are served while some wait."""
        return self.places / max(_TINY_S, self.service_s)

    def walk(self, coming: Coming) -> Filling:
        """Go through what comes, from when the queue was empty on."""
        return _walk(self, coming)


@lru_cache(maxsize=32)
def _walk(queue: Queue, coming: Coming) -> Filling:
    """Walk once: a plan asks for each rate that a phase has, and warns of the queue, too. Both are values, equal to those that another asks with."""
    times, begins_s, arrived = coming.times, coming.begins_s, coming.course.arrived
    sent = left = 0.0  # of all until now, those who have given up among them
    late = unsent = 0.0
    full_s = full_rate_per_s = late_s = None
    history, oldest = [(times[0], 0.0)], 0
    for before, now in pairwise(times):
        elapsed, come = now - before, arrived(now) - arrived(before)
        while oldest + 1 < len(history) and history[oldest + 1][0] <= now - queue.timeout_s:
            oldest += 1
        served = min(queue.served_per_s * elapsed, (sent - left + come) * -math.expm1(-elapsed / max(_TINY_S, queue.service_s)))
        left = max(min(left + served, sent + come), _between(history, oldest, now - queue.timeout_s))
        turns = max(1.0, elapsed / queue.timeout_s)
        room = max(0.0, queue.most - (sent - left))
        if turns > 1:
            room = max(room, queue.most * turns)  # in a long step all give up several times
        taken = min(come, room)
        sent += taken
        left = max(left, sent - queue.most, sent - taken / turns if turns > 1 else 0.0)
        history.append((now, sent))
        if now <= begins_s:
            continue
        unsent += come - taken
        if full_s is None and come > taken:
            full_s, full_rate_per_s = before - begins_s, come / elapsed
        if sent - left > queue.served_per_s * queue.timeout_s:
            late += taken
            late_s = max(0.0, before - begins_s) if late_s is None else late_s
    return Filling(full_s, full_rate_per_s, late_s, late, unsent)


def _between(history: Sequence[tuple[float, float]], number: int, at: float) -> float:
    """Give what was sent until a time, from what is known of the moments before and after it."""
    (one, sent), (other, more) = history[number], history[min(number + 1, len(history) - 1)]
    return sent if at <= one or other <= one else min(more, sent + (more - sent) * (at - one) / (other - one))


def birth_death(births: Sequence[float], deaths: Sequence[float]) -> Loss:
    """Solve a birth-death chain on 0 to m: ``births[j]`` attempts a second in state j, lost in state m; ``deaths[j]`` departures a second."""
    chances = _stationary(births, deaths)
    attempts = math.fsum(chance * birth for chance, birth in zip(chances, births, strict=True))
    share = chances[-1] * births[-1] / attempts if attempts else 0.0
    through = attempts - chances[-1] * births[-1]
    lost = _variance_per_s(chances, births, deaths, (-share, 1 - share))
    return Loss(
        share=share,
        attempts_per_s=attempts,
        through_per_s=through,
        busy=math.fsum(state * chance for state, chance in enumerate(chances)),
        variance=lost / attempts if attempts else 0.0,
        through_variance_per_s=_variance_per_s(chances, births, deaths, (1.0, 0.0)),
    )


def _stationary(births: Sequence[float], deaths: Sequence[float]) -> list[float]:
    """Give the chance of each state, from logarithms, so that neither end is lost."""
    logs = list(
        accumulate((math.log(birth / death) if birth else -math.inf for birth, death in zip(births, deaths[1:], strict=False)), initial=0.0)
    )
    highest = max(logs)
    weights = [math.exp(each - highest) for each in logs]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _variance_per_s(chances: Sequence[float], births: Sequence[float], deaths: Sequence[float], worth: tuple[float, float]) -> float:
    """Give the variance per second, in the long run, of a sum over attempts: ``worth`` of one that gets through, and of one that is lost.

    ``steps[j]`` is g(j+1) - g(j), where g solves Poisson's equation. Errors grow towards the states that are rare, so it is solved from both ends
    towards the most likely state.
    """
    top = len(chances) - 1
    gains = [birth * worth[state == top] for state, birth in enumerate(births)]
    mean = math.fsum(chance * gain for chance, gain in zip(chances, gains, strict=True))
    steps = [0.0] * top
    mode = max(range(top + 1), key=chances.__getitem__)
    before = 0.0
    for state in range(min(mode, top)):
        before = steps[state] = (mean - gains[state] + deaths[state] * before) / births[state]
    after = 0.0
    for state in range(top, mode, -1):
        after = steps[state - 1] = (gains[state] - mean + births[state] * after) / deaths[state]
    total = chances[top] * births[top] * worth[1] ** 2
    for state, step in enumerate(steps):
        total += chances[state] * births[state] * ((worth[0] + step) ** 2 + step**2)  # up and, by balance as often, down again
    return total


@dataclass(frozen=True, slots=True)
class Span:
    """From ``low`` to ``high``, both included."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Tell whether a value lies in it."""
        return self.low <= value <= self.high


def loss_span(share: float, variance: float, attempts: float) -> Span:
    """Give where the measured share of ``attempts`` lies in 99 of 100 measurements.

    As many independent attempts as scatter alike stand for them, so that few losses have the skew of few losses.
    """
    if not attempts or share in {0.0, 1.0} or variance <= 0:
        return Span(share, share)
    alike = attempts * min(1.0, share * (1 - share) / variance)
    if alike * share * (1 - share) > _MANY:
        half = _Z * math.sqrt(variance / attempts)
        return Span(max(0.0, share - half), min(1.0, share + half))
    low, high = _binomial(max(1, round(alike)), share)
    return Span(low / max(1, round(alike)), high / max(1, round(alike)))


def _binomial(count: int, share: float) -> tuple[int, int]:
    """Give the two numbers of successes that are passed below and above with a chance of half of what ``CONFIDENCE`` leaves, each."""
    spread = 10 * math.sqrt(count * share * (1 - share)) + 20
    first, last = max(0, math.floor(count * share - spread)), min(count, math.ceil(count * share + spread))
    whole, yes, no = math.lgamma(count + 1), math.log(share), math.log1p(-share)
    chances = [
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(count - k + 1) + k * yes + (count - k) * no) for k in range(first, last + 1)
    ]
    tail = (1 - CONFIDENCE) / 2
    reached = list(accumulate(chances))
    low = next((first + index for index, sum_ in enumerate(reached) if sum_ > tail), first)
    high = next((first + index for index, sum_ in enumerate(reached) if sum_ >= 1 - tail), last)
    return low, high


def through_span(loss: Loss, seconds: float) -> Span:
    """Give where the measured rate of what gets through lies in 99 of 100 stretches of so many seconds (or so many of one, by several clients)."""
    half = _Z * math.sqrt(loss.through_variance_per_s / seconds) if seconds else 0.0
    return Span(max(0.0, loss.through_per_s - half), loss.through_per_s + half)
