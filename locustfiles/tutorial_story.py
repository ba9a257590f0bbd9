"""The tutorial as a load shape: users without a rule, then with it, then without it again, and the verdict in the log.

locust -f locustfiles/user_service.py,locustfiles/tutorial_story.py --headless -u 50 --stage 8s --rule scenarios/policies/user.yaml
"""

from __future__ import annotations

from typing import Any

from locust import events

from loadgen.locust.shapes import StoryShape, add_options


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: Any, **_: object) -> None:
    add_options(parser)


class TutorialStory(StoryShape):
    """baseline, limited, recovered; each as long as --stage says."""
