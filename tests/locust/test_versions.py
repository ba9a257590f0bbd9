"""Does it all work with the oldest Locust that is supported? The newest is the one that is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.locust.headless import REPOSITORY, STORY, USERS, WIRE_USERS, headless, up
from tests.locust.webui import mesh_of, web_ui
from tests.story.command import until

if TYPE_CHECKING:
    from tests.browser.chromium import Browser

OLDEST = Path(__file__).with_name("oldest.txt")
INSTALL_S = 100


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the oldest Locust beside the environment, without what it needs: that is there."""
    folder = tmp_path_factory.mktemp("oldest")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    subprocess.run([*pip, "--target", str(folder), "-r", str(OLDEST)], check=True, timeout=INSTALL_S)
    return folder


@pytest.mark.envoy
@pytest.mark.parametrize("users", [USERS, WIRE_USERS], ids=lambda file: file.stem)
def test_the_story_is_told_with_the_oldest_locust(oldest: Path, users: Path, tmp_path: Path) -> None:
    with up() as mesh:
        before = mesh.overflows()
        options = (*mesh.options, "-u", "20", "--stage", "1s", "--overflow", "failure without a rule")
        ended = headless(tmp_path, *options, files=(users, STORY), path=oldest)
        assert f"Starting Locust {oldest_version()}" in ended.log
        assert ended.overflows == mesh.overflows() - before > 0, ended.log
        assert "VALID" in ended.sentences(), ended.log
        assert ended.code == 0


@pytest.mark.envoy
def test_the_page_works_with_the_oldest_locust(oldest: Path, browser: Browser, tmp_path: Path) -> None:
    with up() as mesh, web_ui(tmp_path, *mesh_of(mesh), path=oldest) as ui:
        assert (
            'href="./mesh-policy"' in ui.get("/").text
        )  # not in the browser: Locust gives what it asks for then again for 2 s, also in the next test
        ui.start_users()
        until(lambda: ui.state()["phase"] == "baseline", "the first phase counts")
        browser.visit(ui.page)
        until(lambda: not browser.run("return document.getElementById('apply').disabled"), "the rule can be applied")
        browser.run("document.getElementById('apply').click()")
        until(lambda: "Enforced" in browser.run("return document.getElementById('verdict-title').innerText"), "there is a verdict")
        assert ui.get("/stop", Origin="http://evil.example").status_code == 403
        assert ui.get("/stop", **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
        browser.visit(f"{ui.address}/?tab=meshPolicy")
        shown = "return document.body.innerText"
        until(
            lambda: "http2MaxRequests 1" in browser.run(shown),
            lambda: f"the tab shows the limits: {browser.run(shown)}\n{browser.said()}\n{ui.state()}\n{ui.log.read_text(encoding='utf-8')}",
        )
        (tmp_path / "oldest.png").write_bytes(browser.look())
        ui.stop_users()
        assert f"Starting Locust {oldest_version()}" in ui.log.read_text(encoding="utf-8")


def test_the_supported_versions_are_what_pyproject_says() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    oldest, pods = re.findall(r'"locust>=([0-9.]+),<3"', text)
    assert oldest == oldest_version().removesuffix(".0")
    assert text.count('"locust>') == 2, "none without an upper end"
    assert pods >= oldest
    assert version("locust").split(".")[0] == oldest_version().split(".")[0]


def oldest_version() -> str:
    found = re.search(r"locust==([0-9.]+)", OLDEST.read_text(encoding="utf-8"))
    assert found
    return found[1]
