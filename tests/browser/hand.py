"""What does a person do with a page? Click, type, press keys, read, and wait until it says something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.story.command import PATIENCE_S, until

if TYPE_CHECKING:
    from tests.browser.chromium import Browser


def text(browser: Browser, name: str) -> str:
    found: str = browser.run("return document.getElementById(arguments[0]).innerText", name)
    return found


def waits(browser: Browser, name: str, part: str, patience_s: float = PATIENCE_S, *, why: str | None = None) -> None:
    """Wait until an element says something. ``why`` is the element that says why it may say something else."""

    def what() -> str:
        because = f", because '{text(browser, why)}'" if why else ""
        return f"#{name} says '{part}', and not '{text(browser, name)}'{because}"

    until(lambda: part in text(browser, name), what, patience_s)


def enabled(browser: Browser, name: str) -> bool:
    return not browser.run("return document.getElementById(arguments[0]).disabled", name)


def click(browser: Browser, selector: str) -> None:
    """Click where an element is, as a hand would."""
    until(lambda: browser.run("return document.querySelector(arguments[0]) !== null", selector), f"there is {selector}")
    x, y = browser.run(
        "const found = document.querySelector(arguments[0]); found.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const box = found.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]",
        selector,
    )
    for kind in ("mousePressed", "mouseReleased"):
        browser.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def fill(browser: Browser, selector: str, value: str) -> None:
    """Type over what stands in a field."""
    until(lambda: browser.run("return document.querySelector(arguments[0]) !== null", selector), f"there is {selector}")
    browser.run("const found = document.querySelector(arguments[0]); found.focus(); found.select()", selector)
    browser.command("Input.insertText", text=value)


def press(browser: Browser, key: str) -> None:
    code = {"Tab": 9, "Enter": 13}[key]
    said = {"text": "\r"} if key == "Enter" else {}
    browser.command("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **said)
    browser.command("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)
