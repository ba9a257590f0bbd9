"""What does a request cost with each kind of Locust user? Prints the CPU for each, of Locust and of what it started, over some rounds in turn.

``FastHttpUser`` is Locust's own, which looks at the status and no more; ``SidecarUser`` reads the body and knows an overflow; for ``WireUser``
loadgen's engine sends. ``python -m tests.bench.locust_users``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from loadgen.mesh.children import Children
from tests.bench.hammers.target import envoy
from tests.bench.scaling import TARGET_CORE, cpu_us_per_request

if TYPE_CHECKING:
    from tests.bench.hammers.target import Target

USERS = 64
SETTLE_S = 4.0
FILES = {
    "FastHttpUser": "from locust import FastHttpUser, task\n\nclass Plain(FastHttpUser):\n    @task\n    def call(self):\n        self.client.get('/')\n",
    "SidecarUser": """from locust import task
import loadgen.locust.plugin
from loadgen.locust.users import SidecarUser

class Own(SidecarUser):
    @task
    def call(self):
        self.get('/')
""",
    "WireUser": "import loadgen.locust.plugin\nfrom loadgen.locust.wire import WireUser\n\nclass Wire(WireUser):\n    pass\n",
}


def locust(target: Target, file: Path, seconds: float, *, own: bool) -> list[str]:
    """Give the command that has a locustfile's users send; ``own`` says that it is one with loadgen's options."""
    command = [sys.executable, "-m", "locust", "-f", str(file), "--headless", "-u", str(USERS), "-r", str(USERS)]
    command += ["-t", f"{seconds + 2 * SETTLE_S:.0f}s", "-H", target.url.rstrip("/"), "--only-summary"]
    return [*command, "--mesh", "off"] if own else command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    costs: dict[str, list[float]] = {name: [] for name in FILES}
    with tempfile.TemporaryDirectory() as folder, Children() as children, envoy(children, TARGET_CORE, Path(folder)) as target:
        for name, text in FILES.items():
            (Path(folder) / f"{name}.py").write_text(text, encoding="utf-8")
        for number in range(options.rounds):
            for name, text in FILES.items():
                command = locust(target, Path(folder) / f"{name}.py", options.seconds, own="loadgen" in text)
                costs[name].append(cpu_us_per_request(target, command, options.seconds, SETTLE_S))
            shown = ", ".join(f"{name} {each[-1]:.1f} us" for name, each in costs.items())
            print(f"round {number + 1}: {shown}", flush=True)
    plain = statistics.median(costs["FastHttpUser"])
    for name, each in costs.items():
        print(f"{name}: {statistics.median(each):.1f} us, {statistics.median(each) / plain:.2f} of FastHttpUser")


if __name__ == "__main__":
    main()
