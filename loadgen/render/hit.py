"""What does a person see of one load without a scenario? The split of the outcomes, the latencies, and a picture of their distribution."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING

from loadgen.errors import printable
from loadgen.outcome import Outcome
from loadgen.quantity import seconds_text, share_text
from loadgen.recorder import value_of
from loadgen.summary import QUANTILES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadgen.recorder import Histogram
    from loadgen.summary import Summary

FACTORS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
"""The steps of the picture in each power of ten."""
DRAWN_FROM = 10
"""Fewer requests make no distribution."""
SHOWN_FROM_S = 1.0
"""How busy the hammer was in a shorter time is mostly its start."""
BAR_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_NAMES = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9"}


def summary_text(summary: Summary, encoding: str = "utf-8") -> str:
    """Write the result of one load for a person, in characters that the encoding has."""
    unicode = encoding.lower().replace("-", "") == "utf8"
    text = "\n".join(_lines(summary, unicode=unicode))
    return text if unicode else text.replace("\N{MICRO SIGN}", "u").encode("ascii", "replace").decode("ascii")


def _lines(summary: Summary, *, unicode: bool) -> Iterator[str]:
    tally = summary.tally
    yield f"{summary.url}  {_load(summary)}"
    yield _counts(summary)
    yield ""
    yield from _outcome_lines(summary)
    shown = Outcome.OK if tally.outcomes[Outcome.OK] else max(tally.outcomes, key=lambda outcome: tally.outcomes[outcome])
    if tally.latency[shown].count >= DRAWN_FROM and shown is not Outcome.UNSENT:
        yield ""
        yield f"Distribution of {shown}"
        yield ""
        yield from picture(tally.latency[shown], unicode=unicode)
    yield ""
    yield from (f"INVALID: {reason}" for reason in summary.reasons)
    if not summary.reasons:
        yield f"VALID: {_health(summary)}." + ("" if tally.outcomes[Outcome.OK] else " But no request was ok.")


def _counts(summary: Summary) -> str:
    requests, unsent = summary.tally.requests, summary.tally.outcomes[Outcome.UNSENT]
    later = requests - unsent - summary.ended_in_time
    more = [f"{unsent:,} of them not sent"] * (unsent > 0) + [f"{later:,} ended after that"] * (later > 0)
    return f"{requests:,} request{'' if requests == 1 else 's'} in {seconds_text(summary.duration_s)}, {summary.rate_per_s:,.0f}/s" + (
        f" ({', '.join(more)})" if more else ""
    )


def _load(summary: Summary) -> str:
    load = summary.load
    users = (
        f"{load['users']:,} user{'' if load['users'] == 1 else 's'}"
        if load["model"] == "closed"
        else f"{load['arrivals']} arrivals at {load['rate_per_s']:g}/s"
    )
    return f"{users}, {summary.processes} process{'es' if summary.processes > 1 else ''}"


def _health(summary: Summary) -> str:
    where = "a core" if summary.processes == 1 else f"a core in the busiest of {summary.processes} processes"
    used = f"the hammer used {summary.hammer_cpu_share:.0%} of {where}; " if summary.duration_s >= SHOWN_FROM_S else ""
    return f"{used}99% of the requests left within {seconds_text(summary.tally.lag.quantile(0.99))} of when they were due"


def _outcome_lines(summary: Summary) -> Iterator[str]:
    """Write a line for each outcome that came up: count, share, quantiles of its latency."""
    tally = summary.tally
    titles = [*_NAMES.values(), "max"]
    yield f"{'outcome':<12}{'count':>12}{'share':>8}" + "".join(f" {title:>8}" for title in titles)
    for outcome, count in tally.outcomes.items():
        if count:
            histogram = tally.latency[outcome]
            times = [seconds_text(histogram.quantile(QUANTILES[name])) for name in _NAMES] + [seconds_text(histogram.max_s)]
            shown = [""] * len(times) if outcome is Outcome.UNSENT else times
            yield (f"{outcome:<12}{count:>12,}{share_text(count, tally.requests):>8}" + "".join(f" {time:>8}" for time in shown)).rstrip()
    if len(tally.statuses) > 1 or tally.outcomes[Outcome.OK] < tally.requests:
        yield from _detail("status", {str(status): count for status, count in sorted(tally.statuses.items())})
        yield from _detail("connect failed with", tally.connect_errors)
    if "CERTIFICATE" in tally.connect_errors:
        yield "  the server's certificate is not trusted; --cacert FILE names who signed it, --insecure does not check it"
    for failure, count in tally.flow_failures.most_common():
        yield f"  the flow failed {count:,} times: {printable(failure)}"


def _detail(title: str, counts: dict[str, int]) -> Iterator[str]:
    if counts:
        yield f"  {title} " + ", ".join(f"{name}: {count:,}" for name, count in counts.items())


def picture(histogram: Histogram, *, unicode: bool = True) -> Iterator[str]:
    """Draw a histogram: a bar for each step of time, from the shortest to the longest. The steps are the same for every load."""
    steps = [factor * 10.0**power for power in range(-7, 5) for factor in FACTORS]
    bars = [0] * len(steps)
    for bucket, count in histogram.buckets.items():
        bars[bisect_left(steps, value_of(bucket) * (1 - 1e-9))] += count
    used = [number for number, count in enumerate(bars) if count]
    for number in range(used[0], used[-1] + 1):
        count = bars[number]
        bar = _bar(count / max(bars), unicode=unicode)
        yield f"  to {_edge(steps[number]):>7} {count:>12,} {share_text(count, histogram.count):>6}  {bar}".rstrip()


def _edge(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "\N{MICRO SIGN}s")):
        if seconds >= unit * (1 - 1e-9):
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e9:.3g} ns"


def _bar(length: float, *, unicode: bool) -> str:
    if not unicode:
        return "#" * math.ceil(length * BAR_WIDTH)
    eighths = math.ceil(length * BAR_WIDTH * 8)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
