"""Does ``restore`` find and undo what a dead run left, from whatever is left of its journal, and leave a living one alone?"""

from __future__ import annotations

import contextlib
import json
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from loadgen.cluster import marks
from loadgen.cluster.api import KubeApi
from loadgen.cluster.change import Mode
from loadgen.cluster.finding import Fate, users_part
from loadgen.cluster.guard import guard_job
from loadgen.cluster.journal import Entry, Journal, JournalError, Record, State, record_of
from loadgen.cluster.journal_file import JournalFile, left_behind, state_folder
from loadgen.cluster.lease import HeldError, Hold, Lease
from loadgen.cluster.marks import guard_name, journal_name, lease_name, overlay_name
from loadgen.cluster.paths import config_maps, jobs, leases, rules
from loadgen.cluster.restore import clear_left_overs, find_left_overs, restore
from loadgen.cluster.turn import turn
from loadgen.errors import ExitCode, MeshError, RefusedError
from tests.cluster.moody import Moody, hangs, says, well
from tests.cluster.rules import abandoned, access, host, new_run, owners_rule, planned, taking_turn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from loadgen.cluster.toggle import RuleChange
    from loadgen.cluster.undo import Undone
    from tests.cluster.controlplane.plane import ControlPlane
    from tests.cluster.moody import Exchange

pytestmark = pytest.mark.anyio
Object = dict[str, Any]
QUICK: dict[str, Any] = {"lease_s": 3.0, "settle_s": 0.0}


@dataclass(frozen=True, slots=True)
class Site:
    """A service's namespace and the clients', with a rule of the owner's; ``before`` is how it was."""

    plane: ControlPlane
    api: KubeApi
    base: str
    home: str
    state: Path
    before: Object

    async def abandoned(self, mode: Mode, **options: Any) -> RuleChange:
        if mode is Mode.OWN:
            self.plane.api.delete(self.owners)
        return await abandoned(self.api, self.base, self.home, mode, self.state, **options)

    async def restore(self, **options: Any) -> Undone:
        return await restore(self.api, host(self.base), self.home, folder=self.state, **{**QUICK, **options})

    @property
    def owners(self) -> str:
        return rules("v1", self.base, "owners")

    @property
    def journal(self) -> str:
        return config_maps(self.home, journal_name(host(self.base)))

    @property
    def guard(self) -> str:
        return jobs(self.home, guard_name(host(self.base)))

    @property
    def lease(self) -> str:
        return leases(self.home, lease_name(host(self.base)))

    def find(self, path: str) -> Any:
        return self.plane.api.find(path)

    def assert_restored(self, mode: Mode) -> None:
        now = self.find(self.owners)
        if mode is Mode.OWN:
            assert now is None
        else:
            assert json.dumps(users_part(now)) == json.dumps(users_part(self.before))
        assert self.find(rules("v1", self.base, "user")) is None
        assert self.find(rules("v1", self.home, overlay_name(host(self.base)))) is None
        assert self.find(self.journal) is None
        assert self.find(self.lease) is None
        assert not list(self.state.glob("*.json"))


@pytest.fixture
async def site(control_plane: ControlPlane, make_namespace: Callable[..., str], tmp_path: Path) -> AsyncIterator[Site]:
    token = control_plane.users.token("admin")
    base, home = make_namespace("base"), make_namespace("test")
    before = control_plane.api.create(owners_rule(base))
    async with KubeApi(lambda: access(control_plane.url, control_plane.authority, token)) as api:
        yield Site(control_plane, api, base, home, tmp_path, before)


def _journal(**entry: Any) -> str:
    run = {"id": "run-1", "holder": "ann", "host": "user", "namespace": "test", "expires_at": "2026-01-01T00:00:00Z"}
    entries = [{"namespace": "base", "name": "user", "creates": False, "written": {}, **entry}]
    return json.dumps({"schema": "loadgen.journal/v1", "run": run, "mode": "patch", "state": "APPLIED", "entries": entries})


def _nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.fixture
async def moody(control_plane: ControlPlane) -> AsyncIterator[Moody]:
    async with Moody.serving(control_plane.url, control_plane.authority) as proxy:
        yield proxy


modes = pytest.mark.parametrize("mode", list(Mode))


async def test_where_nothing_was_left_nothing_is_done(site: Site) -> None:
    undone = await site.restore()
    assert undone.fate is Fate.VERIFIED
    assert undone.sentence == f"nothing was left of the rules of {host(site.base)}"
    assert site.find(site.owners) == site.before


