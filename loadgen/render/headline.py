"""What does a report say in its first line? The verdict, unless something is worse: a mesh that is not as it was found, figures that cannot be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from loadgen.evidence import State

if TYPE_CHECKING:
    from loadgen.report import Report


class Look(StrEnum):
    """How a headline is shown."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Headline:
    """The first line, its look, the verdict's sentence, and what else a reader must not overlook."""

    words: str
    look: Look
    sentence: str
    alarms: tuple[str, ...]


_VERDICTS = {
    State.ENFORCED: ("Enforced", Look.GOOD),
    State.OVERSHOOT: ("Overshoot", Look.DOUBTFUL),
    State.NOT_ENFORCED: ("Not enforced", Look.BAD),
    State.INCONCLUSIVE: ("Inconclusive", Look.DOUBTFUL),
}


def headline(report: Report) -> Headline:
    """Give the headline of a report; what is worst comes first, as in the exit code."""
    verdict, look = _VERDICTS[report.verdict.state]
    sentence = report.verdict.sentence
    words, alarms = verdict, [f"INVALID: {reason}" for reason in report.validity.reasons]
    failed = sum(not each.held for each in report.expectations)
    if failed:
        words, look = f"Expectations failed ({verdict.lower()})", Look.BAD
        alarms.append(f"{failed} of {len(report.expectations)} expectations failed")
    if report.validity.state == "INVALID":
        words, look = f"INVALID ({verdict.lower()})", Look.BAD
        sentence = f"This verdict cannot be relied upon: {sentence}"
    if report.restore.state == "failed":
        words, look = f"Restore failed ({verdict.lower()})", Look.BAD
        alarms.insert(0, f"RESTORE FAILED: {report.restore.detail}")
    return Headline(words, look, sentence, tuple(alarms))
