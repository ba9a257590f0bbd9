"""Do the figures for Prometheus hold every request once, in its phase, and never go back, whenever one looks?"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.outcome import Outcome
from loadgen.recorder import Tally, merged
from loadgen.series import BETWEEN, SeriesRecorder
from loadgen.totals import BETWEEN_PHASES, MAX_CLIENTS, OTHER_CLIENTS, Figures, Totals

CLIENTS = ("client-1", "client-2")
PHASES = (BETWEEN, "baseline", BETWEEN, "limited", BETWEEN)


def copy(tally: Tally) -> Tally:
    """Give what another process would report of it now."""
    return Tally.from_snapshot(json.loads(json.dumps(tally.snapshot())))


def counts(figures: Figures) -> Counter[tuple[str, str]]:
    return Counter({(phase, outcome): each.count for phase, by in figures.latency.items() for outcome, each in by.items() if each.count})


def grew(before: Figures, after: Figures) -> bool:
    """Tell whether nothing is less than before, in any bucket."""
    less = [
        phase
        for phase, outcomes in before.latency.items()
        for outcome, each in outcomes.items()
        if any(was > now for was, now in zip(each.counts, after.latency[phase][outcome].counts, strict=True))
    ]
    lag = any(was > now for was, now in zip(before.lag.counts, after.lag.counts, strict=True))
    return not less and not lag and not [key for key, count in before.clients.items() if count > after.clients[key]]


@given(st.integers(0, 10_000))
@settings(deadline=None)
def test_every_request_counts_once_in_its_phase_and_no_figure_goes_back_whenever_one_looks(seed: int) -> None:
    rng = random.Random(seed)
    totals = Totals(["baseline", "limited"])
    recorder, looks, ended = SeriesRecorder(totals), list[Figures](), dict[str, list[Tally]]()
    tallies = {name: Tally() for name in CLIENTS}
    told: list[tuple[str, Tally]] = []
    totals.expect(CLIENTS)
    for number, phase in enumerate(PHASES):
        for name in CLIENTS:
            if rng.random() < 0.5:
                totals.notice(name, copy(tallies[name]))  # the next tally has begun before anybody knows of which phase it is
                looks.append(totals.figures())
            recorder.opens(name, number, phase)
        for _ in range(rng.randrange(1, 12)):
            name = rng.choice(CLIENTS)
            for _ in range(rng.randrange(20)):
                tallies[name].record(rng.choice([Outcome.OK, Outcome.OVERFLOW, Outcome.TIMEOUT]), rng.expovariate(100.0))
                tallies[name].lag.record(rng.expovariate(1000.0))
            told.append((name, copy(tallies[name])))
            totals.notice(*rng.choice(told))
            totals.notice(name, tallies[name])
            looks.append(totals.figures())
        began = {name: Tally(number + 1) for name in CLIENTS}
        for name in CLIENTS:
            if rng.random() < 0.5:
                began[name].record(Outcome.OK, 0.001)
                totals.notice(name, copy(began[name]))
            looks.append(totals.figures())
            recorder.complete(0, name, tallies[name])
            ended.setdefault(phase or BETWEEN_PHASES, []).append(tallies[name])
        tallies = began
    looks.append(totals.figures())
    wanted = {(phase, outcome): n for phase, each in ended.items() for outcome, n in merged(each).outcomes.items() if n}
    assert counts(looks[-1]) == wanted
    assert looks[-1].lag.count == sum(tally.lag.count for each in ended.values() for tally in each)
    assert all(grew(before, after) for before, after in itertools.pairwise(looks))
    by_client: Counter[tuple[str, str]] = Counter()
    for (_, phase, outcome), count in looks[-1].clients.items():
        by_client[phase, outcome] += count
    assert +by_client == wanted


def test_everything_is_there_at_nothing_before_the_first_request() -> None:
    totals = Totals(["baseline", "limited"])
    totals.expect(CLIENTS)
    figures = totals.figures()
    assert list(figures.latency) == [BETWEEN_PHASES, "baseline", "limited"]
    assert {len(outcomes) for outcomes in figures.latency.values()} == {len(Outcome)}
    assert set(figures.clients) == {(client, phase, outcome) for client in CLIENTS for phase in figures.latency for outcome in Outcome}
    assert not any(figures.clients.values())


def test_what_a_tally_of_no_known_phase_holds_appears_with_its_phase() -> None:
    totals, tally = Totals(["baseline"]), Tally(1)
    totals.expect(CLIENTS)
    tally.record(Outcome.OVERFLOW, 0.001)
    totals.notice("client-1", tally)
    assert not counts(totals.figures())
    totals.opens("client-1", 1, "baseline")
    assert counts(totals.figures()) == {("baseline", "overflow"): 1}


def test_more_clients_than_are_told_apart_are_counted_together_and_none_is_lost() -> None:
    totals = Totals([])
    names = [f"client-{number}" for number in range(MAX_CLIENTS + 5)]
    totals.expect(names)
    for name in names:
        tally = Tally()
        tally.record(Outcome.OK, 0.001)
        totals.opens(name, 0, BETWEEN)
        totals.notice(name, tally)
    figures = totals.figures()
    assert len({client for client, _, _ in figures.clients}) == MAX_CLIENTS + 1
    assert figures.clients[OTHER_CLIENTS, BETWEEN_PHASES, Outcome.OK] == 5
    assert sum(figures.clients.values()) == MAX_CLIENTS + 5
