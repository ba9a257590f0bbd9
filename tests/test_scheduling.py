"""Do the tests of a file, and those that several processes must not do at a time, stay in one process?"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_what_is_to_stay_together_does() -> None:
    files = ("tests/locust/test_origin.py", "tests/locust/test_local_site.py", "tests/core/test_plain.py")
    command = [sys.executable, "-m", "pytest", "-v", "-n", "2", "--no-loadscope-reorder", "-p", "no:cacheprovider", *files]
    ended = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = re.findall(r"^\[(gw\d)\] \[ *\d+%\] PASSED (tests/\w+)/", ended.stdout, re.MULTILINE)
    processes = {folder: {process for process, each in found if each == folder} for _, folder in found}
    assert {folder: len(each) for folder, each in processes.items()} == {"tests/locust": 1, "tests/core": 1}
    assert processes["tests/locust"] != processes["tests/core"]
