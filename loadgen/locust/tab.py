"""What does a tab of Locust's own page show of the policy? A line for each client, read only: what is in force there, and what has become of its requests.

Locust's page shows tables that are described when it is loaded, and whose rows come with its statistics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loadgen.errors import LoadgenError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.locust.control import Control

KEY = "meshPolicy"
TITLE = "Mesh policy"
COLUMNS = {
    "name": "Client",
    "rule": "Rule in force",
    "limits": "Limits",
    "ok": "ok",
    "overflow": "overflow",
    "other": "other",
    "share": "overflow %",
    "difference": "Ledger's difference",
}
PATIENCE_S = 2.0
"""Locust's statistics do not wait longer for a desk that is busy."""
NO_SECOND = 1 << 31
"""The plot is on the page only."""


def add(template_args: dict[str, Any]) -> None:
    """Describe the tab, beside those that others describe."""
    structure = [{"key": key, "title": title} for key, title in COLUMNS.items()]
    template_args["extended_tabs"] = [*(template_args.get("extended_tabs") or ()), {"title": TITLE, "key": KEY}]
    template_args["extended_tables"] = [*(template_args.get("extended_tables") or ()), {"key": KEY, "structure": structure}]


def extended(stats: dict[str, Any], control: Control) -> dict[str, Any]:
    """Add the tab's rows to Locust's statistics."""
    return {**stats, "extended_stats": [*stats.get("extended_stats", ()), {"key": KEY, "data": _rows(control)}]}


def _rows(control: Control) -> list[dict[str, Any]]:
    try:
        state = control.ask("state", timeout_s=PATIENCE_S, since=NO_SECOND, watched=False)
    except LoadgenError:  # the page says what is amiss
        return []
    return [_row(client) for client in state["clients"]]


def _row(client: Mapping[str, Any]) -> dict[str, Any]:
    all_of_it = client["ok"] + client["overflow"] + client["other"]
    difference = client["ledger"]["difference"]
    return {
        "name": client["name"],
        "rule": client["rule"] or "none",
        "limits": ", ".join(f"{name} {value}" for name, value in client["limits"].items()) or "none",
        **{group: client[group] for group in ("ok", "overflow", "other")},
        "share": f"{100 * client['overflow'] / all_of_it:.1f}" if all_of_it else "-",
        "difference": "-" if difference is None else difference,
    }
