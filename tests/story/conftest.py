"""Fixtures of the tests that run the real command with real Envoys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.story.command import Loadgen

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def loadgen(tmp_path: Path) -> Loadgen:
    """Give the command with folders of its own."""
    return Loadgen(tmp_path)
