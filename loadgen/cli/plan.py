"""``loadgen plan SCENARIO``: what a run would find and change, without a load and without changing anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.cli.options import cluster_options, cluster_part, override_options, override_part
from loadgen.cli.stdout import printing
from loadgen.errors import ExitCode

if TYPE_CHECKING:
    from loadgen.inputs import Plan
    from loadgen.preview import Preview


@click.command(short_help="Show what a run would find and change.")
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option("--mesh", type=click.Choice(["local", "cluster"]), default="local", show_default=True, help="Where the sidecars are.")
@cluster_options
@override_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(scenario: Path, mesh: str, as_json: bool, **options: Any) -> int:
    """Show which rule would win for the clients of SCENARIO, which limits they would get, and what a run would show.

    That is how many requests are admitted at a time, how many are lost, and how many get through; in a cluster, also what a run would change there.
    Nothing is changed. The exit code is 3 if something stands in the way of a run.
    """
    from loadgen.cli.run import warn  # noqa: PLC0415
    from loadgen.inputs import load_plan, overridden  # noqa: PLC0415
    from loadgen.render.preview import preview_text  # noqa: PLC0415

    cluster = cluster_part(mesh, options)
    in_cluster = mesh == "cluster"
    loaded = overridden(load_plan(scenario, in_cluster=in_cluster), override_part(options))
    if mesh == "local":
        preview = _local(loaded)
    else:
        from loadgen.cli.cluster import preview_cluster  # noqa: PLC0415

        preview = preview_cluster(loaded, cluster)
    preview = _foreseen(preview, loaded)
    if not as_json:
        warn(loaded)
    with printing("the plan"):
        print(
            json.dumps(preview.to_json(), indent=1) if as_json else preview_text(preview)
        )  # click ends the command with 1 if nobody reads on
    return ExitCode.REFUSED if preview.obstacles else ExitCode.OK


def _local(plan: Plan) -> Preview:
    from loadgen.preview import Preview, state_of  # noqa: PLC0415

    service, client = plan.service, plan.client
    return Preview(
        service,
        client,
        tuple(f"client-{number}" for number in range(1, plan.scenario.clients.count + 1)),
        state_of((), service, client),
        state_of(plan.rules, service, client),
        plan.findings,
        rules=plan.rules,
        workers=plan.scenario.clients.workers,
    )


def _foreseen(preview: Preview, plan: Plan) -> Preview:
    """Add what becomes of each rule, and what will be seen."""
    from loadgen.outlook import outlooks  # noqa: PLC0415
    from loadgen.preview import fates  # noqa: PLC0415

    clients = plan.scenario.clients.model_copy(update={"workers": preview.workers})
    scenario = plan.scenario.model_copy(update={"clients": clients})
    seen = tuple(outlooks(scenario, preview.after.limits, http2=plan.speaks_http2, ejected=plan.ejects_service))
    known = fates(plan.rules, preview.rules, plan.service, plan.client) if preview.rules else ()  # none without a phase that changes any
    return replace(preview, fates=known, outlooks=seen)
