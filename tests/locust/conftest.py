"""Fixtures of the tests with a real Locust: a mesh of ``loadgen up``, a web UI beside it, and a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import browser  # noqa: F401  # pytest finds it by its name
from tests.locust.headless import Up, up
from tests.locust.webui import WebUi, mesh_of, web_ui

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def mesh() -> Iterator[Up]:
    """Give a mesh for the tests of a module."""
    with up() as running:
        yield running


@pytest.fixture(scope="module")
def shared(mesh: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUi]:
    """Give a web UI for the tests of a module; each of them leaves it without users."""
    with web_ui(tmp_path_factory.mktemp("locust"), *mesh_of(mesh)) as running:
        yield running


@pytest.fixture
def ui(shared: WebUi) -> Iterator[WebUi]:
    """Give the shared web UI, and stop its users afterwards."""
    yield shared
    shared.stop_users()
