"""Are the shipped rules and the shipped configuration as promtool likes them, and do the rules say what they should?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.metrics.prometheus import DOCKER

RULES_TEST = Path(__file__).with_name("rules.yml")


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", DOCKER / "prometheus-rules.yml"), ("check", "config", DOCKER / "prometheus.yml"), ("test", "rules", RULES_TEST)],
)
def test_promtool_has_nothing_against_them(tools: None, arguments: tuple[str | Path, ...]) -> None:
    ended = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