@modes
async def test_a_dead_runs_change_is_undone_once_its_lease_has_run_out_and_again_is_nothing(mode: Mode, site: Site) -> None:
    change = await site.abandoned(mode)
    told: list[str] = []
    began = time.monotonic()
    undone = await site.restore(tell=told.append)
    assert time.monotonic() - began >= 1.0
    assert undone.fate is Fate.VERIFIED
    site.assert_restored(mode)
    assert any("to see whether it is alive" in line for line in told)
    assert f"run {change._run.id} of {change._run.holder} got as far as APPLIED" in told
    assert (await site.restore()).sentence == f"nothing was left of the rules of {host(site.base)}"


@modes
@pytest.mark.parametrize("lost", ["the cluster's", "the machine's", "both"])
async def test_one_journal_or_the_marks_on_the_rule_alone_are_enough(mode: Mode, lost: str, site: Site) -> None:
    change = await site.abandoned(mode)
    if lost != "the machine's":
        site.plane.api.delete(site.journal)
    if lost != "the cluster's":
        for file in site.state.glob("*.json"):
            file.unlink()
    undone = await site.restore(run_id=change._run.id)
    assert undone.fate is Fate.VERIFIED, undone.sentence
    site.assert_restored(mode)


async def test_with_the_marks_alone_somebody_elses_edit_is_left_as_well(site: Site) -> None:
    change = await site.abandoned(Mode.PATCH)
    site.plane.api.delete(site.journal)
    (site.state / f"{change._run.id}.json").unlink()
    edit = {"spec": {"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 8}}}}}
    site.plane.api.patch(site.owners, edit, fieldManager="kubectl-edit")
    undone = await site.restore(run_id=change._run.id)
    assert undone.fate is Fate.SUPERSEDED
    assert "http2MaxRequests from 1 to 8" in undone.sentence
    now = site.find(site.owners)
    pool = {"tcp": {"maxConnections": 100, "connectTimeout": "1.5s"}, "http": {"http1MaxPendingRequests": 10, "http2MaxRequests": 8}}
    assert now["spec"]["trafficPolicy"]["connectionPool"] == pool
    assert now["metadata"]["annotations"] == site.before["metadata"]["annotations"]


@pytest.mark.parametrize(
    "marks_text", ["", "[]", "[" * 100_000, json.dumps({"schema": "loadgen.journal/v1", "before": {}, "written": json.loads(_nested(400))})]
)
async def test_marks_that_cannot_be_read_are_said_to_be_so_and_the_rule_is_left(marks_text: str, site: Site) -> None:
    change = await site.abandoned(Mode.PATCH)
    site.plane.api.delete(site.journal)
    (site.state / f"{change._run.id}.json").unlink()
    site.plane.api.patch(site.owners, {"metadata": {"annotations": {marks.UNDO: marks_text}}})
    patched = site.find(site.owners)
    undone = await site.restore(run_id=change._run.id)
    assert undone.fate is Fate.FAILED
    assert undone.sentence == f"the marks of run {change._run.id} on the rule {site.base}/owners cannot be read"
    assert site.find(site.owners) == patched


async def test_a_living_run_is_left_alone_and_named(site: Site) -> None:
    async with taking_turn(site.api, site.base, site.home, Mode.OVERLAY, site.state, lease_s=0.9) as change:
        await change.apply()
        with pytest.raises(HeldError, match=f"run {change._run.id}"):
            await site.restore()
        with pytest.raises(HeldError):
            await site.restore(run_id="another")
        await change.check()
    site.assert_restored(Mode.OVERLAY)


async def test_whoever_knows_its_id_may_end_a_living_run_which_learns_of_it_and_writes_nothing_more(site: Site) -> None:
    async with taking_turn(site.api, site.base, site.home, Mode.PATCH, site.state, lease_s=0.9) as change:
        await change.apply()
        assert (await site.restore(run_id=change._run.id)).fate is Fate.VERIFIED
        site.assert_restored(Mode.PATCH)
        with pytest.raises(MeshError, match=r"owners|lease|journal"):
            await change.check()
        with pytest.raises(MeshError):
            await change.remove()
        with pytest.raises(MeshError):
            await change.apply()
    site.assert_restored(Mode.PATCH)


async def test_the_next_run_undoes_what_the_last_one_left_before_it_begins(site: Site) -> None:
    change = await planned(site.api, site.base, site.home, Mode.PATCH)
    dead = await site.abandoned(Mode.PATCH)
    site.plane.api.delete(site.lease)
    told: list[str] = []
    run = new_run(site.api, site.base, site.home)
    async with anyio.create_task_group() as tasks:
        async with turn(site.api, run, change, tasks, version="v1", file=JournalFile(run.id, site.state), tell=told.append) as next_one:
            await next_one.apply()
        tasks.cancel_scope.cancel()
    assert any(dead._run.id in line for line in told)
    site.assert_restored(Mode.PATCH)


@modes
async def test_what_a_dead_run_left_is_cleared_before_the_next_one_plans_with_it(mode: Mode, site: Site) -> None:
    dead = await site.abandoned(mode)
    with pytest.raises(RefusedError, match=f"is changed by run {dead._run.id} of {dead._run.holder} until"):
        await planned(site.api, site.base, site.home)
    site.plane.api.patch(site.lease, {"spec": {"renewTime": "2001-01-01T00:00:00.000000Z"}})
    told: list[str] = []
    await clear_left_overs(site.api, host(site.base), site.home, told.append, lease_s=1.0, folder=site.state)
    assert "an earlier run left something" in told[0]
    site.assert_restored(mode)
    await planned(site.api, site.base, site.home)


async def test_where_nothing_was_left_or_a_run_is_alive_nothing_is_cleared(site: Site) -> None:
    async with Moody.serving(site.plane.url, site.plane.authority) as moody:
        async with KubeApi(lambda: access(moody.url, "", site.plane.users.token("admin"))) as api:
            await clear_left_overs(api, host(site.base), site.home, folder=site.state)
            async with taking_turn(site.api, site.base, site.home, Mode.OVERLAY, site.state) as change:
                await change.apply()
                await clear_left_overs(api, host(site.base), site.home, folder=site.state)
                await change.check()
        assert {each.split()[0] for each in moody.seen} == {"GET"}


async def test_what_cannot_be_cleared_is_refused(site: Site) -> None:
    dead = await site.abandoned(Mode.PATCH)
    site.plane.api.delete(site.lease)
    newer = site.find(site.journal)["data"]["journal.json"].replace("loadgen.journal/v1", "loadgen.journal/v2")
    site.plane.api.patch(site.journal, {"data": {"journal.json": newer}})
    with pytest.raises(RefusedError, match=r"what an earlier run left could not be undone: .*another version"):
        await clear_left_overs(site.api, host(site.base), site.home, folder=site.state)
    assert marks.run_of(site.find(site.owners)) == dead._run.id


async def test_everything_that_was_left_is_found_by_its_marks(site: Site) -> None:
    change = await site.abandoned(Mode.OVERLAY)
    found = await find_left_overs(site.api, [site.home, site.base], folder=site.state)
    assert [(each.host, each.namespace, each.runs) for each in found] == [(host(site.base), site.home, (change._run.id,))]
    kinds = [part.split()[0] for part in found[0].parts]
    assert sorted(kinds) == ["file", "journal", "lease", "rule"]
    assert found[0].holder == change._run.identity
    await site.restore(run_id=change._run.id)
    assert await find_left_overs(site.api, [site.home, site.base], folder=site.state) == []


async def test_a_left_over_in_the_services_namespace_is_found_by_its_annotations(site: Site) -> None:
    change = await site.abandoned(Mode.PATCH)
    found = await find_left_overs(site.api, [site.base], folder=site.state / "elsewhere")
    assert [each.parts for each in found] == [(f"rule {site.base}/owners",)]
    assert found[0].namespace == site.home
    await site.restore(run_id=change._run.id)


# The journal.


async def test_the_journal_holds_the_rule_letter_for_letter_in_the_cluster_and_here_for_its_owner_only(site: Site) -> None:
    text = await site.api.text(site.owners)
    change = await site.abandoned(Mode.PATCH)
    config_map = site.find(site.journal)
    record = record_of(config_map, "the journal")
    assert record.state is State.APPLIED
    assert record.entries[0].image == text
    assert config_map["data"][f"before-{site.base}.owners.json"] == text
    assert record.entries[0].uid == site.before["metadata"]["uid"]
    file = site.state / f"{change._run.id}.json"
    assert Record.of_text(file.read_text(encoding="utf-8"), "file") == record
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(site.state.iterdir()) == [file]
    await site.restore(run_id=change._run.id)


async def test_a_journal_of_a_newer_version_is_left_for_it_and_nothing_is_touched(site: Site) -> None:
    change = await site.abandoned(Mode.PATCH)
    newer = site.find(site.journal)["data"]["journal.json"].replace("loadgen.journal/v1", "loadgen.journal/v2")
    site.plane.api.patch(site.journal, {"data": {"journal.json": newer}})
    patched = site.find(site.owners)
    undone = await site.restore(run_id=change._run.id)
    assert undone.fate is Fate.FAILED
    assert "was written by another version of loadgen (loadgen.journal/v2; this one reads loadgen.journal/v1)" in undone.sentence
    assert "restore with the version that made it" in undone.sentence
    assert site.find(site.owners) == patched
    assert site.find(site.journal) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"schema": 1}',
        '{"schema": "loadgen.journal/v1", "run": {}}',
        '{"schema": "other/v1"}',
        "[" * 100_000,
        _journal(written=json.loads(_nested(200))),
        _journal(image="{"),
        _journal(image="[" * 100_000),
        _journal(image='{"metadata": {}}'),
    ],
)
def test_what_is_no_journal_is_said_to_be_none(text: str) -> None:
    with pytest.raises(JournalError, match=r"no journal") as caught:
        Record.of_text(text, "the ConfigMap test/x")
    assert caught.value.exit_code is ExitCode.RESTORE_FAILED


