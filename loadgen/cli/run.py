"""``loadgen run SCENARIO``: the whole story, from files to a verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.cli.options import (
    FOLDER,
    FORMATS,
    cluster_options,
    cluster_part,
    metrics_options,
    metrics_part,
    open_metrics,
    override_options,
    override_part,
)
from loadgen.cli.stdout import printing
from loadgen.errors import ExitCode, LoadgenError, UnwrittenError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.cli.metrics import MetricsPort
    from loadgen.cli.signals import HeldBack
    from loadgen.inputs import Plan
    from loadgen.render.formats import Format
    from loadgen.render.stream import Stream
    from loadgen.report import Report
    from loadgen.results import ResultFolder
    from loadgen.runner.result import Result
    from loadgen.series import Series


@dataclass(frozen=True, slots=True)
class _Shown:
    """What of a run is shown, and where: ``stream`` takes lines of JSON in the place of the tables, ``metrics`` serves Prometheus meanwhile."""

    formats: tuple[Format, ...]
    stream: Stream | None
    metrics: MetricsPort | None
    quiet: bool
    verbose: bool


@click.command(short_help="Run a scenario to a verdict.")
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option(
    "--mesh",
    type=click.Choice(["local", "cluster"]),
    default="local",
    show_default=True,
    help="Where the sidecars are: real Envoys here, or the load pods' in a cluster.",
)
@cluster_options
@click.option("--out", type=FOLDER, help="Folder for the results.  [default: results/<scenario>-<time>]")
@override_options
@click.option("--processes", type=click.IntRange(1, 64), help="Processes that make the load.  [default: by the load and the cores]")
@metrics_options
@click.option(
    "--format", "formats", type=FORMATS, default=(), help=f"Write the report beside report.json in further forms, too. {FORMATS.help}"
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print a line of JSON a second, and the result in the last one (loadgen.progress/v1)."
)
@click.option("-q", "--quiet", is_flag=True, help="Print the verdict only.")
@click.option("-v", "--verbose", is_flag=True, help="Print the table of clients of each phase, too.")
def run(
    scenario: Path,
    mesh: str,
    out: Path | None,
    processes: int | None,
    formats: tuple[Format, ...],
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> int:
    """Run SCENARIO: start the mesh, load it through all phases, toggle the policy, and judge what it did.

    The result goes to stdout, progress and the clients' log to stderr, the report to report.json in the result folder. With --json the result
    is left out: stdout has a line of JSON for each second, and the verdict and the report's path in the last one.
    """
    import gc  # noqa: PLC0415
    import time  # noqa: PLC0415

    gc.disable()  # what is imported stays: looking for garbage in it only delays the first request; the run turns it on again

    from loadgen.cli.signals import HeldBack  # noqa: PLC0415  # as the next
    from loadgen.inputs import load_plan, overridden  # noqa: PLC0415  # --help must not pay for what a run needs
    from loadgen.render.stream import Stream  # noqa: PLC0415
    from loadgen.results import ResultFolder  # noqa: PLC0415

    stream = Stream() if as_json else None
    cluster = cluster_part(mesh, options)
    if mesh == "cluster" and processes is not None:
        raise UsageError("--processes does not fit --mesh cluster", hint="each load pod is a process of its own; change the number of pods")
    scrape = metrics_part(options)
    in_cluster = mesh == "cluster"
    plan = overridden(load_plan(scenario, in_cluster=in_cluster), override_part(options))
    default = Path("results") / f"{plan.scenario.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    results = ResultFolder(out or default, fresh=out is None, exclusive=True)
    with open_metrics(scrape, quiet=quiet) as metrics:
        shown = _Shown(formats, stream, metrics, quiet, verbose)
        held = HeldBack()  # what is left after a run takes a moment, and losing the report then would help nobody
        code = _in_cluster(plan, cluster, results, shown, held) if mesh == "cluster" else _here(plan, results, processes, shown, held)
        if metrics is not None and code <= ExitCode.EXPECTATIONS_FAILED:
            metrics.linger(held, quiet=quiet)  # the report is there, the mesh is gone
    return code


def _here(plan: Plan, results: ResultFolder, processes: int | None, shown: _Shown, held: HeldBack) -> int:
    from loadgen.cli.spec import local_spec  # noqa: PLC0415  # --help must not pay for what a run needs
    from loadgen.mesh.boot import boot, shortfalls  # noqa: PLC0415

    plan = replace(plan, findings=(*plan.findings, *shortfalls(plan.rules)))
    with results as folder:
        if not shown.quiet:
            warn(plan)
        with boot(local_spec(plan)) as booting:
            from loadgen.cli.story import run_local  # noqa: PLC0415  # here, so that the sidecars start meanwhile

            result, interrupted = run_local(
                plan, booting, held, processes=processes, quiet=shown.quiet, stream=shown.stream, metrics=shown.metrics
            )
            return _finish(result, folder, interrupted, shown)


def _in_cluster(plan: Plan, options: Mapping[str, Any], results: ResultFolder, shown: _Shown, held: HeldBack) -> int:
    from loadgen.cli.cluster import run_cluster  # noqa: PLC0415  # a laptop needs none of it

    with results as folder:
        if not shown.quiet:
            warn(plan)
        result, interrupted = run_cluster(plan, options, held, quiet=shown.quiet, stream=shown.stream, metrics=shown.metrics)
        return _finish(result, folder, interrupted, shown)


def _finish(result: Result | None, folder: ResultFolder, interrupted: int, shown: _Shown) -> int:
    stream = shown.stream
    if result is None:
        if stream is not None:
            stream.end(interrupted)
        click.echo("interrupted before the first request; nothing was measured", err=True)
        return interrupted
    report = result.report
    where, failure = _save(result, folder)
    unprinted = ""
    if stream is None:
        try:
            _print(report, quiet=shown.quiet, verbose=shown.verbose, where=where)
        except UnwrittenError as error:
            unprinted = error.message
    failure = failure or _write_formats(result, folder, shown.formats, quiet=shown.quiet)
    code = exit_code(report, interrupted)
    failure = failure and failure.ending_with(code)
    if stream is not None:
        stream.end(failure.exit_code if failure else code, report, where)
        if stream.failure is not None:
            unprinted = f"the lines of JSON cannot be printed: {stream.failure.strerror}"
    if unprinted:
        click.echo(f"loadgen: {unprinted}; the report is in {where}", err=True)
    if failure is not None:
        raise failure
    return code or (ExitCode.REFUSED if unprinted else ExitCode.OK)


def _save(result: Result, folder: ResultFolder) -> tuple[str, LoadgenError | None]:
    """Write the report and the series; give where the report is, and what went wrong."""
    from loadgen.cli.report import add_to_job_summary  # noqa: PLC0415

    failure: LoadgenError | None = None
    where = "not written"
    try:
        where = str(folder.write_report(result.report.to_json()))
        folder.write_series(result.series.to_bytes())
    except LoadgenError as error:
        failure = error
    if where != str(folder.report):
        click.echo(f"loadgen: the result folder {folder.path} cannot be written any more, see the last line", err=True)
    add_to_job_summary(result.report)
    return where, failure


def _write_formats(result: Result, folder: ResultFolder, formats: tuple[Format, ...], *, quiet: bool) -> LoadgenError | None:
    """Write the report in further formats; give what went wrong."""
    from loadgen.cli.report import write_formats  # noqa: PLC0415
    from loadgen.series import TooLargeError  # noqa: PLC0415

    further = [each for each in formats if each.file != folder.report.name]
    if not further:
        return None
    series: Series | None = None
    try:
        series = type(result.series).of_bytes(result.series.to_bytes())  # as it was saved, so that the files are the same later
    except TooLargeError as error:
        click.echo(f"without the time series: {error.message}", err=True)
    try:
        write_formats(folder, further, result.report, series, quiet=quiet)
    except LoadgenError as error:
        return error
    return None


def _print(report: Report, *, quiet: bool, verbose: bool, where: str) -> None:
    """Print the result.

    Raises UnwrittenError if it cannot be printed. That somebody has seen enough (``| head``) is no error.
    """
    from loadgen.render.console import print_report, print_verdict  # noqa: PLC0415

    with printing("the result"):
        if quiet:
            print_verdict(report, where=where)
        else:
            print_report(report, verbose=verbose, where=where)


def exit_code(report: Report, interrupted: int) -> ExitCode:
    """Give the exit code of a run: a failed restore before an interruption, before INVALID, before a failed expectation."""
    if report.restore.state == "failed":
        return ExitCode.RESTORE_FAILED
    if interrupted:
        return ExitCode(interrupted)
    if report.validity.state == "INVALID":
        return ExitCode.INVALID
    if not all(expectation.held for expectation in report.expectations):
        return ExitCode.EXPECTATIONS_FAILED
    return ExitCode.OK


def warn(plan: Plan) -> None:
    """Show what is questionable in the files, before the run."""
    for finding in plan.findings:
        click.echo(f"{finding}\n", err=True)
