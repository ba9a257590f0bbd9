"""Options and their types that several commands share."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.render.formats import Format


class Quantity(click.ParamType[float]):
    """A text such as ``8s`` or ``50/s`` that a function of ``loadgen.quantity`` reads; the function is looked up when an option is given."""

    def __init__(self, name: str, reader: str) -> None:
        self.name = name
        self._reader = reader

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the text that was typed."""
        try:
            return float(getattr(import_module("loadgen.quantity"), self._reader)(value))  # --help must not pay for the import
        except ValueError as error:
            self.fail(str(error), param, ctx)


class FormatList(click.ParamType["tuple[Format, ...]"]):
    """Names of formats with commas between them."""

    name = "formats"
    help = "Any of console,html,junit,markdown,openmetrics,csv,json."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Format, ...]:
        """Look up the formats."""
        from loadgen.render.formats import formats_of  # noqa: PLC0415  # --help must not pay for the import

        if not isinstance(value, str):
            return tuple(value)
        try:
            return formats_of([name.strip() for name in value.split(",")])
        except UsageError as error:
            self.fail(f"{error.message}; {error.hint}", param, ctx)


FORMATS = FormatList()
DURATION = Quantity("duration", "positive_duration_s")
RATE = Quantity("rate", "rate_per_s")
HIT_RATE = Quantity("rate", "plain_rate_per_s")


_ACCESS = (
    click.option("--kubeconfig", type=click.Path(path_type=Path), help="Cluster: the kubeconfig.  [default: as kubectl]"),
    click.option("--context", help="Cluster: the context of the kubeconfig.  [default: the current one]"),
)
_TOGGLE = (
    click.option(
        "--toggle",
        type=click.Choice(["auto", "own", "patch", "overlay"]),
        default="auto",
        show_default=True,
        help="Cluster: create our own rule, patch the one that is there, or lay one of ours over it.",
    ),
    click.option("--allow-managed", is_flag=True, help="Cluster: patch a rule even if Argo CD, Flux or Helm manages it."),
)
_DEFAULTS = {"kubeconfig": None, "context": None, "toggle": "auto", "allow_managed": False}


def access_options(command: Any) -> Any:
    """Add what it takes to find a cluster."""
    return _add(_ACCESS, command)


def cluster_options(command: Any) -> Any:
    """Add what ``--mesh cluster`` needs to know."""
    return _add((*_ACCESS, *_TOGGLE), command)


def cluster_part(mesh: str, options: dict[str, Any]) -> dict[str, Any]:
    """Take what ``cluster_options`` added out of a command's options.

    Raises UsageError if some of it was given for another mesh.
    """
    part = {name: options.pop(name) for name in _DEFAULTS}
    given = [name for name, default in _DEFAULTS.items() if part[name] != default]
    if given and mesh != "cluster":
        raise UsageError(f"--{given[0].replace('_', '-')} does not fit --mesh {mesh}", hint="add --mesh cluster")
    return part


def _add(options: Sequence[Any], command: Any) -> Any:
    for option in reversed(options):
        command = option(command)
    return command
