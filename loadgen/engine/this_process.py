"""What has this process used, and how many files may it open?"""

from __future__ import annotations

import contextlib
import resource

from loadgen.engine.alarm import spun_s
from loadgen.errors import RefusedError

FEWEST_FILES = 16


def cpu_s() -> float:
    """Give the CPU time that this process has needed so far, user and system, in seconds: what it waited awake is not needed."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime - spun_s()


def allow_many_files() -> None:
    """Raise this process's limit of open files as far as it may: each connection is one.

    Raises RefusedError if there are not even enough for the event loop.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < FEWEST_FILES:  # -1 is no limit
        raise RefusedError(f"this process may open {hard} files only, too few to begin with", hint="raise the limit: ulimit -n")
    with contextlib.suppress(ValueError, OSError):  # "unlimited" is not always taken
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
