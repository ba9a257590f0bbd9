"""The load as people write it with aiohttp: one session, shared by as many tasks as there shall be connections."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from typing import Any

aiohttp: Any = importlib.import_module("aiohttp")  # not a dependency of the project: whoever has it, measures it


async def visit(session: Any, url: str, deadline: float) -> None:
    while time.monotonic() < deadline:
        async with session.get(url) as response:
            await response.read()


async def main(url: str, connections: int, seconds: float) -> None:
    async with aiohttp.ClientSession() as session:
        deadline = time.monotonic() + seconds
        await asyncio.gather(*(visit(session, url, deadline) for _ in range(connections)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
