"""What does a person at a terminal see while a run goes on?

Progress and the client's log go to stderr, so that the result on stdout can be piped. On a terminal the progress is a live picture; elsewhere
it is plain lines, few enough for a CI log. ``NO_COLOR`` and ``TERM=dumb`` are honoured (by rich).
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from loadgen.errors import printable
from loadgen.quantity import range_text, seconds_text
from loadgen.render.picture import Pace, log_line, picture, style_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console
    from rich.live import Live

    from loadgen.outcome import Answer, Outcome
    from loadgen.progress import Progress
    from loadgen.render.stream import Stream

PLAIN_EVERY_S = 5.0
SHOW_EVERY_S = 0.8
SHOW_CHANGE_S = 0.4
BODY_CHARACTERS = 120
UNKNOWN_WIDTH = 80


def answer_line(answer: Answer) -> str:
    """Write one answer as a line of the client's log: the client, the status, the time that it took, and what came back."""
    took = seconds_text(answer.latency_s)
    if answer.response is None:
        return f"{answer.client:<10} ---  {took:>8}  {answer.outcome}"
    body = printable(answer.response.body[:BODY_CHARACTERS].decode("utf-8", "replace").strip())
    return f"{answer.client:<10} {answer.response.status}  {took:>8}  {body}"


class Screen:
    """Watches a run for a person, and for a program if there is a ``stream``. Use as a context manager around the run."""

    def __init__(self, *, quiet: bool, stream: Stream | None = None) -> None:
        self._stream = stream
        self._quiet = quiet or sys.stderr is None
        self._live: Live | None = None
        self._console: Console | None = None
        self._last_line = time.monotonic()
        self._last_answer = 0.0
        self._last_outcome: Outcome | None = None
        self._pace = Pace()
        self._counting = False

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
        sidecars = "The sidecar" if clients == 1 else f"{clients} sidecars"
        self.say(f"{sidecars} and the user service are up; first request{by} after {seconds:.2f} s")

    def phase_began(self, name: str, policy: str, rule: str | None, convergence_s: Sequence[float]) -> None:
        """A phase begins to count."""
        self.say(f"--- {name}: {_toggled(policy, rule, convergence_s)}", style="bold")
        self._pace.clear()
        self._last_line = time.monotonic()

    def answer(self, answer: Answer) -> None:
        """One of the answers, several times a second: so many are shown as can be read, and one that differs from the last a little sooner."""
        now = time.monotonic()
        if now - self._last_answer < (SHOW_EVERY_S if answer.outcome is self._last_outcome else SHOW_CHANGE_S):
            return
        self._last_answer, self._last_outcome = now, answer.outcome
        self.say(f"  {answer_line(answer)}", style=style_of(answer.outcome), crop=True)

    def progress(self, progress: Progress) -> None:
        """Several times a second."""
        now = time.monotonic()
        self._pace.look(progress.outcomes, now)
        if self._stream is not None:
            self._stream.progress(progress, self._pace.rate_per_s)
        if self._live is not None and self._console is not None:
            from rich.console import Group  # noqa: PLC0415

            with self._guard():
                width = self._console.width - 1  # a full line would wrap where a terminal has become narrower
                self._live.update(Group(*picture(progress, self._pace, width, ascii_only=self._ascii_only)), refresh=True)
        elif progress.counting is not self._counting:
            self._counting, self._last_line = progress.counting, now  # a transition is worth a line only if it takes long
        elif now - self._last_line >= PLAIN_EVERY_S:
            self._last_line = now
            self.say(log_line(progress, self._pace))

    @property
    def _ascii_only(self) -> bool:
        return self._console is not None and not self._console.encoding.startswith("utf")


def _toggled(policy: str, rule: str | None, convergence_s: Sequence[float]) -> str:
    if not convergence_s:
        return f"policy {policy}"
    sidecars = "the sidecar" if len(convergence_s) == 1 else f"all {len(convergence_s)} sidecars"
    after = f"{sidecars} after {range_text(min(convergence_s), max(convergence_s), lambda seconds: f'{seconds * 1000:.0f}')} ms"
    if policy == "applied":
        return (
            f"policy applied, rule {rule} in force at {after}"
            if rule
            else f"policy applied, but no rule has an effect: confirmed by {after}"
        )
    return f"policy {policy}, gone from {after}"


def leaving(base: type[Console]) -> type[Console]:
    """Make a console that leaves a broken pipe to the caller, where rich would end the process, and has a width where ``COLUMNS`` is 0."""

    class Leaving(base):  # type: ignore[misc,valid-type]  # rich is imported late, so its class is a value here
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            if not self.size.width:
                self.width = UNKNOWN_WIDTH

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Leaving
