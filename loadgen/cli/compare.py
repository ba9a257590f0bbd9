"""``loadgen compare BASE NEW``: is the new run worse, beyond noise and beyond what is tolerated?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.cli.stdout import printing
from loadgen.errors import ExitCode, InvalidError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.results import Saved


class Tolerance(click.ParamType[float]):
    """A percentage such as ``5%``, as a share."""

    name = "percentage"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the text that was typed."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]{1,6})?)%", str(value))
        if match is None:
            self.fail(f"'{value}' is no percentage; write for example 5%", param, ctx)
        return float(match[1]) / 100


@click.command(short_help="Compare saved runs; exit 99 on a regression.")
@click.argument("reports", metavar="[BASE] NEW...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--base", "bases", type=click.Path(path_type=Path), multiple=True, help="A run of the base, again for each; then all arguments are NEW."
)
@click.option("--tolerance", type=Tolerance(), default="5%", show_default=True, help="How much worse a figure may be than in the base.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the intervals.")
@click.option("--anyway", is_flag=True, help="Compare runs that are INVALID or not alike, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (loadgen.comparison/v1).")
def compare(reports: tuple[Path, ...], bases: tuple[Path, ...], tolerance: float, seed: int, anyway: bool, as_json: bool) -> int:
    """Compare the runs NEW with the run BASE; each is a report.json or its folder.

    Per phase and outcome: share, rate, p50 and p99, each with an interval of its change. What is worse with the whole interval, and by more
    than the tolerance, is a regression: exit code 99. Runs that are not alike are refused with 2, INVALID ones with 4.
    """
    from loadgen import comparison as core  # noqa: PLC0415  # --help must not pay for it
    from loadgen.results import read_result  # noqa: PLC0415

    if not bases:
        bases, reports = reports[:1], reports[1:]
    if not reports:
        raise UsageError("there is nothing to compare with the base", hint="loadgen compare BASE NEW, or --base BASE NEW")
    base, new = [read_result(path) for path in bases], [read_result(path) for path in reports]
    for run in [*base, *new]:
        if run.left_out:
            click.echo(f"{run.path}: without the time series: {run.left_out}", err=True)
    doubts = _check(base, new, anyway=anyway)
    compared = core.compare(base, new, tolerance=tolerance, seed=seed, doubts=doubts)
    with printing("the comparison"):
        if as_json:
            click.echo(
                json.dumps(
                    core.to_json(compared, {"base": [str(run.path) for run in base], "new": [str(run.path) for run in new]}), indent=1
                )
            )
        else:
            from loadgen.render.comparison import print_comparison  # noqa: PLC0415

            print_comparison(compared)
    return ExitCode.EXPECTATIONS_FAILED if compared.regressions else ExitCode.OK


def _check(base: Sequence[Saved], new: Sequence[Saved], *, anyway: bool) -> list[str]:
    """Give what speaks against comparing these runs.

    Raises UsageError or InvalidError for it, unless they are to be compared anyway.
    """
    from loadgen.comparison import obstacles  # noqa: PLC0415

    invalid, unlike = obstacles(base, new)
    if not anyway and invalid:  # what else is not alike may be because of it
        raise InvalidError(
            "; ".join([*invalid, *unlike]), hint="run it again, to its end and where there is less other work, or add --anyway"
        )
    if not anyway and unlike:
        raise UsageError(f"the runs are not alike: {'; '.join(unlike)}", hint="run the same scenario on both sides, or add --anyway")
    return [*unlike, *invalid]
