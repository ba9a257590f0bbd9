"""The wire is tested on both event loops: loadgen runs on uvloop, and somebody else's program may bring asyncio's own."""

from __future__ import annotations

import pytest


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}
