"""The result of a real run, and the same with one thing changed, as all tests of this folder use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadgen.report import Report
from loadgen.results import Saved, read_result

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(__file__).parent / "data"
HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)>|`*_[a](http://b)&amp;\x1b[31m\x00\u202e\ud800\n@octocat'
"""What no format may take for anything but text."""


def real() -> Saved:
    """Give the result of a run of the tutorial's scenario with three clients."""
    return read_result(DATA)


def changed(change: Callable[[Any], None]) -> Report:
    """Give the report of that run with something changed."""
    document = json.loads((DATA / "report.json").read_text(encoding="utf-8"))
    change(document)
    return Report.model_validate(document, strict=False)  # JSON has no verdicts, and cannot hold half a surrogate pair


def hostile() -> Report:
    """Give a report with a hostile text wherever a text stands that comes from outside."""

    def change(document: Any) -> None:
        document["scenario"].update(name=HOSTILE, target=HOSTILE, rule=HOSTILE, load={"model": HOSTILE}, limits={HOSTILE: 1})
        document["verdict"]["sentence"] = document["restore"]["detail"] = document["started_at"] = HOSTILE
        document["validity"] = {"state": "INVALID", "reasons": [HOSTILE, HOSTILE]}
        document["restore"]["state"] = "failed"
        document["findings"] = [HOSTILE]
        document["environment"].update(platform=HOSTILE, envoy=HOSTILE, python=HOSTILE, loadgen=HOSTILE)
        for expectation in document["expectations"]:
            expectation.update(phase=HOSTILE, metric=HOSTILE, wanted=HOSTILE, got=HOSTILE, held=False)
        for phase in document["phases"]:
            phase["name"] += HOSTILE
            phase["causes"] = [{"cause": HOSTILE[:40], "made_by": HOSTILE.replace("\ud800", "")[-40:], "requests": 1}]
            if phase["prediction"]:
                phase["prediction"].update(law=HOSTILE, because=HOSTILE, sentence=HOSTILE, service_time_from=HOSTILE)
            for client in phase["clients"]:
                client["name"] += HOSTILE

    return changed(change)
