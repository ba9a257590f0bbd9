"""Does the story toggle only what its owner named, where it may be toggled, and not beyond its test?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.locust.headless import REPOSITORY, headless
from tests.locust.webui import web_ui
from tests.story.command import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.locust.webui import WebUi

STORY = """
from locust import events, task

import loadgen.locust.plugin
from loadgen.locust.shapes import StoryShape, add_options
from loadgen.locust.users import SidecarUser


@events.init_command_line_parser.add_listener
def _add_options(parser, **_):
    add_options(parser)


class Told(StoryShape):
    pass


class Idle(SidecarUser):
    host = "http://127.0.0.1:9"

    def wait_time(self):
        return 1

    @task
    def rest(self):
        pass
"""
RULE = str(REPOSITORY / "scenarios" / "policies" / "user.yaml")


def story(folder: Path) -> Path:
    file = folder / "locustfile_of_a_story.py"
    file.write_text(STORY, encoding="utf-8")
    return file


def start(ui: WebUi, **form: str) -> None:
    said = {"user_count": "1", "spawn_rate": "1", "host": "", **form}
    assert ui.wire.post(f"{ui.address}/swarm", data=said).json()["success"]


def test_whoever_starts_a_test_names_no_file(tmp_path: Path) -> None:
    with web_ui(tmp_path, "--mesh", "off", "--stage", "1s", file=story(tmp_path)) as ui:
        start(ui, rule="/somebody/elses/file")
        until(lambda: "there is no rule to apply" in ui.log.read_text(), "the story has none")
        assert "/somebody/elses/file" not in ui.log.read_text()


def test_a_story_toggles_nothing_where_nobody_may(tmp_path: Path) -> None:
    with web_ui(tmp_path, "--mesh", "off", "--rule", RULE, "--stage", "1s", host="127.1", file=story(tmp_path)) as ui:
        start(ui, mesh_control_anywhere="true", web_host="127.0.0.1")
        until(lambda: "the story cannot toggle the policy: the web UI can be reached" in ui.log.read_text(), "it is said")


def test_a_story_ends_with_its_test(tmp_path: Path) -> None:
    with web_ui(tmp_path, "--mesh", "off", "--rule", RULE, "--stage", "2s", file=story(tmp_path)) as ui:
        start(ui)
        until(lambda: "All users spawned" in ui.log.read_text(), "it runs")
        ui.stop_users()
        time.sleep(2.5)  # the time at which it would have applied its rule
        assert "there is no mesh;" not in ui.log.read_text()


def test_a_rule_that_cannot_be_read_is_refused_at_the_start(tmp_path: Path) -> None:
    ended = headless(tmp_path, "-u", "1", "--mesh", "off", "--rule", "/nobody/has/this", files=(story(tmp_path),))
    assert ended.code == 2
    assert "--rule /nobody/has/this cannot be read: No such file or directory" in ended.log
    assert "Traceback" not in ended.log
