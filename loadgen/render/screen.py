"""What does a person at a terminal see while a run goes on?

Progress and the client's log go to stderr, so that the result on stdout can be piped. On a terminal the progress is a live line; elsewhere
it is plain lines, few enough for a CI log. ``NO_COLOR`` and ``TERM=dumb`` are honoured (by rich).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from loadgen.errors import printable
from loadgen.outcome import Answer, Outcome
from loadgen.quantity import seconds_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from loadgen.progress import Progress

PLAIN_EVERY_S = 5.0
SHOW_EVERY_S = 0.8
SHOW_CHANGE_S = 0.4
BODY_CHARACTERS = 120
_BAR = 12
_LOOKS = 8


def answer_line(answer: Answer) -> str:
    """Write one answer as a line of the client's log: the client, the status, the time that it took, and what came back."""
    took = seconds_text(answer.latency_s)
    if answer.response is None:
        return f"{answer.client:<10} ---  {took:>8}  {answer.outcome}"
    body = printable(answer.response.body[:BODY_CHARACTERS].decode("utf-8", "replace").strip())
    return f"{answer.client:<10} {answer.response.status}  {took:>8}  {body}"


class Screen:
    """Watches a run for a person. Use as a context manager around the run."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet or sys.stderr is None
        self._live: Live | None = None
        self._console: Console | None = None
        self._last_line = time.monotonic()
        self._last_answer = 0.0
        self._last_outcome: Outcome | None = None
        self._looks: deque[tuple[float, int]] = deque(maxlen=_LOOKS)

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415  # costs 80 ms, and only a terminal needs it
            from rich.live import Live  # noqa: PLC0415

            self._console = leaving(Console)(stderr=True, highlight=False)
            if not self._console.is_dumb_terminal:
                self._live = Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the live line away and show the cursor again."""
        if self._live is not None:
            with self._guard():
                self._live.stop()

    def say(self, text: str, style: str = "", *, crop: bool = False) -> None:
        """Print a line above the progress; with ``crop`` a terminal shows only as much as fits into one."""
        if self._quiet:
            return
        with self._guard():
            if self._console is not None:
                self._console.print(
                    text, style=style or None, markup=False, emoji=False, no_wrap=crop, overflow="ellipsis" if crop else None
                )
            else:
                print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Go silent for good when stderr is gone (``2>&1 | head``, a closed terminal): the run and its report matter more."""
        try:
            yield
        except OSError:
            self._quiet = True
            self._live = None

    # What the runner calls.

    def ready(self, clients: int, seconds: float, processes: int) -> None:
        """The mesh is up, and the first request goes out."""
        by = f" from {processes} processes" if processes > 1 else ""
        self.say(f"{clients} sidecars and the user service are up; first request{by} after {seconds:.2f} s")

    def phase_began(self, name: str, policy: str, rule: str | None, convergence_s: Sequence[float]) -> None:
        """A phase begins to count."""
        self.say(f"--- {name}: {_toggled(policy, rule, convergence_s)}", style="bold")
        self._looks.clear()
        self._last_line = time.monotonic()

    def answer(self, answer: Answer) -> None:
        """One of the answers, several times a second: so many are shown as can be read, and one that differs from the last a little sooner."""
        now = time.monotonic()
        if now - self._last_answer < (SHOW_EVERY_S if answer.outcome is self._last_outcome else SHOW_CHANGE_S):
            return
        self._last_answer, self._last_outcome = now, answer.outcome
        style = "green" if answer.outcome is Outcome.OK else "yellow" if answer.outcome is Outcome.OVERFLOW else "red"
        self.say(f"  {answer_line(answer)}", style=style, crop=True)

    def progress(self, progress: Progress) -> None:
        """Several times a second."""
        now = time.monotonic()
        rate = self._rate(now, sum(progress.outcomes.values()))
        if self._live is not None:
            with self._guard():
                self._live.update(_progress_text(progress, rate), refresh=True)
        elif now - self._last_line >= PLAIN_EVERY_S and progress.counting:
            self._last_line = now
            self.say(_progress_line(progress, rate))

    def _rate(self, now: float, total: int) -> float:
        """Give the rate over the last second or so, from what was counted at the last looks."""
        if self._looks and total < self._looks[-1][1]:
            self._looks.clear()  # another phase
        self._looks.append((now, total))
        since, count = self._looks[0]
        return (total - count) / (now - since) if now > since else 0.0


def _toggled(policy: str, rule: str | None, convergence_s: Sequence[float]) -> str:
    if not convergence_s:
        return f"policy {policy}"
    after = f"all {len(convergence_s)} sidecars after {min(convergence_s) * 1000:.0f} to {max(convergence_s) * 1000:.0f} ms"
    if policy == "applied":
        return (
            f"policy applied, rule {rule} in force at {after}"
            if rule
            else f"policy applied, but no rule has an effect: confirmed by {after}"
        )
    return f"policy {policy}, gone from {after}"


def _split(outcomes: dict[Outcome, int]) -> str:
    total = sum(outcomes.values())
    others = {outcome: count for outcome, count in outcomes.items() if count and outcome is not Outcome.OK}
    return "  ".join([f"ok {outcomes[Outcome.OK]:,}", *(f"{outcome} {count:,} ({count / total:.0%})" for outcome, count in others.items())])


def _progress_line(progress: Progress, rate: float) -> str:
    return f"  {f'{progress.phase} ' if progress.phase else ''}{progress.elapsed_s:.0f} of {progress.duration_s:.0f} s  {rate:,.0f}/s  {_split(progress.outcomes)}  {progress.left_s:.0f} s left"


def _progress_text(progress: Progress, rate: float) -> Text:
    from rich.text import Text  # noqa: PLC0415

    filled = round(_BAR * min(1.0, progress.elapsed_s / max(progress.duration_s, progress.elapsed_s, 1e-9)))
    text = Text(no_wrap=True, overflow="ellipsis")
    if progress.phase:
        text.append(f"[{progress.index + 1}/{progress.phases}] {progress.phase} ", style="bold")
    text.append("━" * filled + "─" * (_BAR - filled), style="cyan")
    if not progress.counting:
        return text.append(f" waiting until the policy is {progress.policy} everywhere")
    return text.append(f" {rate:,.0f}/s  {_split(progress.outcomes)}  {progress.left_s:.0f} s left  {progress.in_flight} in flight")


def leaving(base: type[Console]) -> type[Console]:
    """Make a console that leaves a broken pipe to the caller: rich would end the process."""

    class Leaving(base):  # type: ignore[misc,valid-type]  # rich is imported late, so its class is a value here
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Leaving
