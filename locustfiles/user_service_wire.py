"""The tutorial's clients, sent by loadgen's engine: a fraction of the CPU for each request, and the same entries in the statistics.

loadgen up scenarios/connection-pool.yaml          # in another terminal
locust -f locustfiles/user_service_wire.py
"""

from __future__ import annotations

import loadgen.locust.plugin  # noqa: F401  # the options, the page and the desk
from loadgen.locust.wire import WireUser


class UserServiceWire(WireUser):
    """Calls the user service, thinks for 30 ms on average, and calls again, as in scenarios/connection-pool.yaml."""

    path = "/"
    name = "user"
    think = "exponential 30ms"
