"""How long may something take that no event announces? Every wait has a deadline, and says what it waited for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from loadgen.errors import MeshError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
PATIENCE_S = 60.0
POLL_S = 0.05


def until(ask: Callable[[], T | None], what: str, *, patience_s: float = PATIENCE_S) -> T:
    """Ask until the answer is true; give it.

    Raises MeshError if it is not within ``patience_s``.
    """
    deadline = time.monotonic() + patience_s
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise MeshError(f"waited {patience_s:.0f} s in vain until {what}")
        time.sleep(POLL_S)
    return answer
