"""Where is a run made? Every report says so."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from loadgen import __version__

if TYPE_CHECKING:
    from loadgen.report import Environment


def environment(envoy: str, ready_s: float, processes: int) -> Environment:
    """Say where a run is made, for its report."""
    from loadgen.report import Environment  # noqa: PLC0415  # not needed before, and the first request should not wait for it

    return Environment(
        loadgen=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        cpus=len(os.sched_getaffinity(0)),
        envoy=envoy,
        processes=processes,
        hammer_cpu_share=0,
        ready_s=round(ready_s, 3),
    )
