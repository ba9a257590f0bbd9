"""For locust -f, beside locustfiles/user_service.py: the rule is put in force when users are there, and stays until something ends."""

from __future__ import annotations

import logging
from typing import Any

import gevent
from locust import events

WARM_S = 1.0


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _hold(environment: Any, **_: object) -> None:
    if (control := getattr(environment, "loadgen", None)) is not None:
        gevent.spawn(_put, control)


def _put(control: Any) -> None:
    while not control.testing:
        gevent.sleep(0.05)
    gevent.sleep(WARM_S)
    control.apply(control.mesh["mesh"]["rule"])
    logging.getLogger("loadgen").info("the rule is in force")
