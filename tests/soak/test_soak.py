"""Is no verdict wrong, in some of the runs that ``make soak`` makes? A new seed each time: what it finds once is kept as a test of its own."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

import pytest

from tests.soak.run import soak

if TYPE_CHECKING:
    from pathlib import Path

RUNS = 20


@pytest.mark.envoy
@pytest.mark.timeout(RUNS * 20)
def test_no_verdict_is_wrong(tmp_path: Path) -> None:
    seed = int(os.environ.get("LOADGEN_SOAK_SEED", secrets.randbelow(1_000_000)))
    said: list[str] = []
    found = soak(RUNS, seed, tmp_path, said.append)
    assert not any(each.wrong for each in found), "\n".join([f"seed {seed}", *said])
