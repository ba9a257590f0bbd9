"""A real Prometheus for tests: started with a configuration, asked in PromQL, ended with the test."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from tests.story.command import PATIENCE_S, REPOSITORY, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

DOCKER = REPOSITORY / "docker"
JOB = "loadgen"


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str
    began: float

    def ask(self, path: str, **arguments: object) -> Any:
        """Ask its API; give the data of the answer."""
        query = urllib.parse.urlencode({name: str(value) for name, value in arguments.items()})
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=PATIENCE_S) as answer:
            said = json.load(answer)
        assert said["status"] == "success", said
        return said["data"]

    def instant(self, query: str) -> dict[frozenset[tuple[str, str]], float]:
        """Give the values of a query now, by labels."""
        found = self.ask("query", query=query)["result"]
        return {frozenset(each["metric"].items()): float(each["value"][1]) for each in found}

    def range(self, query: str) -> list[list[float]]:
        """Give the values of each series since this Prometheus began, second by second."""
        found = self.ask("query_range", query=query, start=self.began, end=time.time(), step=1)["result"]
        return [[float(value) for _, value in each["values"]] for each in found]


@contextlib.contextmanager
def prometheus(folder: Path, targets: Mapping[str, str]) -> Iterator[Prometheus]:
    """Run a Prometheus with the configuration that is shipped, but with these targets, by job."""
    folder.mkdir()
    shipped = yaml.safe_load((DOCKER / "prometheus.yml").read_text(encoding="utf-8"))
    shipped["rule_files"] = [str(DOCKER / name) for name in shipped["rule_files"]]
    shipped["scrape_configs"] = [{"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()]
    configuration, log = folder / "prometheus.yml", folder / "log"
    configuration.write_text(yaml.safe_dump(shipped), encoding="utf-8")
    command = ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0"]
    with log.open("wb") as output, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as process:
        try:
            began = time.time()

            def listening() -> re.Match[str] | None:
                assert process.poll() is None, log.read_text(encoding="utf-8")
                return re.search(r'msg="Listening on" address=(127\.0\.0\.1:\d+)', log.read_text(encoding="utf-8"))

            def loaded() -> bool:
                return "Server is ready to receive web requests" in log.read_text(encoding="utf-8")

            until(listening, "Prometheus listens")
            until(loaded, "Prometheus is ready")
            found = listening()
            assert found
            yield Prometheus(f"http://{found[1]}", began)
        finally:
            process.terminate()


def check_metrics(page: str) -> str:
    """Give what promtool has to say of a page, nothing if it likes it."""
    ended = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr + (f"exit {ended.returncode}" if ended.returncode else "")


def free_port() -> int:
    """Give a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def read(url: str) -> str:
    """Give a page."""
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())
