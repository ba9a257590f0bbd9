"""Are the parts right that live in Locust's process? To import Locust patches a process, so their tests have one of their own."""

from __future__ import annotations

import subprocess
import sys

from tests.locust.headless import REPOSITORY, environment

TESTS = REPOSITORY / "tests" / "locust" / "patched"
CODE = "from gevent import monkey; monkey.patch_all(); import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
"""Before anything else is imported: pytest's own locks are patched, too."""


def test_the_tests_in_a_patched_process_pass() -> None:
    line = [sys.executable, "-c", CODE, "-q", "-p", "no:cacheprovider", str(TESTS)]
    done = subprocess.run(line, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
