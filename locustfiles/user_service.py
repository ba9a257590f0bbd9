"""The tutorial's clients as Locust users: each sends through its own sidecar, and an overflow is an entry of its own in the statistics.

loadgen up scenarios/connection-pool.yaml          # in another terminal
locust -f locustfiles/user_service.py
"""

from __future__ import annotations

import random

from locust import task

import loadgen.locust.plugin  # noqa: F401  # the options, the page and the desk
from loadgen.locust.users import SidecarUser


class UserService(SidecarUser):
    """Calls the user service, thinks for 30 ms on average, and calls again, as in scenarios/connection-pool.yaml."""

    def wait_time(self) -> float:
        return random.expovariate(1 / 0.03)

    @task
    def call(self) -> None:
        self.get("/", name="user")
