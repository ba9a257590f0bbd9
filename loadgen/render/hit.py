"""What does a person see of one load without a scenario? The split of the outcomes, the latencies, and a picture of their distribution."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from loadgen.errors import printable
from loadgen.outcome import Outcome
from loadgen.quantity import seconds_text
from loadgen.recorder import value_of
from loadgen.summary import QUANTILES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadgen.recorder import Histogram
    from loadgen.summary import Summary

BARS = 11
BAR_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_NAMES = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9"}


def print_summary(summary: Summary) -> None:
    """Print the result of one load, to stdout."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    for line in summary_lines(summary, unicode=unicode):
        print(line)


def summary_lines(summary: Summary, *, unicode: bool = True) -> Iterator[str]:
    """Write the result of one load for a person."""
    tally = summary.tally
    yield f"{tally.requests:,} requests in {seconds_text(summary.duration_s)}, {summary.rate_per_s:,.0f}/s"
    yield ""
    yield from _outcome_lines(summary)
    shown = Outcome.OK if tally.outcomes[Outcome.OK] else max(tally.outcomes, key=lambda outcome: tally.outcomes[outcome])
    if tally.latency[shown].count and shown is not Outcome.UNSENT:
        yield ""
        yield f"Distribution of {shown}"
        yield ""
        yield from picture(tally.latency[shown], unicode=unicode)
    yield ""
    yield from (f"INVALID: {reason}" for reason in summary.reasons)
    if not summary.reasons:
        yield f"VALID: {_health(summary)}."


def _health(summary: Summary) -> str:
    where = "a core" if summary.processes == 1 else f"a core in the busiest of {summary.processes} processes"
    return (
        f"the hammer used {summary.hammer_cpu_share:.0%} of {where} and sent 99% of the requests "
        f"at most {seconds_text(summary.tally.lag.quantile(0.99))} after they were due"
    )


def _outcome_lines(summary: Summary) -> Iterator[str]:
    """Write a line for each outcome that came up: count, share, quantiles of its latency."""
    tally = summary.tally
    titles = [*_NAMES.values(), "max"]
    yield f"{'outcome':<12}{'count':>12}{'share':>8}" + "".join(f"{title:>11}" for title in titles)
    for outcome, count in tally.outcomes.items():
        if count:
            histogram = tally.latency[outcome]
            times = [seconds_text(histogram.quantile(QUANTILES[name])) for name in _NAMES] + [seconds_text(histogram.max_s)]
            shown = [""] * len(times) if outcome is Outcome.UNSENT else times
            yield (f"{outcome:<12}{count:>12,}{share(count, tally.requests):>8}" + "".join(f"{time:>11}" for time in shown)).rstrip()
    if len(tally.statuses) > 1 or tally.outcomes[Outcome.OK] < tally.requests:
        yield from _detail("status", {str(status): count for status, count in sorted(tally.statuses.items())})
        yield from _detail("connect failed with", tally.connect_errors)
    for failure, count in tally.flow_failures.most_common():
        yield f"  the flow failed {count:,} times: {printable(failure)}"


def _detail(title: str, counts: dict[str, int]) -> Iterator[str]:
    if counts:
        yield f"  {title} " + ", ".join(f"{name}: {count:,}" for name, count in counts.items())


def share(count: int, total: int) -> str:
    """Write a share; 100% and 0% stand for exactly all and none."""
    if not total:
        return "-"
    if count in {0, total}:
        return "100%" if count else "0%"
    return f"{min(max(count / total, 0.001), 0.999):.1%}"


def picture(histogram: Histogram, *, unicode: bool = True) -> Iterator[str]:
    """Draw a histogram: bars of equal width on a logarithmic scale of time, from the shortest to the longest."""
    values = {max(value_of(bucket), 1e-9): count for bucket, count in histogram.buckets.items() if count}
    low, high = min(values), max(values)
    step = max(math.log(high / low), 0.01) / BARS
    bars = [0] * BARS
    for value, count in values.items():
        bars[min(BARS - 1, int(math.log(value / low) / step))] += count
    for number, count in enumerate(bars):
        edge = seconds_text(low * math.exp(step * (number + 1)))
        yield f"  to {edge:>9} {count:>12,} {share(count, histogram.count):>6}  {_bar(count / max(bars), unicode=unicode)}".rstrip()


def _bar(length: float, *, unicode: bool) -> str:
    if not unicode:
        return "#" * math.ceil(length * BAR_WIDTH)
    eighths = math.ceil(length * BAR_WIDTH * 8)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
