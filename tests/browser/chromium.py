"""A real Chromium, driven over the WebDriver protocol, which is plain HTTP: open a page, ask it, look at it, and see what it asked the network for.

It is started with a profile of its own and without everything that would use the network by itself.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1000",
)
PATIENCE_S = 60.0
STARTS = 5


@dataclass(frozen=True, slots=True)
class Browser:
    """One browser window. ``at`` is the address of its session."""

    wire: httpx.Client
    at: str

    def open(self, path: Path) -> None:
        """Open a file, and wait until it is loaded."""
        self.visit(path.as_uri())

    def visit(self, address: str) -> None:
        """Open an address, and wait until it is loaded."""
        self._ask("POST", "url", {"url": address})

    def run(self, script: str, *arguments: object) -> Any:
        """Run the body of a function in the page, and give what it returns."""
        return self._ask("POST", "execute/sync", {"script": script, "args": list(arguments)})

    def look(self) -> bytes:
        """Take a screenshot, as PNG."""
        return base64.b64decode(self._ask("GET", "screenshot"))

    def command(self, name: str, **parameters: object) -> Any:
        """Give a command of Chromium's own protocol."""
        return self._ask("POST", "goog/cdp/execute", {"cmd": name, "params": parameters})

    def scheme(self, scheme: Literal["light", "dark"]) -> None:
        """Prefer a colour scheme."""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def width(self, width: int) -> None:
        """Become a phone of this width."""
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=2, mobile=True)

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def printed(self) -> bytes:
        """Print the page, as PDF."""
        return base64.b64decode(self.command("Page.printToPDF", printBackground=True)["data"])

    def said(self) -> list[str]:
        """Give what is in the page's console since the last time: its errors above all."""
        return [entry["message"] for entry in self._ask("POST", "se/log", {"type": "browser"})]

    def requested(self) -> list[str]:
        """Give the addresses that a file asked for, its own first; the browser's own first page is none."""
        events = [json.loads(entry["message"])["message"] for entry in self._ask("POST", "se/log", {"type": "performance"})]
        asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in asked if each["documentURL"].startswith("file:")]

    def _ask(self, method: str, what: str, body: Mapping[str, object] | None = None) -> Any:
        answer = self.wire.request(method, f"{self.at}/{what}", json=body).json()["value"]
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """Start a browser, and end it."""
    with _driving() as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S, trust_env=False) as wire:
        yield from _session(wire, profile)


@contextlib.contextmanager
def _driving() -> Iterator[int]:
    """Start what drives a browser, and give its port. It takes one that is free over IPv4, and ends if that is not free over IPv6, too."""
    said = ""
    for _ in range(STARTS):
        with subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
            try:
                assert driver.stdout is not None
                for line in driver.stdout:
                    said += line
                    if found := re.search(r"started successfully on port (\d+)", line):
                        yield int(found[1])
                        return
            finally:
                driver.terminate()
    raise AssertionError(f"chromedriver did not start, {STARTS} times: {said}")


def _session(wire: httpx.Client, profile: Path) -> Iterator[Browser]:
    wanted = {
        "browserName": "chrome",
        "goog:chromeOptions": {"args": [*ARGUMENTS, f"--user-data-dir={profile}"]},
        "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
    }
    answer = wire.post("/session", json={"capabilities": {"alwaysMatch": wanted}}).json()["value"]
    assert "sessionId" in answer, answer
    browser = Browser(wire, f"/session/{answer['sessionId']}")
    try:
        yield browser
    finally:
        wire.delete(browser.at)