async def test_a_journal_with_more_in_it_than_is_known_here_is_read(site: Site) -> None:
    run = new_run(site.api, site.base, site.home)
    entry = Entry("base", "user", creates=True, written={"host": "user"}, uid="u", version="7")
    record = Record(run, "own", State.APPLIED, "https://here", "v1", (entry,))
    values = json.loads(record.to_text())
    values |= {"new": 1}
    values["run"] |= {"new": 1}
    values["entries"][0] |= {"new": 1}
    read = Record.of_text(json.dumps(values), "file")
    assert read == replace(record, run=replace(run, expires_at=read.run.expires_at))
    assert abs((read.run.expires_at - run.expires_at).total_seconds()) < 1.0


async def test_a_second_journal_of_a_host_is_refused(site: Site) -> None:
    change = await site.abandoned(Mode.OVERLAY)
    with pytest.raises(RefusedError, match=r"there is a journal of .* already"):
        await Journal.begin(site.api, Record(new_run(site.api, site.base, site.home), "own", State.INTENT, "", "v1"), None)
    await site.restore(run_id=change._run.id)


async def test_a_rule_that_is_too_large_for_a_journal_is_not_touched(site: Site) -> None:
    site.plane.api.patch(site.owners, {"metadata": {"annotations": {f"note-{number}": "x" * 50_000 for number in range(5)}}})
    subsets = [{"name": f"v{number}", "labels": {f"key{each}": "y" * 63 for each in range(100)}} for number in range(90)]
    site.plane.api.patch(site.owners, {"spec": {"subsets": subsets}})
    large = site.find(site.owners)
    with pytest.RaisesGroup(pytest.RaisesExc(RefusedError, match="too large to be kept in a journal")):
        async with taking_turn(site.api, site.base, site.home, Mode.PATCH, site.state) as change:
            await change.apply()
    assert site.find(site.owners) == large


