"""``loadgen report FILE``: a saved report in the forms that people and machines read."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loadgen.cli.options import FOLDER, FORMATS
from loadgen.cli.stdout import printing
from loadgen.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.render.formats import Format
    from loadgen.report import Report
    from loadgen.results import ResultFolder, Saved
    from loadgen.series import Series

SUMMARY_BYTES = 1 << 20
"""What GitHub takes of a step's summary."""


@click.command(short_help="Render a saved report.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "formats", type=FORMATS, default="console", show_default=True, help=FORMATS.help)
@click.option("--out", type=FOLDER, help="Folder for the files report.<extension>.  [default: to stdout]")
def report(file: Path, formats: tuple[Format, ...], out: Path | None) -> int:
    """Render FILE, the report.json of a run or the folder that holds it.

    Several formats need --out. The exit code says whether the report could be rendered, not what is in it.
    """
    from loadgen.results import ResultFolder, read_result  # noqa: PLC0415

    saved = read_result(file)
    if saved.left_out:
        click.echo(f"without the time series: {saved.left_out}", err=True)
    if out is None:
        if len(formats) != 1:
            raise UsageError("several formats do not fit on stdout", hint="name a folder for their files with --out")
        _print(formats[0], saved)
        return ExitCode.OK
    with ResultFolder(out) as folder:
        for each in formats:
            if (out / each.file).exists() and (out / each.file).samefile(saved.path):
                raise UsageError(f"{out / each.file} is the report itself, and would be replaced", hint="choose another folder with --out")
        write_formats(folder, formats, saved.report, saved.series)
    return ExitCode.OK


def _print(chosen: Format, saved: Saved) -> None:
    with printing("the report"):
        if chosen.name == "console":
            from loadgen.render.console import print_report  # noqa: PLC0415

            print_report(saved.report, verbose=True, where=str(saved.path))
        else:
            sys.stdout.buffer.write(chosen.render(saved.report, saved.series).encode())


def write_formats(folder: ResultFolder, formats: Sequence[Format], report: Report, series: Series | None, *, quiet: bool = False) -> None:
    """Write the report in these formats into a folder, and say on stderr where each is (unless ``quiet``).

    Raises UnwrittenError if one cannot be written.
    """
    for each in formats:
        folder.write(each.file, each.render(report, series).encode())
        if not quiet:
            click.echo(f"{each.name}: {folder.path / each.file}", err=True)


def add_to_job_summary(report: Report) -> None:
    """Append the Markdown summary to the file that ``GITHUB_STEP_SUMMARY`` names, if it is set, as far as the step's summary has room.

    What is no regular file (a pipe, a terminal that ``/dev/stdout`` stands for) is not written to, and never waited for.
    """
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    from loadgen.render.markdown import MAX_BYTES, summary  # noqa: PLC0415

    try:
        with open(path, "ab", opener=_regular_file) as file:  # Path.open takes no opener
            room = min(MAX_BYTES, SUMMARY_BYTES - file.tell())
            file.write(summary(report, room).encode())
    except (OSError, ValueError) as error:
        click.echo(f"loadgen: the job summary {path} cannot be written: {getattr(error, 'strerror', None) or error}", err=True)


def _regular_file(path: str, flags: int) -> int:
    """Open a file for ``open``, without waiting for somebody who reads it.

    Raises OSError if it is no regular file.
    """
    number = os.open(path, flags | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "it is no regular file")
    return number
