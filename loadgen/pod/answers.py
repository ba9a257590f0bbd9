"""What do the answers look like? A sample of them for the log, as the tutorial's client prints them: Kevin, or the rejection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from loadgen.errors import printable
from loadgen.outcome import Outcome

if TYPE_CHECKING:
    from loadgen.outcome import Answer
    from loadgen.pod.hammer import Hammer
    from loadgen.pod.log import Log

SAMPLE_S = 0.2
BODY_CHARACTERS = 120


class Answers:
    """Asks the load for an answer several times a second; ``last`` is the last one that had a response, as JSON can hold it."""

    def __init__(self, hammer: Hammer, log: Log) -> None:
        self.last: dict[str, Any] | None = None
        self._hammer = hammer
        self._log = log
        self._logged = dict.fromkeys(Outcome, 0)

    async def listen(self) -> None:
        """Sample for as long as the task lives."""
        while True:
            if self._hammer.load is not None:
                self._hammer.load.ask(self._take)
            await anyio.sleep(SAMPLE_S)

    def _take(self, answer: Answer) -> None:
        said = "" if answer.response is None else shortened(answer.response.body)
        status = None if answer.response is None else answer.response.status
        self.last = {"outcome": answer.outcome, "latency_s": answer.latency_s, "status": status, "body": said}
        count = self._hammer.outcomes()[answer.outcome]
        more = count - self._logged[answer.outcome]
        line = f"{answer.outcome} {status or '-'} {answer.latency_s * 1000:.1f} ms {said}".rstrip()
        if self._log.say(f"{line} ({more:,} since the last such line)" if more > 1 else line, kind=f"answer {answer.outcome}"):
            self._logged[answer.outcome] = count


def shortened(body: bytes) -> str:
    """Give the beginning of a body, on one line and harmless."""
    return printable(body[:BODY_CHARACTERS].decode("utf-8", "replace").strip())[:BODY_CHARACTERS]
