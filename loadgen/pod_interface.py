"""What must a run and a load pod agree on? The names of the control interface; the two sides never import each other."""

from __future__ import annotations

PORT = 7000
SCHEMA = "loadgen.pod/v1"
"""Of a snapshot."""
SECRET_HEADER, RUN_HEADER, CALL_HEADER = "x-loadgen-secret", "x-loadgen-run", "x-loadgen-call"
"""A pod obeys each call once, however often it hears of it."""