def test_journals_of_this_machine_are_where_the_system_wants_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "loadgen"
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(state_folder()) == "/home/somebody/.local/state/loadgen"


def test_a_folder_that_cannot_be_written_is_refused_before_anything_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="ascii")
    with pytest.raises(RefusedError, match="cannot be written: Not a directory") as caught:
        JournalFile("run-1", tmp_path / "file" / "state").prepare()
    assert caught.value.hint == "set XDG_STATE_HOME to another folder"
    JournalFile("run-1", tmp_path / "state").prepare()
    assert list(left_behind(tmp_path / "state")) == []


async def test_a_disk_that_fills_up_during_a_run_is_told_once_and_does_not_stop_it(site: Site, tmp_path: Path) -> None:
    folder, told = tmp_path / "state", list[str]()
    file = JournalFile("run-1", folder, tell=told.append)
    file.prepare()
    async with taking_turn(site.api, site.base, site.home, Mode.PATCH, folder, file=file) as change:
        folder.rename(tmp_path / "elsewhere")
        folder.write_text("", encoding="ascii")
        await change.apply()
        await change.remove()
    assert told == [
        f"the journal's copy {file.path} cannot be written (Not a directory); the one in the cluster is enough while it is there"
    ]
    assert users_part(site.find(site.owners)) == users_part(site.before)


