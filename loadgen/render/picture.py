"""What does a run look like in this second? The lines of the live picture, for a terminal of any width, and the one line for a log."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from loadgen.outcome import Outcome
from loadgen.quantity import seconds_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.text import Text

    from loadgen.progress import Progress

WIDEST_BAR = 60
WIDEST_PROGRESS = 12
NARROWEST = 4
_LOOKS = 8
_STYLES = {Outcome.OK: "green", Outcome.OVERFLOW: "yellow"}
FAILED_STYLE = "red"
_BLOCKS, _FAILED_BLOCK = {Outcome.OK: "█", Outcome.OVERFLOW: "▒"}, "░"
_LETTERS, _FAILED_LETTER = {Outcome.OK: "#", Outcome.OVERFLOW: "="}, "x"


def style_of(outcome: Outcome) -> str:
    """Give the colour of an outcome."""
    return _STYLES.get(outcome, FAILED_STYLE)


class Pace:
    """What the last second or so brought, from what was counted at the last looks."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, dict[Outcome, int]]] = deque(maxlen=_LOOKS)

    def look(self, outcomes: Mapping[Outcome, int], now: float | None = None) -> None:
        """Note what has been counted until now."""
        if self._looks and sum(outcomes.values()) < sum(self._looks[-1][1].values()):
            self._looks.clear()  # another phase
        self._looks.append((time.monotonic() if now is None else now, dict(outcomes)))

    def clear(self) -> None:
        """Forget what was, as another phase begins."""
        self._looks.clear()

    @property
    def rate_per_s(self) -> float:
        """All requests."""
        seconds = self._looks[-1][0] - self._looks[0][0] if self._looks else 0.0
        return sum(self.recent.values()) / seconds if seconds > 0 else 0.0

    @property
    def recent(self) -> dict[Outcome, int]:
        """How many requests ended how."""
        if not self._looks:
            return {}
        before = self._looks[0][1]
        return {outcome: more for outcome, count in self._looks[-1][1].items() if (more := count - before.get(outcome, 0)) > 0}


def cells(counts: Mapping[Outcome, int], width: int) -> dict[Outcome, int]:
    """Share out the cells of a bar: in proportion, and at least one to whatever there is at all, if there are enough."""
    present = {outcome: count for outcome, count in counts.items() if count > 0}
    total = sum(present.values())
    if not total or width <= 0:
        return {}
    shares = {outcome: max(1, int(width * count / total)) for outcome, count in present.items()}
    rests = sorted(present, key=lambda outcome: present[outcome] * width / total - shares[outcome], reverse=True)
    for outcome in rests[: max(0, width - sum(shares.values()))]:
        shares[outcome] += 1
    while sum(shares.values()) > width:
        largest = max(shares, key=lambda outcome: (shares[outcome], -present[outcome]))
        shares[largest] -= 1
        shares = {outcome: share for outcome, share in shares.items() if share}
    return shares


def picture(progress: Progress, pace: Pace, width: int, *, ascii_only: bool = False) -> list[Text]:
    """Give the lines of the live picture; none is longer than ``width``."""
    head = _head(progress, width, ascii_only=ascii_only)
    if not progress.counting:
        return [_cut(line, width) for line in (head, _waiting(progress))]
    return [_cut(line, width) for line in (head, _bar(pace, width, ascii_only=ascii_only), _legend(progress), _load(progress))]


def log_line(progress: Progress, pace: Pace) -> str:
    """Give the same in one line, for a log."""
    name = f"{progress.phase} " if progress.phase else ""
    if not progress.counting:
        return f"  {name}{_waiting_text(progress)}"
    p99 = f"  p99 ok {seconds_text(progress.ok_p99_s)}" if progress.ok_p99_s is not None else ""
    return f"  {name}{progress.elapsed_s:.0f} of {progress.duration_s:.0f} s  {pace.rate_per_s:,.0f}/s  {_split(progress.outcomes)}{p99}  {_in_flight(progress)}  {progress.left_s:.0f} s left"


def _head(progress: Progress, width: int, *, ascii_only: bool) -> Text:
    text = _line()
    if progress.phase:
        text.append(f"[{progress.index + 1}/{progress.phases}] {progress.phase} ", style="bold")
    behind = f" {progress.elapsed_s:.0f} of {progress.duration_s:.0f} s, {progress.left_s:.0f} s left" if progress.counting else ""
    room = max(NARROWEST, min(WIDEST_PROGRESS, width - text.cell_len - len(behind)))
    filled = round(room * min(1.0, progress.elapsed_s / max(progress.duration_s, progress.elapsed_s, 1e-9)))
    done, left = ("=", "-") if ascii_only else ("━", "─")
    return text.append(done * filled + left * (room - filled), style="cyan").append(behind)


def _bar(pace: Pace, width: int, *, ascii_only: bool) -> Text:
    rate = f"{pace.rate_per_s:,.0f}/s "
    text = _line().append(f"{rate:>9}")
    blocks, failed = (_LETTERS, _FAILED_LETTER) if ascii_only else (_BLOCKS, _FAILED_BLOCK)
    for outcome, count in cells(pace.recent, min(WIDEST_BAR, width - text.cell_len)).items():
        text.append(blocks.get(outcome, failed) * count, style=style_of(outcome))
    return text


def _legend(progress: Progress) -> Text:
    text, total = _line(), sum(progress.outcomes.values())
    for outcome, count in progress.outcomes.items():
        if count or outcome is Outcome.OK:
            share = f" {count / total:.0%}" if total else ""
            text.append(f"{'  ' if text else ''}{outcome} {count:,}{share}", style=style_of(outcome))
    return text


def _load(progress: Progress) -> Text:
    p99 = f"  p99 ok {seconds_text(progress.ok_p99_s)}" if progress.ok_p99_s is not None else ""
    return _line().append(f"{_in_flight(progress)}{p99}")


def _in_flight(progress: Progress) -> str:
    return f"{progress.in_flight} in flight{f', limit {progress.limit}' if progress.limit is not None else ''}"


def _waiting(progress: Progress) -> Text:
    return _line().append(_waiting_text(progress), style="yellow")


def _waiting_text(progress: Progress) -> str:
    if not progress.clients:
        return f"waiting until the policy is {progress.policy} everywhere"
    if progress.confirmed < progress.clients:
        return f"policy {progress.policy} at {progress.confirmed} of {progress.clients} sidecars, waiting for the others"
    return "waiting for what was sent before"


def _split(outcomes: Mapping[Outcome, int]) -> str:
    total = sum(outcomes.values())
    others = {outcome: count for outcome, count in outcomes.items() if count and outcome is not Outcome.OK}
    return "  ".join([f"ok {outcomes[Outcome.OK]:,}", *(f"{outcome} {count:,} ({count / total:.0%})" for outcome, count in others.items())])


def _line() -> Text:
    from rich.text import Text  # noqa: PLC0415  # costs 80 ms, and only a terminal needs it

    return Text(no_wrap=True)


def _cut(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    return text
