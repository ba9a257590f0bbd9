"""What HTML is the mesh-policy page? A text with a few gaps, into which everything goes as text; the rest its script fills in.

The law: no word from outside is ever markup, and the browser is told to run and fetch nothing but the page's own files. It imports nothing of Locust's.
"""

from __future__ import annotations

import html
from importlib import resources
from string import Template

NAME = "mesh-policy"
"""The page's path below Locust's own; its own files and questions are below it."""
TOKEN_HEADER = "X-Loadgen-Token"  # noqa: S105  # a header's name
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_SCRIPT, _STYLE = "text/javascript; charset=utf-8", "text/css; charset=utf-8"
FILES = {
    "page.js": ("locust/static/page.js", _SCRIPT),
    "theme.js": ("locust/static/theme.js", _SCRIPT),
    "page.css": ("locust/static/page.css", _STYLE),
    "uPlot.iife.min.js": ("render/page/uPlot.iife.min.js", _SCRIPT),
    "uPlot.min.css": ("render/page/uPlot.min.css", _STYLE),
}
"""The page's own files: where each is in the package, and what it is."""
LINK = (
    f'<a id="loadgen-{NAME}" href="./{NAME}" style="position:fixed;left:24px;bottom:8px;z-index:1200;padding:4px 12px;border-radius:4px;'
    'background:#15803d;color:#fff;font:500 14px/1.75 Roboto,Helvetica,Arial,sans-serif;text-decoration:none">Mesh policy</a>'
)
"""What leads from Locust's own page to this one, in any state of a test."""


def page(rule: str, token: str) -> str:
    """Write the page; ``rule`` is what stands in its editor at first."""
    gaps = {"rule": rule, "token": token, "name": NAME}
    return Template(_text("locust/static/page.html")).substitute({name: html.escape(value) for name, value in gaps.items()})


def file(name: str) -> tuple[bytes, str] | None:
    """Give one of the page's own files and its content type; None if there is no such file."""
    if (found := FILES.get(name)) is None:
        return None
    return _text(found[0]).encode(), found[1]


def linked(index: str) -> str:
    """Put the link to the page into Locust's own; if that is not as we know it, it stays as it is."""
    before, end, after = index.rpartition("</body>")
    return f"{before}{LINK}{end}{after}" if end else index


def _text(path: str) -> str:
    return resources.files("loadgen").joinpath(path).read_text(encoding="utf-8")
