"""Is no verdict wrong, with each thing amiss that ``make soak`` knows, and with some limits that hold? A new seed each time, which is shown."""

from __future__ import annotations

import os
import random
import secrets
from typing import TYPE_CHECKING

import pytest

from tests.soak.cases import CONTROLS, limited
from tests.soak.run import soak

if TYPE_CHECKING:
    from pathlib import Path

RUNS = 20


@pytest.mark.envoy
@pytest.mark.timeout(RUNS * 20)
def test_no_verdict_is_wrong(tmp_path: Path) -> None:
    seed = int(os.environ.get("LOADGEN_SOAK_SEED", secrets.randbelow(1_000_000)))
    rng = random.Random(seed)
    cases = [*(control(rng) for control in CONTROLS), *(limited(rng) for _ in range(RUNS - len(CONTROLS)))]
    said: list[str] = []
    found = soak(cases, tmp_path, said.append)
    assert not any(each.wrong for each in found), "\n".join([f"seed {seed}", *said])
