"""What the tests of the metrics share: a real run that a real Prometheus has watched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.metrics.prometheus import JOB, Prometheus, free_port, prometheus
from tests.story.command import SCENARIOS, Ended, Loadgen, finish, until

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Watched:
    """A run that is over, its report, and the Prometheus that watched it."""

    ended: Ended
    report: Any
    prometheus: Prometheus


@pytest.fixture(scope="package")
def watched(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Let a Prometheus watch a run of the tutorial, short and with three clients, and give both when it is over."""
    folder, port = tmp_path_factory.mktemp("watched"), free_port()
    loadgen = Loadgen(folder)
    with prometheus(folder / "prometheus", {JOB: f"127.0.0.1:{port}"}) as watching:
        until(lambda: watching.instant("up"), "Prometheus scrapes, in vain as yet")
        run = loadgen.start_scenario(SCENARIOS / "connection-pool.yaml", "--duration", "4s", "--clients", "3", "--metrics-port", str(port))
        ended = finish(run)
        assert ended.code in {0, 4}, ended.stdout + ended.stderr  # a machine that is busy spoils the figures, not the counts
        yield Watched(ended, loadgen.report(), watching)
