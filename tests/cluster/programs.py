"""What do the pods of the manifests run where no image is built? The same programs, from this checkout."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.cluster.controlplane.container import Plain

if TYPE_CHECKING:
    from tests.cluster.controlplane.container import Container


def from_checkout(container: Container) -> list[str]:
    """Run the container's command with this interpreter; without one, what the image's entry point is."""
    _, *command = container.spec.get("command") or ["python3", "-m", "loadgen"]
    return Plain((sys.executable, *command))(container)
