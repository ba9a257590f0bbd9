"""``loadgen restore`` and ``loadgen guard``: put back what an interrupted run left in a cluster."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from loadgen.cli.options import access_options
from loadgen.errors import ExitCode, LoadgenError, UnverifiedError, UsageError, printable

if TYPE_CHECKING:
    from loadgen.cluster.api import KubeApi
    from loadgen.cluster.restore import LeftOver


OTHERS_S = 15.0


class RuleKey(click.ParamType[str]):
    """A rule, as ``namespace/name``."""

    name = "namespace/name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take the text as it is if it can be one."""
        if not all(part for part in value.split("/", 1)) or value.count("/") != 1:
            self.fail(f"{value!r} is not namespace/name, such as base/user", param, ctx)
        return str(value)


RULE = RuleKey()


@click.command(short_help="Put back what an interrupted run left in a cluster.")
@access_options
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    help="Where runs and rules were; may be repeated.  [default: test, base]",
)
@click.option("--run-id", default="", help="Restore this run at once, even if its lease has not run out.")
@click.option("--dry-run", is_flag=True, help="Only show what was left.")
def restore(namespaces: tuple[str, ...], run_id: str, dry_run: bool, **access: Any) -> int:
    """Find what runs left behind, put the rules back as they were, and verify it.

    The journal in the cluster says how it was before; where it is gone, the one on this machine does, or the marks on the rules. A run whose
    lease is still renewed is left alone. It can be repeated. The exit code is 5 if something could not be put back.
    """

    async def job(api: KubeApi) -> int:
        from loadgen.cluster.marks import RESTORED  # noqa: PLC0415
        from loadgen.cluster.restore import find_left_overs  # noqa: PLC0415

        places = namespaces or RESTORED
        found = await find_left_overs(api, places)
        if not found:
            _say(f"nothing was left in {', '.join(places)}; --namespace says where else to look")
        known = [run for left in found for run in left.runs]
        if run_id and run_id not in known:
            raise UsageError(
                f"nothing of a run {run_id} was found in {', '.join(places)}", hint=f"there are: {printable(', '.join(known)) or 'none'}"
            )
        failures: list[LoadgenError] = []
        for left in found:
            _show(left)
            try:
                if not dry_run:
                    await _restore(api, left, run_id)
            except LoadgenError as error:  # the other hosts are put back all the same
                failures.append(error)
                _say(f"   {error.message}")
        if failures:
            raise max(failures, key=lambda error: error.exit_code)
        return ExitCode.OK

    return _with_api(access, job)


def _show(left: LeftOver) -> None:
    holder = f", {'held' if left.seems_alive else 'last held'} by {left.holder}" if left.holder else ""
    _say(f"{left.host} (from {left.namespace}): {', '.join(left.parts)}{holder}")


async def _restore(api: KubeApi, left: LeftOver, run_id: str) -> None:
    from loadgen.cluster.finding import Fate  # noqa: PLC0415
    from loadgen.cluster.lease import HeldError  # noqa: PLC0415
    from loadgen.cluster.restore import restore as put_back  # noqa: PLC0415

    try:
        undone = await put_back(
            api, left.host, left.namespace, run_id=run_id if run_id in left.runs else "", tell=lambda text: _say(f"   {text}")
        )
    except HeldError as error:
        _say(f"   {error.message}")
        if not await _others_do_it(api, left):
            raise
        click.echo("verified: somebody else has put it back, the guard or another restore; nothing is left")
        return
    _say(f"{undone.fate.value}: {undone.sentence}")
    if undone.fate is Fate.FAILED:
        raise UnverifiedError(
            f"the rules of {printable(left.host)} could not be put back", hint="the lines above say what is left; try again"
        )


async def _others_do_it(api: KubeApi, left: LeftOver) -> bool:
    """Wait a little: whoever has the lease may be putting back the same thing."""
    import anyio  # noqa: PLC0415

    from loadgen.cluster.restore import find_left_overs  # noqa: PLC0415

    with anyio.move_on_after(OTHERS_S):
        while any(each.host == left.host for each in await find_left_overs(api, [left.namespace])):  # noqa: ASYNC110  # a cluster tells nobody
            await anyio.sleep(1.0)
        return True
    return False


@click.command(short_help="What the guard in a cluster runs.")
@access_options
@click.option("--host", required=True, help="The service whose rules a run changes.")
@click.option("--namespace", required=True, help="The clients' namespace.")
@click.option("--creates", type=RULE, multiple=True, help="A rule that the run creates; repeatable.")
@click.option("--changes", type=RULE, multiple=True, help="A rule that the run changes; repeatable.")
@click.option("--ready-port", type=click.IntRange(1, 65535), help="Listen there from when the rules can be put back.")
def guard(host: str, namespace: str, creates: tuple[str, ...], changes: tuple[str, ...], ready_port: int | None, **access: Any) -> int:
    """Watch over a run's change, and put the rules back if the run is dead or its time is over.

    A run starts this as a Job in the cluster before it changes anything, and waits until it is ready. If the account may not put back the rules
    that are named, it ends with code 3 and says what it may not.
    """

    async def job(api: KubeApi) -> int:
        import anyio  # noqa: PLC0415

        from loadgen.cluster.guard import guard as watch  # noqa: PLC0415
        from loadgen.cluster.guard import open_port  # noqa: PLC0415
        from loadgen.cluster.rights import Touched  # noqa: PLC0415

        touched = [*(Touched(key, creates=True) for key in creates), *(Touched(key, creates=False) for key in changes)]
        async with anyio.create_task_group() as tasks:

            def ready() -> None:
                if ready_port:
                    tasks.start_soon(open_port, ready_port)

            undone = await watch(api, host, namespace, touched=touched, ready=ready, tell=_log)
            tasks.cancel_scope.cancel()
        _log(f"{undone.fate.value}: {undone.sentence}")
        return ExitCode.OK

    return _with_api(access, job)


def _log(text: str) -> None:
    _say(text)
    sys.stdout.flush()


def _say(text: str) -> None:
    """Print a line that holds what others wrote: holders, annotations, journals."""
    click.echo(printable(text))


def _with_api(access: dict[str, Any], job: Any) -> int:
    """Do a job with a cluster's API server; a signal ends it."""
    import anyio  # noqa: PLC0415  # --help must not pay for it

    from loadgen.cli.signals import Interruption, attended  # noqa: PLC0415
    from loadgen.cluster.access import find_access  # noqa: PLC0415
    from loadgen.cluster.api import KubeApi  # noqa: PLC0415

    async def attend(interruption: Interruption) -> int:
        interruption.ending = "ending; what was begun can be repeated"
        async with KubeApi(find_access(**access)) as api:
            code: int = await job(api)
            return code

    code, interrupted = anyio.run(attended, attend)
    return interrupted if code is None else code
