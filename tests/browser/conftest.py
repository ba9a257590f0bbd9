"""Fixtures of the tests that look at a page in a real Chromium."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from loadgen.errors import RefusedError
from tests.browser.chromium import browsing
from tests.cluster.controlplane import machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.browser.chromium import Browser


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Give a browser of the test's own."""
    machine.install_missing(machine.BROWSER_TOOLS)
    try:
        machine.need(*machine.BROWSER_TOOLS)
    except RefusedError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    profile = tmp_path / "profile"
    with browsing(profile) as found:
        yield found
    shutil.rmtree(profile, ignore_errors=True)
