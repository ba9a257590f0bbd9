"""A scenario with one thing changed, and the mistakes that are found in it, as all tests of this folder use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.errors import InputError
from loadgen.inputs import load_plan

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.errors import Problem

RULE = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: user
  namespace: base
spec:
  host: user
  trafficPolicy:
    connectionPool:
      http:
        http2MaxRequests: 5
"""
SCENARIO = """\
name: connection-pool
target:
  url: http://user.base.svc.cluster.local:7000/
  expect:
    status: 200
    body: Kevin
clients:
  count: 10
  namespace: test
load:
  model: closed
  users: 5
  think_time: exponential 30ms
service:
  time: exponential 20ms
policy: policies/user.yaml
phases:
  - name: baseline
    policy: absent
    duration: 8s
  - name: limited
    policy: applied
    duration: 10s
  - name: recovered
    policy: removed
    duration: 9s
expectations:
  baseline: ok == 100%
  limited: [ok > 0, overflow > 0]
  run: verdict == enforced
"""
OPEN = SCENARIO.replace("closed\n  users: 5\n  think_time: exponential 30ms", "open\n  rate: 50/s\n  arrivals: poisson\n  timeout: 3s")


def changed(old: str, new: str, text: str = SCENARIO) -> str:
    """Give the scenario with the first ``old`` replaced; it must be there."""
    assert old in text
    return text.replace(old, new, 1)


def write(folder: Path, text: str | bytes, rule: str | bytes = RULE) -> Path:
    """Write a scenario and its rule; give the scenario's path."""
    path, policy = folder / "scenario.yaml", folder / "policies" / "user.yaml"
    policy.parent.mkdir(exist_ok=True)
    for file, content in ((path, text), (policy, rule)):
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def mistakes(folder: Path, text: str | bytes, rule: str | bytes = RULE) -> tuple[Problem, ...]:
    """Read a scenario that has mistakes and give all of them."""
    return mistakes_of(write(folder, text, rule))


def mistakes_of(path: Path) -> tuple[Problem, ...]:
    """Read a file that has mistakes and give all of them; none of them may drive a terminal or lose its text."""
    try:
        load_plan(path)
    except InputError as error:
        for problem in error.problems:
            assert all(line.isprintable() for line in str(problem).split("\n"))
            assert len(str(problem)) < 4000
        return error.problems
    raise AssertionError("no mistake was found")


def marked(problem: Problem) -> str:
    """Give the text that the carets stand under."""
    return problem.excerpt[problem.column - 1 : problem.column - 1 + problem.width]
