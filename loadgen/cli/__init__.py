"""The command line: what a person types, and the exit code that a script gets.

Importing it costs click and nothing else: every command imports what it needs when it runs, so that ``--help`` is instant.
"""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
from typing import TYPE_CHECKING

import click

from loadgen import __version__
from loadgen.cli.compare import compare
from loadgen.cli.hit import hit
from loadgen.cli.manifests import manifests
from loadgen.cli.mesh import policy, up
from loadgen.cli.plan import plan
from loadgen.cli.pod import pod
from loadgen.cli.report import report
from loadgen.cli.restore import guard, restore
from loadgen.cli.run import run
from loadgen.cli.stdout import Losing, Stdout, printing_all
from loadgen.errors import ExitCode, InputError, LoadgenError

if TYPE_CHECKING:
    from collections.abc import Sequence


_PLAINLY = "loadgen-plainly"
_MICRO = "\N{MICRO SIGN}\N{GREEK SMALL LETTER MU}"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="loadgen")
def cli() -> None:
    """Show what an Istio connection-pool limit really does.

    Clients behind real Envoy sidecars load a service, a DestinationRule is put in force and removed under the load, and a report
    proves with three independent witnesses what it did.

    \b
    Exit codes: 0 ok, 1 bug, 2 bad usage or input, 3 refused before anything was started, or results
    cannot be written, 4 run INVALID, 5 restore failed, 99 an expectation failed or a regression, 129/130/143 ended by a signal.
    """  # noqa: D301  # \b is click's mark for text that is not to be wrapped


cli.add_command(run)
cli.add_command(plan)
cli.add_command(report)
cli.add_command(hit)
cli.add_command(compare)
cli.add_command(up)
cli.add_command(policy)
cli.add_command(manifests)
cli.add_command(pod)
cli.add_command(restore)
cli.add_command(guard)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the published code."""
    _open_standard_streams()
    _print_whatever_can_be_printed()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a script started us with "&", which ignores it
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that what was made is cleaned up, even early on
    sys.exit(exit_code_of(arguments))


def _open_standard_streams() -> None:
    """Give closed standard streams (``>&-``) an end: otherwise the next file that is opened gets their number, and the loop aborts.

    Python has set what was closed when it started to None, and does not look again.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _print_whatever_can_be_printed() -> None:
    """Let a stdout that is no UTF-8 (``PYTHONIOENCODING=ascii``, an old locale) show what it has no character for as ``u`` or ``?``, and a full stderr end nothing.

    The result of a run and its exit code are worth more than a micro sign.
    """
    codecs.register_error(_PLAINLY, _plainly)
    if isinstance(sys.stdout, io.TextIOWrapper):
        encoding, lines, through = sys.stdout.encoding, sys.stdout.line_buffering, sys.stdout.write_through
        sys.stdout = Stdout(sys.stdout.detach(), encoding, _PLAINLY, line_buffering=lines, write_through=through)
    if isinstance(sys.stderr, io.TextIOWrapper):
        raw = io.BufferedWriter(Losing(sys.stderr.fileno(), "w", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join("u" if char in _MICRO else "?" for char in lost), error.end


def exit_code_of(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; every foreseen error becomes a sentence on stderr and its exit code. A bug keeps its traceback."""
    try:
        code = ExitCode.OK
        with printing_all():
            code = cli.main(arguments, prog_name="loadgen", standalone_mode=False)
        return int(code or ExitCode.OK)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except LoadgenError as error:
        _explain(error)
        return error.exit_code


def _explain(error: LoadgenError) -> None:
    if isinstance(error, InputError):
        for problem in error.problems:
            click.echo(f"{problem}\n", err=True)
        click.echo(error.message, err=True)
        return
    click.echo(f"loadgen: {error.message}", err=True)
    if error.hint:
        click.echo(f"   hint: {error.hint}", err=True)