async def test_a_journal_here_that_is_of_another_cluster_or_cannot_be_read_is_left_alone(site: Site) -> None:
    run = new_run(site.api, site.base, site.home)
    elsewhere = JournalFile("elsewhere", site.state)
    elsewhere.write(Record(run, "own", State.APPLIED, "https://another", "v1").to_text())
    JournalFile("broken", site.state).write("{")
    told: list[str] = []
    assert (await site.restore(tell=told.append)).fate is Fate.VERIFIED
    assert {file.name for file in site.state.iterdir()} == {"elsewhere.json", "broken.json"}
    assert any("broken.json is no journal" in line for line in told)


# The server's moods.


@modes
async def test_a_restore_goes_on_when_the_server_comes_back(mode: Mode, site: Site) -> None:
    change = await site.abandoned(mode)
    plane, token = site.plane, site.plane.users.token("admin")

    async def put_back() -> Undone:
        async with KubeApi(lambda: access(plane.url, plane.authority, token)) as api:
            return await restore(api, host(site.base), site.home, run_id=change._run.id, folder=site.state, **QUICK)

    plane.stop_apiserver()
    with ThreadPoolExecutor() as others:
        restoring = others.submit(anyio.run, put_back)
        plane.start_apiserver()  # by this thread: what a thread starts ends with it
        assert restoring.result().fate is Fate.VERIFIED
    site.assert_restored(mode)


async def test_a_token_that_expires_during_the_restore_is_renewed(site: Site) -> None:
    change = await site.abandoned(Mode.PATCH)
    async with Moody.serving(site.plane.url, site.plane.authority) as moody:
        asked: list[str] = []

        def log_in() -> Any:
            asked.append(moody.url)
            return access(moody.url, "", site.plane.users.token("admin"))

        async with KubeApi(log_in) as api:
            moody.play("PATCH", "destinationrules", says(401, "Unauthorized"))
            undone = await restore(api, host(site.base), site.home, run_id=change._run.id, folder=site.state, **QUICK)
    assert undone.fate is Fate.VERIFIED
    assert len(asked) == 2
    site.assert_restored(Mode.PATCH)


@contextlib.asynccontextmanager
async def _overtaken(
    site: Site, moody: Moody, method: str, part: str, meanwhile: Callable[[], object] = lambda: None
) -> AsyncIterator[KubeApi]:
    """Have another run take the lease of a restorer, and keep it, at a request of his, which is done only when he knows of it."""
    noticed = anyio.Event()

    async def overtakes(exchange: Exchange) -> None:
        run = new_run(site.api, site.base, site.home, run_id="next")
        lease = await Lease.acquire(site.api, run, lasts_s=3.0, force=Hold.of(site.find(site.lease)).run)
        tasks.start_soon(lease.keep)
        meanwhile()
        with anyio.fail_after(20.0):
            await noticed.wait()
        await well(exchange)

    async def notices(exchange: Exchange) -> None:
        await well(exchange)
        noticed.set()

    moody.play(method, part, overtakes)
    moody.play("GET", "leases", well)
    moody.play("GET", "leases", notices)  # who has it, after it could not be renewed
    async with KubeApi(lambda: access(moody.url, "", site.plane.users.token("admin"))) as api, anyio.create_task_group() as tasks:
        yield api
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(("method", "part"), [("PUT", "configmaps"), ("PATCH", "destinationrules")])
async def test_a_restorer_whose_lease_was_taken_does_nothing_more(method: str, part: str, site: Site, moody: Moody) -> None:
    change = await site.abandoned(Mode.PATCH)
    site.plane.api.create(guard_job(change._run, "loadgen:1", lasts_s=60.0))
    patched = site.find(site.owners)
    async with _overtaken(site, moody, method, part) as api:
        with pytest.raises(HeldError, match="run next"):
            await restore(api, host(site.base), site.home, run_id=change._run.id, folder=site.state, **QUICK)
    assert (site.find(site.owners) == patched) is (part == "configmaps")
    assert record_of(site.find(site.journal), "").state is State.RESTORING
    assert marks.run_of(site.find(site.guard)) == change._run.id


