"""``python -m tests.soak.run --runs 300 --seed 7``: many short runs, each of which must get the right verdict for the right reason."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import random
import re
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadgen.evidence import State
from loadgen.mesh.boot import ADMIN_FILE
from loadgen.sidecar import LISTENERS_PATH, read_address
from tests.soak.cases import Case, draw
from tests.story.command import Loadgen, finish, wait_for_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOISE = re.compile(r"the hammer was (late|starved)|client-\d+ and its sidecar could not be brought to agree")
"""What a machine that is shared does to a run of a second. It spoils figures, and is said; it must not spoil the verdict."""
APART = "share"
"""In this control a client and its sidecar cannot agree: somebody else uses the sidecar. That is no noise."""
CALLS = 40
SETTLE_S = 0.3


@dataclass(frozen=True)
class Judged:
    """How a case ended, and what is wrong with that; nothing if it is right."""

    case: Case
    state: str
    noisy: bool
    wrong: tuple[str, ...]
    report: Any


def run(case: Case, folder: Path) -> Judged:
    """Make the run of a case."""
    folder.mkdir()
    (folder / "policy.yaml").write_text(case.policy)
    (folder / "scenario.yaml").write_text(case.scenario)
    loadgen = Loadgen(folder)
    process = loadgen.start_scenario(folder / "scenario.yaml", *case.options)
    if case.sabotage:
        wait_for_line(process, "--- limited")
        time.sleep(SETTLE_S)
        SABOTAGES[case.sabotage](loadgen)
    ended = finish(process)
    try:
        report = loadgen.report()
    except FileNotFoundError:
        return Judged(case, "none", False, (f"there is no report: {ended.stdout[-300:]} {ended.stderr[-600:]}",), None)
    return judged(case, report)


def judged(case: Case, report: Any) -> Judged:
    """Hold a report against what is right."""
    state, sentence = report["verdict"]["state"], report["verdict"]["sentence"]
    reasons = report["validity"]["reasons"]
    others = [reason for reason in reasons if not NOISE.search(reason) or (case.sabotage == APART and "brought to agree" in reason)]
    wrong = []
    if State(state) not in case.right:
        wrong.append(f"the verdict is {state}, right is {' or '.join(sorted(case.right))}")
    if not any(re.search(case.says, text) for text in [sentence, *reasons]):
        wrong.append(f"nothing says '{case.says}'")
    if case.valid is True and others:
        wrong.append(f"it is INVALID: {others[0]}")
    if case.valid is False and not reasons:
        wrong.append("it is VALID")
    if report["restore"]["state"] == "failed":
        wrong.append(f"it was not restored: {report['restore']['detail']}")
    return Judged(case, state, len(others) < len(reasons), tuple(wrong), report)


# What is done to a run from outside.


def _rewrite(loadgen: Loadgen, clients: range, old: str, new: str) -> None:
    for number in clients:
        folder = loadgen.run_folders()[0] / f"client-{number}"
        _put(folder, re.sub(old, new, (folder / "cds.json").read_text(encoding="utf-8")))


def _remove_and_put_back(loadgen: Loadgen) -> None:
    """Take the limit of one sidecar away, and put it back as it was."""
    folder = loadgen.run_folders()[0] / "client-1"
    text = (folder / "cds.json").read_text(encoding="utf-8")
    _put(folder, re.sub(_LIMIT, _NONE, text))
    time.sleep(SETTLE_S)
    _put(folder, text)


def _put(folder: Path, text: str) -> None:
    """Rename a configuration into a sidecar's folder: Envoy takes no notice of one that is written in place."""
    (folder / "other").write_text(text, encoding="utf-8")
    (folder / "other").rename(folder / "cds.json")


def _listener(loadgen: Loadgen, client: str) -> int:
    """Give the port at which a client's sidecar takes requests."""
    admin = http.client.HTTPConnection((loadgen.run_folders()[0] / client / ADMIN_FILE).read_text(encoding="utf-8").strip(), timeout=10)
    admin.request("GET", LISTENERS_PATH)
    _, port = read_address(admin.getresponse().read())
    admin.close()
    return port


def _call(port: int, name: str) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):  # the run may end first
        for _ in range(CALLS):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/", headers={"x-loadgen-client": name} if name else {})
            connection.getresponse().read()
            connection.close()


_LIMIT = r'"max_requests": 1\b'
_NONE, _MORE = '"max_requests": 4294967295', '"max_requests": 3'
SABOTAGES: dict[str, Callable[[Loadgen], None]] = {
    "remove-one": lambda loadgen: _rewrite(loadgen, range(1, 2), _LIMIT, _NONE),
    "remove-all": lambda loadgen: _rewrite(loadgen, range(1, 3), _LIMIT, _NONE),
    "raise-one": lambda loadgen: _rewrite(loadgen, range(2, 3), _LIMIT, _MORE),
    "put-back": _remove_and_put_back,
    "bypass": lambda loadgen: _call(loadgen.service_port(), "client-1"),
    "share": lambda loadgen: _call(_listener(loadgen, "client-1"), "client-1"),
    "stranger": lambda loadgen: _call(loadgen.service_port(), ""),
    "kill-sidecar": lambda loadgen: os.kill(loadgen.process_of("client-1/bootstrap"), signal.SIGKILL),
}


def drawn(runs: int, seed: int) -> list[Case]:
    """Draw the cases of a soak; each has a source of its own, so that one of them can be made again."""
    return [draw(random.Random(f"{seed}-{number}")) for number in range(runs)]


def soak(cases: Sequence[Case], folder: Path, tell: Callable[[str], None]) -> list[Judged]:
    """Make the runs, one after the other; ``tell`` hears of each."""
    found = []
    for number, case in enumerate(cases):
        result = run(case, folder / str(number))
        found.append(result)
        mark = "WRONG" if result.wrong else "noisy" if result.noisy else "right"
        tell(f"{number:>4} {mark}  {result.state:<13} {case.title}")
        for each in result.wrong:
            tell(f"            {each}: {result.report['verdict']['sentence'] if result.report else ''}")
    return found


def main() -> int:
    """Print each run, and what came of all of them; 1 if a verdict was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=None, help="a new one, which is printed")
    parser.add_argument("--only", type=int, default=None, help="the number of one run")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as name, contextlib.suppress(KeyboardInterrupt):
        if options.only is not None:
            result = run(draw(random.Random(f"{seed}-{options.only}")), Path(name) / "one")
            print(result.case.scenario, result.case.policy, result.report, *result.wrong, sep="\n")
            return bool(result.wrong)
        found = soak(drawn(options.runs, seed), Path(name), lambda line: print(line, flush=True))
    wrong = sum(bool(each.wrong) for each in found)
    noisy = sum(each.noisy for each in found)
    states = Counter(each.state for each in found)
    controls = sum(not each.case.title.startswith("http2MaxRequests") for each in found)
    print(f"{len(found)} runs of seed {seed}, {controls} of them controls: {wrong} wrong, {noisy} on a noisy machine; {dict(states)}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
