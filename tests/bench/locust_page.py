"""``python -m tests.bench.locust_page --rounds 5``: how long after a toggle's convergence does the page show it? For a page that somebody else toggles.

The moment of convergence is that at which the desk, asked every 20 ms, first says so; the moment of showing is that of the change in the page.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

from tests.browser.chromium import browsing
from tests.locust.headless import SCENARIO, up
from tests.locust.webui import WebUi, mesh_of, web_ui
from tests.story.command import until

RULE = (SCENARIO.parent / "policies" / "user.yaml").read_text(encoding="utf-8")
LOOK_S = 0.02
SETTLE_S = 3.0
WATCH = """
window.shown = {};
const node = document.getElementById('in-force');
new MutationObserver(() => {
  const what = node.innerText.startsWith('Rule') ? 'applied' : 'removed';
  if (node.innerText.includes('Converged')) window.shown[what] ??= Date.now() / 1000;
}).observe(node, { childList: true, characterData: true, subtree: true });
"""


def converged(ui: WebUi, toggles: int) -> float:
    """Wait until the desk says that so many toggles have converged; give the moment."""
    while len(ui.state()["timeline"]["toggles"]) < toggles:
        time.sleep(LOOK_S)
    return time.time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found: dict[str, list[float]] = {"applied": [], "removed": []}
    with (
        tempfile.TemporaryDirectory(prefix="page-") as name,
        up() as mesh,
        web_ui(Path(name), *mesh_of(mesh)) as ui,
        browsing(Path(name) / "profile") as browser,
    ):
        ui.start_users()
        until(lambda: ui.state()["phase"] == "baseline", "the first phase counts")
        browser.visit(ui.page)
        for number in range(options.rounds):
            for what, delays in found.items():
                browser.run(WATCH)
                ask = (lambda: ui.apply(RULE)) if what == "applied" else (lambda: ui.post("remove", {"expected": ui.state()["turn"]}))
                toggler = threading.Thread(target=ask)
                toggler.start()
                at = converged(ui, 2 * number + (1 if what == "applied" else 2))
                until(lambda what=what: what in browser.run("return window.shown"), "it is shown")  # type: ignore[misc]
                toggler.join()
                delays.append(browser.run("return window.shown")[what] - at)
                time.sleep(SETTLE_S)
        ui.stop_users()
    for what, delays in found.items():
        print(
            f"{what}: shown after {min(delays):.2f} to {max(delays):.2f} s, median {statistics.median(delays):.2f} s, in {len(delays)} toggles"
        )


if __name__ == "__main__":
    main()
