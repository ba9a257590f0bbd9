"""Options and their types that several commands share."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from loadgen.cli.metrics import MetricsPort
    from loadgen.render.formats import Format

LINGER_S = 20.0
"""A little more than what most installations of Prometheus have between two scrapes."""


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


class Folder(click.Path):
    """A folder to write into; a name that is missing, as where a variable of a shell is empty, is not the current one."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Take what was typed."""
        if not value:
            self.fail("a folder is needed, and there is none; write . for the current one", param, ctx)
        return super().convert(value, param, ctx)


FOLDER = Folder()
FORMATS = FormatList()
DURATION = Quantity("duration", "positive_duration_s")
LINGER = Quantity("duration", "duration_s")
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


_OVERRIDES = (
    click.option("--duration", type=DURATION, help="Length of every phase, such as 5s, in the place of the scenario's."),
    click.option("--clients", type=int, help="Number of clients, in the place of the scenario's."),
    click.option("--users", type=int, help="Users in each client (closed load)."),
    click.option("--rate", type=RATE, help="Arrivals in each client, such as 50/s (open load)."),
    click.option("--seed", type=int, help="Seed of all random choices."),
)
_METRICS = (
    click.option(
        "--metrics-port", type=click.IntRange(0, 65535), help="Serve the run's live metrics for Prometheus at this port; 0 takes any."
    ),
    click.option("--metrics-bind", metavar="ADDRESS", help="Address of that port; an empty one means all.  [default: 127.0.0.1]"),
    click.option(
        "--metrics-linger",
        type=LINGER,
        help="How long the page of a run that is over waits for a last scrape, if there was one before.  [default: 20s]",
    ),
)


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


def override_options(command: Any) -> Any:
    """Add what may stand in the place of a scenario's values."""
    return _add(_OVERRIDES, command)


def override_part(options: dict[str, Any]) -> dict[str, Any]:
    """Take what ``override_options`` added out of a command's options, as far as it was given."""
    part = {name: options.pop(name) for name in ("duration", "clients", "users", "rate", "seed")}
    return {name: value for name, value in part.items() if value is not None}


def metrics_options(command: Any) -> Any:
    """Add what it takes to serve a run's metrics."""
    return _add(_METRICS, command)


def metrics_part(options: dict[str, Any]) -> dict[str, Any]:
    """Take what ``metrics_options`` added out of a command's options.

    Raises UsageError if no port is given, and something about it.
    """
    part = {name: options.pop(f"metrics_{name}") for name in ("port", "bind", "linger")}
    given = [name for name, value in part.items() if value is not None]
    if given and part["port"] is None:
        raise UsageError(f"--metrics-{given[0]} says nothing without --metrics-port", hint="add --metrics-port, with 0 for any")
    return part


def open_metrics(part: dict[str, Any], *, quiet: bool) -> AbstractContextManager[MetricsPort | None]:
    """Listen at the port that is wanted, if one is, and say where: always, if nobody else can know it.

    Raises RefusedError if that cannot be.
    """
    if part["port"] is None:
        return nullcontext()
    try:
        from loadgen.cli.metrics import MetricsPort  # noqa: PLC0415  # an extra, and --help must not pay for it
    except ModuleNotFoundError as error:
        raise RefusedError(f"metrics need the package {error.name}", hint="pip install 'loadgen[metrics]'") from error
    bind, linger_s = part["bind"], part["linger"]
    port = MetricsPort("127.0.0.1" if bind is None else bind, part["port"], LINGER_S if linger_s is None else linger_s)
    if not quiet or not part["port"]:
        click.echo(f"metrics: {port.url}", err=True)
    return port


def _add(options: Sequence[Any], command: Any) -> Any:
    for option in reversed(options):
        command = option(command)
    return command
