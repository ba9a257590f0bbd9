"""What does a program see while a run goes on? A line of JSON a second on stdout (``loadgen.progress/v1``), and a last one with the result.

A second's line: ``kind`` "second", ``phase``, ``policy``, ``index`` of ``phases``, ``counting`` (false while the policy is toggled and earlier
requests end), ``elapsed_s``, ``duration_s``, ``left_s``, ``rate_per_s`` (over the last second or so), ``outcomes`` (of the phase until now),
``in_flight``, ``limit`` (of all sidecars together, or null), ``ok_p99_s`` (of the phase until now, or null), ``clients``, and how many of their
sidecars ``confirmed`` the toggle. The last line: ``kind`` "end", ``exit_code``, and, if anything was measured, ``report`` (its path),
``validity`` and its ``reasons``, ``verdict``, ``sentence``, ``expectations`` (``held``, ``failed``) and ``restore``. Fields may be added in a version.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loadgen.progress import Progress
    from loadgen.report import Report

SCHEMA = "loadgen.progress/v1"
EVERY_S = 1.0


class Stream:
    """Writes a line a second. When nobody reads any more it goes silent: the run and its report matter more.

    ``failure`` is why it went silent, unless its reader has only ended.
    """

    def __init__(self) -> None:
        self.failure: OSError | None = None
        self._next = time.monotonic() + EVERY_S
        self._gone = sys.stdout is None

    def progress(self, progress: Progress, rate_per_s: float) -> None:
        """Take the present moment; one of each second is written."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = max(self._next + EVERY_S, now)  # a pause is not made up for
        self._write(
            kind="second",
            phase=progress.phase,
            policy=progress.policy,
            index=progress.index,
            phases=progress.phases,
            counting=progress.counting,
            elapsed_s=round(progress.elapsed_s, 3),
            duration_s=progress.duration_s,
            left_s=round(progress.left_s, 3),
            rate_per_s=round(rate_per_s, 2),
            outcomes={outcome.value: count for outcome, count in progress.outcomes.items()},
            in_flight=progress.in_flight,
            limit=progress.limit,
            ok_p99_s=None if progress.ok_p99_s is None else round(progress.ok_p99_s, 7),
            clients=progress.clients,
            confirmed=progress.confirmed,
        )

    def end(self, exit_code: int, report: Report | None = None, where: str = "") -> None:
        """Write the last line. ``report`` is None if nothing was measured."""
        if report is None:
            self._write(kind="end", exit_code=exit_code, report=None)
            return
        held = sum(expectation.held for expectation in report.expectations)
        self._write(
            kind="end",
            exit_code=exit_code,
            report=where,
            validity=report.validity.state,
            reasons=report.validity.reasons,
            verdict=report.verdict.state.value,
            sentence=report.verdict.sentence,
            expectations={"held": held, "failed": len(report.expectations) - held},
            restore=report.restore.state,
        )

    def _write(self, **fields: Any) -> None:
        if self._gone:
            return
        try:
            print(json.dumps({"schema": SCHEMA, **fields}), flush=True)
        except OSError as error:
            self._gone = True
            self.failure = None if isinstance(error, BrokenPipeError) else error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes stdout once more at exit
