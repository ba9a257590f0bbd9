"""What does a person read in a browser? One HTML file that needs no network: the verdict, plots of the run by the second, and every table.

The law: text from outside is text. Elements are built as a tree, whose serializer escapes; the plots' data is JSON without ``<``; and a policy
in the page lets only the scripts and styles run that were in it when it was made, and lets nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import TYPE_CHECKING

from loadgen.render.page.elements import E, to_html
from loadgen.render.page.parts import body, title_of
from loadgen.render.page.plots import data_of

if TYPE_CHECKING:
    from loadgen.report import Report
    from loadgen.series import Series

_PLOTTER, _LICENCE = "uPlot.iife.min.js", "uPlot.LICENSE"
"""uPlot goes into the page as it was published, under its licence."""
_STYLES = ("uPlot.min.css", "page.css")


def render(report: Report, series: Series | None) -> str:
    """Write the page. Without a time series it has no plots, and says so."""
    styles = [_file(name) for name in _STYLES]
    scripts = [f"/*\n{_file(_LICENCE)}*/\n{_file(_PLOTTER)}", _file("page.js")] if series is not None else []
    head = E(
        "head",
        E("meta", charset="utf-8"),
        E("meta", {"http-equiv": "Content-Security-Policy", "content": _policy(scripts, styles)}),
        E("meta", name="viewport", content="width=device-width, initial-scale=1"),
        E("meta", name="color-scheme", content="light dark"),
        E("meta", name="referrer", content="no-referrer"),
        E("title", title_of(report)),
        *(E("style", text) for text in styles),
    )
    page = body(report, has_plots=series is not None)
    if series is not None:
        data = json.dumps(data_of(report, series), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        page.append(E("script", data, type="application/json", id="data"))
    page.extend(E("script", text) for text in scripts)
    return f"<!DOCTYPE html>\n{to_html(E('html', head, page, lang='en'))}\n"


def _file(name: str) -> str:
    text = resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
    assert "</script" not in text.lower(), "it would end its element"
    assert "</style" not in text.lower(), "it would end its element"
    return text


def _policy(scripts: list[str], styles: list[str]) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(scripts)}",
            f"style-src {_hashes(styles)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hashes(texts: list[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
