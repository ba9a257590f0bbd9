"""Does the command do what the hints say that send people to it, wherever the run was, and is what it prints harmless to their terminal?"""

from __future__ import annotations

import contextlib
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from loadgen.cluster.api import KubeApi
from loadgen.cluster.change import Mode
from loadgen.cluster.finding import users_part
from loadgen.cluster.journal import Journal, Record, State
from loadgen.cluster.lease import HeldError, Lease
from loadgen.cluster.marks import RESTORED, journal_name, lease_name, restore_command
from loadgen.cluster.paths import config_maps, leases, rules
from loadgen.cluster.restore import restore
from loadgen.errors import LoadgenError, RefusedError, UnverifiedError
from tests.cluster.moody import Moody, says, well
from tests.cluster.rules import abandoned, access, host, new_run, owners_rule, planned, taking_turn
from tests.story.command import Ended, Loadgen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.cluster.controlplane.plane import ControlPlane

pytestmark = pytest.mark.anyio
COMMAND = re.compile(r"loadgen (restore(?: --(?:namespace|run-id) [\w.-]+)*)")


@dataclass(frozen=True, slots=True)
class Desk:
    """A machine on which no run ever was, with the command on it; a service with a rule of its owner's, and a run elsewhere."""

    plane: ControlPlane
    api: KubeApi
    base: str
    home: str
    state: Path
    command: Loadgen
    before: dict[str, Any]

    async def type(self, line: str) -> Ended:
        return await anyio.to_thread.run_sync(lambda: self.command.run(*shlex.split(line)))

    def assert_restored(self) -> None:
        now = self.plane.api.get(rules("v1", self.base, "owners"))
        assert users_part(now) == users_part(self.before)
        assert self.plane.api.find(config_maps(self.home, journal_name(host(self.base)))) is None
        assert self.plane.api.find(leases(self.home, lease_name(host(self.base)))) is None


@pytest.fixture
async def desk(control_plane: ControlPlane, make_namespace: Callable[..., str], tmp_path: Path) -> AsyncIterator[Desk]:
    base, home = make_namespace("base"), make_namespace("test")
    before = control_plane.api.create(owners_rule(base))
    here = {"KUBECONFIG": str(control_plane.kubeconfig("admin")), "XDG_STATE_HOME": str(tmp_path / "here")}
    token = control_plane.users.token("admin")
    async with KubeApi(lambda: access(control_plane.url, control_plane.authority, token)) as api:
        yield Desk(control_plane, api, base, home, tmp_path / "elsewhere", Loadgen(tmp_path, here), before)


@contextlib.asynccontextmanager
async def refusing(desk: Desk, *, after: int = 0) -> AsyncIterator[tuple[Moody, KubeApi]]:
    """Give the way to a server that lets nobody patch a rule, after so many times."""
    token = desk.plane.users.token("admin")
    async with (
        Moody.serving(desk.plane.url, desk.plane.authority) as moody,
        KubeApi(lambda: access(moody.url, "", token)) as api,
    ):
        moody.play("PATCH", "destinationrules", well, times=after)
        moody.play("PATCH", "destinationrules", says(403, "not you"), times=99)
        yield moody, api


async def held(desk: Desk) -> str:
    await abandoned(desk.api, desk.base, desk.home, Mode.PATCH, desk.state, lease_s=5.0)
    with pytest.raises(HeldError) as refused:
        await Lease.acquire(desk.api, new_run(desk.api, desk.base, desk.home))
    return refused.value.hint


async def held_wait(desk: Desk) -> str:
    return (await held(desk)).partition(", or at once")[0]


async def planned_with(desk: Desk) -> str:
    await abandoned(desk.api, desk.base, desk.home, Mode.PATCH, desk.state)
    with pytest.raises(RefusedError) as refused:
        await planned(desk.api, desk.base, desk.home)
    return refused.value.message


async def journal_there(desk: Desk) -> str:
    await abandoned(desk.api, desk.base, desk.home, Mode.PATCH, desk.state)
    with pytest.raises(RefusedError) as refused:
        await Journal.begin(desk.api, Record(new_run(desk.api, desk.base, desk.home), "own", State.INTENT, "", "v1"), None)
    return refused.value.hint


async def restored_in_vain(desk: Desk) -> str:
    change = await abandoned(desk.api, desk.base, desk.home, Mode.PATCH, desk.state)
    async with refusing(desk) as (_, api):
        run_id = change._run.id
        undone = await restore(api, host(desk.base), desk.home, run_id=run_id, lease_s=1.0, settle_s=0.0, folder=desk.state)
    return undone.sentence


async def ended_in_vain(desk: Desk) -> str:
    async with refusing(desk, after=1) as (moody, api):
        with pytest.RaisesGroup(UnverifiedError) as failed:
            async with taking_turn(api, desk.base, desk.home, Mode.PATCH, desk.state) as change:
                await change.apply()
        assert moody.count("PATCH") > 1
    (error,) = failed.value.exceptions
    assert isinstance(error, LoadgenError)
    return error.hint


@pytest.mark.parametrize("hint", [held_wait, held, planned_with, journal_there, restored_in_vain, ended_in_vain])
async def test_the_command_that_a_hint_prints_puts_back_what_was_left_whatever_the_namespaces_are(
    hint: Callable[[Desk], Awaitable[str]], desk: Desk
) -> None:
    text = await hint(desk)
    commands = COMMAND.findall(text)
    assert commands, text
    ended = await desk.type(commands[-1])
    assert ended.code == 0, f"{commands[-1]}\n{ended.stdout}{ended.stderr}"
    assert "verified: " in ended.stdout
    desk.assert_restored()


def test_a_hint_names_no_namespace_that_is_looked_into_anyhow_and_is_one_word_for_a_shell_whatever_is_in_a_name() -> None:
    assert restore_command(*RESTORED) == restore_command("", RESTORED[0]) == "loadgen restore"
    assert restore_command("shop", "test", "shop", run_id="run-7") == "loadgen restore --namespace shop --namespace test --run-id run-7"
    assert shlex.split(restore_command("$(reboot)", run_id="a b\x1b[2J")) == [
        *("loadgen", "restore", "--namespace", "$(reboot)"),
        *("--run-id", "a b\\x1b[2J"),
    ]


async def test_without_a_namespace_it_says_where_it_looked_and_how_to_look_elsewhere(desk: Desk) -> None:
    ended = await desk.type("restore --dry-run")
    assert "nothing was left in test, base; --namespace says where else to look" in ended.stdout
    ended = await desk.type("restore --run-id run-7")
    assert (ended.code, "nothing of a run run-7 was found in test, base" in ended.stderr) == (2, True)


async def test_what_others_have_written_reaches_the_terminal_without_its_control_characters(desk: Desk) -> None:
    change = await abandoned(desk.api, desk.base, desk.home, Mode.PATCH, desk.state)
    path = config_maps(desk.home, journal_name(host(desk.base)))
    text = desk.plane.api.get(path)["data"]["journal.json"]
    desk.plane.api.patch(path, {"data": {"journal.json": text.replace(change._run.holder, "ann\\u001b[2J")}})
    desk.plane.api.patch(leases(desk.home, lease_name(host(desk.base))), {"spec": {"holderIdentity": "bob\x1b]0;mine\x07"}})
    ended = await desk.type(f"restore --namespace {desk.home}")
    assert ended.code == 0, ended.stdout + ended.stderr
    assert "ann\\x1b[2J got as far as APPLIED" in ended.stdout
    assert "held by bob\\x1b]0;mine\\x07" in ended.stdout
    assert not {"\x1b", "\x07"} & set(ended.stdout + ended.stderr)