async def test_a_restorer_whose_lease_was_taken_leaves_the_next_runs_guard(site: Site, moody: Moody) -> None:
    change = await site.abandoned(Mode.PATCH)
    site.plane.api.create(guard_job(change._run, "loadgen:1", lasts_s=60.0))
    job = guard_job(new_run(site.api, site.base, site.home, run_id="next"), "loadgen:1", lasts_s=60.0)

    def replace_guard() -> None:
        site.plane.api.delete(site.guard, propagationPolicy="Background")
        site.plane.api.create(job)

    async with _overtaken(site, moody, "DELETE", "configmaps", replace_guard) as api:
        undone = await restore(api, host(site.base), site.home, run_id=change._run.id, folder=site.state, **QUICK)
    assert undone.fate is Fate.VERIFIED
    assert marks.run_of(site.find(site.guard)) == "next"


async def test_a_restorer_who_could_not_renew_his_lease_in_time_takes_it_again_and_goes_on(site: Site, moody: Moody) -> None:
    change = await site.abandoned(Mode.PATCH)
    told: list[str] = []

    async def stalls(exchange: Exchange) -> None:
        await anyio.sleep(1.0)  # longer than the lease is surely his
        await well(exchange)

    moody.play("PUT", "configmaps", stalls)
    async with KubeApi(lambda: access(moody.url, "", site.plane.users.token("admin"))) as api:
        moody.play("PUT", "leases", well)
        moody.play("PUT", "leases", hangs)
        options = {**QUICK, "lease_s": 1.0}
        undone = await restore(api, host(site.base), site.home, run_id=change._run.id, folder=site.state, tell=told.append, **options)
    assert undone.fate is Fate.VERIFIED, undone.sentence
    assert any("could not be renewed" in line and "it has to be taken again" in line for line in told)
    site.assert_restored(Mode.PATCH)


async def test_a_restore_without_the_right_to_do_it_says_how_a_person_can_and_keeps_the_journal(site: Site) -> None:
    change = await site.abandoned(Mode.PATCH)
    async with (
        Moody.serving(site.plane.url, site.plane.authority) as moody,
        KubeApi(lambda: access(moody.url, "", site.plane.users.token("admin"))) as api,
    ):
        moody.play("PATCH", "destinationrules", says(403, "not you"), times=99)
        undone = await restore(api, host(site.base), site.home, run_id=change._run.id, folder=site.state, **QUICK)
    assert undone.fate is Fate.FAILED
    assert f"cannot patch destinationrules {site.base}/owners: the API server answered 403: not you" in undone.sentence
    assert f"kubectl edit destinationrules.networking.istio.io owners -n {site.base}" in undone.sentence
    assert record_of(site.find(site.journal), "").state is State.RESTORING
    assert (await site.restore()).fate is Fate.VERIFIED
    site.assert_restored(Mode.PATCH)


async def test_a_namespace_that_is_being_deleted_is_restored_as_far_as_it_is_still_there(site: Site) -> None:
    change = await site.abandoned(Mode.OVERLAY)
    held = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "held", "namespace": site.home, "finalizers": ["example.com/test"]},
    }
    site.plane.api.create(held)  # or the namespace would be gone too soon where its controller runs
    site.plane.api.delete(f"/api/v1/namespaces/{site.home}")
    undone = await site.restore(run_id=change._run.id)
    assert undone.fate is Fate.VERIFIED, undone.sentence
    assert site.find(rules("v1", site.home, overlay_name(host(site.base)))) is None
    site.plane.api.patch(config_maps(site.home, "held"), {"metadata": {"finalizers": None}})


async def test_what_was_sent_by_a_run_that_died_is_waited_for_before_it_is_said_to_be_gone(site: Site) -> None:
    site.plane.api.delete(site.owners)
    change = await planned(site.api, site.base, site.home, Mode.OWN)
    run = new_run(site.api, site.base, site.home)
    lease = await Lease.acquire(site.api, run)
    record = Record(run, "own", State.INTENT, site.api.url, "v1")
    journal = await Journal.begin(site.api, record, JournalFile(run.id, site.state))
    entry = Entry(site.base, "user", creates=True, written=change.writes[0].rule["spec"])
    await journal.write(State.INTENT, (entry,))
    del lease
    rule = change.writes[0].rule
    rule["metadata"] |= {"labels": run.labels, "annotations": run.annotations}

    async def arrive() -> None:
        await anyio.sleep(0.7)
        await anyio.to_thread.run_sync(partial(site.plane.api.create, rule))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(arrive)
        undone = await site.restore(run_id=run.id, settle_s=1.5)
    assert undone.fate is Fate.VERIFIED
    assert undone.sentence == f"the rule {site.base}/user is gone"
    assert site.find(rules("v1", site.base, "user")) is None
    assert marks.RUN not in json.dumps(await site.api.list(rules("v1", site.base)))
