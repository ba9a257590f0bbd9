"""``loadgen up SCENARIO`` and ``loadgen policy apply|remove``: the mesh alone, to try a rule with curl, hey or Locust."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from loadgen.cli.stdout import printing
from loadgen.errors import ExitCode, MeshError, RefusedError, UnverifiedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.errors import Problem
    from loadgen.inputs import Plan
    from loadgen.mesh.boot import Booting
    from loadgen.mesh.local import LocalMesh
    from loadgen.policy.rule import Rule


@click.command(short_help="Start the local mesh and wait for ^C.")
@click.argument("scenario", type=click.Path(path_type=Path))
@click.option("--clients", type=int, help="Number of clients, in the place of the scenario's.")
def up(scenario: Path, clients: int | None) -> int:
    """Start the user service and the sidecars of SCENARIO, print each client's address, and wait for ^C.

    No load is sent and no policy is there; toggle one from another terminal with "loadgen policy".
    """
    import anyio  # noqa: PLC0415  # --help must not pay for it

    from loadgen.cli.spec import local_spec  # noqa: PLC0415
    from loadgen.inputs import load_plan, overridden  # noqa: PLC0415
    from loadgen.mesh.boot import boot  # noqa: PLC0415

    plan = overridden(load_plan(scenario), {"clients": clients})
    with boot(local_spec(plan)) as booting:
        return anyio.run(_up, plan, scenario, str(scenario.absolute()), booting, backend_options={"use_uvloop": True})


async def _up(plan: Plan, scenario: Path, where: str, booting: Booting) -> int:
    from loadgen.cli.signals import Interruption, attended  # noqa: PLC0415
    from loadgen.mesh.local import ready  # noqa: PLC0415
    from loadgen.mesh.published import publish  # noqa: PLC0415

    async def stay_up(interruption: Interruption) -> MeshError:
        mesh = await ready(booting)
        interruption.on_second = mesh.kill
        publish(mesh, where)
        with printing("where the mesh is"):
            _describe(plan, scenario, mesh)
        return await mesh.watch()

    death, interrupted = await attended(stay_up)
    if death is not None:
        raise death
    return interrupted


def _describe(plan: Plan, scenario: Path, mesh: LocalMesh) -> None:
    for client in mesh.clients:
        click.echo(
            f"{client.name:<10} http://{client.address[0]}:{client.address[1]}/   (sidecar admin http://{client.admin.address[0]}:{client.admin.address[1]}/)"
        )
    click.echo(
        f"{'user':<10} http://127.0.0.1:{mesh.ports[0]}/   (the service itself, no sidecar; its count http://127.0.0.1:{mesh.ports[1]}/count)"
    )
    policy = scenario.parent / plan.scenario.policy if plan.scenario.policy else "FILE"
    click.echo(f"\nNo policy is there. From another terminal: loadgen policy apply {policy}, loadgen policy remove. ^C ends the mesh.")


@click.group(short_help="Apply or remove a rule in a mesh that 'loadgen up' started.")
def policy() -> None:
    """Apply or remove a rule in a mesh that "loadgen up" started in another terminal."""


_PID = click.option("--pid", type=int, help="Process id of the 'loadgen up' to toggle, if several run.")


@policy.command(short_help="Put the rules of a file in force.")
@click.argument("file", type=click.Path(path_type=Path))
@_PID
def apply(file: Path, pid: int | None) -> int:
    """Put the rules of FILE in force, and return when every sidecar has confirmed."""
    from loadgen.inputs import load_rules  # noqa: PLC0415

    rules, findings = load_rules(file)
    return _toggle(rules, pid, findings)


@policy.command(short_help="Remove all rules.")
@_PID
def remove(pid: int | None) -> int:
    """Remove all rules, and return when every sidecar has confirmed."""
    return _toggle((), pid)


def _toggle(rules: Sequence[Rule], pid: int | None, findings: Sequence[Problem] = ()) -> int:
    import anyio  # noqa: PLC0415

    from loadgen.mesh.boot import shortfalls  # noqa: PLC0415
    from loadgen.mesh.published import POLICY_LOCK  # noqa: PLC0415
    from loadgen.mesh.run_folder import locked  # noqa: PLC0415
    from loadgen.policy.lint import lint  # noqa: PLC0415

    mesh = _running_mesh(pid)
    for finding in dict.fromkeys(
        [*findings, *lint(rules, mesh.spec.service, mesh.spec.client, workers=mesh.spec.workers), *shortfalls(rules)]
    ):  # what both say is said once
        click.echo(f"{finding}\n", err=True)
    with locked(
        mesh.folder / POLICY_LOCK,
        lambda: click.echo("somebody else toggles the policy, a test of Locust's perhaps; waiting for 10 s", err=True),
    ):
        click.echo(anyio.run(_put, mesh, rules))
    return ExitCode.OK


async def _put(mesh: LocalMesh, rules: Sequence[Rule]) -> str:
    from loadgen.engine.load import clock  # noqa: PLC0415
    from loadgen.runner.convergence import converge  # noqa: PLC0415

    toggled = clock()
    try:
        await mesh.put(rules)
        reached = await converge(mesh, rules)
    except MeshError as error:
        message = f"not every sidecar has confirmed, so the change may be in force at some of them: {error.message}"
        raise UnverifiedError(message, hint="try again, or put the mesh back with: loadgen policy remove") from error
    wanted = mesh.wanted(rules)
    sidecars = "the sidecar" if len(reached) == 1 else f"all {len(reached)} sidecars"
    after = f"at {sidecars} after {(max(reached.values()) - toggled) * 1000:.0f} ms"
    if wanted.rule is None:
        return f"no rule is in force {after}" + (": none of these rules has an effect on the clients" if rules else "")
    limits = ", ".join(f"{name} {value}" for name, value in wanted.limits.in_force().items()) or "no limit"
    return f"rule {wanted.named} is in force {after}: {limits}"


def _running_mesh(pid: int | None) -> LocalMesh:
    from loadgen.mesh.published import published  # noqa: PLC0415

    found = published()
    if not found:
        raise RefusedError("no local mesh is running", hint="start one in another terminal: loadgen up scenarios/connection-pool.yaml")
    chosen = [each.mesh for each in found if pid in {None, each.pid}]
    listing = "; ".join(f"--pid {each.pid} ({each.scenario})" for each in found)
    if not chosen:
        raise UsageError(f"no local mesh has the process id {pid}", hint=f"running: {listing}")
    if len(chosen) > 1:
        raise UsageError("several local meshes are running", hint=f"choose one: {listing}")
    return chosen[0]
