"""The load as people write it with httpx: one client, shared by as many tasks as there shall be connections."""

from __future__ import annotations

import asyncio
import sys
import time

import httpx


async def visit(client: httpx.AsyncClient, url: str, deadline: float) -> None:
    while time.monotonic() < deadline:
        await client.get(url)


async def main(url: str, connections: int, seconds: float) -> None:
    async with httpx.AsyncClient() as client:
        deadline = time.monotonic() + seconds
        await asyncio.gather(*(visit(client, url, deadline) for _ in range(connections)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
