"""Does Locust's own overflow count equal Envoy's, with one process and with several, and do exit codes mean something?"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.locust.headless import REPOSITORY, STORY, USERS, WIRE_USERS, Up, headless, up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.envoy
ROUNDS = int(os.environ.get("LOADGEN_ROUNDS", "1"))
STORY_OF_2_S = ("-u", "30", "--stage", "2s", "--overflow", "failure without a rule")


@pytest.fixture(scope="module")
def mesh() -> Iterator[Up]:
    with up() as running:
        yield running


@pytest.mark.parametrize(
    ("workers", "users"),
    [
        (1, USERS),
        (4, WIRE_USERS),
        pytest.param(4, USERS, marks=pytest.mark.thorough),
        pytest.param(1, WIRE_USERS, marks=pytest.mark.thorough),
    ],
    ids=lambda each: getattr(each, "stem", None),
)
@pytest.mark.timeout(60 * ROUNDS)
def test_the_overflows_in_locusts_statistics_are_those_that_the_sidecars_counted(
    mesh: Up, users: Path, workers: int, tmp_path: Path
) -> None:
    for number in range(ROUNDS):
        before = mesh.overflows()
        processes = ("--processes", str(workers)) if workers > 1 else ()
        ended = headless(tmp_path, *mesh.options, *STORY_OF_2_S, *processes, files=(users, STORY))
        counted = mesh.overflows() - before
        print(f"{users.stem}, {workers} workers, run {number + 1}: Locust {ended.overflows}, Envoy {counted}")
        assert ended.overflows == counted > 0, ended.log
        assert "VALID" in ended.sentences(), ended.log
        assert any(said.startswith("Enforced: ") for said in ended.sentences()), ended.log
        assert not any(ended.failures.values()), "an overflow is no failure while the rule is on"
        assert ended.code == 0
        assert mesh.rules() == {None}, "it is gone again"


def test_an_overflow_is_a_failure_by_default_and_an_entry_of_its_own(mesh: Up, tmp_path: Path) -> None:
    ended = headless(tmp_path, *mesh.options, "-u", "30", "--stage", "1s")
    assert ended.failures["user (overflow)"] == ended.requests["user (overflow)"] > 0
    assert ended.failures["user"] == 0
    assert ended.code == 1, "as Locust's users know it"
    assert mesh.rules() == {None}


def test_importing_loadgen_imports_neither_locust_nor_gevent() -> None:
    code = "import sys, loadgen, loadgen.cli, loadgen.desk.desk; sys.exit(bool({'locust', 'gevent'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=REPOSITORY).returncode == 0
