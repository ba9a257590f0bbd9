"""``loadgen hit URL``: load without a scenario, for people who would have typed ``hey`` or ``wrk``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from loadgen.cli.options import DURATION, HIT_RATE
from loadgen.cli.stdout import printing
from loadgen.errors import ExitCode, UnwrittenError

if TYPE_CHECKING:
    from loadgen.runner.hit import HitPlan
    from loadgen.summary import Summary


@click.command(short_help="Load a URL without a scenario.")
@click.argument("url")
@click.option(
    "-c",
    "--connections",
    type=click.IntRange(1, 1_000_000),
    help="Users, each with a connection of its own; with -r the most requests in flight.  [default: 50; with -r 1000]",
)
@click.option("-n", "--requests", "limit", type=click.IntRange(1), help="Stop after so many requests.")
@click.option("-z", "--duration", type=DURATION, help="Stop after so long, such as 30s.  [default: 10s, without -n]")
@click.option("-r", "--rate", type=HIT_RATE, help="Send at a rate, such as 500/s, whatever the answers do.")
@click.option("--poisson", is_flag=True, help="With -r: arrivals as a Poisson process, not evenly spaced.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header; may be given several times.")
@click.option("-m", "--method", help="The HTTP method.  [default: GET; POST with -d]")
@click.option("-d", "--data", help="The body; @FILE reads it from a file.")
@click.option("--timeout", type=DURATION, default="5s", show_default=True, help="How long an answer may take.")
@click.option("--expect-status", type=click.IntRange(200, 599), help="The status that counts as ok.  [default: any below 400]")
@click.option("--expect-body", help="The body that counts as ok, without white space at its ends.")
@click.option("--http2", is_flag=True, help="Speak HTTP/2; over plain http with prior knowledge.")
@click.option("--insecure", is_flag=True, help="With https: do not check the server's certificate.")
@click.option("--cacert", type=click.Path(exists=True, dir_okay=False), help="With https: a file with the authorities to check it with.")
@click.option("--flow", default="", metavar="MODULE:FUNCTION", help="What each user does: an async function of one httpx.AsyncClient.")
@click.option("--allow-host", "allowed_hosts", multiple=True, metavar="HOST", help="Allow a target that is not this machine.")
@click.option("--processes", type=click.IntRange(1, 64), help="Processes that make the load.  [default: one for two cores]")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=1, show_default=True, help="Seed of all random choices.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def hit(url: str, as_json: bool, quiet: bool, **options: Any) -> int:
    """Send requests to URL and show how they ended: outcomes, latencies, and whether the figures can be trusted.

    Only this machine (or, inside a cluster, a name or address of the cluster) may be the target; name any other host with --allow-host.
    Latency counts from the moment a request was due, to its last byte. With --expect-status or --expect-body the exit code is 99 unless every
    request is ok.

    \b
    loadgen hit http://127.0.0.1:8080/ -c 64 -z 10s          64 users, as fast as the answers come
    loadgen hit http://127.0.0.1:8080/ -r 500/s --poisson    500 arrivals per second, whatever the answers do
    """  # noqa: D301  # \b is click's mark for text that is not to be wrapped
    import gc  # noqa: PLC0415

    gc.disable()  # what is imported stays: looking for garbage in it only costs time

    from loadgen.cli.hit_plan import plan_hit  # noqa: PLC0415  # --help must not pay for what a load needs

    summary, interrupted = _run(plan_hit(url, **options), quiet=quiet)
    expected = options["expect_status"] is not None or options["expect_body"] is not None
    code = ExitCode.EXPECTATIONS_FAILED if expected and not summary.all_ok else ExitCode.OK
    code = ExitCode(interrupted) if interrupted else ExitCode.INVALID if summary.reasons else code
    try:
        _print(summary, as_json=as_json)
    except UnwrittenError as error:
        error.ending_with(code)
        raise
    return code


def _run(plan: HitPlan, *, quiet: bool) -> tuple[Summary, int]:
    """Send the load; give what it showed, and the exit code of an interruption."""
    import gc  # noqa: PLC0415

    import anyio  # noqa: PLC0415

    from loadgen.cli.signals import Interruption, attended  # noqa: PLC0415
    from loadgen.engine.this_process import allow_many_files  # noqa: PLC0415
    from loadgen.render.screen import Screen  # noqa: PLC0415
    from loadgen.runner.hit import Hit  # noqa: PLC0415

    async def tell(interruption: Interruption) -> Summary:
        with Screen(quiet=quiet) as screen:
            hit = Hit(plan, screen)
            interruption.on_first = hit.stop
            interruption.say = screen.say
            interruption.ending = "ending in order: what was measured until now is shown; once more leaves at once"
            interruption.on_second = screen.close
            return await hit.run()

    allow_many_files()
    gc.freeze()
    gc.enable()
    summary, interrupted = anyio.run(attended, tell, backend_options={"use_uvloop": True})
    assert summary is not None, "a hit that is interrupted sums up all the same"
    return summary, interrupted


def _print(summary: Summary, *, as_json: bool) -> None:
    """Print the result, to stdout.

    Raises UnwrittenError if it cannot be printed. That somebody who reads it has seen enough (``| head``) is no error.
    """
    if as_json:
        import json  # noqa: PLC0415

        text = json.dumps(summary.as_dict(), indent=1)
    else:
        from loadgen.render.hit import summary_text  # noqa: PLC0415

        text = summary_text(summary, (sys.stdout and sys.stdout.encoding) or "ascii")
    with printing("the result"):
        click.echo(text)
