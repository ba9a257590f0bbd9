"""How do the tests wait for what no event announces? By looking again and again, with a deadline."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 20.0


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    with anyio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.002)
